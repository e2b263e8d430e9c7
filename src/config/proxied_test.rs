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
         inspect_timeout = \"1s\"\ninspect_bytes = 0x1000",
    );
    let config = Config::parse(&text).unwrap();
    let expected = Proxied {
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
    };
    assert_eq!(config.services[0].proxied, expected);
}

#[test]
fn written_defaults_mean_what_leaving_them_out_means() {
    let long =
        with("accept_proxy_timeout = \"3s\"\ninspect_timeout = \"5s\"\ninspect_bytes = 16384");
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
