//! The immutable compiled view: each service's eligible backends, ready to be picked from.
//!
//! A worker takes the current `Arc<Routes>` once for a connection and keeps it until the connection
//! has a backend, so that "all were tried" means one fixed list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::scheduler::Rotation;
use crate::config::{Config, Service};
use crate::model::{BackendId, Scheduler, ServiceId};

/// A backend as the data path sees it. One value for the life of the process, shared by all routes
/// that were ever compiled from each other.
#[derive(Debug)]
pub struct Target {
    /// Which.
    pub id: BackendId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its configured share, 1 to 256.
    base: u16,
    /// Its share now.
    weight: AtomicU16,
    /// Connections now, those that are still connecting included.
    live: AtomicU32,
}

impl Target {
    /// Its share, 1 to 256: as configured, or as its agent said.
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Connections now, over all workers, those that are still connecting included.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }
}

/// One connection's weight on its backend: counted from the pick until this is dropped.
#[derive(Debug)]
pub struct Load(Arc<Target>);

impl Load {
    /// Counts one more connection.
    pub fn on(target: &Arc<Target>) -> Self {
        target.live.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(target))
    }

    /// The backend.
    pub fn target(&self) -> &Target {
        &self.0
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A service with those of its backends that may get new connections.
#[derive(Debug)]
pub struct Route {
    /// Which.
    pub service: ServiceId,
    /// Eligible backends, in the order of the file.
    pool: Vec<Arc<Target>>,
    scheduler: Scheduler,
    rotation: Rotation,
    /// Every backend of the service, in the order of the file.
    all: Arc<[Arc<Target>]>,
    /// How many connections have asked so far. Shared by all workers and by every later
    /// compilation, which makes rotations exact over all of them together.
    tickets: Arc<AtomicU64>,
}

impl Route {
    pub(super) fn new(service: &Service, eligible: &BTreeSet<BackendId>) -> Self {
        let all: Arc<[_]> = service
            .backends
            .iter()
            .map(|backend| {
                Arc::new(Target {
                    id: backend.id,
                    address: backend.address,
                    base: backend.weight.0.max(1),
                    weight: AtomicU16::new(backend.weight.0.max(1)),
                    live: AtomicU32::new(0),
                })
            })
            .collect();
        Self::compile(
            service.id,
            service.balance,
            all,
            Arc::new(AtomicU64::new(0)),
            eligible,
        )
    }

    fn compile(
        service: ServiceId,
        scheduler: Scheduler,
        all: Arc<[Arc<Target>]>,
        tickets: Arc<AtomicU64>,
        eligible: &BTreeSet<BackendId>,
    ) -> Self {
        let pool: Vec<_> = all
            .iter()
            .filter(|target| eligible.contains(&target.id))
            .cloned()
            .collect();
        let rotation = match scheduler {
            Scheduler::WeightedRoundRobin => {
                let weights: Vec<u16> = pool.iter().map(|target| target.weight()).collect();
                Rotation::weighted(&weights)
            }
            Scheduler::LeastConnections | Scheduler::Random | Scheduler::RoundRobin => {
                Rotation::even(pool.len())
            }
        };
        Self {
            service,
            pool,
            scheduler,
            rotation,
            all,
            tickets,
        }
    }

    /// The eligible backends, in the order of the file.
    pub fn pool(&self) -> &[Arc<Target>] {
        &self.pool
    }

    /// The algorithm.
    pub const fn scheduler(&self) -> Scheduler {
        self.scheduler
    }

    pub(super) const fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// The next connection's number.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }
}

/// Where new connections go, for every service.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
}

impl Routes {
    /// The first compilation. Positions and counts start at zero.
    pub fn compile(config: &Config, eligible: &BTreeSet<BackendId>) -> Self {
        let route = |service| Route::new(service, eligible);
        Self {
            routes: config.services.iter().map(route).collect(),
        }
    }

    /// Sets weights; backends that are not named have theirs of the configuration. Rotations know of it
    /// with the next compilation.
    pub fn weigh(&self, weights: &BTreeMap<BackendId, u16>) {
        for target in self.routes.iter().flat_map(|route| route.all.iter()) {
            let weight = weights.get(&target.id).copied().unwrap_or(target.base);
            target.weight.store(weight.clamp(1, 256), Ordering::Relaxed);
        }
    }

    /// The same services with other eligible backends; positions and counts live on in both.
    ///
    /// Takes at most [`super::scheduler::SEQUENCE_WORK`] steps for each service.
    #[must_use]
    pub fn recompile(&self, eligible: &BTreeSet<BackendId>) -> Self {
        let route = |old: &Route| {
            Route::compile(
                old.service,
                old.scheduler,
                Arc::clone(&old.all),
                Arc::clone(&old.tickets),
                eligible,
            )
        };
        Self {
            routes: self.routes.iter().map(route).collect(),
        }
    }

    /// The n-th service of the configuration.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn route(&self, service: usize) -> &Route {
        &self.routes[service]
    }
}

#[cfg(test)]
#[path = "routes_test.rs"]
mod tests;
