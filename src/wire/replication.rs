//! Frames of the replication session.
//!
//! The session is one encrypted, mutually authenticated stream between the nodes. Each node sends
//! `Hello` first. The master is the source: a snapshot, then updates, each numbered; the backup is
//! the sink and acknowledges positions.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::Mark;
use crate::model::{BackendId, ConfigHash, Epoch, FlowId, Incarnation, NodeId, ServiceId};

use super::parcel::Parcel;
use super::statement::Statement;
pub use crate::model::AdminState;

/// Version of everything on the wire between nodes; raised on any change of shape.
pub const PROTOCOL: u16 = 6;
/// Items in one `Update` or `SnapshotChunk` at most.
pub const MAX_BATCH: usize = 512;
/// What the decoder says of a list with more than [`MAX_BATCH`] items.
pub(crate) const TOO_MANY_ITEMS: &str = "more items than a batch may have";

/// A place in the source's log. Ordered by epoch, then by sequence.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Position {
    /// The mastership that wrote the log.
    pub epoch: Epoch,
    /// Number of the last item; 0 before the first.
    pub sequence: u64,
}

/// One message of the session.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Frame {
    /// First frame of each side.
    Hello(Hello),
    /// The sink's state equals the source's at this position.
    Ack(Position),
    /// Backup to master: please hand over (planned switchover or preemption).
    HandoverRequest(HandoverCause),
    /// Master to backup: the log ends here; take over now with this epoch.
    Handover {
        /// The epoch of the new mastership.
        epoch: Epoch,
        /// Why.
        cause: HandoverCause,
    },
    /// The sink lost its place: send a snapshot.
    ResyncRequest,
    /// A snapshot starts; it replaces the sink's state when it is complete.
    SnapshotBegin {
        /// The position that the snapshot represents.
        position: Position,
        /// Items that follow.
        items: u64,
    },
    /// Part of a snapshot.
    SnapshotChunk(#[serde(deserialize_with = "at_most_a_batch")] Vec<Item>),
    /// The snapshot is complete.
    SnapshotEnd,
    /// Changes, in order. The first one's sequence is `after.sequence + 1`.
    Update {
        /// The position before the first item.
        after: Position,
        /// The changes.
        #[serde(deserialize_with = "at_most_a_batch")]
        items: Vec<Item>,
    },
    /// Sink to source: connections of the kernel mode that a process which died here had begun
    /// shortly before. The source takes those that it does not know into its log.
    Inherited(#[serde(deserialize_with = "at_most_a_batch")] Vec<Item>),
    /// Sink to source: what operators said of backends on this side and the source does not know, or
    /// knows an earlier word about: after a split, or a restart from what the disk had. The source takes
    /// what is later than its own into its log.
    Said(#[serde(deserialize_with = "at_most_a_batch")] Vec<Item>),
    /// Fingerprints of the sender's settings, since the configurations differ.
    Marks {
        /// The sender's configuration.
        config: ConfigHash,
        /// Some of them.
        #[serde(deserialize_with = "at_most_a_batch")]
        marks: Vec<Mark>,
        /// These were the last.
        last: bool,
    },
    /// From daemon to daemon.
    Parcel(Parcel),
}

/// Who speaks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hello {
    /// Must equal [`PROTOCOL`].
    pub protocol: u16,
    /// The sender.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its configuration.
    pub config_hash: ConfigHash,
}

/// Why a mastership is handed over.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandoverCause {
    /// An operator asked for it.
    Operator,
    /// The node with the higher priority is in sync again.
    Preempt,
    /// The master stops.
    Stop,
}

/// One replicated fact. Applying the same item twice is harmless.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Item {
    /// What an operator said of a backend.
    Said {
        /// The backend.
        backend: BackendId,
        /// What, and when.
        statement: Statement,
    },
    /// Bytes of a live connection, absolute counts.
    FlowBytes {
        /// The connection.
        flow: FlowId,
        /// From client to backend.
        up: u64,
        /// From backend to client.
        down: u64,
    },
    /// A connection ended.
    FlowClose {
        /// The connection.
        flow: FlowId,
    },
    /// A connection began.
    FlowOpen {
        /// The connection.
        flow: FlowId,
        /// What is known of it.
        record: FlowRecord,
    },
    /// The verdict on a backend, with its counters.
    Health {
        /// The backend.
        backend: BackendId,
        /// What holds now.
        record: HealthRecord,
    },
    /// What is known of a connection of the kernel mode: it began, or goes to another backend.
    NatOpen {
        /// The connection.
        key: NatKey,
        /// All of it.
        record: NatRecord,
    },
    /// Both ends of a connection of the kernel mode sent up to here, or a little more.
    NatMarks {
        /// The connection.
        key: NatKey,
        /// The client's mark.
        client: u32,
        /// The backend's mark; from the first one on the connection counts as answered.
        backend: u32,
    },
    /// A connection of the kernel mode ended.
    NatClose {
        /// The connection.
        key: NatKey,
    },
    /// A client is remembered with its backend.
    Stick {
        /// Which entry.
        key: StickKey,
        /// What is known of it.
        record: StickRecord,
    },
    /// A client is not remembered any more.
    Unstick {
        /// Which entry.
        key: StickKey,
    },
}

impl Item {
    /// It is about a client that is remembered.
    pub const fn of_stick(&self) -> bool {
        matches!(self, Self::Stick { .. } | Self::Unstick { .. })
    }

    /// It is what an operator said.
    pub const fn is_said(&self) -> bool {
        matches!(self, Self::Said { .. })
    }

    /// It is about a connection of the kernel mode.
    pub const fn of_nat(&self) -> bool {
        matches!(
            self,
            Self::NatClose { .. } | Self::NatMarks { .. } | Self::NatOpen { .. }
        )
    }
}

/// A client that is remembered. Says nothing about who it is to anybody without the cluster's key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct StickKey {
    /// The service.
    pub service: ServiceId,
    /// A keyed hash of what the client is recognised by.
    pub hash: u64,
}

/// The backend of a client that is remembered, and the age of that.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StickRecord {
    /// The backend.
    pub backend: BackendId,
    /// When it was used last, in milliseconds on a scale that goes from master to master: each goes on
    /// where the one before was when it was heard last (`node::sticks`). It has no zero of its own, and
    /// no clock is read for it that could be set.
    pub used_ms: u64,
}

/// A connection of the kernel mode, as its client sees it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NatKey {
    /// The client.
    pub client: SocketAddr,
    /// Where it connected to.
    pub service: SocketAddr,
}

/// A connection of the kernel mode, as both nodes know it: enough to forward it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NatRecord {
    /// The service.
    pub service: ServiceId,
    /// The backend that serves it.
    pub backend: BackendId,
    /// The sender that the backend sees: an address and a port of ours, or the client (dnat).
    pub source: SocketAddr,
    /// Where the backend is.
    pub target: SocketAddr,
    /// A sequence number that the client has left behind, by less than 2^31: its first at the
    /// beginning.
    pub client_mark: u32,
    /// The same of the backend; none: it has not answered yet.
    pub backend_mark: Option<u32>,
    /// When it began, milliseconds since 1970 by the master's clock.
    pub since_unix_ms: u64,
}

/// A live connection, as the standby knows it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FlowRecord {
    /// The client's address.
    pub client: SocketAddr,
    /// The service it came to.
    pub service: ServiceId,
    /// The backend that serves it.
    pub backend: BackendId,
    /// When it was established, milliseconds since 1970 by the master's clock.
    pub since_unix_ms: u64,
    /// Bytes from client to backend.
    pub up: u64,
    /// Bytes from backend to client.
    pub down: u64,
}

/// A backend's health, as the master judged it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HealthRecord {
    /// The verdict.
    pub up: bool,
    /// Checks in a row that speak against the verdict.
    pub streak: u8,
    /// Checks that succeeded since the start.
    pub good: u64,
    /// Checks that failed since the start.
    pub bad: u64,
}

/// Reads a list of items and refuses one that is too long before it makes room for it.
fn at_most_a_batch<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Batch<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Batch<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_BATCH} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let claimed = list.size_hint().unwrap_or(0);
            if claimed > MAX_BATCH {
                return Err(A::Error::custom(TOO_MANY_ITEMS));
            }
            let mut items = Vec::with_capacity(claimed);
            while let Some(item) = list.next_element()? {
                if items.len() == MAX_BATCH {
                    return Err(A::Error::custom(TOO_MANY_ITEMS));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Batch(PhantomData))
}
