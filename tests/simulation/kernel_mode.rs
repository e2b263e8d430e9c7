//! The kernel mode of a simulated machine: tables, lease and clock survive the process, as pins do;
//! the engine and its thread are the process's.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use tandem::balance::nat::leases::{Leases, Rights};
use tandem::balance::nat::{NatCommand, NatReport};
use tandem::config::Config;
use tandem::datapath::nat::engine::{Engine, Link, Links};
use tandem::datapath::nat::layout::{self, FLOW_CLIENT, Flow, FlowKey};
use tandem::datapath::nat::reference::Reference;
use tandem::datapath::nat::{NatError, State};
use tandem::model::{Incarnation, NodeId, Role};
use tandem::node::io::Input;

use super::faults::Kind;
use super::machine::Process;
use super::segment::{ACK, SYN, framed, glance};
use super::traffic::Step;
use super::world::{Event, HEARTBEAT, MS, World};

/// The length of every lease: the dead-man timer, or heartbeat x misses less two jiffies, whatever is
/// less.
pub const LENGTH: u64 = if 8 * 3 * HEARTBEAT / 10 < 3 * HEARTBEAT - 20 * MS {
    8 * 3 * HEARTBEAT / 10
} else {
    3 * HEARTBEAT - 20 * MS
};
/// The device of the address.
pub const DEVICE: u32 = 2;
/// Room in the tables.
const ENTRIES: usize = 100_000;

/// A connection towards its backend: what the backend sees of it.
pub type Path = (SocketAddrV4, SocketAddrV4);

/// `CLOCK_MONOTONIC` of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// At this simulated time it showed `shown`.
    since: u64,
    shown: u64,
    /// Parts per million by which it is fast.
    drift: i64,
}

impl Clock {
    pub fn read(&self, now: u64) -> u64 {
        let age = i128::from(now.saturating_sub(self.since));
        self.shown + (age + age * i128::from(self.drift) / 1_000_000) as u64
    }

    /// When it shows this.
    fn when(&self, shown: u64) -> u64 {
        let age = i128::from(shown.saturating_sub(self.shown)) * 1_000_000;
        self.since + (age / i128::from(1_000_000 + self.drift)) as u64 + 2
    }

    fn runs(&mut self, drift: i64, now: u64) {
        (self.shown, self.since, self.drift) = (self.read(now), now, drift);
    }

    /// It did not see so much of the time that has passed.
    pub fn skips(&mut self, length: u64, now: u64) {
        let shown = self.read(now.saturating_sub(length)).max(self.shown);
        (self.shown, self.since) = (shown, now);
    }
}

/// What survives the process.
pub struct Kept {
    pub tables: Reference,
    pub clock: Clock,
    /// When the process died, as far as its program can tell.
    pub dead_at: Option<u64>,
    pub stands: Stands,
}

/// What this machine's node was in truth, whatever its tables say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stands {
    /// When it last turned as master; none: it did later as something else.
    pub led: Option<u64>,
    /// That was another process, and this one does not know its role.
    pub inherits: bool,
    /// The same, as the standby of a master.
    pub stood: Option<u64>,
}

impl Default for Kept {
    fn default() -> Self {
        let tables = Reference {
            capacity: ENTRIES,
            ..Reference::default()
        };
        let clock = Clock {
            since: 0,
            shown: 1_000 * MS,
            drift: 0,
        };
        Self {
            tables,
            clock,
            dead_at: None,
            stands: Stands::default(),
        }
    }
}

impl Kept {
    /// After a loss of power.
    pub fn anew(now: u64) -> Self {
        let mut kept = Self::default();
        kept.clock.since = now;
        kept
    }

    /// The sign of death.
    pub fn is_dead(&self, now: u64) -> bool {
        self.dead_at.is_some_and(|at| at <= now)
    }

    pub fn may_forward(&self, now: u64) -> bool {
        self.clock.read(now) < self.tables.lease
    }

    /// How its tables lead this client's connection to its backend, if they know it.
    pub fn path(&self, client: SocketAddrV4, service: SocketAddrV4) -> Option<(Path, Flow)> {
        let key = FlowKey::new(client.into(), service.into());
        let flow = self.tables.flows.get(&key)?;
        Some((path_of(flow)?, *flow))
    }

    /// All clients' entries of connections that have not ended.
    pub fn open(&self) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        let flows = self.tables.flows.iter();
        flows.filter(|(_, flow)| {
            flow.flags & FLOW_CLIENT != 0 && flow.state != State::Closed.number()
        })
    }
}

/// How an entry of a client translates.
pub fn path_of(flow: &Flow) -> Option<Path> {
    let v4 = |at, port: u16| match SocketAddr::new(at, port) {
        SocketAddr::V4(at) => Some(at),
        SocketAddr::V6(_) => None,
    };
    let source = v4(flow.to_src.ip(4), flow.to_sport.get())?;
    Some((source, v4(flow.to_dst.ip(4), flow.to_dport.get())?))
}

/// The thread that serves the program, and the lease in the hands of the turn loop.
pub struct Thread {
    engine: Engine,
    commands: VecDeque<NatCommand>,
    armed: Option<u64>,
    leases: Leases,
    /// What they said last.
    written: Rights,
    /// Handshakes that went on by the standby's word, as far as they were looked at.
    acknowledged: u64,
    /// When the last report reaches the node.
    told_until: u64,
}

/// What a round of the thread did.
#[derive(Default)]
struct Round {
    /// Packets from their IP header on; whether the standby's word let each go.
    packets: Vec<(Vec<u8>, bool)>,
    reports: Vec<NatReport>,
}

impl Process {
    /// Its program forwards by right of its own mastership.
    pub fn leads(&self) -> bool {
        let leases = self.thread.as_ref().map(|thread| &thread.leases);
        leases.is_some_and(Leases::leads)
    }
}

/// What the node may do by its leases stands in the program's tables.
const fn write(rights: Rights, tables: &mut Reference) {
    (tables.lease, tables.waits) = (rights.until, rights.waits);
    (tables.frozen, tables.offered) = (rights.frozen, rights.offered);
    (tables.accept, tables.second) = (rights.accept, rights.second);
}

impl Thread {
    /// Starts on what is there.
    fn start(
        config: &Config,
        node: NodeId,
        kept: &mut Kept,
        now: u64,
        seed: u64,
    ) -> Result<Self, NatError> {
        let mono = kept.clock.read(now);
        let device = Link {
            ifindex: DEVICE,
            mtu: 1_500,
        };
        let links = Links {
            interfaces: [("eth0".to_owned(), device)].into(),
            unix_ms_at_zero: 1_700_000_000_000 + now / MS - mono / MS,
        };
        let mut engine = Engine::new(config, node, &links, seed);
        engine.begin(&mut kept.tables, mono)?;
        let length = Duration::from_nanos(LENGTH);
        let leases = Leases::start(
            length,
            config.election.stall(),
            kept.tables.lease > 0,
            Duration::from_nanos(mono),
        );
        let written = leases.rights();
        write(written, &mut kept.tables);
        Ok(Self {
            engine,
            commands: VecDeque::new(),
            armed: None,
            leases,
            written,
            acknowledged: 0,
            told_until: 0,
        })
    }

    fn write(&mut self, tables: &mut Reference) {
        let rights = self.leases.rights();
        if std::mem::replace(&mut self.written, rights) != rights {
            write(rights, tables);
        }
    }

    fn round(&mut self, kept: &mut Kept, now: u64) -> Result<Round, NatError> {
        let mono = kept.clock.read(now);
        let mut round = Round::default();
        while let Some(command) = self.commands.pop_front() {
            self.engine.command(command, &mut kept.tables, mono)?;
            self.drain(kept, &mut round);
        }
        for told in std::mem::take(&mut kept.tables.events) {
            self.engine.told(told, &mut kept.tables, mono)?;
            self.drain(kept, &mut round);
        }
        for refusal in std::mem::take(&mut kept.tables.refusals) {
            self.engine.refused(&refusal, mono);
        }
        for stale in std::mem::take(&mut kept.tables.stales) {
            self.engine.stale(&stale);
        }
        self.engine.tick(&mut kept.tables, mono)?;
        self.drain(kept, &mut round);
        round
            .reports
            .extend(std::iter::from_fn(|| self.engine.poll_report()));
        Ok(round)
    }

    fn drain(&mut self, kept: &Kept, round: &mut Round) {
        let packets: Vec<_> = std::iter::from_fn(|| self.engine.poll_packet()).collect();
        let answers = |bytes: &[u8]| bytes.get(33).is_some_and(|it| it & 0x3f == SYN | ACK);
        let mut acknowledged = false;
        if packets.iter().any(|packet| answers(&packet.bytes)) {
            // All that go on at once do so for one reason.
            let count = self.engine.status(&kept.tables).released_acknowledged;
            acknowledged = std::mem::replace(&mut self.acknowledged, count) < count;
        }
        round.packets.extend(packets.into_iter().map(|packet| {
            let by_standby = acknowledged && answers(&packet.bytes);
            (packet.bytes, by_standby)
        }));
    }
}

impl World {
    /// The process that starts takes over what an earlier one left in the kernel.
    pub fn start_kernel_mode(&mut self, machine: usize, drift: i64) {
        if self.traffic.hosts.is_empty() {
            return;
        }
        let seed = self.traffic.rng.next();
        let now = self.now;
        let kept = &mut self.machines[machine].kept;
        kept.clock.runs(drift, now);
        // Who leads the program; what waits there from before is found by a walk.
        (kept.dead_at, kept.tables.opened) = (None, 0);
        kept.stands = Stands {
            led: kept.stands.led.map(|_| now),
            inherits: kept.stands.led.is_some(),
            stood: None,
        };
        match Thread::start(&self.config, NodeId::BOTH[machine], kept, now, seed) {
            Ok(thread) => {
                if let Some(process) = &mut self.machines[machine].process {
                    process.thread = Some(thread);
                }
                self.wake_thread(machine, Duration::ZERO);
            }
            Err(error) => self.checkers.kernel_mode_failed(&error.to_string()),
        }
    }

    /// The node wants something of the data path. The lease changes hands at once.
    pub fn command_thread(&mut self, machine: usize, command: NatCommand) {
        let host = &mut self.machines[machine];
        let mono = host.kept.clock.read(self.now);
        let Some(thread) = host.process.as_mut().and_then(|it| it.thread.as_mut()) else {
            return;
        };
        let tables = &mut host.kept.tables;
        thread.leases.command(&command, Duration::from_nanos(mono));
        thread.write(tables);
        if let NatCommand::Neighbour { neighbour, .. } = &command
            && let Some(peer) = neighbour.peer
        {
            let at = layout::Neighbour {
                own: neighbour.own.0,
                peer: peer.0,
                zero: 0,
            };
            tables.neighbours.insert(neighbour.index, at);
        }
        if matches!(command, NatCommand::Lead | NatCommand::Yield) {
            self.log(["A", "B"][machine], &format!("data path: {command:?}"));
        }
        let leads = command == NatCommand::Lead;
        let host = &mut self.machines[machine];
        if let Some(thread) = host.process.as_mut().and_then(|it| it.thread.as_mut()) {
            thread.commands.push_back(command);
        }
        if leads {
            self.flows_taken_over(machine);
            let process = self.machines[machine].process.as_ref();
            if let Some(life) = process.map(|process| process.incarnation) {
                self.kick_soon(machine, life);
            }
        }
        self.wake_thread(machine, Duration::from_micros(200));
    }

    /// The node has made a turn.
    pub fn renew_lease(&mut self, machine: usize) {
        let now = self.now;
        let host = &mut self.machines[machine];
        let Some(process) = &mut host.process else {
            return;
        };
        let role = process.node.role();
        let peer = process.node.election().peer().map(|peer| peer.role);
        let stands = &mut host.kept.stands;
        match role {
            Role::Master => (stands.led, stands.inherits) = (Some(now), false),
            Role::Initialize if stands.inherits => stands.led = Some(now),
            _ => (stands.led, stands.inherits) = (None, false),
        }
        let stood = role == Role::Backup && peer == Some(Role::Master);
        stands.stood = stood.then_some(now);
        let mono = host.kept.clock.read(now);
        if let Some(thread) = &mut process.thread {
            thread.leases.turned(role, Duration::from_nanos(mono));
            thread.write(&mut host.kept.tables);
        }
    }

    /// The process of this machine's program dies.
    pub fn program_notices(&mut self, machine: usize) {
        let rng = &mut self.traffic.rng;
        // Tens of microseconds; more where only its files tell.
        let most = if rng.chance(25) { 3_000 } else { 60 };
        let wait = rng.between(Duration::from_micros(10), Duration::from_micros(most));
        self.machines[machine].kept.dead_at = Some(self.now + wait.as_nanos() as u64);
    }

    /// Something waits for the thread: it looks within this time; now and then the host is busy.
    pub fn wake_thread(&mut self, machine: usize, most: Duration) {
        let busy = self.faults.has(Kind::Kernel) && !self.calm && self.traffic.rng.chance(2);
        let most = if busy {
            Duration::from_millis(40)
        } else {
            most
        };
        let delay = self.traffic.rng.between(Duration::ZERO, most);
        self.arm_thread(machine, self.now + 10_000 + delay.as_nanos() as u64);
    }

    fn arm_thread(&mut self, machine: usize, at: u64) {
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let life = process.incarnation;
        if let Some(thread) = &mut process.thread
            && thread.armed.is_none_or(|armed| at < armed)
        {
            thread.armed = Some(at);
            self.at(at, Event::Traffic(Step::Round { machine, life }));
        }
    }

    pub fn thread_round(&mut self, machine: usize, life: Incarnation) {
        let now = self.now;
        let host = &mut self.machines[machine];
        let runs = |it: &&mut Process| it.incarnation == life && it.paused_until.is_none();
        let Some(process) = host.process.as_mut().filter(runs) else {
            return;
        };
        let Some(thread) = process.thread.as_mut() else {
            return;
        };
        if thread.armed != Some(now) {
            return;
        }
        thread.armed = None;
        let kept = &mut host.kept;
        let round = match thread.round(kept, now) {
            Ok(round) => round,
            Err(error) => return self.checkers.kernel_mode_failed(&error.to_string()),
        };
        let due = thread.engine.poll_timeout().map(|at| kept.clock.when(at));
        for (packet, acknowledged) in round.packets {
            self.inject(machine, &packet, acknowledged);
        }
        for report in round.reports {
            self.report(machine, life, report);
        }
        if let Some(due) = due {
            self.arm_thread(machine, due.max(now + 10_000));
        }
    }

    /// The process goes on after a pause, or not.
    pub fn thread_wakes(&mut self, machine: usize) {
        let process = self.machines[machine].process.as_mut();
        if let Some(thread) = process.and_then(|it| it.thread.as_mut()) {
            thread.armed = None;
            self.wake_thread(machine, Duration::from_micros(500));
        }
    }

    fn report(&mut self, machine: usize, life: Incarnation, report: NatReport) {
        let delay = self
            .traffic
            .rng
            .between(Duration::from_micros(10), Duration::from_micros(200));
        let process = self.machines[machine].process.as_mut();
        let Some(thread) = process.and_then(|it| it.thread.as_mut()) else {
            return;
        };
        let at = thread.told_until.max(self.now + delay.as_nanos() as u64) + 1;
        thread.told_until = at;
        let event = Event::Process {
            machine,
            life,
            stream: None,
            input: Input::Nat(report),
        };
        self.at(at, event);
    }

    /// A packet leaves the raw socket.
    fn inject(&mut self, machine: usize, packet: &[u8], acknowledged: bool) {
        let frame = framed(packet);
        if acknowledged {
            let (from, to) = glance(&frame);
            self.flow_promised(machine, to, from);
        }
        self.leaves(machine, frame);
    }
}
