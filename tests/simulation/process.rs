//! The life of a process: it starts, is told things, and its wishes are carried out.

use std::sync::Arc;
use std::time::Duration;

use tandem::balance::nat::NatCommand;
use tandem::health::probe::{ProbeOutcome, ProbeResult};
use tandem::model::{ConnectFailure, Incarnation, NodeId, Secret};
use tandem::node::io::{Input, Output};
use tandem::node::{Identity, Node, SESSION_CREDIT};
use tandem::vip::kernel::KernelReport;
use tandem::wire::admin::Request;

use super::faults::Kind;
use super::kernel_mode::Kept;
use super::machine::{Process, VANISH};
use super::nature::Act;
use super::world::{Event, MS, SECOND, World};

/// The dead-man timer: 0.8 x 3 heartbeats.
const DEAD_MAN: u64 = 240 * MS;

impl World {
    pub fn start(&mut self, machine: usize) {
        if self.machines[machine].process.is_some() {
            return;
        }
        self.machines[machine].lives += 1;
        self.machines[machine].off = false;
        self.machines[machine].session = None;
        let lives = u128::from(self.machines[machine].lives);
        let incarnation = Incarnation((machine as u128 + 1) << 64 | lives);
        let identity = Identity {
            node: NodeId::BOTH[machine],
            incarnation,
            started_unix_ms: 1_700_000_000_000 + self.now / MS,
        };
        let drift = if self.faults.has(Kind::Drift) {
            self.rng.below(100_000) as i64 - 50_000
        } else {
            0
        };
        let seed = self.rng.next();
        let secret = Secret([7; 32]);
        let config = Arc::clone(&self.config);
        let node = Node::new(config, identity, &secret, seed, tandem::time::Mono::ZERO);
        self.machines[machine].kernel.busy_until = 0;
        self.machines[machine].kernel.held = None;
        self.machines[machine].kernel.vanish_at = None;
        self.machines[machine].process = Some(Process::new(node, incarnation, self.now, drift));
        self.start_kernel_mode(machine, drift);
        self.checkers.disturb(self.now);
        self.log(["A", "B"][machine], "starts");
        let kept = self.machines[machine].disk.clone();
        self.give(machine, Input::Recall(kept));
        let up = !self.machines[machine].kernel.link_down;
        self.give(machine, Input::Kernel(link(up)));
        if self.relays[machine] {
            if let Some(process) = &mut self.machines[machine].process {
                process.relays = true;
            }
            self.give(machine, Input::Relaying(true));
            self.tell_neighbour(machine, None);
            self.meet_soon(machine, incarnation);
        }
    }

    /// The process is gone at once; its kernel lives on.
    pub fn kill(&mut self, machine: usize, why: &str) {
        let Some(_process) = self.machines[machine].process.take() else {
            return;
        };
        self.log(["A", "B"][machine], why);
        self.checkers.disturb(self.now);
        let vanish = self.soon(100, VANISH.as_micros() as u64);
        self.machines[machine].kernel.vanish_at = Some(vanish);
        self.flows[machine].clear();
        self.program_notices(machine);
        self.flows_lost(machine, false);
        self.close_stream(true);
    }

    /// Something happens to this process now; if it stands still, when it wakes.
    pub fn give(&mut self, machine: usize, mut input: Input) {
        let (now, quiet) = (self.now, self.is_quiet());
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        if process.paused_until.is_some() {
            // A datagram finds a machine that stands still unreachable; all else waits in its queues.
            let lost = matches!(input, Input::Datagram { .. } | Input::PortClosed { .. });
            if !(lost && process.machine_paused) {
                process.inbox.push_back(input);
            }
            return;
        }
        if let Input::SessionSent { frames } = &mut input {
            process.unsent = process.unsent.saturating_sub(*frames);
            process.written += *frames;
            if process.written < SESSION_CREDIT {
                return;
            }
            *frames = std::mem::take(&mut process.written);
        }
        self.checkers.told(&input, quiet);
        let by_data_path = matches!(input, Input::Nat(_));
        process.seen.adopts |= by_data_path;
        let clock = process.clock(now);
        let before = process.node.role();
        process.node.handle(input, clock);
        if by_data_path {
            self.checkers.data_path_told(before, process.node.role());
        }
        self.after_turn(machine);
    }

    pub fn turn(&mut self, machine: usize) {
        let now = self.now;
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        process.armed = None;
        if process.paused_until.is_none() {
            let clock = process.clock(now);
            process.node.handle_timeout(clock);
            self.after_turn(machine);
        }
    }

    fn after_turn(&mut self, machine: usize) {
        let now = self.now;
        let quiet = self.is_quiet();
        let mut outputs = Vec::new();
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        process.last_turn = now;
        let life = process.incarnation;
        while let Some(output) = process.node.poll_output() {
            outputs.push(output);
        }
        self.checkers.turn(machine, process, &outputs, quiet);
        if let Some(deadline) = process.node.poll_timeout() {
            let at = process.when(deadline).max(now + 1_000);
            if process.armed.is_none_or(|armed| at < armed) {
                process.armed = Some(at);
                self.at(at, Event::Turn { machine, life });
            }
        }
        for output in outputs {
            self.apply(machine, life, output);
        }
        self.renew_lease(machine);
    }

    fn apply(&mut self, machine: usize, life: Incarnation, output: Output) {
        match output {
            Output::Datagram { path, bytes } => {
                let path = usize::from(path.0);
                let epoch = |process: &Process| process.node.election().epoch();
                let told = self.machines[machine].process.as_ref().map(epoch);
                let told = told.map(|epoch| (life, epoch));
                self.network.record(machine, path, &bytes, &mut self.rng);
                for delay in self.network.deliveries(machine, path, &mut self.rng) {
                    let bytes = bytes.clone();
                    let event = Event::Datagram {
                        from: machine,
                        path,
                        bytes,
                        told,
                    };
                    self.at(self.now + delay.as_nanos() as u64, event);
                }
            }
            Output::SendFrame(frame) => self.send_frame(machine, life, frame),
            Output::CloseSession { reason } => {
                self.log(["A", "B"][machine], &reason);
                self.checkers.session_fault(&reason);
                self.close_stream(true);
            }
            Output::Nat(NatCommand::Relay(relay)) => {
                self.log(["A", "B"][machine], &format!("{relay:?}"));
                if let Some(process) = &mut self.machines[machine].process {
                    process.relay = relay;
                }
                self.command_thread(machine, NatCommand::Relay(relay));
            }
            Output::Nat(command) => self.command_thread(machine, command),
            Output::Kernel(command) => {
                let slow = self.faults.has(Kind::Kernel) && self.rng.chance(5) && !self.calm;
                // One thread carries them out, in order.
                let at = self.soon(50, if slow { 20_000 } else { 500 });
                let at = at.max(self.machines[machine].kernel.busy_until);
                self.machines[machine].kernel.busy_until = at;
                let event = Event::Kernel {
                    machine,
                    life,
                    command,
                };
                self.at(at, event);
            }
            Output::Probe(request) => {
                let (backend, token) = (request.backend, request.token);
                if let Some((outcome, took)) = self.traffic.probed(backend) {
                    let input = Input::Probe(ProbeResult {
                        backend,
                        token,
                        outcome,
                    });
                    let event = Event::Process {
                        machine,
                        life,
                        stream: None,
                        input,
                    };
                    return self.at(self.now + took, event);
                }
                let outcome = if self.backends_up[&backend] {
                    ProbeOutcome::Good {
                        took: Duration::from_millis(1),
                    }
                } else {
                    ProbeOutcome::Bad {
                        failure: ConnectFailure::Refused,
                    }
                };
                let input = Input::Probe(ProbeResult {
                    backend,
                    token,
                    outcome,
                });
                let at = self.soon(300, 2_000);
                self.at(
                    at,
                    Event::Process {
                        machine,
                        life,
                        stream: None,
                        input,
                    },
                );
            }
            Output::DropFlows { .. } => self.drop_flows(machine, life),
            Output::Event(event) => {
                let text = format!("{:?}", event.what);
                self.log(["A", "B"][machine], &text);
            }
            Output::Reply { response, .. } => self.replies.push_back(response),
            Output::ResetBackend { .. } => {}
            Output::PublishRoutes { eligible, .. } => {
                // The proxy looks up its own services' only.
                let mut own = eligible;
                own.retain(|id| self.backends_up.contains_key(id));
                if let Some(process) = &mut self.machines[machine].process {
                    process.published = own;
                }
            }
            Output::Keep(items) => self.machines[machine].disk = items,
            Output::Configure(_) | Output::Parcel(_) => {}
            // The simulated proxy has no service that remembers clients.
            Output::Sticks(_) => {}
            Output::Stopped => {
                self.machines[machine].kernel.held = None;
                self.machines[machine].kept = Kept::anew(self.now);
                self.flows_lost(machine, true);
                self.proxied.resets += self.flows[machine].len() as u64;
                self.kill(machine, "stopped");
                if self.proxied.starts_again {
                    self.at(self.now + SECOND, Event::Nature(Act::Start(machine)));
                }
            }
        }
    }

    pub fn dead_man(&mut self, machine: usize, life: Incarnation, seen: u64) {
        let stuck = |process: &Process| process.incarnation == life && process.last_turn == seen;
        if self.machines[machine].process.as_ref().is_some_and(stuck) {
            self.kill(machine, "killed by its dead-man timer");
            let at = self.soon(100_000, 2_000_000);
            self.at(at, Event::Nature(Act::Start(machine)));
        }
    }

    /// Stands still until then.
    pub fn pause(&mut self, machine: usize, length: u64, whole_machine: bool, dead_man: bool) {
        let until = self.now + length;
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        if process.paused_until.is_some() {
            return;
        }
        process.paused_until = Some(until);
        process.machine_paused = whole_machine;
        let (life, seen) = (process.incarnation, process.last_turn);
        self.log(
            ["A", "B"][machine],
            &format!("stands still for {} ms", length / MS),
        );
        self.checkers.disturb(until);
        self.at(until, Event::Wake { machine, life });
        if dead_man && !whole_machine {
            let at = (seen + DEAD_MAN).max(self.now);
            self.at(
                at,
                Event::DeadMan {
                    machine,
                    life,
                    seen,
                },
            );
        }
        if whole_machine && length > super::network::STREAM_TIMEOUT.as_nanos() as u64 {
            self.close_stream(false);
        }
    }

    pub fn wake(&mut self, machine: usize, life: Incarnation) {
        let unseen = self.rng.chance(50);
        let host = &mut self.machines[machine];
        let Some(process) = &mut host.process else {
            return;
        };
        if process.incarnation != life || process.paused_until.take().is_none() {
            return;
        }
        if process.machine_paused && unseen {
            let length = self.now - process.last_turn;
            process.unseen += length;
            host.kept.clock.skips(length, self.now);
            if let Some((_, until)) = &mut host.kernel.held {
                *until += length;
            }
        }
        process.machine_paused = false;
        process.seen.checks_since = self.now;
        let inbox = std::mem::take(&mut process.inbox);
        self.log(["A", "B"][machine], "wakes");
        self.turn(machine);
        for input in inbox {
            self.give(machine, input);
        }
        self.thread_wakes(machine);
    }

    pub fn ask(&mut self, machine: usize, request: Request) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.log(["A", "B"][machine], &format!("is asked: {request:?}"));
        self.give(machine, Input::Admin { ticket, request });
    }
}

pub fn link(up: bool) -> KernelReport {
    KernelReport::Link {
        interface: "eth0".into(),
        up,
    }
}
