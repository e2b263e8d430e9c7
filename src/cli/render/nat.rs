//! The kernel mode's data path, in one block.

use super::verdict::Level;
use super::words::{count, plural};
use crate::model::Role;
use crate::status::{NatStatus, Status};

/// The table is nearly full from here on, in percent.
const NEARLY_FULL: u64 = 90;

/// What the program counts and an operator should know, by its name there. Other counts are of
/// what is meant to happen.
const COUNTS: &[(&str, &str)] = &[
    ("drop_lease", "while this node may not forward"),
    ("drop_unknown", "of no connection, to a service"),
    ("drop_stray", "of no connection, to a source"),
    ("drop_no_backend", "new, no backend takes them"),
    ("drop_no_port", "new, no port towards the backend free"),
    ("drop_table_full", "new, the table is full"),
    ("drop_race", "the second of two at once"),
    ("drop_fragment", "fragments"),
    ("drop_malformed", "malformed"),
    ("drop_extension", "IPv6 extension headers"),
    ("drop_hops", "out of hops"),
    ("drop_hairpin", "a backend would answer itself"),
    ("drop_bad_source", "from no client's address"),
    ("drop_source_rate", "new, above source_rate"),
    ("drop_write", "could not be changed"),
];
/// Held back, not lost: a refusal until the next backend was tried, a handshake until the standby
/// knows of it.
const HELD: &[&str] = &["drop_held", "drop_waiting"];
/// Beginnings of names of what went wrong in this process.
const TROUBLE: &[&str] = &["lost_", "send_", "map_"];

/// What it does, and where.
pub(super) fn title(nat: &NatStatus) -> String {
    let does = match nat.forwarding {
        true => "forwarding",
        false => "standing by",
    };
    let hooks = match nat.hooks.is_empty() {
        true => "NO INTERFACE".to_owned(),
        false => nat.hooks.join(", "),
    };
    format!("kernel mode: {does}, on {hooks}")
}

/// The block under the title.
pub(super) fn facts(nat: &NatStatus) -> Vec<(&'static str, String)> {
    // Named one by one, so that a new one cannot be forgotten here.
    let NatStatus {
        hooks: _,
        lease_margin_us: _,
        forwarding: _,
        flows,
        max_flows,
        states,
        waiting,
        released_acknowledged,
        released_alone,
        released_late,
        degraded,
        retries,
        unserved,
        resets,
        probed,
        rescans,
        counters,
    } = nat;
    let full = match full_percent(nat) {
        Some(percent) => format!(" ({percent} % full)"),
        None => String::new(),
    };
    let table = format!(
        "{} of {} connections{full}",
        count(*flows),
        count(*max_flows)
    );
    let mut facts = vec![("table", table)];

    // In the order of a connection's life.
    let life = ["opening", "answered", "established", "closing", "closed"];
    let states = life.map(|name| (states.get(name).copied().unwrap_or(0), name));
    let by_name = |name: &str| {
        let known = counters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        known.map_or(0, |(_, n)| *n)
    };
    let way = |packets: &str, bytes: &str, to: &str| {
        let bytes = count(by_name(bytes));
        (by_name(packets), format!("packets ({bytes} bytes) to {to}"))
    };
    let forwarded = [
        way("count_to_backend", "bytes_to_backend", "backends"),
        way("count_to_client", "bytes_to_client", "clients"),
    ];
    let forwarded = forwarded.each_ref().map(|(n, words)| (*n, words.as_str()));

    let mut handshakes = counted(&[
        (*waiting, "waiting for the standby's word"),
        (*released_acknowledged, "went on with it"),
        (*released_alone, "went on at once, no standby followed"),
        (*released_late, "went on late, without it"),
    ]);
    if *degraded {
        handshakes.push("THE STANDBY IS LATE: they do not wait until it has caught up".into());
    }
    let backends = counted(&[
        (*retries, "went to another one before the handshake"),
        (*unserved, "found none"),
    ]);
    let ends = [
        (*resets, plural(*resets, "reset") + " sent"),
        (
            *probed,
            plural(*probed, "connection") + " probed after a takeover",
        ),
        (
            *rescans,
            plural(*rescans, "time") + " the table was read whole, since an event was lost",
        ),
    ];
    let ends = ends.into_iter().filter(|(n, _)| *n > 0);
    let ends = ends.map(|(_, text)| text).collect();

    let mut dropped: Vec<(u64, &str)> = COUNTS
        .iter()
        .map(|(name, words)| (by_name(name), *words))
        .collect();
    // A stable sort: equal ones stay in the order of the list.
    dropped.sort_by_key(|(n, _)| u64::MAX - n);
    let mut dropped = counted(&dropped);
    let mut trouble = Vec::new();
    for (name, n) in counters.iter().filter(|(_, n)| **n > 0) {
        let name = name.to_ascii_lowercase();
        let words = format!("{} {}", count(*n), name.replace('_', " "));
        if TROUBLE.iter().any(|start| name.starts_with(start)) {
            trouble.push(words);
        } else if name.starts_with("drop_")
            && !HELD.contains(&name.as_str())
            && !COUNTS.iter().any(|(known, _)| *known == name)
        {
            dropped.push(words);
        }
    }
    for (label, texts) in [
        ("states", counted(&states)),
        ("forwarded", counted(&forwarded)),
        ("handshakes", handshakes),
        ("backends", backends),
        ("also", ends),
        ("dropped", dropped),
        ("trouble", trouble),
    ] {
        if !texts.is_empty() {
            facts.push((label, texts.join("; ")));
        }
    }
    facts
}

fn counted(counts: &[(u64, &str)]) -> Vec<String> {
    let counts = counts.iter().filter(|(n, _)| *n > 0);
    counts
        .map(|(n, words)| format!("{} {words}", count(*n)))
        .collect()
}

fn full_percent(nat: &NatStatus) -> Option<u64> {
    nat.flows.saturating_mul(100).checked_div(nat.max_flows)
}

/// What is wrong with it.
pub(super) fn findings(status: &Status, say: &mut impl FnMut(Level, String)) {
    let proxied = status.services.iter().filter(|service| service.fallback);
    let proxied: Vec<&str> = proxied.map(|service| service.name.as_str()).collect();
    if !proxied.is_empty() {
        let text = format!(
            "kernel mode: this host cannot have it, so {} is proxied and its connections end at a \
             failover; see `tandem events` for the reason",
            proxied.join(", ")
        );
        say(Level::Warning, text);
    }
    let Some(nat) = &status.nat else {
        return;
    };
    if nat.hooks.is_empty() {
        let text = "kernel mode: the program is on no interface; see `journalctl -u tandem`";
        say(Level::Critical, text.into());
    } else if status.role == Role::Master && !nat.forwarding {
        let text = "kernel mode: this node is master and does not forward, since its lease has run \
                    out; see `journalctl -u tandem`";
        say(Level::Critical, text.into());
    }
    if nat.degraded {
        let text = format!(
            "kernel mode: {} is late, so handshakes do not wait for it: connections that began \
             meanwhile may not outlive a failover",
            status.peer.name
        );
        say(Level::Warning, text);
    }
    if let Some(percent) = full_percent(nat).filter(|percent| *percent >= NEARLY_FULL) {
        let text = format!(
            "kernel mode: the table of connections is {percent} % full, then new ones are dropped; \
             raise kernel.max_flows"
        );
        say(Level::Warning, text);
    }
}
