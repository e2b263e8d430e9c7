//! What a reload says, and what two nodes say of each other.

use super::super::tests::{SAMPLE, changed};
use super::*;

fn parse(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// `section key: old -> new`, with a `!` where that needs a restart.
fn lines(from: &str, to: &str) -> Vec<String> {
    let changes = parse(from).difference(&parse(to));
    let none = || "-".to_owned();
    let line = |it: Change| {
        let mark = if it.restart.is_some() { "!" } else { "" };
        let (old, new) = (it.old.unwrap_or_else(none), it.new.unwrap_or_else(none));
        format!("{mark}{} {}: {old} -> {new}", it.section, it.key)
    };
    changes.into_iter().map(line).collect()
}

#[test]
fn each_change_is_named_with_what_was_and_what_is() {
    let cases: [(&str, &str, &[&str]); 16] = [
        (
            "weight = 2",
            "weight = 3",
            &["service web backend b2.weight: 2 -> 3"],
        ),
        (
            "198.51.100.21:8080",
            "198.51.100.29:8080",
            &["service web backend b1.address: 198.51.100.21:8080 -> 198.51.100.29:8080"],
        ),
        (
            "name = \"b1\"",
            "name = \"b9\"",
            &[
                "service web backend b1.address: 198.51.100.21:8080 -> -",
                "service web backend b1.weight: 1 -> -",
                "service web backend b9.address: - -> 198.51.100.21:8080",
                "service web backend b9.weight: - -> 1",
            ],
        ),
        (
            "\"round_robin\"",
            "\"least_connections\"",
            &["service web balance: round_robin -> least_connections"],
        ),
        (
            "\"round_robin\"",
            "\"round_robin\"\nidle_timeout = \"2m\"",
            &["service web idle_timeout: 5m -> 2m"],
        ),
        ("rise = 2", "rise = 3", &["service web health.rise: 2 -> 3"]),
        (
            "\"round_robin\"",
            "\"round_robin\"\nallow = [\"203.0.113.0/24\"]",
            &["service web allow: - -> [203.0.113.0/24]"],
        ),
        (
            "\"round_robin\"",
            "\"round_robin\"\nqueue_size = 7",
            &["service web queue_size: 0 -> 7"],
        ),
        (
            "name = \"edge\"",
            "name = \"rim\"",
            &["!cluster name: edge -> rim"],
        ),
        (
            "cluster.key\"",
            "other.key\"",
            &["!cluster key_file: /etc/tandem/cluster.key -> /etc/tandem/other.key"],
        ),
        (
            "\"192.0.2.12\"",
            "\"192.0.2.13\"",
            &["!node lb2 addresses: [192.0.2.12] -> [192.0.2.13]"],
        ),
        (
            "\"100ms\"",
            "\"200ms\"",
            &[
                "!election dead_man: 240ms -> 480ms",
                "!election heartbeat: 100ms -> 200ms",
            ],
        ),
        (
            "preempt = false",
            "preempt = true",
            &["!election preempt: false -> true"],
        ),
        (
            "\"eth0\"",
            "\"eth1\"",
            &["!vip 192.0.2.100 interface: eth0 -> eth1"],
        ),
        (
            "\"192.0.2.100:80\"",
            "\"192.0.2.100:81\"",
            &["!service web listen: [192.0.2.100:80] -> [192.0.2.100:81]"],
        ),
        (
            "[election]",
            "[proxy]\ndrain_timeout = \"1m\"\n[election]",
            &["proxy drain_timeout: 5m -> 1m"],
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(lines(SAMPLE, &changed(SAMPLE, from, to)), expected, "{to}");
        let back = lines(&changed(SAMPLE, from, to), SAMPLE);
        assert_eq!(back.len(), expected.len(), "{to}: the way back");
    }
}

#[test]
fn what_means_the_same_does_not_differ() {
    let (head, backends) = SAMPLE.split_once("[[service.backend]]").unwrap();
    let (first, second) = backends.split_once("[[service.backend]]").unwrap();
    let turned = format!("{head}[[service.backend]]{second}[[service.backend]]{first}");
    for same in [
        turned,
        format!("# A comment.\n{SAMPLE}"),
        changed(SAMPLE, "\"1s\"", "\"1000ms\""),
    ] {
        assert_eq!(lines(SAMPLE, &same), Vec::<String>::new());
    }
}

/// A service more or less is told with all its keys, each of which needs a restart.
#[test]
fn a_whole_service_needs_a_restart() {
    let other = "[[service]]\nname = \"api\"\nlisten = [\"192.0.2.100:81\"]\n\
                 [[service.backend]]\nname = \"a1\"\naddress = \"198.51.100.21:8081\"\n";
    let more = lines(SAMPLE, &format!("{SAMPLE}{other}"));
    assert!(
        more.contains(&"!service api listen: - -> [192.0.2.100:81]".to_owned()),
        "{more:?}"
    );
    assert!(
        more.iter().all(|line| line.starts_with("!service api ")),
        "{more:?}"
    );
}

fn peers(ours: &str, theirs: &str) -> Vec<String> {
    differing(&parse(ours).marks, &parse(theirs).marks)
}

#[test]
fn two_nodes_name_what_they_differ_in() {
    let none = Vec::<String>::new();
    assert_eq!(peers(SAMPLE, SAMPLE), none);
    assert_eq!(
        peers(SAMPLE, &changed(SAMPLE, "cluster.key\"", "other.key\"")),
        none,
        "each has its own"
    );
    let theirs = changed(
        &changed(SAMPLE, "weight = 2", "weight = 3"),
        "preempt = false",
        "preempt = true",
    );
    assert_eq!(
        peers(SAMPLE, &theirs),
        ["election: preempt", "service web: backend b2.weight"]
    );
    let theirs = changed(SAMPLE, "name = \"web\"", "name = \"www\"");
    assert_eq!(
        peers(SAMPLE, &theirs),
        [
            "service web: only here",
            "service www: only the peer has it"
        ]
    );
    let theirs = changed(SAMPLE, "name = \"b1\"", "name = \"b9\"");
    let theirs = changed(&theirs, "weight = 2", "weight = 3");
    assert_eq!(
        peers(SAMPLE, &theirs),
        [
            "service web: backend b1.address, backend b1.weight, backend b2.weight, backend b9.address and 1 more"
        ]
    );
}

/// One of two has so many settings that it tells sections only.
#[test]
fn sections_are_compared_where_there_are_too_many_keys() {
    let mut large = SAMPLE.to_owned();
    for n in 0..1_020 {
        let (name, port) = (format!("x{n}"), 1_000 + n);
        large += &format!(
            "[[service.backend]]\nname = \"{name}\"\naddress = \"198.51.100.30:{port}\"\ncheck_port = 7\nmax_connections = 9\n"
        );
    }
    let marks = parse(&large).marks;
    assert!(
        marks.iter().all(|mark| mark.key.is_empty()) && marks.len() < 20,
        "{}",
        marks.len()
    );
    assert_eq!(peers(&large, &large), Vec::<String>::new());
    assert_eq!(peers(SAMPLE, &large), ["service web"]);
    assert_eq!(peers(&large, SAMPLE), ["service web"]);
}
