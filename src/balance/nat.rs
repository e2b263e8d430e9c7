//! What the node and the kernel mode's data path tell each other.
//!
//! The node decides who serves and who is master, and owns the replicated table; the data path owns
//! the kernel's tables. Facts about connections flow up on the master and down on its standby.

pub mod leases;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::flow::FlowEnd;
use crate::config::Config;
use crate::model::{BackendId, ConnectFailure, Neighbour, ServiceId, Stale};
use crate::wire::replication::{Item, NatKey, NatRecord};

/// What the node wants. Commands arrive in the order in which they were given; none is lost.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum NatCommand {
    /// The standby knows what every report up to this ticket said; or there is no standby that
    /// follows, and nobody is to wait for one.
    Acknowledged {
        /// Of the last such report.
        ticket: u64,
        /// The standby said so.
        by_standby: bool,
    },
    /// The backends are those of this configuration from now on; services and settings stay. Those
    /// that are new get no connections before the next `Publish`.
    #[serde(skip)]
    Configure(Arc<Config>),
    /// As master: connections that the peer's last process had begun and not told; both nodes' logs
    /// have them now.
    Inherit(Vec<Item>),
    /// Facts that the master told: `Nat*` items, in order. To be in the kernel's tables before
    /// whatever is commanded next.
    Learn(Vec<Item>),
    /// This node became master: the connections that it knows are its own now.
    Lead,
    /// A switchover comes: what the standby has not acknowledged by then it will never know, so no
    /// handshake may go on without its word. Established connections go on. Answered by a report
    /// that says `paused`.
    Pause,
    /// The addresses are here and announced: wake those that wait for an answer that got lost.
    Probe,
    /// Where this node and its peer are on an interface. Latest wins, for each interface.
    Neighbour {
        /// The interface's name.
        interface: String,
        /// Where.
        neighbour: Neighbour,
    },
    /// Let new connections go to these backends only. Latest wins.
    Publish {
        /// Those that are up and not drained.
        eligible: BTreeSet<BackendId>,
        /// Those that were judged down: what becomes of their connections is the service's
        /// `on_down`.
        down: BTreeSet<BackendId>,
    },
    /// What this node takes from its peer and hands to it. Latest wins.
    Relay(Relay),
    /// As master: end the connections of these backends, with a reset to both ends.
    Reset(BTreeSet<BackendId>),
    /// The switchover came to nothing.
    Resume,
    /// A snapshot begins: what is not learned until its end is to be forgotten then.
    SnapshotBegin,
    /// The snapshot is whole.
    SnapshotEnd,
    /// The snapshot came to nothing.
    SnapshotVoid,
    /// This node is not master any more.
    Yield,
}

/// What passes between the nodes at layer 2. Whatever belongs to the master is handed to it by a node
/// that is not; these are the exceptions.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Relay {
    /// As backup of a master: a packet that the master hands over is served here at once. That it
    /// was handed over says that the master is dead or hangs.
    pub accept: bool,
    /// As backup of a master that has been silent for longer than a living one is: if its process is
    /// dead, its program is asked for the handshakes that waited in it.
    #[serde(default)]
    pub asks: bool,
    /// As master: a packet of a connection that is not known here is handed to the peer, which may
    /// have it still.
    pub second_chance: bool,
    /// As master that is handing over: new connections are the peer's already.
    pub yields: bool,
}

/// What happened to connections, in order.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NatReport {
    /// Its number: one more than the last report's. To be acknowledged.
    pub ticket: u64,
    /// What happened.
    pub events: Vec<NatEvent>,
    /// The answer to [`NatCommand::Pause`]: whatever a client may have seen is in this report and
    /// those before.
    #[serde(default)]
    pub paused: bool,
}

/// One thing that happened to a connection of the kernel mode.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum NatEvent {
    /// It ended.
    Closed {
        /// Which.
        key: NatKey,
        /// How.
        end: FlowEnd,
    },
    /// A backend did not take a connection (the next one is tried).
    ConnectFailed {
        /// The backend.
        backend: BackendId,
        /// How.
        failure: ConnectFailure,
    },
    /// It was found when the program started, and began so shortly before the death of the process
    /// before this one that a master may not know it. Told beside `Opened`.
    Inherited {
        /// Which.
        key: NatKey,
        /// See `Opened`.
        record: NatRecord,
        /// See `Opened`.
        age_ms: u64,
    },
    /// Where its ends are; the first time: the backend has answered.
    Marks {
        /// Which.
        key: NatKey,
        /// The backend that serves it.
        backend: BackendId,
        /// See [`NatRecord::client_mark`].
        client: u32,
        /// See [`NatRecord::backend_mark`].
        backend_mark: u32,
        /// The first time.
        answered: bool,
    },
    /// It began, was found when the program started, or goes to another backend.
    Opened {
        /// Which.
        key: NatKey,
        /// All of it, but for `since_unix_ms`, which is zero: the node knows the time of day.
        record: NatRecord,
        /// How long ago it began, in milliseconds.
        age_ms: u64,
    },
    /// A neighbour sends its packets for a VIP to this node, which is not master and handed them on.
    Stale(Stale),
    /// A client got no backend.
    Unserved {
        /// The service.
        service: ServiceId,
    },
}
