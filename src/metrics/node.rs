//! What a node is, and how it and its peer get on.

use super::Kind::{Counter, Gauge, Histogram, Info};
use super::Unit::{Bytes, Ratio, Seconds};
use super::{Metric, metric};
use crate::model::Role;
use crate::status::{Cause, ReplicationRole, What};

const ROLES: [Role; 4] = [Role::Initialize, Role::Backup, Role::Master, Role::Fault];

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

#[rustfmt::skip]
pub(super) const METRICS: &[Metric] = &[
    metric(Info, "build", None, &["version", "cluster", "node", "config"],
        "Version of the program, names of the pair and of the node, fingerprint of the configuration.",
        |s, out| out.at([&s.version, &s.cluster, &s.node, &s.config_hash], 1.0)),
    metric(Gauge, "uptime", Some(Seconds), &[], "Time since the start of the process.",
        |s, out| out.one(seconds(s.uptime_ms))),
    metric(Gauge, "role", None, &["role"], "1 for the role that the node has.",
        |s, out| for role in ROLES {
            out.flag([role.as_str()], role == s.role);
        }),
    metric(Gauge, "epoch", None, &[], "The highest epoch known.",
        |s, out| out.one(s.epoch as f64)),
    metric(Gauge, "priority", None, &[], "Priority in the election.",
        |s, out| out.one(s.priority.into())),
    metric(Gauge, "fault", None, &[], "1: the node must not become master; `tandem status` says why.",
        |s, out| out.flag([], s.fault.is_some())),
    metric(Gauge, "stopping", None, &[], "1: the node was told to stop.",
        |s, out| out.flag([], s.stopping)),
    metric(Gauge, "drain_connections", None, &[],
        "Proxied connections that are left on a node that gave up the mastership in order.",
        |s, out| out.one(s.drain.as_ref().map_or(0, |drain| drain.left) as f64)),
    metric(Counter, "transitions", None, &["to", "cause"],
        "Changes of role, by the new role and by cause.",
        |s, out| {
            let never = |cause: &Cause| !s.transitions.iter().any(|it| (it.to, it.cause) == (Role::Master, *cause));
            // Nobody sees the increase of a counter that appears with its first count.
            for cause in Cause::ALL.iter().filter(|cause| never(cause)) {
                out.at([Role::Master.as_str(), cause.as_str()], 0.0);
            }
            for it in &s.transitions {
                out.at([it.to.as_str(), it.cause.as_str()], it.count as f64);
            }
        }),
    metric(Gauge, "last_transition_timestamp", Some(Seconds), &[],
        "When the role changed last, as seconds since 1970.",
        |s, out| if let Some(event) = &s.last_transition {
            out.one(seconds(event.unix_ms));
        }),
    metric(Gauge, "last_detection", Some(Seconds), &[],
        "From the last sign of the peer's life to the last decision, if there was one.",
        |s, out| if let Some(What::Transition { detection_ms: Some(ms), .. }) = last(s) {
            out.one(ms / 1e3);
        }),
    metric(Gauge, "last_takeover", Some(Seconds), &[],
        "From the last decision to the addresses held and announced, on the master.",
        |s, out| if let Some(What::Transition { takeover_ms: Some(ms), .. }) = last(s) {
            out.one(ms / 1e3);
        }),
    metric(Histogram, "detection", Some(Seconds), &[],
        "From the last sign of the peer's life to the decision.",
        |s, out| out.histogram([], &s.detection)),
    metric(Histogram, "takeover", Some(Seconds), &[],
        "From the decision to the addresses held and announced.",
        |s, out| out.histogram([], &s.takeover)),
    metric(Histogram, "turn_delay", Some(Seconds), &[],
        "How late the turn loop served its deadlines.",
        |s, out| out.histogram([], &s.turn_delay)),
    metric(Gauge, "longest_turn_gap", Some(Seconds), &[],
        "Longest time between two turns in this life.",
        |s, out| out.one(s.counters.longest_turn_gap_us as f64 / 1e6)),
    metric(Counter, "pauses", None, &[],
        "Turns that came so late that the node gave up what it had concluded.",
        |s, out| out.one(s.counters.pauses as f64)),
    metric(Counter, "outputs_dropped", None, &[],
        "Outputs dropped because an adapter's queue was full.",
        |s, out| out.one(s.counters.outputs_dropped as f64)),
    metric(Counter, "control_rejected", None, &[], "Bad requests on the control socket.",
        |s, out| out.one(s.counters.control_rejected as f64)),
    metric(Counter, "connection_log_dropped", None, &[],
        "Lines of the log of connections that were dropped, because it could not keep up.",
        |s, out| out.one(s.counters.log_dropped as f64)),
    // The peer.
    metric(Gauge, "peer_alive", None, &[], "1: the peer was heard within the timeout.",
        |s, out| out.flag([], s.peer.alive)),
    metric(Gauge, "peer_hears_us", None, &[], "1: the peer says that it hears this node.",
        |s, out| out.flag([], s.peer.hears_us)),
    metric(Gauge, "peer_same_config", None, &[],
        "1: the peer's configuration has the same meaning; absent until it was heard.",
        |s, out| if let Some(same) = s.peer.same_config {
            out.flag([], same);
        }),
    metric(Gauge, "peer_relays", None, &[], "1: the peer's relay works.",
        |s, out| out.flag([], s.peer.relays)),
    metric(Gauge, "peer_last_heard", Some(Seconds), &[],
        "Time since the peer's last heartbeat; absent until there was one.",
        |s, out| if let Some(ms) = s.peer.last_heard_ms {
            out.one(seconds(ms));
        }),
    // Addresses.
    metric(Gauge, "vip_wanted", None, &["address", "interface"],
        "1: this node should hold the floating address.",
        |s, out| for vip in &s.vips {
            out.flag([&vip.address, &vip.interface], vip.wanted);
        }),
    metric(Gauge, "vip_held", None, &["address", "interface"],
        "1: this node's kernel has the floating address.",
        |s, out| for vip in &s.vips {
            out.flag([&vip.address, &vip.interface], vip.held);
        }),
    metric(Counter, "vip_announcements", None, &["address", "interface"], "Announcements sent.",
        |s, out| for vip in &s.vips {
            out.at([&vip.address, &vip.interface], vip.announcements as f64);
        }),
    metric(Counter, "vip_restored", None, &["address", "interface"],
        "Times the address was put back after somebody else removed it.",
        |s, out| for vip in &s.vips {
            out.at([&vip.address, &vip.interface], vip.restored as f64);
        }),
    metric(Counter, "vip_rivals", None, &["address", "interface"],
        "Announcements of the address seen from somebody else.",
        |s, out| for vip in &s.vips {
            out.at([&vip.address, &vip.interface], vip.rivals as f64);
        }),
    // Heartbeats.
    metric(Gauge, "path_alive", None, &["local", "remote"],
        "1: a heartbeat came on this path within the timeout.",
        |s, out| for path in &s.paths {
            out.flag([&path.local, &path.remote], path.alive);
        }),
    metric(Gauge, "path_loss", Some(Ratio), &["local", "remote"],
        "Share of the last 100 heartbeats on this path that were lost.",
        |s, out| for path in &s.paths {
            out.at([&path.local, &path.remote], path.loss_percent / 1e2);
        }),
    metric(Gauge, "path_round_trip", Some(Seconds), &["local", "remote"],
        "Smoothed round trip; absent until it was measured.",
        |s, out| for path in &s.paths {
            if let Some(us) = path.rtt_us {
                out.at([&path.local, &path.remote], us as f64 / 1e6);
            }
        }),
    metric(Counter, "heartbeats_sent", None, &["local", "remote"], "Heartbeats sent.",
        |s, out| for path in &s.paths {
            out.at([&path.local, &path.remote], path.sent as f64);
        }),
    metric(Counter, "heartbeats_received", None, &["local", "remote"],
        "Heartbeats received and accepted.",
        |s, out| for path in &s.paths {
            out.at([&path.local, &path.remote], path.received as f64);
        }),
    // Only grows, unlike `lost` of `tandem status`, from which those that come late are taken.
    metric(Counter, "heartbeats_lost", None, &["local", "remote"],
        "Heartbeats missing in the peer's count when a later one came; those that come late are in it.",
        |s, out| for path in &s.paths {
            out.at([&path.local, &path.remote], (path.lost + path.late) as f64);
        }),
    metric(Counter, "heartbeats_late", None, &["local", "remote"],
        "Heartbeats that came after a later one.",
        |s, out| for path in &s.paths {
            out.at([&path.local, &path.remote], path.late as f64);
        }),
    metric(Counter, "heartbeats_rejected", None, &["reason"],
        "Datagrams on the heartbeat port that do not count: unreadable, replayed, or of a life that has not proved to be present.",
        |s, out| {
            out.at(["unreadable"], s.counters.heartbeats_rejected as f64);
            out.at(["replayed"], s.counters.heartbeats_replayed as f64);
            out.at(["unconfirmed"], s.counters.heartbeats_unconfirmed as f64);
        }),
    metric(Counter, "false_alarms", None, &[],
        "Closed sessions whose peer turned out to be alive.",
        |s, out| out.one(s.counters.false_alarms as f64)),
    // Replication.
    metric(Gauge, "session_connected", None, &[], "1: the session with the peer stands.",
        |s, out| out.flag([], s.replication.connected)),
    metric(Counter, "sessions", None, &[], "Sessions that were established.",
        |s, out| out.one(s.counters.sessions as f64)),
    metric(Counter, "session_faults", None, &[],
        "Sessions that ended with a fault of the peer, and strangers on the session's port.",
        |s, out| out.one(s.counters.session_faults as f64)),
    metric(Counter, "session", Some(Bytes), &["direction"],
        "Bytes of sessions, as they are on the wire.",
        |s, out| {
            out.at(["sent"], s.replication.bytes_sent as f64);
            out.at(["received"], s.replication.bytes_received as f64);
        }),
    metric(Gauge, "replication_role", None, &["role"],
        "1 for what the node does on the session: idle, sink or source.",
        |s, out| {
            let role = s.replication.role;
            out.flag(["idle"], role == ReplicationRole::Idle);
            out.flag(["sink"], role == ReplicationRole::Sink);
            out.flag(["source"], role == ReplicationRole::Source);
        }),
    metric(Gauge, "replication_in_sync", None, &[],
        "1: the backup has all that the master told; on both nodes.",
        |s, out| out.flag([], s.replication.in_sync)),
    metric(Gauge, "replication_lag_items", None, &[],
        "Items in the master's log that the backup has not acknowledged.",
        |s, out| out.one(s.replication.lag_items as f64)),
    metric(Gauge, "replication_lag", Some(Seconds), &[],
        "For how long the oldest of them has waited.",
        |s, out| out.one(seconds(s.replication.lag_ms))),
    metric(Gauge, "replication_snapshots", None, &[],
        "Snapshots sent or received in the present role.",
        |s, out| out.one(s.replication.snapshots as f64)),
    metric(Gauge, "replication_resyncs", None, &[],
        "Times the place was lost and a snapshot was needed again, in the present role.",
        |s, out| out.one(s.replication.resyncs as f64)),
    metric(Gauge, "replication_flows", None, &[], "Connections in the replica, of both modes.",
        |s, out| out.one(s.replication.flows as f64)),
    metric(Counter, "flow_events_lost", None, &[],
        "Events of proxied connections that were lost; the live ones are told again.",
        |s, out| out.one(s.counters.flow_events_lost as f64)),
    // What passes between the nodes.
    metric(Gauge, "relay_wanted", None, &[], "1: the configuration wants the relay.",
        |s, out| out.flag([], s.relay.wanted)),
    metric(Gauge, "relay_works", None, &[], "1: the relay works; `tandem status` says what is missing.",
        |s, out| out.flag([], s.relay.works)),
    metric(Gauge, "relay_stale_neighbours", None, &[],
        "Neighbours that sent to this node, which is not master; the last ones.",
        |s, out| out.one(s.relay.stale.len() as f64)),
    metric(Counter, "relay_reminded", None, &[],
        "How often such a neighbour was told where the address lives.",
        |s, out| out.one(s.relay.reminded as f64)),
];

fn last(status: &crate::status::Status) -> Option<&What> {
    status.last_transition.as_ref().map(|event| &event.what)
}
