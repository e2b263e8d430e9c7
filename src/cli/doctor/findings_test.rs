//! Each fact, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{PathFacts, Settings, Tcp, Udp};
use super::*;
use crate::model::{Mac, Role};
use crate::net::kernel::arp::Arp;
use crate::status::{PathStatus, Status};

const CONFIG: &str = r#"
[cluster]
name = "pair"
key_file = "/etc/tandem/cluster.key"
[[node]]
name = "lb1"
priority = 150
addresses = ["192.0.2.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]
[[vip]]
address = "192.0.2.100/24"
interface = "eth0"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[[service.backend]]
name = "b1"
address = "198.51.100.21:8080"
"#;
const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn link(name: &str) -> Seen {
    Seen {
        name: name.into(),
        index: 2,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        ethernet: true,
        on: true,
        up: true,
        mtu: 1_500,
    }
}

fn settings(announce: u8, ignore: u8, rp_filter: u8) -> Settings {
    let arp = Arp { announce, ignore };
    Settings { arp, rp_filter }
}

/// A host on which all is well.
fn well() -> Facts {
    Facts {
        links: Ok(vec![link("eth0")]),
        settings: [("eth0".to_owned(), settings(2, 0, 0))].into(),
        answers: [("eth0".to_owned(), Ok(BTreeMap::new()))].into(),
        paths: vec![path(Udp::Heard, None)],
        program: Some(Program::default()),
        timer: Some((Duration::from_micros(200), Duration::from_micros(60))),
        ..Facts::default()
    }
}

fn path(udp: Udp, tcp: Option<Tcp>) -> PathFacts {
    PathFacts {
        local: "192.0.2.11:7373".parse().unwrap(),
        remote: "192.0.2.12:7373".parse().unwrap(),
        udp,
        tcp,
    }
}

/// The worst of one check, and all that is said in it.
fn judged(config: &str, facts: &Facts, check: &str) -> (Severity, String) {
    let config = Config::parse(config).unwrap();
    let found = findings(Some((&config, NodeId::First)), facts);
    let found = found.iter().filter(|finding| finding.check == check);
    let worst = found.clone().map(|finding| finding.severity).max();
    let text: Vec<String> = found
        .map(|f| format!("{} {}", f.what, f.remedy.as_deref().unwrap_or_default()))
        .collect();
    (worst.expect(check), text.join("\n"))
}

fn says(facts: &Facts, check: &str, severity: Severity, word: &str) {
    let (worst, text) = judged(CONFIG, facts, check);
    assert_eq!(worst, severity, "{check}: {text}");
    assert!(text.contains(word), "{word:?} is not in {text:?}");
}

#[test]
fn all_is_well() {
    let config = Config::parse(CONFIG).unwrap();
    let found = findings(Some((&config, NodeId::First)), &well());
    let bad: Vec<_> = found
        .iter()
        .filter(|f| f.severity > Severity::Note)
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    for check in [
        "node",
        "capabilities",
        "tun",
        "interface",
        "mtu",
        "arp",
        "vip",
        "peer",
        "kernel",
        "real-time",
        "timer",
        "clock",
    ] {
        assert!(
            found.iter().any(|finding| finding.check == check),
            "{check}"
        );
    }
    // Whatever is bad says what to do.
    let without = findings(None, &Facts::default());
    for finding in without.iter().chain(&found) {
        assert_eq!(
            finding.remedy.is_some(),
            finding.severity > Severity::Fine,
            "{finding:?}"
        );
    }
}

#[test]
fn the_process_and_its_device() {
    let mut facts = well();
    facts.lacking = vec!["CAP_NET_ADMIN", "CAP_NET_RAW"];
    facts.tun = Tun::Fails("No such file or directory".into());
    says(
        &facts,
        "capabilities",
        Severity::Error,
        "CAP_NET_ADMIN, CAP_NET_RAW",
    );
    says(&facts, "tun", Severity::Error, "modprobe tun");
    facts.tun = Tun::Closed(0o600);
    says(&facts, "tun", Severity::Warning, "chmod 666");
    facts.real_time = Err("no real-time priority: EPERM; set LimitRTPRIO=40".into());
    says(&facts, "real-time", Severity::Warning, "LimitRTPRIO");
}

#[test]
fn interfaces() {
    let with = |change: fn(&mut Seen)| {
        let mut facts = well();
        change(&mut facts.links.as_mut().unwrap()[0]);
        facts
    };
    says(
        &with(|l| (l.on, l.up) = (false, false)),
        "interface",
        Severity::Error,
        "ip link set eth0 up",
    );
    says(
        &with(|l| l.up = false),
        "interface",
        Severity::Error,
        "no carrier",
    );
    says(
        &with(|l| l.ethernet = false),
        "interface",
        Severity::Error,
        "no Ethernet",
    );
    says(
        &with(|l| l.name = "ens3".into()),
        "interface",
        Severity::Error,
        "there are ens3",
    );
    says(&with(|l| l.mtu = 400), "mtu", Severity::Error, "400 bytes");
    let mut facts = well();
    facts.links = Err("EPERM".into());
    says(&facts, "interface", Severity::Error, "EPERM");
}

#[test]
fn what_the_kernel_says_in_arp() {
    let mut facts = well();
    facts.links.as_mut().unwrap().push(link("eth1"));
    facts.settings.insert("eth1".into(), settings(2, 0, 0));
    says(
        &facts,
        "arp",
        Severity::Note,
        "net.ipv4.conf.eth1.arp_ignore=1",
    );
    facts.settings = [("eth0".to_owned(), settings(0, 0, 1))].into();
    says(
        &facts,
        "arp",
        Severity::Warning,
        "net.ipv4.conf.eth0.arp_announce=2",
    );
    says(&facts, "rp_filter", Severity::Note, "rp_filter=2");
    let alone = CONFIG.replace("name = \"pair\"", "name = \"pair\"\nrelay = false");
    let config = Config::parse(&alone).unwrap();
    let found = findings(Some((&config, NodeId::First)), &facts);
    assert!(
        found.iter().all(|f| f.check != "arp"),
        "without the relay the VIP is on one node only: {found:?}"
    );
}

#[test]
fn ipv6_that_is_off() {
    let mut facts = well();
    facts.ipv6_off = true;
    let config = Config::parse(CONFIG).unwrap();
    let found = findings(Some((&config, NodeId::First)), &facts);
    assert!(found.iter().all(|f| f.check != "ipv6"), "nobody wants it");
    let six = CONFIG
        .replace("192.0.2.100/24", "2001:db8::100/64")
        .replace("192.0.2.100:80", "[2001:db8::100]:80");
    let (worst, text) = judged(&six, &facts, "ipv6");
    assert_eq!(worst, Severity::Error, "{text}");
}

#[test]
fn who_answers_for_the_vip() {
    let answered = |vip: &[Mac], peer: &[Mac], role: Option<Role>| {
        let mut facts = well();
        let set = |macs: &[Mac]| macs.iter().copied().collect::<BTreeSet<_>>();
        let answers = [("192.0.2.100", vip), ("192.0.2.12", peer)];
        let answers = answers.map(|(ip, macs)| (ip.parse().unwrap(), set(macs)));
        facts.answers = [("eth0".to_owned(), Ok(answers.into()))].into();
        facts.running = role.map(|role| {
            Box::new(Status {
                role,
                ..Status::default()
            })
        });
        facts
    };
    for (vip, peer, role, severity, word) in [
        (&[][..], &[PEER][..], None, Severity::Fine, "nobody"),
        (&[PEER], &[PEER], None, Severity::Fine, "the peer answers"),
        (
            &[PEER],
            &[PEER],
            Some(Role::Backup),
            Severity::Fine,
            "the peer answers",
        ),
        (
            &[PEER],
            &[PEER],
            Some(Role::Master),
            Severity::Error,
            "two masters",
        ),
        (&[], &[PEER], Some(Role::Master), Severity::Fine, "alone"),
        (
            &[],
            &[PEER],
            Some(Role::Backup),
            Severity::Warning,
            "nobody",
        ),
        (
            &[STRANGER],
            &[PEER],
            None,
            Severity::Error,
            "02:00:00:00:00:09",
        ),
        (
            &[PEER, STRANGER],
            &[PEER],
            Some(Role::Backup),
            Severity::Error,
            "02:00:00:00:00:09",
        ),
        (
            &[STRANGER],
            &[PEER],
            Some(Role::Master),
            Severity::Error,
            "neither",
        ),
        // The peer has no address there by which it could be told.
        (&[PEER], &[], None, Severity::Warning, "may be the peer"),
    ] {
        says(&answered(vip, peer, role), "vip", severity, word);
    }
    let mut facts = well();
    facts.answers = [("eth0".to_owned(), Err("EPERM".to_owned()))].into();
    says(&facts, "vip", Severity::Warning, "as root");
}

#[test]
fn the_way_to_the_peer_as_tried() {
    for (udp, tcp, severity, word) in [
        (Udp::Heard, None, Severity::Fine, "heartbeats come"),
        (Udp::Stranger, None, Severity::Error, "another key"),
        (Udp::Closed, None, Severity::Fine, "no node runs there yet"),
        (Udp::NoAddress, None, Severity::Error, "192.0.2.11"),
        (Udp::Fails("EPERM".into()), None, Severity::Error, "EPERM"),
        (
            Udp::Silent,
            Some(Tcp::Open),
            Severity::Error,
            "UDP port 7373",
        ),
        (
            Udp::Silent,
            Some(Tcp::Refused),
            Severity::Warning,
            "UDP and TCP 7373",
        ),
        (
            Udp::Silent,
            Some(Tcp::Silent),
            Severity::Warning,
            "switched off",
        ),
    ] {
        let mut facts = well();
        facts.paths = vec![path(udp, tcp)];
        says(&facts, "peer", severity, word);
    }
    // A host that answers for its address and not at the port has a firewall.
    let mut facts = well();
    facts.paths = vec![path(Udp::Silent, Some(Tcp::Silent))];
    let answers = [("192.0.2.12".parse().unwrap(), BTreeSet::from([PEER]))];
    facts.answers = [("eth0".to_owned(), Ok(answers.into()))].into();
    says(&facts, "peer", Severity::Error, "nothing comes back");
}

#[test]
fn the_way_to_the_peer_as_a_node_knows_it() {
    let running = |alive: [bool; 2], hears: bool, connected: bool| {
        let mut status = Status::default();
        status.peer.name = "lb2".into();
        status.peer.alive = alive.contains(&true);
        status.peer.hears_us = hears;
        status.replication.connected = connected;
        status.paths = alive
            .map(|alive| PathStatus {
                alive,
                ..PathStatus::default()
            })
            .into();
        let mut facts = well();
        facts.running = Some(Box::new(status));
        facts
    };
    for (alive, hears, connected, severity, word) in [
        ([true, true], true, true, Severity::Fine, "lb2 is heard"),
        ([true, false], true, true, Severity::Warning, "not heard"),
        (
            [false, false],
            false,
            false,
            Severity::Error,
            "let UDP and TCP 7373",
        ),
        ([true, true], false, true, Severity::Error, "does not hear"),
        ([true, true], true, false, Severity::Error, "no session"),
    ] {
        says(&running(alive, hears, connected), "peer", severity, word);
    }
    let mut facts = running([true, true], true, true);
    facts.running.as_mut().unwrap().counters.pauses = 2;
    says(&facts, "timer", Severity::Warning, "stood still 2 times");
    facts.running.as_mut().unwrap().fault = Some("eth0 is down".into());
    says(&facts, "node", Severity::Error, "eth0 is down");
    facts.running = None;
    facts.mute = Some("no answer within 10 s".into());
    says(&facts, "node", Severity::Warning, "no answer within 10 s");
}

#[test]
fn the_program_in_the_kernel() {
    let kernel = CONFIG.replace(
        "[[service.backend]]",
        "mode = \"kernel\"\n[[service.backend]]",
    );
    let fallback = kernel.replace(
        "mode = \"kernel\"",
        "mode = \"kernel\"\nfallback = \"proxy\"",
    );
    let fails = Program {
        fails: Some("this kernel cannot".into()),
        ..Program::default()
    };
    let no_pins = Program {
        no_pins: true,
        ..Program::default()
    };
    let late = Program {
        late: Some("it is noticed late".into()),
        ..Program::default()
    };
    for (config, program, severity) in [
        (CONFIG, Program::default(), Severity::Fine),
        (CONFIG, late, Severity::Note),
        (CONFIG, fails.clone(), Severity::Warning),
        (CONFIG, no_pins.clone(), Severity::Warning),
        (&fallback, fails.clone(), Severity::Warning),
        (&kernel, fails, Severity::Error),
        (&kernel, no_pins, Severity::Error),
    ] {
        let mut facts = well();
        facts.program = Some(program);
        let (worst, text) = judged(config, &facts, "kernel");
        assert_eq!(worst, severity, "{text}");
    }
    let mut facts = well();
    let mut status = Status::default();
    (status.relay.wanted, status.relay.lacking) = (true, Some("no right".into()));
    facts.running = Some(Box::new(status));
    says(&facts, "kernel", Severity::Warning, "no right");
}

#[test]
fn time_is_measured_against_the_configured_interval() {
    // Heartbeats every 100 ms, death after 240 ms.
    for (worst, severity) in [
        (1, Severity::Fine),
        (60, Severity::Warning),
        (300, Severity::Error),
    ] {
        let mut facts = well();
        facts.timer = Some((Duration::from_millis(worst), Duration::ZERO));
        says(&facts, "timer", severity, "heartbeats every 100 ms");
    }
    let mut facts = well();
    facts.clock_jump = Duration::from_millis(200);
    says(&facts, "clock", Severity::Warning, "200 ms");
    facts = well();
    facts.suspended = Duration::from_secs(90);
    says(&facts, "clock", Severity::Warning, "90 s");
}
