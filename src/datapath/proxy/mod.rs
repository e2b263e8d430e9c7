//! The user-space data path: a TCP proxy with one worker thread a core.
//!
//! Owns: the workers and, through them, all listeners and connections. Never: blocks its caller,
//! decides where connections may go.
//! Invariants: a connection lives on the worker that accepted it; an idle connection holds no
//! buffer, no pipe and no timer; every opened flow is told as closed exactly once, unless the
//! worker said `Lost` in between.
//!
//! The way of a connection: `worker` accepts (`gate`: who may), `serve` follows it from there: `front` (first bytes,
//! PROXY protocol; only where the service asks for it), `connect` (retry; `queue` while all
//! backends are full), `pump` (both directions), `direction` (copy or splice). `sticky` is the memory
//! of clients. `report` carries the news up.

mod arrange;
mod connect;
mod direction;
mod flows;
mod front;
mod gate;
mod listen;
mod log;
mod pipes;
mod pump;
mod queue;
mod report;
mod serve;
mod shared;
mod sticky;
mod watch;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use self::log::Log;
use self::report::Report;
use self::shared::{Control, Shared};
use self::worker::Setup;
use crate::balance::flow::FlowEvent;
use crate::balance::{Routes, Stick, Target};
use crate::config::Config;
use crate::datapath::DatapathError;
use crate::dial::Dialer;
use crate::model::{BackendId, NodeId, Scheduler, ServiceId};
use crate::status::{Histogram, Measure, StickStatus};

/// A worker that has not gone round its loop for so long is stuck: ten beats are missing.
const STUCK: Duration = Duration::from_secs(1);
/// Batches about remembered clients that wait for the worker that takes them in; of 512 each at most.
const STICK_BATCHES: usize = 1_024;

/// The running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    controls: Vec<Arc<Control>>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<(ServiceId, SocketAddr)>,
    sticks: Sender<Vec<Stick>>,
    notes: Vec<String>,
    /// With services and pools in their places.
    arranged: Config,
}

impl Proxy {
    /// Opens every listener of every service and starts the workers.
    ///
    /// Addresses need not be on this host yet, so a standby is armed before it owns them. No
    /// backend is eligible until [`Proxy::publish`] says so. Raise the limit of open files before.
    /// `me` says which half of the ports of a VIP is ours. `stick_key` is what clients are hashed with, the same on both nodes.
    /// Events come in batches; if `events` is full, the workers say `Lost` when it has room again.
    ///
    /// # Errors
    ///
    /// A listener that cannot be opened, sockets that a service cannot have, or a thread that cannot
    /// be started.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the caller keeps no sender: events end with us"
    )]
    pub fn start(
        config: &Config,
        me: NodeId,
        events: Sender<Vec<FlowEvent>>,
        seed: u64,
        stick_key: [u8; 16],
    ) -> Result<Self, DatapathError> {
        let log =
            Log::start(config).map_err(|source| DatapathError::Worker { worker: 0, source })?;
        Self::start_with(config, me, events, seed, stick_key, log)
    }

    #[allow(clippy::needless_pass_by_value, reason = "as `start`")]
    fn start_with(
        config: &Config,
        me: NodeId,
        events: Sender<Vec<FlowEvent>>,
        seed: u64,
        stick_key: [u8; 16],
        log: Option<Log>,
    ) -> Result<Self, DatapathError> {
        let workers = config.proxy.workers.unwrap_or_else(one_a_core).max(1);
        let mut addresses = Vec::new();
        let mut listeners: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let dialers = config.services.iter();
        let dialers = dialers.map(|service| Dialer::for_clients(config, service, me));
        let dialers = dialers.collect::<Result<Vec<_>, _>>()?;
        for (place, service) in config.services.iter().enumerate() {
            for address in &service.listen {
                let open = listen::open(service, *address, workers.into())?;
                let bound = open.first().and_then(|listener| listener.local_addr().ok());
                addresses.push((service.id, bound.unwrap_or(*address)));
                for (listener, worker) in open.into_iter().zip(&mut listeners) {
                    worker.push((place, listener));
                }
            }
        }
        let routes = Routes::compile(config, &BTreeSet::new());
        let mut seeds = fastrand::Rng::with_seed(seed);
        let (sticks, adopted) = mpsc::channel(STICK_BATCHES);
        let shared = Arc::new(Shared::new(
            config,
            routes,
            log,
            &dialers,
            seeds.u64(..),
            stick_key,
        ));
        let mut adopted = Some(adopted);
        let mut proxy = Self {
            shared,
            controls: Vec::new(),
            threads: Vec::new(),
            addresses,
            sticks,
            notes: listen::shortfalls(config),
            arranged: config.clone(),
        };
        for (index, listeners) in (0..workers).zip(listeners) {
            let report = Report::new(index, events.clone());
            proxy
                .spawn(index, listeners, report, seeds.u64(..), adopted.take())
                .map_err(|source| DatapathError::Worker {
                    worker: index,
                    source,
                })?;
        }
        Ok(proxy)
    }

    fn spawn(
        &mut self,
        index: u16,
        listeners: Vec<(usize, std::net::TcpListener)>,
        report: Report,
        seed: u64,
        sticks: Option<Receiver<Vec<Stick>>>,
    ) -> std::io::Result<()> {
        let control = Arc::new(Control::default());
        let setup = Setup {
            index,
            shared: Arc::clone(&self.shared),
            control: Arc::clone(&control),
            report,
            seed,
            listeners,
            sticks,
            runtime: worker::runtime()?,
        };
        let thread = thread::Builder::new()
            .name(format!("proxy-{index}"))
            .spawn(move || worker::run(setup))?;
        self.controls.push(control);
        self.threads.push(thread);
        Ok(())
    }

    /// New connections go to these backends only, from now on. Never waits.
    pub fn publish(&self, eligible: &BTreeSet<BackendId>) {
        let old = self.shared.routes.load();
        old.begin(eligible, self.shared.now());
        let routes = old.recompile(eligible);
        self.shared.routes.store(Arc::new(routes));
        self.shared.advance_lines();
    }

    /// Services are these from now on, with their listeners as they were. A backend that keeps its name
    /// and address keeps its connections' counts; the connections of one that is gone go on. Other
    /// settings hold for connections that come. Who is eligible says the next [`Proxy::publish`]:
    /// nobody new is before. Never waits.
    pub fn configure(&mut self, config: &Config) {
        self.arranged = arrange::arrange(&self.arranged, config);
        let config = &self.arranged;
        let old = self.shared.routes.load();
        let backends = config.services.iter().flat_map(|service| &service.backends);
        let there: BTreeSet<_> = backends.map(|it| (it.id, &it.address)).collect();
        let pool = old.all().flat_map(|route| route.pool());
        let stay = pool.filter(|target| there.contains(&(target.id, &target.address)));
        let eligible = stay.map(|target| target.id).collect();
        let routes = old.reconfigure(config, &eligible);
        self.shared.routes.store(Arc::new(routes));
        self.shared.configure(config);
        self.shared.advance_lines();
        match &*self.shared.log.load() {
            Some(log) => log.rename(config),
            None => match Log::start(config) {
                Ok(log) => self.shared.log.store(log.map(Arc::new)),
                Err(error) => tracing::error!(%error, "no log of connections"),
            },
        }
    }

    /// Sets the weights that are not as configured; [`Proxy::publish`] makes rotations of them.
    pub fn weigh(&self, weights: &BTreeMap<BackendId, u16>) {
        self.shared.routes.load().weigh(weights);
    }

    /// Resets the connections of this backend on both sides. Never waits.
    pub fn reset_backend(&self, backend: BackendId) {
        for control in &self.controls {
            control.resets().push(backend);
            control.wake.notify_one();
        }
    }

    /// What the master remembers of clients. Never waits; false: there is no room for these, and they are
    /// forgotten until the master tells them again, which it does some times within their `ttl`.
    pub fn adopt(&self, sticks: Vec<Stick>) -> bool {
        let sent = self.sticks.try_send(sticks);
        // Closed: no service remembers anything.
        !matches!(sent, Err(TrySendError::Full(_)))
    }

    /// The memory of clients, of those services that have one.
    pub fn sticks(&self) -> Vec<(ServiceId, StickStatus)> {
        let all = self.shared.sticky();
        all.iter()
            .filter_map(|it| Some((it.service(), it.status()?)))
            .collect()
    }

    /// Resets every proxied connection on both sides, at once. Never waits: it wakes the workers.
    ///
    /// Connections that wait to be accepted are reset, too. New ones may come as long as this host
    /// owns the addresses, so call it again when it has given them up.
    pub fn drop_flows(&self) {
        for control in &self.controls {
            control.cuts.fetch_add(1, Ordering::Release);
            control.wake.notify_one();
        }
    }

    /// Every worker has gone round its loop within the last second. For the dead-man timer.
    pub fn progressing(&self) -> bool {
        let now = self.shared.now();
        self.controls
            .iter()
            .all(|control| control.beats_within(STUCK, now))
    }

    /// What the schedulers know of each backend now, of those services that measure.
    pub fn measures(&self) -> Vec<(BackendId, Measure)> {
        let now = self.shared.now();
        let routes = self.shared.routes.load();
        let targets = routes.all().flat_map(|route| {
            let adaptive = route.scheduler() == Scheduler::Adaptive;
            route.all().iter().map(move |target| (target, adaptive))
        });
        let measure = |(target, adaptive): (&Arc<Target>, bool)| {
            let gauge = target.gauge()?;
            let measure = Measure {
                response_us: gauge.response_time(now).map(|micros| micros as u64),
                effective_weight: adaptive
                    .then(|| f64::from(target.weight()) * f64::from(gauge.factor())),
            };
            Some((target.id, measure))
        };
        targets.filter_map(measure).collect()
    }

    /// Lines of the log of connections that were dropped, since the start.
    pub fn log_dropped(&self) -> u64 {
        self.shared.log.load().as_ref().map_or(0, |it| it.dropped())
    }

    /// What services do without on this host, for an operator.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What connects to each backend took.
    pub fn connects(&self) -> Vec<(BackendId, Histogram)> {
        let routes = self.shared.routes.load();
        let targets = routes.all().flat_map(|route| route.all());
        targets
            .map(|target| (target.id, target.connects.read()))
            .collect()
    }

    /// Of each service: clients that wait for a backend now, and retries so far.
    pub fn waits(&self) -> Vec<(ServiceId, (u64, u64))> {
        let retried = |it: &shared::Known| it.retried.load(Ordering::Relaxed);
        let waits = |it: &shared::Known| (it.id, (it.queued(), retried(it)));
        self.shared.services().iter().map(|it| waits(it)).collect()
    }

    /// Where the services listen, in the order of the configuration; with the port that the kernel
    /// chose where the configuration says 0.
    pub fn addresses(&self) -> &[(ServiceId, SocketAddr)] {
        &self.addresses
    }

    /// Portions of bytes that went through a pipe instead of being copied, since the start. Brought
    /// up to date ten times a second.
    pub fn splices(&self) -> u64 {
        let splices = |control: &Arc<Control>| control.splices.load(Ordering::Relaxed);
        self.controls.iter().map(splices).sum()
    }

    /// Resets all connections, closes everything and waits for the workers, at most about a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for control in &self.controls {
            control.stop.store(true, Ordering::Release);
            control.wake.notify_one();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a proxy worker had panicked");
            }
        }
    }
}

fn one_a_core() -> u16 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod limits_tests;

#[cfg(test)]
#[path = "front_test.rs"]
mod front_tests;

#[cfg(test)]
#[path = "rig_test.rs"]
mod rig;

#[cfg(test)]
#[path = "sticky_test.rs"]
mod sticky_tests;

#[cfg(test)]
#[path = "stream_test.rs"]
mod stream_tests;

#[cfg(test)]
#[path = "balance_test.rs"]
mod balance_tests;

#[cfg(test)]
#[path = "proxy_test.rs"]
mod tests;
