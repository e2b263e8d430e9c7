//! `adaptive`: the rule that shifts weight away from backends that are slow or fail.
//!
//! Once a second, at the first pick, with `T` the time since the last turn:
//!
//! 1. Each backend's response time `s` and share of failures `e` are smoothed: `s += k (mean - s)`,
//!    `e += k (failures / (answers + failures) - e)`, `k = 1 - exp(-T / decay)`. Where more clients
//!    wait than were answered, the mean is at least `waiting / answers x T` (Little's law), so that a
//!    backend which never answers is seen. Without traffic `e` fades and `s` stays.
//! 2. The middle `m` is the median of `s`, by configured weight, over those that were measured.
//! 3. The aim is `a = min(1, 1.25 / x) (1 - e)^2` with `x = (s + 1 ms) / (m + 1 ms)`, not below the
//!    floor: a backend that is up to a quarter slower than the middle keeps its weight.
//! 4. The factor `f` goes 30 % of the way to its aim, but at most 0.2 down and 0.05 up in a turn.
//!
//! The effective weight is `W f`. The middle is a median, so that one sick backend cannot move it;
//! all being equally slow moves nobody. The smoothing damps, the quarter is a dead band, the small
//! steps up keep a backend that recovers under load from being overrun.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::gauge::{Seen, fade};
use super::routes::Target;

/// Time between turns.
const TURN: Duration = Duration::from_secs(1);
/// Without traffic there are no turns. A longer pause counts as this.
const LONGEST: Duration = Duration::from_secs(10);
/// How much slower than the middle a backend may be.
const BAND: f32 = 1.25;
/// Microseconds below which differences fade.
const SLACK: f32 = 1_000.0;
/// Share of the way to the aim.
const GAIN: f32 = 0.3;
/// The longest step down and up.
const DOWN: f32 = 0.2;
const UP: f32 = 0.05;

/// The rule's clock and settings, shared by all routes of a service.
#[derive(Debug)]
pub(super) struct Rule {
    decay: Duration,
    /// The least factor.
    floor: f32,
    /// When the last turn was, in milliseconds since the start.
    turned: AtomicU64,
}

impl Rule {
    pub(super) fn new(decay: Duration, floor: u16) -> Self {
        Self {
            decay,
            floor: f32::from(floor) / 100.0,
            turned: AtomicU64::new(0),
        }
    }

    /// Takes a turn if one is due; whichever worker comes first does it for all.
    pub(super) fn turn<'t>(&self, now: Duration, all: impl Iterator<Item = &'t Target> + Clone) {
        let last = self.turned.load(Ordering::Relaxed);
        let age = now.saturating_sub(Duration::from_millis(last));
        if age < TURN {
            return;
        }
        let mine = now.as_millis() as u64;
        let order = Ordering::Relaxed;
        if (self.turned)
            .compare_exchange(last, mine, order, order)
            .is_ok()
        {
            self.take(age.min(LONGEST), all);
        }
    }

    fn take<'t>(&self, age: Duration, all: impl Iterator<Item = &'t Target> + Clone) {
        let gain = 1.0 - fade(age, self.decay);
        let mut measured = Vec::new();
        for target in all.clone() {
            let Some(gauge) = target.gauge() else {
                return;
            };
            let seen = gauge.take();
            let errors = f32::from_bits(gauge.errors.load(Ordering::Relaxed));
            let failing = match seen.answers + seen.failures {
                0 => 0.0,
                count => seen.failures as f32 / count as f32,
            };
            let errors = errors + gain * (failing - errors);
            gauge.errors.store(errors.to_bits(), Ordering::Relaxed);
            let mut smooth = f32::from_bits(gauge.smooth.load(Ordering::Relaxed));
            if let Some(mean) = mean(seen, age) {
                smooth = match smooth > 0.0 {
                    true => smooth + gain * (mean - smooth),
                    false => mean.max(1.0),
                };
                gauge.smooth.store(smooth.to_bits(), Ordering::Relaxed);
            }
            if smooth > 0.0 {
                measured.push((smooth, u32::from(target.weight())));
            }
        }
        let middle = median(&mut measured);
        for gauge in all.filter_map(Target::gauge) {
            let smooth = f32::from_bits(gauge.smooth.load(Ordering::Relaxed));
            let errors = f32::from_bits(gauge.errors.load(Ordering::Relaxed));
            let aim = aim(smooth, middle, errors).clamp(self.floor, 1.0);
            let factor = gauge.factor();
            let step = (GAIN * (aim - factor)).clamp(-DOWN, UP);
            let factor = (factor + step).clamp(self.floor, 1.0);
            gauge.factor.store(factor.to_bits(), Ordering::Relaxed);
        }
    }
}

/// The response time that this turn shows, in microseconds.
fn mean(seen: Seen, age: Duration) -> Option<f32> {
    let waited = match seen.waiting > seen.answers {
        true => seen.waiting as f32 / seen.answers.max(1) as f32 * age.as_secs_f32() * 1e6,
        false => 0.0,
    };
    (seen.answers > 0 || waited > 0.0).then(|| seen.mean.max(waited))
}

fn aim(smooth: f32, middle: f32, errors: f32) -> f32 {
    let slow = match smooth > 0.0 {
        true => (smooth + SLACK) / (middle + SLACK),
        false => 1.0,
    };
    (BAND / slow).min(1.0) * (1.0 - errors).powi(2)
}

/// The lower median by weight; 0 of none.
fn median(measured: &mut [(f32, u32)]) -> f32 {
    measured.sort_by(|a, b| a.0.total_cmp(&b.0));
    let sum: u32 = measured.iter().map(|(_, weight)| weight).sum();
    let mut below = 0;
    let middle = measured.iter().find(|(_, weight)| {
        below += weight;
        2 * below >= sum
    });
    middle.map_or(0.0, |(smooth, _)| *smooth)
}

#[cfg(test)]
#[path = "adaptive_test.rs"]
mod tests;
