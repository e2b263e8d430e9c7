//! What was found becomes backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Entry, Source};
use crate::config::fixture::pair;

const FILE: &str = r#"
[[vip]]
address = "198.51.100.100/24"
interface = "eth1"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[[service.discover]]
dns = "web.example:80"
max_backends = 3
[[service.pool]]
name = "api"
[[service.pool.discover]]
dns = "api.example:80"
[[service.rule]]
sni = "api.example"
pool = "api"
[[service]]
name = "kernel"
mode = "kernel"
forward = "dnat"
listen = ["192.0.2.100:81", "198.51.100.100:81"]
[[service.discover]]
dns = "web.example:81"
"#;

fn source(service: usize, place: usize) -> Source {
    Source::new(&Arc::new(pair(FILE)), service, place)
}

fn gather(source: &mut Source, addresses: &[&str]) -> Option<Vec<String>> {
    let entry = Entry {
        name: None,
        weight: 1,
    };
    let all = addresses
        .iter()
        .map(|it| (it.parse().unwrap(), entry.clone()));
    let found = source.gather(&all.collect::<BTreeMap<_, _>>())?;
    Some(found.members.into_iter().map(|it| it.name).collect())
}

fn names(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn names_follow_from_addresses_and_differ_by_pool() {
    let mut web = source(0, 0);
    let both = ["[2001:db8::1]:80", "192.0.2.1:80"];
    assert_eq!(
        gather(&mut web, &both),
        names(&["192.0.2.1:80", "[2001:db8::1]:80"])
    );
    assert_eq!(gather(&mut web, &both), None, "said once");
    assert_eq!(gather(&mut web, &[]), names(&[]));
    let mut api = source(0, 1);
    assert_eq!((api.pool(), api.label()), ("api", "dns api.example:80"));
    assert_eq!(gather(&mut api, &both[1..]), names(&["api:192.0.2.1:80"]));
    assert_eq!(
        gather(&mut source(0, 0), &[]),
        names(&[]),
        "the first is told even if empty"
    );
}

#[test]
fn of_too_many_those_in_use_stay() {
    let mut web = source(0, 0);
    let high = ["192.0.2.7:80", "192.0.2.8:80"];
    gather(&mut web, &high);
    assert_eq!(web.left_out(), None);
    let many = [&["192.0.2.1:80", "192.0.2.2:80"], &high[..]].concat();
    let expected = ["192.0.2.1:80", "192.0.2.7:80", "192.0.2.8:80"];
    assert_eq!(gather(&mut web, &many), names(&expected));
    let said = "4 addresses; `max_backends` allows 3 of them";
    assert_eq!((web.left_out(), web.count()), (Some(said), 3));
    assert_eq!(
        gather(&mut web, &many[1..]),
        names(&["192.0.2.2:80", high[0], high[1]])
    );
    assert_eq!(web.left_out(), None);
}

#[test]
fn what_can_be_no_backend_is_left_out_and_said() {
    let cases = [
        (
            0,
            "0.0.0.0:80",
            "0.0.0.0 is no host's address; write the unicast address of one host",
        ),
        (0, "192.0.2.100:80", "192.0.2.100:80 is the service itself"),
        (1, "192.0.2.12:81", "192.0.2.12 is this pair's own"),
        (1, "[2001:db8::1]:81", "IPv4 to IPv6 needs mode = \"proxy\""),
        (
            1,
            "203.0.113.1:81",
            "with forward = \"dnat\" 203.0.113.1 must be in the network of a VIP",
        ),
    ];
    for (service, address, why) in cases {
        let mut source = source(service, 0);
        let found = gather(&mut source, &[address, "192.0.2.1:82"]);
        assert_eq!(found, names(&["192.0.2.1:82"]), "{address}");
        let said = format!("{address} is left out: {why}");
        assert!(source.left_out().unwrap().starts_with(&said), "{source:?}");
    }
    // A proxied service may be served by a node.
    assert_eq!(
        gather(&mut source(0, 0), &["192.0.2.12:80"]),
        names(&["192.0.2.12:80"])
    );
}

#[test]
fn names_of_any_pool_are_short_enough_and_differ() {
    let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    let long = ["a".repeat(64), "a".repeat(63), "a".repeat(16)];
    let name = |pool: &String| {
        let text = FILE.replace("\"api\"", &format!("\"{pool}\""));
        let config = Arc::new(pair(&text));
        let mut source = Source::new(&config, 0, 1);
        gather(&mut source, &[address]).unwrap().remove(0)
    };
    let names: std::collections::BTreeSet<_> = long.iter().map(name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.iter().all(|name| name.len() <= 64), "{names:?}");
}
