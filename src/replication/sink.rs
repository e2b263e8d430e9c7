//! The backup's end: apply, acknowledge, ask for a snapshot.

use super::{PeerFault, Replica};
use crate::status::ReplicationStatus;
use crate::time::Mono;
use crate::wire::replication::{Frame, Position};

/// What a sink leaves behind when its node becomes master.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// The state.
    pub replica: Replica,
    /// Where the sink stood.
    pub position: Position,
    /// The state is a master's whole state at `position`.
    pub complete: bool,
}

/// The backup's end of the stream.
#[derive(Clone, Debug)]
pub struct Sink {
    replica: Replica,
    position: Position,
}

impl Sink {
    /// A sink that starts from what the node knows; the first snapshot replaces it.
    pub fn new(replica: Replica) -> Self {
        Self {
            replica,
            position: Position::default(),
        }
    }

    /// A frame came: `Snapshot*` or `Update`. `Ack` and `ResyncRequest` are ignored, they crossed
    /// with a change of roles; `Hello` and the handover are not for the sink.
    ///
    /// # Errors
    ///
    /// The frame breaks the protocol; close the session and `detach`.
    pub fn handle(&mut self, _frame: Frame, _now: Mono) -> Result<(), PeerFault> {
        Ok(())
    }

    /// The session is gone. The state stays; the next session begins with a snapshot.
    pub fn detach(&mut self) {}

    /// The next frame to send: `Ack` (the latest position only) or `ResyncRequest`.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        None
    }

    /// A snapshot came whole on this session, and every update since.
    pub const fn in_sync(&self) -> bool {
        false
    }

    /// The last item applied.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// For the read model.
    pub fn status(&self, _now: Mono) -> ReplicationStatus {
        ReplicationStatus::default()
    }

    /// The state.
    pub const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The node becomes master.
    pub fn into_restored(self) -> Restored {
        Restored {
            replica: self.replica,
            position: self.position,
            complete: false,
        }
    }
}
