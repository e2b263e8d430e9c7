//! What passes between the nodes.

use super::verdict::Level;
use super::words::{count, plural, utc};
use crate::model::Role;
use crate::status::{RelayStatus, Status};

/// What the program counts of it.
const COUNTS: &[(&str, &str)] = &[
    ("count_relayed", "handed to the master"),
    ("count_accepted", "taken from the master as backup"),
    ("count_handed", "of unknown connections handed to the peer"),
    ("count_frozen", "forwarded for a process that was dead"),
    ("drop_loop", "handed over by the peer and nobody's, dropped"),
];

/// Its line among the facts; none where it is not wanted.
pub(super) fn fact(status: &Status) -> Option<String> {
    let relay = &status.relay;
    if !relay.wanted {
        return None;
    }
    let mut words = vec![match relay.works {
        true => {
            let links: Vec<&str> = relay.links.iter().map(|it| it.interface.as_str()).collect();
            format!("works on {}", links.join(", "))
        }
        false => "DOES NOT WORK".to_owned(),
    }];
    if relay.accept {
        words.push("takes over with the first packet".into());
    }
    if relay.second_chance {
        words.push(format!("what is unknown goes to {}", status.peer.name));
    }
    Some(words.join(", "))
}

/// Its lines in a block of their own, if there is anything to say.
pub(super) fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let counted = |name: &str| {
        let nat = status.nat.as_ref();
        nat.and_then(|nat| nat.counters.get(name))
            .copied()
            .unwrap_or(0)
    };
    let packets: Vec<String> = COUNTS
        .iter()
        .filter(|(name, _)| counted(name) > 0)
        .map(|(name, words)| format!("{} {words}", count(counted(name))))
        .collect();
    if !packets.is_empty() {
        facts.push(("packets", packets.join("; ")));
    }
    let relay = &status.relay;
    if relay.reminded > 0 {
        let last: Vec<String> = relay
            .stale
            .iter()
            .take(3)
            .map(|it| {
                format!(
                    "{} ({}) of {} at {}",
                    it.mac,
                    it.sender,
                    it.vip,
                    utc(it.unix_ms)
                )
            })
            .collect();
        let times = plural(relay.reminded, "reminder");
        facts.push((
            "stale",
            format!("{times} sent; last to {}", last.join(", ")),
        ));
    }
    facts
}

/// What is missing, and what that costs.
pub(super) fn findings(status: &Status, say: &mut impl FnMut(Level, String)) {
    let relay = &status.relay;
    if !relay.wanted {
        return;
    }
    if !relay.works {
        let text = format!(
            "no relay: {}; clients notice when a node's process dies until they hear where the \
             addresses are, and a switchover resets proxied connections",
            missing(status, relay)
        );
        say(Level::Warning, text);
        return;
    }
    if let Some(lacking) = &relay.lacking {
        let text =
            format!("the relay starts some milliseconds late when this process dies: {lacking}");
        say(Level::Warning, text);
    }
    if status.peer.alive && status.role != Role::Initialize && !status.peer.relays {
        let text = format!(
            "{} does not relay; see `tandem status` there, a switchover resets proxied connections",
            status.peer.name
        );
        say(Level::Warning, text);
    }
}

fn missing(status: &Status, relay: &RelayStatus) -> String {
    let unseen: Vec<&str> = relay
        .links
        .iter()
        .filter(|it| it.peer.is_none())
        .map(|it| it.interface.as_str())
        .collect();
    match (&relay.lacking, unseen.is_empty()) {
        (Some(lacking), _) if status.nat.is_none() => lacking.clone(),
        (_, false) => format!(
            "{} was not seen on {}, which carries a VIP; give both nodes an address there in [[node]]",
            status.peer.name,
            unseen.join(", ")
        ),
        _ => "the program is not there".into(),
    }
}
