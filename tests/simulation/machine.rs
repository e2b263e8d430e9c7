//! A simulated host: a process with the production node, and a kernel that survives it.

use std::collections::VecDeque;
use std::time::Duration;

use tandem::model::{Epoch, Incarnation, Role};
use tandem::node::Node;
use tandem::node::io::Input;
use tandem::time::Mono;

/// The lease of an address (`vip-ownership`: 1 s, and up to half a second late).
pub const LEASE: Duration = Duration::from_millis(1_500);
/// How long after a process's death its device and addresses may live.
pub const VANISH: Duration = Duration::from_millis(30);

/// The kernel's part.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Under which mastership the addresses are there, and when their lease ends.
    pub held: Option<(Epoch, u64)>,
    /// Commands of older epochs are not carried out.
    pub newest: Epoch,
    /// The process that owned the device died: the addresses vanish at this time.
    pub vanish_at: Option<u64>,
    pub released: Option<Epoch>,
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
    /// Role and epoch as the checkers saw them last.
    pub seen: (Role, Epoch),
    /// When the present turn is due; compared with the queue's entry.
    pub armed: Option<u64>,
}

impl Process {
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
    pub lives: u32,
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
