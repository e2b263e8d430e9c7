//! What nature does, and what must hold after every step and at the end.

use tandem::model::{Epoch, Role};
use tandem::node::io::{Input, Output};
use tandem::vip::kernel::KernelReport;
use tandem::wire::admin::Request;
use tandem::wire::replication::AdminState;

use super::faults::Kind;
use super::network::PATHS;
use super::world::{Event, HEARTBEAT, MS, SECOND, World, link};

/// Two masters that hear each other, or none, may last this long: a master-down interval, two
/// heartbeats, and the heartbeats that 30 % loss on each path swallows.
const SETTLE: u64 = 15 * HEARTBEAT;
/// With an unfit kernel a node stays in fault for 10 s.
const FORGIVENESS: u64 = 12 * SECOND;
/// Datagrams of one node in one second: the rhythm on each path, answers, probes.
const MAX_DATAGRAMS: u32 = 400;
/// Outputs of one turn.
const MAX_OUTPUTS: usize = 300;

/// One act of nature.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Backend(usize, bool),
    Crash(usize),
    Cut {
        from: usize,
        path: usize,
        cut: bool,
    },
    Damage,
    Drain(usize, bool),
    Failover(usize),
    ForgeIcmp(usize),
    ForgeReset,
    Hang {
        machine: usize,
        ms: u64,
        dead_man: bool,
    },
    Link(usize, bool),
    MachinePause {
        machine: usize,
        ms: u64,
    },
    PowerLoss(usize),
    Refuse(usize, bool),
    RemoveAddress(usize),
    Replay,
    Start(usize),
}

#[derive(Debug, Default)]
pub struct Checkers {
    /// Since when both machines run, awake, and some path passes both ways.
    good_since: Option<u64>,
    two_masters_since: Option<u64>,
    no_master_since: Option<u64>,
    unfit_until: u64,
    zombie_since: [Option<u64>; 2],
    datagrams: [(u64, u32); 2],
    pub role_changes: u32,
    broken: Option<String>,
}

impl Checkers {
    /// Budget: no turn and no second may bring a storm.
    pub fn outputs(&mut self, machine: usize, now: u64, outputs: &[Output]) {
        if outputs.len() > MAX_OUTPUTS {
            self.broken = Some(format!("budget: {} outputs in one turn", outputs.len()));
        }
        let (second, count) = &mut self.datagrams[machine];
        if *second != now / SECOND {
            (*second, *count) = (now / SECOND, 0);
        }
        for output in outputs {
            match output {
                Output::Datagram { .. } => *count += 1,
                Output::Event(event) => {
                    let transition = matches!(
                        event.what,
                        tandem::status::What::Transition {
                            takeover_ms: None,
                            ..
                        }
                    );
                    self.role_changes += u32::from(transition);
                }
                _ => {}
            }
        }
        if *count > MAX_DATAGRAMS {
            self.broken = Some(format!("budget: {count} datagrams within a second"));
        }
    }

    /// Our own nodes never break the protocol.
    pub fn session_fault(&mut self, reason: &str) {
        self.broken = Some(format!("a node closed the session: {reason}"));
    }
}

impl World {
    pub fn check(&mut self) -> Result<(), String> {
        if let Some(broken) = self.checkers.broken.take() {
            return Err(broken);
        }
        self.check_epochs()?;
        self.check_kernels()?;
        self.check_owner()
    }

    /// A node's epoch never falls, and a new mastership has a higher one.
    fn check_epochs(&mut self) -> Result<(), String> {
        for machine in &mut self.machines {
            let Some(process) = &mut machine.process else {
                continue;
            };
            let present = (process.node.role(), process.node.election().epoch());
            let (role, epoch) = process.seen;
            if present.1 < epoch && role != Role::Master && present.0 != Role::Master {
                return Err(format!("epoch fell from {epoch} to {}", present.1));
            }
            let took_over = present.0 == Role::Master && role != Role::Master;
            if took_over && present.1 <= epoch {
                return Err(format!("a takeover reused epoch {epoch}"));
            }
            process.seen = present;
        }
        Ok(())
    }

    /// A kernel has the address only while its node is master, within the bounds of lease, release
    /// and death.
    fn check_kernels(&mut self) -> Result<(), String> {
        for machine in 0..2 {
            let host = &self.machines[machine];
            let zombie = host.kernel.holds(self.now) && !host.is_master() && host.powered();
            let since = &mut self.checkers.zombie_since[machine];
            if !zombie {
                *since = None;
                continue;
            }
            let since = *since.get_or_insert(self.now);
            if self.now - since > 50 * MS {
                let kernel = &host.kernel;
                return Err(format!(
                    "machine {machine} holds the address without being master: {kernel:?} {:?}",
                    host.process.as_ref().map(|p| (
                        p.node.role(),
                        p.paused_until,
                        p.last_turn,
                        p.node.status(p.clock(self.now))
                    ))
                ));
            }
            let newest = host
                .process
                .as_ref()
                .map(|process| process.node.election().epoch());
            let held = host.kernel.held.map(|(epoch, _)| epoch);
            if held > newest.max(Some(Epoch(0))) && host.process.is_some() {
                return Err(format!("held under {held:?}, the node knows {newest:?}"));
            }
        }
        Ok(())
    }

    fn check_owner(&mut self) -> Result<(), String> {
        let awake = self
            .machines
            .iter()
            .all(|machine| machine.awake().is_some());
        let path = (0..PATHS).any(|path| {
            !self.path_down(path) && self.network.links.iter().all(|links| !links[path].cut)
        });
        let unfit = self
            .machines
            .iter()
            .any(|m| m.kernel.refuses || m.kernel.link_down);
        let masters = self
            .machines
            .iter()
            .filter(|machine| machine.is_master())
            .count();
        let now = self.now;
        let checkers = &mut self.checkers;
        if unfit {
            checkers.unfit_until = now + FORGIVENESS;
        }
        let mark = |slot: &mut Option<u64>, holds: bool| {
            *slot = holds.then(|| slot.unwrap_or(now));
        };
        mark(&mut checkers.good_since, awake && path);
        mark(&mut checkers.two_masters_since, masters == 2);
        mark(&mut checkers.no_master_since, masters == 0);
        let Some(good) = checkers.good_since else {
            return Ok(());
        };
        let lasted = |since: Option<u64>| since.is_some_and(|at| now - at.max(good) > SETTLE);
        if lasted(checkers.two_masters_since) {
            return Err("two masters that hear each other".into());
        }
        if lasted(checkers.no_master_since) && now > checkers.unfit_until {
            return Err("no master although both nodes are well".into());
        }
        Ok(())
    }

    /// After the healing: one master, everybody agrees, nothing is left over.
    pub fn check_order(&mut self) -> Result<(), String> {
        let masters: Vec<usize> = (0..2).filter(|m| self.machines[*m].is_master()).collect();
        let [master] = masters[..] else {
            return Err(format!("at the end the masters are {masters:?}"));
        };
        for machine in 0..2 {
            let holds = self.machines[machine].kernel.holds(self.now);
            if holds != (machine == master) {
                return Err(format!(
                    "at the end machine {machine} holds the address: {holds}"
                ));
            }
        }
        if self.lan.map(|(owner, _)| owner) != Some(master) {
            return Err(format!("at the end the LAN leads to {:?}", self.lan));
        }
        let [a, b] = [0, 1].map(|m| &self.machines[m].process.as_ref().expect("restarted").node);
        if a.replica() != b.replica() {
            let sizes = [a, b].map(|node| {
                let replica = node.replica();
                let status = node.status(tandem::time::Mono::ZERO).replication;
                (replica.flows().len(), replica.health(), status)
            });
            return Err(format!("at the end the replicas differ: {sizes:?}"));
        }
        let now = self.now;
        for machine in 0..2 {
            let process = self.machines[machine].process.as_ref().expect("restarted");
            let status = process.node.status(process.clock(now));
            let well = status.replication.in_sync && status.peer.alive && status.peer.hears_us;
            if !well
                || status.services[0]
                    .backends
                    .iter()
                    .any(|backend| !backend.up)
            {
                return Err(format!(
                    "at the end machine {machine} is not well: {status:#?}"
                ));
            }
        }
        if self.faults == super::faults::Faults::NONE && self.checkers.role_changes > 4 {
            let changes = self.checkers.role_changes;
            return Err(format!(
                "quiet: {changes} changes of role without any fault"
            ));
        }
        Ok(())
    }

    /// Stops all faults and starts what is dead.
    pub fn heal(&mut self) {
        self.log("-", "everything is healed");
        self.calm = true;
        self.network.heal();
        for up in self.backends_up.values_mut() {
            *up = true;
        }
        for machine in 0..2 {
            self.act(Act::Link(machine, true));
            self.act(Act::Refuse(machine, false));
            self.act(Act::Start(machine));
        }
    }

    /// Draws the acts of a whole run.
    pub fn plan_nature(&mut self, end: u64) {
        for kind in super::faults::Faults::KINDS {
            if !self.faults.has(kind) {
                continue;
            }
            let mut at = 3 * SECOND;
            loop {
                at += self.rng.below(16 * SECOND) + SECOND;
                if at >= end {
                    break;
                }
                self.plan(kind, at);
            }
        }
    }

    fn plan(&mut self, kind: Kind, at: u64) {
        let machine = self.rng.below(2) as usize;
        let path = self.rng.below(PATHS as u64) as usize;
        let length = 10
            + self.rng.below(if self.rng.clone().chance(50) {
                500
            } else {
                5_000
            });
        let end = at + length * MS;
        let mut acts = Vec::new();
        let mut both = |on: Act, off: Act| acts.extend([(at, on), (end, off)]);
        match kind {
            Kind::OneWay => {
                for path in 0..PATHS {
                    let cut = |cut| Act::Cut {
                        from: machine,
                        path,
                        cut,
                    };
                    both(cut(true), cut(false));
                }
            }
            Kind::Partition => {
                for (from, path) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let cut = |cut| Act::Cut { from, path, cut };
                    both(cut(true), cut(false));
                }
            }
            Kind::Crash => both(Act::Crash(machine), Act::Start(machine)),
            Kind::PowerLoss => both(Act::PowerLoss(machine), Act::Start(machine)),
            Kind::Hang => {
                let dead_man = self.rng.chance(50);
                acts.push((
                    at,
                    Act::Hang {
                        machine,
                        ms: length,
                        dead_man,
                    },
                ));
            }
            Kind::MachinePause => acts.push((
                at,
                Act::MachinePause {
                    machine,
                    ms: length,
                },
            )),
            Kind::LinkFlap => both(Act::Link(machine, false), Act::Link(machine, true)),
            Kind::Kernel if self.rng.chance(50) => {
                both(Act::Refuse(machine, true), Act::Refuse(machine, false));
            }
            Kind::Kernel => acts.push((at, Act::RemoveAddress(machine))),
            Kind::Operator if self.rng.chance(50) => acts.push((at, Act::Failover(machine))),
            Kind::Operator => acts.push((at, Act::Drain(machine, self.rng.chance(50)))),
            Kind::Backends => both(Act::Backend(path, false), Act::Backend(path, true)),
            Kind::Attacker => {
                for n in 0..20 {
                    let act = match self.rng.below(4) {
                        0 => Act::Damage,
                        1 => Act::ForgeReset,
                        2 => Act::ForgeIcmp(machine),
                        _ => Act::Replay,
                    };
                    acts.push((at + n * 40 * MS, act));
                }
            }
            // These work through the network, the LAN and the clocks.
            Kind::Loss | Kind::Reorder | Kind::LostAnnouncements | Kind::Drift => {}
        }
        for (at, act) in acts {
            self.at(at, Event::Nature(act));
        }
    }

    pub fn act(&mut self, act: Act) {
        if self.calm
            && !matches!(
                act,
                Act::Start(_) | Act::Link(_, true) | Act::Refuse(_, false)
            )
        {
            return;
        }
        if !matches!(
            act,
            Act::Damage | Act::Replay | Act::ForgeIcmp(_) | Act::ForgeReset
        ) {
            self.log("-", &format!("{act:?}"));
        }
        match act {
            Act::Backend(index, up) => {
                let id = self.config.services[0].backends[index].id;
                self.backends_up.insert(id, up);
            }
            Act::Crash(machine) => self.kill(machine, "is killed"),
            Act::Cut { from, path, cut } => {
                self.network.links[from][path].cut = cut;
                if cut && path == 0 {
                    // A stream over a cut network ends when the cut lasts.
                    self.close_stream(false);
                }
            }
            Act::Damage | Act::Replay => self.attack(matches!(act, Act::Damage)),
            Act::Drain(machine, drain) => {
                let state = if drain {
                    AdminState::Drain
                } else {
                    AdminState::Enabled
                };
                let (service, backend) = ("web".into(), "b2".into());
                self.ask(
                    machine,
                    Request::Backend {
                        service,
                        backend,
                        state,
                    },
                );
            }
            Act::Failover(machine) => self.ask(machine, Request::Failover),
            Act::ForgeIcmp(machine) => {
                let path = tandem::model::PathId(0);
                self.give(machine, Input::PortClosed { path });
            }
            Act::ForgeReset => self.close_stream(true),
            Act::Hang {
                machine,
                ms,
                dead_man,
            } => self.pause(machine, ms * MS, false, dead_man),
            Act::Link(machine, up) => {
                let changed = self.machines[machine].kernel.link_down == up;
                self.machines[machine].kernel.link_down = !up;
                if changed {
                    self.give(machine, Input::Kernel(link(up)));
                    if !up {
                        self.close_stream(false);
                    }
                }
            }
            Act::MachinePause { machine, ms } => self.pause(machine, ms * MS, true, false),
            Act::PowerLoss(machine) => {
                self.machines[machine].kernel.held = None;
                let dead = self.machines[machine].process.take().is_some();
                if dead {
                    self.machines[machine].off = true;
                    self.flows[machine].clear();
                    self.close_stream(false);
                }
            }
            Act::Refuse(machine, refuses) => self.machines[machine].kernel.refuses = refuses,
            Act::RemoveAddress(machine) => {
                // The adapter sees it and puts it back (kernel module's own tests).
                if self.machines[machine].kernel.holds(self.now) {
                    let vip = "192.0.2.100".parse().expect("an address");
                    self.give(machine, Input::Kernel(KernelReport::Restored { vip }));
                }
            }
            Act::Start(machine) => self.start(machine),
        }
    }

    fn attack(&mut self, damage: bool) {
        if self.network.recorded.is_empty() {
            return;
        }
        let pick = self.rng.below(self.network.recorded.len() as u64) as usize;
        let (from, path, mut bytes) = self.network.recorded[pick].clone();
        if damage {
            let bit = self.rng.below(bytes.len() as u64 * 8) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        self.at(self.now, Event::Datagram { from, path, bytes });
    }
}
