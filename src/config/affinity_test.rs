//! Affinity: what its keys mean, and what is said if they contradict each other.

use std::collections::BTreeSet;
use std::time::Duration;

use super::mistakes_test::{complaints, explained};
use super::tests::{SAMPLE, sample_with};
use super::*;

/// The sample with this section behind the service's keys.
fn with(lines: &str) -> String {
    sample_with(
        "[service.health]",
        &format!("[service.affinity]\n{lines}\n[service.health]"),
    )
}

fn affinity(lines: &str) -> Affinity {
    let config = Config::parse(&with(lines)).unwrap();
    config.services[0].proxied.affinity.clone().unwrap()
}

const TABLE: StickHow = StickHow::Table {
    size: 100_000,
    ttl: Duration::from_secs(1_800),
    fallback: StickFallback::Reassign,
};

#[test]
fn every_key_is_known() {
    let source = |prefix4, prefix6| StickBy::Source { prefix4, prefix6 };
    let how = StickHow::Table {
        size: 5,
        ttl: Duration::from_secs(7),
        fallback: StickFallback::Refuse,
    };
    let rows = [
        ("by = \"source\"", source(32, 64), TABLE),
        (
            "by = \"source\"\nprefix4 = 24\nprefix6 = 48",
            source(24, 48),
            TABLE,
        ),
        (
            "by = \"cookie\"\ncookie = \"SID\"\nsize = 5\nttl = \"7s\"\nfallback = \"refuse\"",
            StickBy::Cookie("SID".into()),
            how,
        ),
        (
            "by = \"session_id\"\ntable = true",
            StickBy::SessionId,
            TABLE,
        ),
        ("by = \"sni\"", StickBy::Sni, TABLE),
        ("by = \"rdp_cookie\"", StickBy::RdpCookie, TABLE),
    ];
    for (lines, by, how) in rows {
        assert_eq!(affinity(lines), Affinity { by, how }, "{lines}");
    }
    let hashed = with("by = \"sni\"\ntable = false").replace("round_robin", "maglev");
    let config = Config::parse(&hashed).unwrap();
    let by = StickBy::Sni;
    let how = StickHow::Hash;
    assert_eq!(
        config.services[0].proxied.affinity,
        Some(Affinity { by, how })
    );
}

#[test]
fn both_nodes_must_agree_on_every_key() {
    let mut hashes = BTreeSet::from([Config::parse(SAMPLE).unwrap().hash]);
    let lines = [
        "by = \"source\"",
        "by = \"source\"\nprefix4 = 24",
        "by = \"source\"\nprefix6 = 48",
        "by = \"source\"\nsize = 5",
        "by = \"source\"\nttl = \"5s\"",
        "by = \"source\"\nfallback = \"refuse\"",
        "by = \"sni\"",
        "by = \"session_id\"",
        "by = \"rdp_cookie\"",
        "by = \"cookie\"\ncookie = \"A\"",
        "by = \"cookie\"\ncookie = \"B\"",
    ];
    for line in lines {
        let config = Config::parse(&with(line)).unwrap();
        assert!(hashes.insert(config.hash), "{line}");
    }
    let written = "by = \"source\"\nprefix4 = 32\nprefix6 = 64\nsize = 100000\nttl = \"30m\"\n\
                   fallback = \"reassign\"\ntable = true";
    assert!(!hashes.insert(Config::parse(&with(written)).unwrap().hash));
}

/// As in `mistakes_test`.
const MISTAKES: &str = r#"
by = "source" -> by = "cookies" => 28:6: service[0].affinity.by: unknown word `cookies`; did you mean "cookie"?
by = "source" ->  => 27:1: service[0].affinity.by: missing; add by = "source"
by = "source" -> by = "cookie" => 28:6: service[0].affinity.by: by = "cookie" without the cookie's name; add cookie = "SESSION"
by = "source" -> by = "cookie"⏎cookie = "a b" => 29:10: service[0].affinity.cookie: `a b` is no name of a cookie; write the name alone
by = "source" -> by = "sni"⏎cookie = "a" => 29:10: service[0].affinity.cookie: by = "sni" has no `cookie`; remove it, or write by = "cookie"
by = "source" -> by = "sni"⏎prefix4 = 24 => 29:11: service[0].affinity.prefix4: by = "sni" has no `prefix4`; remove it, or write by = "source"
by = "source" -> by = "source"⏎prefix6 = 0 => 29:11: service[0].affinity.prefix6: 0 is out of range; write a whole number from 1 to 128
by = "source" -> by = "source"⏎size = 0 => 29:8: service[0].affinity.size: 0 is out of range; write a whole number from 1 to 1000000
by = "source" -> by = "source"⏎ttl = "8d" => 29:7: service[0].affinity.ttl: 8days is out of range; write a duration from "1s" to "7days"
by = "source" -> by = "source"⏎fallback = "wait" => 29:12: service[0].affinity.fallback: unknown word `wait`; write "reassign" or "refuse"
by = "source" -> by = "source"⏎table = false => 26:11: service[0].balance: affinity with table = false needs a scheduler that hashes, and `round_robin` does not; write balance = "maglev" or "source_hash", or table = true
"#;

#[test]
fn one_mistake_is_one_complaint_at_its_place() {
    explained(&with("by = \"source\""), MISTAKES);
}

#[test]
fn without_a_table_nothing_is_kept() {
    for line in ["size = 5", "ttl = \"5s\"", "fallback = \"refuse\""] {
        let text = with(&format!("by = \"source\"\ntable = false\n{line}"));
        let said = complaints(&text.replace("round_robin", "maglev"));
        let key = line.split(' ').next().unwrap();
        let expected = format!("table = false has no `{key}`; remove it, or write table = true");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with(&expected), "{said:?}");
    }
}

#[test]
fn the_kernel_mode_has_no_affinity() {
    let text = with("by = \"source\"").replace("balance = ", "mode = \"kernel\"\nbalance = ");
    let said = complaints(&text);
    assert_eq!(said.len(), 1, "{said:?}");
    let expected = "service[0].affinity: mode = \"kernel\" has no `affinity`; \
                    write mode = \"proxy\" in this service, or remove the key";
    assert!(said[0].ends_with(expected), "{said:?}");
}
