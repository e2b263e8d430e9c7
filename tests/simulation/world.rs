//! The world: a queue of events. What each does to a machine is in `process`, `stream`, `host` and
//! `nature`; what must hold afterwards is in `checkers`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tandem::balance::flow::FlowEvent;
use tandem::config::Config;
use tandem::model::{BackendId, Epoch, Incarnation};
use tandem::node::io::Input;
use tandem::vip::kernel::KernelCommand;
use tandem::wire::admin::Response;

use super::checkers::Checkers;
use super::faults::Faults;
use super::machine::Machine;
use super::nature::Act;
use super::neighbours::Neighbours;
use super::network::Network;
use super::proxied::Proxied;
use super::rng::Rng;
use super::traffic::{Step, Traffic};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
pub const HEARTBEAT: u64 = 100 * MS;
/// From the healing to the end: what was unfit is forgiven, and then there is quiet for a while.
const CALM: u64 = 16 * SECOND;

/// Every other eight seeds have services in kernel mode, with clients and backends of their own.
const fn has_kernel_mode(seed: u64) -> bool {
    seed & 8 != 0
}

/// In every other sixteen seeds A relays, and in most of these B does, too.
const fn relays(seed: u64) -> [bool; 2] {
    let first = seed & 16 != 0;
    [first, first && seed & 96 != 96]
}

pub enum Event {
    /// The checkers look at the books.
    Audit,
    Datagram {
        from: usize,
        path: usize,
        bytes: Vec<u8>,
        /// Who wrote it, and the epoch that it tells; none for what somebody repeats or damages.
        told: Option<(Incarnation, Epoch)>,
    },
    DeadMan {
        machine: usize,
        life: Incarnation,
        seen: u64,
    },
    Dial,
    /// The data path tells of connections.
    Flows {
        machine: usize,
        life: Incarnation,
        events: Vec<FlowEvent>,
    },
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
    /// The process learns where its peer is on the LAN.
    Meet {
        machine: usize,
        life: Incarnation,
    },
    Nature(Act),
    Process {
        machine: usize,
        life: Incarnation,
        stream: Option<u64>,
        input: Input,
    },
    Traffic(Step),
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
    pub streams: u64,
    pub stream_next: [u64; 2],
    /// Whom the LAN's hosts take for the owner of the address, and since when.
    pub lan: Option<(usize, u64)>,
    pub backends_up: BTreeMap<BackendId, bool>,
    pub flows: [BTreeSet<u64>; 2],
    pub next_flow: u64,
    /// Whose relay works.
    pub relays: [bool; 2],
    pub proxied: Proxied,
    pub tickets: u64,
    pub replies: VecDeque<Response>,
    pub calm: bool,
    /// When the run ends.
    pub ends_at: Option<u64>,
    /// Clients and backends of the kernel mode.
    pub traffic: Traffic,
    pub neighbours: Neighbours,
    pub checkers: Checkers,
    /// Packets with these ports are traced.
    pub watched: BTreeSet<u16>,
    trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = Rng::new(seed);
        let config = Arc::new(config(rng.chance(30), has_kernel_mode(seed)));
        let network = Network::new(faults, &mut rng);
        let mut traffic = Traffic::new(&config, seed);
        let both = relays(seed) == [true; 2];
        let hosts = traffic.hosts.keys().copied();
        let neighbours = Neighbours::drawn(hosts, both, &mut traffic.rng);
        let backends = config.services[0].backends.iter();
        let mut world = Self {
            now: 0,
            serial: 0,
            queue: BTreeMap::new(),
            backends_up: backends.map(|backend| (backend.id, true)).collect(),
            config,
            machines: Default::default(),
            network,
            traffic,
            neighbours,
            stream: None,
            streams: 0,
            stream_next: [0; 2],
            lan: None,
            flows: Default::default(),
            next_flow: 0,
            relays: relays(seed),
            proxied: Proxied::default(),
            tickets: 0,
            replies: VecDeque::new(),
            calm: false,
            ends_at: None,
            checkers: Checkers::default(),
            watched: BTreeSet::new(),
            trace: Vec::new(),
            rng,
            faults,
        };
        let first = world.rng.below(2) as usize;
        let later = world.rng.below(2 * SECOND);
        world.start(first);
        world.at(later, Event::Nature(Act::Start(1 - first)));
        world.at(0, Event::Dial);
        world.at(0, Event::LanResolves);
        world.at(SECOND, Event::Work);
        world.at(SECOND, Event::Audit);
        if has_kernel_mode(seed) {
            world.at(SECOND, Event::Traffic(Step::Come));
        }
        world
    }

    /// Faults for so long, then everything is healed and must come to order.
    pub fn run(&mut self, seconds: u64) -> Result<(), String> {
        self.ends_at = Some(seconds * SECOND + CALM);
        self.plan_nature(seconds * SECOND);
        for (at, step) in self.traffic.plan(self.faults, seconds * SECOND) {
            self.at(at, Event::Traffic(step));
        }
        self.run_until(seconds * SECOND)?;
        self.heal();
        self.run_until(seconds * SECOND + CALM)?;
        // Facts arise at any time; look when none is on its way.
        for _ in 0..20 {
            if self.copies_are_level() && self.flows_agree().is_ok() {
                break;
            }
            self.run_until(self.now + 5 * MS)?;
        }
        self.check_order()
    }

    pub fn run_until(&mut self, end: u64) -> Result<(), String> {
        while let Some((&(at, serial), _)) = self.queue.first_key_value() {
            if at > end {
                break;
            }
            let event = self.queue.remove(&(at, serial)).expect("it was there");
            self.now = at;
            let moves = !matches!(event, Event::Traffic(_));
            self.step(event);
            self.check(moves)
                .map_err(|broken| format!("at {:.6} s: {broken}", self.now as f64 / 1e9))?;
        }
        self.now = end;
        Ok(())
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.queue.insert((time.max(self.now), self.serial), event);
    }

    pub fn soon(&mut self, low_us: u64, high_us: u64) -> u64 {
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

    fn step(&mut self, event: Event) {
        match event {
            Event::Audit => self.audit(),
            Event::Datagram {
                from,
                path,
                bytes,
                told,
            } => self.datagram(from, path, bytes, told),
            Event::DeadMan {
                machine,
                life,
                seen,
            } => self.dead_man(machine, life, seen),
            Event::Dial => self.dial(),
            Event::Flows {
                machine,
                life,
                events,
            } => self.flow_events(machine, life, events),
            Event::Icmp { to, path } => self.give(
                to,
                Input::PortClosed {
                    path: tandem::model::PathId(path as u8),
                },
            ),
            Event::Kernel {
                machine,
                life,
                command,
            } => self.kernel(machine, life, command),
            Event::LanResolves => self.lan_resolves(),
            Event::Meet { machine, life } => self.meets(machine, life),
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
            Event::Traffic(step) => self.traffic(step),
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
}

fn config(preempt: bool, kernel_mode: bool) -> Config {
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
        [proxy]
        drain_timeout = "6s"
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
    let kernel = if kernel_mode { KERNEL_MODE } else { "" };
    Config::parse(&(text + kernel)).expect("the simulated configuration is valid")
}

/// A service that waits for the standby, and one that does not.
const KERNEL_MODE: &str = r#"
[[service]]
name = "db"
mode = "kernel"
listen = ["192.0.2.100:5432"]
[service.health]
kind = "tcp"
interval = "2s"
timeout = "500ms"
[[service.backend]]
name = "d1"
address = "203.0.113.31:5432"
[[service.backend]]
name = "d2"
address = "203.0.113.32:5432"
[[service]]
name = "logs"
mode = "kernel"
replication = "async"
listen = ["192.0.2.100:514"]
[service.health]
kind = "tcp"
interval = "2s"
timeout = "500ms"
[[service.backend]]
name = "l1"
address = "203.0.113.41:514"
[[service.backend]]
name = "l2"
address = "203.0.113.42:514"
"#;
