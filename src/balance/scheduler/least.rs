//! `least_connections` and `least_response_time`: the least of a figure; equals take turns.

use std::cmp::Ordering;
use std::time::Duration;

use super::Among;
use crate::balance::Target;

/// Connections for a weight.
#[derive(Clone, Copy)]
pub(super) struct Share {
    live: u64,
    weight: u64,
}

impl Share {
    pub(super) fn of(target: &Target) -> Self {
        Self {
            live: u64::from(target.live()),
            weight: u64::from(target.weight()),
        }
    }

    /// By `live / weight`, without the division.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        (self.live * other.weight).cmp(&(other.live * self.weight))
    }
}

/// The fewest connections per weight.
pub(super) fn connections(among: Among<'_>, ticket: u64) -> Option<usize> {
    least(among, ticket, Share::of, Share::compare)
}

/// The least `response time x (connections + 1) / weight`.
///
/// A backend that was never measured counts as infinitely fast until it has a connection, and as
/// infinitely slow while it has one: it is tried by one client at a time.
pub(super) fn response_time(among: Among<'_>, ticket: u64, now: Duration) -> Option<usize> {
    let cost = |target: &Target| {
        let live = f64::from(target.live());
        let weight = f64::from(target.weight());
        match target.response_time(now) {
            Some(micros) => f64::from(micros) * (live + 1.0) / weight,
            None if target.live() == 0 => 0.0,
            None => f64::MAX / 1e9 * (live / weight),
        }
    };
    least(among, ticket, cost, f64::total_cmp)
}

/// Looks twice, and remembers nothing but the least: other workers change the figures meanwhile.
fn least<T>(
    among: Among<'_>,
    ticket: u64,
    figure: impl Fn(&Target) -> T,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Option<usize> {
    let mut places = among.places();
    let mut found = places.next()?;
    let mut best = figure(&among.pool[found]);
    let mut equals = 1;
    for place in places {
        let other = figure(&among.pool[place]);
        match compare(&other, &best) {
            Ordering::Less => (found, best, equals) = (place, other, 1),
            Ordering::Equal => equals += 1,
            Ordering::Greater => {}
        }
    }
    if equals == 1 {
        return Some(found);
    }
    let good = |place: &usize| compare(&figure(&among.pool[*place]), &best).is_le();
    let turn = (ticket % equals) as usize;
    among.places().filter(good).nth(turn).or(Some(found))
}
