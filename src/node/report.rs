//! The read model, made from the machines on demand.

use super::{Node, Replication};
use crate::balance::Origin;
use crate::config;
use crate::model::Role;
use crate::status::{
    BackendStatus, Counters, Histogram, Mode, PathStatus, PeerStatus, ReplicationRole,
    ReplicationStatus, ServiceStatus, Status, VipStatus,
};
use crate::time::Mono;

pub(super) fn status(node: &Node, now: Mono) -> Status {
    let config = &node.config;
    let faults: Vec<&str> = node.election.faults().collect();
    let (transitions, detection, takeover) = node.journal.figures();
    Status {
        cluster: config.cluster.name.clone(),
        node: config.node(node.identity.node).name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: node.identity.incarnation.to_string(),
        uptime_ms: now.as_millis(),
        role: node.role(),
        epoch: node.election.epoch().0,
        priority: config.node(node.identity.node).priority.0,
        fault: (!faults.is_empty()).then(|| faults.join("; ")),
        stopping: node.stopping,
        drain: node.drain.status(node.flows.len() as u64, now),
        config_hash: config.hash.to_string(),
        vips: vips(node),
        last_transition: node.journal.last_transition().cloned(),
        transitions: transitions.to_vec(),
        detection: detection.clone(),
        takeover: takeover.clone(),
        // The daemon knows.
        turn_delay: Histogram::default(),
        peer: peer(node, now),
        paths: paths(node, now),
        replication: replication(node, now),
        services: config
            .services
            .iter()
            .map(|known| service(node, known, now))
            .collect(),
        relay: node.relay_status(),
        // The data path knows.
        nat: None,
        counters: Counters {
            false_alarms: node.election.false_alarms(),
            ..node.counters.clone()
        },
    }
}

fn vips(node: &Node) -> Vec<VipStatus> {
    let one = |vip: &crate::model::Vip| {
        let counts = node.vips.counts(vip.ip());
        VipStatus {
            address: vip.ip().to_string(),
            interface: vip.interface.clone(),
            wanted: node.vips.wanted(),
            held: node.vips.held(),
            announcements: counts.announcements,
            restored: counts.restored,
            rivals: counts.rivals,
        }
    };
    node.config.vips.iter().map(one).collect()
}

fn peer(node: &Node, now: Mono) -> PeerStatus {
    let name = node.config.node(node.identity.node.peer()).name.clone();
    let Some(peer) = node.election.peer() else {
        return PeerStatus {
            name,
            ..PeerStatus::default()
        };
    };
    PeerStatus {
        name,
        alive: node.election.live_peer(now).is_some(),
        role: Some(peer.role),
        epoch: Some(peer.epoch.0),
        priority: Some(peer.priority.0),
        incarnation: Some(peer.incarnation.to_string()),
        hears_us: node.election.hears_each_other(now),
        last_heard_ms: Some(now.since(peer.last_heard).as_millis() as u64),
        same_config: Some(peer.config_hash == node.config.hash),
        differs: node.differs(),
        relays: peer.relays,
        drain: node.relay.status(node.config.proxy.drain_timeout, now),
    }
}

fn paths(node: &Node, now: Mono) -> Vec<PathStatus> {
    let me = node.identity.node;
    let election = &node.config.election;
    let limit = election.heartbeat * u32::from(election.misses);
    let mine = &node.config.node(me).addresses;
    let peers = &node.config.node(me.peer()).addresses;
    node.election
        .paths()
        .iter()
        .zip(mine.iter().zip(peers))
        .map(|((_, path), (local, remote))| PathStatus {
            local: local.to_string(),
            remote: remote.to_string(),
            alive: path.last_heard.is_some_and(|at| now.since(at) <= limit),
            sent: path.sent,
            received: path.received,
            lost: path.lost,
            late: path.late,
            loss_percent: path.loss_percent(),
            rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
        })
        .collect()
}

fn replication(node: &Node, now: Mono) -> ReplicationStatus {
    let mut status = match &node.replication {
        Replication::Source(source) => source.status(now),
        Replication::Sink(sink) => sink.status(now),
    };
    status.connected = node.link.session().is_some();
    if matches!(node.role(), Role::Initialize | Role::Fault) {
        status.role = ReplicationRole::Idle;
    }
    status
}

fn service(node: &Node, known: &config::Service, now: Mono) -> ServiceStatus {
    let counts = node.flows.service(known.id);
    let backends = &known.backends;
    let live = |backend: &config::Backend| node.replica().nat_live(backend.id);
    ServiceStatus {
        name: known.name.clone(),
        mode: match known.kernel {
            Some(_) => Mode::Kernel,
            None => Mode::Proxy,
        },
        // The daemon knows.
        fallback: false,
        listen: known.listen.clone(),
        balance: known.balance.scheduler.to_string(),
        connections: counts.connections + backends.iter().map(live).sum::<u64>(),
        total: counts.total + node.nat.of_service(known.id),
        failed: counts.failed,
        refused: counts.refused,
        bad_headers: counts.bad_headers,
        denied: counts.denied,
        too_fast: counts.too_fast,
        queue_timeouts: counts.queue_timeouts,
        // The daemon knows.
        queued: 0,
        retries: 0,
        sticks: None,
        sources: Vec::new(),
        backends: known
            .backends
            .iter()
            .map(|it| backend(node, known, it, now))
            .collect(),
        removed: node.roster.removed(known),
    }
}

fn backend(
    node: &Node,
    service: &config::Service,
    known: &config::Backend,
    now: Mono,
) -> BackendStatus {
    let counts = node.flows.backend(known.id);
    let record = node.health.record(known.id);
    let (book, unix_ms) = (&node.roster, node.journal.unix_ms(now));
    BackendStatus {
        name: known.name.clone(),
        address: known.address.to_string(),
        pool: service.pool_of(known).map(|pool| pool.name.clone()),
        weight: node.health.weight(known.id).unwrap_or(known.weight.0),
        // The daemon knows.
        measure: None,
        up: record.up,
        reason: match book.leaving.contains_key(&known.id) {
            true => "removed".into(),
            false => node.health.reason(known.id).to_owned(),
        },
        admin: book.said.state(known.id),
        connections: counts.connections + node.replica().nat_live(known.id),
        total: counts.total + node.nat.of_backend(known.id),
        connect_failures: counts.connect_failures,
        failures: counts.failures,
        // The daemon knows.
        connect: Histogram::default(),
        bytes_up: counts.up,
        bytes_down: counts.down,
        ends: counts.ends,
        checks_good: record.good,
        checks_bad: record.bad,
        origin: match book.origin(known.id) {
            Origin::File => "file".into(),
            Origin::Runtime => "runtime".into(),
            Origin::Source(name) => name.clone(),
        },
        leaving: book.leaving.contains_key(&known.id),
        differs: book.differs(service.id, known),
        cut_in_ms: book
            .said
            .cut_ms(known.id)
            .map(|at| at.saturating_sub(unix_ms)),
    }
}
