//! The immutable compiled view: each service's eligible backends, ready to be picked from.
//!
//! A worker takes the current `Arc<Routes>` once for a connection and keeps it until the connection
//! has a backend, so that "all were tried" means one fixed list.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

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
    /// Its share, 1 to 256.
    pub weight: u16,
    /// Connections now, those that are still connecting included.
    live: AtomicU32,
}

impl Target {
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

/// A pool of a service with those of its backends that may get new connections.
#[derive(Debug)]
pub struct Route {
    /// Which.
    pub service: ServiceId,
    /// Eligible backends, in the order of the file.
    pool: Vec<Arc<Target>>,
    scheduler: Scheduler,
    rotation: Rotation,
    /// Every backend of the pool, in the order of the file.
    all: Arc<[Arc<Target>]>,
    /// How many connections have asked so far. Shared by all workers and by every later
    /// compilation, which makes rotations exact over all of them together.
    tickets: Arc<AtomicU64>,
}

impl Route {
    #[cfg(test)]
    pub(super) fn new(service: &Service, eligible: &BTreeSet<BackendId>) -> Self {
        Self::of_pool(service, None, eligible)
    }

    fn of_pool(service: &Service, pool: Option<u16>, eligible: &BTreeSet<BackendId>) -> Self {
        let all: Arc<[_]> = service
            .backends
            .iter()
            .filter(|backend| backend.pool == pool)
            .map(|backend| {
                Arc::new(Target {
                    id: backend.id,
                    address: backend.address,
                    weight: backend.weight.0.max(1),
                    live: AtomicU32::new(0),
                })
            })
            .collect();
        Self::compile(
            service.id,
            service.balance_of(pool),
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
                let weights: Vec<u16> = pool.iter().map(|target| target.weight).collect();
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
    /// To the services' own backends.
    routes: Vec<Route>,
    /// To the pools of each service.
    pools: Vec<Box<[Route]>>,
}

impl Routes {
    /// The first compilation. Positions and counts start at zero.
    pub fn compile(config: &Config, eligible: &BTreeSet<BackendId>) -> Self {
        let route = |service: &Service, pool| Route::of_pool(service, pool, eligible);
        let pools = |service: &Service| {
            let places = 0..service.proxied.pools.len() as u16;
            places.map(|pool| route(service, Some(pool))).collect()
        };
        let services = || config.services.iter();
        Self {
            routes: services().map(|service| route(service, None)).collect(),
            pools: services().map(pools).collect(),
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
            pools: (self.pools.iter())
                .map(|pools| pools.iter().map(route).collect())
                .collect(),
        }
    }

    /// A pool of the n-th service of the configuration; none: its own backends.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn pool(&self, service: usize, pool: Option<u16>) -> &Route {
        match pool {
            Some(pool) => &self.pools[service][usize::from(pool)],
            None => self.route(service),
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
