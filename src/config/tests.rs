//! Good files, bad files, and what is said about the bad ones.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::model::{BackendId, Scheduler, ServiceId, Weight};

/// As an operator writes it.
pub(super) const SAMPLE: &str = r#"[cluster]
name = "edge"
key_file = "/etc/tandem/cluster.key"      # made by `tandem keygen`, mode 0600

[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11"]                # one per heartbeat path, same order on both nodes
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]

[election]
heartbeat = "100ms"
misses = 3
preempt = false

[[vip]]
address = "192.0.2.100/24"
interface = "eth0"

[[service]]
name = "web"
listen = ["192.0.2.100:80"]
balance = "round_robin"
[service.health]
kind = "tcp"
interval = "1s"
timeout = "500ms"
rise = 2
fall = 3
[[service.backend]]
name = "b1"
address = "198.51.100.21:8080"
[[service.backend]]
name = "b2"
address = "198.51.100.22:8080"
weight = 2
"#;

/// The sample with one passage written differently.
pub(super) fn sample_with(from: &str, to: &str) -> String {
    changed(SAMPLE, from, to)
}

/// The same of any sample.
pub(super) fn changed(sample: &str, from: &str, to: &str) -> String {
    assert_eq!(sample.matches(from).count(), 1, "{from:?} is ambiguous");
    sample.replace(from, to)
}

fn hash(text: &str) -> ConfigHash {
    Config::parse(text).unwrap().hash
}

#[test]
fn the_sample_means_what_it_says() {
    let config = Config::parse(SAMPLE).unwrap();
    assert_eq!(config.cluster.name, "edge");
    assert_eq!(
        config.cluster.key_file_place,
        Place {
            line: 3,
            column: 12
        }
    );
    assert_eq!(config.node_named("lb2"), Some(NodeId::Second));
    assert_eq!(config.node(NodeId::First).priority, Priority(200));
    assert_eq!(config.paths().collect::<Vec<_>>(), [PathId(0)]);
    assert_eq!(config.interfaces(), BTreeSet::from(["eth0"]));
    let service = &config.services[0];
    assert_eq!(service.id, ServiceId::of("web"));
    assert_eq!(service.balance, Scheduler::RoundRobin.into());
    let health = service.health.as_ref().unwrap();
    assert_eq!(health.timeout, Duration::from_millis(500));
    assert_eq!(service.backends[1].id, BackendId::of("web", "b2"));
    assert_eq!(service.backends[1].weight, Weight(2));
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = r#"
        [cluster]
        name = "edge"
        key_file = "/etc/tandem/cluster.key"
        [[node]]
        name = "lb1"
        priority = 254
        addresses = ["2001:db8::11", "192.0.2.11"]
        [[node]]
        name = "lb2"
        priority = 1
        addresses = ["2001:db8::12", "192.0.2.12"]
        [[vip]]
        address = "2001:db8::100/64"
        interface = "eth0"
        [[service]]
        name = "web"
        listen = ["[2001:db8::100]:80"]
        [service.health]
        kind = "tcp"
        [[service.backend]]
        name = "b1"
        address = "198.51.100.21:8080"
    "#;
    let short = Config::parse(text).unwrap();
    let spelled = text
        .replace("[[vip]]", "[election]\nheartbeat = \"100ms\"\nmisses = 3\npreempt = false\npreempt_delay = \"0s\"\ndead_man = \"240ms\"\n[proxy]\nworkers = 0\nmax_connections = 100_000\ndrain_timeout = \"5m\"\n[[vip]]")
        .replace("[[node]]\n        name = \"lb1\"", "port = 7373\ndevice = \"tandem0\"\nrelay = true\n[[node]]\nname = \"lb1\"")
        .replace("[service.health]", "balance = \"round_robin\"\nconnect_timeout = \"2s\"\nidle_timeout = \"5m\"\nmax_connections = 50000\n[service.health]\ninterval = \"2s\"\ntimeout = \"1s\"\nrise = 2\nfall = 3")
        .replace("[[service.backend]]", "[[service.backend]]\nweight = 1");
    assert_eq!(short, Config::parse(&spelled).unwrap());
}

#[test]
fn the_fingerprint_is_of_the_meaning() {
    let ways_to_say_the_same = [
        SAMPLE.replace("# made by `tandem keygen`, mode 0600", ""),
        SAMPLE.replace(" = ", "="),
        SAMPLE.replace('\n', "\r\n"),
        format!("\u{feff}{SAMPLE}"),
        sample_with("misses = 3\npreempt = false\n", ""),
        sample_with("rise = 2\nfall = 3\n", "fall = 3\nrise = 0x2\n"),
        sample_with("\"1s\"", "\"1000ms\""),
        sample_with("/etc/tandem/cluster.key", "/root/key"),
        sample_with("name = \"b1\"", "weight = 1\nname = \"b1\""),
        format!("{SAMPLE}[proxy]\nworkers = 0\n"),
        SAMPLE
            .replace("\"b1\"", "\"b0\"")
            .replace("\"b2\"", "\"b1\"")
            .replace("\"b0\"", "\"b2\"")
            .replace(".21:", ".20:")
            .replace(".22:", ".21:")
            .replace(".20:", ".22:")
            .replace("weight = 2\n", "")
            .replace(".22:8080\"\n", ".22:8080\"\nweight = 2\n"),
    ];
    for text in &ways_to_say_the_same {
        assert_eq!(hash(text), hash(SAMPLE), "{text}");
    }

    let other_meanings = [
        ("\"edge\"", "\"core\""),
        ("priority = 200", "priority = 201"),
        ("\"192.0.2.12\"", "\"192.0.2.13\""),
        ("\"100ms\"", "\"200ms\""),
        ("misses = 3", "misses = 4"),
        ("preempt = false", "preempt = true"),
        ("preempt = false", "preempt_delay = \"1s\""),
        ("preempt = false", "dead_man = \"200ms\""),
        ("100/24", "100/25"),
        ("\"eth0\"", "\"eth1\""),
        ("\"web\"", "\"api\""),
        (
            "[\"192.0.2.100:80\"]",
            "[\"192.0.2.100:80\", \"192.0.2.100:81\"]",
        ),
        ("\"round_robin\"", "\"random\""),
        ("\"round_robin\"", "{ scheduler = \"maglev\" }"),
        (
            "\"round_robin\"",
            "{ scheduler = \"maglev\", table_size = 251 }",
        ),
        (
            "\"round_robin\"",
            "{ scheduler = \"maglev\", bounded_load = 1.5 }",
        ),
        (
            "\"round_robin\"",
            "{ scheduler = \"maglev\", hash_key = \"k\" }",
        ),
        ("\"round_robin\"", "{ scheduler = \"adaptive\" }"),
        (
            "\"round_robin\"",
            "{ scheduler = \"adaptive\", decay = \"1s\" }",
        ),
        (
            "\"round_robin\"",
            "{ scheduler = \"adaptive\", floor = 0.5 }",
        ),
        ("weight = 2", "weight = 2\nmax_connections = 5"),
        ("balance", "connect_timeout = \"1s\"\nbalance"),
        ("balance", "idle_timeout = \"1m\"\nbalance"),
        ("balance", "max_connections = 1\nbalance"),
        ("interval = \"1s\"", "interval = \"2s\""),
        ("\"500ms\"", "\"400ms\""),
        ("rise = 2", "rise = 3"),
        ("fall = 3", "fall = 4"),
        ("\"b1\"", "\"b3\""),
        (".21:8080", ".21:8081"),
        ("weight = 2", "weight = 3"),
        ("weight = 2", "weight = 2\n[proxy]\nworkers = 1"),
        ("weight = 2", "weight = 2\n[proxy]\nmax_connections = 1"),
        (
            "[[node]]\nname = \"lb1\"",
            "port = 1\n[[node]]\nname = \"lb1\"",
        ),
        (
            "[[node]]\nname = \"lb1\"",
            "device = \"d\"\n[[node]]\nname = \"lb1\"",
        ),
        (
            "[[node]]\nname = \"lb1\"",
            "relay = false\n[[node]]\nname = \"lb1\"",
        ),
        ("weight = 2", "weight = 2\n[proxy]\ndrain_timeout = \"0s\""),
    ];
    let mut hashes = BTreeSet::from([hash(SAMPLE)]);
    for (from, to) in other_meanings {
        assert!(
            hashes.insert(hash(&sample_with(from, to))),
            "{from} -> {to}"
        );
    }
    let turned = SAMPLE
        .replace("192.0.2.11", "x")
        .replace("192.0.2.12", "192.0.2.11");
    assert!(hashes.insert(hash(&turned.replace('x', "192.0.2.12"))));
    // Two versions of the program with one file must agree.
    assert_eq!(hash(SAMPLE).to_string(), "c3f809533a11e7c8");
}

#[test]
fn the_order_of_backends_has_a_meaning_where_they_are_filled_in_it() {
    for (scheduler, same) in [("first", false), ("maglev", true)] {
        let one = sample_with("round_robin", scheduler).replace("weight = 2\n", "");
        let other = one
            .replace("\"b1\"", "@")
            .replace("\"b2\"", "\"b1\"")
            .replace('@', "\"b2\"")
            .replace(".21:", "@")
            .replace(".22:", ".21:")
            .replace('@', ".22:");
        assert_eq!(hash(&one) == hash(&other), same, "{scheduler}");
    }
}

#[test]
fn a_scheduler_is_a_word_or_a_table() {
    let of = |balance: &str| {
        let text = sample_with("\"round_robin\"", balance);
        Config::parse(&text).unwrap().services.remove(0).balance
    };
    assert_eq!(of("{ scheduler = \"maglev\" }"), of("\"maglev\""));
    let all = r#"{ scheduler = "maglev", table_size = 251, bounded_load = 1.25, hash_key = "k" }"#;
    let all = of(all);
    assert_eq!((all.table_size, all.bounded_load), (251, Some(125)));
    assert_eq!(all.hash_key, "k");
    let measured = of(r#"{ scheduler = "adaptive", decay = "3s", floor = 0.05 }"#);
    assert_eq!((measured.decay.as_secs(), measured.floor), (3, 5));
    assert_eq!(of("\"maglev\"").table_size, 65_537);
}

#[test]
fn maglev_needs_places_for_all() {
    let backends: String = (0..30)
        .map(|n| {
            format!(
                "[[service.backend]]\nname = \"x{n}\"\naddress = \"198.51.100.1:{}\"\n",
                n + 1
            )
        })
        .collect();
    let text = sample_with(
        "\"round_robin\"",
        r#"{ scheduler = "maglev", table_size = 251 }"#,
    );
    let said = Config::parse(&(text + &backends)).unwrap_err().to_string();
    assert!(
        said.contains("251 places are too few for 32 backends"),
        "{said}"
    );
}

#[test]
fn every_mistake_comes_at_once_and_in_order() {
    let mut text = SAMPLE
        .replace("name = \"edge\"", "nmae = \"edge\"")
        .replace("priority = 100", "priority = 255")
        .replace("heartbeat = \"100ms\"", "heartbeat = 100")
        .replace("192.0.2.100/24", "192.0.2.0/24")
        .replace("timeout = \"500ms\"", "timeout = \"5s\"")
        .replace("name = \"b2\"", "name = \"b1\"");
    writeln!(text, "[proxi]").unwrap();
    let errors = Config::parse(&text).unwrap_err();
    let places: Vec<_> = errors
        .0
        .iter()
        .map(|error| (error.place.line, error.place.column, error.key.as_str()))
        .collect();
    let expected = [
        (1, 1, "cluster.name"),
        (2, 1, "cluster.nmae"),
        (11, 12, "node[1].priority"),
        (15, 13, "election.heartbeat"),
        (20, 11, "vip[0].address"),
        (30, 11, "service[0].health.timeout"),
        (37, 8, "service[0].backend[1].name"),
        (40, 2, "proxi"),
    ];
    assert_eq!(places, expected, "{errors}");
    assert_eq!(errors.to_string().lines().count(), expected.len());
}

#[test]
fn a_mistake_is_shown_in_its_line() {
    let text = sample_with("weight = 2", "wieght = 2");
    let errors = Config::parse(&text).unwrap_err();
    let shown = errors.render("tandem.toml", &text, false);
    let expected = "\
error: service[0].backend[1].wieght: unknown key
  --> tandem.toml:39:1
   |
39 | wieght = 2
   | ^^^^^^
   |
   = help: did you mean `weight`?";
    assert_eq!(shown, expected);
    let colored = errors.render("tandem.toml", &text, true);
    assert!(colored.contains("\x1b["), "{colored}");
    let later = ConfigError {
        place: Place {
            line: 3,
            column: 12,
        },
        key: "cluster.key_file".into(),
        what: "no such file".into(),
        remedy: "make one".into(),
    };
    let shown = ConfigErrors(vec![later]).render("tandem.toml", SAMPLE, false);
    assert!(shown.contains("^^^^^^^^^^^^^^^^^^^^^^^^^\n"), "{shown}");
}

/// Keys that the parser knows, by section: it lists them when it meets one that it does not know.
fn known_keys() -> Vec<(&'static str, Vec<String>)> {
    let sections = [
        ("[cluster]", "[cluster]"),
        ("[[node]]\nname = \"lb1\"", "[[node]]"),
        ("[election]", "[election]"),
        ("[[vip]]", "[[vip]]"),
        ("[[service]]", "[[service]]"),
        ("[service.health]", "[service.health]"),
        ("[[service.backend]]\nname = \"b1\"", "[[service.backend]]"),
        ("weight = 2\n", "[[service.pool]]"),
        ("weight = 2\n", "[[service.rule]]"),
        ("fall = 3\n", "[service.agent]"),
        ("weight = 2\n", "[[service.discover]]"),
        ("weight = 2\n", "[dns]"),
        ("weight = 2\n", "[health]"),
        ("weight = 2\n", "[proxy]"),
        ("weight = 2\n", "[metrics]"),
        ("weight = 2\n", "[notify]"),
        ("weight = 2\n", "[kernel]"),
    ];
    let keys = |anchor: &str, section: &str| {
        let header = if anchor.starts_with('[') {
            anchor
        } else {
            section
        };
        let text = sample_with(anchor, &format!("{header}\n\"?\" = 1\n"));
        let errors = Config::parse(&text).unwrap_err();
        let unknown = errors.0.iter().find(|error| error.what == "unknown key");
        let remedy = &unknown.expect(section).remedy;
        let (_, keys) = remedy.split_once("known here: ").unwrap();
        keys.split(", ").map(str::to_owned).collect()
    };
    sections
        .map(|(anchor, section)| (section, keys(anchor, section)))
        .into()
}

#[test]
fn the_documentation_has_every_key_and_no_other() {
    let manual = include_str!("../../docs/configuration.md");
    for sample in [SAMPLE, kernel_test::SAMPLE] {
        assert!(manual.contains(sample.trim_end()), "the samples are in it");
    }
    for (section, keys) in known_keys() {
        let heading = format!("## `{section}`\n");
        let (_, rest) = manual.split_once(&heading).expect(section);
        let part = rest.split("\n## ").next().unwrap();
        let rows: Vec<_> = part
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(str::to_owned)
            .collect();
        // The keys of sub-sections have headings of their own.
        let plain: Vec<_> = keys
            .into_iter()
            .filter(|key| {
                section != "[[service]]"
                    || ![
                        "affinity", "agent", "health", "backend", "discover", "pool", "rule",
                    ]
                    .contains(&key.as_str())
            })
            .collect();
        assert_eq!(rows, plain, "{section}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutilated_text_never_panics(
        cuts in prop::collection::vec((0..SAMPLE.len(), 0..30_usize, "(?s)[\\PC\n\t\"\\[\\]=.0-9]{0,12}"), 1..5),
        color: bool,
    ) {
        let mut text = SAMPLE.to_owned();
        for (at, length, new) in cuts {
            // The sample is ASCII, but what was put into it is not.
            let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let range = boundary(at)..boundary(at + length);
            text.replace_range(range, &new);
        }
        if let Err(errors) = Config::parse(&text) {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(errors.0.is_sorted_by_key(|error| error.place));
            prop_assert!(errors.render("tandem.toml", &text, color).contains("tandem.toml"));
        }
    }

    #[test]
    fn any_value_anywhere_is_accepted_or_explained(
        line in 0..SAMPLE.lines().count(),
        value in prop_oneof![
            "-?[0-9]{1,40}", "[0-9]{1,25}[a-zµ]{0,8}", "\"[0-9]{1,25}[a-z]{0,8}\"", "[0-9]\\.[0-9]", "\\[.{0,8}\\]",
            "\"[0-9a-f.:/\\[\\]%]{0,24}\"", "\"\\PC{0,80}\"",
        ],
    ) {
        let text: Vec<_> = SAMPLE
            .lines()
            .enumerate()
            .map(|(n, text)| match text.split_once(" = ") {
                Some((key, _)) if n == line => format!("{key} = {value}"),
                _ => text.to_owned(),
            })
            .collect();
        if let Err(errors) = Config::parse(&text.join("\n")) {
            prop_assert!(errors.0.iter().all(|error| !error.what.is_empty() && !error.remedy.is_empty()));
            prop_assert_eq!(errors.to_string().lines().count(), errors.0.len());
        }
    }
}

#[test]
fn whom_a_node_tells_is_its_own_affair() {
    let text = format!(
        "{SAMPLE}\n[metrics]\nlisten = [\"127.0.0.1:9700\", \"192.0.2.11:9700\"]\n\
         [notify]\ncommand = [\"/usr/local/bin/changed\", \"-v\"]\n"
    );
    let (with, without) = (
        Config::parse(&text).unwrap(),
        Config::parse(SAMPLE).unwrap(),
    );
    assert_eq!(with.hash, without.hash);
    assert_eq!(with.metrics.listen.len(), 2);
    let notify = with.notify.unwrap();
    assert_eq!(notify.command.argv, ["/usr/local/bin/changed", "-v"]);
    assert_eq!(notify.timeout, Duration::from_secs(10));
    assert_eq!((without.metrics.listen.len(), without.notify), (0, None));
    let one = format!("{SAMPLE}\n[metrics]\nlisten = \"[::1]:9700\"\n");
    assert_eq!(Config::parse(&one).unwrap().metrics.listen.len(), 1);
    for (section, wrong) in [
        ("[metrics]\nlisten = \"9700\"", "no address"),
        ("[metrics]\nlisten = \"127.0.0.1:0\"", "port 0"),
        ("[notify]\ncommand = [\"changed\"]", "at the root"),
        ("[notify]\ncommand = [\"/x\"]\ntimeout = \"2h\"", "timeout"),
    ] {
        let errors = Config::parse(&format!("{SAMPLE}\n{section}\n")).unwrap_err();
        assert!(errors.to_string().contains(wrong), "{errors}");
    }
}
