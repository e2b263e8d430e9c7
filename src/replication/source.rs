//! The master's end: log, window, snapshot.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use super::replica::Key;
use super::snapshot::Snapshot;
use super::{PeerFault, Replica};
use crate::model::Epoch;
use crate::status::{ReplicationRole, ReplicationStatus};
use crate::time::Mono;
use crate::wire::replication::{Frame, Item, MAX_BATCH, Position};

/// Items in the log at most; one more, and the peer gets a new snapshot instead. An item takes
/// about 100 bytes.
pub const MAX_LOG: usize = 262_144;
/// Update frames in flight at most.
pub const WINDOW: usize = 64;
/// Without progress for this long the session is given up. Progress is an acknowledgement, and
/// until a snapshot is acknowledged, that the session takes what is sent.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(10);

// A full log is not all in flight, so an acknowledgement of what was sent before a snapshot is
// never one of the snapshot.
const _: () = assert!(MAX_LOG > WINDOW * MAX_BATCH);

/// The master's end of the stream.
#[derive(Clone, Debug)]
pub struct Source {
    epoch: Epoch,
    replica: Replica,
    stage: Stage,
    /// Sequence of the last item written.
    written: u64,
    /// The last items written, back to the last one acknowledged or the snapshot's position.
    log: VecDeque<Logged>,
    /// The highest sequence that the sink can know of on this session.
    sent: u64,
    /// The last sequence of each `Update` in flight.
    in_flight: VecDeque<u64>,
    /// The highest sequence acknowledged in this mastership.
    acknowledged: u64,
    /// The last progress, or when there began to be something to wait for.
    waiting_since: Mono,
    snapshots: u64,
    resyncs: u64,
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Logged {
    item: Item,
    at: Mono,
}

#[derive(Clone, Debug)]
enum Stage {
    /// There is no session.
    Detached,
    /// A snapshot is to begin with the next frame. There is no log until then.
    Due,
    /// A snapshot is being sent.
    Streaming(Snapshot),
    /// The snapshot at this sequence is sent. Updates follow already.
    Ended(u64),
    /// The sink acknowledged a snapshot.
    Live,
}

/// [`MAX_LOG`], [`WINDOW`] and [`MAX_BATCH`]; tests take smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) log: usize,
    pub(super) window: usize,
    pub(super) batch: usize,
}

impl Source {
    /// A source whose log begins with this mastership and this state. Nobody is attached.
    pub fn new(epoch: Epoch, replica: Replica, now: Mono) -> Self {
        let limits = Limits {
            log: MAX_LOG,
            window: WINDOW,
            batch: MAX_BATCH,
        };
        Self::with_limits(epoch, replica, now, limits)
    }

    pub(super) const fn with_limits(
        epoch: Epoch,
        replica: Replica,
        now: Mono,
        limits: Limits,
    ) -> Self {
        Self {
            epoch,
            replica,
            stage: Stage::Detached,
            written: 0,
            log: VecDeque::new(),
            sent: 0,
            in_flight: VecDeque::new(),
            acknowledged: 0,
            waiting_since: now,
            snapshots: 0,
            resyncs: 0,
            limits,
        }
    }

    /// A fact changed: applied here, and on its way to the peer if one is attached. What changes
    /// nothing here (or does not fit) is not sent, so the sink decides nothing.
    pub fn write(&mut self, item: Item, now: Mono) {
        let key = Key::of(&item);
        let was = match &self.stage {
            Stage::Streaming(snapshot) if snapshot.needs(key) => Some(self.replica.item(key)),
            _ => None,
        };
        if !self.replica.apply(&item) {
            return;
        }
        self.written += 1;
        if matches!(self.stage, Stage::Detached | Stage::Due) {
            return;
        }
        if self.log.len() >= self.limits.log {
            self.resyncs += 1;
            self.restart();
            return;
        }
        if let (Stage::Streaming(snapshot), Some(was)) = (&mut self.stage, was) {
            snapshot.keep(key, was);
        }
        if matches!(self.stage, Stage::Live) && self.log.is_empty() {
            self.waiting_since = now;
        }
        self.log.push_back(Logged { item, at: now });
    }

    /// The session stands: a snapshot is due.
    pub fn attach(&mut self, now: Mono) {
        self.sent = 0;
        self.waiting_since = now;
        self.restart();
    }

    /// The session is gone; the log is not kept for it.
    pub fn detach(&mut self) {
        self.restart();
        self.stage = Stage::Detached;
    }

    /// From a snapshot on.
    fn restart(&mut self) {
        self.stage = Stage::Due;
        // Its memory too: a log that was full once need not be so again.
        self.log = VecDeque::new();
        self.in_flight.clear();
    }

    /// The sink got this far.
    ///
    /// # Errors
    ///
    /// A position of a newer epoch, or one never sent. One of an older epoch is ignored: it crossed
    /// with a change of roles.
    pub fn handle_ack(&mut self, position: Position, now: Mono) -> Result<(), PeerFault> {
        let sent = Position {
            epoch: self.epoch,
            sequence: self.sent,
        };
        match position.epoch.cmp(&self.epoch) {
            _ if matches!(self.stage, Stage::Detached) => return Ok(()),
            Ordering::Less => return Ok(()),
            Ordering::Equal if position <= sent => {}
            Ordering::Equal | Ordering::Greater => {
                return Err(PeerFault::AckAhead {
                    got: position,
                    sent,
                });
            }
        }
        let sequence = position.sequence;
        self.acknowledged = self.acknowledged.max(sequence);
        let trimmed = sequence.saturating_sub(self.log_start()) as usize;
        self.log.drain(..trimmed);
        let frames = self.in_flight.partition_point(|last| *last <= sequence);
        self.in_flight.drain(..frames);
        match self.stage {
            Stage::Ended(at) if sequence >= at => {
                self.stage = Stage::Live;
                self.waiting_since = now;
            }
            Stage::Live if trimmed > 0 => self.waiting_since = now,
            _ => {}
        }
        Ok(())
    }

    /// The sink lost its place: a snapshot is due.
    pub fn handle_resync(&mut self, now: Mono) {
        if matches!(self.stage, Stage::Detached | Stage::Due) {
            return;
        }
        self.resyncs += 1;
        self.waiting_since = now;
        self.restart();
    }

    /// The session took frames: as long as the end of a snapshot is still on its way, that is
    /// progress.
    pub const fn handle_sent(&mut self, now: Mono) {
        if matches!(self.stage, Stage::Ended(_)) {
            self.waiting_since = now;
        }
    }

    /// The deadline came.
    ///
    /// # Errors
    ///
    /// `AckOverdue`; close the session and `detach`. Until then it is said again after another
    /// [`ACK_TIMEOUT`].
    pub fn handle_timeout(&mut self, now: Mono) -> Result<(), PeerFault> {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return Ok(());
        }
        self.waiting_since = now;
        Err(PeerFault::AckOverdue)
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let waiting = match self.stage {
            Stage::Detached => false,
            Stage::Due | Stage::Streaming(_) | Stage::Ended(_) => true,
            Stage::Live => !self.log.is_empty(),
        };
        waiting.then(|| self.waiting_since + ACK_TIMEOUT)
    }

    /// The next frame to send. To be pulled only as long as the session's queue has room: that is
    /// what paces a snapshot. Updates are paced by the window as well.
    pub fn poll_frame(&mut self, now: Mono) -> Option<Frame> {
        match &mut self.stage {
            Stage::Detached => None,
            Stage::Due => {
                let snapshot = Snapshot::begin(self.position(), &self.replica);
                let (position, items) = (snapshot.position(), snapshot.items());
                self.stage = Stage::Streaming(snapshot);
                self.waiting_since = now;
                Some(Frame::SnapshotBegin { position, items })
            }
            Stage::Streaming(snapshot) => {
                self.waiting_since = now;
                let chunk = snapshot.next_chunk(&self.replica, self.limits.batch);
                if !chunk.is_empty() {
                    return Some(Frame::SnapshotChunk(chunk));
                }
                self.sent = snapshot.position().sequence;
                self.stage = Stage::Ended(self.sent);
                self.snapshots += 1;
                Some(Frame::SnapshotEnd)
            }
            Stage::Ended(_) | Stage::Live => self.next_update(),
        }
    }

    fn next_update(&mut self) -> Option<Frame> {
        if self.in_flight.len() >= self.limits.window || self.sent == self.written {
            return None;
        }
        let after = Position {
            epoch: self.epoch,
            sequence: self.sent,
        };
        let unsent = self.log.range((self.sent - self.log_start()) as usize..);
        let batch = unsent.take(self.limits.batch);
        let items: Vec<Item> = batch.map(|logged| logged.item.clone()).collect();
        self.sent += items.len() as u64;
        self.in_flight.push_back(self.sent);
        Some(Frame::Update { after, items })
    }

    /// The sequence before the log's first item.
    fn log_start(&self) -> u64 {
        self.written - self.log.len() as u64
    }

    /// A session stands and its sink has acknowledged a snapshot: it follows, at some lag.
    pub const fn in_sync(&self) -> bool {
        matches!(self.stage, Stage::Live)
    }

    /// In sync, and every item is acknowledged.
    pub fn drained(&self) -> bool {
        self.in_sync() && self.log.is_empty()
    }

    /// The sink has applied everything up to the item with this sequence, and follows.
    pub const fn follows_to(&self, sequence: u64) -> bool {
        self.in_sync() && self.acknowledged >= sequence
    }

    /// The last item written.
    pub const fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            sequence: self.written,
        }
    }

    /// For the read model.
    pub fn status(&self, now: Mono) -> ReplicationStatus {
        let waited = |oldest: &Logged| now.since(oldest.at).as_millis() as u64;
        ReplicationStatus {
            connected: !matches!(self.stage, Stage::Detached),
            role: ReplicationRole::Source,
            in_sync: self.in_sync(),
            epoch: self.epoch.0,
            position: self.written,
            acknowledged: self.acknowledged,
            lag_items: self.log.len() as u64,
            lag_ms: self.log.front().map_or(0, waited),
            snapshots: self.snapshots,
            resyncs: self.resyncs,
            flows: self.replica.connections(),
            ..ReplicationStatus::default()
        }
    }

    /// The state.
    pub const fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The state, when the mastership ends.
    pub fn into_replica(self) -> Replica {
        self.replica
    }

    /// Items in the log, frames in flight, entries kept for a snapshot.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let kept = match &self.stage {
            Stage::Streaming(snapshot) => snapshot.kept(),
            _ => 0,
        };
        (self.log.len(), self.in_flight.len(), kept)
    }
}
