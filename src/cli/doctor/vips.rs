//! Who answers for the floating addresses, and whether that may be. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::{Answers, Facts};
use super::findings::Finding;
use crate::config::Config;
use crate::model::{Mac, NodeId, Role};

pub(super) fn answered(config: &Config, me: NodeId, facts: &Facts, found: &mut Vec<Finding>) {
    let peer = &config.node(me.peer()).addresses;
    for vip in &config.vips {
        match facts.answers.get(&vip.interface) {
            // Its link is down, or no Ethernet; that is said elsewhere.
            None => {}
            Some(Err(why)) => found.push(Finding::warning(
                "vip",
                format!(
                    "nobody on {} could be asked for {}: {why}",
                    vip.interface,
                    vip.ip()
                ),
                "run the doctor as root",
            )),
            Some(Ok(answers)) => found.push(one(vip.ip(), peer, answers, facts)),
        }
    }
}

fn one(vip: IpAddr, peer: &[IpAddr], answers: &Answers, facts: &Facts) -> Finding {
    let none = BTreeSet::new();
    let owners = answers.get(&vip).unwrap_or(&none);
    // Wherever the peer itself answers.
    let peers = peer.iter().filter_map(|ip| answers.get(ip)).flatten();
    let peers: BTreeSet<Mac> = peers.copied().collect();
    let relay = facts.running.iter().flat_map(|status| &status.relay.links);
    let relay = relay.filter_map(|link| link.peer.clone());
    let known: BTreeSet<String> = peers.iter().map(Mac::to_string).chain(relay).collect();
    let strangers: Vec<String> = owners
        .iter()
        .map(Mac::to_string)
        .filter(|mac| !known.contains(mac))
        .collect();
    let role = facts.running.as_ref().map(|status| status.role);
    let by = strangers.join(" and ");
    if strangers.is_empty() && owners.is_empty() {
        return match role {
            Some(Role::Master) => Finding::fine("vip", format!("{vip} is this node's alone")),
            Some(_) => Finding::warning(
                "vip",
                format!("nobody answers for {vip}, and this node is not master"),
                "see `tandem status` on both nodes",
            ),
            None => Finding::fine("vip", format!("nobody answers for {vip}")),
        };
    }
    if strangers.is_empty() {
        return match role {
            Some(Role::Master) => Finding::error(
                "vip",
                format!("the peer answers for {vip}, too"),
                "two masters: see `tandem status` on both nodes, and the paths between them",
            ),
            _ => Finding::fine("vip", format!("the peer answers for {vip}")),
        };
    }
    if known.is_empty() {
        // The peer may have no address on this link by which it could be told.
        return Finding::warning(
            "vip",
            format!(
                "{vip} is answered by {by}, which may be the peer: it has no address there that answers"
            ),
            "compare with `ip link` on the peer; if it is another host, take the address off it",
        );
    }
    Finding::error(
        "vip",
        format!("{vip} is answered by {by}, which is neither this node nor its peer"),
        format!(
            "find that host by its Ethernet address, and take {vip} off it, or choose another address"
        ),
    )
}
