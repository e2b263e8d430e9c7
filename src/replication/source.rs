//! The master's end: log, window, snapshot.

use std::time::Duration;

use super::{PeerFault, Replica};
use crate::model::Epoch;
use crate::status::ReplicationStatus;
use crate::time::Mono;
use crate::wire::replication::{Frame, Item, Position};

/// Items in the log at most; one more, and the peer gets a new snapshot instead.
pub const MAX_LOG: usize = 262_144;
/// Update frames in flight at most.
pub const WINDOW: usize = 64;
/// Without progress for this long the session is given up.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// The master's end of the stream.
#[derive(Clone, Debug)]
pub struct Source {
    epoch: Epoch,
    replica: Replica,
}

impl Source {
    /// A source whose log begins with this mastership and this state. Nobody is attached.
    pub fn new(epoch: Epoch, replica: Replica, _now: Mono) -> Self {
        Self { epoch, replica }
    }

    /// A fact changed: applied here, and on its way to the peer if one is attached.
    pub fn write(&mut self, item: Item, _now: Mono) {
        self.replica.apply(&item);
    }

    /// The session stands: a snapshot is due.
    pub fn attach(&mut self, _now: Mono) {}

    /// The session is gone; the log is not kept for it.
    pub fn detach(&mut self) {}

    /// The sink got this far.
    ///
    /// # Errors
    ///
    /// A position of a newer epoch, or one never sent. One of an older epoch is ignored: it crossed
    /// with a change of roles.
    pub fn handle_ack(&mut self, _position: Position, _now: Mono) -> Result<(), PeerFault> {
        Ok(())
    }

    /// The sink lost its place: a snapshot is due.
    pub fn handle_resync(&mut self, _now: Mono) {}

    /// The deadline came.
    ///
    /// # Errors
    ///
    /// `AckOverdue`; close the session and `detach`.
    pub fn handle_timeout(&mut self, _now: Mono) -> Result<(), PeerFault> {
        Ok(())
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        None
    }

    /// The next frame to send. To be pulled only as long as the session's queue has room: that is
    /// what paces a snapshot. Updates are paced by the window as well.
    pub fn poll_frame(&mut self, _now: Mono) -> Option<Frame> {
        None
    }

    /// A session stands and its sink has acknowledged a snapshot: it follows, at some lag.
    pub const fn in_sync(&self) -> bool {
        false
    }

    /// In sync, and every item is acknowledged.
    pub const fn drained(&self) -> bool {
        false
    }

    /// The last item written.
    pub const fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            sequence: 0,
        }
    }

    /// For the read model.
    pub fn status(&self, _now: Mono) -> ReplicationStatus {
        ReplicationStatus::default()
    }

    /// The state.
    pub const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The state, when the mastership ends.
    pub fn into_replica(self) -> Replica {
        self.replica
    }
}
