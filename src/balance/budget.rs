//! A budget for retries: when a whole pool is sick, trying every backend for every client would
//! multiply the load just when it hurts (gRFC A6; Envoy's retry budget).
//!
//! Retries may be a share of the connections of the last ten seconds, and ten more. All workers
//! count here, without locks: each second is one atomic word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Seconds that are looked back on, the present one included.
const WINDOW: u64 = 10;
/// Retries within the window that need no connections: a service with few clients has some too.
const LEAST: u64 = 10;
/// Bits of a count.
const BITS: u32 = 20;
const MOST: u64 = (1 << BITS) - 1;

/// What one service may retry.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    /// Of each: the second (24 bits), connections, retries.
    seconds: [AtomicU64; WINDOW as usize],
}

impl RetryBudget {
    /// Retries may be this share of the connections, in percent.
    pub fn new(percent: u8) -> Self {
        Self {
            percent: percent.into(),
            seconds: Default::default(),
        }
    }

    /// A client came. Times are since the start of the process.
    pub fn connection(&self, now: Duration) {
        self.count(now, 1 << BITS, BITS);
    }

    /// Takes one retry from the budget, if it has one. Workers that ask at the same moment may
    /// take one too many each.
    pub fn retry(&self, now: Duration) -> bool {
        let (connections, retries) = self.sums(now);
        let allowed = retries < connections * self.percent / 100 + LEAST;
        if allowed {
            self.count(now, 1, 0);
        }
        allowed
    }

    fn count(&self, now: Duration, one: u64, shift: u32) {
        let second = now.as_secs() & 0xff_ffff;
        let word = &self.seconds[(now.as_secs() % WINDOW) as usize];
        let next = |old: u64| {
            let fresh = second << (2 * BITS);
            let old = if old >> (2 * BITS) == second {
                old
            } else {
                fresh
            };
            let full = (old >> shift) & MOST == MOST;
            Some(if full { old } else { old + one })
        };
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn sums(&self, now: Duration) -> (u64, u64) {
        let second = now.as_secs() & 0xff_ffff;
        let mut sums = (0, 0);
        for word in &self.seconds {
            let word = word.load(Ordering::Relaxed);
            if second.wrapping_sub(word >> (2 * BITS)) & 0xff_ffff < WINDOW {
                sums.0 += (word >> BITS) & MOST;
                sums.1 += word & MOST;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn spend(budget: &RetryBudget, now: Duration) -> usize {
        (0..10_000).take_while(|_| budget.retry(now)).count()
    }

    #[test]
    fn a_share_of_the_connections_and_ten_more() {
        let budget = RetryBudget::new(20);
        assert_eq!(spend(&budget, at(0)), 10);
        for n in 0..1_000 {
            budget.connection(at(n % 10));
        }
        assert_eq!(spend(&budget, at(9)), 200);
    }

    #[test]
    fn what_is_ten_seconds_old_is_forgotten() {
        let budget = RetryBudget::new(50);
        for _ in 0..100 {
            budget.connection(at(100));
        }
        assert_eq!(spend(&budget, at(109)), 60);
        assert_eq!(spend(&budget, at(110)), 0, "retries of a second ago count");
        assert_eq!(spend(&budget, at(119)), 10);
        // After 194 days the seconds begin anew.
        assert_eq!(spend(&budget, at((1 << 24) + 3)), 10);
    }

    #[test]
    fn a_count_that_is_full_stays_so() {
        let budget = RetryBudget::new(100);
        for _ in 0..=MOST {
            budget.connection(at(5));
        }
        assert_eq!(budget.sums(at(5)), (MOST, 0));
    }
}
