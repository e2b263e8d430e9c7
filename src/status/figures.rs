//! Figures that only monitoring wants: distributions of times, and what went wrong how often.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Cause;
use crate::model::{ConnectFailure, Role};

/// Upper bounds of a [`Histogram`]'s buckets, in microseconds: 0.1 ms to 10 s.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];
/// Buckets of a histogram: one more for what is above all bounds.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Which bucket a time belongs to.
pub fn bucket(time: Duration) -> usize {
    let us = time.as_micros();
    BOUNDS_US.partition_point(|bound| u128::from(*bound) < us)
}

/// How long something took, over the life of the process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Histogram {
    /// How often, by bucket: those of [`BOUNDS_US`], then one for longer times. Empty: never.
    pub counts: Vec<u64>,
    /// The sum, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    /// It took so long, once.
    pub fn add(&mut self, time: Duration) {
        self.counts.resize(BUCKETS, 0);
        self.counts[bucket(time)] += 1;
        self.sum_us = self.sum_us.saturating_add(time.as_micros() as u64);
    }

    /// How often altogether.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Connects that failed, by how.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failures {
    /// The backend's host said that nobody listens.
    pub refused: u64,
    /// No answer in time.
    pub timeout: u64,
    /// No route, or host unreachable.
    pub unreachable: u64,
    /// Anything else.
    pub other: u64,
}

impl Failures {
    /// One more.
    pub const fn add(&mut self, failure: ConnectFailure) {
        let count = match failure {
            ConnectFailure::Refused => &mut self.refused,
            ConnectFailure::Timeout => &mut self.timeout,
            ConnectFailure::Unreachable => &mut self.unreachable,
            ConnectFailure::Other => &mut self.other,
        };
        *count += 1;
    }
}

/// Proxied connections that have ended, by who ended them and how.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ends {
    /// Both sides closed in order.
    pub complete: u64,
    /// Reset or error on the client's side.
    pub client_error: u64,
    /// Its backend was judged down, with `on_down = "reset"`.
    pub backend_down: u64,
    /// Reset or error on the backend's side.
    pub backend_error: u64,
    /// No byte for the idle timeout.
    pub idle: u64,
    /// The node let go of it (lost mastership, stop).
    pub dropped: u64,
}

/// How often the role changed so.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Transitions {
    /// After it.
    pub to: Role,
    /// Why.
    pub cause: Cause,
    /// How often in this life.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (us, at) in [
            (0, 0),
            (100, 0),
            (101, 1),
            (10_000_000, 15),
            (10_000_001, 16),
        ] {
            assert_eq!(bucket(Duration::from_micros(us)), at, "{us}");
        }
        assert_eq!(
            bucket(Duration::from_nanos(100_999)),
            0,
            "whole microseconds"
        );
        let mut histogram = Histogram::default();
        assert_eq!(histogram.count(), 0);
        histogram.add(Duration::from_millis(1));
        histogram.add(Duration::from_secs(60));
        assert_eq!((histogram.count(), histogram.sum_us), (2, 60_001_000));
        assert_eq!((histogram.counts[3], histogram.counts[16]), (1, 1));
    }
}
