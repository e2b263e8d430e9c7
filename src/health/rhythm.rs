//! When the checks of one backend are due.

use std::time::Duration;

use super::verdict::Verdict;
use crate::config::Health;
use crate::time::Mono;

/// A check that evidence hastens still keeps this share of the interval from the one before.
const HASTE: u32 = 10;
/// The jitter's unit.
const WHOLE: u32 = 100_000;

/// The three intervals, and where in them the last check stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    usual: Duration,
    changing: Duration,
    down: Duration,
    asked: Option<Mono>,
    /// Jitter of the present interval, in parts of `WHOLE`.
    factor: u32,
    hastened: Option<Mono>,
}

impl Rhythm {
    pub(super) const fn new(health: &Health) -> Self {
        Self {
            usual: health.interval,
            changing: health.fast_interval,
            down: health.down_interval,
            asked: None,
            factor: WHOLE,
            hastened: None,
        }
    }

    /// A check is made now.
    pub(super) fn asked(&mut self, random: &mut fastrand::Rng, now: Mono) {
        self.asked = Some(now);
        self.factor = random.u32(WHOLE - WHOLE / 10..=WHOLE + WHOLE / 10);
        self.hastened = None;
    }

    /// When the next one is due; none before the first. `held`: nothing can change for now.
    pub(super) fn due(&self, verdict: Verdict, held: bool) -> Option<Mono> {
        let interval = match (verdict.streak(), verdict.up()) {
            (_, false) if held => self.down,
            (1.., _) => self.changing,
            (0, true) => self.usual,
            (0, false) => self.down,
        };
        let regular = self.asked? + interval * self.factor / WHOLE;
        Some(self.hastened.map_or(regular, |soon| soon.min(regular)))
    }

    /// The next check is due now, but not within a tenth of the interval of the one before.
    pub(super) fn hasten(&mut self, now: Mono) {
        let gap = self.usual.min(self.changing) / HASTE;
        let soonest = self.asked.map_or(now, |asked| now.max(asked + gap));
        self.hastened = Some(self.hastened.map_or(soonest, |soon| soon.min(soonest)));
    }
}

/// The interval, give or take 10 %.
pub(super) fn jittered(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    interval * random.u32(WHOLE - WHOLE / 10..=WHOLE + WHOLE / 10) / WHOLE
}
