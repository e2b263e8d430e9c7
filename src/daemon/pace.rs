//! How much of its CPU the turn loop may take for what comes in bulk (snapshots, reports of a whole
//! table): half. A thread of real-time priority that never rests starves the kernel's own threads
//! and the proxy's workers on its CPU: no heartbeat comes through, and the dead-man timer fires.

use std::time::Duration;

use crate::time::Mono;

/// What is less than half of this is never held up.
const WINDOW: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    began: Mono,
    spent: Duration,
}

impl Pace {
    /// A turn for something in bulk.
    pub(super) fn spent(&mut self, from: Mono, to: Mono) {
        if from >= self.end() {
            (self.began, self.spent) = (from, Duration::ZERO);
        }
        self.spent += to.since(from);
    }

    fn end(&self) -> Mono {
        self.began + WINDOW.max(2 * self.spent)
    }

    /// Until when nothing in bulk is to be taken; none: it may be.
    pub(super) fn rests_until(&self, now: Mono) -> Option<Mono> {
        (2 * self.spent > WINDOW && now < self.end()).then(|| self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_never_held_up_and_much_takes_half() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let mut now = Mono::ZERO + ms(1_000);
        for _ in 0..100 {
            pace.spent(now, now + ms(1));
            now += ms(4);
            assert_eq!(pace.rests_until(now), None);
        }
        let (began, mut busy) = (now, Duration::ZERO);
        for _ in 0..100 {
            pace.spent(now, now + ms(4));
            busy += ms(4);
            now += ms(4);
            now = pace.rests_until(now).unwrap_or(now);
        }
        let took = now.since(began);
        assert!(
            took >= 2 * busy - WINDOW && took <= 2 * busy + WINDOW,
            "{took:?}"
        );
        // One that takes very long is followed by as long a rest.
        let now = now + ms(1_000);
        pace.spent(now, now + ms(60));
        assert_eq!(pace.rests_until(now + ms(60)), Some(now + ms(120)));
    }
}
