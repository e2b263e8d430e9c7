//! The kernel mode's keys: what they mean, and what is said if they contradict each other.

use std::collections::BTreeSet;

use super::mistakes_test::{complaints, explained};
use super::tests::{SAMPLE as PROXIED, changed};
use super::*;

/// As an operator writes it: clients on one side, backends on the other.
pub(super) const SAMPLE: &str = r#"[cluster]
name = "edge"
key_file = "/etc/tandem/cluster.key"

[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11", "198.51.100.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12", "198.51.100.12"]

[kernel]                                  # for all services of that mode together
max_flows = 500_000
ports = "20000-59999"                     # towards the backends; half of it for each node

[[vip]]                                   # towards the clients
address = "192.0.2.100/24"
interface = "eth0"
[[vip]]                                   # towards the backends
address = "198.51.100.100/24"
interface = "eth1"

[[service]]
name = "web"
mode = "kernel"
listen = ["192.0.2.100:80", "192.0.2.100:443"]
source = "198.51.100.100"                 # the address that the backends see and answer
replication = "sync"                      # a handshake completes when the standby knows of it
balance = "weighted_round_robin"
max_connections = 400_000
[service.health]
kind = "tcp"
[[service.backend]]
name = "b1"
address = "198.51.100.21:8080"
weight = 3
[[service.backend]]
name = "b2"
address = "198.51.100.22:8080"

[[service]]
name = "mail"                             # beside it, a proxied service
listen = ["192.0.2.100:25"]
[[service.backend]]
name = "m1"
address = "[2001:db8::25]:25"
"#;

fn sample_with(from: &str, to: &str) -> String {
    changed(SAMPLE, from, to)
}

#[test]
fn the_sample_means_what_it_says() {
    let config = Config::parse(SAMPLE).unwrap();
    let kernel = Kernel {
        max_flows: 500_000,
        first_port: 20_000,
        last_port: 59_999,
        sync_timeout: Duration::from_millis(20),
        opening_timeout: Duration::from_secs(30),
        closing_timeout: Duration::from_secs(240),
        closed_timeout: Duration::from_secs(2),
    };
    assert_eq!(config.kernel, kernel);
    let [web, mail] = config.services.as_slice() else {
        panic!("{:?}", config.services)
    };
    let mode = KernelMode {
        sources: vec!["198.51.100.100".parse().unwrap()],
        forward: Forward::Nat,
        replication: Acknowledge::Sync,
        fallback: Fallback::Refuse,
        on_down: OnDown::Keep,
        stray: Stray::Reset,
        source_rate: 0,
    };
    assert_eq!(web.kernel, Some(mode));
    assert_eq!(web.connect_timeout, Duration::from_millis(250));
    assert_eq!(web.idle_timeout, Duration::from_secs(2 * 3_600 + 4 * 60));
    assert_eq!(mail.kernel, None);
    assert_eq!(mail.connect_timeout, Duration::from_secs(2));
    assert_eq!(mail.idle_timeout, Duration::from_secs(300));
}

#[test]
fn every_word_is_known() {
    let text = sample_with(
        "max_flows = 500_000\n",
        "max_flows = 2_000_000\nsync_timeout = \"1s\"\nopening_timeout = \"1s\"\n\
         closing_timeout = \"1h\"\nclosed_timeout = \"10m\"\n",
    );
    let text = changed(
        &text,
        "source = \"198.51.100.100\"",
        "forward = \"nat\"\nfallback = \"proxy\"\non_down = \"reset\"\nstray = \"drop\"\n\
         source_rate = 1_000_000\nsource = [\"198.51.100.100\"]",
    );
    let text = changed(&text, "replication = \"sync\"", "replication = \"async\"");
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.kernel.max_flows, 2_000_000);
    assert_eq!(config.kernel.sync_timeout, Duration::from_secs(1));
    assert_eq!(config.kernel.opening_timeout, Duration::from_secs(1));
    assert_eq!(config.kernel.closing_timeout, Duration::from_secs(3_600));
    assert_eq!(config.kernel.closed_timeout, Duration::from_secs(600));
    let mode = config.services[0].kernel.as_ref().unwrap();
    assert_eq!(mode.forward, Forward::Nat);
    assert_eq!(mode.fallback, Fallback::Proxy);
    assert_eq!(mode.on_down, OnDown::Reset);
    assert_eq!(mode.stray, Stray::Drop);
    assert_eq!(mode.replication, Acknowledge::Async);
    assert_eq!(mode.source_rate, 1_000_000);
}

#[test]
fn written_defaults_mean_what_leaving_them_out_means() {
    let short = changed(PROXIED, "balance", "mode = \"kernel\"\nbalance");
    let long = changed(
        &short,
        "balance",
        "source = []\nforward = \"nat\"\nreplication = \"sync\"\nfallback = \"refuse\"\n\
         on_down = \"keep\"\nstray = \"reset\"\nsource_rate = 0\nconnect_timeout = \"250ms\"\n\
         idle_timeout = \"2h 4m\"\nbalance",
    )
    .replace("source = []\n", "");
    let long = format!(
        "{long}[kernel]\nmax_flows = 131_072\nports = \"16384 - 65535\"\nsync_timeout = \"20ms\"\n\
         opening_timeout = \"30s\"\nclosing_timeout = \"4m\"\nclosed_timeout = \"2s\"\n"
    );
    assert_eq!(Config::parse(&short), Config::parse(&long));
    let proxied = changed(PROXIED, "balance", "mode = \"proxy\"\nbalance");
    assert_eq!(Config::parse(&proxied), Config::parse(PROXIED));
}

#[test]
fn both_nodes_must_agree_on_every_key() {
    let base = changed(PROXIED, "balance", "mode = \"kernel\"\nbalance");
    let mut hashes = BTreeSet::from([
        Config::parse(PROXIED).unwrap().hash,
        Config::parse(&base).unwrap().hash,
    ]);
    let of_the_service = [
        "source = \"192.0.2.100\"",
        "forward = \"dnat\"",
        "replication = \"async\"",
        "fallback = \"proxy\"",
        "on_down = \"reset\"",
        "stray = \"drop\"",
        "source_rate = 1",
    ];
    let of_all = [
        "max_flows = 131_073",
        "ports = \"16385-65535\"",
        "ports = \"16384-65534\"",
        "sync_timeout = \"21ms\"",
        "opening_timeout = \"31s\"",
        "closing_timeout = \"5m\"",
        "closed_timeout = \"3s\"",
    ];
    let of_the_service =
        of_the_service.map(|line| changed(&base, "balance", &format!("{line}\nbalance")));
    let of_all = of_all.map(|line| format!("{base}[kernel]\n{line}\n"));
    for text in of_the_service.iter().chain(&of_all) {
        assert!(hashes.insert(Config::parse(text).unwrap().hash), "{text}");
    }
}

/// As in `mistakes_test`.
const MISTAKES: &str = r#"
# Single values.
500_000 -> 1023 => 15:13: kernel.max_flows: 1023 is out of range; write a whole number from 1024 to 2000000
500_000 -> 2_000_001 => 15:13: kernel.max_flows: 2000001 is out of range
"20000-59999" -> 20000 => 16:9: kernel.ports: an integer instead of a string; write it in quotes, like "16384-65535"
"20000-59999" -> "20000" => 16:9: kernel.ports: `20000` is no range of ports; write the first and the last port, like "16384-65535"
"20000-59999" -> "20000-70000" => 16:9: kernel.ports: `20000-70000` is no range of ports
"20000-59999" -> "20000-10000" => 16:9: kernel.ports: `20000-10000` is no range of ports
"20000-59999" -> "1023-59999" => 16:9: kernel.ports: 1023 is too low: ports below 1024 belong to services
"20000-59999" -> "20000-21022" => 16:9: kernel.ports: 1023 ports are too few for two nodes; write at least 1024 of them
max_flows = 500_000 -> sync_timeout = "2s" => 15:16: kernel.sync_timeout: 2s is out of range; write a duration from "1ms" to "1s"
max_flows = 500_000 -> opening_timeout = "11m" => 15:19: kernel.opening_timeout: 11m is out of range
max_flows = 500_000 -> closing_timeout = "61m" => 15:19: kernel.closing_timeout: 1h 1m is out of range
max_flows = 500_000 -> closed_timeout = "0s" => 15:18: kernel.closed_timeout: 0s is out of range
max_flows -> max_flow => 15:1: kernel.max_flow: unknown key; did you mean `max_flows`?
"weighted_round_robin" -> "maglev" => 31:11: service[0].balance: mode = "kernel" has no scheduler `maglev`; write "round_robin" or "weighted_round_robin" or "least_connections" or "random", or mode = "proxy"
"weighted_round_robin" -> { scheduler = "adaptive", floor = 0.5 } => 31:25: service[0].balance.scheduler: mode = "kernel" has no scheduler `adaptive`
weight = 3 -> backup = false => 38:10: service[0].backend[0].backup: mode = "kernel" has no `backup`; write mode = "proxy" in this service
weight = 3 -> max_connections = 9 => 38:19: service[0].backend[0].max_connections: mode = "kernel" has no `max_connections` of a backend; write it in the service, or write mode = "proxy"
"sync" -> "synchronous" => 30:15: service[0].replication: unknown word `synchronous`; write "sync" or "async"
"sync" -> "asynch" => 30:15: service[0].replication: unknown word `asynch`; did you mean "async"?
source =  -> forward = "dsr"⏎source =  => 29:11: service[0].forward: this version has no `dsr` (direct server return); write "nat", or "dnat" if
source =  -> forward = "masq"⏎source =  => 29:11: service[0].forward: unknown word `masq`; write "nat" or "dnat"
source =  -> source_rate = 1_000_001⏎source =  => 29:15: service[0].source_rate: 1000001 is out of range
source = "198.51.100.100" -> source = "198.51.100.100/24" => 29:10: service[0].source: `198.51.100.100/24` is no IP address; write the bare address, without name, port or prefix, like "198.51.100.100"
source = "198.51.100.100" -> source = 5 => 29:10: service[0].source: an integer instead of a string
source = "198.51.100.100" -> source = ["198.51.100.100", 5] => 29:29: service[0].source[1]: an integer instead of a string
# Times that do not fit the mode.
source =  -> connect_timeout = "1s"⏎source =  => 29:19: service[0].connect_timeout: 1s is too long for mode = "kernel": a client's kernel sends its SYN again after 1 s (RFC 6298), and another backend must have been tried by then; write less than "1s"; the default here is "250ms"
source =  -> connect_timeout = "2s"⏎source =  => 29:19: service[0].connect_timeout: 2s is too long for mode = "kernel"
# Sources.
source = "198.51.100.100" -> source = ["198.51.100.100", "192.0.2.100"] => 29:29: service[0].source[1]: a second IPv4 address, after service[0].source[0]; write one address for each IP version
source = "198.51.100.100" -> source = ["198.51.100.100", "192.0.2.101"] => 29:29: service[0].source[1]: a second IPv4 address, after service[0].source[0]
source = "198.51.100.100" -> forward = "dnat"⏎source = "198.51.100.100" => 30:10: service[0].source: with forward = "dnat" backends see the clients' addresses, not `source`; remove `source`, or write forward = "nat"
# IP versions.
198.51.100.22:8080 -> [2001:db8::22]:8080 => 41:11: service[0].backend[1].address: IPv4 to IPv6 needs mode = "proxy"; write an IPv4 address of the backend, or mode = "proxy"
# The kernel does not forward to its own host.
198.51.100.22:8080 -> 198.51.100.12:8080 => 41:11: service[0].backend[1].address: 198.51.100.12 is node[1].addresses[1]: mode = "kernel" forwards to other hosts only; write the address of another host
198.51.100.22:8080 -> 192.0.2.100:25 => 41:11: service[0].backend[1].address: 192.0.2.100 is a VIP: mode = "kernel" forwards to other hosts only
198.51.100.22:8080 -> 192.0.2.100:80 => 41:11: service[0].backend[1].address: 192.0.2.100:80 is the service itself
# Ports of a source.
["192.0.2.100:25"] -> ["192.0.2.100:25", "198.51.100.100:20000"] => 45:29: service[1].listen[1]: port 20000 of 198.51.100.100 is taken: service web reaches its backends from ports 20000-59999 of this address; write a port below 20000, other kernel.ports, or another `source` in service web
["192.0.2.100:25"] -> ["192.0.2.100:25", "198.51.100.100:59999"] => 45:29: service[1].listen[1]: port 59999 of 198.51.100.100 is taken
"#;

#[test]
fn one_mistake_is_one_complaint_at_its_place() {
    explained(SAMPLE, MISTAKES);
}

#[test]
fn a_source_that_is_no_vip_leaves_its_vip_unused() {
    let text = sample_with("source = \"198.51.100.100\"", "source = \"198.51.100.101\"");
    let expected = [
        "22:11: vip[1].address: no service listens on 198.51.100.100 or has it as `source`; \
         add \"198.51.100.100:PORT\" to a service, or remove the VIP",
        "29:10: service[0].source: 198.51.100.101 is no VIP; \
         write a [[vip]]'s address: 192.0.2.100, 198.51.100.100",
    ];
    assert_eq!(complaints(&text), expected);
}

const V6: &str = "[[vip]]\naddress = \"2001:db8::100/64\"\ninterface = \"eth0\"\n[[vip]]\n\
                  address = \"198.51";

/// The sample with an IPv6 VIP.
fn dual() -> String {
    sample_with(
        "[[vip]]                                   # towards the backends\naddress = \"198.51",
        V6,
    )
}

#[test]
fn the_ip_versions_of_a_kernel_service_fit_together() {
    let listen = "\"192.0.2.100:443\"";
    let both = |text: &str| changed(text, listen, "\"[2001:db8::100]:443\"");
    // A source for a version that no client uses.
    let text = changed(
        &dual(),
        "source = \"198.51.100.100\"",
        "source = [\"198.51.100.100\", \"2001:db8::100\"]",
    );
    let expected = "32:29: service[0].source[1]: `listen` has no IPv6 address that would use \
                    2001:db8::100; remove it, or add an IPv6 address to `listen`";
    assert_eq!(complaints(&text), [expected]);
    // Clients that no backend could serve: said once for each version.
    let text = changed(
        &both(&dual()),
        "\"[2001:db8::100]:443\"",
        "\"[2001:db8::100]:443\", \"[2001:db8::100]:80\"",
    );
    let expected = "31:29: service[0].listen[1]: no backend has an IPv6 address: IPv6 to IPv4 needs \
                    mode = \"proxy\"; add an IPv6 backend, or write mode = \"proxy\"";
    assert_eq!(complaints(&text), [expected]);
    // Both.
    let text = changed(
        &both(&text.replace(
            "\"192.0.2.100:80\", ",
            &format!("\"192.0.2.100:80\", {listen}, "),
        )),
        "198.51.100.22:8080",
        "[2001:db8::22]:8080",
    )
    .replace(
        "\"[2001:db8::100]:443\", \"[2001:db8::100]:443\"",
        "\"[2001:db8::100]:443\"",
    );
    assert_eq!(complaints(&text), Vec::<String>::new());
}

#[test]
fn a_proxied_listener_keeps_out_of_the_ports_of_a_vip_that_is_its_own_source() {
    let own = changed(
        &sample_with("source = \"198.51.100.100\"", ""),
        "192.0.2.100:25",
        "192.0.2.100:30000",
    );
    let own = changed(
        &own,
        "[[vip]]                                   # towards the backends\naddress = \"198.51.100.100/24\"\ninterface = \"eth1\"\n",
        "",
    );
    let expected = "42:11: service[1].listen[0]: port 30000 of 192.0.2.100 is taken: service web \
                    reaches its backends from ports 20000-59999 of this address; write a port below \
                    20000, other kernel.ports, or another `source` in service web";
    assert_eq!(complaints(&own), [expected]);
    // With dnat no port of ours is used, and a kernel listener is looked up first.
    let dnat = changed(
        &own,
        "mode = \"kernel\"",
        "mode = \"kernel\"\nforward = \"dnat\"",
    );
    assert_eq!(complaints(&dnat), Vec::<String>::new());
    let kernel = changed(
        &own,
        "listen = [\"192.0.2.100:30000\"]",
        "mode = \"kernel\"\nlisten = [\"192.0.2.100:30000\"]",
    );
    let kernel = changed(&kernel, "[2001:db8::25]:25", "198.51.100.25:25");
    assert_eq!(complaints(&kernel), Vec::<String>::new());
}

/// With dnat nothing but a VIP's network says which interface leads to a backend.
#[test]
fn dnat_needs_to_know_the_interface_of_a_backend() {
    let dnat = sample_with("source = \"198.51.100.100\"", "forward = \"dnat\"");
    let dnat = changed(&dnat, "192.0.2.100:25", "198.51.100.100:25");
    assert_eq!(complaints(&dnat), Vec::<String>::new());
    let far = changed(&dnat, "198.51.100.22:8080", "203.0.113.22:8080");
    let expected = "41:11: service[0].backend[1].address: with forward = \"dnat\" 203.0.113.22 must \
                    be in the network of a VIP, whose interface leads there: VIPs are on eth0 and \
                    eth1; add a VIP in its network, or write forward = \"nat\" with a `source`";
    assert_eq!(complaints(&far), [expected]);
    // Where there is only one, it leads there, by way of a router.
    let one = changed(&far, "interface = \"eth1\"", "interface = \"eth0\"");
    assert_eq!(complaints(&one), Vec::<String>::new());
    // With nat it is that of the source.
    let nat = sample_with("198.51.100.22:8080", "203.0.113.22:8080");
    assert_eq!(complaints(&nat), Vec::<String>::new());
}

#[test]
fn every_mistake_of_a_service_is_reported_at_once() {
    let text = sample_with(
        "source = \"198.51.100.100\"",
        "connect_timeout = \"3s\"\nsource = \"192.0.2.11\"",
    );
    let text = changed(&text, "198.51.100.22:8080", "[2001:db8::22]:8080");
    let text = changed(
        &text,
        "listen = [\"192.0.2.100:25\"]",
        "stray = \"drop\"\nlisten = [\"192.0.2.100:25\", \"198.51.100.100:25\"]",
    );
    let said = complaints(&text);
    let keys: Vec<&str> = said
        .iter()
        .map(|text| text.split(": ").nth(1).unwrap())
        .collect();
    let expected = [
        "service[0].connect_timeout",
        "service[0].source",
        "service[0].backend[1].address",
        "service[1].stray",
    ];
    assert_eq!(keys, expected, "{said:#?}");
}
