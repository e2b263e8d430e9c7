//! One worker: a thread with its own runtime, its own listeners and its own connections.
//!
//! A connection lives on the worker that accepted it. Workers share three things, each touched
//! once or twice in a connection's life: the routes, the counts that limits and
//! `least_connections` need, and the channel to the node.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::direction::Buffers;
use super::flows::{Flow, Flows};
use super::log::{Phase, Record, Why};
use super::report::Report;
use super::serve::serve;
use super::shared::{Control, Known, Seat, Shared};
use crate::balance::flow::{FlowEnd, FlowEvent, Unserved};
use crate::balance::{Route, Stick};
use crate::config::Logged;
use crate::model::FlowId;

/// Time between beats, and between parts of the sweep.
const TICK: Duration = Duration::from_millis(100);
/// Parts of a sweep: each connection is looked at once a second.
const PARTS: usize = 10;
/// How long events wait for company.
const FLUSH: Duration = Duration::from_millis(8);
/// Pause after an accept that failed for want of descriptors or memory.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Time for the connections to be reset when the worker stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the tasks of one worker share.
#[derive(Debug)]
pub(super) struct Worker {
    index: u16,
    pub(super) shared: Arc<Shared>,
    control: Arc<Control>,
    pub(super) flows: RefCell<Flows>,
    pub(super) buffers: Buffers,
    pub(super) rng: RefCell<fastrand::Rng>,
    report: RefCell<Report>,
    /// The report has its first event.
    news: Notify,
    accepted: Cell<u64>,
}

/// What a worker's thread begins with.
pub(super) struct Setup {
    pub(super) index: u16,
    pub(super) shared: Arc<Shared>,
    pub(super) control: Arc<Control>,
    pub(super) report: Report,
    pub(super) seed: u64,
    /// With the place of their service in the configuration.
    pub(super) listeners: Vec<(usize, StdTcpListener)>,
    /// One worker of all keeps the tables of clients: what the master says of them comes here.
    pub(super) sticks: Option<Receiver<Vec<Stick>>>,
    pub(super) runtime: Runtime,
}

/// The runtime of one worker.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
}

/// The thread's life.
pub(super) fn run(setup: Setup) {
    let worker = Rc::new(Worker {
        index: setup.index,
        shared: setup.shared,
        control: setup.control,
        flows: RefCell::default(),
        buffers: Buffers::new(),
        rng: RefCell::new(fastrand::Rng::with_seed(setup.seed)),
        report: RefCell::new(setup.report),
        news: Notify::new(),
        accepted: Cell::new(0),
    });
    let local = LocalSet::new();
    let life = worker.live(setup.listeners, setup.sticks);
    if let Err(error) = local.block_on(&setup.runtime, life) {
        tracing::error!(worker = setup.index, %error, "a listener cannot be registered");
    }
}

type Listeners = Vec<(usize, Rc<TcpListener>)>;

impl Worker {
    async fn live(
        self: Rc<Self>,
        listeners: Vec<(usize, StdTcpListener)>,
        sticks: Option<Receiver<Vec<Stick>>>,
    ) -> io::Result<()> {
        let keeps = sticks.is_some();
        let listeners: Listeners = listeners
            .into_iter()
            .map(|(service, listener)| Ok((service, Rc::new(TcpListener::from_std(listener)?))))
            .collect::<io::Result<_>>()?;
        let acceptors: Vec<JoinHandle<()>> = listeners
            .iter()
            .map(|(service, listener)| {
                spawn_local(Rc::clone(&self).accept(*service, Rc::clone(listener)))
            })
            .collect();
        spawn_local(Rc::clone(&self).send_reports());
        if let Some(sticks) = sticks {
            spawn_local(Rc::clone(&self).adopt(sticks));
        }

        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut part = 0;
        let mut cuts = 0;
        loop {
            tokio::select! {
                biased;
                () = self.control.wake.notified() => {
                    let asked = self.control.cuts.load(Ordering::Acquire);
                    if asked != cuts {
                        cuts = asked;
                        self.cut_all(&listeners);
                    }
                    self.reset_backends();
                    if self.control.stop.load(Ordering::Acquire) {
                        break;
                    }
                }
                _ = tick.tick() => {
                    let now = self.shared.now();
                    self.control.beat(now);
                    let splices = self.buffers.pipes.borrow().lent();
                    self.control.splices.store(splices, Ordering::Relaxed);
                    self.sweep(part, now);
                    if keeps {
                        self.shared.sticky().iter().for_each(|it| it.expire(now));
                        // Whoever came while nobody could wait frees a place and tells nobody.
                        self.shared.advance_lines();
                    }
                    part = (part + 1) % PARTS;
                }
            }
        }
        for acceptor in acceptors {
            acceptor.abort();
        }
        self.cut_all(&listeners);
        drop(listeners);
        let deadline = Instant::now() + FAREWELL;
        while !self.flows.borrow().is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        self.report.borrow_mut().flush(&self.flows.borrow());
        Ok(())
    }

    async fn accept(self: Rc<Self>, service: usize, listener: Rc<TcpListener>) {
        let mut in_trouble = false;
        loop {
            match listener.accept().await {
                Ok((client, address)) => {
                    in_trouble = false;
                    self.welcome(service, client, address);
                }
                // The client was faster than we were, and is gone (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Said once; the clients wait in the kernel's queue meanwhile.
                    if !in_trouble {
                        tracing::warn!(worker = self.index, %error, "cannot accept clients; if files \
                            are out, raise LimitNOFILE or lower proxy.max_connections");
                    }
                    in_trouble = true;
                    sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    fn welcome(self: &Rc<Self>, service: usize, client: TcpStream, address: SocketAddr) {
        let known = self.shared.known(service);
        let gate = known.gate.as_ref();
        let judged = gate.map_or(Ok(()), |gate| gate.judge(address.ip(), self.shared.now()));
        let take = || Seat::take(&self.shared, Arc::clone(&known));
        let seat = judged.and_then(|()| take().ok_or(Unserved::Limit));
        let seat = match seat {
            Ok(seat) => seat,
            Err(why) => {
                self.log(&known, Why::Unserved(why), || Record {
                    service: known.id,
                    client: address,
                    backend: None,
                    phase: Phase::Accept,
                    why: Why::Unserved(why),
                    up: 0,
                    down: 0,
                    wait: Duration::ZERO,
                    connect: Duration::ZERO,
                    total: Duration::ZERO,
                });
                let service = known.id;
                self.tell(|report| report.push(FlowEvent::Unserved { service, why }));
                return;
            }
        };
        let count = self.accepted.get();
        self.accepted.set(count + 1);
        let flow = Rc::new(Flow::new(
            FlowId((u64::from(self.index) << 48) | (count & ((1 << 48) - 1))),
            known.id,
            address,
            known.idle_timeout,
        ));
        let slot = self.flows.borrow_mut().insert(Rc::clone(&flow));
        let guest = Guest {
            worker: Rc::clone(self),
            flow,
            slot,
            seat,
        };
        spawn_local(serve(guest, client));
    }

    /// Looks at one part of the connections: tells how far they are, ends the idle ones, and has
    /// those that have just become quiet look at their sockets once more. Readiness is a matter of
    /// edges: a read that urgent data cut short leaves bytes behind that are never announced.
    fn sweep(&self, part: usize, now: Duration) {
        for flow in self.flows.borrow().every(PARTS, part) {
            let moved = flow.moved();
            let (seen, since) = flow.seen.get();
            if flow.opened.get().is_none() {
                flow.seen.set((0, now));
            } else if moved != seen {
                flow.seen.set((moved, now));
                flow.looked.set(false);
                self.tell_later(|report| report.progress(flow));
            } else if now.saturating_sub(since) >= flow.idle_timeout {
                flow.cut(FlowEnd::Idle);
            } else if !flow.looked.get() {
                flow.look();
            }
        }
        self.flush_if_full();
    }

    /// Resets the connections of backends that were judged down.
    fn reset_backends(&self) {
        let down = std::mem::take(&mut *self.control.resets());
        if down.is_empty() {
            return;
        }
        for flow in self.flows.borrow().every(1, 0) {
            if flow.opened.get().is_some_and(|(it, _)| down.contains(&it)) {
                flow.cut(FlowEnd::BackendDown);
            }
        }
    }

    /// Writes the end of a connection to the log, if its service wants that.
    pub(super) fn log(&self, known: &Known, why: Why, record: impl FnOnce() -> Record) {
        let log = self.shared.log.load();
        let (Some(wanted), Some(log)) = (known.log, &*log) else {
            return;
        };
        let fits = wanted.what == Logged::All || !why.is_good();
        if fits && (wanted.sample == 1 || self.rng.borrow_mut().u32(0..wanted.sample) == 0) {
            log.put(record());
        }
    }

    /// Resets every connection, and those that nobody has accepted yet.
    fn cut_all(&self, listeners: &Listeners) {
        for flow in self.flows.borrow().every(1, 0) {
            flow.cut(FlowEnd::Dropped);
        }
        for (_, listener) in listeners {
            // What a listener gives is reset when it is closed.
            while SockRef::from(&**listener).accept().is_ok() {}
        }
    }

    /// The time for a scheduler that needs it.
    pub(super) fn measured_at(&self, route: &Route) -> Duration {
        match route.needs_time() {
            true => self.shared.now(),
            false => Duration::ZERO,
        }
    }

    /// Adds to the report.
    pub(super) fn tell(&self, say: impl FnOnce(&mut Report)) {
        self.tell_later(say);
        self.flush_if_full();
    }

    fn tell_later(&self, say: impl FnOnce(&mut Report)) {
        let mut report = self.report.borrow_mut();
        if report.is_empty() {
            self.news.notify_one();
        }
        say(&mut report);
    }

    fn flush_if_full(&self) {
        let mut report = self.report.borrow_mut();
        if report.is_full() {
            report.flush(&self.flows.borrow());
        }
    }

    /// Takes in what the master says of clients.
    async fn adopt(self: Rc<Self>, mut sticks: Receiver<Vec<Stick>>) {
        while let Some(batch) = sticks.recv().await {
            let now = self.shared.now();
            let all = self.shared.sticky();
            for stick in &batch {
                if let Some(sticky) = all.iter().find(|it| it.service() == stick.key.service) {
                    sticky.adopt(stick, now);
                }
            }
            // A snapshot has many of these.
            yield_now().await;
        }
    }

    async fn send_reports(self: Rc<Self>) {
        loop {
            self.news.notified().await;
            sleep(FLUSH).await;
            let mut report = self.report.borrow_mut();
            report.flush(&self.flows.borrow());
            if !report.is_empty() {
                self.news.notify_one();
            }
        }
    }
}

/// A client that was let in. Leaves the worker's list, and its seat, when dropped.
pub(super) struct Guest {
    pub(super) worker: Rc<Worker>,
    pub(super) flow: Rc<Flow>,
    slot: u32,
    seat: Seat,
}

impl Guest {
    /// The place of the service (`arrange`).
    pub(super) fn service(&self) -> usize {
        self.seat.service()
    }

    /// The service, as it was when the client came.
    pub(super) fn known(&self) -> &Known {
        self.seat.known()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.worker.flows.borrow_mut().remove(self.slot);
    }
}
