//! Is the pair healthy? What a tired person needs in the first lines: what is wrong, the worst
//! first, and what to do about it.

use super::backends::is_bad;
use super::words::{plural, span};
use super::{Tone, nat, relay, sources};
use crate::model::{AdminState, Role};
use crate::status::{
    BackendStatus, PathStatus, PeerStatus, ReplicationRole, ServiceStatus, Status,
};

/// A source may be this far behind without a word: under load something is always on its way.
const TOLERATED_LAG_MS: u64 = 1_000;
/// Loss on a path that is worth a word, in percent.
const TOLERATED_LOSS: f64 = 5.0;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Level {
    /// Clients are not served, or soon will not be.
    Critical,
    /// Clients are served; one more failure may end that.
    Warning,
    /// Not known yet.
    Wait,
    /// Nothing to do.
    Ok,
}

impl Level {
    pub(super) const fn tone(self) -> Tone {
        match self {
            Self::Critical => Tone::Bad,
            Self::Warning | Self::Wait => Tone::Caution,
            Self::Ok => Tone::Good,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Warning => "WARNING",
            Self::Wait => "WAIT",
            Self::Ok => "OK",
        }
    }
}

/// One sentence about the pair.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) text: String,
}

/// The findings, the worst first; one `Ok` if there is nothing to find.
pub(super) fn findings(status: &Status) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |level, text| found.push(Finding { level, text });
    match status.role {
        _ if status.stopping => say(Level::Wait, stopping(status)),
        Role::Initialize => say(Level::Wait, starting(&status.peer)),
        Role::Fault => fault(status, &mut say),
        Role::Backup => backup(&status.peer, &mut say),
        Role::Master => master(status, &mut say),
    }
    if matches!(status.role, Role::Backup | Role::Master) && status.peer.alive {
        link(status, &mut say);
    }
    nat::findings(status, &mut say);
    relay::findings(status, &mut say);
    for service in &status.services {
        backends(service, &mut say);
        sources::findings(service, &mut say);
    }
    if found.is_empty() {
        let peer = &status.peer;
        let role = peer.role.unwrap_or_default();
        found.push(Finding {
            level: Level::Ok,
            text: format!("redundant (peer {} is {role}, in sync)", peer.name),
        });
    }
    found.sort_by_key(|finding| finding.level);
    found
}

fn stopping(status: &Status) -> String {
    match status.drain.as_ref().and_then(|drain| drain.cut_in_ms) {
        Some(_) => "stopping; ends with its last connection".into(),
        None => "stopping".into(),
    }
}

fn starting(peer: &PeerStatus) -> String {
    if serves(peer) {
        format!("starting; joins {} as backup", peer.name)
    } else {
        "starting; takes over if no master is heard".into()
    }
}

fn fault(status: &Status, say: &mut impl FnMut(Level, String)) {
    let what = status.fault.as_deref().unwrap_or("unknown reason");
    let peer = &status.peer;
    let remedy = "repair it, this node then recovers by itself";
    if serves(peer) {
        let text = format!(
            "no redundancy: this node is in fault ({what}) and cannot take over from {}; {remedy}",
            peer.name
        );
        say(Level::Warning, text);
    } else {
        let text = format!(
            "nobody serves: this node is in fault ({what}) and {} is {}; {remedy}",
            peer.name,
            peer_state(peer)
        );
        say(Level::Critical, text);
    }
}

fn backup(peer: &PeerStatus, say: &mut impl FnMut(Level, String)) {
    if !serves(peer) {
        let text = format!(
            "no master: {} is {}; this node takes over if that lasts",
            peer.name,
            peer_state(peer)
        );
        say(Level::Critical, text);
    }
}

fn master(status: &Status, say: &mut impl FnMut(Level, String)) {
    let peer = &status.peer;
    for vip in status.vips.iter().filter(|vip| !vip.held) {
        let text = format!(
            "this node is master, but its kernel does not hold {}; see `journalctl -u tandem`",
            vip.address
        );
        say(Level::Critical, text);
    }
    if serves(peer) {
        let text = format!(
            "two masters: {} says that it is master too; the better claim stays. If this lasts, \
             stop tandem on one node and check the paths",
            peer.name
        );
        say(Level::Critical, text);
    } else if peer.last_heard_ms.is_none() {
        let text = format!(
            "no redundancy: peer {} was never heard; start tandem there, check the addresses and \
             the firewall",
            peer.name
        );
        say(Level::Warning, text);
    } else if !peer.alive {
        let text = format!("no redundancy: peer {} is {}", peer.name, peer_state(peer));
        say(Level::Warning, text);
    } else if peer.role != Some(Role::Backup) {
        let text = format!(
            "no redundancy: peer {} is {}; see `tandem status` there",
            peer.name,
            peer_state(peer)
        );
        say(Level::Warning, text);
    }
}

/// The two nodes hear of each other: how well?
fn link(status: &Status, say: &mut impl FnMut(Level, String)) {
    let peer = &status.peer;
    let name = &peer.name;
    let mut warn = |text| say(Level::Warning, text);
    if !peer.hears_us {
        warn(format!(
            "{name} does not hear this node; check the firewall on {name} and the path to it"
        ));
    }
    if peer.same_config == Some(false) {
        let differs = match peer.differs.as_slice() {
            [] => String::new(),
            differs => format!(" ({})", differs.join("; ")),
        };
        warn(format!(
            "{name} runs another configuration{differs}; install the same file on both, and `tandem reload`"
        ));
    }
    let sync = &status.replication;
    match sync.role {
        _ if !sync.connected => warn(format!(
            "no replication session with {name}; check the key and the TCP port"
        )),
        _ if sync.in_sync => {}
        ReplicationRole::Sink => warn(format!("not in sync with {name} yet")),
        ReplicationRole::Source if sync.lag_ms >= TOLERATED_LAG_MS => {
            let items = plural(sync.lag_items, "item");
            warn(format!("{name} is {items} ({}) behind", span(sync.lag_ms)));
        }
        ReplicationRole::Source | ReplicationRole::Idle => {}
    }
    let alive = status.paths.iter().filter(|path| path.alive).count();
    for path in &status.paths {
        if let Some(trouble) = trouble(path) {
            let (local, remote) = (&path.local, &path.remote);
            let total = status.paths.len();
            warn(format!(
                "path {local} to {remote} {trouble}; {alive} of {total} paths work"
            ));
        }
    }
}

fn trouble(path: &PathStatus) -> Option<String> {
    if !path.alive {
        Some("is silent".into())
    } else if path.loss_percent > TOLERATED_LOSS {
        Some(format!("loses {:.0} %", path.loss_percent))
    } else {
        None
    }
}

fn backends(service: &ServiceStatus, say: &mut impl FnMut(Level, String)) {
    let takes = |up, admin| up && admin == AdminState::Enabled;
    let name = &service.name;
    // The service's own pool is the first; a service whose backends are unknown has none, either.
    let mut pools = vec![None];
    for backend in &service.backends {
        if !pools.contains(&backend.pool.as_deref()) {
            pools.push(backend.pool.as_deref());
        }
    }
    for pool in pools {
        let own = |known: &&BackendStatus| known.pool.as_deref() == pool;
        let mut own = service.backends.iter().filter(own);
        if !own.any(|known| !known.leaving && takes(known.up, known.admin)) {
            let pool = pool.map(|pool| format!(", pool {pool}"));
            let pool = pool.unwrap_or_default();
            let text = format!("service {name}{pool}: no backend takes new connections");
            say(Level::Critical, text);
        }
    }
    for backend in service.backends.iter().filter(|it| is_bad(it)) {
        let text = format!(
            "backend {name}/{} is down: {}",
            backend.name, backend.reason
        );
        say(Level::Warning, text);
    }
}

fn serves(peer: &PeerStatus) -> bool {
    peer.alive && peer.role == Some(Role::Master)
}

fn peer_state(peer: &PeerStatus) -> String {
    match (peer.alive, peer.last_heard_ms, peer.role) {
        (true, _, Some(role)) => format!("in {role}"),
        (_, Some(ms), _) => format!("not heard for {}", span(ms)),
        (_, None, _) => "not heard since the start".into(),
    }
}
