//! The proxy mode's keys: what they mean, and what is said if they contradict each other.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mistakes_test::{complaints, explained};
use super::tests::{SAMPLE, sample_with};
use super::*;

fn with(line: &str) -> String {
    sample_with("balance", &format!("{line}\nbalance"))
}

#[test]
fn every_key_is_known() {
    let text = with(
        "accept_proxy = [\"192.0.2.0/24\", \"2001:db8::7/128\"]\naccept_proxy_timeout = \"4s\"\n\
         send_proxy = \"v2\"\nsend_proxy_tlvs = [\"authority\", \"crc32c\"]\n\
         inspect_timeout = \"1s\"\ninspect_bytes = 0x1000\nech = \"unknown\"",
    );
    let config = Config::parse(&text).unwrap();
    let expected = Proxied {
        sockets: Sockets::default(),
        accept_proxy: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::7/128".parse().unwrap(),
        ],
        accept_proxy_timeout: Duration::from_secs(4),
        send_proxy: Some(SendProxy {
            version: ProxyVersion::V2,
            authority: true,
            unique_id: false,
            crc32c: true,
        }),
        inspect_timeout: Duration::from_secs(1),
        inspect_bytes: 4_096,
        ech: Ech::Unknown,
        limits: Limits::default(),
        affinity: None,
        pools: Vec::new(),
        rules: Vec::new(),
    };
    assert_eq!(config.services[0].proxied, expected);
}

#[test]
fn written_defaults_mean_what_leaving_them_out_means() {
    let long = with(
        "accept_proxy_timeout = \"3s\"\ninspect_timeout = \"5s\"\ninspect_bytes = 16384\nech = \"outer\"\n\
         queue_size = 0\nsource_rate = 0\n\
         on_down = \"keep\"\npanic_threshold = 0\nslow_start = \"0s\"\nlog = \"off\"\nlog_sample = 1",
    );
    assert_eq!(Config::parse(&long), Config::parse(SAMPLE));
}

#[test]
fn both_nodes_must_agree_on_every_key() {
    let mut hashes = BTreeSet::from([Config::parse(SAMPLE).unwrap().hash]);
    let lines = [
        "accept_proxy = \"192.0.2.0/24\"",
        "accept_proxy = \"192.0.2.0/25\"",
        "accept_proxy_timeout = \"4s\"",
        "send_proxy = \"v1\"",
        "send_proxy = \"v2\"",
        "send_proxy = \"v2\"\nsend_proxy_tlvs = [\"authority\"]",
        "send_proxy = \"v2\"\nsend_proxy_tlvs = [\"unique_id\"]",
        "send_proxy = \"v2\"\nsend_proxy_tlvs = [\"crc32c\"]",
        "inspect_timeout = \"4s\"",
        "inspect_bytes = 4096",
        "ech = \"unknown\"",
        "allow = \"192.0.2.0/24\"",
        "deny = \"192.0.2.0/24\"",
        "source_rate = 7",
        "retries = 0",
        "retries = 1",
        "connect_deadline = \"4s\"",
        "retry_budget = 20",
        "on_down = \"reset\"",
        "panic_threshold = 50",
        "slow_start = \"9s\"",
        "log = \"all\"",
        "log = \"errors\"",
        "log_sample = 9",
        "queue_size = 7",
        "queue_size = 7\nqueue_timeout = \"4s\"",
    ];
    for line in lines {
        let config = Config::parse(&with(line)).unwrap();
        assert!(hashes.insert(config.hash), "{line}");
    }
}

/// As in `mistakes_test`.
const MISTAKES: &str = r#"
balance -> accept_proxy = []⏎balance => 26:16: service[0].accept_proxy: 0 values; write 1 to 64
balance -> accept_proxy = true⏎balance => 26:16: service[0].accept_proxy: a boolean instead of a string; write it in quotes, like "192.0.2.0/24"
balance -> accept_proxy = "192.0.2.7"⏎balance => 26:16: service[0].accept_proxy: `192.0.2.7` is no network; write an address and a prefix, like "192.0.2.0/24"
balance -> accept_proxy = ["192.0.2.7/24"]⏎balance => 26:17: service[0].accept_proxy[0]: 192.0.2.7/24 has bits behind its prefix; write "192.0.2.0/24" for the network, or "192.0.2.7/32" for one host
balance -> accept_proxy_timeout = "2m"⏎balance => 26:24: service[0].accept_proxy_timeout: 2m is out of range; write a duration from "10ms" to "1m"
balance -> send_proxy = "v3"⏎balance => 26:14: service[0].send_proxy: unknown word `v3`; did you mean "v1"?
balance -> send_proxy = "v2"⏎send_proxy_tlvs = ["alpn"]⏎balance => 27:20: service[0].send_proxy_tlvs[0]: unknown word `alpn`; write "authority" or "unique_id" or "crc32c"
balance -> send_proxy = "v1"⏎send_proxy_tlvs = ["crc32c"]⏎balance => 27:20: service[0].send_proxy_tlvs[0]: send_proxy = "v1" has no room for `crc32c`; write send_proxy = "v2", or remove `send_proxy_tlvs`
balance -> send_proxy_tlvs = ["crc32c"]⏎balance => 26:20: service[0].send_proxy_tlvs[0]: without `send_proxy` there is no room for `crc32c`
balance -> allow = "192.0.2.0/24"⏎deny = ["2001:db8::/32", "192.0.2.0/24"]⏎balance => 27:26: service[0].deny[1]: 192.0.2.0/24 is already service[0].allow (line 26); write each network once, in one of the lists
balance -> deny = "anywhere"⏎balance => 26:8: service[0].deny: `anywhere` is no network
balance -> retries = 1024⏎balance => 26:11: service[0].retries: 1024 is out of range; write a whole number from 0 to 1023
balance -> connect_deadline = "2h"⏎balance => 26:20: service[0].connect_deadline: 2h is out of range
balance -> retry_budget = 0⏎balance => 26:16: service[0].retry_budget: 0 is out of range; write a whole number from 1 to 100
balance -> panic_threshold = 101⏎balance => 26:19: service[0].panic_threshold: 101 is out of range
balance -> slow_start = "2h"⏎balance => 26:14: service[0].slow_start: 2h is out of range
balance -> log = "some"⏎balance => 26:7: service[0].log: unknown word `some`; write "all" or "errors" or "off"
balance -> log_sample = 0⏎balance => 26:14: service[0].log_sample: 0 is out of range
weight = 2 -> backup = 1⏎weight = 2 => 39:10: service[0].backend[1].backup: an integer instead of a boolean
balance -> queue_size = 100001⏎balance => 26:14: service[0].queue_size: 100001 is out of range
balance -> queue_timeout = "1s"⏎balance => 26:17: service[0].queue_timeout: without `queue_size` nobody waits; write queue_size = 1000, or remove `queue_timeout`
balance -> source_rate = 1000001⏎balance => 26:15: service[0].source_rate: 1000001 is out of range
balance -> inspect_timeout = 5⏎balance => 26:19: service[0].inspect_timeout: a number without a unit
balance -> inspect_bytes = 511⏎balance => 26:17: service[0].inspect_bytes: 511 is out of range; write a whole number from 512 to 65536
"#;

#[test]
fn one_mistake_is_one_complaint_at_its_place() {
    explained(SAMPLE, MISTAKES);
}

#[test]
fn the_kernel_mode_has_none_of_these_keys() {
    let lines = [
        "accept_proxy = [\"192.0.2.0/24\"]",
        "accept_proxy_timeout = \"3s\"",
        "send_proxy = \"v1\"",
        "inspect_timeout = \"5s\"",
        "inspect_bytes = 16384",
        "ech = \"outer\"",
        "allow = \"192.0.2.0/24\"",
        "deny = [\"192.0.2.0/24\"]",
        "retries = 1",
        "connect_deadline = \"4s\"",
        "retry_budget = 20",
        "queue_size = 7",
        "panic_threshold = 7",
        "slow_start = \"9s\"",
        "log = \"all\"",
        "log_sample = 9",
    ];
    for line in lines {
        let key = line.split(' ').next().unwrap();
        let said = complaints(&with(&format!("mode = \"kernel\"\n{line}")));
        let expected = format!(
            "service[0].{key}: mode = \"kernel\" has no `{key}`; \
             write mode = \"proxy\" in this service, or remove the key"
        );
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with(&expected), "{said:?}");
    }
}

/// The sample with pools and rules.
fn ruled() -> String {
    format!(
        r#"{SAMPLE}
[[service.pool]]
name = "api"
balance = "random"
[service.pool.health]
kind = "tcp"
interval = "3s"
[[service.pool.backend]]
name = "a1"
address = "198.51.100.31:8080"
[[service.pool.backend]]
name = "a2"
address = "198.51.100.32:8080"
[[service.pool]]
name = "mail"
[[service.pool.backend]]
name = "m1"
address = "198.51.100.41:8080"
[[service.rule]]
sni = ["API.example.com", "*.api.example.com"]
alpn = "h2"
pool = "api"
[[service.rule]]
host = "www.example.com"
source = ["203.0.113.0/24"]
pool = "mail"
[[service.rule]]
source = "203.0.113.0/25"
pool = "default"
"#
    )
}

#[test]
fn pools_and_rules_mean_what_they_say() {
    let config = Config::parse(&ruled()).unwrap();
    let service = &config.services[0];
    let backends: Vec<_> = (service.backends.iter())
        .map(|backend| (backend.name.as_str(), backend.pool))
        .collect();
    let expected = [
        ("b1", None),
        ("b2", None),
        ("a1", Some(0)),
        ("a2", Some(0)),
        ("m1", Some(1)),
    ];
    assert_eq!(backends, expected);
    let [api, mail] = service.proxied.pools.as_slice() else {
        panic!("{service:?}")
    };
    assert_eq!((api.name.as_str(), mail.name.as_str()), ("api", "mail"));
    let interval = |at: usize| service.health_of(&service.backends[at]).unwrap().interval;
    assert_eq!(interval(2), Duration::from_secs(3));
    // What a pool leaves out is the service's.
    assert_eq!(mail.balance, service.balance);
    assert_eq!(mail.health, service.health);
    assert_eq!(interval(4), Duration::from_secs(1));
    let rules = &service.proxied.rules;
    assert_eq!(rules[0].sni, ["api.example.com", "*.api.example.com"]);
    assert_eq!(rules[0].alpn, ["h2"]);
    let pools: Vec<_> = rules.iter().map(|rule| rule.pool).collect();
    assert_eq!(pools, [Some(0), Some(1), None]);
}

#[test]
fn both_nodes_must_agree_on_every_rule() {
    let changes = [
        ("\"random\"", "\"round_robin\""),
        ("\"3s\"", "\"4s\""),
        ("\"a1\"", "\"a3\""),
        (".31:8080", ".31:8081"),
        ("\"API.example.com\", ", ""),
        ("alpn = \"h2\"\n", ""),
        ("\"www.example.com\"", "\"example.com\""),
        ("113.0/24\"", "112.0/23\""),
        ("pool = \"default\"", "pool = \"mail\""),
    ];
    let mut hashes = BTreeSet::from([Config::parse(&ruled()).unwrap().hash]);
    for (from, to) in changes {
        let text = ruled().replace(from, to);
        let hash = Config::parse(&text).unwrap().hash;
        assert!(hashes.insert(hash), "{from} -> {to}");
    }
    // The order of pools means nothing, that of rules everything.
    let text = ruled();
    let mail = text.find("[[service.pool]]\nname = \"mail\"").unwrap();
    let api = text.find("[[service.pool]]\nname = \"api\"").unwrap();
    let rules = text.find("[[service.rule]]").unwrap();
    let turned = [
        &text[..api],
        &text[mail..rules],
        &text[api..mail],
        &text[rules..],
    ]
    .concat();
    assert_eq!(
        Config::parse(&turned).unwrap().hash,
        Config::parse(&text).unwrap().hash
    );
    let last = text.rfind("[[service.rule]]").unwrap();
    let turned = [&text[..rules], &text[last..], &text[rules..last]].concat();
    assert!(hashes.insert(Config::parse(&turned).unwrap().hash));
}

/// As in `mistakes_test`.
const RULE_MISTAKES: &str = r#"
name = "mail" -> name = "api" => 54:8: service[0].pool[1].name: api is already service[0].pool[0].name (line 42); give each pool its own name
name = "mail" -> name = "default" => 54:8: service[0].pool[1].name: `default` is the service's own pool; write another name
"m1" -> "b1" => 56:8: service[0].pool[1].backend[0].name: b1 is already service[0].backend[0].name (line 34); give each backend its own name
"a2" -> "a1" => 51:8: service[0].pool[0].backend[1].name: a1 is already service[0].pool[0].backend[0].name (line 48)
198.51.100.31:8080 -> 192.0.2.100:80 => 49:11: service[0].pool[0].backend[0].address: 192.0.2.100:80 is the service itself
interval = "3s" -> interval = "900ms" => 46:12: service[0].pool[0].health.interval: a timeout of 1s is longer than the interval of 900ms
"*.api.example.com" -> "*" => 59:27: service[0].rule[0].sni[1]: `*` is no name of a host; write a name, like "api.example.com", or "*.example.com" for all names below one
"*.api.example.com" -> "api.*.com" => 59:27: service[0].rule[0].sni[1]: `api.*.com` is no name of a host
"*.api.example.com" -> "https://api.example.com/" => 59:27: service[0].rule[0].sni[1]: `https://api.example.com/` is no name of a host
"h2" -> "" => 60:8: service[0].rule[0].alpn: `` is no name of a protocol; write it as TLS does (ALPN)
"www.example.com" -> "www.example.com:80" => 63:8: service[0].rule[1].host: `www.example.com:80` is no name of a host
source = ["203.0.113.0/24"] -> source = ["203.0.113.7/24"] => 64:11: service[0].rule[1].source[0]: 203.0.113.7/24 has bits behind its prefix
source = ["203.0.113.0/24"] -> alpn = "h2" => 62:1: service[0].rule[1]: no connection is both: `host` is read from plain HTTP, `sni` and `alpn` from TLS; write two rules
source = "203.0.113.0/25"⏎ ->  => 66:1: service[0].rule[2]: a rule without a condition; write `sni`, `alpn`, `host` or `source`
pool = "mail" -> pool = "male" => 65:8: service[0].rule[1].pool: the service has no pool `male`; write one of: api, mail, default
pool = "mail" -> pool = "api" => 54:8: service[0].pool[1].name: no rule leads to pool `mail`; add a [[service.rule]] with pool = "mail"
"#;

#[test]
fn one_mistake_of_a_rule_is_one_complaint_at_its_place() {
    explained(&ruled(), RULE_MISTAKES);
}

#[test]
fn the_kernel_mode_has_neither_pools_nor_rules() {
    let text = ruled().replace("balance = \"round_robin\"", "mode = \"kernel\"");
    let said = complaints(&text);
    let keys: Vec<_> = said
        .iter()
        .map(|text| text.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(
        keys,
        ["service[0].pool[0]", "service[0].rule[0]"],
        "{said:#?}"
    );
}

#[test]
fn the_sample_of_the_documentation_is_good() {
    let manual = include_str!("../../docs/configuration.md");
    let (_, part) = manual.split_once("\n## Pools and rules\n").unwrap();
    let (_, part) = part.split_once("```toml\n").unwrap();
    let (sample, _) = part.split_once("```").unwrap();
    let (head, _) = SAMPLE.split_once("[[service]]").unwrap();
    let config = Config::parse(&format!("{head}{sample}")).unwrap();
    assert_eq!(config.services[0].proxied.rules.len(), 3);
}
