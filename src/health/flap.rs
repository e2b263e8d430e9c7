//! Flap damping: a backend that changes too often stays down for a growing, bounded time.
//!
//! A fall after less than `window` of being up is a *flap*. The first `limit` flaps in a row are
//! free. With each further one the backend is held down for `hold`, `2 hold`, `4 hold` and so on, at
//! most `hold_max`: good checks are made and counted, but the one that would bring it up does so only
//! when the time is over. A fall after `window` or more of being up ends the row.

use std::time::Duration;

use crate::config::Flap;
use crate::time::Mono;

#[derive(Clone, Copy, Debug)]
pub(super) struct Damper {
    rule: Flap,
    /// Flaps in a row.
    row: u32,
    up_since: Option<Mono>,
    held_until: Option<Mono>,
}

impl Damper {
    pub(super) const fn new(rule: Flap) -> Self {
        Self {
            rule,
            row: 0,
            up_since: None,
            held_until: None,
        }
    }

    pub(super) const fn rose(&mut self, now: Mono) {
        self.up_since = Some(now);
        self.held_until = None;
    }

    pub(super) fn fell(&mut self, now: Mono) {
        let flap = self
            .up_since
            .take()
            .is_some_and(|since| now.since(since) < self.rule.window);
        self.row = if flap { self.row.saturating_add(1) } else { 0 };
        let Some(beyond) = self.row.checked_sub(u32::from(self.rule.limit) + 1) else {
            return;
        };
        // The longest hold is less than 2^17 times the shortest.
        let hold = self.rule.hold * (1 << beyond.min(17));
        self.held_until = Some(now + hold.min(self.rule.hold_max));
    }

    /// How long it must stay down yet.
    pub(super) fn held(&self, now: Mono) -> Option<Duration> {
        let until = self.held_until?;
        (until > now).then(|| until.since(now))
    }

    pub(super) const fn row(&self) -> u32 {
        self.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_grow_are_bounded_and_end_with_a_long_time_up() {
        let s = Duration::from_secs;
        let mut damper = Damper::new(Flap {
            limit: 2,
            window: s(60),
            hold: s(10),
            hold_max: s(35),
        });
        let mut now = Mono::ZERO;
        let mut holds = vec![];
        // The first fall is none of a row: nobody knows how long it had been up.
        for up in [0, 1, 59, 1, 1, 1, 1, 60, 1, 1, 1] {
            if up > 0 {
                damper.rose(now);
                assert_eq!(damper.held(now), None);
            }
            now += s(up);
            damper.fell(now);
            holds.push(damper.held(now).map_or(0, |held| held.as_secs()));
            now += s(100);
            assert_eq!(damper.held(now), None);
        }
        assert_eq!(holds, [0, 0, 0, 10, 20, 35, 35, 0, 0, 0, 10]);
    }
}
