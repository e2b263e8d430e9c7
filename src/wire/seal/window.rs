//! The sliding replay window of one life (RFC 6479's ring of bits).

/// Counters behind the highest one that can still arrive late.
pub const WINDOW: u64 = 1_024;

const WORDS: usize = (WINDOW / 64) as usize;

/// Which counters of one life were opened.
#[derive(Clone, Debug)]
pub(super) struct Window {
    highest: u64,
    /// Everything at or below it counts as opened.
    floor: u64,
    /// Bit `counter % WINDOW` for each counter in `(highest - WINDOW, highest]`.
    bits: [u64; WORDS],
}

impl Window {
    /// Nothing opened yet. Counter 0 is never valid.
    pub(super) const fn new() -> Self {
        Self {
            highest: 0,
            floor: 0,
            bits: [0; WORDS],
        }
    }

    /// The highest counter opened.
    pub(super) const fn highest(&self) -> u64 {
        self.highest
    }

    /// Raises the floor to the highest counter opened.
    pub(super) const fn close_below_highest(&mut self) {
        self.floor = self.highest;
    }

    /// Notes an authentic counter; false if it was opened before, or lies too far back to know.
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if counter <= self.floor {
            return false;
        }
        if counter > self.highest {
            if counter - self.highest >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for skipped in self.highest + 1..counter {
                    self.clear(skipped);
                }
            }
            self.highest = counter;
            self.set(counter);
            return true;
        }
        if self.highest - counter >= WINDOW || self.is_set(counter) {
            return false;
        }
        self.set(counter);
        true
    }

    const fn place(counter: u64) -> (usize, u64) {
        let bit = counter % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn is_set(&self, counter: u64) -> bool {
        let (word, bit) = Self::place(counter);
        self.bits[word] & bit != 0
    }

    fn set(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.bits[word] |= bit;
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.bits[word] &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_counter_of_all_is_accepted_once() {
        let mut window = Window::new();
        assert!(window.accept(u64::MAX - 1));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX - 1));
        assert!(window.accept(u64::MAX - WINDOW + 1));
        assert!(!window.accept(u64::MAX - WINDOW));
    }

    proptest! {
        #[test]
        fn it_answers_as_a_set_of_all_counters_would(
            jumps in prop::collection::vec((0_u64..3_000, any::<bool>()), 1..400)
        ) {
            let mut window = Window::new();
            let mut seen = BTreeSet::new();
            let mut top = 0_u64;
            for (jump, back) in jumps {
                let counter = if back { top.saturating_sub(jump) } else { top + jump % 40 };
                let expected = counter != 0 && !seen.contains(&counter) && counter + WINDOW > top;
                prop_assert_eq!(window.accept(counter), expected, "counter {}", counter);
                if expected {
                    seen.insert(counter);
                }
                top = top.max(if expected { counter } else { 0 });
            }
        }
    }
}
