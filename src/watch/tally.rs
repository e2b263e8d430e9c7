//! What somebody saw who asked a service again and again: counts, and each time in which it did not
//! answer.
//!
//! Owns: the arithmetic. Never: clocks or sockets. Times are since the beginning.
//!
//! *Silent* is the time from one answer to the next, of new connections: what a client notices that
//! comes at any moment. A silence of [`NOTABLE`] and more is an outage, and is kept with what failed in it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// A silence that is worth a line.
pub const NOTABLE: Duration = Duration::from_millis(100);
/// Outages kept; the others are counted.
const KEPT: usize = 1_000;

/// A time without any answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outage {
    /// When the last answer before it came.
    pub began_ms: f64,
    /// Until the next one, or the end of the watching.
    pub lasted_ms: f64,
    /// New connections that failed in it.
    pub failed: u64,
}

/// What became of the new connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct New {
    /// Those that were begun.
    pub begun: u64,
    /// Those that were answered.
    pub answered: u64,
    /// The others, by what went wrong.
    pub failed: BTreeMap<String, u64>,
    /// The longest time from the beginning of one to its answer, milliseconds.
    pub slowest_ms: f64,
    /// The longest time from one answer to the next, milliseconds.
    pub silent_ms: f64,
}

/// What became of the connections that were kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Kept {
    /// How many there are at once.
    pub open: u64,
    /// Questions that were answered.
    pub answered: u64,
    /// Those that ended, by what went wrong. Each was opened again.
    pub lost: BTreeMap<String, u64>,
    /// The longest time from a question to its answer, milliseconds.
    pub slowest_ms: f64,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// New connections.
    pub new: New,
    /// Kept connections.
    pub kept: Kept,
    /// Times without any answer to a new connection, oldest first.
    pub outages: Vec<Outage>,
    /// Those that are not in the list any more.
    pub outages_left_off: u64,
    /// Connections that were not begun in time, since this host was too busy: where there are many,
    /// the figures are about it.
    pub skipped: u64,
    #[serde(skip)]
    last: Duration,
    #[serde(skip)]
    failed_since: u64,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Tally {
    /// A new connection is begun; so many before it were not, although it was time.
    pub const fn begun(&mut self, skipped: u64) {
        self.new.begun += 1;
        self.skipped += skipped;
    }

    /// One was answered, after so long. The outage that this ends.
    pub fn answered(&mut self, took: Duration, now: Duration) -> Option<Outage> {
        self.new.answered += 1;
        self.new.slowest_ms = self.new.slowest_ms.max(ms(took));
        let outage = self.silence(now);
        self.last = self.last.max(now);
        self.failed_since = 0;
        outage
    }

    /// One was not.
    pub fn failed(&mut self, why: &str) {
        *self.new.failed.entry(why.to_owned()).or_default() += 1;
        self.failed_since += 1;
    }

    /// A question on a kept connection was answered.
    pub fn kept_answered(&mut self, took: Duration) {
        self.kept.answered += 1;
        self.kept.slowest_ms = self.kept.slowest_ms.max(ms(took));
    }

    /// A kept connection ended.
    pub fn kept_lost(&mut self, why: &str) {
        *self.kept.lost.entry(why.to_owned()).or_default() += 1;
    }

    /// Nobody watches any longer. The outage that lasts.
    pub fn ended(&mut self, now: Duration) -> Option<Outage> {
        self.silence(now)
    }

    /// Whether something went wrong: a connection failed or was lost, or nobody answered for long.
    pub fn all_well(&self) -> bool {
        let none = |counts: &BTreeMap<String, u64>| counts.is_empty();
        none(&self.new.failed) && none(&self.kept.lost) && self.outages.is_empty()
    }

    fn silence(&mut self, now: Duration) -> Option<Outage> {
        let silent = now.saturating_sub(self.last);
        self.new.silent_ms = self.new.silent_ms.max(ms(silent));
        if silent < NOTABLE {
            return None;
        }
        let outage = Outage {
            began_ms: ms(self.last),
            lasted_ms: ms(silent),
            failed: self.failed_since,
        };
        if self.outages.len() < KEPT {
            self.outages.push(outage.clone());
        } else {
            self.outages_left_off += 1;
        }
        Some(outage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_silence_is_from_one_answer_to_the_next() {
        let mut tally = Tally::default();
        assert_eq!(tally.answered(at(2), at(20)), None);
        assert_eq!(tally.answered(at(3), at(119)), None, "99 ms");
        tally.failed("refused");
        tally.failed("refused");
        let outage = tally.answered(at(1), at(519));
        let expected = Outage {
            began_ms: 119.0,
            lasted_ms: 400.0,
            failed: 2,
        };
        assert_eq!(outage.as_ref(), Some(&expected));
        assert_eq!(tally.answered(at(1), at(540)), None);
        assert_eq!(tally.outages, [expected]);
        assert_eq!((tally.new.answered, tally.new.slowest_ms), (4, 3.0));
        assert_eq!(tally.new.silent_ms, 400.0);
        assert_eq!(tally.new.failed["refused"], 2);
    }

    #[test]
    fn one_that_lasts_is_told_at_the_end() {
        let mut tally = Tally::default();
        assert!(tally.ended(at(99)).is_none() && tally.all_well());
        tally.answered(at(1), at(99));
        tally.failed("timed out");
        let outage = tally.ended(at(1_099)).unwrap();
        assert_eq!((outage.lasted_ms, outage.failed), (1_000.0, 1));
    }

    /// A slow answer to an old question may come after a quick one to a young one.
    #[test]
    fn answers_in_any_order_are_no_silence() {
        let mut tally = Tally::default();
        tally.answered(at(1), at(50));
        tally.answered(at(200), at(49));
        assert_eq!(tally.answered(at(1), at(140)), None);
    }

    #[test]
    fn whatever_went_wrong_is_not_well() {
        type Wrong = fn(&mut Tally);
        let wrongs: [Wrong; 3] = [
            |tally| tally.failed("reset"),
            |tally| tally.kept_lost("reset"),
            |tally| assert!(tally.ended(at(100)).is_some()),
        ];
        for wrong in wrongs {
            let mut tally = Tally::default();
            tally.begun(1);
            tally.kept_answered(at(5));
            assert!(tally.all_well());
            wrong(&mut tally);
            assert!(!tally.all_well());
        }
    }

    #[test]
    fn outages_are_bounded() {
        let mut tally = Tally::default();
        for number in 1..=KEPT as u64 + 2 {
            tally.answered(at(1), at(number * 100));
        }
        assert_eq!((tally.outages.len(), tally.outages_left_off), (KEPT, 2));
    }
}
