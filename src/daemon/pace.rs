//! How much of a CPU the turn loop's thread may take while something comes in bulk (snapshots, reports
//! of a whole table): half. A thread of real-time priority that never rests starves the kernel's own
//! threads and the proxy's workers on its CPU: no heartbeat comes through, and the dead-man timer
//! fires.
//!
//! What counts is all that the thread does, not the turns only: the session's tasks run there too, and
//! to decode a frame takes as long as to apply it.

use std::time::Duration;

use crate::time::Mono;

/// So much more than half is never held up.
const BURST: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// When the thread was looked at last, and the CPU time that it had used by then.
    looked: (Mono, Duration),
    /// CPU time beyond half of what has passed.
    debt: Duration,
}

impl Pace {
    /// What the thread has used until now, for its start, does not count.
    pub(super) const fn begin(now: Mono, cpu: Duration) -> Self {
        Self {
            looked: (now, cpu),
            debt: Duration::ZERO,
        }
    }

    /// A turn for something in bulk is over; the thread has used so much CPU time since its start.
    pub(super) fn spent(&mut self, now: Mono, cpu: Duration) {
        let (then, used) = self.looked;
        self.looked = (now, cpu);
        let debt = self.debt + cpu.saturating_sub(used);
        self.debt = debt.saturating_sub(now.since(then) / 2);
    }

    /// Until when nothing in bulk is to be taken; none: it may be.
    pub(super) fn rests_until(&self, now: Mono) -> Option<Mono> {
        let end = self.looked.0 + 2 * self.debt.saturating_sub(BURST);
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
        let (mut now, mut cpu) = (Mono::ZERO + ms(1_000), ms(800));
        let mut pace = Pace::begin(now, cpu);
        for _ in 0..100 {
            pace.spent(now, cpu);
            assert_eq!(pace.rests_until(now), None);
            (now, cpu) = (now + ms(4), cpu + ms(1));
        }
        // Whether it was the turns that took it or what came between them.
        pace.spent(now, cpu);
        let (began, used) = (now, cpu);
        for _ in 0..100 {
            (now, cpu) = (now + ms(4), cpu + ms(4));
            pace.spent(now, cpu);
            now = pace.rests_until(now).unwrap_or(now);
        }
        let (took, busy) = (now.since(began), cpu - used);
        assert!(
            took >= 2 * (busy - BURST) && took <= 2 * (busy + BURST),
            "{took:?}"
        );
        // One that takes very long is followed by as long a rest.
        now += ms(1_000);
        pace.spent(now, cpu);
        now += ms(60);
        pace.spent(now, cpu + ms(60));
        assert_eq!(pace.rests_until(now), Some(now + (ms(60) - 2 * BURST)));
    }
}
