//! What was found becomes backends.

use std::collections::BTreeMap;

use super::{Entry, Source};
use crate::config::Config;

const FILE: &str = r#"
[cluster]
name = "edge"
key_file = "/etc/tandem/cluster.key"
[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]
[[vip]]
address = "192.0.2.100/24"
interface = "eth0"
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
    let config = Config::parse(FILE).unwrap();
    let service = &config.services[service];
    Source::new(&config, service, &service.discover[place])
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
    assert_eq!(gather(&mut api, &both[1..]), names(&["api/192.0.2.1:80"]));
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
        (0, "0.0.0.0:80", "is no host's address"),
        (0, "255.255.255.255:80", "is the broadcast address"),
        (0, "192.0.2.100:80", "is the service itself"),
        (
            1,
            "192.0.2.12:81",
            "is a node or a VIP, and mode = \"kernel\" forwards to other hosts only",
        ),
        (
            1,
            "[2001:db8::1]:81",
            "is of another IP version than `listen`, which needs mode = \"proxy\"",
        ),
        (
            1,
            "203.0.113.1:81",
            "is in no VIP's network, whose interface would lead there with forward = \"dnat\"",
        ),
    ];
    for (service, address, why) in cases {
        let mut source = source(service, 0);
        let found = gather(&mut source, &[address, "192.0.2.1:82"]);
        assert_eq!(found, names(&["192.0.2.1:82"]), "{address}");
        let said = format!("{address} is left out: it {why}");
        assert_eq!(source.left_out(), Some(said.as_str()));
    }
    // A proxied service may be served by a node.
    assert_eq!(
        gather(&mut source(0, 0), &["192.0.2.12:80"]),
        names(&["192.0.2.12:80"])
    );
}
