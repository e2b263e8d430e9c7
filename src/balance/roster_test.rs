use super::*;
use crate::config::fixture::pair;
use crate::model::ServiceId;

const FILE: &str = r#"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[[service.backend]]
name = "b1"
address = "198.51.100.21:80"
weight = 2
[[service.backend]]
name = "b2"
address = "198.51.100.22:80"
[[service.pool]]
name = "static"
[[service.pool.backend]]
name = "s1"
address = "198.51.100.31:80"
[[service.rule]]
host = ["static.example"]
pool = "static"
[[service]]
name = "fast"
listen = ["192.0.2.100:81"]
mode = "kernel"
[[service.backend]]
name = "b1"
address = "198.51.100.21:81"
"#;

fn file() -> Config {
    pair(FILE)
}

fn addition(address: &str) -> Addition {
    Addition {
        pool: None,
        address: address.parse().unwrap(),
        weight: 1,
        max_connections: None,
        backup: false,
    }
}

fn added(address: &str) -> Said {
    Said::Presence(Presence::Added(addition(address)))
}

const REMOVED: Said = Said::Presence(Presence::Removed { cut_ms: None });

fn hear(roster: &mut Roster, name: &str, at: u64, said: Said) -> bool {
    let (service, backend) = name.split_once('/').unwrap();
    let statement = Statement {
        service: ServiceId::of(service),
        name: backend.into(),
        at: Stamp(at),
        said,
    };
    roster.hear(BackendId::of(service, backend), &statement)
}

fn found(pool: &str, source: &str, members: &[(&str, &str, u16)]) -> Found {
    let member = |(name, address, weight): &(&str, &str, u16)| Member {
        name: (*name).into(),
        address: address.parse().unwrap(),
        weight: *weight,
    };
    Found {
        service: ServiceId::of("web"),
        pool: pool.into(),
        source: source.into(),
        members: members.iter().map(member).collect(),
    }
}

/// Name, last octet and port of the address, weight, origin.
fn shown(done: &Effective, service: usize) -> Vec<String> {
    let backends = done.config.services[service].backends.iter();
    backends
        .map(|it| {
            let origin = match &done.origins[&it.id] {
                Origin::File => "file",
                Origin::Runtime => "runtime",
                Origin::Source(name) => name,
            };
            let (pool, weight) = (
                it.pool.map_or(String::new(), |n| format!(" pool {n}")),
                it.weight.0,
            );
            let address = it.address.to_string().replace("198.51.100.", "");
            format!("{} {address} x{weight} {origin}{pool}", it.name)
        })
        .collect()
}

fn effective(said: &[(&str, u64, Said)], sources: &[Found]) -> Effective {
    let mut roster = Roster::default();
    for (name, at, said) in said {
        hear(&mut roster, name, *at, said.clone());
    }
    roster.effective(&file(), &sources.iter())
}

#[test]
fn nothing_said_and_nothing_found_is_the_file() {
    let done = effective(&[], &[]);
    assert_eq!(done.config, file());
    assert!(done.trouble.is_empty());
    assert_eq!(
        shown(&done, 0),
        [
            "b1 21:80 x2 file",
            "b2 22:80 x1 file",
            "s1 31:80 x1 file pool 0"
        ]
    );
}

#[test]
fn what_operators_said_is_over_the_file() {
    let said = [
        ("web/b1", 1, REMOVED),
        ("web/b2", 2, Said::Weight(Some(9))),
        ("web/z", 4, added("198.51.100.24:80")),
        ("web/b3", 3, added("198.51.100.23:80")),
        ("web/s1", 5, added("198.51.100.32:80")),
        // Of another file.
        ("gone/b1", 6, added("198.51.100.29:80")),
    ];
    let done = effective(&said, &[]);
    assert_eq!(
        shown(&done, 0),
        [
            "b2 22:80 x9 file",
            // In the order in which they were added.
            "b3 23:80 x1 runtime",
            "z 24:80 x1 runtime",
            // The name of the file's, at another address, in another pool.
            "s1 32:80 x1 runtime",
        ]
    );
    assert_eq!(shown(&done, 1), ["b1 21:81 x1 file"]);
    assert_eq!(
        done.config.hash,
        file().hash,
        "its fingerprint is the file's"
    );
    assert!(done.trouble.is_empty());
}

#[test]
fn what_was_taken_back_is_as_if_never_said() {
    let said = [
        ("web/b1", 1, REMOVED),
        ("web/b1", 2, Said::Presence(Presence::Unsaid)),
        ("web/b2", 1, Said::Weight(Some(9))),
        ("web/b2", 2, Said::Weight(None)),
        ("web/b3", 1, added("198.51.100.23:80")),
        ("web/b3", 2, Said::Presence(Presence::Unsaid)),
    ];
    assert_eq!(effective(&said, &[]).config, file());
}

#[test]
fn what_was_found_is_over_the_file_and_under_the_operators() {
    let dns = found(
        "default",
        "dns web.example",
        &[
            ("b2", "198.51.100.42:80", 3),
            ("x", "198.51.100.43:80", 1),
            ("y", "198.51.100.44:80", 1),
            ("z", "198.51.100.45:80", 1),
        ],
    );
    let fixed = found("static", "file /f", &[("s2", "198.51.100.46:80", 1)]);
    let said = [
        ("web/x", 1, REMOVED),
        ("web/y", 1, Said::Weight(Some(7))),
        ("web/z", 1, added("198.51.100.50:80")),
    ];
    let done = effective(&said, &[dns, fixed]);
    assert_eq!(
        shown(&done, 0),
        [
            "b1 21:80 x2 file",
            "b2 42:80 x3 dns web.example",
            "s1 31:80 x1 file pool 0",
            "s2 46:80 x1 file /f pool 0",
            "y 44:80 x7 dns web.example",
            "z 50:80 x1 runtime",
        ]
    );
}

#[test]
fn what_a_service_cannot_have_is_left_out_and_said() {
    let backup = Said::Presence(Presence::Added(Addition {
        backup: true,
        ..addition("198.51.100.60:80")
    }));
    let pool = Said::Presence(Presence::Added(Addition {
        pool: Some("none".into()),
        ..addition("198.51.100.60:80")
    }));
    for (name, said, words) in [
        ("web/c", added("192.0.2.100:80"), "is the service itself"),
        ("web/c", added("224.0.0.1:80"), "multicast"),
        ("web/c", added("198.51.100.60:0"), "no port"),
        (
            "web/c",
            pool,
            "has no pool \"none\"; it has: default, static",
        ),
        ("fast/c", backup, "no `backup`"),
        ("fast/c", added("192.0.2.12:80"), "this pair's own"),
        ("fast/c", added("[2001:db8::1]:80"), "IPv4 to IPv6 needs"),
        ("web/a b", added("198.51.100.60:80"), "is no name"),
    ] {
        let done = effective(&[(name, 1, said)], &[]);
        assert_eq!(done.config, file(), "{words}");
        let text = done.trouble.iter().next().expect(words);
        assert!(text.contains(words), "{text}");
    }
    let many: Vec<_> = (0..1_100u32)
        .map(|n| (format!("m{n}"), format!("198.51.100.7:{}", n + 1)))
        .collect();
    let many: Vec<_> = many
        .iter()
        .map(|(name, at)| (name.as_str(), at.as_str(), 1))
        .collect();
    let done = effective(&[], &[found("default", "dns", &many)]);
    assert_eq!(done.config.services[0].backends.len(), MAX_BACKENDS);
    assert_eq!(done.trouble.len(), 1);
}

#[test]
fn rosters_agree_whatever_the_order() {
    let all = [
        ("web/b1", 5, REMOVED),
        ("web/b1", 7, Said::Presence(Presence::Unsaid)),
        ("web/b1", 6, Said::Weight(Some(3))),
        ("web/b1", 4, Said::Weight(Some(8))),
        ("web/b9", 3, added("198.51.100.23:80")),
    ];
    let mut rng = fastrand::Rng::with_seed(3);
    let mut first = None;
    for _ in 0..50 {
        let mut order: Vec<_> = all.iter().chain(&all[..2]).collect();
        rng.shuffle(&mut order);
        let mut roster = Roster::default();
        for (name, at, said) in order {
            hear(&mut roster, name, *at, said.clone());
        }
        let first = first.get_or_insert_with(|| roster.clone());
        assert_eq!(roster, *first);
    }
    let mut roster = first.unwrap();
    assert!(
        !hear(&mut roster, "web/b1", 6, Said::Weight(Some(1))),
        "not later"
    );
    assert!(roster.stamp(NodeId::First, 0) > Stamp(7));
}

#[test]
fn a_roster_is_bounded() {
    let mut roster = Roster::default();
    for n in 0..MAX_STATEMENTS as u64 + 10 {
        hear(
            &mut roster,
            &format!("web/n{n}"),
            n + 1,
            Said::Weight(Some(2)),
        );
    }
    assert!(roster.is_full());
    assert_eq!(roster.items().count(), MAX_STATEMENTS);
    assert!(
        hear(&mut roster, "web/n1", 1 << 40, Said::Weight(None)),
        "what is known can change"
    );
}

#[test]
fn nothing_is_said_at_the_end_of_time() {
    let mut roster = Roster::default();
    assert!(!hear(&mut roster, "web/b1", u64::MAX, REMOVED));
    assert!(hear(&mut roster, "web/b1", 1 << 60, REMOVED));
    assert!(roster.stamp(NodeId::Second, 0) > Stamp(1 << 60));
}

#[test]
fn the_earlier_deadline_counts() {
    let mut roster = Roster::default();
    let id = BackendId::of("web", "b1");
    let drain = |state, cut_ms| Said::State { state, cut_ms };
    hear(&mut roster, "web/b1", 1, drain(AdminState::Drain, Some(50)));
    assert_eq!(roster.cut_ms(id), Some(50));
    let removed = Said::Presence(Presence::Removed { cut_ms: Some(40) });
    hear(&mut roster, "web/b1", 2, removed);
    assert_eq!(roster.cuts().collect::<Vec<_>>(), [(id, 40)]);
    hear(&mut roster, "web/b1", 3, Said::Presence(Presence::Unsaid));
    hear(
        &mut roster,
        "web/b1",
        4,
        drain(AdminState::Enabled, Some(50)),
    );
    assert_eq!(roster.cut_ms(id), None);
}
