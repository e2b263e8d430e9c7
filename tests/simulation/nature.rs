//! What nature, operators and attackers do.

use tandem::model::PathId;
use tandem::node::io::Input;
use tandem::vip::kernel::KernelReport;
use tandem::wire::admin::Request;
use tandem::wire::replication::AdminState;

use super::faults::{Faults, Kind};
use super::kernel_mode::Kept;
use super::network::PATHS;
use super::process::link;
use super::world::{Event, MS, SECOND, World};

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
    /// In order; and started again a second after its end.
    Stop(usize),
}

impl World {
    /// Stops all faults and starts what is dead.
    pub fn heal(&mut self) {
        self.log("-", "everything is healed");
        self.calm = true;
        self.checkers.disturb(self.now);
        self.network.heal();
        self.traffic.heal();
        for index in 0..2 {
            let id = self.config.services[0].backends[index].id;
            if self.backends_up.insert(id, true) == Some(false) {
                self.checkers.backend_changed(id, self.now);
            }
        }
        for machine in 0..2 {
            self.act(Act::Link(machine, true));
            self.act(Act::Refuse(machine, false));
            self.act(Act::Start(machine));
        }
    }

    /// Draws the acts of a whole run.
    pub fn plan_nature(&mut self, end: u64) {
        for kind in Faults::KINDS {
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
            Kind::Backends => {
                // Some long enough for every verdict.
                let end = end + self.rng.below(2) * 9 * SECOND;
                acts.extend([
                    (at, Act::Backend(path, false)),
                    (end, Act::Backend(path, true)),
                ]);
            }
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
        if kind == Kind::Operator && self.relays[0] && self.rng.chance(30) {
            acts.push((end, Act::Stop(machine)));
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
        if !matches!(
            act,
            Act::Backend(..) | Act::Damage | Act::Drain(..) | Act::Replay
        ) {
            self.checkers.disturb(self.now);
        }
        match act {
            Act::Backend(index, up) => {
                let id = self.config.services[0].backends[index].id;
                self.checkers.backend_changed(id, self.now);
                self.backends_up.insert(id, up);
            }
            Act::Crash(machine) => self.kill(machine, "is killed"),
            Act::Cut { from, path, cut } => {
                let links = &mut self.network.links[from];
                if !cut && links.iter().all(|link| link.cut) {
                    self.checkers.unmuted[from] = Some(self.now);
                }
                links[path].cut = cut;
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
                let path = PathId(0);
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
                self.machines[machine].kept = Kept::anew(self.now);
                self.flows_lost(machine, true);
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
            Act::Stop(machine) => {
                self.proxied.starts_again = true;
                self.give(machine, Input::Stop);
            }
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
        let event = Event::Datagram {
            from,
            path,
            bytes,
            told: None,
        };
        self.at(self.now, event);
    }
}
