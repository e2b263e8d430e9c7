//! The keys of a proxied service's sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mistakes_test::{complaints, explained};
use super::tests::{SAMPLE, changed, sample_with};
use super::*;
use crate::model::BackendAddress;

fn with(lines: &str) -> String {
    sample_with("balance", &format!("{lines}\nbalance"))
}

const ALL: &str = "source = [\"198.51.100.11\", \"198.51.100.12\"]\ntransparent = true\nmark = 0x2a\n\
                   keepalive = { idle = \"30s\", interval = \"5s\", count = 4 }\nuser_timeout = \"20s\"\n\
                   mptcp = \"both\"\nfast_open = 256\nfast_open_backends = true";

#[test]
fn every_key_of_sockets_is_known() {
    let config = Config::parse(&with(ALL)).unwrap();
    let expected = Sockets {
        sources: ["198.51.100.11", "198.51.100.12"]
            .map(|address| address.parse().unwrap())
            .to_vec(),
        transparent: true,
        mark: Some(42),
        keepalive: Some(Keepalive {
            idle: Duration::from_secs(30),
            interval: Duration::from_secs(5),
            count: 4,
        }),
        user_timeout: Some(Duration::from_secs(20)),
        mptcp: Mptcp::Both,
        fast_open: 256,
        fast_open_backends: true,
    };
    assert_eq!(config.services[0].proxied.sockets, expected);
    let short = Config::parse(&with("keepalive = {}")).unwrap();
    let expected = Keepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
    };
    assert_eq!(short.services[0].proxied.sockets.keepalive, Some(expected));
}

#[test]
fn written_defaults_of_sockets_mean_what_leaving_them_out_means() {
    let long =
        with("transparent = false\nmptcp = \"off\"\nfast_open = 0\nfast_open_backends = false");
    assert_eq!(Config::parse(&long), Config::parse(SAMPLE));
}

#[test]
fn both_nodes_must_agree_on_every_key_of_sockets() {
    let mut hashes = BTreeSet::from([Config::parse(SAMPLE).unwrap().hash]);
    let lines = [
        "source = \"192.0.2.100\"",
        "source = \"192.0.2.11\"",
        "transparent = true",
        "mark = 1",
        "mark = 2",
        "keepalive = {}",
        "keepalive = { idle = \"61s\" }",
        "keepalive = { interval = \"11s\" }",
        "keepalive = { count = 4 }",
        "user_timeout = \"20s\"",
        "mptcp = \"clients\"",
        "mptcp = \"backends\"",
        "mptcp = \"both\"",
        "fast_open = 1",
        "fast_open_backends = true",
    ];
    for line in lines {
        let hash = Config::parse(&with(line)).unwrap().hash;
        assert!(hashes.insert(hash), "{line}");
    }
    let unix = sample_with("198.51.100.22:8080", "unix:/run/shop.sock");
    let config = Config::parse(&unix).unwrap();
    assert!(hashes.insert(config.hash));
    let address = BackendAddress::Unix("/run/shop.sock".into());
    assert_eq!(config.services[0].backends[1].address, address);
    assert_eq!(
        config.services[0].backends[1].address.to_string(),
        "unix:/run/shop.sock"
    );
}

/// As in `mistakes_test`.
const MISTAKES: &str = r#"
balance -> transparent = 1⏎balance => 26:15: service[0].transparent: an integer instead of a boolean
balance -> mark = 0⏎balance => 26:8: service[0].mark: 0 is out of range; write a whole number from 1 to 4294967295
balance -> keepalive = "1m"⏎balance => 26:13: service[0].keepalive: a string instead of a section; write [service.keepalive]
balance -> keepalive = { idle = "1500ms" }⏎balance => 26:22: service[0].keepalive.idle: the kernel counts these in whole seconds; write "1s"
balance -> keepalive = { interval = "10h" }⏎balance => 26:26: service[0].keepalive.interval: 10h is out of range
balance -> keepalive = { count = 128 }⏎balance => 26:23: service[0].keepalive.count: 128 is out of range; write a whole number from 1 to 127
balance -> keepalive = { idel = "1m" }⏎balance => 26:15: service[0].keepalive.idel: unknown key; did you mean `idle`?
balance -> user_timeout = "99ms"⏎balance => 26:16: service[0].user_timeout: 99ms is out of range
balance -> mptcp = "upstream"⏎balance => 26:9: service[0].mptcp: unknown word `upstream`; write "off" or "clients" or "backends" or "both"
balance -> fast_open = 65536⏎balance => 26:13: service[0].fast_open: 65536 is out of range; write a whole number from 0 to 65535
balance -> source = "192.0.2.300"⏎balance => 26:10: service[0].source: `192.0.2.300` is no IP address
balance -> source = ["192.0.2.100", "198.51.100.11"]⏎balance => 26:26: service[0].source[1]: 198.51.100.11 beside service[0].source[0]: a VIP serves both nodes; write for each IP version one VIP, or one address of each node
balance -> source = ["198.51.100.11", "192.0.2.100"]⏎balance => 26:28: service[0].source[1]: 192.0.2.100 beside service[0].source[0]: a VIP serves both nodes
balance -> source = ["198.51.100.11", "198.51.100.12", "198.51.100.13"]⏎balance => 26:45: service[0].source[2]: a third IPv4 address, for two nodes
balance -> source = "2001:db8::11"⏎balance => 26:10: service[0].source: no backend has an IPv6 address, so that 2001:db8::11 is of no use; remove it
198.51.100.22:8080 -> unix:run/shop.sock => 38:11: service[0].backend[1].address: `run/shop.sock` does not begin at the root; write the whole path, like "unix:/run/shop.sock"
198.51.100.22:8080 -> unix: => 38:11: service[0].backend[1].address: `` does not begin at the root
198.51.100.22:8080 -> unix:/run/ => 38:11: service[0].backend[1].address: `/run/` is no path of a socket
198.51.100.22:8080 -> unix:/run/a"⏎check_port = 7⏎#" => 38:11: service[0].backend[1].address: its check has a port of its own, and a unix socket gives no other half; add check_address, or let the check go to the socket
198.51.100.22:8080 -> unix:/run/a"⏎check_address = "192.0.2.7"⏎#" => 38:11: service[0].backend[1].address: its check has an address of its own, and a unix socket gives no other half; add check_port
"#;

#[test]
fn one_mistake_of_sockets_is_one_complaint_at_its_place() {
    explained(SAMPLE, MISTAKES);
}

#[test]
fn a_path_is_as_long_as_the_kernel_takes() {
    let of = |length: usize| {
        let path = format!("unix:/{}", "x".repeat(length - 1));
        complaints(&sample_with("198.51.100.22:8080", &path))
    };
    assert_eq!(of(107), Vec::<String>::new());
    assert_eq!(of(108).len(), 1);
}

#[test]
fn a_unix_socket_has_neither_name_nor_address() {
    let unix = sample_with("198.51.100.22:8080", "unix:/run/shop.sock");
    let rows = [
        ("kind = \"tls\"", "no name to verify"),
        ("kind = \"http\"\ntls = true", "no name to verify"),
        ("kind = \"grpc\"\ntls = true", "no name to verify"),
    ];
    for (kind, expected) in rows {
        let said = complaints(&changed(&unix, "kind = \"tcp\"", kind));
        assert_eq!(said.len(), 1, "{said:#?}");
        assert!(said[0].contains(expected), "{said:#?}");
        let named = changed(
            &unix,
            "kind = \"tcp\"",
            &format!("{kind}\nsni = \"shop.example\""),
        );
        assert_eq!(complaints(&named), Vec::<String>::new());
    }
    let agent = changed(
        &unix,
        "[service.health]",
        "[service.agent]\nport = 7\n[service.health]",
    );
    let said = complaints(&agent);
    assert!(
        said.len() == 1 && said[0].contains("agent_address"),
        "{said:#?}"
    );
    let said = complaints(&changed(&unix, "balance", "mode = \"kernel\"\nbalance"));
    let last = said.last().unwrap();
    assert!(last.contains("a unix socket gets none"), "{said:#?}");
}

#[test]
fn a_clients_address_is_kept_only_within_one_ip_version() {
    let text = with("transparent = true");
    assert_eq!(complaints(&text), Vec::<String>::new());
    let six = changed(&text, "198.51.100.22:8080", "[2001:db8::22]:8080");
    let said = complaints(&six);
    assert!(
        said.len() == 1 && said[0].contains("an IPv6 backend cannot serve IPv4 clients"),
        "{said:#?}"
    );
    let unix = changed(&text, "198.51.100.22:8080", "unix:/run/shop.sock");
    let said = complaints(&unix);
    assert!(
        said.len() == 1 && said[0].contains("a unix socket cannot see"),
        "{said:#?}"
    );
}

#[test]
fn the_kernel_mode_has_none_of_these() {
    let kernel = sample_with("balance", "mode = \"kernel\"\nbalance");
    for line in ALL.lines().skip(1) {
        let said = complaints(&changed(&kernel, "balance", &format!("{line}\nbalance")));
        let (key, _) = line.split_once(' ').unwrap();
        let expected = format!("mode = \"kernel\" has no `{key}`");
        assert!(
            said.len() == 1 && said[0].contains(&expected),
            "{line}: {said:#?}"
        );
    }
}

#[test]
fn the_ports_of_a_kernel_service_s_source_are_its_own() {
    let second = "[[service]]\nname = \"mail\"\nlisten = [\"192.0.2.100:25\"]\nsource = \"192.0.2.100\"\n\
                  [[service.backend]]\nname = \"m1\"\naddress = \"198.51.100.25:25\"\n";
    let kernel = sample_with("balance", "mode = \"kernel\"\nbalance");
    let said = complaints(&format!("{kernel}{second}"));
    assert!(
        said.len() == 1 && said[0].contains("whose ports are its own"),
        "{said:#?}"
    );
    assert_eq!(
        complaints(&format!("{SAMPLE}{second}")),
        Vec::<String>::new()
    );
}
