//! The relay: what passes between the machines, and what each decides.
//!
//! | what | promise |
//! |---|---|
//! | once | a packet is handed from one machine to the other once at most; back, by a master that has offered the mastership and may still forward |
//! | decides | a connection begins, or is replaced, only where the node has turned as master within a lease, or, for what its peer handed over, as the standby of a master |
//! | forwards | a packet goes on only there, or by the table of a process that was master when it died, for [`FROZEN`] and a lease at most, or hangs, for [`HUNG`] and a lease, or that a new process inherits and does not know its role |
//! | one way | two machines that may forward never have different ways for one open connection; but for three heartbeats after both were masters, and [`SETTLE`] if one of them has died |
//! | no reset | the same of a client's reset, whose connection a machine knows that may forward; a dead one counts only if its host is heard, which tells of the death |
//! | owner | what the data path tells a node never makes it master |

use tandem::datapath::nat::layout::FlowKey;
use tandem::datapath::nat::reference::{FROZEN, HUNG, Reference};
use tandem::datapath::nat::{self, Counter};
use tandem::model::Role;

use super::super::ends::State;
use super::super::kernel_mode::{LENGTH, Path, path_of};
use super::super::segment::glance;
use super::super::world::{HEARTBEAT, World};
use super::{Checkers, SETTLE, is_master};

/// Clocks run up to 5 % slow, and a turn may be late.
const LATE: u64 = LENGTH / 16;

/// What a program has decided so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decided {
    opened: u64,
    replaced: u64,
}

impl Decided {
    pub fn of(tables: &Reference) -> Self {
        let count = |counter| tables.counters.get(&counter).copied().unwrap_or(0);
        Self {
            opened: count(Counter::Opened),
            replaced: count(Counter::Replaced),
        }
    }

    pub const fn since(self, before: Self) -> Self {
        Self {
            opened: self.opened - before.opened,
            replaced: self.replaced - before.replaced,
        }
    }
}

impl Checkers {
    /// Owner.
    pub fn data_path_told(&mut self, before: Role, after: Role) {
        if !is_master(before) && is_master(after) {
            self.breaks("owner: what the data path told made a node master".into());
        }
    }
}

impl World {
    fn lately(&self, at: Option<u64>, length: u64) -> bool {
        at.is_some_and(|at| self.now - at <= length)
    }

    /// Once.
    pub fn relayed_at_most_once(&mut self, machine: usize, hops: u8) {
        let host = &self.machines[machine];
        let offered = host.kept.tables.offered && self.has_the_right(machine, 0);
        if hops > 1 + u8::from(offered) {
            let what = format!("once: machine {machine} hands over a packet the {hops}th time");
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// Decides.
    pub fn flow_decided(&mut self, machine: usize, decided: Decided, frame: &[u8], hops: u8) {
        if decided == Decided::default() {
            return;
        }
        let kept = &self.machines[machine].kept;
        let dead = kept.is_dead(self.now);
        let stands = kept.stands;
        let leads = !stands.inherits && self.lately(stands.led, LENGTH + LATE);
        let accepts = hops > 0 && self.lately(stands.stood, LENGTH + LATE);
        // A dead or hung one may forget what its client has given up; that is its peer's then.
        let allowed = if dead || self.hangs(machine) && !leads && !accepts {
            decided.opened == 0
        } else {
            leads || accepts
        };
        if !allowed {
            let what = format!(
                "decides: machine {machine}, dead: {dead}, {stands:?}, {decided:?} by {:?} after {hops} hops",
                glance(frame)
            );
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// Forwards.
    pub fn has_the_right(&self, machine: usize, hops: u8) -> bool {
        let kept = &self.machines[machine].kept;
        let stands = kept.stands;
        let [frozen, hung] = [FROZEN, HUNG].map(|it| it + it / 16);
        self.lately(stands.led, LENGTH + LATE)
            || hops > 0 && self.lately(stands.stood, LENGTH + LATE)
            || kept.is_dead(self.now) && self.lately(stands.led, LENGTH + LATE + frozen)
            || self.hangs(machine) && self.lately(stands.led, LENGTH + LATE + hung)
    }

    fn hangs(&self, machine: usize) -> bool {
        let process = self.machines[machine].process.as_ref();
        process.is_some_and(|process| process.paused_until.is_some())
    }

    /// Where a machine leads this client's open connection, if it may.
    fn way(&self, machine: usize, number: u64) -> Option<Path> {
        let host = &self.machines[machine];
        let end = &self.traffic.clients.get(&number)?.end;
        let key = FlowKey::new(end.local.into(), end.remote.into());
        let flow = host.kept.tables.flows.get(&key)?;
        // A handshake that a dead process has not answered is nobody's: the client asks again.
        let stands = [nat::State::Established, nat::State::Closing];
        let open = flow.client_isn == end.isn && stands.iter().any(|it| it.number() == flow.state);
        // Without the relay nobody hands anything to the dead; nor to a host that nobody hears say
        // that the process is dead.
        let asks = self.relays == [true; 2] && !self.was_mute(machine);
        let asked = asks || !host.kept.is_dead(self.now);
        if !open || !asked || !host.powered() || !self.has_the_right(machine, 0) {
            return None;
        }
        path_of(flow)
    }

    /// Nothing of this machine reached the other one lately, refusals included.
    fn was_mute(&self, machine: usize) -> bool {
        let links = &self.network.links[machine];
        let heard = self.checkers.unmuted[machine];
        links.iter().all(|link| link.cut) || self.lately(heard, 3 * HEARTBEAT)
    }

    /// Nobody decides what another one has decided in the meantime.
    ///
    /// Two masters, cut off from each other, each open and reset connections that the other does
    /// not know; packets of that are under way, and a lease may run, when one of them steps down.
    /// Where one of them has died instead, its table goes on, and the other cannot know that while
    /// they are cut off: no refusal comes (seed 89).
    fn is_settled(&self) -> bool {
        let mut kept = self.machines.iter().map(|it| &it.kept);
        let died = kept.any(|it| it.is_dead(self.now) || it.stands.inherits);
        let wait = if died { SETTLE } else { 3 * HEARTBEAT };
        let parted = self.checkers.parted;
        parted.is_none_or(|at| self.now - at > wait)
    }

    /// One way: this machine has forwarded something of this client.
    pub(super) fn has_one_way(&mut self, machine: usize, number: u64) {
        let end = self.traffic.clients.get(&number).map(|it| it.end.state);
        if !self.is_settled() || end != Some(State::Open) {
            return;
        }
        let [here, there] = [machine, 1 - machine].map(|machine| self.way(machine, number));
        if let (Some(here), Some(there)) = (here, there)
            && here != there
        {
            let what = format!(
                "one way: client {number} goes {here:?} by machine {machine}, and {there:?} by the other"
            );
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// No reset.
    pub(super) fn is_not_reset(&mut self, number: u64, before: State) {
        if before != State::Open || !self.is_settled() {
            return;
        }
        let mut both = 0..2;
        let Some(by) = both.find(|machine| self.way(*machine, number).is_some()) else {
            return;
        };
        let Some((_, backend)) = self.way(by, number) else {
            return;
        };
        // A backend that has lost it may say so.
        let host = self.traffic.hosts.get(&backend);
        let lives = host.is_some_and(|host| {
            let mut servers = host.servers.values();
            servers.any(|it| it.end.is_live() && it.number.is_some_and(|(it, _)| it == number))
        });
        if lives {
            let what = format!("no reset: client {number}, which machine {by} knows");
            self.checkers.kernel_mode_failed(&what);
        }
    }
}
