//! What the workers share with each other and with the node.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::front::Front;
use super::gate::Gate;
use super::log::{Log, Wanted};
use super::queue::{Line, Place};
use super::sticky::Sticky;
use crate::balance::{RetryBudget, Routes};
use crate::config::{Config, Limits, Logged, Service};
use crate::dial::Dialer;
use crate::model::{BackendId, ServiceId};

/// Shared by all workers. Nothing here is touched for a byte that moves.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    pub(super) routes: ArcSwap<Routes>,
    /// In their places (`arrange`). Never newer than the routes: what they know is in those, too.
    services: ArcSwap<Vec<Arc<Known>>>,
    pub(super) log: ArcSwapOption<Log>,
    seats: Seats,
    seed: u64,
    key: [u8; 16],
}

/// What a worker knows of a service. A connection keeps what was known when it came.
#[derive(Debug)]
pub(super) struct Known {
    /// What it was made of, without its backends.
    settings: Service,
    /// Where it is (`arrange`).
    place: usize,
    pub(super) id: ServiceId,
    pub(super) connect_timeout: Duration,
    pub(super) idle_timeout: Duration,
    /// What it asks of a connection's beginning; none: nothing.
    pub(super) front: Option<Box<Front>>,
    /// What it asks of a client's address at once; none: nothing.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) tries: Tries,
    /// Makes the backends' sockets.
    pub(super) dialer: Dialer,
    /// Times that another backend was tried.
    pub(super) retried: Arc<AtomicU64>,
    /// What is written to the log; none: nothing.
    pub(super) log: Option<Wanted>,
    /// One for each pool, the own one first; empty: nobody waits.
    lines: Box<[Arc<Line>]>,
    /// Whoever asks for it: `gate`, or `front`.
    entrance: Option<Arc<Gate>>,
    /// How it knows its clients again; none: it does not.
    pub(super) sticky: Option<Arc<Sticky>>,
    seats: Arc<Seats>,
}

/// How often backends are tried.
#[derive(Debug)]
pub(super) struct Tries {
    /// None: until all were.
    pub(super) retries: Option<u16>,
    /// For all of them.
    pub(super) deadline: Option<Duration>,
    pub(super) budget: Option<Arc<RetryBudget>>,
}

impl Known {
    /// What was there before goes on where it means the same: counts, rates, those who wait, clients
    /// that are remembered.
    fn of(
        (place, service): (usize, &Service),
        former: Option<&Arc<Self>>,
        dialer: Option<&Dialer>,
        shared: &Shared,
    ) -> Arc<Self> {
        let settings = Service {
            backends: Vec::new(),
            ..service.clone()
        };
        if let Some(former) = former.filter(|it| it.settings == settings) {
            return Arc::clone(former);
        }
        let limits = &service.proxied.limits;
        let old = former.map(|it| &it.settings.proxied.limits);
        let same = |old: &&Limits| {
            let asked = |it: &Limits| (it.allow.clone(), it.deny.clone(), it.source_rate);
            asked(old) == asked(limits)
        };
        let entrance = match former.filter(|_| old.as_ref().is_some_and(same)) {
            Some(former) => former.entrance.clone(),
            None => Gate::of(limits, shared.seed).map(Arc::new),
        };
        let gate = entrance.clone();
        let spends = old.is_some_and(|old| old.retry_budget == limits.retry_budget);
        let budget = match former.filter(|_| spends) {
            Some(former) => former.tries.budget.clone(),
            None => limits.retry_budget.map(|it| Arc::new(RetryBudget::new(it))),
        };
        let seats = former.map_or_else(Arc::default, |it| Arc::clone(&it.seats));
        seats
            .limit
            .store(service.max_connections, Ordering::Relaxed);
        let retried = former.map_or_else(Arc::default, |it| Arc::clone(&it.retried));
        // They are made at the start, as the listeners are.
        let dialer = dialer.or_else(|| former.map(|it| &it.dialer));
        let dialer = dialer.cloned().unwrap_or_default();
        // Where headers tell who the client is, they must be read first.
        let (now, later) = match service.proxied.accept_proxy.is_empty() {
            true => (gate, None),
            false => (None, gate),
        };
        let pools = 0..=service.proxied.pools.len();
        let line = |place: usize| match former.and_then(|it| it.lines.get(place)) {
            Some(line) => {
                line.set(limits);
                Some(Arc::clone(line))
            }
            None => Line::of(limits).map(Arc::new),
        };
        let sticky = former.and_then(|it| it.sticky.as_ref());
        let sticky = Sticky::of(service, shared.key, sticky, shared.now());
        Arc::new(Self {
            settings,
            place,
            gate: now,
            dialer,
            log: (limits.log != Logged::Off).then_some(Wanted {
                what: limits.log,
                sample: limits.log_sample,
            }),
            tries: Tries {
                retries: limits.retries,
                deadline: limits.connect_deadline,
                budget,
            },
            lines: pools.filter_map(line).collect(),
            entrance,
            retried,
            id: service.id,
            connect_timeout: service.connect_timeout,
            idle_timeout: service.idle_timeout,
            front: Front::of(service, later, sticky.clone()),
            sticky,
            seats,
        })
    }
}

impl Known {
    /// Clients that wait in all its lines.
    pub(super) fn queued(&self) -> u64 {
        self.lines.iter().map(|line| line.len() as u64).sum()
    }
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        routes: Routes,
        log: Option<Log>,
        dialers: &[Dialer],
        seed: u64,
        key: [u8; 16],
    ) -> Self {
        let shared = Self {
            start: Instant::now(),
            routes: ArcSwap::from_pointee(routes),
            log: ArcSwapOption::from_pointee(log),
            services: ArcSwap::default(),
            seats: Seats::default(),
            seed,
            key,
        };
        shared.renew(config, dialers);
        shared
    }

    /// Services are as this configuration says, for connections that come from now on. Its routes are
    /// there already.
    pub(super) fn configure(&self, config: &Config) {
        self.renew(config, &[]);
    }

    fn renew(&self, config: &Config, dialers: &[Dialer]) {
        let former = self.services.load();
        let known = |(place, service)| {
            let (former, dialer) = (former.get(place), dialers.get(place));
            Known::of((place, service), former, dialer, self)
        };
        let services: Vec<_> = config.services.iter().enumerate().map(known).collect();
        self.seats
            .limit
            .store(config.proxy.max_connections, Ordering::Relaxed);
        self.services.store(Arc::new(services));
    }

    /// All of them, in their places.
    pub(super) fn services(&self) -> Arc<Vec<Arc<Known>>> {
        self.services.load_full()
    }

    /// What is known of the service in this place.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(super) fn known(&self, place: usize) -> Arc<Known> {
        Arc::clone(&self.services.load()[place])
    }

    /// Where clients of a pool wait; none: nowhere.
    pub(super) fn line(&self, place: Place) -> Option<Arc<Line>> {
        let pool = place.pool.map_or(0, |pool| usize::from(pool) + 1);
        let services = self.services.load();
        services[place.service].lines.get(pool).cloned()
    }

    /// There may be places on backends that were not there before.
    pub(super) fn advance_lines(&self) {
        for (service, known) in self.services.load().iter().enumerate() {
            for (n, line) in known.lines.iter().enumerate() {
                let pool = n.checked_sub(1).map(|pool| pool as u16);
                line.advance(self, Place { service, pool });
            }
        }
    }

    /// Of the services that know their clients again.
    pub(super) fn sticky(&self) -> Vec<Arc<Sticky>> {
        let services = self.services.load();
        services.iter().filter_map(|it| it.sticky.clone()).collect()
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A limit and how much of it is used.
#[derive(Debug, Default)]
struct Seats {
    limit: AtomicU32,
    taken: AtomicU32,
}

impl Seats {
    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) < limit;
        if !taken {
            self.leave();
        }
        taken
    }

    fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's place within its service's limit and the limit over all.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    known: Arc<Known>,
}

impl Seat {
    /// `None` when a limit is reached.
    pub(super) fn take(shared: &Arc<Shared>, known: Arc<Known>) -> Option<Self> {
        if !shared.seats.take() {
            return None;
        }
        if !known.seats.take() {
            shared.seats.leave();
            return None;
        }
        Some(Self {
            shared: Arc::clone(shared),
            known,
        })
    }

    /// The service, as it was when the connection came.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// The place of the service (`arrange`).
    pub(super) fn service(&self) -> usize {
        self.known.place
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.known.seats.leave();
        self.shared.seats.leave();
    }
}

/// How the node reaches one worker, and how it sees that the worker runs.
#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) wake: Notify,
    /// Times that all connections were to be cut.
    pub(super) cuts: AtomicU64,
    pub(super) stop: AtomicBool,
    /// Backends whose connections are to be reset.
    resets: Mutex<Vec<BackendId>>,
    /// When it went round its loop last, in milliseconds since the start.
    beat: AtomicU64,
    /// Times that a pipe was lent.
    pub(super) splices: AtomicU64,
}

impl Control {
    pub(super) fn resets(&self) -> MutexGuard<'_, Vec<BackendId>> {
        self.resets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, now: Duration) {
        self.beat.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// The last beat is at most this old.
    pub(super) fn beats_within(&self, limit: Duration, now: Duration) -> bool {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        now.saturating_sub(last) <= limit
    }
}
