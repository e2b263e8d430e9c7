//! The one read model: what `tandem status`, `tandem events` and later every other view render.
//!
//! Units are in the names. Times of day are milliseconds since 1970 (`unix_ms`): the wall clock's
//! at the start, advanced by the monotonic clock, so that no clock step reorders the timeline.

mod events;
mod figures;
mod measures;
mod relay;
mod source;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, Role};

pub use events::{Cause, Event, What};
pub use figures::{BOUNDS_US, BUCKETS, Ends, Failures, Histogram, Transitions, bucket};
pub use measures::{Measure, StickStatus};
pub use relay::{RelayLink, RelayStatus, StaleStatus};
pub use source::SourceStatus;

/// A node, as it sees itself and its peer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Name of the pair.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Version of the program.
    pub version: String,
    /// First eight hex digits of this process lifetime's id.
    pub incarnation: String,
    /// How long the node has run, in milliseconds.
    pub uptime_ms: u64,
    /// Role.
    pub role: Role,
    /// The highest epoch known.
    pub epoch: u64,
    /// Priority.
    pub priority: u8,
    /// Why the role is `fault`, if it is.
    pub fault: Option<String>,
    /// This node was told to stop.
    #[serde(default)]
    pub stopping: bool,
    /// What this node, not master any more, has left of its proxied connections; or how that ended,
    /// until it is master again.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Fingerprint of the configuration.
    pub config_hash: String,
    /// The floating addresses.
    pub vips: Vec<VipStatus>,
    /// The last change of role.
    pub last_transition: Option<Event>,
    /// Changes of role, by what they were and why.
    #[serde(default)]
    pub transitions: Vec<Transitions>,
    /// From the last sign of the peer's life to the decision, of those that had one.
    #[serde(default)]
    pub detection: Histogram,
    /// From the decision to the addresses held and announced.
    #[serde(default)]
    pub takeover: Histogram,
    /// How late the turn loop served a deadline.
    #[serde(default)]
    pub turn_delay: Histogram,
    /// The other node.
    pub peer: PeerStatus,
    /// Heartbeat paths.
    pub paths: Vec<PathStatus>,
    /// Replication.
    pub replication: ReplicationStatus,
    /// Services with their backends.
    pub services: Vec<ServiceStatus>,
    /// What passes between the nodes.
    #[serde(default)]
    pub relay: RelayStatus,
    /// The program in the kernel; none: it is not there.
    pub nat: Option<NatStatus>,
    /// Counters of things that should be rare.
    pub counters: Counters,
}

/// One floating address.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct VipStatus {
    /// The address.
    pub address: String,
    /// The interface it is announced on.
    pub interface: String,
    /// This node wants it.
    pub wanted: bool,
    /// This node's kernel has it.
    pub held: bool,
    /// Announcements sent in this life.
    pub announcements: u64,
    /// Times it was put back after somebody else removed it.
    pub restored: u64,
    /// Announcements of the address seen from somebody else.
    pub rivals: u64,
}

/// The other node, as this one sees it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// A heartbeat of it was heard within the timeout.
    pub alive: bool,
    /// Its last known role.
    pub role: Option<Role>,
    /// Its last known epoch.
    pub epoch: Option<u64>,
    /// Its priority.
    pub priority: Option<u8>,
    /// First eight hex digits of its process lifetime's id.
    pub incarnation: Option<String>,
    /// It says that it hears us.
    pub hears_us: bool,
    /// Milliseconds since the last heartbeat.
    pub last_heard_ms: Option<u64>,
    /// Its configuration has the same meaning; none before the first heartbeat.
    pub same_config: Option<bool>,
    /// What differs, a line for each section, as far as it is known.
    #[serde(default)]
    pub differs: Vec<String>,
    /// Its relay works: it hands to this node what belongs here.
    #[serde(default)]
    pub relays: bool,
    /// What the former master has left of its proxied connections, or how that ended, while this
    /// node is master; none: it did not hand over in order.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
}

/// Proxied connections that stay with a node which gave up the mastership in order.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct DrainStatus {
    /// Connections that are left.
    pub left: u64,
    /// The most there were.
    pub of: u64,
    /// Milliseconds until what is left is reset; none: the drain is over.
    pub cut_in_ms: Option<u64>,
    /// Milliseconds since its beginning, or from that to its end.
    pub took_ms: u64,
    /// Connections that were reset since they had not ended in time. A node tells its peer only how
    /// many are left, so of the peer's this is a conclusion from the time.
    pub cut: u64,
}

/// One heartbeat path.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PathStatus {
    /// Our address.
    pub local: String,
    /// The peer's address.
    pub remote: String,
    /// A heartbeat came on this path within the timeout.
    pub alive: bool,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats received and accepted.
    pub received: u64,
    /// Heartbeats missing in the peer's count.
    pub lost: u64,
    /// Heartbeats that were counted as lost and came later, overtaken by others.
    #[serde(default)]
    pub late: u64,
    /// Share of the last 100 heartbeats that were lost, in percent.
    pub loss_percent: f64,
    /// Smoothed round trip, in microseconds.
    pub rtt_us: Option<u64>,
}

/// The replication session and its log.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ReplicationStatus {
    /// The session stands.
    pub connected: bool,
    /// What this node does on it.
    pub role: ReplicationRole,
    /// On the source: a snapshot is acknowledged, and the sink follows at the lag below. On the
    /// sink: a snapshot is complete, and every update since.
    pub in_sync: bool,
    /// Epoch of the position.
    pub epoch: u64,
    /// Source: the last item written. Sink: the last item applied.
    pub position: u64,
    /// Source: the last item acknowledged.
    pub acknowledged: u64,
    /// Items that wait in the source's log.
    pub lag_items: u64,
    /// Milliseconds for which the oldest unacknowledged item has waited.
    pub lag_ms: u64,
    /// Snapshots sent or received.
    pub snapshots: u64,
    /// Times the place was lost and a snapshot was needed again.
    pub resyncs: u64,
    /// Connections in the replica, of both modes.
    pub flows: u64,
    /// Bytes sent on all sessions so far, as they are on the wire.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Bytes received.
    #[serde(default)]
    pub bytes_received: u64,
}

/// What a node does on the session.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationRole {
    /// Neither: no mastership is known.
    #[default]
    Idle,
    /// The backup: applies.
    Sink,
    /// The master: sends.
    Source,
}

/// What carries a service's connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A program in the kernel, which translates addresses.
    Kernel,
    /// This process.
    #[default]
    Proxy,
}

impl Mode {
    /// As the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Proxy => "proxy",
        }
    }
}

/// A service.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// What carries its connections.
    pub mode: Mode,
    /// It is proxied as its `fallback` says: this host cannot have the kernel mode.
    #[serde(default)]
    pub fallback: bool,
    /// Listeners.
    pub listen: Vec<SocketAddr>,
    /// Scheduler.
    pub balance: String,
    /// Connections now.
    pub connections: u64,
    /// Connections since the start of the process.
    pub total: u64,
    /// Connections that no backend took.
    pub failed: u64,
    /// Connections refused by a limit.
    pub refused: u64,
    /// Connections refused since their header of the PROXY protocol was missing, malformed or late,
    /// or since they came from where none is accepted.
    #[serde(default)]
    pub bad_headers: u64,
    /// Connections refused by `allow` or `deny`.
    #[serde(default)]
    pub denied: u64,
    /// Connections refused by `source_rate`, in proxy mode.
    #[serde(default)]
    pub too_fast: u64,
    /// Connections that waited in vain for a backend with room.
    #[serde(default)]
    pub queue_timeouts: u64,
    /// Connections that wait for a backend with room now.
    #[serde(default)]
    pub queued: u64,
    /// Times that another backend was tried, in proxy mode.
    #[serde(default)]
    pub retries: u64,
    /// The memory of its clients; none: it has no table of them.
    #[serde(default)]
    pub sticks: Option<StickStatus>,
    /// Backends.
    pub backends: Vec<BackendStatus>,
    /// Where else than in the file its backends come from.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// Names of backends of the file that operators have removed and that have no connections.
    #[serde(default)]
    pub removed: Vec<String>,
}

/// A backend.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct BackendStatus {
    /// Name.
    pub name: String,
    /// Address.
    pub address: String,
    /// Its pool; none: the service's own.
    #[serde(default)]
    pub pool: Option<String>,
    /// Weight.
    pub weight: u16,
    /// What the scheduler measures of it; none: nothing.
    #[serde(default)]
    pub measure: Option<Measure>,
    /// Health verdict.
    pub up: bool,
    /// Why, in a few words (`check ok in 0.2 ms`, `connect refused`).
    pub reason: String,
    /// Drain or enabled.
    pub admin: AdminState,
    /// Connections now.
    pub connections: u64,
    /// Connections since the start of the process.
    pub total: u64,
    /// Connects that failed.
    pub connect_failures: u64,
    /// The same, by how.
    #[serde(default)]
    pub failures: Failures,
    /// What connects took, in proxy mode.
    #[serde(default)]
    pub connect: Histogram,
    /// Bytes from clients, of proxied connections.
    #[serde(default)]
    pub bytes_up: u64,
    /// Bytes to clients, of proxied connections.
    #[serde(default)]
    pub bytes_down: u64,
    /// Proxied connections that have ended, by how.
    #[serde(default)]
    pub ends: Ends,
    /// Checks that succeeded.
    pub checks_good: u64,
    /// Checks that failed.
    pub checks_bad: u64,
    /// Where it comes from: `file`, `runtime`, or a source (`dns NAME`, `file PATH`).
    #[serde(default)]
    pub origin: String,
    /// It was removed, and has connections that go on.
    #[serde(default)]
    pub leaving: bool,
    /// What is not as the file says since operators said so, in words.
    #[serde(default)]
    pub differs: Option<String>,
    /// Milliseconds until what is left on it is reset.
    #[serde(default)]
    pub cut_in_ms: Option<u64>,
}

/// The data path in the kernel. Counts are of this process's life, those of the program
/// (`counters`) of the pinned tables' life.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NatStatus {
    /// Where the kernel calls the program: `eth0 (tcx)`.
    pub hooks: Vec<String>,
    /// The lease holds: this node forwards.
    pub forwarding: bool,
    /// What was left of a lease when it was renewed, in microseconds: the least within the last one to
    /// two minutes; none: this node did not forward.
    #[serde(default)]
    pub lease_margin_us: Option<u64>,
    /// Connections in the kernel's table, ended ones that are still kept included.
    pub flows: u64,
    /// Most of them.
    pub max_flows: u64,
    /// How far they are, by name, as of the last walk through the table (2 s ago, or longer where
    /// there are very many).
    pub states: BTreeMap<String, u64>,
    /// Handshakes that wait for the standby's word now.
    pub waiting: u64,
    /// Handshakes that the standby's word let go on.
    pub released_acknowledged: u64,
    /// Handshakes that went on at once, since no standby followed.
    pub released_alone: u64,
    /// Handshakes that went on after `sync_timeout`, without the standby's word.
    pub released_late: u64,
    /// The standby is late: handshakes do not wait for it until it has caught up.
    pub degraded: bool,
    /// Connections that went to another backend before the handshake.
    pub retries: u64,
    /// Connections that no backend took.
    pub unserved: u64,
    /// Resets sent to ends of connections that this node does not know or had to end.
    pub resets: u64,
    /// Connections whose ends were probed after a takeover.
    pub probed: u64,
    /// Times the kernel's table was read whole because an event was lost.
    pub rescans: u64,
    /// What the program counts, by name.
    pub counters: BTreeMap<String, u64>,
}

/// Counters of things that should be rare.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Counters {
    /// Datagrams on the heartbeat port that were not ours or damaged.
    pub heartbeats_rejected: u64,
    /// Authentic datagrams that came twice or too late.
    pub heartbeats_replayed: u64,
    /// Heartbeats from a life of the peer that has not proved to be present.
    pub heartbeats_unconfirmed: u64,
    /// Sessions that ended with a fault of the peer (bad frame, wrong key).
    pub session_faults: u64,
    /// Sessions that were established.
    pub sessions: u64,
    /// Closed sessions whose peer turned out to be alive.
    pub false_alarms: u64,
    /// Turns that came so late that the node gave up what it had concluded.
    pub pauses: u64,
    /// Longest time between two turns, in microseconds.
    pub longest_turn_gap_us: u64,
    /// Outputs dropped because an adapter's queue was full.
    pub outputs_dropped: u64,
    /// Bad requests on the control socket.
    pub control_rejected: u64,
    /// Lines of the log of connections that were dropped, since the start of the process.
    #[serde(default)]
    pub log_dropped: u64,
    /// Times that the source of flow events said that it lost some.
    pub flow_events_lost: u64,
}
