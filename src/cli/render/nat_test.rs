//! The kernel mode's block, word for word, and what the first lines say of it.

use std::collections::BTreeMap;

use super::samples_test::{backup, head, master, page};
use crate::status::{Mode, NatStatus, Status};

fn counters(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let owned = |(name, n): &(&str, u64)| ((*name).to_owned(), *n);
    counts.iter().map(owned).collect()
}

fn nat() -> NatStatus {
    NatStatus {
        hooks: vec!["eth0 (tcx)".into(), "eth1 (tcx)".into()],
        forwarding: true,
        flows: 12_345,
        max_flows: 131_072,
        states: counters(&[("established", 12_000), ("opening", 45), ("closed", 300)]),
        released_acknowledged: 10_222,
        counters: counters(&[
            ("COUNT_TO_BACKEND", 5_000_000),
            ("COUNT_TO_CLIENT", 7_000_000),
            ("bytes_to_backend", 900_000_000),
            ("bytes_to_client", 1_000_000_000),
            ("DROP_HELD", 3),
            ("DROP_WAITING", 10_222),
            ("DROP_LEASE", 0),
            ("sent", 10_300),
            ("map_failures", 0),
        ]),
        ..NatStatus::default()
    }
}

fn with(nat: NatStatus, mut status: Status) -> Status {
    status.nat = Some(nat);
    for service in &mut status.services {
        service.mode = Mode::Kernel;
    }
    status
}

/// The part of the page that begins so, up to the next empty line.
fn block(status: &Status, start: &str) -> String {
    let page = page(status);
    let mut blocks = page.split("\n\n");
    let block = blocks.find(|block| block.starts_with(start));
    let block = block.unwrap_or_else(|| panic!("{page}"));
    block.trim_end().to_owned()
}

#[test]
fn a_master_that_forwards() {
    let status = with(nat(), master());
    assert_eq!(
        block(&status, "kernel mode"),
        "\
kernel mode: forwarding, on eth0 (tcx), eth1 (tcx)
table       12,345 of 131,072 connections (9 % full)
states      45 opening; 12,000 established; 300 closed
forwarded   5,000,000 packets (900,000,000 bytes) to backends; 7,000,000
            packets (1,000,000,000 bytes) to clients
handshakes  10,222 went on with it"
    );
    assert!(block(&status, "service web on").starts_with(
        "service web on 192.0.2.100:80, kernel, round_robin: 12 connections, 10,234 in\ntotal\n"
    ));
    assert!(
        head(&status).contains("\nOK: redundant"),
        "{}",
        head(&status)
    );
}

#[test]
fn a_standby_that_stands_by() {
    let mut known = nat();
    known.forwarding = false;
    known.released_acknowledged = 0;
    let status = with(known, backup());
    assert_eq!(
        block(&status, "kernel mode"),
        "\
kernel mode: standing by, on eth0 (tcx), eth1 (tcx)
table      12,345 of 131,072 connections (9 % full)
states     45 opening; 12,000 established; 300 closed
forwarded  5,000,000 packets (900,000,000 bytes) to backends; 7,000,000 packets
           (1,000,000,000 bytes) to clients"
    );
    assert!(
        head(&status).contains("\nOK: redundant"),
        "{}",
        head(&status)
    );
}

#[test]
fn everything_that_can_be_said() {
    let known = NatStatus {
        waiting: 3,
        released_alone: 12,
        released_late: 2,
        degraded: true,
        retries: 5,
        unserved: 1,
        resets: 12,
        probed: 1,
        rescans: 1,
        flows: 130_000,
        counters: counters(&[
            ("DROP_LEASE", 7),
            ("DROP_UNKNOWN", 1_200),
            ("DROP_SOMETHING_NEW", 4),
            ("LOST_EVENT", 1),
            ("send_unreachable", 9),
        ]),
        ..nat()
    };
    let status = with(known, master());
    assert_eq!(
        block(&status, "kernel mode"),
        "\
kernel mode: forwarding, on eth0 (tcx), eth1 (tcx)
table       130,000 of 131,072 connections (99 % full)
states      45 opening; 12,000 established; 300 closed
handshakes  3 waiting for the standby's word; 10,222 went on with it; 12 went
            on at once, no standby followed; 2 went on late, without it; THE
            STANDBY IS LATE: they do not wait until it has caught up
backends    5 went to another one before the handshake; 1 found none
also        12 resets sent; 1 connection probed after a takeover; 1 time the
            table was read whole, since an event was lost
dropped     1,200 of no connection, to a service; 7 while this node may not
            forward; 4 drop something new
trouble     1 lost event; 9 send unreachable"
    );
    assert_eq!(
        head(&status),
        "\
lb1 of web-pair: MASTER, epoch 7, since 2026-11-26T03:12:44.120Z (3 h 12 min)
WARNING: kernel mode: lb2 is late, so handshakes do not wait for it:
connections that began meanwhile may not outlive a failover
WARNING: kernel mode: the table of connections is 99 % full, then new ones are
dropped; raise kernel.max_flows"
    );
}

#[test]
fn a_data_path_that_does_nothing_is_critical() {
    let lapsed = NatStatus {
        forwarding: false,
        ..nat()
    };
    let head = head(&with(lapsed, master()));
    let expected = "\nCRITICAL: kernel mode: this node is master and does not forward";
    assert!(head.contains(expected), "{head}");

    for status in [master(), backup()] {
        let nowhere = NatStatus {
            hooks: Vec::new(),
            ..nat()
        };
        let status = with(nowhere, status);
        let head = super::samples_test::head(&status);
        let expected = "\nCRITICAL: kernel mode: the program is on no interface";
        assert!(head.contains(expected), "{head}");
        let block = block(&status, "kernel mode");
        assert!(block.contains("on NO INTERFACE\n"), "{block}");
    }
}

/// Before the tables are there, nothing is divided by their size.
#[test]
fn an_empty_report_is_shown() {
    let status = with(NatStatus::default(), backup());
    assert_eq!(
        block(&status, "kernel mode"),
        "kernel mode: standing by, on NO INTERFACE\ntable  0 of 0 connections"
    );
}

#[test]
fn a_host_that_cannot_have_it_is_told_of() {
    let mut status = master();
    assert!(!page(&status).contains("kernel mode"));
    status.services[0].fallback = true;
    let text = page(&status)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let name = &status.services[0].name;
    let said = format!("kernel mode: this host cannot have it, so {name} is proxied");
    assert!(text.contains(&said), "{text}");
}
