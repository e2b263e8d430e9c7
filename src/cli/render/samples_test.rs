//! A pair to look at: what its two nodes say of it, and their pages as text.

use super::WIDTH;
use crate::model::Role;
use crate::status::{
    BackendStatus, Cause, Counters, Event, PathStatus, PeerStatus, RelayLink, RelayStatus,
    ReplicationRole, ReplicationStatus, ServiceStatus, Status, VipStatus, What,
};

pub(super) const NOW: u64 = 1_795_674_284_120;

pub(super) fn page(status: &Status) -> String {
    let page = super::status(status, NOW);
    let text: Vec<&str> = page.lines.iter().map(|(_, line)| line.as_str()).collect();
    for line in &text {
        assert!(
            line.chars().count() <= usize::from(WIDTH),
            "{line}\n{text:#?}"
        );
    }
    text.join("\n") + "\n"
}

/// The page up to the first empty line.
pub(super) fn head(status: &Status) -> String {
    let page = page(status);
    page.split("\n\n").next().unwrap().to_owned()
}

pub(super) fn backend(name: &str, last: u8) -> BackendStatus {
    BackendStatus {
        name: name.into(),
        address: format!("198.51.100.{last}:8080"),
        weight: 1,
        up: true,
        reason: "check ok in 0.2 ms".into(),
        connections: 6,
        total: 5_117,
        ..BackendStatus::default()
    }
}

fn path(subnet: &str, rtt_us: u64) -> PathStatus {
    PathStatus {
        local: format!("{subnet}.11"),
        remote: format!("{subnet}.12"),
        alive: true,
        rtt_us: Some(rtt_us),
        ..PathStatus::default()
    }
}

fn transition(from: Role, to: Role, cause: Cause, text: &str) -> Event {
    Event {
        number: 3,
        unix_ms: 1_795_662_764_120,
        what: What::Transition {
            from,
            to,
            epoch: 7,
            cause,
            text: text.into(),
            detection_ms: None,
            takeover_ms: None,
        },
    }
}

pub(super) fn master() -> Status {
    let mut took_over = transition(
        Role::Backup,
        Role::Master,
        Cause::ProcessDied,
        "the master's host says that nobody listens on its heartbeat port",
    );
    if let What::Transition {
        detection_ms,
        takeover_ms,
        ..
    } = &mut took_over.what
    {
        (*detection_ms, *takeover_ms) = (Some(0.41), Some(0.282));
    }
    Status {
        cluster: "web-pair".into(),
        node: "lb1".into(),
        version: "0.1.0".into(),
        incarnation: "1a2b3c4d".into(),
        uptime_ms: 447_000_000,
        relay: RelayStatus {
            wanted: true,
            works: true,
            links: vec![RelayLink {
                interface: "eth0".into(),
                own: "02:00:00:00:00:01".into(),
                peer: Some("02:00:00:00:00:02".into()),
            }],
            ..RelayStatus::default()
        },
        nat: None,
        stopping: false,
        drain: None,
        role: Role::Master,
        epoch: 7,
        priority: 150,
        fault: None,
        config_hash: "00d1e2f3a4b5c6d7".into(),
        vips: vec![VipStatus {
            address: "192.0.2.100".into(),
            interface: "eth0".into(),
            wanted: true,
            held: true,
            announcements: 17,
            ..VipStatus::default()
        }],
        last_transition: Some(took_over),
        peer: PeerStatus {
            name: "lb2".into(),
            alive: true,
            role: Some(Role::Backup),
            epoch: Some(7),
            priority: Some(100),
            incarnation: Some("5e6f7a8b".into()),
            hears_us: true,
            last_heard_ms: Some(40),
            same_config: Some(true),
            differs: Vec::new(),
            relays: true,
            drain: None,
        },
        paths: vec![path("192.0.2", 214), path("203.0.113", 1_190)],
        replication: ReplicationStatus {
            connected: true,
            role: ReplicationRole::Source,
            in_sync: true,
            epoch: 7,
            position: 10_234,
            acknowledged: 10_234,
            snapshots: 1,
            flows: 12,
            ..ReplicationStatus::default()
        },
        services: vec![ServiceStatus {
            fallback: false,
            name: "web".into(),
            listen: vec!["192.0.2.100:80".parse().unwrap()],
            balance: "round_robin".into(),
            connections: 12,
            total: 10_234,
            backends: vec![backend("b1", 21), backend("b2", 22)],
            ..ServiceStatus::default()
        }],
        counters: Counters {
            sessions: 1,
            ..Counters::default()
        },
        ..Status::default()
    }
}

pub(super) fn backup() -> Status {
    let mut status = master();
    status.node = "lb2".into();
    status.role = Role::Backup;
    status.vips[0].wanted = false;
    status.vips[0].held = false;
    status.vips[0].announcements = 0;
    status.last_transition = Some(transition(
        Role::Initialize,
        Role::Backup,
        Cause::MasterHeard,
        "the peer is master of epoch 7",
    ));
    status.peer.name = "lb1".into();
    status.peer.role = Some(Role::Master);
    status.replication.role = ReplicationRole::Sink;
    status.services.clear();
    status
}
