//! A simulated host: a process with the production node, and a kernel that survives it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tandem::balance::nat::Relay;
use tandem::model::{BackendId, Epoch, Incarnation, Role};
use tandem::node::Node;
use tandem::node::io::Input;
use tandem::replication::Replica;
use tandem::time::Mono;
use tandem::wire::replication::{Item, Position};

use super::kernel_mode::{Kept, Thread};

/// The lease of an address (`vip-ownership`: 1 s, and up to half a second late).
pub const LEASE: Duration = Duration::from_millis(1_500);
/// How long after a process's death its device and addresses may live.
pub const VANISH: Duration = Duration::from_millis(30);

/// The kernel's part.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Under which mastership the addresses are there, and when their lease ends.
    pub held: Option<(Epoch, u64)>,
    /// Until when its thread is busy with what it was told.
    pub busy_until: u64,
    /// The process that owned the device died: the addresses vanish at this time.
    pub vanish_at: Option<u64>,
    pub refuses: bool,
    pub link_down: bool,
    /// ICMP errors that it may still send in this second.
    pub icmp_budget: u32,
}

impl Kernel {
    pub fn holds(&self, now: u64) -> bool {
        self.held.is_some_and(|(_, until)| now < until)
            && self.vanish_at.is_none_or(|at| now < at)
            && !self.link_down
    }
}

/// One life of the program.
pub struct Process {
    pub node: Node,
    pub incarnation: Incarnation,
    /// Simulated time of its `Mono::ZERO`.
    pub born: u64,
    /// Time that its clock did not see (the machine stood still).
    pub unseen: u64,
    /// Parts per million by which its clock is fast.
    pub drift: i64,
    /// Stands still until this time; `kernel_too`: the machine does.
    pub paused_until: Option<u64>,
    pub machine_paused: bool,
    /// What came while it stood still, as sockets would keep it.
    pub inbox: VecDeque<Input>,
    /// When the dead-man timer kills it, unless it runs again before.
    pub last_turn: u64,
    /// When the present turn is due; compared with the queue's entry.
    pub armed: Option<u64>,
    /// To which backends new connections go.
    pub published: BTreeSet<BackendId>,
    /// Its relay works.
    pub relays: bool,
    /// What it takes from its peer and hands to it.
    pub relay: Relay,
    /// Connections opened in this life.
    pub opened: u64,
    /// Batches of flow events on their way to the node.
    pub untold: u32,
    /// When the last of them arrives: they keep their order.
    pub told_until: u64,
    /// Frames on their way to the stream.
    pub unsent: u32,
    /// Frames that were written, and the node was not told yet.
    pub written: u32,
    /// The peer's life at the other end of the session.
    pub session_life: Option<Incarnation>,
    /// The kernel mode's thread.
    pub thread: Option<Thread>,
    /// What the checkers remember of it.
    pub seen: Seen,
}

/// What the checkers saw last of a process.
pub struct Seen {
    pub role: Role,
    pub epoch: Epoch,
    /// The highest epoch that its peer told it.
    pub heard: Epoch,
    /// The newest epoch of its commands to the kernel.
    pub commanded: Epoch,
    /// Where its copy stands, and the copy.
    pub position: Position,
    /// The life whose log it copies.
    pub source: Option<Incarnation>,
    pub replica: Replica,
    pub counters: Vec<u64>,
    /// It begins with what its kernel had: its copy grew without a master's word.
    pub adopts: bool,
    /// Since when its health checks run without a pause.
    pub checks_since: u64,
}

impl Process {
    pub fn new(node: Node, incarnation: Incarnation, born: u64, drift: i64) -> Self {
        Self {
            node,
            incarnation,
            born,
            unseen: 0,
            drift,
            paused_until: None,
            machine_paused: false,
            inbox: VecDeque::new(),
            last_turn: born,
            armed: None,
            published: BTreeSet::new(),
            relays: false,
            relay: Relay::default(),
            opened: 0,
            untold: 0,
            told_until: 0,
            unsent: 0,
            written: 0,
            session_life: None,
            thread: None,
            seen: Seen {
                role: Role::Initialize,
                epoch: Epoch(0),
                heard: Epoch(0),
                commanded: Epoch(0),
                position: Position::default(),
                source: None,
                replica: Replica::default(),
                counters: Vec::new(),
                adopts: false,
                checks_since: born,
            },
        }
    }

    /// A heartbeat of this life came that tells this epoch; only a life that it trusts counts.
    pub fn heard(&mut self, life: Incarnation, epoch: Epoch) {
        let peer = self.node.election().peer();
        if peer.is_some_and(|peer| peer.incarnation == life) && self.paused_until.is_none() {
            self.seen.heard = self.seen.heard.max(epoch);
        }
    }

    /// Its copy is a master's, and no word of it was missed.
    pub fn follows(&self) -> bool {
        self.node.status(Mono::ZERO).replication.in_sync
    }

    /// The process's clock at a simulated time.
    pub fn clock(&self, now: u64) -> Mono {
        let age = (now - self.born).saturating_sub(self.unseen) as i128;
        Mono::from_nanos((age + age * i128::from(self.drift) / 1_000_000) as u64)
    }

    /// The first simulated time at which its clock shows at least this.
    pub fn when(&self, at: Mono) -> u64 {
        let age = i128::from(at.as_nanos()) * 1_000_000 / (1_000_000 + i128::from(self.drift));
        self.born + self.unseen + age as u64 + 2
    }
}

/// A host.
#[derive(Default)]
pub struct Machine {
    pub process: Option<Process>,
    pub kernel: Kernel,
    /// The kernel mode's part of the kernel.
    pub kept: Kept,
    pub lives: u32,
    /// What its processes kept of what operators said.
    pub disk: Vec<Item>,
    /// Without power: its kernel says nothing either.
    pub off: bool,
    /// The stream that this end believes in.
    pub session: Option<u64>,
}

impl Machine {
    /// Runs and is not standing still.
    pub fn awake(&self) -> Option<&Process> {
        self.process
            .as_ref()
            .filter(|process| process.paused_until.is_none())
    }

    pub fn is_master(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.node.role() == Role::Master)
    }

    /// The kernel answers for hosts that reach it.
    pub fn powered(&self) -> bool {
        let paused = |process: &Process| process.machine_paused;
        !self.off && !self.process.as_ref().is_some_and(paused)
    }
}
