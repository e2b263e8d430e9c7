//! What the data path tells the node about connections.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{BackendId, ConnectFailure, FlowId, ServiceId};
use crate::wire::replication::StickKey;

/// One thing that happened to a connection. Sent upwards in batches.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum FlowEvent {
    /// A connection was closed.
    Closed {
        /// Which.
        flow: FlowId,
        /// Bytes from client to backend.
        up: u64,
        /// Bytes from backend to client.
        down: u64,
        /// Who ended it, and how.
        end: FlowEnd,
    },
    /// A connect to a backend failed (the next backend is tried).
    ConnectFailed {
        /// The backend.
        backend: BackendId,
        /// How.
        failure: ConnectFailure,
    },
    /// A worker's queue was full and events are missing. What the node knows of this worker's
    /// connections is void; each live one follows as `Opened`, in this batch and the next ones.
    Lost {
        /// The top 16 bits of its flow ids.
        worker: u16,
        /// How many events.
        count: u64,
    },
    /// Client and backend are connected to each other.
    Opened {
        /// Which.
        flow: FlowId,
        /// The service.
        service: ServiceId,
        /// The backend.
        backend: BackendId,
        /// The client.
        client: SocketAddr,
        /// How long the connect to the backend took.
        connect: Duration,
    },
    /// Byte counts of a connection that lives on, absolute; at most one a second and connection.
    Progress {
        /// Which.
        flow: FlowId,
        /// Bytes from client to backend.
        up: u64,
        /// Bytes from backend to client.
        down: u64,
    },
    /// A client is remembered with this backend. Told when that is new, and some times within its
    /// `ttl` as long as it is used.
    Stuck {
        /// Which entry.
        key: StickKey,
        /// The backend.
        backend: BackendId,
    },
    /// A client is not remembered any more: others needed its place.
    Unstuck {
        /// Which entry.
        key: StickKey,
    },
    /// A client got no backend.
    Unserved {
        /// The service.
        service: ServiceId,
        /// Why.
        why: Unserved,
    },
}

/// Who ended a connection, and how.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowEnd {
    /// Both sides closed in order.
    Complete,
    /// Reset or error on the client's side.
    ClientError,
    /// Its backend was judged down, with `on_down = "reset"`.
    BackendDown,
    /// Reset or error on the backend's side.
    BackendError,
    /// No byte for the idle timeout.
    Idle,
    /// The node let go of it (lost mastership, stop).
    Dropped,
}

/// Why a client got no backend.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unserved {
    /// Every backend was tried, or as many as may be.
    AllFailed,
    /// An access list.
    Denied,
    /// The header of the PROXY protocol that it must begin with is missing, malformed or late, or it
    /// comes from where none is accepted.
    Header,
    /// A connection limit.
    Limit,
    /// No backend is eligible.
    NoBackend,
    /// Its backend did not become free in time.
    QueueTimeout,
    /// Its source opens too many connections a second.
    SourceRate,
}

mod table;

pub use table::{BackendCounts, FlowTable, ServiceCounts};
