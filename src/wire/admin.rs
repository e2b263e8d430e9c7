//! Requests and responses of the control socket: one JSON object a line, each way.

use serde::{Deserialize, Serialize};

use crate::status::{Event, Status};
use crate::wire::replication::AdminState;

/// Longest line accepted, in bytes.
pub const MAX_LINE: usize = 64 * 1024;

/// What an operator asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to know. Answer: `Status`.
    Status,
    /// The timeline, newest last. Answer: `Events`.
    Events,
    /// Planned switchover; accepted on either node. Answer: `Done` once the switchover began.
    Failover,
    /// Drain or enable a backend; on the master. Answer: `Done`.
    Backend {
        /// Name of the service.
        service: String,
        /// Name of the backend.
        backend: String,
        /// What shall hold.
        state: AdminState,
    },
}

/// What the node answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "response", rename_all = "snake_case")]
pub enum Response {
    /// It is done, or has begun.
    Done {
        /// One sentence for the operator.
        message: String,
    },
    /// It was refused; nothing changed.
    Error {
        /// What is wrong and what to do instead.
        message: String,
    },
    /// The timeline.
    Events {
        /// Oldest first.
        events: Vec<Event>,
    },
    /// The read model.
    Status {
        /// All of it.
        status: Box<Status>,
    },
}
