//! Whether the nodes reach each other. Pure.

use super::facts::{Facts, PathFacts, Tcp, Udp};
use super::findings::Finding;
use crate::config::Config;
use crate::status::Status;

/// What a running node knows of its peer.
pub(super) fn heard(config: &Config, status: &Status, found: &mut Vec<Finding>) {
    let port = config.cluster.port;
    let peer = &status.peer.name;
    let firewall =
        format!("let UDP and TCP {port} through on both hosts, both ways; is {peer} running?");
    for path in &status.paths {
        let (local, remote) = (&path.local, &path.remote);
        if path.alive {
            found.push(Finding::fine(
                "peer",
                format!("{peer} is heard: {local} from {remote}"),
            ));
        } else {
            let what = format!("{peer} is not heard at {local} from {remote}");
            // One path is left: the pair works.
            found.push(match status.peer.alive {
                true => Finding::warning("peer", what, &*firewall),
                false => Finding::error("peer", what, &*firewall),
            });
        }
    }
    if status.peer.alive && !status.peer.hears_us {
        let what = format!("{peer} is heard and does not hear this node");
        found.push(Finding::error("peer", what, &*firewall));
    }
    if status.peer.alive && !status.replication.connected {
        let what = format!("heartbeats pass, but no session with {peer} stands");
        found.push(Finding::error(
            "peer",
            what,
            format!("let TCP {port} through on both hosts, both ways"),
        ));
    }
    if status.peer.same_config == Some(false) {
        let what = format!("{peer} has another configuration");
        found.push(Finding::warning(
            "peer",
            what,
            "the same file on both, then restart the backup, and after a switchover the other",
        ));
    }
    if status.counters.pauses > 0 {
        let what = format!(
            "this node stood still {} times for longer than its peer waits",
            status.counters.pauses
        );
        found.push(Finding::warning(
            "timer",
            what,
            "no snapshots or live migration of the host, more CPU, or a longer election.heartbeat",
        ));
    }
}

/// What was tried, as long as no node runs here.
pub(super) fn paths(facts: &Facts, found: &mut Vec<Finding>) {
    // A host that answers for its address is switched on.
    let there = |path: &PathFacts| {
        let answers = facts
            .answers
            .values()
            .filter_map(|answers| answers.as_ref().ok());
        answers.flatten().any(|(ip, _)| *ip == path.remote.ip())
    };
    found.extend(facts.paths.iter().map(|path| tried(path, there(path))));
}

fn tried(path: &PathFacts, there: bool) -> Finding {
    let (local, remote, port) = (path.local.ip(), path.remote.ip(), path.remote.port());
    let firewall =
        format!("let UDP and TCP {port} through on both hosts, both ways (nft list ruleset)");
    match (&path.udp, path.tcp) {
        (Udp::Heard, _) => {
            Finding::fine("peer", format!("the peer's heartbeats come from {remote}"))
        }
        (Udp::Stranger, _) => Finding::error(
            "peer",
            format!("heartbeats come from {remote}, made with another key or cluster name"),
            "the same [cluster] name and key file on both nodes",
        ),
        (Udp::Closed, _) => Finding::fine(
            "peer",
            format!("{remote} is reached from {local}, and no node runs there yet"),
        ),
        (Udp::NoAddress, _) => Finding::error(
            "peer",
            format!("this host does not have {local}"),
            "give it that address, or write its own in [[node]] addresses",
        ),
        (Udp::Fails(why), _) => Finding::error(
            "peer",
            format!("nothing can be sent from {local} to {remote}, port {port}: {why}"),
            "a route, and no firewall of this host in the way; nobody else at this port",
        ),
        (Udp::Silent, Some(Tcp::Open)) => Finding::error(
            "peer",
            format!(
                "a node listens at {remote}, but its heartbeats do not come: UDP port {port} is in something's way"
            ),
            firewall,
        ),
        (Udp::Silent, Some(Tcp::Refused)) => Finding::warning(
            "peer",
            format!("{remote} answers by TCP and is silent by UDP, port {port}"),
            firewall,
        ),
        (Udp::Silent, _) if there => Finding::error(
            "peer",
            format!("{remote} is there, but nothing comes back from its port {port}"),
            firewall,
        ),
        (Udp::Silent, _) => Finding::warning(
            "peer",
            format!("{remote} is silent: switched off, cut off, or behind a firewall"),
            format!("once it is on, again; then {firewall}"),
        ),
    }
}
