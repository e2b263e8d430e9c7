//! SRV records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{first_servers, members_of};
use crate::wire::dns::Server;

fn server(priority: u16, weight: u16, target: &str) -> Server {
    Server {
        priority,
        weight,
        port: 80,
        target: target.into(),
    }
}

fn members(servers: &[Server], addresses: &[(&str, &str)]) -> String {
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (target, address) in addresses {
        let all = known.entry((*target).to_owned()).or_default();
        all.push(address.parse().unwrap());
    }
    let members = members_of(servers, &known, 5).into_iter();
    let text: Vec<_> = members
        .map(|(at, weight)| format!("{at}={weight}"))
        .collect();
    text.join(" ")
}

#[test]
fn the_lowest_priority_that_has_an_address_serves() {
    let known = [("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.3")];
    let all = [server(20, 1, "c"), server(10, 3, "b"), server(10, 2, "a")];
    let expected = "192.0.2.1:80=2 192.0.2.2:80=3";
    assert_eq!(members(&all, &known), expected);
    assert_eq!(members(&all, &known[2..]), "192.0.2.3:80=1");
    assert_eq!(members(&all, &[]), "");
    let both = [("a", "192.0.2.1"), ("a", "2001:db8::1")];
    let expected = "192.0.2.1:80=2 [2001:db8::1]:80=2";
    assert_eq!(members(&all, &both), expected);
}

#[test]
fn weights_are_shares() {
    let known = [("a", "192.0.2.1"), ("b", "192.0.2.2")];
    let cases = [
        ((0, 0), "5 5"),
        ((0, 10), "1 10"),
        ((256, 128), "256 128"),
        ((65_535, 32_768), "256 128"),
        ((65_535, 1), "256 1"),
        ((1_000, 100), "256 25"),
    ];
    for ((a, b), expected) in cases {
        let found = members(&[server(0, a, "a"), server(0, b, "b")], &known);
        let weights: Vec<_> = found
            .split(' ')
            .filter_map(|it| it.split('=').nth(1))
            .collect();
        assert_eq!(weights.join(" "), expected, "{a} {b}");
    }
}

#[test]
fn useless_records_are_not_asked_for() {
    let no_port = Server {
        port: 0,
        ..server(0, 0, "x")
    };
    let none = server(0, 0, "");
    let twice = [server(2, 0, "b"), server(1, 0, "a"), server(2, 0, "b")];
    let all = [&twice[..], &[no_port, none]].concat();
    assert_eq!(first_servers(all), [server(1, 0, "a"), server(2, 0, "b")]);
    let many = (0..1_000).map(|n| server(n, 0, &n.to_string())).collect();
    assert_eq!(first_servers(many).len(), 64);
}
