//! The world: a queue of events, and what each does to the two machines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tandem::balance::flow::{FlowEnd, FlowEvent};
use tandem::config::Config;
use tandem::health::probe::{ProbeOutcome, ProbeResult};
use tandem::model::*;
use tandem::node::io::{Input, Output};
use tandem::node::{Identity, Node};
use tandem::vip::kernel::{KernelCommand, KernelReport};
use tandem::wire::admin::{Request, Response};
use tandem::wire::replication::{Frame, Hello, PROTOCOL};

use super::checkers::Checkers;
use super::faults::{Faults, Kind};
use super::machine::{LEASE, Machine, Process, VANISH};
use super::network::{Network, STREAM_TIMEOUT};
use super::rng::Rng;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
pub const HEARTBEAT: u64 = 100 * MS;
/// How long a LAN's host trusts its neighbour entry when nobody announces anything (measured: 24
/// to 31 s).
const NEIGHBOUR_TRUST: u64 = 30 * SECOND;
/// The dead-man timer: 0.8 x 3 heartbeats.
const DEAD_MAN: u64 = 240 * MS;

pub enum Event {
    Announce {
        machine: usize,
        life: Incarnation,
    },
    Datagram {
        from: usize,
        path: usize,
        bytes: Vec<u8>,
    },
    DeadMan {
        machine: usize,
        life: Incarnation,
        seen: u64,
    },
    Dial,
    Icmp {
        to: usize,
        path: usize,
    },
    Kernel {
        machine: usize,
        life: Incarnation,
        command: KernelCommand,
    },
    LanResolves,
    Nature(super::checkers::Act),
    Process {
        machine: usize,
        life: Incarnation,
        stream: Option<u64>,
        input: Input,
    },
    Turn {
        machine: usize,
        life: Incarnation,
    },
    Wake {
        machine: usize,
        life: Incarnation,
    },
    Work,
}

pub struct World {
    pub now: u64,
    serial: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub rng: Rng,
    pub faults: Faults,
    pub config: Arc<Config>,
    pub machines: [Machine; 2],
    pub network: Network,
    /// The stream's number, while it stands.
    pub stream: Option<u64>,
    streams: u64,
    stream_next: [u64; 2],
    /// Whom the LAN's hosts take for the owner of the address, and since when.
    pub lan: Option<(usize, u64)>,
    pub backends_up: BTreeMap<BackendId, bool>,
    pub flows: [BTreeSet<u64>; 2],
    next_flow: u64,
    tickets: u64,
    pub replies: VecDeque<Response>,
    pub calm: bool,
    pub checkers: Checkers,
    trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng::new(seed);
        let config = Arc::new(config(rng.chance(30)));
        let network = Network::new(faults, &mut rng);
        let backends = config.services[0].backends.iter();
        let mut world = Self {
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            backends_up: backends.map(|backend| (backend.id, true)).collect(),
            config,
            machines: Default::default(),
            network,
            stream: None,
            streams: 0,
            stream_next: [0; 2],
            lan: None,
            flows: Default::default(),
            next_flow: 0,
            tickets: 0,
            replies: VecDeque::new(),
            calm: false,
            checkers: Checkers::default(),
            trace: Vec::new(),
            rng,
            faults,
        };
        let first = world.rng.below(2) as usize;
        let later = world.rng.below(2 * SECOND);
        world.start(first);
        world.at(later, Event::Nature(super::checkers::Act::Start(1 - first)));
        world.at(0, Event::Dial);
        world.at(0, Event::LanResolves);
        world.at(SECOND, Event::Work);
        world
    }

    /// Faults for so long, then everything is healed and must come to order.
    pub fn run(&mut self, seconds: u64) -> Result<(), String> {
        self.plan_nature(seconds * SECOND);
        self.run_until(seconds * SECOND)?;
        self.heal();
        self.run_until((seconds + 14) * SECOND)?;
        self.check_order()
    }

    pub fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some((&(at, serial), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let event = self.queue.remove(&(at, serial)).expect("it was there");
            self.now = at;
            self.step(event);
            self.check()
                .map_err(|broken| format!("at {:.6} s: {broken}", self.now as f64 / 1e9))?;
        }
        self.now = end;
        Ok(())
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((time.max(self.now), self.serial), event);
    }

    fn soon(&mut self, low_us: u64, high_us: u64) -> u64 {
        let (low, high) = (
            Duration::from_micros(low_us),
            Duration::from_micros(high_us),
        );
        self.now + self.rng.between(low, high).as_nanos() as u64
    }

    pub fn log(&mut self, who: &str, text: &str) {
        let state = |machine: &Machine| match &machine.process {
            None => "-".to_owned(),
            Some(process) => {
                let role = process.node.role().as_str();
                let paused = if process.paused_until.is_some() {
                    "z"
                } else {
                    ""
                };
                format!("{}{}{paused}", &role[..1], process.node.election().epoch())
            }
        };
        self.trace.push(format!(
            "{:>12.6}s {who:<3} A={:<5} B={:<5} lan={:<2} {text}",
            self.now as f64 / 1e9,
            state(&self.machines[0]),
            state(&self.machines[1]),
            self.lan.map_or("-", |(owner, _)| ["A", "B"][owner]),
        ));
    }

    pub fn trace_tail(&self, lines: usize) -> String {
        let from = self.trace.len().saturating_sub(lines);
        self.trace[from..].join("\n")
    }

    // ---- processes -------------------------------------------------------------------------

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
        self.machines[machine].kernel.newest = Epoch(0);
        self.machines[machine].kernel.released = None;
        self.machines[machine].kernel.held = None;
        self.machines[machine].kernel.vanish_at = None;
        self.machines[machine].process = Some(Process {
            node,
            incarnation,
            born: self.now,
            unseen: 0,
            drift,
            paused_until: None,
            machine_paused: false,
            inbox: VecDeque::new(),
            last_turn: self.now,
            seen: (Role::Initialize, Epoch(0)),
            armed: None,
        });
        self.log(["A", "B"][machine], "starts");
        let up = !self.machines[machine].kernel.link_down;
        self.give(machine, Input::Kernel(link(up)));
    }

    /// The process is gone at once; its kernel lives on.
    pub fn kill(&mut self, machine: usize, why: &str) {
        let Some(_process) = self.machines[machine].process.take() else {
            return;
        };
        self.log(["A", "B"][machine], why);
        let vanish = self.soon(100, VANISH.as_micros() as u64);
        self.machines[machine].kernel.vanish_at = Some(vanish);
        self.flows[machine].clear();
        self.close_stream(true);
    }

    /// Something happens to this process now; if it stands still, when it wakes.
    pub fn give(&mut self, machine: usize, input: Input) {
        let now = self.now;
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        if process.paused_until.is_some() {
            if process.inbox.len() < 5_000 && !process.machine_paused {
                process.inbox.push_back(input);
            }
            return;
        }
        let clock = process.clock(now);
        process.node.handle(input, clock);
        self.after_turn(machine);
    }

    fn turn(&mut self, machine: usize) {
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
        let mut outputs = Vec::new();
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        process.last_turn = now;
        let life = process.incarnation;
        while let Some(output) = process.node.poll_output() {
            outputs.push(output);
        }
        if let Some(deadline) = process.node.poll_timeout() {
            let at = process.when(deadline).max(now + 1_000);
            if process.armed.is_none_or(|armed| at < armed) {
                process.armed = Some(at);
                self.at(at, Event::Turn { machine, life });
            }
        }
        self.checkers.outputs(machine, now, &outputs);
        for output in outputs {
            self.apply(machine, life, output);
        }
    }

    fn apply(&mut self, machine: usize, life: Incarnation, output: Output) {
        match output {
            Output::Datagram { path, bytes } => {
                let path = usize::from(path.0);
                self.network.record(machine, path, &bytes, &mut self.rng);
                for delay in self.network.deliveries(machine, path, &mut self.rng) {
                    let bytes = bytes.clone();
                    let event = Event::Datagram {
                        from: machine,
                        path,
                        bytes,
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
            Output::Kernel(KernelCommand::Announce { .. }) => {
                let at = self.soon(50, 300);
                self.at(at, Event::Announce { machine, life });
            }
            Output::Kernel(command) => {
                let slow = self.faults.has(Kind::Kernel) && self.rng.chance(5) && !self.calm;
                let at = self.soon(50, if slow { 20_000 } else { 500 });
                self.at(
                    at,
                    Event::Kernel {
                        machine,
                        life,
                        command,
                    },
                );
            }
            Output::Probe(request) => {
                let outcome = if self.backends_up[&request.backend] {
                    ProbeOutcome::Good {
                        took: Duration::from_millis(1),
                    }
                } else {
                    ProbeOutcome::Bad {
                        failure: ConnectFailure::Refused,
                    }
                };
                let (backend, token) = (request.backend, request.token);
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
            Output::DropFlows { .. } => self.flows[machine].clear(),
            Output::Event(event) => {
                let text = format!("{:?}", event.what);
                self.log(["A", "B"][machine], &text);
            }
            Output::Reply { response, .. } => self.replies.push_back(response),
            Output::PublishRoutes { .. } => {}
            Output::Stopped => {
                self.machines[machine].kernel.held = None;
                self.kill(machine, "stopped");
            }
        }
    }

    // ---- the stream ------------------------------------------------------------------------

    fn dial(&mut self) {
        self.at(self.now + 100 * MS, Event::Dial);
        let ready = self
            .machines
            .iter()
            .all(|machine| machine.awake().is_some());
        if self.stream.is_some() || !ready || !self.network.stream_passes() || self.path_down(0) {
            return;
        }
        self.streams += 1;
        self.stream = Some(self.streams);
        let at = self.soon(300, 900);
        self.stream_next = [at; 2];
        for machine in 0..2 {
            let incarnation = |m: usize| self.machines[m].process.as_ref().unwrap().incarnation;
            let (life, peer) = (incarnation(machine), incarnation(1 - machine));
            let hello = Hello {
                protocol: PROTOCOL,
                node: NodeId::BOTH[1 - machine],
                incarnation: peer,
                config_hash: self.config.hash,
            };
            let input = Input::SessionUp(hello);
            self.at(
                at,
                Event::Process {
                    machine,
                    life,
                    stream: self.stream,
                    input,
                },
            );
        }
    }

    /// What each end believes of the stream: an end is told once that it stands, and once that it
    /// ended; a new one ends the old one first.
    fn session_agrees(&mut self, machine: usize, stream: Option<u64>, input: &Input) -> bool {
        let known = self.machines[machine].session;
        match input {
            Input::SessionUp(_) if stream == self.stream => {
                if known.is_some() {
                    self.give(machine, closed("replaced"));
                }
                self.machines[machine].session = stream;
                true
            }
            Input::SessionClosed { .. } if stream == known => {
                self.machines[machine].session = None;
                true
            }
            Input::SessionFrame(_) => stream == self.stream && stream == known,
            Input::SessionUp(_) | Input::SessionClosed { .. } => false,
            _ => true,
        }
    }

    /// The stream ends; each end learns of it, late if the network does not pass.
    pub fn close_stream(&mut self, reset: bool) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        let passes = reset && self.network.stream_passes() && !self.path_down(0);
        for machine in 0..2 {
            let Some(process) = &self.machines[machine].process else {
                continue;
            };
            let life = process.incarnation;
            let at = if passes && self.machines[1 - machine].powered() {
                self.soon(50, 400).max(self.stream_next[machine])
            } else {
                self.now + STREAM_TIMEOUT.as_nanos() as u64
            };
            self.at(
                at,
                Event::Process {
                    machine,
                    life,
                    stream: Some(stream),
                    input: closed("reset"),
                },
            );
        }
    }

    fn send_frame(&mut self, machine: usize, life: Incarnation, frame: Frame) {
        let sent = Input::SessionSent { frames: 1 };
        let at = self.soon(10, 200);
        self.at(
            at,
            Event::Process {
                machine,
                life,
                stream: None,
                input: sent,
            },
        );
        let (Some(stream), Some(peer)) = (self.stream, &self.machines[1 - machine].process) else {
            return;
        };
        let life = peer.incarnation;
        let at = self.soon(60, 600).max(self.stream_next[1 - machine] + 1);
        self.stream_next[1 - machine] = at;
        let input = Input::SessionFrame(frame);
        self.at(
            at,
            Event::Process {
                machine: 1 - machine,
                life,
                stream: Some(stream),
                input,
            },
        );
    }

    pub fn path_down(&self, path: usize) -> bool {
        path == 0 && self.machines.iter().any(|machine| machine.kernel.link_down)
    }

    // ---- events ----------------------------------------------------------------------------

    fn step(&mut self, event: Event) {
        match event {
            Event::Announce { machine, life } => self.announce(machine, life),
            Event::Datagram { from, path, bytes } => self.datagram(from, path, bytes),
            Event::DeadMan {
                machine,
                life,
                seen,
            } => {
                let stuck = self.machines[machine]
                    .process
                    .as_ref()
                    .is_some_and(|process| {
                        process.incarnation == life && process.last_turn == seen
                    });
                if stuck {
                    self.kill(machine, "killed by its dead-man timer");
                    let at = self.soon(100_000, 2_000_000);
                    self.at(at, Event::Nature(super::checkers::Act::Start(machine)));
                }
            }
            Event::Dial => self.dial(),
            Event::Icmp { to, path } => self.give(
                to,
                Input::PortClosed {
                    path: PathId(path as u8),
                },
            ),
            Event::Kernel {
                machine,
                life,
                command,
            } => self.kernel(machine, life, &command),
            Event::LanResolves => self.lan_resolves(),
            Event::Nature(act) => self.act(act),
            Event::Process {
                machine,
                life,
                stream,
                input,
            } => {
                let alive = self.machines[machine]
                    .process
                    .as_ref()
                    .is_some_and(|process| process.incarnation == life);
                if alive && self.session_agrees(machine, stream, &input) {
                    self.give(machine, input);
                }
            }
            Event::Turn { machine, life } => {
                let process = self.machines[machine].process.as_ref();
                if process.is_some_and(|process| {
                    process.incarnation == life && process.armed == Some(self.now)
                }) {
                    self.turn(machine);
                }
            }
            Event::Wake { machine, life } => self.wake(machine, life),
            Event::Work => self.work(),
        }
    }

    fn datagram(&mut self, from: usize, path: usize, bytes: Vec<u8>) {
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
        } else if self.machines[to].kernel.icmp_budget > 0 && !self.network.links[to][path].cut {
            self.machines[to].kernel.icmp_budget -= 1;
            let at = self.soon(50, 300);
            self.at(at, Event::Icmp { to: from, path });
        }
    }

    fn announce(&mut self, machine: usize, life: Incarnation) {
        let host = &self.machines[machine];
        let alive = host
            .process
            .as_ref()
            .is_some_and(|process| process.incarnation == life);
        let lost = self.faults.has(Kind::LostAnnouncements) && !self.calm && self.rng.chance(30);
        if alive && host.powered() && !host.kernel.link_down && !lost {
            self.lan = Some((machine, self.now));
        }
    }

    /// Hosts ask anew when their entry is old and nobody there answers any more.
    fn lan_resolves(&mut self) {
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

    fn kernel(&mut self, machine: usize, life: Incarnation, command: &KernelCommand) {
        let now = self.now;
        let host = &mut self.machines[machine];
        let Some(process) = &host.process else { return };
        if process.incarnation != life || process.machine_paused {
            return;
        }
        let kernel = &mut host.kernel;
        let report = match *command {
            KernelCommand::Hold { epoch, .. } => {
                if epoch < kernel.newest
                    || kernel.released.is_some_and(|released| epoch <= released)
                {
                    return;
                }
                kernel.newest = epoch;
                if kernel.refuses {
                    KernelReport::Failed {
                        epoch,
                        what: "ENOBUFS".into(),
                    }
                } else {
                    let first = kernel.held.is_none_or(|(before, _)| before != epoch);
                    kernel.held = Some((epoch, now + LEASE.as_nanos() as u64));
                    if !first {
                        return;
                    }
                    KernelReport::Held { epoch }
                }
            }
            KernelCommand::Release { epoch } => {
                if epoch < kernel.newest {
                    return;
                }
                kernel.newest = epoch;
                kernel.held = None;
                kernel.released = Some(epoch);
                KernelReport::Released { epoch }
            }
            KernelCommand::Announce { .. } => return,
        };
        self.give(machine, Input::Kernel(report));
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
        if whole_machine && length > STREAM_TIMEOUT.as_nanos() as u64 {
            self.close_stream(false);
        }
    }

    fn wake(&mut self, machine: usize, life: Incarnation) {
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
            if let Some((_, until)) = &mut host.kernel.held {
                *until += length;
            }
        }
        process.machine_paused = false;
        let inbox = std::mem::take(&mut process.inbox);
        self.log(["A", "B"][machine], "wakes");
        self.turn(machine);
        for input in inbox {
            self.give(machine, input);
        }
    }

    /// Clients open and close connections at whoever the LAN leads them to.
    fn work(&mut self) {
        self.at(self.now + 50 * MS, Event::Work);
        let Some((owner, _)) = self.lan else { return };
        let host = &self.machines[owner];
        let serves = host.kernel.holds(self.now) && host.is_master() && host.awake().is_some();
        if !serves || self.calm {
            return;
        }
        let service = &self.config.services[0];
        let backend = &service.backends[self.next_flow as usize % service.backends.len()];
        let (service, backend) = (service.id, backend.id);
        self.next_flow += 1;
        let flow = self.next_flow;
        self.flows[owner].insert(flow);
        let mut events = vec![FlowEvent::Opened {
            flow: FlowId(flow),
            service,
            backend,
            client: "192.0.2.1:40000".parse().unwrap(),
            connect: Duration::from_millis(1),
        }];
        if self.flows[owner].len() > 20 {
            let oldest = self.flows[owner]
                .pop_first()
                .expect("there are more than 20");
            events.push(FlowEvent::Closed {
                flow: FlowId(oldest),
                up: 10,
                down: 20,
                end: FlowEnd::Complete,
            });
        }
        self.give(owner, Input::Flows(events));
    }

    pub fn ask(&mut self, machine: usize, request: Request) {
        self.tickets += 1;
        let ticket = self.tickets;
        self.log(["A", "B"][machine], &format!("is asked: {request:?}"));
        self.give(machine, Input::Admin { ticket, request });
    }
}

fn closed(reason: &str) -> Input {
    Input::SessionClosed {
        fault: false,
        reason: reason.into(),
    }
}

pub fn link(up: bool) -> KernelReport {
    KernelReport::Link {
        interface: "eth0".into(),
        up,
    }
}

fn config(preempt: bool) -> Config {
    let text = format!(
        r#"
        [cluster]
        name = "simulated"
        key_file = "/etc/tandem/cluster.key"
        [[node]]
        name = "A"
        priority = 200
        addresses = ["192.0.2.11", "198.51.100.11"]
        [[node]]
        name = "B"
        priority = 100
        addresses = ["192.0.2.12", "198.51.100.12"]
        [election]
        heartbeat = "100ms"
        misses = 3
        preempt = {preempt}
        [[vip]]
        address = "192.0.2.100/24"
        interface = "eth0"
        [[service]]
        name = "web"
        listen = ["192.0.2.100:80"]
        [service.health]
        kind = "tcp"
        interval = "1s"
        timeout = "500ms"
        [[service.backend]]
        name = "b1"
        address = "203.0.113.21:8080"
        [[service.backend]]
        name = "b2"
        address = "203.0.113.22:8080"
        "#
    );
    Config::parse(&text).expect("the simulated configuration is valid")
}
