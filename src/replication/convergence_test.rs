//! Two nodes, a session that comes and goes, and a reference that remembers every state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::source::Limits;
use super::tests::{
    admin, at, bytes, close, health, nat_close, nat_marks, nat_open, open, stick, unstick,
};
use super::*;
use crate::model::Epoch;
use crate::time::Mono;
use crate::wire::replication::{AdminState, Frame, Item, NatKey, NatRecord};

const LIMITS: Limits = Limits {
    log: 12,
    window: 3,
    batch: 2,
};
/// Frames that a direction of the session holds.
const QUEUE: usize = 4;
/// Connections that fit; more than these are written about.
const FLOWS: usize = 10;

#[derive(Clone, Debug)]
enum Step {
    /// The last source there is writes.
    Write(Item),
    /// So many frames are pulled by this node while there is room in its queue.
    Send(usize, usize),
    /// So many frames arrive from this node.
    Deliver(usize, usize),
    /// The session stands anew; what was under way is gone.
    Connect,
    Disconnect,
    /// The stream loses the next frame of this node, if the loss can be noticed at all: an update
    /// or an acknowledgement. (The session is ordered and authenticated and loses nothing; a
    /// snapshot is told apart from the rest of another one by its `SnapshotBegin` only.)
    Lose(usize),
    /// This node becomes master, whatever the other is.
    TakeOver(usize),
    /// The source of the older epoch notices.
    Yield,
}

fn item() -> impl Strategy<Value = Item> {
    let flow = || 0..16_u64;
    prop_oneof![
        4 => (flow(), 0..3_u32).prop_map(|(flow, backend)| open(flow, backend)),
        3 => flow().prop_map(close),
        2 => (flow(), 0..4_u64).prop_map(|(flow, count)| bytes(flow, count)),
        2 => (0..4_u32, 0..3_u64).prop_map(|(backend, good)| health(backend, good)),
        3 => (0..16_u16, 0..3_u32).prop_map(|(port, backend)| nat_open(port, backend)),
        2 => (0..16_u16).prop_map(nat_close),
        2 => (0..16_u16, 0..3_u32).prop_map(|(port, mark)| nat_marks(port, mark)),
        2 => (0..16_u64, 0..3_u32, 0..4_u64).prop_map(|(hash, backend, used)| stick(hash, backend, used)),
        1 => (0..16_u64).prop_map(unstick),
        1 => (0..4_u32, any::<bool>()).prop_map(|(backend, drain)| {
            admin(backend, if drain { AdminState::Drain } else { AdminState::Enabled })
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => item().prop_map(Step::Write),
        8 => (0..2_usize, 1..6_usize).prop_map(|(node, most)| Step::Send(node, most)),
        8 => (0..2_usize, 1..6_usize).prop_map(|(node, most)| Step::Deliver(node, most)),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => (0..2_usize).prop_map(Step::Lose),
        1 => (0..2_usize).prop_map(Step::TakeOver),
        1 => Just(Step::Yield),
    ]
}

/// The kernel's table of a node, as it follows what its sink learns.
#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<NatKey, NatRecord>,
    /// What the snapshot under way has named.
    named: Option<BTreeSet<NatKey>>,
}

impl Table {
    fn learn(&mut self, learned: Learned) {
        match learned {
            Learned::Items(items) => {
                let items = items.iter();
                let mut replica = Replica::default();
                let entries = std::mem::take(&mut self.entries).into_iter();
                for (key, record) in entries {
                    replica.apply(&Item::NatOpen { key, record });
                }
                for item in items {
                    replica.apply(item);
                    if let (Item::NatOpen { key, .. }, Some(named)) = (item, &mut self.named) {
                        named.insert(*key);
                    }
                }
                self.entries = replica.nat().clone();
            }
            Learned::SnapshotBegin => self.named = Some(BTreeSet::new()),
            Learned::SnapshotEnd => {
                let named = self.named.take().expect("it began");
                self.entries.retain(|key, _| named.contains(key));
            }
            Learned::SnapshotVoid => assert!(self.named.take().is_some(), "it began"),
        }
    }
}

#[derive(Debug)]
enum End {
    Sink(Sink),
    Source(Source),
}

#[derive(Debug)]
struct Pair {
    ends: [End; 2],
    queues: [VecDeque<Frame>; 2],
    tables: [Table; 2],
    connected: bool,
    /// A frame was lost on this session, so a fault is in order.
    lossy: bool,
    epoch: u64,
    /// The state at each position that any source was at.
    history: BTreeMap<Position, Replica>,
    /// The highest position that each node's present sink was at.
    reached: [Position; 2],
    acknowledged: usize,
}

impl Pair {
    fn new() -> Self {
        let sink = || End::Sink(Sink::new(Replica::with_limits(FLOWS, 8)));
        let mut pair = Self {
            ends: [sink(), sink()],
            queues: Default::default(),
            tables: Default::default(),
            connected: false,
            lossy: false,
            epoch: 0,
            history: BTreeMap::new(),
            reached: [at(0, 0); 2],
            acknowledged: 0,
        };
        pair.take_over(0);
        pair
    }

    fn master(&mut self) -> &mut Source {
        let newest = |end: &End| match end {
            End::Source(source) => Some(source.position().epoch),
            End::Sink(_) => None,
        };
        let [a, b] = &mut self.ends;
        let end = if newest(a) > newest(b) { a } else { b };
        match end {
            End::Source(source) => source,
            End::Sink(_) => unreachable!("one of them has taken over"),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(item) => self.write(item),
            Step::Send(node, most) => self.send(node, most),
            Step::Deliver(node, most) => self.deliver(node, most),
            Step::Connect => self.connect(),
            Step::Disconnect => self.disconnect(),
            Step::Lose(node) => {
                let may_go =
                    |frame: &mut Frame| matches!(frame, Frame::Update { .. } | Frame::Ack(_));
                self.lossy |= self.queues[node].pop_front_if(may_go).is_some();
            }
            Step::TakeOver(node) => self.take_over(node),
            Step::Yield => self.yield_older(),
        }
        self.check_bounds();
    }

    fn write(&mut self, item: Item) {
        let master = self.master();
        master.write(item, Mono::ZERO);
        let (position, replica) = (master.position(), master.replica().clone());
        self.history.insert(position, replica);
    }

    fn send(&mut self, node: usize, most: usize) {
        if !self.connected {
            return;
        }
        for _ in 0..most {
            if self.queues[node].len() == QUEUE {
                return;
            }
            let frame = match &mut self.ends[node] {
                End::Sink(sink) => sink.poll_frame(),
                End::Source(source) => source.poll_frame(Mono::ZERO),
            };
            let Some(frame) = frame else { return };
            if let (Frame::Ack(position), End::Sink(sink)) = (&frame, &self.ends[node]) {
                assert_eq!(*position, sink.position());
                assert_eq!(sink.replica(), &self.history[position], "at {position:?}");
                self.acknowledged += 1;
            }
            self.queues[node].push_back(frame);
        }
    }

    fn deliver(&mut self, from: usize, most: usize) {
        for _ in 0..most {
            let Some(frame) = self.queues[from].pop_front() else {
                return;
            };
            let to = 1 - from;
            let verdict = match (&mut self.ends[to], frame) {
                (End::Sink(sink), frame) => sink.handle(frame, Mono::ZERO),
                (End::Source(source), Frame::Ack(position)) => {
                    source.handle_ack(position, Mono::ZERO)
                }
                (End::Source(source), Frame::ResyncRequest) => {
                    source.handle_resync(Mono::ZERO);
                    Ok(())
                }
                (End::Source(_), _) => Ok(()),
            };
            self.follow(to);
            if let End::Sink(sink) = &self.ends[to] {
                assert!(sink.position() >= self.reached[to], "went back");
                self.reached[to] = sink.position();
            }
            if let Err(fault) = verdict {
                assert!(self.lossy, "{fault}");
                self.disconnect();
            }
        }
    }

    /// The kernel's table is what the replica says, whenever the sink follows.
    fn follow(&mut self, node: usize) {
        if let End::Sink(sink) = &mut self.ends[node] {
            while let Some(learned) = sink.poll_learned() {
                self.tables[node].learn(learned);
            }
            if sink.in_sync() {
                assert_eq!(&self.tables[node].entries, sink.replica().nat());
            }
        }
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.lossy = false;
        for queue in &mut self.queues {
            queue.clear();
        }
        for end in &mut self.ends {
            match end {
                End::Sink(sink) => sink.detach(),
                End::Source(source) => source.detach(),
            }
        }
        self.follow(0);
        self.follow(1);
    }

    fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        for end in &mut self.ends {
            if let End::Source(source) = end {
                source.attach(Mono::ZERO);
            }
        }
    }

    fn take(&mut self, node: usize) -> Replica {
        self.follow(node);
        // What a snapshot named before it was given up may stay: the next one removes it.
        self.tables[node].named = None;
        let empty = End::Sink(Sink::new(Replica::default()));
        let mut replica = match std::mem::replace(&mut self.ends[node], empty) {
            End::Sink(sink) => {
                let restored = sink.into_restored();
                if restored.complete {
                    assert_eq!(restored.replica, self.history[&restored.position]);
                }
                restored.replica
            }
            End::Source(source) => source.into_replica(),
        };
        let _gone = replica.forget_flows();
        replica
    }

    fn take_over(&mut self, node: usize) {
        self.epoch += 1;
        let mut replica = Replica::with_limits(FLOWS, 8);
        for item in self.take(node).items() {
            replica.apply(&item);
        }
        let mut source = Source::with_limits(Epoch(self.epoch), replica, Mono::ZERO, LIMITS);
        if self.connected {
            source.attach(Mono::ZERO);
        }
        let position = source.position();
        self.history.insert(position, source.replica().clone());
        self.ends[node] = End::Source(source);
    }

    fn yield_older(&mut self) {
        for node in 0..2 {
            if let End::Source(source) = &self.ends[node]
                && source.position().epoch < Epoch(self.epoch)
            {
                let replica = self.take(node);
                self.ends[node] = End::Sink(Sink::new(replica));
                self.reached[node] = at(0, 0);
            }
        }
    }

    fn check_bounds(&self) {
        for end in &self.ends {
            if let End::Source(source) = end {
                let (log, in_flight, kept) = source.sizes();
                assert!(log <= LIMITS.log && in_flight <= LIMITS.window && kept <= log);
            }
        }
    }

    /// Both nodes well, nothing new: they must agree before long.
    fn quiesce(&mut self) {
        self.yield_older();
        if self.lossy || !self.connected {
            self.connect();
        }
        for _ in 0..50 {
            for node in 0..2 {
                self.send(node, QUEUE);
                self.deliver(node, QUEUE);
            }
        }
        assert!(self.connected);
        let ([End::Source(source), End::Sink(sink)] | [End::Sink(sink), End::Source(source)]) =
            &self.ends
        else {
            panic!("not one of each: {:?}", self.ends);
        };
        assert!(source.drained() && sink.in_sync());
        assert_eq!(source.position(), sink.position());
        assert_eq!(source.replica(), sink.replica());
        assert_eq!(source.replica().digest(), sink.replica().digest());
        assert_eq!(source.poll_timeout(), None, "nothing to wait for");
    }
}

/// Anything a peer may send, with a liking for what nearly fits.
fn frame() -> impl Strategy<Value = Frame> {
    let position = || {
        let sequence = prop_oneof![9 => 0..6_u64, 1 => (u64::MAX - 2)..=u64::MAX];
        (0..3_u64, sequence).prop_map(|(epoch, sequence)| at(epoch, sequence))
    };
    let items = || vec(item(), 0..3);
    prop_oneof![
        (position(), prop_oneof![9 => 0..4_u64, 1 => any::<u64>()])
            .prop_map(|(position, items)| Frame::SnapshotBegin { position, items }),
        items().prop_map(Frame::SnapshotChunk),
        Just(Frame::SnapshotEnd),
        (position(), items()).prop_map(|(after, items)| Frame::Update { after, items }),
        position().prop_map(Frame::Ack),
        Just(Frame::ResyncRequest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_the_nodes_agree_in_the_end(steps in vec(step(), 0..300)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
        pair.quiesce();
        prop_assert!(pair.acknowledged > 0);
    }

    #[test]
    fn a_sink_withstands_any_frames(frames in vec(frame(), 0..200)) {
        let mut sink = Sink::new(Replica::default());
        sink.detach();
        for frame in frames {
            let (position, replica) = (sink.position(), sink.replica().clone());
            let (synced, restart) = (sink.in_sync(), matches!(frame, Frame::SnapshotEnd));
            let verdict = sink.handle(frame, Mono::ZERO);
            prop_assert!(sink.position() >= position);
            if sink.position() == position && !restart {
                prop_assert_eq!(sink.replica(), &replica, "the same position, another state");
            }
            if verdict.is_err() {
                prop_assert!(!sink.in_sync());
                prop_assert_eq!(sink.replica(), &replica);
            }
            match sink.poll_frame() {
                Some(Frame::Ack(acknowledged)) => {
                    prop_assert!(sink.in_sync());
                    prop_assert_eq!(acknowledged, sink.position());
                }
                Some(Frame::ResyncRequest) => prop_assert!(!sink.in_sync()),
                Some(other) => prop_assert!(false, "a sink sent {other:?}"),
                None => prop_assert!(!sink.in_sync() || synced),
            }
        }
    }

    #[test]
    fn a_source_withstands_any_messages(
        messages in vec((0..6_u8, 0..3_u64, 0..40_u64, item()), 0..200)
    ) {
        let mut source = Source::with_limits(Epoch(1), Replica::default(), Mono::ZERO, LIMITS);
        for (kind, epoch, sequence, item) in messages {
            match kind {
                0 => source.attach(Mono::ZERO),
                1 => source.handle_resync(Mono::ZERO),
                2 => {
                    let position = at(epoch, sequence);
                    let ahead = source.handle_ack(position, Mono::ZERO).is_err();
                    prop_assert!(position <= source.position() || ahead || !source.in_sync());
                }
                3 => {
                    source.poll_frame(Mono::ZERO);
                }
                _ => source.write(item, Mono::ZERO),
            }
            let (log, in_flight, kept) = source.sizes();
            prop_assert!(log <= LIMITS.log && in_flight <= LIMITS.window && kept <= log);
        }
    }
}
