//! What the workers share with each other and with the node.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::front::Front;
use super::gate::Gate;
use super::log::{Log, Wanted};
use super::queue::{Line, Place};
use super::sticky::Sticky;
use crate::balance::{RetryBudget, Routes};
use crate::config::{Config, Logged, Service};
use crate::dial::Dialer;
use crate::model::{BackendId, ServiceId};

/// Shared by all workers. Nothing here is touched for a byte that moves.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    pub(super) routes: ArcSwap<Routes>,
    /// In the order of the configuration.
    pub(super) services: Vec<Known>,
    pub(super) log: Option<Log>,
    seats: Seats,
}

/// What a worker knows of a service.
#[derive(Debug)]
pub(super) struct Known {
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
    pub(super) retried: AtomicU64,
    /// What is written to the log; none: nothing.
    pub(super) log: Option<Wanted>,
    /// One for each pool, the own one first; empty: nobody waits.
    lines: Box<[Line]>,
    /// How it knows its clients again; none: it does not.
    pub(super) sticky: Option<Arc<Sticky>>,
    seats: Seats,
}

/// How often backends are tried.
#[derive(Debug)]
pub(super) struct Tries {
    /// None: until all were.
    pub(super) retries: Option<u16>,
    /// For all of them.
    pub(super) deadline: Option<Duration>,
    pub(super) budget: Option<RetryBudget>,
}

impl Known {
    fn of(service: &Service, dialer: Dialer, seed: u64, key: [u8; 16]) -> Self {
        let limits = &service.proxied.limits;
        let gate = Gate::of(limits, seed).map(Arc::new);
        // Where headers tell who the client is, they must be read first.
        let (now, later) = match service.proxied.accept_proxy.is_empty() {
            true => (gate, None),
            false => (None, gate),
        };
        let pools = 0..=service.proxied.pools.len();
        let sticky = Sticky::of(service, key);
        Self {
            gate: now,
            dialer,
            log: (limits.log != Logged::Off).then_some(Wanted {
                what: limits.log,
                sample: limits.log_sample,
            }),
            tries: Tries {
                retries: limits.retries,
                deadline: limits.connect_deadline,
                budget: limits.retry_budget.map(RetryBudget::new),
            },
            retried: AtomicU64::new(0),
            lines: pools.filter_map(|_| Line::of(limits)).collect(),
            id: service.id,
            connect_timeout: service.connect_timeout,
            idle_timeout: service.idle_timeout,
            front: Front::of(service, later, sticky.clone()),
            sticky,
            seats: Seats::new(service.max_connections),
        }
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
        dialers: Vec<Dialer>,
        seed: u64,
        key: [u8; 16],
    ) -> Self {
        let known = |(service, dialer)| Known::of(service, dialer, seed, key);
        let services = config.services.iter().zip(dialers);
        Self {
            start: Instant::now(),
            routes: ArcSwap::from_pointee(routes),
            log,
            services: services.map(known).collect(),
            seats: Seats::new(config.proxy.max_connections),
        }
    }

    /// Where clients of a pool wait; none: nowhere.
    pub(super) fn line(&self, place: Place) -> Option<&Line> {
        let pool = place.pool.map_or(0, |pool| usize::from(pool) + 1);
        self.services[place.service].lines.get(pool)
    }

    /// There may be places on backends that were not there before.
    pub(super) fn advance_lines(&self) {
        for (service, known) in self.services.iter().enumerate() {
            for (n, line) in known.lines.iter().enumerate() {
                let pool = n.checked_sub(1).map(|pool| pool as u16);
                line.advance(self, Place { service, pool });
            }
        }
    }

    /// Of the services that know their clients again.
    pub(super) fn sticky(&self) -> impl Iterator<Item = &Sticky> {
        self.services.iter().filter_map(|it| it.sticky.as_deref())
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A limit and how much of it is used.
#[derive(Debug)]
struct Seats {
    limit: u32,
    taken: AtomicU32,
}

impl Seats {
    const fn new(limit: u32) -> Self {
        Self {
            limit,
            taken: AtomicU32::new(0),
        }
    }

    fn take(&self) -> bool {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) < self.limit;
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
    service: usize,
}

impl Seat {
    /// `None` when a limit is reached.
    pub(super) fn take(shared: &Arc<Shared>, service: usize) -> Option<Self> {
        if !shared.seats.take() {
            return None;
        }
        if !shared.services[service].seats.take() {
            shared.seats.leave();
            return None;
        }
        Some(Self {
            shared: Arc::clone(shared),
            service,
        })
    }

    /// The place of the service in the configuration.
    pub(super) const fn service(&self) -> usize {
        self.service
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.services[self.service].seats.leave();
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
