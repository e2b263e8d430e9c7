//! The turn loop: one input, its outputs, the next deadline.
//!
//! Owns: the node, the adapters' handles, tickets of operators' requests, the dead-man timer.
//! Never: waits while it applies outputs.
//! Invariants: the clock is read once a turn; a deadline that has come is served before the next
//! arrival, so that no flood can starve a timer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::LogLevel;
use super::kernel_mode::{self, KernelMode};
use super::pace::Pace;
use super::reload::{Fresh, Rekey, Reloader, Wish};
use super::state::Keeper;
use super::supervisor::Supervisor;
use crate::balance::Found;
use crate::balance::flow::FlowEvent;
use crate::balance::nat::NatReport;
use crate::control::Asked;
use crate::datapath::Proxy;
use crate::finder::Finder;
use crate::health::probe::ProbeResult;
use crate::model::{BackendId, ServiceId};
use crate::net::clock::Clock;
use crate::net::guard::DeadMan;
use crate::net::heartbeat::{Arrival, Heartbeats, SendOutcome};
use crate::net::kernel::Kernel;
use crate::net::session::{Session, SessionEvent};
use crate::node::Node;
use crate::node::io::{Input, Output};
use crate::notify::Notifier;
use crate::probe::Prober;
use crate::status::{Event, Histogram, What};
use crate::time::Mono;
use crate::vip::kernel::KernelReport;
use crate::wire::admin::{Request, Response};

/// Requests of operators that wait for their answer at most.
const MAX_TICKETS: usize = 1_024;

/// How often the dead-man timer is told that the process is alive, at most: a call of the kernel
/// that not every one of ten thousand turns a second needs. It fires so much earlier.
const ALIVE_EVERY: Duration = Duration::from_millis(5);

/// Everything that carries out what the node wants.
pub(super) struct Adapters {
    /// Services that are proxied since there is no kernel mode here.
    pub fallback: BTreeSet<String>,
    pub finder: Finder,
    pub heartbeats: Heartbeats,
    pub keeper: Keeper,
    pub kernel: Kernel,
    pub kernel_mode: Option<KernelMode>,
    /// What the relay lacks.
    pub lacking: Option<String>,
    pub log: LogLevel,
    pub notifier: Option<Notifier>,
    pub prober: Prober,
    pub proxy: Proxy,
    /// Bad requests, counted by the control socket.
    pub rejected: Arc<AtomicU64>,
    pub reloader: Reloader,
    pub session: Session,
}

/// Everything that comes in.
pub(super) struct Arrivals {
    pub datagrams: mpsc::Receiver<Arrival>,
    pub flows: mpsc::Receiver<Vec<FlowEvent>>,
    pub found: mpsc::Receiver<Found>,
    pub kernel_reports: mpsc::Receiver<KernelReport>,
    pub nat: mpsc::Receiver<NatReport>,
    pub probes: mpsc::Receiver<ProbeResult>,
    pub requests: mpsc::Receiver<Asked>,
    pub session: mpsc::Receiver<SessionEvent>,
    pub wishes: mpsc::Receiver<Wish>,
}

/// What woke the loop.
enum Woken {
    Asked(Asked),
    Deadline,
    Input(Input),
    Reload,
    /// The kernel mode's thread has caught up.
    Room,
    Wish(Wish),
}

pub(super) struct TurnLoop {
    node: Node,
    clock: Clock,
    dead_man: DeadMan,
    /// When it was told last that this process is alive.
    alive_at: Mono,
    adapters: Adapters,
    signals: Signals,
    supervisor: Supervisor,
    /// Inputs that arose while outputs were applied.
    echoes: VecDeque<Input>,
    tickets: BTreeMap<u64, oneshot::Sender<Response>>,
    next_ticket: u64,
    outputs_dropped: u64,
    pace: Pace,
    /// How late deadlines were served.
    delay: Histogram,
}

impl TurnLoop {
    pub(super) fn new(
        node: Node,
        clock: Clock,
        dead_man: DeadMan,
        adapters: Adapters,
    ) -> io::Result<Self> {
        Ok(Self {
            node,
            clock,
            dead_man,
            alive_at: Mono::ZERO,
            adapters,
            signals: Signals::listen()?,
            supervisor: Supervisor::new(clock.now()),
            echoes: VecDeque::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            outputs_dropped: 0,
            pace: Pace::default(),
            delay: Histogram::default(),
        })
    }

    /// Turns until the node has stopped.
    pub(super) async fn run(mut self, mut arrivals: Arrivals) {
        let stopped = self.apply();
        debug_assert!(!stopped, "a fresh node does not stop");
        self.supervisor.ready();
        loop {
            let woken = match self.due() {
                true => Woken::Deadline,
                false => self.wait(&mut arrivals).await,
            };
            let now = self.clock.now();
            let bulk = matches!(
                woken,
                Woken::Input(Input::Nat(_) | Input::SessionFrame(_) | Input::SessionSent { .. })
            );
            let mut stopped = false;
            match woken {
                Woken::Asked(asked) => self.ask(asked, now),
                Woken::Deadline => {
                    if let Some(due) = self.node.poll_timeout().filter(|due| *due <= now) {
                        self.delay.add(now.since(due));
                    }
                    self.node.handle_timeout(now);
                }
                Woken::Input(input) => {
                    match &input {
                        Input::SessionUp(_) => self.adapters.reloader.session(true),
                        Input::SessionClosed { .. } => self.adapters.reloader.session(false),
                        _ => {}
                    }
                    self.node.handle(input, now);
                }
                Woken::Room => {}
                Woken::Wish(Wish::Fresh(fresh)) => stopped |= self.renew(fresh, now),
                Woken::Wish(Wish::Note(text)) => self.node.handle(Input::Note { text }, now),
                Woken::Wish(Wish::Parcel(parcel)) => self.node.handle(Input::Parcel(parcel), now),
                Woken::Wish(Wish::Rekey(rekey)) => self.rekey(rekey),
                Woken::Reload => self.adapters.reloader.signal(),
            }
            stopped |= self.apply();
            while let Some(input) = self.echoes.pop_front() {
                self.node.handle(input, now);
                stopped |= self.apply();
            }
            if stopped {
                self.supervisor.stopping();
                // Each step has the timer's whole time.
                self.dead_man.alive();
                self.adapters.proxy.stop();
                self.dead_man.alive();
                // The addresses first: without the program the kernel would answer for them.
                drop(self.adapters.kernel);
                self.dead_man.alive();
                if let Some(mode) = self.adapters.kernel_mode {
                    mode.stop();
                }
                return;
            }
            if let Some(mode) = &mut self.adapters.kernel_mode {
                mode.turned(self.node.role());
            }
            if self.alive_at + ALIVE_EVERY <= now && self.adapters.proxy.progressing() {
                self.dead_man.alive();
                self.alive_at = now;
            }
            self.supervisor.turned(now, &self.node);
            if bulk {
                let coding = self.adapters.session.busy();
                self.pace.spent(now, self.clock.now(), coding);
            }
        }
    }

    fn due(&self) -> bool {
        let deadline = self.node.poll_timeout();
        deadline.is_some_and(|at| at <= self.clock.now())
    }

    async fn wait(&mut self, arrivals: &mut Arrivals) -> Woken {
        let now = self.clock.now();
        let rest = self.pace.rests_until(now);
        let deadline = [self.node.poll_timeout(), self.supervisor.deadline(), rest];
        let deadline = deadline.into_iter().flatten().min();
        let sleep = deadline.map_or(Duration::from_secs(1), |at| at.since(now));
        let mode = self.adapters.kernel_mode.as_ref();
        let behind = mode.filter(|mode| mode.is_behind());
        let caught_up = async {
            match behind {
                Some(mode) => mode.caught_up().await,
                None => std::future::pending().await,
            }
        };
        let take_frames = rest.is_none() && behind.is_none();
        // Random order among those that are ready, so that none of them can starve another.
        tokio::select! {
            Some(arrival) = arrivals.datagrams.recv() => Woken::Input(datagram(arrival)),
            Some(event) = arrivals.session.recv(), if take_frames => Woken::Input(session(event)),
            Some(report) = arrivals.kernel_reports.recv() => Woken::Input(Input::Kernel(report)),
            Some(report) = arrivals.nat.recv(), if rest.is_none() => Woken::Input(Input::Nat(report)),
            Some(events) = arrivals.flows.recv() => Woken::Input(Input::Flows(events)),
            Some(result) = arrivals.probes.recv() => Woken::Input(Input::Probe(result)),
            Some(asked) = arrivals.requests.recv() => Woken::Asked(asked),
            Some(wish) = arrivals.wishes.recv() => Woken::Wish(wish),
            Some(found) = arrivals.found.recv() => Woken::Input(Input::Found(found)),
            _ = self.signals.stop.recv() => Woken::Input(Input::Stop),
            _ = self.signals.interrupt.recv() => Woken::Input(Input::Stop),
            _ = self.signals.reload.recv() => Woken::Reload,
            () = caught_up, if behind.is_some() => Woken::Room,
            () = tokio::time::sleep(sleep) => Woken::Deadline,
        }
    }

    /// Another configuration holds from now on. True when the node has stopped.
    fn renew(&mut self, fresh: Fresh, now: Mono) -> bool {
        let text = fresh.note;
        self.adapters.prober.replan(&fresh.plans);
        self.node.handle(Input::Configure(fresh.config), now);
        self.node.handle(Input::Note { text }, now);
        let stopped = self.apply();
        // Files that checks name may be others although no setting is.
        self.adapters.prober.configure(self.node.config());
        // The thread waits for it.
        let _ = fresh.done.send(());
        stopped
    }

    /// Between two heartbeats: what is sealed, let in and opened changes in one turn.
    fn rekey(&mut self, rekey: Rekey) {
        self.adapters.heartbeats.rekey(rekey.knocks);
        self.adapters.session.rekey(&rekey.secrets);
        self.node.rekey(&rekey.secrets);
        // The thread waits for it.
        let _ = rekey.done.send(());
    }

    fn set_level(&self, level: &str) -> Response {
        match self.adapters.log.set(level) {
            Ok(()) => {
                let message = format!("the log's level is {level} until the node ends");
                tracing::warn!("{message}");
                Response::Done { message }
            }
            Err(message) => Response::Error { message },
        }
    }

    fn ask(&mut self, asked: Asked, now: Mono) {
        let Asked { request, reply } = asked;
        let reply = match self.adapters.reloader.ask(&request, reply) {
            Ok(()) => return,
            Err(reply) => reply,
        };
        if let Request::Log { level } = &request {
            // Whoever asked may have gone.
            let _ = reply.send(self.set_level(level));
            return;
        }
        if self.tickets.len() >= MAX_TICKETS {
            self.outputs_dropped += 1;
            return;
        }
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert(ticket, reply);
        self.node.handle(Input::Admin { ticket, request }, now);
    }

    /// Carries out what the node wants. True when it has stopped.
    fn apply(&mut self) -> bool {
        let mut stopped = false;
        while let Some(output) = self.node.poll_output() {
            let adapters = &mut self.adapters;
            match output {
                Output::CloseSession { reason } => adapters.session.close(&reason),
                Output::Configure(config) => {
                    adapters.prober.configure(&config);
                    adapters.proxy.configure(&kernel_mode::proxied(&config));
                }
                Output::Datagram { path, bytes } => {
                    match adapters.heartbeats.try_send(path, &bytes) {
                        SendOutcome::Sent => {}
                        SendOutcome::Dropped => self.outputs_dropped += 1,
                        SendOutcome::PortClosed => {
                            self.echoes.push_back(Input::PortClosed { path });
                        }
                    }
                }
                Output::DropFlows { .. } => adapters.proxy.drop_flows(),
                Output::Event(event) => {
                    log(&event);
                    if let Some(notifier) = &adapters.notifier {
                        notifier.tell(&event);
                    }
                }
                Output::Keep(items) => adapters.keeper.keep(items),
                Output::Kernel(command) => adapters.kernel.command(command),
                Output::Nat(command) => {
                    if let Some(mode) = &mut adapters.kernel_mode {
                        mode.command(command);
                    }
                }
                Output::Parcel(parcel) => adapters.reloader.hear(parcel),
                Output::Probe(request) => adapters.prober.probe(request),
                Output::ResetBackend { backend } => adapters.proxy.reset_backend(backend),
                Output::PublishRoutes { eligible, weights } => {
                    adapters.proxy.weigh(&weights);
                    adapters.proxy.publish(&eligible);
                }
                Output::Reply { ticket, response } => self.reply(ticket, response),
                Output::SendFrame(frame) => {
                    self.outputs_dropped += u64::from(!adapters.session.send(frame));
                }
                Output::Sticks(sticks) => {
                    self.outputs_dropped += u64::from(!adapters.proxy.adopt(sticks));
                }
                Output::Stopped => stopped = true,
            }
        }
        stopped
    }

    fn reply(&mut self, ticket: u64, mut response: Response) {
        if let Response::Status { status } = &mut response {
            status.turn_delay = self.delay.clone();
            let replication = &mut status.replication;
            (replication.bytes_sent, replication.bytes_received) = self.adapters.session.bytes();
            let mode = self.adapters.kernel_mode.as_ref();
            status.nat = mode.map(KernelMode::status);
            status.relay.lacking.clone_from(&self.adapters.lacking);
            let measures: BTreeMap<_, _> = self.adapters.proxy.measures().into_iter().collect();
            let sticks: BTreeMap<_, _> = self.adapters.proxy.sticks().into_iter().collect();
            let connects: BTreeMap<_, _> = self.adapters.proxy.connects().into_iter().collect();
            let waits: BTreeMap<_, _> = self.adapters.proxy.waits().into_iter().collect();
            for service in &mut status.services {
                let id = ServiceId::of(&service.name);
                service.sticks = sticks.get(&id).copied();
                (service.queued, service.retries) = waits.get(&id).copied().unwrap_or_default();
                service.sources = self.adapters.finder.status(id);
                service.fallback = self.adapters.fallback.contains(&service.name);
                for backend in &mut service.backends {
                    let id = BackendId::of(&service.name, &backend.name);
                    backend.measure = measures.get(&id).cloned();
                    backend.connect = connects.get(&id).cloned().unwrap_or_default();
                }
            }
            let counters = &mut status.counters;
            let adapters = &self.adapters;
            counters.control_rejected = adapters.rejected.load(Ordering::Relaxed);
            counters.log_dropped = adapters.proxy.log_dropped();
            counters.session_faults += adapters.session.faults();
            counters.heartbeats_rejected += adapters.heartbeats.unread();
            counters.outputs_dropped = self.outputs_dropped
                + adapters.kernel.dropped()
                + adapters.prober.dropped()
                + adapters.heartbeats.overflows();
        }
        let Some(reply) = self.tickets.remove(&ticket) else {
            return;
        };
        // Whoever asked may have gone.
        match (response, &self.adapters.kernel_mode) {
            (
                Response::Flows {
                    matching,
                    flows,
                    next,
                },
                Some(mode),
            ) if !flows.is_empty() => mode.measure(flows, move |flows| {
                let _ = reply.send(Response::Flows {
                    matching,
                    flows,
                    next,
                });
            }),
            (response, _) => {
                let _ = reply.send(response);
            }
        }
    }
}

fn datagram(arrival: Arrival) -> Input {
    match arrival {
        Arrival::Datagram { path, bytes } => Input::Datagram { path, bytes },
        Arrival::PortClosed { path } => Input::PortClosed { path },
    }
}

fn session(event: SessionEvent) -> Input {
    match event {
        SessionEvent::Closed { fault, reason } => Input::SessionClosed { fault, reason },
        SessionEvent::Frame(frame) => Input::SessionFrame(frame),
        SessionEvent::Sent { frames } => Input::SessionSent { frames },
        SessionEvent::Up(hello) => Input::SessionUp(hello),
    }
}

fn log(event: &Event) {
    match &event.what {
        What::Backend {
            backend,
            up: true,
            reason,
        } => tracing::info!("{backend} is up: {reason}"),
        What::Backend {
            backend, reason, ..
        } => tracing::warn!("{backend} is down: {reason}"),
        What::Note { text } => tracing::info!("{text}"),
        What::Transition {
            from,
            to,
            epoch,
            cause,
            detection_ms,
            takeover_ms: Some(took),
            ..
        } => {
            let detected = detection_ms.map(|ms| format!(", detected in {ms:.3} ms"));
            let (cause, detected) = (cause.as_str(), detected.unwrap_or_default());
            tracing::info!(
                "{from} -> {to} (epoch {epoch}, {cause}{detected}): addresses held and announced {took:.3} ms after the decision"
            );
        }
        What::Transition {
            from,
            to,
            epoch,
            text,
            detection_ms,
            ..
        } => {
            let detected =
                detection_ms.map(|ms| format!(", {ms:.3} ms after the last sign of life"));
            let detected = detected.unwrap_or_default();
            tracing::warn!("{from} -> {to} (epoch {epoch}): {text}{detected}");
        }
    }
}

struct Signals {
    interrupt: Signal,
    reload: Signal,
    stop: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            stop: signal(SignalKind::terminate())?,
        })
    }
}
