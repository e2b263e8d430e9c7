//! The text of a made-up node, names and documentation.

use std::collections::BTreeSet;

use super::*;
use crate::model::Role;
use crate::status::{
    BackendStatus, Cause, Counters, Event, NatStatus, PathStatus, RelayStatus, ServiceStatus,
    SourceStatus, StickStatus, Transitions, VipStatus, What,
};

/// Something of everything.
fn full() -> Status {
    let mut backend = BackendStatus {
        name: "b\"1\\".into(),
        up: true,
        total: 7,
        bytes_up: 1 << 40,
        bytes_down: 12,
        ..BackendStatus::default()
    };
    backend.failures.timeout = 2;
    backend.ends.complete = 5;
    backend.connect.add(std::time::Duration::from_micros(300));
    backend.connect.add(std::time::Duration::from_secs(20));
    backend.measure = Some(crate::status::Measure {
        response_us: Some(1_500),
        effective_weight: Some(0.5),
    });
    Status {
        cluster: "edge".into(),
        node: "lb1".into(),
        version: "0.1.0".into(),
        config_hash: "00ff".into(),
        role: Role::Master,
        epoch: 7,
        uptime_ms: 1_500,
        transitions: vec![Transitions {
            to: Role::Master,
            cause: Cause::HeartbeatsLost,
            count: 3,
        }],
        last_transition: Some(Event {
            number: 1,
            unix_ms: 1_700_000_000_500,
            what: What::Transition {
                from: Role::Backup,
                to: Role::Master,
                epoch: 7,
                cause: Cause::HeartbeatsLost,
                text: String::new(),
                detection_ms: Some(301.5),
                takeover_ms: Some(2.5),
            },
        }),
        vips: vec![VipStatus {
            address: "192.0.2.100".into(),
            interface: "eth0".into(),
            held: true,
            ..VipStatus::default()
        }],
        peer: crate::status::PeerStatus {
            same_config: Some(true),
            last_heard_ms: Some(40),
            ..Default::default()
        },
        paths: vec![PathStatus {
            local: "192.0.2.11".into(),
            remote: "192.0.2.12".into(),
            lost: 3,
            late: 1,
            loss_percent: 2.0,
            rtt_us: Some(214),
            ..PathStatus::default()
        }],
        services: vec![ServiceStatus {
            name: "web".into(),
            balance: "round_robin".into(),
            backends: vec![backend],
            sticks: Some(StickStatus::default()),
            sources: vec![SourceStatus {
                source: "dns web.test:80".into(),
                answered_ms_ago: Some(5),
                ..SourceStatus::default()
            }],
            ..ServiceStatus::default()
        }],
        relay: RelayStatus::default(),
        counters: Counters {
            log_dropped: 4,
            ..Counters::default()
        },
        nat: Some(NatStatus {
            lease_margin_us: Some(190_000),
            states: [("open".to_owned(), 3)].into(),
            counters: [("forwarded".to_owned(), 9)].into(),
            ..NatStatus::default()
        }),
        ..Status::default()
    }
}

#[test]
fn the_text_says_what_the_status_says() {
    let text = text(full());
    for line in [
        "tandem_build_info{version=\"0.1.0\",cluster=\"edge\",node=\"lb1\",config=\"00ff\"} 1",
        "tandem_uptime_seconds 1.5",
        "tandem_role{role=\"master\"} 1.0",
        "tandem_role{role=\"backup\"} 0.0",
        "tandem_epoch 7.0",
        "tandem_transitions_total{to=\"master\",cause=\"heartbeats_lost\"} 3.0",
        "tandem_transitions_total{to=\"master\",cause=\"preempt\"} 0.0",
        "tandem_last_detection_seconds 0.3015",
        "tandem_last_takeover_seconds 0.0025",
        "tandem_vip_held{address=\"192.0.2.100\",interface=\"eth0\"} 1.0",
        "tandem_heartbeats_lost_total{local=\"192.0.2.11\",remote=\"192.0.2.12\"} 4.0",
        "tandem_heartbeats_late_total{local=\"192.0.2.11\",remote=\"192.0.2.12\"} 1.0",
        "tandem_path_loss_ratio{local=\"192.0.2.11\",remote=\"192.0.2.12\"} 0.02",
        "tandem_service_info{service=\"web\",mode=\"proxy\",balance=\"round_robin\"} 1",
        "tandem_backend_connections_total{service=\"web\",backend=\"b\\\"1\\\\\"} 7.0",
        "tandem_backend_bytes_total{service=\"web\",backend=\"b\\\"1\\\\\",direction=\"up\"} 1099511627776.0",
        "tandem_backend_connect_failures_total{service=\"web\",backend=\"b\\\"1\\\\\",reason=\"timeout\"} 2.0",
        "tandem_backend_connect_seconds_count{service=\"web\",backend=\"b\\\"1\\\\\"} 2",
        "tandem_backend_connect_seconds_sum{service=\"web\",backend=\"b\\\"1\\\\\"} 20.0003",
        "tandem_backend_connect_seconds_bucket{le=\"0.00025\",service=\"web\",backend=\"b\\\"1\\\\\"} 0",
        "tandem_backend_connect_seconds_bucket{le=\"0.0005\",service=\"web\",backend=\"b\\\"1\\\\\"} 1",
        "tandem_backend_connect_seconds_bucket{le=\"10.0\",service=\"web\",backend=\"b\\\"1\\\\\"} 1",
        "tandem_backend_connect_seconds_bucket{le=\"+Inf\",service=\"web\",backend=\"b\\\"1\\\\\"} 2",
        "tandem_takeover_seconds_bucket{le=\"+Inf\"} 0",
        "tandem_connection_log_dropped_total 4.0",
        "tandem_kernel_lease_margin_seconds 0.19",
        "tandem_kernel_program_total{what=\"forwarded\"} 9.0",
        "# TYPE tandem_backend_bytes counter",
        "# UNIT tandem_backend_bytes bytes",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn every_metric_has_a_sample_in_a_full_status_with_the_labels_that_it_names() {
    let status = full();
    for metric in all() {
        let mut samples = Samples::default();
        (metric.take)(&status, &mut samples);
        let name = metric.full_name();
        assert!(!samples.0.is_empty(), "{name}");
        for (labels, _) in samples.0 {
            assert_eq!(labels.len(), metric.labels.len(), "{name}");
        }
    }
}

#[test]
fn an_empty_status_is_text_too() {
    let text = text(Status::default());
    assert!(text.contains("tandem_role{role=\"initialize\"} 1.0"));
    assert!(!text.contains("tandem_kernel_"), "there is none");
}

#[test]
fn names_are_distinct_and_in_the_style_of_prometheus() {
    let mut families = BTreeSet::new();
    for metric in all() {
        let name = metric.full_name();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(good), "{name}");
        let family = name.trim_end_matches("_total").trim_end_matches("_info");
        assert!(families.insert(family.to_owned()), "{name} twice");
        assert!(
            metric.help.ends_with('.') && !metric.help.contains('\n'),
            "{name}"
        );
        assert!(metric.kind != Kind::Histogram || metric.unit == Some(Unit::Seconds));
    }
}

/// The rows of the table in the documentation.
fn row(metric: &Metric) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|it| format!("`{it}`")).collect();
    let labels = labels.join(", ");
    let (name, kind) = (metric.full_name(), metric.kind().as_str());
    let unit = metric.unit().map_or("", Unit::as_str);
    format!(
        "| `{name}` | {kind} | {unit} | {labels} | {} |",
        metric.help
    )
}

#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let manual = include_str!("../../docs/metrics.md");
    let known: Vec<String> = all().map(row).collect();
    let documented: Vec<&str> = manual
        .lines()
        .filter(|line| line.starts_with("| `tandem_"))
        .collect();
    assert_eq!(
        documented,
        known,
        "the table should be:\n{}",
        known.join("\n")
    );
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = all().map(Metric::full_name).collect();
    for text in [
        include_str!("../../docs/tandem-dashboard.json"),
        include_str!("../../docs/tandem-alerts.yml"),
    ] {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let names = text.split(word).filter(|it| it.starts_with("tandem_"));
        for name in names {
            let plain = name.trim_end_matches("_bucket");
            assert!(known.contains(plain), "{name}");
        }
    }
}
