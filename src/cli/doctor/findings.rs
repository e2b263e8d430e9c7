//! What is good and what is not, of what is known. Pure.
//!
//! An *error* keeps the pair from its job, on this host, today. A *warning* will, when something else
//! happens. A *note* is worth knowing. What is fine is said too, so that silence means nothing.

use std::time::Duration;

use serde::Serialize;

use super::facts::{Facts, Program, Tun};
use super::{peer, vips};
use crate::config::{Config, Fallback};
use crate::model::NodeId;
use crate::net::kernel::arp;
use crate::net::kernel::survey::Seen;

/// Least MTU of a link with IPv4 addresses (RFC 791 lets a host expect no more than 576 bytes), and
/// with IPv6 addresses (RFC 8200, 5).
const MTU: [u32; 2] = [576, 1_280];
/// A jump of the time of day beyond what NTP slews.
const JUMP: Duration = Duration::from_millis(50);

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    Fine,
    Note,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, in one word.
    pub(super) check: &'static str,
    pub(super) severity: Severity,
    /// What was found.
    pub(super) what: String,
    /// What to do.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn fine(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            severity: Severity::Fine,
            what: what.into(),
            remedy: None,
        }
    }

    pub(super) fn note(
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(check, Severity::Note, what, remedy)
    }

    pub(super) fn warning(
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(check, Severity::Warning, what, remedy)
    }

    pub(super) fn error(
        check: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::bad(check, Severity::Error, what, remedy)
    }

    fn bad(
        check: &'static str,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check,
            severity,
            what: what.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// What this configuration of this node meets on this host; without one, what can be said so.
pub(super) fn findings(config: Option<(&Config, NodeId)>, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    node(facts, &mut found);
    capabilities(facts, &mut found);
    tun(&facts.tun, &mut found);
    if let Some((config, me)) = config {
        links(config, facts, &mut found);
        arp_settings(config, facts, &mut found);
        ipv6(config, facts, &mut found);
        vips::answered(config, me, facts, &mut found);
        match &facts.running {
            Some(status) => peer::heard(config, status, &mut found),
            None => peer::paths(facts, &mut found),
        }
        program(config, facts, &mut found);
    }
    time(config.map(|(config, _)| config), facts, &mut found);
    found
}

fn node(facts: &Facts, found: &mut Vec<Finding>) {
    let finding = match (&facts.running, &facts.mute) {
        (Some(status), _) => match &status.fault {
            Some(fault) => Finding::error(
                "node",
                format!("the node runs and is in fault: {fault}"),
                "see `tandem status`",
            ),
            None => Finding::fine("node", format!("the node runs: {}", status.role.as_str())),
        },
        (None, Some(why)) => Finding::warning(
            "node",
            format!("a node seems to run, and does not answer: {why}"),
            "see `journalctl -u tandem`; what only it knows is not looked at",
        ),
        (None, None) => Finding::note(
            "node",
            "no node runs here",
            "what it would know is tried out instead",
        ),
    };
    found.push(finding);
}

fn capabilities(facts: &Facts, found: &mut Vec<Finding>) {
    if facts.lacking.is_empty() {
        found.push(Finding::fine("capabilities", "nothing is missing"));
        return;
    }
    found.push(Finding::error(
        "capabilities",
        format!("this process lacks {}", facts.lacking.join(", ")),
        "run the doctor as root; if that is what you did, give the container these capabilities",
    ));
}

fn tun(tun: &Tun, found: &mut Vec<Finding>) {
    let path = "/dev/net/tun";
    found.push(match tun {
        Tun::Works => Finding::fine("tun", format!("{path} opens")),
        Tun::Closed(mode) => Finding::warning(
            "tun",
            format!("{path} has mode {mode:04o}: user tandem may not open it"),
            format!("chmod 666 {path}; it grants nothing without CAP_NET_ADMIN"),
        ),
        Tun::Fails(why) => Finding::error(
            "tun",
            format!("{path} does not open: {why}"),
            "modprobe tun, or give the container the device",
        ),
    });
}

fn links(config: &Config, facts: &Facts, found: &mut Vec<Finding>) {
    let links = match &facts.links {
        Ok(links) => links,
        Err(why) => {
            let remedy = "run the doctor as root";
            found.push(Finding::error(
                "interface",
                format!("cannot list the interfaces: {why}"),
                remedy,
            ));
            return;
        }
    };
    let mut mtus: Vec<&Seen> = Vec::new();
    for name in config.interfaces() {
        let Some(link) = links.iter().find(|link| link.name == name) else {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            found.push(Finding::error(
                "interface",
                format!(
                    "there is no {name}, on which a VIP is to be; there are {}",
                    names.join(", ")
                ),
                "name the right one in [[vip]] interface",
            ));
            continue;
        };
        found.push(link_state(link));
        let vips = config.vips.iter().filter(|vip| vip.interface == name);
        let least = vips.map(|vip| MTU[usize::from(vip.ip().is_ipv6())]).max();
        if link.mtu < least.unwrap_or(0) {
            found.push(Finding::error(
                "mtu",
                format!(
                    "{name} takes {} bytes; IP needs {}",
                    link.mtu,
                    least.unwrap_or(0)
                ),
                format!("ip link set {name} mtu 1500"),
            ));
        }
        mtus.push(link);
    }
    let kernel = config
        .services
        .iter()
        .any(|service| service.kernel.is_some());
    if let [first, ..] = mtus[..]
        && kernel
        && let Some(other) = mtus.iter().find(|link| link.mtu != first.mtu)
    {
        found.push(Finding::warning(
            "mtu",
            format!(
                "{} takes {} bytes, {} takes {}: the kernel mode forwards between them",
                first.name, first.mtu, other.name, other.mtu
            ),
            "the same MTU on both; else long packets depend on ICMP getting through",
        ));
    } else if !mtus.is_empty() {
        let all: Vec<String> = mtus
            .iter()
            .map(|link| format!("{} {}", link.name, link.mtu))
            .collect();
        found.push(Finding::fine("mtu", all.join(", ")));
    }
}

fn link_state(link: &Seen) -> Finding {
    let name = &link.name;
    if !link.on {
        let remedy = format!("ip link set {name} up; a node is in fault while it is down");
        return Finding::error("interface", format!("{name} is switched off"), remedy);
    }
    if !link.up {
        let remedy = "look at the cable, the switch's port, or the bond; a node is in fault while it is down";
        return Finding::error("interface", format!("{name} has no carrier"), remedy);
    }
    if !link.ethernet {
        let remedy = "put the VIP on an Ethernet";
        let what = format!("{name} is no Ethernet: nobody can be told where the VIP is");
        return Finding::error("interface", what, remedy);
    }
    Finding::fine("interface", format!("{name} is up"))
}

fn arp_settings(config: &Config, facts: &Facts, found: &mut Vec<Finding>) {
    let ours = config.interfaces();
    let before = found.len();
    let ipv4 = config.vips.iter().any(|vip| vip.ip().is_ipv4());
    for (name, settings) in &facts.settings {
        let carries = config
            .vips
            .iter()
            .any(|vip| vip.interface == *name && vip.ip().is_ipv4());
        let other = facts.links.iter().flatten().any(|link| {
            link.name == *name && link.ethernet && link.up && !ours.contains(name.as_str())
        });
        if carries && config.cluster.relay && settings.arp.asks_as_others() {
            found.push(Finding::warning(
                "arp",
                format!("arp_announce of {name} is {}: after a switchover the kernel's own questions turn clients back here", settings.arp.announce),
                format!("sysctl -w {0}, and {0} in /etc/sysctl.d/60-tandem.conf", arp::remedy(name, "arp_announce", 2)),
            ));
        }
        if other
            && ipv4
            && config.cluster.relay
            && settings.arp.answers_for_others()
            && *name != config.cluster.device
        {
            found.push(Finding::note(
                "arp",
                format!("arp_ignore of {name} is {}: the kernel would answer there for the VIPs, also on the backup", settings.arp.ignore),
                format!("if clients or routers are there: sysctl -w {}", arp::remedy(name, "arp_ignore", 1)),
            ));
        }
        if carries && settings.rp_filter == 1 {
            found.push(Finding::note(
                "rp_filter",
                format!("rp_filter of {name} is 1: packets of clients are dropped whose way back leads through another interface"),
                format!("if routes are not symmetric: sysctl -w net.ipv4.conf.{}.rp_filter=2", name.replace('.', "/")),
            ));
        }
    }
    if found.len() == before {
        found.push(Finding::fine(
            "arp",
            "arp_announce, arp_ignore and rp_filter are as they should be",
        ));
    }
}

fn ipv6(config: &Config, facts: &Facts, found: &mut Vec<Finding>) {
    if facts.ipv6_off && config.vips.iter().any(|vip| vip.ip().is_ipv6()) {
        found.push(Finding::error(
            "ipv6",
            "IPv6 is switched off, and there are IPv6 VIPs",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0, or take those VIPs out",
        ));
    }
}

fn program(config: &Config, facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(status) = &facts.running {
        let relay = &status.relay;
        found.push(match &relay.lacking {
            Some(why) if relay.wanted => Finding::warning(
                "kernel",
                format!("the relay: {why}"),
                "`tandem status` says more",
            ),
            _ if relay.works => Finding::fine("kernel", "the relay works"),
            _ => Finding::note(
                "kernel",
                "there is no relay",
                "cluster.relay = true, if it is to be",
            ),
        });
        let fallen: Vec<&str> = status
            .services
            .iter()
            .filter(|s| s.fallback)
            .map(|s| s.name.as_str())
            .collect();
        if !fallen.is_empty() {
            found.push(Finding::warning(
                "kernel",
                format!(
                    "proxied instead of forwarded in the kernel: {}",
                    fallen.join(", ")
                ),
                "`tandem events` says what was missing at the start",
            ));
        }
        return;
    }
    let Some(Program {
        fails,
        late,
        no_pins,
    }) = &facts.program
    else {
        return;
    };
    let refuses = |fallback: Fallback| fallback == Fallback::Refuse;
    let needed = config
        .services
        .iter()
        .filter_map(|service| service.kernel.as_ref());
    let needed = needed.map(|kernel| kernel.fallback).any(refuses);
    let (why, remedy) = match (fails, no_pins) {
        (Some(why), _) => (
            why.clone(),
            "what the message says; without it there is no kernel mode and no relay".to_owned(),
        ),
        (None, true) => (
            "there is no BPF file system for the pins".to_owned(),
            "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        ),
        (None, false) => {
            found.push(match late {
                None => Finding::fine("kernel", "the program loads"),
                Some(why) => Finding::note(
                    "kernel",
                    format!("the program loads, but {why}"),
                    "a newer kernel, if a death is to be noticed sooner",
                ),
            });
            return;
        }
    };
    found.push(match needed {
        true => Finding::error("kernel", format!("the node will not start: {why}"), remedy),
        false => Finding::warning(
            "kernel",
            format!("no relay and no kernel mode: {why}"),
            remedy,
        ),
    });
}

fn time(config: Option<&Config>, facts: &Facts, found: &mut Vec<Finding>) {
    found.push(match &facts.real_time {
        Ok(()) => Finding::fine("real-time", "real-time priority is to be had"),
        Err(why) => {
            let (what, remedy) = why
                .split_once("; ")
                .unwrap_or((why, "LimitRTPRIO in the unit file"));
            Finding::warning("real-time", what, remedy)
        }
    });
    if let (Some((worst, middle)), Some(config)) = (facts.timer, config) {
        let election = &config.election;
        let what = format!(
            "timers were late by {} us in the middle and {} us at worst; heartbeats every {} ms, death after {} ms",
            middle.as_micros(),
            worst.as_micros(),
            election.heartbeat.as_millis(),
            election.dead_man.as_millis()
        );
        let remedy = format!(
            "more CPU, or real-time priority, or election.heartbeat = \"{}ms\"",
            (worst.as_millis() * 4).max(election.heartbeat.as_millis() * 2)
        );
        found.push(match () {
            () if worst >= election.dead_man => Finding::error("timer", what, remedy),
            () if worst >= election.heartbeat / 2 => Finding::warning("timer", what, remedy),
            () => Finding::fine("timer", what),
        });
    }
    if facts.clock_jump > JUMP {
        found.push(Finding::warning(
            "clock",
            format!("the time of day jumped by {} ms within a second or two", facts.clock_jump.as_millis()),
            "one NTP client, which slews; the pair itself does not depend on the time of day, its log does",
        ));
    }
    if facts.suspended > Duration::from_secs(1) {
        found.push(Finding::warning(
            "clock",
            format!(
                "this host was suspended for {} s since it started",
                facts.suspended.as_secs()
            ),
            "no suspend, no snapshots with memory: a node that stood still has lost its mastership",
        ));
    } else if facts.clock_jump <= JUMP {
        found.push(Finding::fine("clock", "no jumps were seen"));
    }
}

#[cfg(test)]
#[path = "findings_test.rs"]
mod tests;
