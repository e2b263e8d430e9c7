//! Replication: the backup's copy of what the master knows.
//!
//! The master has a [`Source`]: its own replica, a log of changes, and the place of the peer in it.
//! The backup has a [`Sink`]: it applies what comes and says how far it got. Both end as a
//! [`Replica`], from which the other role is built; so a node cannot be both at once.
//!
//! Owns: what is replicated and in which order. Never: opens a session, decides who is master,
//! knows what a fact means (`health`, `balance` and `node` do).
//!
//! Invariants: what the sink acknowledged equals the source's state at that position, item by item;
//! the sink's position never goes back within an epoch and session; a half-received snapshot never replaces a
//! whole state; the log, the window, batches and tables are bounded by named limits.
//!
//! Life of a stream, as the source sees it:
//!
//! ```text
//!            attach       SnapshotBegin             SnapshotEnd         Ack(position)
//!  Detached --------> Due --------------> Streaming -----------> Ended --------------> Live
//!      ^               ^                      |                    |                    |
//!      |               +----------------------+-- ResyncRequest, or log full -----------+
//!      +------ detach, from anywhere
//! ```
//!
//! A snapshot is the state at its position exactly, though writes go on while it is sent (see
//! `snapshot`); the log holds what was written since, and `Update`s follow the `SnapshotEnd`
//! without waiting for its acknowledgement. The sink builds the snapshot aside: for that time it
//! holds two states, and until it ends the older one, which is whole, is what a takeover gets.
//! Memory at the limits: 200 MB a state, and 50 MB for the log with what the snapshot keeps.

mod attic;
mod replica;
mod sink;
mod snapshot;
mod source;

#[cfg(test)]
mod convergence_test;
#[cfg(test)]
mod sink_test;
#[cfg(test)]
mod source_test;
#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::wire::replication::Position;

pub use attic::Attic;
pub use replica::{MAX_BACKENDS, MAX_FLOWS, MAX_STICKS, Replica};
pub use sink::{Learned, Restored, Sink};
pub use source::{ACK_TIMEOUT, MAX_LOG, Source, WINDOW};

/// The peer did what the protocol forbids, or nothing for too long: drop the session, count, log.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum PeerFault {
    /// An acknowledgement of something that was never sent.
    #[error("acknowledged {got:?}, but only {sent:?} was sent")]
    AckAhead {
        /// What was acknowledged.
        got: Position,
        /// The last position sent.
        sent: Position,
    },
    /// No acknowledgement for [`ACK_TIMEOUT`].
    #[error("no acknowledgement for {} s", ACK_TIMEOUT.as_secs())]
    AckOverdue,
    /// More items in one frame than `MAX_BATCH`.
    #[error("{0} items in one frame")]
    BatchTooLong(usize),
    /// A snapshot that lies before the state that it would replace, within one epoch and session.
    #[error("a snapshot at {got:?}, but the state here is at {have:?}")]
    OldSnapshot {
        /// The snapshot's position.
        got: Position,
        /// The position here.
        have: Position,
    },
    /// A snapshot announces more items than a replica may hold.
    #[error("a snapshot of {0} items")]
    SnapshotTooLong(u64),
    /// A snapshot's items are not as many as it announced.
    #[error("a snapshot of {announced} items had {got}")]
    SnapshotMiscounted {
        /// In `SnapshotBegin`.
        announced: u64,
        /// That came.
        got: u64,
    },
    /// A frame that has no place here.
    #[error("a {0} out of place")]
    Unexpected(&'static str),
}
