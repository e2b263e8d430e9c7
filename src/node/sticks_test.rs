use std::sync::Arc;

use super::*;
use crate::config::fixture::pair;
use crate::model::{Epoch, Incarnation, NodeId, Secret};
use crate::node::Identity;
use crate::replication::Source;
use crate::wire::admin::{Request, Response, StickQuery};

const CONFIG: &str = r#"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[service.affinity]
by = "source"
ttl = "80s"
[[service.backend]]
name = "b1"
address = "198.51.100.21:80"
"#;

fn backend() -> BackendId {
    BackendId::of("web", "b1")
}

fn node(now: Mono) -> Node {
    let config = Arc::new(pair(CONFIG));
    let identity = Identity {
        node: NodeId::First,
        incarnation: Incarnation(1),
        started_unix_ms: 0,
    };
    Node::new(config, identity, &Secret([1; 32]), 1, now)
}

fn lead(node: &mut Node, now: Mono) {
    let replica = node.replica().clone();
    node.replication = Replication::Source(Source::new(Epoch(1), replica, now));
}

fn key(hash: u64) -> StickKey {
    let service = ServiceId::of("web");
    StickKey { service, hash }
}

fn item(hash: u64, used_ms: u64) -> Item {
    let record = StickRecord {
        backend: backend(),
        used_ms,
    };
    let key = key(hash);
    Item::Stick { key, record }
}

fn s(seconds: u64) -> Mono {
    Mono::from_millis(1_000 * seconds)
}

/// The ages, in seconds, that the data path was told.
fn told(node: &mut Node) -> Vec<(u64, Option<u64>)> {
    let mut all = Vec::new();
    while let Some(output) = node.outputs.pop_front() {
        if let Output::Sticks(sticks) = output {
            let age = |stick: &Stick| stick.entry.map(|(_, age)| age / 1_000);
            all.extend(sticks.iter().map(|it| (it.key.hash, age(it))));
        }
    }
    all
}

#[test]
fn a_backup_goes_on_where_its_master_was() {
    // The master's process is much older than this one.
    let mut node = node(s(10));
    node.learn_sticks(Learned::SnapshotBegin, s(10));
    let first = Learned::Items(vec![item(1, 7_000_000), item(2, 7_030_000)]);
    assert_eq!(node.learn_sticks(first, s(10)), Learned::Items(Vec::new()));
    node.learn_sticks(Learned::SnapshotEnd, s(10));
    assert_eq!(told(&mut node), [(1, Some(30)), (2, Some(0))]);
    let gone = Learned::Items(vec![item(1, 7_040_000), Item::Unstick { key: key(2) }]);
    node.learn_sticks(gone, s(20));
    assert_eq!(told(&mut node), [(1, Some(0)), (2, None)]);

    lead(&mut node, s(25));
    node.stuck(key(3), backend(), s(25));
    let record = node.replica().sticks()[&key(3)];
    assert_eq!(record.used_ms, 7_045_000);
}

#[test]
fn a_backup_that_is_older_than_its_master_takes_its_scale() {
    let mut node = node(s(9_000));
    // It was master itself.
    node.sticks.ahead = Some(0);
    node.learn_sticks(Learned::SnapshotBegin, s(9_000));
    node.learn_sticks(Learned::Items(vec![item(1, 5_000)]), s(9_000));
    node.learn_sticks(Learned::SnapshotVoid, s(9_001));
    assert_eq!(node.sticks.at(s(9_001)), 9_001_000, "it came to nothing");
    node.learn_sticks(Learned::SnapshotBegin, s(9_002));
    node.learn_sticks(Learned::Items(vec![item(1, 5_000)]), s(9_002));
    node.learn_sticks(Learned::SnapshotEnd, s(9_003));
    assert_eq!(told(&mut node), [(1, Some(0)), (1, Some(0))]);
    assert_eq!(node.sticks.at(s(9_004)), 7_000);
}

#[test]
fn a_master_forgets_what_nobody_uses_in_portions() {
    let mut node = node(s(1));
    lead(&mut node, s(1));
    for hash in 0..1_000 {
        node.stuck(key(hash), backend(), s(1));
    }
    node.stuck(key(1_000), backend(), s(80));
    let alien = StickKey {
        service: ServiceId(9),
        hash: 1,
    };
    node.stuck(alien, backend(), s(80));
    node.run_sticks(s(80));
    assert!(node.timers.at(Timer::Sticks).is_some());
    let mut counts = Vec::new();
    let sweep = |node: &mut Node, at| {
        for _ in 0..5 {
            node.sweep_sticks(at);
        }
        node.replica().sticks().len()
    };
    counts.push(sweep(&mut node, s(90)));
    // An eighth longer than 80 s.
    counts.push(sweep(&mut node, s(91)));
    counts.push(sweep(&mut node, s(170)));
    assert_eq!(counts, [1_001, 1, 0]);
    node.run_sticks(s(170));
    assert!(node.timers.at(Timer::Sticks).is_none());
}

/// Asks until all is told: how many matched on each page.
fn pages(node: &mut Node, request: fn(StickQuery) -> Request, mut query: StickQuery) -> Vec<u64> {
    let mut pages = Vec::new();
    loop {
        node.handle_admin(1, request(query.clone()), s(3));
        let response = node.outputs.iter().rev().find_map(|output| match output {
            Output::Reply { response, .. } => Some(response.clone()),
            _ => None,
        });
        let Some(Response::Sticks { matching, next, .. }) = response else {
            panic!("{response:?}");
        };
        pages.push(matching);
        if next.is_none() {
            return pages;
        }
        query.after = next;
    }
}

#[test]
fn an_operator_sees_and_forgets_clients_in_pages() {
    let mut node = node(s(1));
    lead(&mut node, s(1));
    for hash in 0..5_000 {
        node.stuck(key(hash), backend(), s(1));
    }
    let all = StickQuery::default();
    let one = StickQuery {
        key: Some(format!("{:016x}", 4_999)),
        ..StickQuery::default()
    };
    assert_eq!(pages(&mut node, Request::Sticks, all.clone()), [1_000; 5]);
    // Only so many are looked at for one question.
    assert_eq!(pages(&mut node, Request::Sticks, one.clone()), [0, 1]);

    told(&mut node);
    assert_eq!(pages(&mut node, Request::ForgetSticks, one.clone()), [0, 1]);
    assert_eq!(
        told(&mut node),
        [(4_999, None)],
        "the data path forgets it, too"
    );
    assert_eq!(pages(&mut node, Request::Sticks, one), [0, 0]);
    let few = StickQuery {
        service: Some("web".into()),
        limit: Some(700),
        ..all.clone()
    };
    let sum: u64 = pages(&mut node, Request::ForgetSticks, few).iter().sum();
    assert_eq!((sum, node.replica().sticks().len()), (4_999, 0));

    let mistakes = [
        (
            StickQuery {
                service: Some("wed".into()),
                ..all.clone()
            },
            "no service",
        ),
        (
            StickQuery {
                backend: Some("b9".into()),
                ..all.clone()
            },
            "no backend",
        ),
        (
            StickQuery {
                key: Some("+00000000000000f".into()),
                ..all.clone()
            },
            "no key",
        ),
        (
            StickQuery {
                after: Some("behind".into()),
                ..all
            },
            "no cursor",
        ),
    ];
    for (query, expected) in mistakes {
        node.handle_admin(1, Request::Sticks(query), s(3));
        let said = format!("{:?}", node.outputs.pop_back());
        assert!(said.contains(expected), "{said}");
    }
}
