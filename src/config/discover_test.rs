//! Sources of backends: what they mean, and what is said if they are wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mistakes_test::{complaints, explained};
use super::tests::{SAMPLE, sample_with};
use super::*;
use crate::model::Weight;

/// A service of found backends only: lines 26 and 27 are its source.
const FOUND: &str = r#"[cluster]
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
[dns]
servers = ["192.0.2.53", "[2001:db8::53]:5353"]
timeout = "1s"
attempts = 3
[[vip]]
address = "192.0.2.100/24"
interface = "eth0"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[[service.discover]]
dns = "Web.Example.:8080"
"#;

const MISTAKES: &str = r#"
# Resolvers.
"192.0.2.53" -> "dns.example" => 13:12: dns.servers[0]: `dns.example` is no address of a resolver; write an IP address, like "192.0.2.53"
"192.0.2.53" -> "192.0.2.53:0" => 13:12: dns.servers[0]: `192.0.2.53:0` is no address of a resolver
"192.0.2.53" -> "::" => 13:12: dns.servers[0]: `::` is no address of a resolver
timeout = "1s" -> timeout = "1m" => 14:11: dns.timeout: 1m is out of range; write a duration from "100ms" to "30s"
attempts = 3 -> attempts = 0 => 15:12: dns.attempts: 0 is out of range
# What is asked.
[[service.discover]]⏎dns = "Web.Example.:8080"⏎ ->  => 19:1: service[0].backend: missing; add [[service.backend]]
dns = "Web.Example.:8080" -> weight = 2 => 22:1: service[0].discover[0]: a source of nothing; add one of: dns = "web.example:80"
"Web.Example.:8080" -> "web.example" => 23:7: service[0].discover[0].dns: `web.example` has no port; write name and port, like "web.example:80"
"Web.Example.:8080" -> "web.example:0" => 23:7: service[0].discover[0].dns: `web.example:0` has no port
"Web.Example.:8080" -> "192.0.2.1:80" => 23:7: service[0].discover[0].dns: `192.0.2.1:80` is an address: there is nothing to ask; write it in a [[service.backend]]
"Web.Example.:8080" -> "web..example:80" => 23:7: service[0].discover[0].dns: `web..example` is no host name
"Web.Example.:8080" -> "web.example:80"⏎dns_srv = "_web._tcp.example" => 24:11: service[0].discover[0].dns_srv: two sources in one section; write a section of its own
dns = "Web.Example.:8080" -> dns_srv = "_web._tcp.example:80" => 23:11: service[0].discover[0].dns_srv: `_web._tcp.example:80` has a port, but SRV records name the ports
dns = "Web.Example.:8080" -> backends_file = "web.json" => 23:17: service[0].discover[0].backends_file: `web.json` does not begin at the root
dns = "Web.Example.:8080" -> backends_file = "/etc/web.yaml" => 23:17: service[0].discover[0].backends_file: `/etc/web.yaml` does not say what is in it; write a path that ends in .json or .toml
dns = "Web.Example.:8080" -> backends_file = "/etc/web.json"⏎hold = "1m" => 24:8: service[0].discover[0].hold: a file has no `hold`; remove it
"Web.Example.:8080" -> "web.example:80"⏎[[service.discover]]⏎dns = "WEB.example:80" => 25:7: service[0].discover[1].dns: dns web.example:80 is already service[0].discover[0].dns (line 23); write each source of a pool once
# How.
"Web.Example.:8080" -> "web.example:80"⏎family = "v4" => 24:10: service[0].discover[0].family: unknown word `v4`
"Web.Example.:8080" -> "web.example:80"⏎min_ttl = "0s" => 24:11: service[0].discover[0].min_ttl: 0s is out of range
"Web.Example.:8080" -> "web.example:80"⏎min_ttl = "10s"⏎max_ttl = "5s" => 25:11: service[0].discover[0].max_ttl: min_ttl (10s) is longer than max_ttl (5s); write a shorter
"Web.Example.:8080" -> "web.example:80"⏎max_backends = 1025 => 24:16: service[0].discover[0].max_backends: 1025 is out of range
"Web.Example.:8080" -> "web.example:80"⏎weight = 257 => 24:10: service[0].discover[0].weight: 257 is out of range
listen = ["192.0.2.100:80"] -> listen = ["192.0.2.100:80"]⏎mode = "kernel"⏎discover = [{dns = "a.example:1", family = "ipv6"}]⏎[[service]]⏎name = "b"⏎listen = ["192.0.2.100:81"] => 23:44: service[0].discover[0].family: `listen` has no IPv6 address: there is no translation in mode = "kernel"; add an IPv6 address
"#;

#[test]
fn every_key_is_known() {
    let config = Config::parse(FOUND).unwrap();
    assert_eq!(
        config.dns,
        Dns {
            servers: vec![
                "192.0.2.53:53".parse().unwrap(),
                "[2001:db8::53]:5353".parse().unwrap()
            ],
            timeout: Duration::from_secs(1),
            attempts: 3,
        }
    );
    let service = &config.services[0];
    assert!(service.backends.is_empty());
    let plain = Discover {
        pool: None,
        origin: Origin::Dns {
            name: "web.example".into(),
            port: 8080,
        },
        family: Family::Both,
        min_ttl: Duration::from_secs(5),
        max_ttl: Duration::from_secs(60),
        hold: None,
        linger: Duration::ZERO,
        max_backends: 64,
        weight: Weight(1),
    };
    assert_eq!(service.discover.as_slice(), std::slice::from_ref(&plain));
    let full = "weight = 3\nmax_backends = 1024\nfamily = \"ipv6\"\nmin_ttl = \"2m\"\n\
                hold = \"1h\"\nlinger = \"30s\"\n\
                [[service.discover]]\nbackends_file = \"/etc/web.toml\"\n\
                [[service.pool]]\nname = \"api\"\n\
                [[service.pool.discover]]\ndns_srv = \"_api._tcp.Example\"\n\
                [[service.rule]]\nsni = \"api.example\"\npool = \"api\"\n";
    let config = Config::parse(&format!("{FOUND}{full}")).unwrap();
    let service = &config.services[0];
    let expected = [
        Discover {
            family: Family::V6,
            min_ttl: Duration::from_secs(120),
            max_ttl: Duration::from_secs(120),
            hold: Some(Duration::from_secs(3_600)),
            linger: Duration::from_secs(30),
            max_backends: 1_024,
            weight: Weight(3),
            ..plain.clone()
        },
        Discover {
            origin: Origin::File {
                path: "/etc/web.toml".into(),
            },
            ..plain.clone()
        },
        Discover {
            pool: Some(0),
            origin: Origin::Srv {
                name: "_api._tcp.example".into(),
            },
            ..plain
        },
    ];
    assert_eq!(service.discover, expected);
    assert_eq!(service.pool_name(service.discover[2].pool), "api");
}

#[test]
fn mistakes_are_explained_where_they_stand() {
    explained(FOUND, MISTAKES);
    let both = FOUND.replace("dns =", "min_ttl = \"1x\"\nhold = 5\ndns =");
    assert_eq!(complaints(&both).len(), 2, "each mistake once");
}

#[test]
fn a_kernel_mode_service_may_have_found_backends_only() {
    let kernel = FOUND.replace("listen =", "mode = \"kernel\"\nlisten =");
    assert!(Config::parse(&kernel).unwrap().services[0].kernel.is_some());
}

#[test]
fn both_nodes_must_agree_on_every_key() {
    let sample = Config::parse(SAMPLE).unwrap().hash;
    let written = sample_with(
        "[election]",
        "[dns]\ntimeout = \"2s\"\nattempts = 2\n[election]",
    );
    assert_eq!(Config::parse(&written).unwrap().hash, sample, "defaults");
    let mut hashes = BTreeSet::from([Config::parse(FOUND).unwrap().hash]);
    let keys = [
        "family = \"ipv4\"",
        "min_ttl = \"4s\"",
        "max_ttl = \"2m\"",
        "hold = \"1m\"",
        "linger = \"1m\"",
        "max_backends = 65",
        "weight = 2",
        "[[service.discover]]\ndns = \"b.example:8080\"",
        "[[service.discover]]\ndns = \"b.example:8081\"",
        "[[service.discover]]\ndns_srv = \"b.example\"",
        "[[service.discover]]\nbackends_file = \"/b.json\"",
    ];
    let mut texts: Vec<_> = keys.map(|key| format!("{FOUND}{key}\n")).into();
    texts.push(FOUND.replace("192.0.2.53", "192.0.2.54"));
    texts.push(FOUND.replace("\"1s\"", "\"3s\""));
    texts.push(FOUND.replace("attempts = 3", "attempts = 4"));
    for text in &texts {
        hashes.insert(Config::parse(text).unwrap().hash);
    }
    assert_eq!(hashes.len(), texts.len() + 1, "two of them mean the same");
    let (a, b) = (
        "[[service.discover]]\ndns_srv = \"a.example\"\n",
        "[[service.discover]]\nbackends_file = \"/b.json\"\n",
    );
    let hash = |text: String| Config::parse(&text).unwrap().hash;
    assert_eq!(
        hash(format!("{FOUND}{a}{b}")),
        hash(format!("{FOUND}{b}{a}")),
        "their order means nothing"
    );
}
