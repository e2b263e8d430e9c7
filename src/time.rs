//! Time as an argument: a monotonic instant without a clock, and one timer slot per kind.
//!
//! Nothing here reads a clock. The turn loop reads it once a turn (`net::clock`) and hands the
//! value down; the simulation hands down simulated time. That is what makes a run repeatable.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the process (or the simulated machine) started its clock, in nanoseconds.
///
/// Monotonic, and counts suspended time (`CLOCK_BOOTTIME`, `clock_gettime(2)`), so that a node that
/// slept knows that it slept.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Mono(u64);

impl Mono {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Milliseconds since the start, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Mono {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:03}s",
            self.0 / 1_000_000_000,
            self.0 / 1_000_000 % 1_000
        )
    }
}

/// One slot per timer kind: setting a timer twice moves it, so a timer can neither leak nor fire
/// for an old reason.
#[derive(Clone, Debug)]
pub struct TimerTable<K: Ord + Copy> {
    slots: BTreeMap<K, Mono>,
}

impl<K: Ord + Copy> Default for TimerTable<K> {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> TimerTable<K> {
    /// Arms, or moves, the timer of this kind.
    pub fn set(&mut self, kind: K, at: Mono) {
        self.slots.insert(kind, at);
    }

    /// Disarms the timer of this kind.
    pub fn stop(&mut self, kind: K) {
        self.slots.remove(&kind);
    }

    /// When the timer of this kind is due, if it is armed.
    pub fn at(&self, kind: K) -> Option<Mono> {
        self.slots.get(&kind).copied()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Mono> {
        self.slots.values().min().copied()
    }

    /// Takes one timer that is due at `now`, the earliest first (ties by kind).
    pub fn pop_due(&mut self, now: Mono) -> Option<K> {
        let (kind, at) = self.slots.iter().min_by_key(|&(kind, at)| (*at, *kind))?;
        let (kind, at) = (*kind, *at);
        (at <= now).then(|| {
            self.slots.remove(&kind);
            kind
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_twice_fires_once_at_the_later_setting() {
        let mut timers = TimerTable::default();
        timers.set('a', Mono::from_millis(5));
        timers.set('a', Mono::from_millis(9));
        assert_eq!(timers.pop_due(Mono::from_millis(8)), None);
        assert_eq!(timers.pop_due(Mono::from_millis(9)), Some('a'));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn due_timers_come_in_order_of_time_then_kind() {
        let mut timers = TimerTable::default();
        timers.set('c', Mono::from_millis(1));
        timers.set('b', Mono::from_millis(2));
        timers.set('a', Mono::from_millis(2));
        let now = Mono::from_millis(3);
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(now)).collect();
        assert_eq!(order, ['c', 'a', 'b']);
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Mono::ZERO.since(Mono::from_millis(1)), Duration::ZERO);
        assert_eq!(
            Mono::from_nanos(u64::MAX) + Duration::MAX,
            Mono::from_nanos(u64::MAX)
        );
    }
}
