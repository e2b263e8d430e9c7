//! The algorithms: which backend is a connection's first choice, and which its next.
//!
//! | scheduler | first choice | after a failed connect, among those not tried |
//! |---|---|---|
//! | `round_robin` | one after another: P = 1/N | the one that follows in the order |
//! | `weighted_round_robin` | smooth rotation: P = W/sum W, exact over every sum W connections in a row | the highest weight; equals take turns |
//! | `least_connections` | fewest connections per weight; equals take turns | the same |
//! | `random` | by weight: P = W/sum W | the same |
//!
//! A connection draws one ticket, however often it has to try again. So a dead backend's clients
//! move on to other backends, and everybody else's turn stays what it would have been: retries add
//! to the shares of the others but never shift the rotation.

use std::cmp::Ordering;

use super::routes::{Route, Target};
use crate::model::Scheduler;

/// Most steps (backends times length) that computing one smooth sequence may take: about a
/// millisecond. A longer sequence is replaced by a stride, which needs no table.
pub const SEQUENCE_WORK: usize = 1 << 20;

/// A rotation: the number of a connection gives its place in the pool.
#[derive(Debug)]
pub enum Rotation {
    /// One after another.
    Even(u64),
    /// The smooth sequence, written out. At most 32 KiB: with 64 backends of up to 256 it reaches
    /// `SEQUENCE_WORK` at 16,384 places.
    Table(Box<[u16]>),
    /// Weights laid end to end on a circle, which is walked in steps of the golden section.
    Stride(Stride),
}

impl Rotation {
    pub(super) fn even(backends: usize) -> Self {
        Self::Even(backends as u64)
    }

    /// Exact over every `sum(weights) / gcd(weights)` numbers in a row, in both forms.
    pub fn weighted(weights: &[u16]) -> Self {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, u32::from(*b))).max(1);
        let reduced: Vec<u32> = weights.iter().map(|w| u32::from(*w) / divisor).collect();
        let length = reduced.iter().sum::<u32>() as usize;
        if length == reduced.len() {
            Self::even(length)
        } else if length * reduced.len() <= SEQUENCE_WORK {
            Self::Table(smooth(&reduced, length))
        } else {
            Self::Stride(Stride::new(&reduced))
        }
    }

    /// After how many numbers it begins anew.
    pub fn period(&self) -> u64 {
        match self {
            Self::Even(backends) => *backends,
            Self::Table(sequence) => sequence.len() as u64,
            Self::Stride(stride) => stride.ends.last().copied().map_or(0, u64::from),
        }
    }

    /// The place in the pool for this number. The pool must not be empty.
    pub fn at(&self, ticket: u64) -> usize {
        match self {
            Self::Even(backends) => (ticket % backends) as usize,
            Self::Table(sequence) => {
                usize::from(sequence[(ticket % sequence.len() as u64) as usize])
            }
            Self::Stride(stride) => stride.at(ticket),
        }
    }
}

/// Every turn each backend earns its weight; the richest is chosen and pays the sum. That spreads
/// a backend's turns over the sequence: 5:1:1 becomes `a a b a c a a`, and a backend of at most half
/// the weight never gets more than two in a row.
fn smooth(weights: &[u32], length: usize) -> Box<[u16]> {
    let sum = length as i64;
    let mut earned = vec![0_i64; weights.len()];
    let turn = |_| {
        let mut richest = 0;
        for (place, weight) in weights.iter().enumerate() {
            earned[place] += i64::from(*weight);
            if earned[place] > earned[richest] {
                richest = place;
            }
        }
        earned[richest] -= sum;
        richest as u16
    };
    (0..length).map(turn).collect()
}

/// For sequences that would be too long to write out.
///
/// Number `n` stands at `n * step mod sum`, and `step` shares no divisor with `sum`, so any `sum`
/// numbers in a row meet every point of the circle once: exact, without a table or a lock. The
/// step is the golden section of the circle: neighbours in time lie 0.38 of the circle apart, so a
/// backend with less than that share never gets two connections in a row. (More than 0.25 cannot
/// occur here: the sum exceeds `SEQUENCE_WORK / 1024`, four times the highest weight.)
#[derive(Debug)]
pub struct Stride {
    /// Where each backend's arc ends.
    ends: Box<[u32]>,
    step: u64,
}

impl Stride {
    fn new(weights: &[u32]) -> Self {
        let ends: Box<[u32]> = weights
            .iter()
            .scan(0, |end, weight| {
                *end += weight;
                Some(*end)
            })
            .collect();
        let sum = ends.last().copied().unwrap_or(1);
        // 0.618 of the sum, in integers.
        let mut step = (u64::from(sum) * 618_034 / 1_000_000).max(1) as u32;
        while gcd(step, sum) != 1 {
            step += 1;
        }
        Self {
            ends,
            step: u64::from(step),
        }
    }

    fn at(&self, ticket: u64) -> usize {
        let sum = self.ends.last().copied().map_or(1, u64::from);
        let point = ticket % sum * self.step % sum;
        self.ends.partition_point(|end| u64::from(*end) <= point)
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// One connection's way through the backends of a route: each at most once.
#[derive(Debug)]
pub struct Picks {
    /// The connection's number, drawn at the first pick.
    ticket: Option<u64>,
    /// The place that was picked last.
    last: Option<u16>,
    /// The places before it. Needs no memory as long as the first backend takes the connection.
    failed: Vec<u16>,
}

impl Picks {
    /// Nothing was tried yet.
    pub const fn new() -> Self {
        Self {
            ticket: None,
            last: None,
            failed: Vec::new(),
        }
    }

    /// The next choice among those not tried yet, as a place in `route.pool()`; none when all were
    /// tried. Always ask the same route.
    pub fn next(&mut self, route: &Route, rng: &mut fastrand::Rng) -> Option<usize> {
        self.failed.extend(self.last.take());
        let tried = self.failed.len();
        if tried >= route.pool().len() {
            return None;
        }
        let ticket = *self.ticket.get_or_insert_with(|| route.ticket());
        let place = match route.scheduler() {
            Scheduler::RoundRobin => route.rotation().at(ticket + tried as u64),
            Scheduler::WeightedRoundRobin if tried == 0 => route.rotation().at(ticket),
            Scheduler::WeightedRoundRobin => self.heaviest(route, ticket),
            Scheduler::LeastConnections => self.least_loaded(route, ticket),
            Scheduler::Random => self.drawn(route, rng),
        };
        self.last = Some(place as u16);
        Some(place)
    }

    /// Places that were not tried, in the order of the pool.
    fn untried<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = usize> + Clone + 'a {
        let failed = |place: usize| self.failed.contains(&(place as u16));
        (0..route.pool().len()).filter(move |place| !failed(*place))
    }

    fn heaviest(&self, route: &Route, ticket: u64) -> usize {
        let weight = |place: usize| route.pool()[place].weight();
        let most = self.untried(route).map(weight).max().unwrap_or(0);
        let equals = self.untried(route).filter(|place| weight(*place) == most);
        // Scattered, because the tickets whose first choice is one backend may all be alike.
        choose(equals, ticket.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
    }

    fn least_loaded(&self, route: &Route, ticket: u64) -> usize {
        // Read once: other workers change the counts meanwhile.
        let loads: Vec<Share> = self
            .untried(route)
            .map(|place| Share::of(place, &route.pool()[place]))
            .collect();
        let Some(least) = loads.iter().min_by(|a, b| a.compare(b)) else {
            return 0;
        };
        let equals = loads.iter().filter(|load| load.compare(least).is_eq());
        choose(equals.map(|load| load.place), ticket)
    }

    fn drawn(&self, route: &Route, rng: &mut fastrand::Rng) -> usize {
        let weight = |place: usize| u32::from(route.pool()[place].weight());
        let sum: u32 = self.untried(route).map(weight).sum();
        let mut point = rng.u32(0..sum.max(1));
        let mut last = 0;
        for place in self.untried(route) {
            let weight = weight(place);
            if point < weight {
                return place;
            }
            point -= weight;
            last = place;
        }
        // Weights fell meanwhile.
        last
    }
}

/// Connections for a weight.
#[derive(Clone, Copy)]
struct Share {
    place: usize,
    live: u64,
    weight: u64,
}

impl Share {
    fn of(place: usize, target: &Target) -> Self {
        Self {
            place,
            live: u64::from(target.live()),
            weight: u64::from(target.weight()),
        }
    }

    /// By `live / weight`, without the division.
    fn compare(&self, other: &Self) -> Ordering {
        (self.live * other.weight).cmp(&(other.live * self.weight))
    }
}

/// The n-th of these, counting round.
fn choose(equals: impl Iterator<Item = usize> + Clone, n: u64) -> usize {
    let count = equals.clone().count().max(1) as u64;
    let mut equals = equals;
    equals.nth((n % count) as usize).unwrap_or(0)
}

impl Default for Picks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "scheduler_test.rs"]
mod tests;

#[cfg(test)]
#[path = "fixture_test.rs"]
pub(super) mod fixture;
