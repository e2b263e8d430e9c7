//! What the first lines say of a pair that is not healthy.

use super::samples_test::{NOW, backup, head, master};
use super::*;
use crate::model::{AdminState, Role};
use crate::status::{PeerStatus, Status};

#[test]
fn the_verdict_names_every_way_to_be_unhealthy() {
    type Break = fn(&mut Status);
    let cases: &[(Break, &str)] = &[
        (
            |status| status.vips[0].held = false,
            "CRITICAL: this node is master, but its kernel does not hold 192.0.2.100",
        ),
        (
            |status| status.peer.role = Some(Role::Master),
            "CRITICAL: two masters: lb2 says that it is master too",
        ),
        (
            |status| {
                for backend in &mut status.services[0].backends {
                    backend.admin = AdminState::Drain;
                }
            },
            "CRITICAL: service web: no backend takes new connections",
        ),
        (
            |status| {
                status.peer = PeerStatus {
                    name: "lb2".into(),
                    ..PeerStatus::default()
                }
            },
            "WARNING: no redundancy: peer lb2 was never heard",
        ),
        (
            |status| status.peer.role = Some(Role::Fault),
            "WARNING: no redundancy: peer lb2 is in fault; see `tandem status` there",
        ),
        (
            |status| status.peer.hears_us = false,
            "WARNING: lb2 does not hear this node",
        ),
        (
            |status| status.peer.same_config = Some(false),
            "WARNING: lb2 runs another configuration",
        ),
        (
            |status| status.replication.connected = false,
            "WARNING: no replication session with lb2",
        ),
        (
            |status| {
                status.replication.in_sync = false;
                status.replication.lag_items = 40;
                status.replication.lag_ms = 1_000;
            },
            "WARNING: lb2 is 40 items (1 s) behind",
        ),
        (
            |status| status.paths[1].alive = false,
            "WARNING: path 203.0.113.11 to 203.0.113.12 is silent; 1 of 2 paths work",
        ),
        (
            |status| status.paths[0].loss_percent = 12.0,
            "WARNING: path 192.0.2.11 to 192.0.2.12 loses 12 %; 2 of 2 paths work",
        ),
        (
            |status| {
                status.replication.in_sync = false;
                status.replication.lag_items = 2;
                status.replication.lag_ms = 3;
            },
            "OK: redundant (peer lb2 is backup, in sync)",
        ),
    ];
    for (breaks, verdict) in cases {
        let mut status = master();
        breaks(&mut status);
        let head = head(&status);
        let said = head.lines().skip(1).collect::<Vec<_>>().join(" ");
        assert!(said.starts_with(verdict), "{verdict}\n{said}");
    }
}

#[test]
fn a_backup_without_a_master_is_critical() {
    let mut status = backup();
    status.peer.role = Some(Role::Initialize);
    assert!(head(&status).contains("CRITICAL: no master: lb1 is in initialize"));
    status.peer.alive = false;
    status.peer.last_heard_ms = Some(250);
    assert!(head(&status).contains("CRITICAL: no master: lb1 is not heard for 250 ms"));
}

#[test]
fn emphasis_follows_the_verdict() {
    let mut status = master();
    assert_eq!(super::status(&status, NOW).lines[1].0, Tone::Good);
    status.services[0].backends[1].up = false;
    let page = super::status(&status, NOW);
    assert_eq!(page.lines[1].0, Tone::Caution);
    let bad: Vec<_> = page
        .lines
        .iter()
        .filter(|(tone, _)| *tone == Tone::Bad)
        .collect();
    assert_eq!(bad.len(), 1);
    assert!(bad[0].1.contains("b2"));
    status.vips[0].held = false;
    assert_eq!(super::status(&status, NOW).lines[1].0, Tone::Bad);
}
