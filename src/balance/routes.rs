//! The immutable compiled view: each service's eligible backends, ready to be picked from.
//!
//! A worker takes the current `Arc<Routes>` once for a connection and keeps it until the connection
//! has a backend, so that "all were tried" means one fixed list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::adaptive::Rule;
use super::gauge::Gauge;
use super::scheduler::Method;
use super::tally::Tally;
use crate::config::{Backend, Balance, Config, Service};
use crate::model::{BackendAddress, BackendId, Scheduler, ServiceId};

/// A backend as the data path sees it. One value as long as it is configured with one address, shared by
/// all routes that were ever compiled from each other.
#[derive(Debug)]
pub struct Target {
    /// Which.
    pub id: BackendId,
    /// Where it listens.
    pub address: BackendAddress,
    /// Its configured share, 1 to 256.
    base: AtomicU16,
    /// Its share now.
    weight: AtomicU16,
    /// Most connections at once.
    limit: AtomicU32,
    /// Connections now, those that are still connecting included.
    live: AtomicU32,
    /// When it came up beside others, in milliseconds; 0: not, or nobody wants to know.
    cold_since: AtomicU64,
    /// None: the scheduler needs no measurements.
    gauge: Option<Gauge>,
    /// What its connects took.
    pub connects: Tally,
}

impl Target {
    fn new(backend: &Backend, gauge: Option<Gauge>) -> Self {
        let weight = backend.weight.0.max(1);
        Self {
            id: backend.id,
            address: backend.address.clone(),
            base: AtomicU16::new(weight),
            weight: AtomicU16::new(weight),
            limit: AtomicU32::new(limit(backend)),
            live: AtomicU32::new(0),
            cold_since: AtomicU64::new(0),
            gauge,
            connects: Tally::default(),
        }
    }

    /// It is configured like this from now on. The weight counts with [`Routes::weigh`].
    fn set(&self, backend: &Backend) {
        let weight = backend.weight.0.max(1);
        self.base.store(weight, Ordering::Relaxed);
        self.limit.store(limit(backend), Ordering::Relaxed);
    }

    /// Its share, 1 to 256: as configured, or as its agent said.
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Connections now, over all workers, those that are still connecting included.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// It may have one more.
    pub fn has_room(&self) -> bool {
        self.live() < self.limit.load(Ordering::Relaxed)
    }

    /// What it measures; none: nobody needs that.
    pub const fn gauge(&self) -> Option<&Gauge> {
        self.gauge.as_ref()
    }

    /// Its response time as of now, in microseconds, if it was measured.
    pub fn response_time(&self, now: Duration) -> Option<f32> {
        self.gauge.as_ref()?.response_time(now)
    }

    /// How long it has been up, if it came up beside others.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        let since = self.cold_since.load(Ordering::Relaxed);
        (since > 0).then(|| now.saturating_sub(Duration::from_millis(since)))
    }

    /// Its weight times the factor of `adaptive`, in 1/256; at least one.
    pub fn effective_weight(&self) -> u32 {
        let factor = self.gauge.as_ref().map_or(1.0, Gauge::factor);
        ((f32::from(self.weight()) * 256.0 * factor).round() as u32).max(1)
    }
}

fn limit(backend: &Backend) -> u32 {
    backend.max_connections.unwrap_or(u32::MAX)
}

/// One connection's weight on its backend: counted from the pick until this is dropped.
#[derive(Debug)]
pub struct Load(Arc<Target>);

impl Load {
    /// Counts one more connection, if the backend has room: another worker may have taken the last
    /// since it was picked.
    pub fn on(target: &Arc<Target>) -> Option<Self> {
        // Never above the limit, not even for a moment: somebody else would find it full.
        let limit = target.limit.load(Ordering::Relaxed);
        let more = |live: u32| (live < limit).then(|| live + 1);
        let counted = (target.live).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Self(Arc::clone(target)))
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
    method: Method,
    /// Those for which the method was made.
    weights: Box<[u16]>,
    /// What all compilations of it share.
    base: Arc<Base>,
}

#[derive(Debug)]
struct Base {
    balance: Balance,
    /// Every backend of the pool, in the order of the file.
    all: Box<[Arc<Target>]>,
    /// How many connections have asked so far. Shared by all workers and by every later
    /// compilation, which makes rotations exact over all of them together.
    tickets: Arc<AtomicU64>,
    /// How long a backend that came up gets a rising share; zero: not at all.
    slow_start: Duration,
    rule: Arc<Rule>,
}

impl Route {
    #[cfg(test)]
    pub(super) fn new(service: &Service, eligible: &BTreeSet<BackendId>) -> Self {
        let base = Base::of_pool(service, None, None);
        Self::compile(service.id, Arc::new(base), eligible)
    }

    /// What this pool had before goes on: see [`Routes::reconfigure`].
    fn of_pool(
        service: &Service,
        pool: Option<u16>,
        eligible: &BTreeSet<BackendId>,
        former: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let base = Base::of_pool(service, pool, former.map(|route| &*route.base));
        match former {
            Some(former) if former.base.is(&base) && former.is_for(eligible) => Arc::clone(former),
            _ => Arc::new(Self::compile(service.id, Arc::new(base), eligible)),
        }
    }

    fn compile(service: ServiceId, base: Arc<Base>, eligible: &BTreeSet<BackendId>) -> Self {
        let pool: Vec<_> = base
            .all
            .iter()
            .filter(|target| eligible.contains(&target.id))
            .cloned()
            .collect();
        Self {
            service,
            weights: pool.iter().map(|target| target.weight()).collect(),
            method: Method::new(&base.balance, &pool),
            pool,
            base,
        }
    }

    /// The same backends are eligible, with the same weights.
    fn is_for(&self, eligible: &BTreeSet<BackendId>) -> bool {
        let wanted = self.base.all.iter().map(|target| target.id);
        let wanted = wanted.filter(|id| eligible.contains(id));
        let weights = self.pool.iter().map(|target| target.weight());
        wanted.eq(self.pool.iter().map(|target| target.id))
            && weights.eq(self.weights.iter().copied())
    }

    /// The eligible backends, in the order of the file.
    pub fn pool(&self) -> &[Arc<Target>] {
        &self.pool
    }

    /// Every backend of the pool, in the order of the file.
    pub fn all(&self) -> &[Arc<Target>] {
        &self.base.all
    }

    /// The algorithm.
    pub fn scheduler(&self) -> Scheduler {
        self.base.balance.scheduler
    }

    /// Its scheduler wants to know how connections fare, and the time.
    pub fn measures(&self) -> bool {
        measures(self.base.balance.scheduler)
    }

    pub(super) const fn method(&self) -> &Method {
        &self.method
    }

    /// The scheduler, or a slow start, needs to know the time.
    pub fn needs_time(&self) -> bool {
        self.measures() || !self.base.slow_start.is_zero()
    }

    /// How long a backend that came up gets a rising share; zero: not at all.
    pub(super) fn slow_start(&self) -> Duration {
        self.base.slow_start
    }

    /// These will be the eligible ones: who was not, and comes to others, begins slowly.
    fn begin(&self, eligible: &BTreeSet<BackendId>, now: Duration) {
        if self.base.slow_start.is_zero() || self.pool.is_empty() {
            return;
        }
        for target in &self.base.all {
            let known = self.pool.iter().any(|it| it.id == target.id);
            if eligible.contains(&target.id) && !known {
                let since = (now.as_millis() as u64).max(1);
                target.cold_since.store(since, Ordering::Relaxed);
            }
        }
    }

    /// The next connection's number.
    pub(super) fn ticket(&self) -> u64 {
        self.base.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// `adaptive` takes its turn if one is due.
    pub(super) fn adapt(&self, now: Duration) {
        let pool = self.pool.iter().map(|target| &**target);
        self.base.rule.turn(now, pool);
    }
}

impl Base {
    /// Backends that were there before, at the same address, stay what they are, with their counts
    /// and measurements; so do rotations and the rule, if they mean the same as before.
    fn of_pool(service: &Service, pool: Option<u16>, former: Option<&Self>) -> Self {
        let balance = service.balance_of(pool);
        let alike = |former: &&Self| {
            let measures = measures(balance.scheduler) == measures(former.balance.scheduler);
            measures && balance.decay == former.balance.decay
        };
        let alike = former.filter(alike);
        let known = alike.into_iter().flat_map(|former| &former.all);
        let known: BTreeMap<_, _> = known.map(|target| (target.id, target)).collect();
        let target = |backend: &Backend| match known.get(&backend.id) {
            Some(known) if known.address == backend.address => {
                known.set(backend);
                Arc::clone(known)
            }
            _ => {
                let gauge = measures(balance.scheduler).then(|| Gauge::new(balance.decay));
                Arc::new(Target::new(backend, gauge))
            }
        };
        let here = service.backends.iter().filter(|it| it.pool == pool);
        let rule = alike.filter(|former| former.balance.floor == balance.floor);
        Self {
            balance: balance.clone(),
            all: here.map(target).collect(),
            tickets: former.map_or_else(Arc::default, |former| Arc::clone(&former.tickets)),
            slow_start: service.proxied.limits.slow_start,
            rule: match rule {
                Some(former) => Arc::clone(&former.rule),
                None => Arc::new(Rule::new(balance.decay, balance.floor)),
            },
        }
    }

    /// Nothing is different.
    fn is(&self, other: &Self) -> bool {
        let same = |(here, there): (&Arc<Target>, &Arc<Target>)| Arc::ptr_eq(here, there);
        self.balance == other.balance
            && self.slow_start == other.slow_start
            && self.all.len() == other.all.len()
            && self.all.iter().zip(&other.all).all(same)
    }
}

/// The scheduler goes by measurements.
const fn measures(scheduler: Scheduler) -> bool {
    matches!(
        scheduler,
        Scheduler::LeastResponseTime | Scheduler::Adaptive
    )
}

/// Where new connections go, for every service.
#[derive(Debug)]
pub struct Routes {
    /// To the services' own backends.
    routes: Vec<Arc<Route>>,
    /// To the pools of each service.
    pools: Vec<Box<[Arc<Route>]>>,
}

impl Routes {
    /// The first compilation. Positions and counts start at zero.
    pub fn compile(config: &Config, eligible: &BTreeSet<BackendId>) -> Self {
        let none = Self {
            routes: Vec::new(),
            pools: Vec::new(),
        };
        none.reconfigure(config, eligible)
    }

    /// The routes of another configuration. A backend that keeps its name and its address keeps its
    /// counts and measurements, and a pool its rotation; connections to any other backend go on
    /// without being in any route. The place of a pool in its service tells which it was before.
    #[must_use]
    pub fn reconfigure(&self, config: &Config, eligible: &BTreeSet<BackendId>) -> Self {
        let places = self.routes.iter().zip(0..);
        let places: BTreeMap<ServiceId, usize> = places
            .map(|(route, place)| (route.service, place))
            .collect();
        let route = |service: &Service, pool: Option<u16>| {
            let former = places.get(&service.id).and_then(|place| match pool {
                None => self.routes.get(*place),
                Some(pool) => self.pools[*place].get(usize::from(pool)),
            });
            Route::of_pool(service, pool, eligible, former)
        };
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

    /// Sets weights; backends that are not named have theirs of the configuration. Rotations know of it
    /// with the next compilation.
    pub fn weigh(&self, weights: &BTreeMap<BackendId, u16>) {
        for target in self.all().flat_map(|route| route.all()) {
            let base = || target.base.load(Ordering::Relaxed);
            let weight = weights.get(&target.id).copied().unwrap_or_else(base);
            target.weight.store(weight.clamp(1, 256), Ordering::Relaxed);
        }
    }

    /// Says that the next compilation is for these, as of now: `slow_start` begins.
    pub fn begin(&self, eligible: &BTreeSet<BackendId>, now: Duration) {
        for route in self.all() {
            route.begin(eligible, now);
        }
    }

    /// The same services with other eligible backends; positions and counts live on in both.
    ///
    /// A service whose backends stay the same keeps its route. Another takes at most
    /// [`super::scheduler::SEQUENCE_WORK`] steps, or those of its Maglev table.
    #[must_use]
    pub fn recompile(&self, eligible: &BTreeSet<BackendId>) -> Self {
        let route = |old: &Arc<Route>| match old.is_for(eligible) {
            true => Arc::clone(old),
            false => Arc::new(Route::compile(old.service, Arc::clone(&old.base), eligible)),
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

    /// Every pool of every service.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter().chain(self.pools.iter().flatten())
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
