//! Slow start: a backend that came up beside others gets a share of its turns that rises with time.
//!
//! Of its turns it takes `max(10, 100 x age / slow_start)` percent; the rest goes to whom the
//! scheduler would choose without it. So it works with every scheduler, and with weights of one.

use std::time::Duration;

use crate::model::BackendId;

/// The least share, in percent: with none at all nothing would warm up.
const LEAST: u64 = 10;

/// Share of its turns that a backend of this age takes, in percent.
pub fn percent(age: Duration, takes: Duration) -> u64 {
    let whole = takes.as_millis().max(1);
    let share = (age.as_millis() * 100 / whole).min(100) as u64;
    share.max(LEAST)
}

/// Whether the connection of this number is among those turns. The same on every worker.
pub fn admits(ticket: u64, backend: BackendId, percent: u64) -> bool {
    // Scattered, since the tickets whose turn is one backend may be all alike (SplitMix64).
    let word = (ticket ^ u64::from(backend.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) % 100 < percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_evenly_and_stays_whole() {
        let takes = Duration::from_secs(20);
        for (seconds, expected) in [
            (0, 10),
            (1, 10),
            (5, 25),
            (10, 50),
            (19, 95),
            (20, 100),
            (900, 100),
        ] {
            assert_eq!(percent(Duration::from_secs(seconds), takes), expected);
        }
        assert_eq!(percent(Duration::ZERO, Duration::ZERO), LEAST);
    }

    #[test]
    fn so_many_turns_are_taken() {
        let backend = BackendId::of("web", "b1");
        for share in [10, 25, 50, 95, 100] {
            // Every fourth ticket, as in a rotation of four.
            let taken = (0..10_000)
                .filter(|n| admits(n * 4, backend, share))
                .count() as i64;
            assert!((taken - share as i64 * 100).abs() < 200, "{share}: {taken}");
        }
    }
}
