//! What must hold. After every step: one owner, epochs, kernels and LAN (`owner`); after every turn:
//! copies (`copies`), budgets and quiet (here); every second: the books (`books`); at the end:
//! order (`order`); at every packet of the kernel mode: flows (`flows`) and the relay (`relay`).
//!
//! A checker knows the world and looks at the nodes from outside; it shares no code with them.

mod books;
mod copies;
mod flows;
mod order;
mod owner;
mod relay;

use std::collections::BTreeMap;

use tandem::model::{BackendId, Role};
use tandem::node::SESSION_QUEUE;
use tandem::node::io::{Input, Output};
use tandem::status::What;
use tandem::vip::kernel::{KernelCommand, KernelReport};
use tandem::wire::replication::Frame;

use super::faults::Kind;
use super::machine::Process;
use super::world::{HEARTBEAT, SECOND, World};
use copies::Logs;
use flows::Flows;
pub use relay::Decided;

/// Two masters that hear each other, or none, may last this long: a master-down interval, two
/// heartbeats, and the heartbeats that 30 % loss on each path swallows.
const SETTLE: u64 = 15 * HEARTBEAT;
/// With an unfit kernel a node stays in fault for 10 s.
const FORGIVENESS: u64 = 12 * SECOND;
/// Two nodes that claim the address answer each other once in this time.
const DEFENCE: u64 = 10 * SECOND;
/// After the last disturbance there may be changes for this long: an unfit kernel is forgiven, and
/// then the node with the higher priority takes the mastership back.
const UNREST: u64 = FORGIVENESS + SETTLE;

/// What one node may do in one second, and in one turn.
mod budget {
    /// The rhythm on each path, answers, probes.
    pub(super) const DATAGRAMS: u32 = 400;
    /// One each 10 ms at most.
    pub(super) const ANNOUNCEMENTS: u32 = 101;
    /// Lines of the log.
    pub(super) const EVENTS: u32 = 60;
    /// Outputs of one turn.
    pub(super) const OUTPUTS: usize = 300;
}

#[derive(Debug, Default)]
pub struct Checkers {
    /// Since when both machines run, awake, and some path passes both ways.
    good_since: Option<u64>,
    two_masters_since: Option<u64>,
    /// When both were masters last.
    parted: Option<u64>,
    /// When the last time ended in which nothing of a machine reached the other.
    pub unmuted: [Option<u64>; 2],
    no_master_since: Option<u64>,
    two_holders_since: Option<u64>,
    lan_wrong_since: Option<u64>,
    /// Two masters that could not hear each other announced against each other until then.
    duel: u64,
    unfit_until: u64,
    zombie_since: [Option<u64>; 2],
    /// The last disturbance.
    disturbed: u64,
    backend_changed: BTreeMap<BackendId, u64>,
    /// What each node did in this second.
    spent: [Spent; 2],
    logs: Logs,
    pub flows: Flows,
    turns: u32,
    /// Changes of role and of addresses, and snapshots asked for, in all.
    pub moves: u32,
    broken: Option<String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    second: u64,
    datagrams: u32,
    announcements: u32,
    events: u32,
}

impl Checkers {
    /// Something happened (or will) that may move masterships, addresses or sessions.
    pub fn disturb(&mut self, at: u64) {
        self.disturbed = self.disturbed.max(at);
    }

    pub fn backend_changed(&mut self, backend: BackendId, now: u64) {
        self.backend_changed.insert(backend, now);
    }

    fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Our own nodes never break the protocol.
    pub fn session_fault(&mut self, reason: &str) {
        self.breaks(format!("a node closed the session: {reason}"));
    }

    /// Budget: no turn and no second may bring a storm. Quiet: nothing moves without a reason.
    /// Epoch: no command to the kernel is older than one before.
    pub fn turn(&mut self, machine: usize, process: &mut Process, outputs: &[Output], quiet: bool) {
        if outputs.len() > budget::OUTPUTS {
            self.breaks(format!("budget: {} outputs in one turn", outputs.len()));
        }
        for output in outputs {
            let moved = match output {
                Output::Event(event) => matches!(
                    event.what,
                    What::Transition {
                        takeover_ms: None,
                        ..
                    }
                ),
                Output::Kernel(KernelCommand::Release { .. })
                | Output::SendFrame(Frame::ResyncRequest | Frame::SnapshotBegin { .. }) => true,
                _ => false,
            };
            self.moves += u32::from(moved);
            if moved && quiet {
                self.breaks(format!("quiet: moved without a reason: {output:?}"));
            }
            self.spend(machine, process, output);
        }
        self.copies(process, outputs);
    }

    fn spend(&mut self, machine: usize, process: &mut Process, output: &Output) {
        let spent = &mut self.spent[machine];
        match output {
            Output::Datagram { .. } => spent.datagrams += 1,
            Output::Event(_) => spent.events += 1,
            Output::Kernel(command) => {
                let (KernelCommand::Announce { epoch, .. }
                | KernelCommand::Hold { epoch, .. }
                | KernelCommand::Release { epoch }
                | KernelCommand::Remind { epoch, .. }) = command;
                spent.announcements += u32::from(matches!(command, KernelCommand::Announce { .. }));
                if matches!(command, KernelCommand::Remind { .. }) {
                    // It says where the address is, and moves none.
                    return;
                }
                let newest = std::mem::replace(&mut process.seen.commanded, *epoch);
                if *epoch < newest {
                    self.breaks(format!("{command:?} after one of epoch {newest}"));
                }
            }
            Output::SendFrame(_) => {
                process.unsent += 1;
                if process.unsent > SESSION_QUEUE {
                    self.breaks(format!("budget: {} frames wait", process.unsent));
                }
            }
            _ => {}
        }
    }

    /// Whether anybody has spent too much. Called at the first step of a second, too.
    fn budgets(&mut self, now: u64) -> Result<(), String> {
        for spent in &mut self.spent {
            if spent.datagrams > budget::DATAGRAMS
                || spent.announcements > budget::ANNOUNCEMENTS
                || spent.events > budget::EVENTS
            {
                return Err(format!("budget: {spent:?}"));
            }
            if spent.second != now / SECOND {
                *spent = Spent {
                    second: now / SECOND,
                    ..Spent::default()
                };
            }
        }
        Ok(())
    }

    /// Quiet: the kernel reports nothing new without a reason either.
    pub fn told(&mut self, input: &Input, quiet: bool) {
        let moved = matches!(
            input,
            Input::Kernel(KernelReport::Held { .. } | KernelReport::Released { .. })
                | Input::SessionUp(_)
                | Input::SessionClosed { .. }
        );
        if moved && quiet {
            self.breaks(format!("quiet: {input:?}"));
        }
    }
}

impl World {
    /// No fault is at work, and none was for long enough. Lost heartbeats are at work all the time.
    pub fn is_quiet(&self) -> bool {
        let lossy = self.faults.has(Kind::Loss) && !self.calm;
        !lossy && self.now > self.checkers.disturbed + UNREST
    }

    /// `moves`: what happened may have moved masterships, addresses or leases.
    pub fn check(&mut self, moves: bool) -> Result<(), String> {
        if let Some(broken) = self.checkers.broken.take() {
            return Err(broken);
        }
        if !moves {
            return Ok(());
        }
        self.checkers.budgets(self.now)?;
        self.check_epochs()?;
        self.check_kernels()?;
        self.check_owner()?;
        self.check_leases()?;
        self.check_lan()
    }
}

/// A mark that remembers since when something holds.
fn mark(slot: &mut Option<u64>, holds: bool, now: u64) {
    *slot = holds.then(|| slot.unwrap_or(now));
}

const fn is_master(role: Role) -> bool {
    matches!(role, Role::Master)
}
