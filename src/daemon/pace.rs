//! How much of its CPU the turn loop's thread may take for what comes in bulk (snapshots, reports of a
//! whole table): half. A thread of real-time priority that never rests starves the kernel's own
//! threads and the proxy's workers on its CPU: no heartbeat comes through, and the dead-man timer
//! fires.
//!
//! Turns are the one half of it: the session's tasks run on the same thread, and to decode a frame
//! takes as long as to apply it.

use std::time::Duration;

use crate::time::Mono;

/// So much more than half is never held up.
const BURST: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The end of the last turn for something in bulk.
    last: Mono,
    /// How long the session had coded by then.
    coded: Duration,
    /// What was spent beyond half of the time.
    debt: Duration,
}

impl Pace {
    /// A turn for something in bulk is over; the session has coded for so long since the start.
    pub(super) fn spent(&mut self, from: Mono, to: Mono, coded: Duration) {
        // Time that passed while there was no debt is no credit.
        let debt = self.debt.saturating_sub(from.since(self.last) / 2);
        self.debt = debt + to.since(from) / 2 + coded.saturating_sub(self.coded);
        (self.last, self.coded) = (to, coded);
    }

    /// Until when nothing in bulk is to be taken; none: it may be.
    pub(super) fn rests_until(&self, now: Mono) -> Option<Mono> {
        let end = self.last + 2 * self.debt.saturating_sub(BURST);
        (now < end).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn little_is_never_held_up_and_much_takes_half() {
        let mut pace = Pace::default();
        let (mut now, mut coded) = (Mono::ZERO + ms(1_000), ms(0));
        for _ in 0..100 {
            pace.spent(now, now + ms(1), coded);
            now += ms(4);
            assert_eq!(pace.rests_until(now), None);
        }
        // Whether it is the turns that take it or what the session does between them.
        let (began, mut busy) = (now, Duration::ZERO);
        for n in 0..100 {
            let turn = ms(n % 5);
            coded += ms(4) - turn;
            pace.spent(now + (ms(4) - turn), now + ms(4), coded);
            (now, busy) = (now + ms(4), busy + ms(4));
            now = pace.rests_until(now).unwrap_or(now);
        }
        let took = now.since(began);
        assert!(
            took >= 2 * (busy - BURST) && took <= 2 * (busy + BURST),
            "{took:?}"
        );
        // One that takes very long is followed by as long a rest.
        now += ms(1_000);
        let end = now + ms(60);
        pace.spent(now, end, coded);
        assert_eq!(pace.rests_until(end), Some(end + (ms(60) - 2 * BURST)));
    }
}
