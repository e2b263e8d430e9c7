//! The thread that serves the program: what the program tells and what the node wants go in,
//! packets and reports come out.
//!
//! It owns the tables, the raw sockets and the [`Engine`], and has no real-time priority: a flood of
//! new connections must not cost the turn loop its heartbeats. Nothing here is fatal once it runs:
//! what fails is logged and counted, and tried again by the engine's own timers.
//!
//! It sleeps until a ring or a command wakes it. After a busy round it naps before it looks again:
//! then a wake-up serves many records. Records that nobody waits for wake nobody (those of
//! services that do not wait for the standby), so while this node leads such a service the thread
//! looks every few milliseconds.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_timerslack;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc as reports;
use tokio::sync::mpsc::error::TrySendError;

use super::backlog::weight;
use super::engine::{Engine, Packet};
use super::error::NatError;
use super::host;
use super::inject::Injector;
use super::kick::Kicker;
use super::layout::{self, FlowKey};
use super::lease::Lease;
use super::orders::{self, Inbox, NatHandle, Order};
use super::program::Nat;
use crate::balance::nat::{NatCommand, NatReport};
use crate::config::{Acknowledge, Config};
use crate::model::{Neighbour, NodeId};
use crate::status::{Mode, NatStatus};
use crate::wire::admin::FlowStatus;
use crate::wire::replication::Item;

/// Commands, events and refusals of one round; what is left waits for the next.
const COMMANDS: usize = 256;
/// What is learned in the time that a command takes.
const LEARNED: usize = 64;
const EVENTS: usize = 1_024;
const REFUSALS: usize = 256;
/// A round with so many of them was busy.
const BUSY: usize = 4;
/// Longest sleep while records may come that wake nobody.
const LOOK: Duration = Duration::from_millis(5);
/// Longest sleep otherwise.
const IDLE: Duration = Duration::from_millis(100);
/// Longest sleep while a report does not fit the node's queue.
const AGAIN: Duration = Duration::from_millis(1);
/// Nice value of the thread.
const NICE: i32 = -10;
/// Age of a status, at most.
const STATUS: Duration = Duration::from_millis(200);
/// How often the interfaces are looked at.
const INTERFACES: Duration = Duration::from_secs(1);

/// How this host runs the kernel mode.
#[derive(Clone, Debug)]
pub struct NatOptions {
    /// The directory of the pins, in a BPF file system.
    pub pins: PathBuf,
    /// For how long a former life's connections go on while this one starts.
    pub lease: Duration,
    /// Seed of what is left to chance.
    pub seed: u64,
}

/// What [`start`] gives.
#[derive(Debug)]
pub struct Running {
    /// The thread.
    pub handle: NatHandle,
    /// The right to forward.
    pub lease: Lease,
    /// Why the program notices the death of this process later than it could, if so.
    pub unwatched: Option<String>,
}

/// `CLOCK_MONOTONIC`, nanoseconds: the program's clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, nanos)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Every handshake waits for this thread, on both nodes: it goes ahead of ordinary ones (on Linux a
/// nice value is a thread's own; setpriority(2)), and its naps end when they should, not 50 us later.
/// Wishes both.
fn hasten() {
    let _ = set_timerslack(1);
    // SAFETY: takes no pointer; 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// How long it is until then; none: it never is.
fn until(due: Option<u64>) -> Duration {
    let left = |due: u64| Duration::from_nanos(due.saturating_sub(now()));
    due.map_or(Duration::MAX, left)
}

/// Loads the program or adopts what a former life left, puts it at the interfaces of the VIPs, and
/// starts the thread, which belongs to the caller's network namespace. The lease is as it was.
///
/// # Errors
///
/// What is missing, and what to do. Nothing is left behind that was not there before.
pub fn start(
    config: &Config,
    node: NodeId,
    options: &NatOptions,
    reports: reports::Sender<NatReport>,
) -> Result<Running, NatError> {
    let injector = Injector::open()?;
    let links = host::links(&config.interfaces())?;
    let mut engine = Engine::new(config, node, &links, options.seed);
    let (mut nat, adopted) = Nat::adopt(&options.pins, &engine.sizes())?;
    let begun = begin(config, &mut nat, &mut engine).and_then(|()| {
        // The table of a dead process goes on; from now on this one's lease counts.
        let mut lease = nat.lease()?;
        if adopted.tables && lease.until()? > 0 {
            engine.inherit(lease.until()?.saturating_sub(nanos(options.lease)));
        }
        lease.hold(now() + nanos(options.lease))?;
        nat.enliven()
    });
    if let Err(error) = begun {
        if !adopted.tables
            && let Err(error) = nat.close()
        {
            tracing::warn!("{error}");
        }
        return Err(error);
    }
    let places: Vec<String> = host::places(&nat).collect();
    tracing::info!(
        tables = if adopted.tables { "adopted" } else { "new" },
        links = adopted.links,
        discarded = adopted.discarded.len(),
        "the kernel mode's program is at {}",
        places.join(", ")
    );
    let system = |what| {
        move |error: std::io::Error| NatError::Other {
            what,
            reason: error.to_string(),
        }
    };
    let opened = orders::open();
    let (outbox, inbox) = opened.map_err(system("wake the kernel mode's thread"))?;
    let status = Arc::new(ArcSwap::from_pointee(NatStatus::default()));
    let lease = nat.lease()?;
    let unwatched = nat.unwatched.clone();
    let worker = Worker {
        lease: nat.lease()?,
        polled: polled(config),
        interfaces: config.interfaces().into_iter().map(str::to_owned).collect(),
        nat,
        engine,
        injector,
        kicker: Kicker::open(config),
        inbox,
        reports,
        waiting: None,
        status: Arc::clone(&status),
        leading: false,
        packets: Vec::new(),
        status_due: 0,
        interfaces_due: 0,
        failures: 0,
        trouble: None,
    };
    let thread = thread::Builder::new()
        .name("tandem-nat".into())
        .spawn(move || worker.run())
        .map_err(system("start the kernel mode's thread"))?;
    let handle = NatHandle::new(outbox, status, thread);
    Ok(Running {
        handle,
        lease,
        unwatched,
    })
}

/// The tables are filled before the program is at any interface where it was not.
fn begin(config: &Config, nat: &mut Nat, engine: &mut Engine) -> Result<(), NatError> {
    engine.begin(&mut nat.tables, now())?;
    nat.tables.remove_unwritten()?;
    nat.attach_only(&config.interfaces())
}

/// Whether there are records that wake nobody.
fn polled(config: &Config) -> bool {
    let modes = config
        .services
        .iter()
        .filter_map(|service| service.kernel.as_ref());
    modes
        .into_iter()
        .any(|mode| mode.replication == Acknowledge::Async)
}

struct Worker {
    nat: Nat,
    engine: Engine,
    injector: Injector,
    kicker: Kicker,
    lease: Lease,
    inbox: Inbox,
    reports: reports::Sender<NatReport>,
    /// The report that the node's queue had no room for; later ones gather in the engine.
    waiting: Option<NatReport>,
    status: Arc<ArcSwap<NatStatus>>,
    polled: bool,
    leading: bool,
    interfaces: BTreeSet<String>,
    packets: Vec<Packet>,
    status_due: u64,
    interfaces_due: u64,
    failures: u64,
    /// What is wrong with the interfaces, said once.
    trouble: Option<String>,
}

/// What follows a round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Wait,
    Nap(Duration),
    /// The handle is gone.
    Leave,
    Close,
}

impl Worker {
    fn run(mut self) {
        hasten();
        loop {
            match self.round() {
                Next::Wait => self.wait(),
                Next::Nap(time) => self.inbox.nap(time),
                Next::Leave => return,
                Next::Close => break,
            }
        }
        if let Err(error) = self.nat.close() {
            tracing::error!("{error}; run `tandem cleanup` once the node has stopped");
        }
    }

    fn round(&mut self) -> Next {
        let mut work = 0;
        loop {
            match self.inbox.next() {
                Some(Order::Command(command)) => {
                    work += weight(&command) / LEARNED;
                    self.command(command);
                }
                Some(Order::Measure(flows, done)) => done.with(self.measured(flows)),
                Some(Order::Stop) => return Next::Close,
                Some(Order::Leave) => return Next::Leave,
                None => break,
            }
            work += 1;
            if work >= COMMANDS {
                break;
            }
        }
        // What the standby's word lets go does not wait for the events behind it.
        self.send();
        work += self.events();
        let ticked = self.engine.tick(&mut self.nat.tables, now());
        self.check(ticked);
        self.send();
        self.kicker.kick(now());
        self.report();
        self.look();
        let busy = if self.leading { BUSY } else { 1 };
        if work >= busy {
            Next::Nap(self.engine.lull().min(until(self.kicker.timeout())))
        } else {
            Next::Wait
        }
    }

    fn command(&mut self, command: NatCommand) {
        let weight = weight(&command);
        match command {
            NatCommand::Lead => self.leading = true,
            NatCommand::Yield => {
                self.leading = false;
                self.kicker.end();
            }
            NatCommand::Probe => self.kicker.begin(now()),
            NatCommand::Relay(relay) => self.kicker.ask(relay.asks, now()),
            NatCommand::Learn(ref items) => {
                let new = |item: &&Item| matches!(item, Item::NatOpen { .. });
                self.kicker
                    .learned(items.iter().filter(new).count() as u64, now());
            }
            NatCommand::Neighbour {
                ref interface,
                neighbour,
            } => self.meet(interface.clone(), neighbour),
            // Nothing that a client may have seen is to be told after the answer.
            NatCommand::Pause => while self.events() >= EVENTS {},
            _ => {}
        }
        let done = self.engine.command(command, &mut self.nat.tables, now());
        self.inbox.done(weight);
        self.check(done);
    }

    /// Where the peer is, for the program, and for whoever has handshakes repeated.
    fn meet(&mut self, interface: String, at: Neighbour) {
        // Not seen since the start of this process: where it was before is a better guess than none.
        let Some(peer) = at.peer else { return };
        let known = layout::Neighbour {
            own: at.own.0,
            peer: peer.0,
            zero: 0,
        };
        let set = self.nat.tables.set_neighbour(at.index, Some(known));
        self.check(set);
        self.kicker.meet(interface, at);
    }

    fn measured(&self, mut flows: Vec<FlowStatus>) -> Vec<FlowStatus> {
        for flow in &mut flows {
            let (Mode::Kernel, Some(listen)) = (flow.mode, flow.listen) else {
                continue;
            };
            let key = FlowKey::new(flow.client, listen);
            let Ok(Some(front)) = self.nat.tables.flow(&key) else {
                continue;
            };
            let back = self.nat.tables.flow(&front.opposite(key.family));
            flow.up = Some(front.bytes);
            flow.down = back.ok().flatten().map(|back| back.bytes);
        }
        flows
    }

    fn events(&mut self) -> usize {
        let mut work = 0;
        let time = now();
        while work < EVENTS
            && let Some(told) = self.nat.tables.next_event()
        {
            let done = self.engine.told(told, &mut self.nat.tables, time);
            self.check(done);
            work += 1;
        }
        for _ in 0..REFUSALS {
            let Some(refusal) = self.nat.tables.next_refusal() else {
                break;
            };
            self.engine.refused(&refusal, time);
            work += 1;
        }
        while let Some(stale) = self.nat.tables.next_stale() {
            self.engine.stale(&stale);
        }
        work
    }

    fn send(&mut self) {
        self.packets
            .extend(std::iter::from_fn(|| self.engine.poll_packet()));
        if !self.packets.is_empty() {
            self.injector.send(&self.packets);
            self.packets.clear();
        }
    }

    /// Hands over what happened, in order. What does not fit waits here, and the rest in the
    /// engine.
    fn report(&mut self) {
        while let Some(report) = self.waiting.take().or_else(|| self.engine.poll_report()) {
            match self.reports.try_send(report) {
                Ok(()) => {}
                Err(TrySendError::Full(report)) => {
                    self.waiting = Some(report);
                    return;
                }
                // The node has ended; nobody is left to tell.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    /// What is done from time to time.
    fn look(&mut self) {
        let time = now();
        if time >= self.status_due {
            self.status_due = time + nanos(STATUS);
            let mut status = self.engine.status(&self.nat.tables);
            status.hooks = host::places(&self.nat).collect();
            status.forwarding = self.lease.until().is_ok_and(|until| until > time);
            let own = self.injector.sent().named();
            let own = own.into_iter().chain([("map_failures", self.failures)]);
            status
                .counters
                .extend(own.map(|(name, value)| (name.to_owned(), value)));
            self.status.store(Arc::new(status));
        }
        if time >= self.interfaces_due {
            self.interfaces_due = time + nanos(INTERFACES);
            let names = self.interfaces.iter().map(String::as_str).collect();
            let trouble = self
                .nat
                .attach_only(&names)
                .err()
                .map(|error| error.to_string());
            if let Some(text) = &trouble
                && self.trouble != trouble
            {
                tracing::warn!("{text}");
            }
            self.trouble = trouble;
        }
    }

    fn check(&mut self, done: Result<(), NatError>) {
        if let Err(error) = done {
            self.failures += 1;
            // The first of them and every 1,024th: a full table refuses each new connection.
            if self.failures % 1_024 == 1 {
                tracing::error!(failures = self.failures, "{error}");
            }
        }
    }

    fn wait(&self) {
        let most = match (&self.waiting, self.polled && self.leading) {
            (Some(_), _) => AGAIN,
            (None, true) => LOOK,
            (None, false) => IDLE,
        };
        let due = [self.engine.poll_timeout(), self.kicker.timeout()];
        let most = most.min(until(due.into_iter().flatten().min()));
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let tables = &self.nat.tables;
        let mut fds = [
            readable(self.inbox.as_fd()),
            readable(tables.events_fd()),
            readable(tables.refusals_fd()),
        ];
        // Whatever it says, the next round looks at everything.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None);
        self.inbox.woken();
    }
}
