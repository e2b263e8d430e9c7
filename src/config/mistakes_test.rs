//! One mistake at a time: where it is seen, what is said.

use std::collections::BTreeMap;

use super::Config;
use super::tests::{SAMPLE, changed, sample_with};
use crate::model::{BackendId, ServiceId};

/// Lines of `what is written -> what instead => the only complaint's beginning`; ⏎ is a new line.
const MISTAKES: &str = r#"
# The shape of the file.
[[vip]] -> [[vip] => 19:7: not TOML: unclosed array table, expected `]`
[election] -> [cluster] => 14:2: not TOML: duplicate key
misses = 3 -> misses = 3⏎misses = 3 => 17:1: not TOML: duplicate key
[election] -> colour = 1⏎[election] => 14:1: node[1].colour: unknown key; remove it; known here: name, priority, addresses
balance -> sorce = "192.0.2.100"⏎balance => 26:1: service[0].sorce: unknown key; did you mean `source`?
[election] -> [elections] => 14:2: elections: unknown key; did you mean `election`?
preempt = -> preemt = => 17:1: election.preemt: unknown key; did you mean `preempt`?
preempt = -> "a\nb" = => 17:1: election.a\nb: unknown key; remove it
[election] -> [[election]] => 14:1: election: a list instead of a section; write [election]
[[vip]] -> [vip] => 19:1: vip: a section instead of a list; write [[vip]]
[service.health] -> [[service.health]] => 27:1: service[0].health: a list instead of a section; write [service.health]
["192.0.2.11"] -> "192.0.2.11" => 8:13: node[0].addresses: a string instead of a list; write addresses = ["192.0.2.11"]
["192.0.2.11"] -> [] => 8:13: node[0].addresses: 0 values; write 1 to 8
[[vip]] -> [[node]]⏎name = "lb3"⏎priority = 3⏎addresses = ["192.0.2.13"]⏎[[vip]] => 5:1: node: 3 sections; write exactly 2
# Missing keys.
name = "edge"⏎ ->  => 1:1: cluster.name: missing; add name = "edge"
name = "lb2"⏎ ->  => 9:1: node[1].name: missing
priority = 100⏎ ->  => 9:1: node[1].priority: missing; add priority = 100
address = "192.0.2.100/24"⏎ ->  => 19:1: vip[0].address: missing
interface = "eth0"⏎ ->  => 19:1: vip[0].interface: missing
kind = "tcp"⏎ ->  => 27:1: service[0].health.kind: missing; add kind = "tcp"
listen = ["192.0.2.100:80"]⏎ ->  => 23:1: service[0].listen: missing; add listen = ["192.0.2.100:80"]
address = "198.51.100.22:8080"⏎ ->  => 36:1: service[0].backend[1].address: missing
# Types, words and ranges.
"edge" -> 7 => 2:8: cluster.name: an integer instead of a string; write it in quotes
"edge" -> "" => 2:8: cluster.name: `` is no name; write 1 to 64 of
"edge" -> "ed ge" => 2:8: cluster.name: `ed ge` is no name
"edge" -> "é\u001b" => 2:8: cluster.name: `é\u{1b}` is no name
"/etc/tandem/cluster.key" -> "cluster.key" => 3:12: cluster.key_file: `cluster.key` does not begin at the root
priority = 200 -> priority = 0 => 7:12: node[0].priority: 0 is out of range; write a whole number from 1 to 254
priority = 200 -> priority = 99999999999999999999999 => 7:12: node[0].priority: 99999999999999999999999 is out of range
priority = 200 -> priority = 1.5 => 7:12: node[0].priority: a fractional number instead of a whole number
preempt = false -> preempt = "no" => 17:11: election.preempt: a string instead of a boolean; write true or false
"100ms" -> 100 => 15:13: election.heartbeat: a number without a unit; write the unit, like "100ms"
"100ms" -> "100" => 15:13: election.heartbeat: a number without a unit
"100ms" -> "100 parsecs" => 15:13: election.heartbeat: `100 parsecs` is no duration: unknown time unit
"100ms" -> "9ms" => 15:13: election.heartbeat: 9ms is out of range; write a duration from "10ms" to "10s"
misses = 3 -> misses = 1 => 16:10: election.misses: 1 is out of range; write a whole number from 2 to 100
misses = 3 -> preempt_delay = "2h" => 16:17: election.preempt_delay: 2h is out of range
"round_robin" -> "roundrobin" => 26:11: service[0].balance: unknown word `roundrobin`; did you mean "round_robin"?
"round_robin" -> "best" => 26:11: service[0].balance: unknown word `best`; write "round_robin" or "weighted
# Schedulers and their settings.
"round_robin" -> 5 => 26:11: service[0].balance: an integer instead of a word or a table; write balance = { scheduler = "maglev" }
"round_robin" -> {} => 26:11: service[0].balance.scheduler: missing; add scheduler = "maglev"
"round_robin" -> { scheduler = "magleve" } => 26:25: service[0].balance.scheduler: unknown word `magleve`; did you mean "maglev"?
"round_robin" -> { scheduler = "maglev", size = 7 } => 26:35: service[0].balance.size: unknown key; remove it; known here: scheduler, table_size
"round_robin" -> { scheduler = "maglev", table_size = 65536 } => 26:48: service[0].balance.table_size: 65536 is not prime, so backends would miss parts of the table; write 65521 or 65537
"round_robin" -> { scheduler = "maglev", table_size = 250 } => 26:48: service[0].balance.table_size: 250 is out of range; write a whole number from 251 to 262139
"round_robin" -> { scheduler = "maglev", bounded_load = 1 } => 26:50: service[0].balance.bounded_load: 1 is out of range; write a number from 1.01 to 10 with at most two decimals
"round_robin" -> { scheduler = "maglev", bounded_load = 1.255 } => 26:50: service[0].balance.bounded_load: 1.255 is too exact; write a number from 1.01 to 10
"round_robin" -> { scheduler = "maglev", bounded_load = inf } => 26:50: service[0].balance.bounded_load: no finite number
"round_robin" -> { scheduler = "maglev", bounded_load = "2" } => 26:50: service[0].balance.bounded_load: a string instead of a number
"round_robin" -> { scheduler = "source_hash", table_size = 251 } => 26:53: service[0].balance.table_size: `source_hash` has no `table_size`; remove it, or write scheduler = "maglev"
"round_robin" -> { scheduler = "maglev", decay = "1s" } => 26:43: service[0].balance.decay: `maglev` has no `decay`; remove it, or write scheduler = "least_response_time" or "adaptive"
"round_robin" -> { scheduler = "adaptive", decay = "99ms" } => 26:45: service[0].balance.decay: 99ms is out of range
"round_robin" -> { scheduler = "adaptive", floor = 0 } => 26:45: service[0].balance.floor: 0 is out of range; write a number from 0.01 to 1
"round_robin" -> { scheduler = "maglev", hash_key = "" } => 26:46: service[0].balance.hash_key: 0 bytes; write 1 to 256 bytes
weight = 2 -> max_connections = 0 => 39:19: service[0].backend[1].max_connections: 0 is out of range
"tcp" -> "icmp" => 28:8: service[0].health.kind: unknown word `icmp`; write "tcp" or "tls" or "http"
balance -> connect_timeout = "0s"⏎balance => 26:19: service[0].connect_timeout: 0s is out of range
balance -> idle_timeout = "8days"⏎balance => 26:16: service[0].idle_timeout: 8days is out of range
balance -> max_connections = 0⏎balance => 26:19: service[0].max_connections: 0 is out of range
weight = 2 -> weight = 257 => 39:10: service[0].backend[1].weight: 257 is out of range
weight = 2 -> [proxy]⏎workers = 257 => 40:11: proxy.workers: 257 is out of range
weight = 2 -> [proxy]⏎drain_timeout = "8days" => 40:17: proxy.drain_timeout: 8days is out of range; write a duration from "0s" to "7days"
weight = 2 -> [proxy]⏎drain_timeout = 0 => 40:17: proxy.drain_timeout: a number without a unit
[[node]]⏎name = "lb1" -> relay = "no"⏎[[node]]⏎name = "lb1" => 5:9: cluster.relay: a string instead of a boolean
balance -> mode = "fast"⏎balance => 26:8: service[0].mode: unknown word `fast`; write "proxy" or "kernel"
# What only the kernel mode has.
balance -> forward = "nat"⏎balance => 26:11: service[0].forward: mode = "proxy" has no `forward`
balance -> replication = "sync"⏎balance => 26:15: service[0].replication: mode = "proxy" has no `replication`
balance -> fallback = "proxy"⏎balance => 26:12: service[0].fallback: mode = "proxy" has no `fallback`
balance -> stray = "drop"⏎balance => 26:9: service[0].stray: mode = "proxy" has no `stray`
# Addresses.
"192.0.2.11" -> "192.0.2.11/24" => 8:14: node[0].addresses[0]: `192.0.2.11/24` is no IP address; write the bare address
"192.0.2.11" -> "0.0.0.0" => 8:14: node[0].addresses[0]: 0.0.0.0 is no host's address
"192.0.2.11" -> "fe80::1" => 8:14: node[0].addresses[0]: fe80::1 is link-local
100/24 -> 100 => 20:11: vip[0].address: `192.0.2.100` has no prefix; add the prefix of its subnet, like "192.0.2.100/24"
100/24 -> 100/33 => 20:11: vip[0].address: `192.0.2.100/33` is no address with a prefix
100/24 -> 100/0 => 20:11: vip[0].address: 192.0.2.100/0 has a subnet that is the whole internet
192.0.2.100/24 -> 192.0.2.0/24 => 20:11: vip[0].address: 192.0.2.0/24 is the address of the network itself
192.0.2.100/24 -> 192.0.2.255/24 => 20:11: vip[0].address: 192.0.2.255/24 is the broadcast address of its network
192.0.2.100/24 -> 224.0.0.18/24 => 20:11: vip[0].address: 224.0.0.18 is a multicast address
192.0.2.100/24 -> 127.0.0.2/8 => 20:11: vip[0].address: 127.0.0.2/8 is a loopback address
192.0.2.100/24 -> 255.255.255.255/32 => 20:11: vip[0].address: 255.255.255.255 is the broadcast address
192.0.2.100/24 -> ::ffff:192.0.2.100/120 => 20:11: vip[0].address: ::ffff:192.0.2.100 is an IPv4 address in disguise; write it in the IPv4 way
"eth0" -> "a-very-long-name" => 21:13: vip[0].interface: `a-very-long-name` is no name of an interface; write 1 to 15
"eth0" -> "eth0:1" => 21:13: vip[0].interface: `eth0:1` is no name of an interface
"eth0" -> ".." => 21:13: vip[0].interface: `..` is no name of an interface
192.0.2.100:80 -> 192.0.2.100 => 25:11: service[0].listen[0]: `192.0.2.100` is no address with a port
192.0.2.100:80 -> 192.0.2.100:0 => 25:11: service[0].listen[0]: port 0; write a port from 1 to 65535
192.0.2.100:80 -> [2001:db8::100%2]:80 => 25:11: service[0].listen[0]: `[2001:db8::100%2]:80` names an interface by a number of one host; write "[2001:db8::100]:80"
.21:8080 -> .21 => 35:11: service[0].backend[0].address: `198.51.100.21` is no address with a port
198.51.100.21:8080 -> [::]:8080 => 35:11: service[0].backend[0].address: :: is no host's address
# What single values cannot show.
"lb2" -> "lb1" => 10:8: node[1].name: lb1 is already node[0].name (line 6); give each node its own name
"192.0.2.12" -> "192.0.2.11" => 12:14: node[1].addresses[0]: 192.0.2.11 is already node[0].addresses[0] (line 8)
"192.0.2.12" -> "2001:db8::12" => 12:14: node[1].addresses[0]: 2001:db8::12 cannot reach 192.0.2.11 (node[0].addresses[0]); write the addresses of both
"192.0.2.12" -> "192.0.2.12", "198.51.100.12" => 12:28: node[1].addresses: 2 here, but 1 in node[0]; write one address for each path
preempt = false -> dead_man = "300ms" => 17:12: election.dead_man: 300ms does not fit the heartbeats; write more than one heartbeat (100ms) and less than heartbeat x misses (300ms)
preempt = false -> dead_man = "100ms" => 17:12: election.dead_man: 100ms does not fit the heartbeats
[[service]] -> [[vip]]⏎address = "192.0.2.100/24"⏎interface = "eth1"⏎[[service]] => 24:11: vip[1].address: 192.0.2.100 is already vip[0].address (line 20); write each VIP once
[[service]] -> [[vip]]⏎address = "192.0.2.101/24"⏎interface = "eth0"⏎[[service]] => 24:11: vip[1].address: no service listens on 192.0.2.101 or has it as `source`; add "192.0.2.101:PORT" to a service, or remove the VIP
"eth0" -> "tandem0" => 21:13: vip[0].interface: `tandem0` is cluster.device
["192.0.2.100:80"] -> ["192.0.2.100:80", "192.0.2.7:80"] => 25:29: service[0].listen[1]: 192.0.2.7 is no VIP; write a [[vip]]'s address: 192.0.2.100
["192.0.2.100:80"] -> ["192.0.2.100:80", "0.0.0.0:80"] => 25:29: service[0].listen[1]: 0.0.0.0 is no VIP
["192.0.2.100:80"] -> ["192.0.2.100:80", "192.0.2.100:80"] => 25:29: service[0].listen[1]: 192.0.2.100:80 is already service[0].listen[0] (line 25)
"500ms" -> "2s" => 30:11: service[0].health.timeout: a timeout of 2s is longer than the interval of 1s; write a timeout of at most "1s"
"1s"⏎timeout = "500ms" -> "900ms" => 29:12: service[0].health.interval: a timeout of 1s is longer than the interval of 900ms
"b2" -> "b1" => 37:8: service[0].backend[1].name: b1 is already service[0].backend[0].name (line 34)
198.51.100.22:8080 -> 192.0.2.100:80 => 38:11: service[0].backend[1].address: 192.0.2.100:80 is the service itself (service[0].listen[0])
"#;

#[test]
fn one_mistake_is_one_complaint_at_its_place() {
    explained(SAMPLE, MISTAKES);
}

/// Makes each mistake in the sample, by itself.
pub(super) fn explained(sample: &str, mistakes: &str) {
    let mut wrong = Vec::new();
    for row in mistakes.lines().filter(|row| row.contains(" => ")) {
        let (change, expected) = row.split_once(" => ").unwrap();
        let (from, to) = change.split_once(" -> ").unwrap();
        let text = changed(sample, &from.replace('⏎', "\n"), &to.replace('⏎', "\n"));
        match complaints(&text).as_slice() {
            [said] if said.starts_with(expected) => {}
            said => wrong.push(format!("{row}\n{}", said.join("\n"))),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

pub(super) fn complaints(text: &str) -> Vec<String> {
    let errors = Config::parse(text).err().unwrap_or_default();
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_lacks_every_section_that_is_needed() {
    let expected = [
        "1:1: cluster: missing; add [cluster]",
        "1:1: node: missing; add [[node]]",
        "1:1: service: missing; add [[service]]",
        "1:1: vip: missing; add [[vip]]",
    ];
    assert_eq!(complaints(""), expected);
}

#[test]
fn a_vip_is_no_nodes_address() {
    let text = SAMPLE.replace("192.0.2.100", "192.0.2.12");
    let expected = "20:11: vip[0].address: 192.0.2.12 is also node[1].addresses[0]; \
                    a VIP moves between the nodes: write an address that neither owns";
    assert_eq!(complaints(&text), [expected]);
}

const SECOND: &str = "
[[service]]
name = \"NAME\"
listen = [\"192.0.2.100:80\"]
[[service.backend]]
name = \"b1\"
address = \"198.51.100.21:8080\"
";

#[test]
fn services_share_neither_names_nor_addresses() {
    let expected = [
        "42:8: service[1].name: web is already service[0].name (line 24); \
         give each service its own name",
        "43:11: service[1].listen[0]: 192.0.2.100:80 is already service[0].listen[0] (line 25); \
         one service listens at one address",
    ];
    let text = format!("{SAMPLE}{}", SECOND.replace("NAME", "web"));
    assert_eq!(complaints(&text), expected);
}

/// Two names with one id: with 32 bits, some hundred thousand tries find a pair.
fn collision<K: Ord>(id: impl Fn(&str) -> K) -> (String, String) {
    let mut seen = BTreeMap::new();
    (0..)
        .map(|n| format!("s{n}"))
        .find_map(|name| {
            let other = seen.insert(id(&name), name.clone())?;
            Some((other, name))
        })
        .unwrap()
}

#[test]
fn names_with_one_id_are_refused() {
    let (one, other) = collision(ServiceId::of);
    let text = sample_with("\"web\"", &format!("\"{one}\""));
    let second = SECOND.replace("NAME", &other).replace(":80\"", ":81\"");
    let expected = format!(
        "42:8: service[1].name: `{other}` has the same id (a hash of the name) as \
         service[0].name (line 24); write another name"
    );
    assert_eq!(complaints(&format!("{text}{second}")), [expected]);

    let (one, other) = collision(|name| BackendId::of("web", name));
    let text = sample_with("\"b1\"", &format!("\"{one}\""));
    let said = complaints(&text.replace("b2", &other));
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("has the same id"), "{said:?}");
}

#[test]
fn many_of_anything_are_refused_by_number() {
    let backends: String = (0..1_025)
        .map(|n| {
            format!(
                "[[service.backend]]\nname = \"x{n}\"\naddress = \"198.51.100.1:{}\"\n",
                n + 1
            )
        })
        .collect();
    let text = sample_with(
        "[[service.backend]]\nname = \"b1\"",
        &format!("{backends}[[service.backend]]\nname = \"b1\""),
    );
    assert_eq!(
        complaints(&text),
        ["33:1: service[0].backend: 1027 sections; write 1 to 1024"]
    );
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let texts = [
        format!("a = {}", "[".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        format!("a = {}", "{a=".repeat(100_000)),
    ];
    for text in texts {
        assert!(Config::parse(&text).is_err());
    }
}
