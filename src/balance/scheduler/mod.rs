//! The algorithms: which backend is a connection's first choice, and which its next.
//!
//! | scheduler | first choice | after a failed connect, among those not tried |
//! |---|---|---|
//! | `round_robin` | one after another: P = 1/N | the one that follows in the order |
//! | `weighted_round_robin` | smooth rotation: P = W/sum W, exact over every sum W connections in a row | the highest weight; equals take turns |
//! | `least_connections` | fewest connections per weight; equals take turns | the same |
//! | `least_response_time` | least response time x (connections + 1) / weight | the same |
//! | `random` | by weight: P = W/sum W | the same |
//! | `power_of_two` | two at random by weight, of these the fewer connections per weight | the same |
//! | `source_hash` | the highest score of client and backend | the next score |
//! | `maglev` | the client's place in the table | the next in the table |
//! | `first` | the first one in the file | the next one in the file |
//! | `adaptive` | by effective weight: P = W f/sum W f | the same |
//!
//! A connection draws one ticket, however often it has to try again. So a dead backend's clients
//! move on to other backends, and everybody else's turn stays what it would have been: retries add
//! to the shares of the others but never shift the rotation.
//!
//! A backend that has `max_connections` of its own and no room is passed over as if it had been
//! tried, and is looked at again if the connection asks again.

mod bound;
mod draw;
mod hash;
mod least;
mod maglev;
mod rotation;

pub use rotation::{Rotation, SEQUENCE_WORK};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use self::bound::Bound;
use self::hash::Hasher;
use self::maglev::Maglev;
use super::ramp;
use super::routes::{Route, Target};
use super::stick::Advice;
use crate::config::Balance;
use crate::model::Scheduler;

/// A scheduler made for one pool.
#[derive(Debug)]
pub(super) enum Method {
    RoundRobin(Rotation),
    WeightedRoundRobin(Rotation),
    LeastConnections,
    LeastResponseTime,
    Random,
    PowerOfTwo,
    SourceHash {
        hasher: Hasher,
        bound: Option<u16>,
    },
    Maglev {
        hasher: Hasher,
        table: Maglev,
        bound: Option<u16>,
    },
    First,
    Adaptive,
}

impl Method {
    pub(super) fn new(balance: &Balance, pool: &[Arc<Target>]) -> Self {
        let hasher = || Hasher::new(&balance.hash_key);
        match balance.scheduler {
            Scheduler::RoundRobin => Self::RoundRobin(Rotation::even(pool.len())),
            Scheduler::WeightedRoundRobin => {
                let weights: Vec<u16> = pool.iter().map(|target| target.weight()).collect();
                Self::WeightedRoundRobin(Rotation::weighted(&weights))
            }
            Scheduler::LeastConnections => Self::LeastConnections,
            Scheduler::LeastResponseTime => Self::LeastResponseTime,
            Scheduler::Random => Self::Random,
            Scheduler::PowerOfTwo => Self::PowerOfTwo,
            Scheduler::SourceHash => Self::SourceHash {
                hasher: hasher(),
                bound: balance.bounded_load,
            },
            Scheduler::Maglev => {
                let backends: Vec<_> = pool.iter().map(|it| (it.id, it.weight())).collect();
                Self::Maglev {
                    hasher: hasher(),
                    table: Maglev::new(&backends, balance.table_size),
                    bound: balance.bounded_load,
                }
            }
            Scheduler::First => Self::First,
            Scheduler::Adaptive => Self::Adaptive,
        }
    }
}

/// Those of a pool that may be chosen now.
#[derive(Clone, Copy)]
pub(super) struct Among<'a> {
    pool: &'a [Arc<Target>],
    /// Places that were tried.
    failed: &'a [u16],
    bound: Option<Bound>,
    /// None: nobody begins slowly.
    ramp: Option<Ramp>,
}

/// Who begins slowly takes only some of its turns.
#[derive(Clone, Copy)]
struct Ramp {
    ticket: u64,
    now: Duration,
    takes: Duration,
}

impl Ramp {
    fn of(route: &Route, ticket: u64, now: Duration) -> Option<Self> {
        let takes = route.slow_start();
        (!takes.is_zero()).then_some(Self { ticket, now, takes })
    }

    fn admits(self, target: &Target) -> bool {
        target.age(self.now).is_none_or(|age| {
            let percent = ramp::percent(age, self.takes);
            ramp::admits(self.ticket, target.id, percent)
        })
    }
}

impl<'a> Among<'a> {
    fn has(&self, place: usize) -> bool {
        let target = &self.pool[place];
        !self.failed.contains(&(place as u16))
            && target.has_room()
            && self.bound.is_none_or(|bound| bound.has_room(target))
            && self.ramp.is_none_or(|ramp| ramp.admits(target))
    }

    /// Their places, in the order of the pool.
    fn places(self) -> impl Iterator<Item = usize> + Clone + 'a {
        (0..self.pool.len()).filter(move |place| self.has(*place))
    }

    /// The first one from this place on, round the end.
    fn from(self, place: usize) -> Option<usize> {
        let count = self.pool.len();
        (place..count).chain(0..place).find(|at| self.has(*at))
    }
}

/// One connection's way through the backends of a route: each at most once.
#[derive(Debug)]
pub struct Picks {
    client: IpAddr,
    /// What schedulers that hash take instead of the client's address.
    number: Option<u64>,
    /// The place to begin with.
    first: Option<u16>,
    /// No other place will do.
    only: bool,
    /// The connection's number, drawn at the first pick that the scheduler makes.
    ticket: Option<u64>,
    /// The place that was picked last.
    last: Option<u16>,
    /// The places before it. Needs no memory as long as the first backend takes the connection.
    failed: Vec<u16>,
}

impl Picks {
    /// Nothing was tried yet for this client.
    pub const fn new(client: IpAddr) -> Self {
        Self {
            client,
            number: None,
            first: None,
            only: false,
            ticket: None,
            last: None,
            failed: Vec::new(),
        }
    }

    /// Whether all were tried.
    pub fn all_tried(&self, route: &Route) -> bool {
        if self.only {
            // Also if there is none.
            return self
                .first
                .is_none_or(|first| self.failed.contains(&first) || self.last == Some(first));
        }
        self.failed.len() + usize::from(self.last.is_some()) >= route.pool().len()
    }

    /// Nobody was tried.
    pub const fn none_tried(&self) -> bool {
        self.failed.is_empty() && self.last.is_none()
    }

    /// Any backend will do.
    pub const fn takes_any(&self) -> bool {
        self.none_tried() && !self.only
    }

    /// The last choice was not tried: it had no room any more.
    pub const fn untried(&mut self) {
        self.last = None;
    }

    /// Goes on with another compilation of the same pool; who was tried stays so.
    pub fn move_on(&mut self, from: &Route, to: &Route) {
        self.failed.extend(self.last.take());
        let place = |old: &u16| {
            let id = from.pool()[usize::from(*old)].id;
            to.pool().iter().position(|target| target.id == id)
        };
        self.first = self
            .first
            .as_ref()
            .and_then(place)
            .map(|place| place as u16);
        self.failed = self
            .failed
            .iter()
            .filter_map(place)
            .map(|place| place as u16)
            .collect();
    }

    /// Before the first pick: what is remembered of the client, and the number to be hashed instead of its
    /// address. A connection that goes where its client was draws no ticket, so that everybody
    /// else's turn stays what it would have been.
    pub fn advise(&mut self, advice: Advice, number: Option<u64>) {
        self.number = number;
        (self.first, self.only) = match advice {
            Advice::Any => (None, false),
            Advice::First(place) => (Some(place as u16), false),
            Advice::Only(place) => (Some(place as u16), true),
            Advice::Refuse => (None, true),
        };
    }

    /// The next choice among those not tried yet, as a place in `route.pool()`; none when all were
    /// tried, or those that were not have no room. Always ask the same route. `now` is the time
    /// since the start of the process; it means nothing where the route does not measure.
    pub fn next(&mut self, route: &Route, now: Duration, rng: &mut fastrand::Rng) -> Option<usize> {
        self.failed.extend(self.last.take());
        if self.failed.len() >= route.pool().len() {
            return None;
        }
        let among = Among {
            pool: route.pool(),
            failed: &self.failed,
            bound: None,
            ramp: None,
        };
        let first = self.first.map(usize::from);
        if let Some(first) = first.filter(|place| among.has(*place)) {
            self.last = Some(first as u16);
            return Some(first);
        }
        if self.only {
            return None;
        }
        let ticket = *self.ticket.get_or_insert_with(|| route.ticket());
        let among = Among {
            ramp: Ramp::of(route, ticket, now),
            ..among
        };
        let place = self.choose(among, route, now, ticket, rng);
        // Where only slow starters are left, they are good enough.
        let place = match (place, among.ramp) {
            (None, Some(_)) => {
                let among = Among {
                    ramp: None,
                    ..among
                };
                self.choose(among, route, now, ticket, rng)
            }
            (place, _) => place,
        }?;
        self.last = Some(place as u16);
        Some(place)
    }

    fn choose(
        &self,
        among: Among<'_>,
        route: &Route,
        now: Duration,
        ticket: u64,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match route.method() {
            Method::RoundRobin(rotation) => among.from(rotation.at(ticket)),
            Method::WeightedRoundRobin(rotation) => {
                let turn = rotation.at(ticket);
                match among.has(turn) {
                    true => Some(turn),
                    false => draw::heaviest(among, ticket),
                }
            }
            Method::LeastConnections => least::connections(among, ticket),
            Method::LeastResponseTime => least::response_time(among, ticket, now),
            Method::Random => draw::by_weight(among, rng),
            Method::PowerOfTwo => draw::better_of_two(among, rng),
            Method::SourceHash { hasher, bound } => {
                let client = self.number.unwrap_or_else(|| hasher.client(self.client));
                bound::within(among, *bound, |among| hash::highest(among, client))
            }
            Method::Maglev {
                hasher,
                table,
                bound,
            } => {
                let client = self.number.unwrap_or_else(|| hasher.client(self.client));
                bound::within(among, *bound, |among| table.pick(among, client))
            }
            Method::First => among.places().next(),
            Method::Adaptive => {
                route.adapt(now);
                draw::by_effective_weight(among, ticket)
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "spread_test.rs"]
mod spread;

#[cfg(test)]
#[path = "fixture_test.rs"]
pub(super) mod fixture;
