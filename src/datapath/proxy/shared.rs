//! What the workers share with each other and with the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::front::Front;
use super::sticky::Sticky;
use crate::balance::Routes;
use crate::config::{Config, Service};
use crate::model::ServiceId;

/// Shared by all workers. Nothing here is touched for a byte that moves.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    pub(super) routes: ArcSwap<Routes>,
    /// In the order of the configuration.
    pub(super) services: Vec<Known>,
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
    /// How it knows its clients again; none: it does not.
    pub(super) sticky: Option<Arc<Sticky>>,
    seats: Seats,
}

impl Known {
    fn of(service: &Service, key: [u8; 16]) -> Self {
        let sticky = Sticky::of(service, key);
        Self {
            id: service.id,
            connect_timeout: service.connect_timeout,
            idle_timeout: service.idle_timeout,
            front: Front::of(service, sticky.clone()),
            sticky,
            seats: Seats::new(service.max_connections),
        }
    }
}

impl Shared {
    pub(super) fn new(config: &Config, routes: Routes, key: [u8; 16]) -> Self {
        let known = |service| Known::of(service, key);
        Self {
            start: Instant::now(),
            routes: ArcSwap::from_pointee(routes),
            services: config.services.iter().map(known).collect(),
            seats: Seats::new(config.proxy.max_connections),
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
    /// When it went round its loop last, in milliseconds since the start.
    beat: AtomicU64,
    /// Times that a pipe was lent.
    pub(super) splices: AtomicU64,
}

impl Control {
    pub(super) fn beat(&self, now: Duration) {
        self.beat.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// The last beat is at most this old.
    pub(super) fn beats_within(&self, limit: Duration, now: Duration) -> bool {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        now.saturating_sub(last) <= limit
    }
}
