//! The backup's end: apply, acknowledge, ask for a snapshot.

use std::collections::VecDeque;

use super::{MAX_BACKENDS, MAX_FLOWS, MAX_STICKS, PeerFault, Replica};
use crate::status::{ReplicationRole, ReplicationStatus};
use crate::time::Mono;
use crate::wire::replication::{Frame, Item, MAX_BATCH, Position};

/// Items of the largest snapshot.
const MAX_ITEMS: u64 = (2 * MAX_FLOWS + MAX_STICKS + 2 * MAX_BACKENDS) as u64;

/// What a sink leaves behind when its node becomes master.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// The state.
    pub replica: Replica,
    /// Where the sink stood.
    pub position: Position,
    /// The state is a master's whole state at `position`.
    pub complete: bool,
    /// What [`Sink::poll_retired`] has not given yet.
    pub retired: Vec<Replica>,
}

/// What the tables of this node's data paths are to follow, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Learned {
    /// Facts about connections of the kernel mode, and about clients that are remembered.
    Items(Vec<Item>),
    /// A snapshot begins.
    SnapshotBegin,
    /// The snapshot is whole: what was not in it is not there any more.
    SnapshotEnd,
    /// The snapshot came to nothing.
    SnapshotVoid,
}

/// The backup's end of the stream.
#[derive(Clone, Debug)]
pub struct Sink {
    replica: Replica,
    position: Position,
    /// A snapshot has replaced what the node knew at first.
    complete: bool,
    /// The position was reached on this session. Another session may be with another log of the
    /// same epoch: two nodes that could not hear each other, or a node that forgot its last life.
    of_session: bool,
    stage: Stage,
    /// What to say next.
    due: Option<Due>,
    learned: VecDeque<Learned>,
    /// States before a snapshot, and snapshots that came to nothing.
    retired: Vec<Replica>,
    snapshots: u64,
    resyncs: u64,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Only a snapshot can be used; `asked`: for one, on this session.
    Lost { asked: bool },
    /// A snapshot comes; it is built aside.
    Receiving(Incoming),
    /// Every update is applied.
    Following,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    Ack,
    Resync,
}

/// A snapshot so far.
#[derive(Clone, Debug)]
struct Incoming {
    position: Position,
    announced: u64,
    got: u64,
    replica: Replica,
}

impl Sink {
    /// A sink that starts from what the node knows; the first snapshot replaces it.
    ///
    /// It asks for that snapshot: the source may have sent one while this node was not a sink yet.
    /// A `detach` takes the request back, since a source begins each session with a snapshot.
    pub fn new(replica: Replica) -> Self {
        Self {
            replica,
            position: Position::default(),
            complete: false,
            of_session: false,
            stage: Stage::Lost { asked: true },
            due: Some(Due::Resync),
            learned: VecDeque::new(),
            retired: Vec::new(),
            snapshots: 0,
            resyncs: 0,
        }
    }

    /// A frame came: `Snapshot*` or `Update`. `Ack` and `ResyncRequest` are ignored, they crossed
    /// with a change of roles; `Hello` and the handover are not for the sink.
    ///
    /// While the place is lost, everything but a `SnapshotBegin` is ignored.
    ///
    /// # Errors
    ///
    /// The frame breaks the protocol; close the session and `detach`. The state stays as it was.
    pub fn handle(&mut self, frame: Frame, _now: Mono) -> Result<(), PeerFault> {
        let verdict = match frame {
            Frame::SnapshotBegin { position, items } => self.begin(position, items),
            Frame::SnapshotChunk(items) => self.chunk(&items),
            Frame::SnapshotEnd => self.end(),
            Frame::Update { after, items } => self.update(after, &items),
            Frame::Ack(_) | Frame::ResyncRequest => Ok(()),
            Frame::Hello(_) => Err(PeerFault::Unexpected("Hello")),
            Frame::HandoverRequest(_) => Err(PeerFault::Unexpected("HandoverRequest")),
            Frame::Inherited(_) => Err(PeerFault::Unexpected("Inherited")),
            Frame::Marks { .. } => Err(PeerFault::Unexpected("Marks")),
            Frame::Parcel(_) => Err(PeerFault::Unexpected("Parcel")),
            Frame::Said(_) => Err(PeerFault::Unexpected("Said")),
            Frame::Handover { .. } => Err(PeerFault::Unexpected("Handover")),
        };
        if verdict.is_err() {
            // The session ends, and with it whatever is still on its way.
            self.lose(true);
            self.due = None;
        }
        verdict
    }

    fn begin(&mut self, position: Position, items: u64) -> Result<(), PeerFault> {
        if position.epoch < self.position.epoch {
            // The sender has yet to hear that its epoch is old; it will begin anew under a later
            // one, or end. Asking now would only bring the same again.
            self.lose(true);
            self.due = None;
            return Ok(());
        }
        if self.of_session && position < self.position {
            return Err(PeerFault::OldSnapshot {
                got: position,
                have: self.position,
            });
        }
        if items > MAX_ITEMS {
            return Err(PeerFault::SnapshotTooLong(items));
        }
        self.due = None;
        self.lose(true);
        self.learned.push_back(Learned::SnapshotBegin);
        self.stage = Stage::Receiving(Incoming {
            position,
            announced: items,
            got: 0,
            replica: Replica::default(),
        });
        Ok(())
    }

    fn chunk(&mut self, items: &[Item]) -> Result<(), PeerFault> {
        check_length(items)?;
        match &mut self.stage {
            Stage::Receiving(incoming) => {
                incoming.take(items)?;
                self.learn(items);
                Ok(())
            }
            Stage::Lost { .. } => {
                self.lose_place();
                Ok(())
            }
            Stage::Following => Err(PeerFault::Unexpected("SnapshotChunk")),
        }
    }

    fn end(&mut self) -> Result<(), PeerFault> {
        match &mut self.stage {
            Stage::Receiving(incoming) => {
                let whole = incoming.finish()?;
                self.retired
                    .push(std::mem::replace(&mut self.replica, whole));
                self.position = incoming.position;
                self.complete = true;
                self.of_session = true;
                self.stage = Stage::Following;
                self.learned.push_back(Learned::SnapshotEnd);
                self.due = Some(Due::Ack);
                self.snapshots += 1;
                Ok(())
            }
            Stage::Lost { .. } => {
                self.lose_place();
                Ok(())
            }
            Stage::Following => Err(PeerFault::Unexpected("SnapshotEnd")),
        }
    }

    fn update(&mut self, after: Position, items: &[Item]) -> Result<(), PeerFault> {
        check_length(items)?;
        if after.epoch < self.position.epoch {
            return Ok(());
        }
        match self.stage {
            Stage::Receiving(_) => return Err(PeerFault::Unexpected("Update")),
            Stage::Following if after == self.position => {}
            Stage::Following | Stage::Lost { .. } => {
                self.lose_place();
                return Ok(());
            }
        }
        let Some(sequence) = after.sequence.checked_add(items.len() as u64) else {
            return Err(PeerFault::Unexpected("sequence beyond the last"));
        };
        for item in items {
            self.replica.apply(item);
        }
        self.learn(items);
        self.position.sequence = sequence;
        self.due = Some(Due::Ack);
        Ok(())
    }

    /// Asks for a snapshot, once.
    fn lose_place(&mut self) {
        if !matches!(self.stage, Stage::Lost { asked: true }) {
            self.lose(true);
            self.due = Some(Due::Resync);
        }
    }

    fn lose(&mut self, asked: bool) {
        if let Stage::Receiving(torn) = std::mem::replace(&mut self.stage, Stage::Lost { asked }) {
            self.learned.push_back(Learned::SnapshotVoid);
            self.retired.push(torn.replica);
        }
    }

    fn learn(&mut self, items: &[Item]) {
        let told = |item: &&Item| item.of_nat() || item.of_stick() || item.is_said();
        let told: Vec<Item> = items.iter().filter(told).cloned().collect();
        if !told.is_empty() {
            self.learned.push_back(Learned::Items(told));
        }
    }

    /// What the data paths' tables are to follow next.
    pub fn poll_learned(&mut self) -> Option<Learned> {
        self.learned.pop_front()
    }

    /// A state that is not needed any more: for the [`Attic`](super::Attic).
    pub fn poll_retired(&mut self) -> Option<Replica> {
        self.retired.pop()
    }

    /// A connection that this host's kernel has from an earlier life. What a master says counts
    /// more.
    pub fn adopt(&mut self, item: &Item) {
        if !self.complete {
            self.replica.apply(item);
        }
    }

    /// The session is gone. The state stays; the next session begins with a snapshot.
    pub fn detach(&mut self) {
        self.lose(false);
        self.of_session = false;
        self.due = None;
    }

    /// The next frame to send: `Ack` (the latest position only) or `ResyncRequest`.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        match self.due.take()? {
            Due::Ack => Some(Frame::Ack(self.position)),
            Due::Resync => {
                self.resyncs += 1;
                Some(Frame::ResyncRequest)
            }
        }
    }

    /// A snapshot came whole on this session, and every update since.
    pub const fn in_sync(&self) -> bool {
        matches!(self.stage, Stage::Following)
    }

    /// The last item applied.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// For the read model.
    pub fn status(&self, _now: Mono) -> ReplicationStatus {
        ReplicationStatus {
            role: ReplicationRole::Sink,
            in_sync: self.in_sync(),
            epoch: self.position.epoch.0,
            position: self.position.sequence,
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

    /// The node becomes master. A snapshot that is not whole is forgotten.
    pub fn into_restored(mut self) -> Restored {
        self.lose(false);
        Restored {
            replica: self.replica,
            position: self.position,
            complete: self.complete,
            retired: self.retired,
        }
    }
}

impl Incoming {
    fn take(&mut self, items: &[Item]) -> Result<(), PeerFault> {
        self.got += items.len() as u64;
        if self.got > self.announced {
            return Err(self.miscounted(self.got));
        }
        for item in items {
            self.replica.apply(item);
        }
        Ok(())
    }

    /// Each item must have become an entry: one that came twice, or that is no entry, is not what
    /// was announced.
    fn finish(&mut self) -> Result<Replica, PeerFault> {
        let entries = self.replica.len();
        if self.got != self.announced || entries != self.got {
            return Err(self.miscounted(entries));
        }
        Ok(std::mem::take(&mut self.replica))
    }

    const fn miscounted(&self, got: u64) -> PeerFault {
        PeerFault::SnapshotMiscounted {
            announced: self.announced,
            got,
        }
    }
}

const fn check_length(items: &[Item]) -> Result<(), PeerFault> {
    if items.len() > MAX_BATCH {
        return Err(PeerFault::BatchTooLong(items.len()));
    }
    Ok(())
}
