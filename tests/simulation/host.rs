//! What survives a process: the kernel with its addresses, and the LAN with its memory.

use tandem::model::{Epoch, Incarnation, Mac, PathId};
use tandem::node::io::Input;
use tandem::vip::kernel::{KernelCommand, KernelReport};

use super::faults::Kind;
use super::machine::LEASE;
use super::world::{Event, MS, SECOND, World};

/// How long a LAN's host trusts its neighbour entry when nobody announces anything (measured: 24
/// to 31 s).
pub const NEIGHBOUR_TRUST: u64 = 30 * SECOND;

impl World {
    pub fn datagram(
        &mut self,
        from: usize,
        path: usize,
        bytes: Vec<u8>,
        told: Option<(Incarnation, Epoch)>,
    ) {
        let to = 1 - from;
        if self.path_down(path) || !self.machines[to].powered() {
            return;
        }
        if self.machines[to].process.is_some() {
            let input = Input::Datagram {
                path: PathId(path as u8),
                bytes,
            };
            self.give(to, input);
            if let (Some((life, epoch)), Some(process)) = (told, &mut self.machines[to].process) {
                process.heard(life, epoch);
            }
        } else if self.machines[to].kernel.icmp_budget > 0 && !self.network.links[to][path].cut {
            self.machines[to].kernel.icmp_budget -= 1;
            let at = self.soon(50, 300);
            self.at(at, Event::Icmp { to: from, path });
        }
    }

    fn announce(&mut self, machine: usize, epoch: Epoch) {
        let kernel = &self.machines[machine].kernel;
        let held = kernel.held.is_some_and(|(held, _)| held == epoch) && kernel.holds(self.now);
        let lost = self.faults.has(Kind::LostAnnouncements) && !self.calm && self.rng.chance(30);
        if !held || lost {
            return;
        }
        self.lan = Some((machine, self.now));
        // The other machine's kernel thread hears a rival, if it holds the address itself; or a
        // report is lost on the way.
        if self.faults.has(Kind::Kernel) && !self.calm && self.rng.chance(50) {
            return;
        }
        let (rival, other) = (1 - machine, &self.machines[1 - machine]);
        if let (Some(process), true) = (&other.process, other.kernel.holds(self.now))
            && other.powered()
        {
            let report = KernelReport::Rival {
                vip: "192.0.2.100".parse().expect("an address"),
                mac: Mac([2, 0, 0, 0, 0, machine as u8]),
            };
            let event = Event::Process {
                machine: rival,
                life: process.incarnation,
                stream: None,
                input: Input::Kernel(report),
            };
            let at = self.soon(50, 500);
            self.at(at, event);
        }
    }

    /// Hosts ask anew when their entry is old and nobody there answers any more.
    pub fn lan_resolves(&mut self) {
        self.at(self.now + SECOND, Event::LanResolves);
        for machine in &mut self.machines {
            machine.kernel.icmp_budget = (machine.kernel.icmp_budget + 1).min(6);
        }
        let holds = |m: usize| {
            let machine = &self.machines[m];
            machine.kernel.holds(self.now) && machine.powered()
        };
        let stale = self
            .lan
            .is_none_or(|(owner, since)| !holds(owner) && self.now - since > NEIGHBOUR_TRUST);
        if stale {
            self.lan = (0..2).find(|m| holds(*m)).map(|m| (m, self.now));
        }
    }

    /// The kernel thread carries out a command (`net::kernel`).
    pub fn kernel(&mut self, machine: usize, life: Incarnation, command: KernelCommand) {
        let now = self.now;
        let host = &mut self.machines[machine];
        let Some(process) = &host.process else { return };
        if process.incarnation != life {
            return;
        }
        if let (true, Some(until)) = (process.machine_paused, process.paused_until) {
            // It stands still too, and goes on afterwards.
            let event = Event::Kernel {
                machine,
                life,
                command,
            };
            let at = until + MS / 10;
            host.kernel.busy_until = host.kernel.busy_until.max(at);
            self.at(at, event);
            return;
        }
        let kernel = &mut host.kernel;
        let report = match command {
            KernelCommand::Hold { epoch, .. } => {
                if kernel.refuses {
                    KernelReport::Failed {
                        epoch,
                        what: "ENOBUFS".into(),
                    }
                } else {
                    let known = |(held, until)| held == epoch && now < until;
                    let known = kernel.held.is_some_and(known);
                    kernel.held = Some((epoch, now + LEASE.as_nanos() as u64));
                    if known {
                        return;
                    }
                    KernelReport::Held { epoch }
                }
            }
            KernelCommand::Release { epoch } => {
                kernel.held = None;
                KernelReport::Released { epoch }
            }
            KernelCommand::Announce { epoch, .. } => return self.announce(machine, epoch),
            KernelCommand::Remind { stale, at, .. } => return self.remind(&stale, at),
        };
        self.give(machine, Input::Kernel(report));
    }

    pub fn path_down(&self, path: usize) -> bool {
        path == 0 && self.machines.iter().any(|machine| machine.kernel.link_down)
    }
}
