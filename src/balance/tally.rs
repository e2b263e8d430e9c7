//! What a backend's connects took, counted by all workers at once: two additions a connect, no lock,
//! no allocation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::status::{BUCKETS, Histogram, bucket};

/// A [`Histogram`] that many may add to.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Tally {
    /// It took so long, once.
    pub fn add(&self, time: Duration) {
        self.counts[bucket(time)].fetch_add(1, Ordering::Relaxed);
        let us = time.as_micros() as u64;
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// As of now. What is added meanwhile may be in the counts and not in the sum.
    pub fn read(&self) -> Histogram {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Histogram {
            counts: self.counts.iter().map(read).collect(),
            sum_us: read(&self.sum_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_like_a_histogram() {
        let (tally, mut expected) = (Tally::default(), Histogram::default());
        for us in [0, 99, 100, 101, 5_000, 20_000_000] {
            let time = Duration::from_micros(us);
            tally.add(time);
            expected.add(time);
        }
        assert_eq!(tally.read(), expected);
    }
}
