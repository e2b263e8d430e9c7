//! What the pages say of the relay.

use super::samples_test::{backup, head, master, page};
use crate::status::{NatStatus, RelayLink, StaleStatus, Status};

fn without(change: impl FnOnce(&mut Status)) -> String {
    let mut status = master();
    change(&mut status);
    head(&status)
}

#[test]
fn what_is_missing_is_said_with_its_cost() {
    let none = without(|status| {
        status.relay.works = false;
        status.relay.lacking = Some("this kernel has no BPF".into());
    });
    let cost = "clients notice when a node's process dies";
    assert!(
        none.contains("WARNING: no relay: this kernel has no BPF"),
        "{none}"
    );
    assert!(none.replace("\n", " ").contains(cost), "{none}");
    let unseen = without(|status| {
        status.nat = Some(NatStatus::default());
        status.relay.works = false;
        let eth1 = RelayLink {
            interface: "eth1".into(),
            ..RelayLink::default()
        };
        status.relay.links.push(eth1);
    });
    assert!(
        unseen.contains("no relay: lb2 was not seen on eth1"),
        "{unseen}"
    );
    let late = without(|status| status.relay.lacking = Some("no tracepoint".into()));
    assert!(late.contains("some milliseconds late"), "{late}");
    let alone = without(|status| status.peer.relays = false);
    assert!(alone.contains("WARNING: lb2 does not relay"), "{alone}");
    let unwanted = without(|status| {
        status.relay = crate::status::RelayStatus::default();
        status.peer.relays = false;
    });
    assert!(!unwanted.contains("relay"), "{unwanted}");
}

#[test]
fn packets_and_stale_neighbours_have_a_block() {
    let mut status = backup();
    status.relay.accept = true;
    status.relay.reminded = 3;
    status.relay.stale = vec![StaleStatus {
        vip: "192.0.2.100".into(),
        mac: "02:00:00:00:00:09".into(),
        sender: "192.0.2.77".into(),
        unix_ms: 1_795_674_164_120,
    }];
    status.nat = Some(NatStatus {
        counters: [
            ("count_relayed".to_owned(), 1_234),
            ("drop_loop".to_owned(), 0),
        ]
        .into(),
        ..NatStatus::default()
    });
    let page = page(&status).replace('\n', " ");
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "relay works on eth0, takes over with the first packet",
        "packets 1,234 handed to the master",
        "stale 3 reminders sent; last to 02:00:00:00:00:09 (192.0.2.77) of 192.0.2.100 at 2026-11-26T06:22:44.120Z",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("nobody's"), "{page}");
}
