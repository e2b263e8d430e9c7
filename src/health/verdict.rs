//! Rise and fall: how evidence becomes a verdict. Knows neither time nor sockets.

use crate::config::{Health, Start};

/// Up or down, and how far the evidence against it has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    up: bool,
    streak: u8,
    rise: u8,
    fall: u8,
    /// A verdict was reached or adopted; until then the first check decides alone.
    reached: bool,
}

impl Verdict {
    /// The verdict before any evidence.
    pub(super) const fn first(health: &Health) -> Self {
        match health.start {
            Start::Check => Self::new(health.rise, health.fall),
            Start::Up => Self::settled(true, health.rise, health.fall),
            Start::Down => Self::settled(false, health.rise, health.fall),
        }
    }

    /// Up for want of evidence. `rise` and `fall` are at least 1.
    pub(super) const fn new(rise: u8, fall: u8) -> Self {
        assert!(rise > 0 && fall > 0, "a verdict needs evidence");
        Self {
            up: true,
            streak: 0,
            rise,
            fall,
            reached: false,
        }
    }

    /// Decided beforehand: even the first check is only one piece of evidence.
    pub(super) const fn settled(up: bool, rise: u8, fall: u8) -> Self {
        let mut verdict = Self::new(rise, fall);
        verdict.up = up;
        verdict.reached = true;
        verdict
    }

    /// A good piece of evidence that may not bring it up yet, as another one may later.
    pub(super) const fn weigh_good_in_vain(&mut self) {
        if self.streak + 1 < self.rise {
            self.streak += 1;
        }
    }

    pub(super) const fn up(self) -> bool {
        self.up
    }

    /// Pieces of evidence in a row that speak against the verdict; fewer than it takes.
    pub(super) const fn streak(self) -> u8 {
        self.streak
    }

    /// How many in a row it takes to change the verdict.
    pub(super) const fn needed(self) -> u8 {
        if self.up { self.fall } else { self.rise }
    }

    /// A check was answered.
    pub(super) const fn check(&mut self, good: bool) {
        if self.reached {
            self.weigh(good);
        } else {
            self.reached = true;
            self.up = good;
            self.streak = 0;
        }
    }

    /// One piece of evidence.
    pub(super) const fn weigh(&mut self, good: bool) {
        if good == self.up {
            self.streak = 0;
            return;
        }
        self.streak += 1;
        if self.streak >= self.needed() {
            self.up = good;
            self.streak = 0;
            self.reached = true;
        }
    }

    /// Up again on trial: the next bad piece of evidence takes it down.
    pub(super) const fn try_again(&mut self) {
        self.up = true;
        self.streak = self.fall - 1;
    }

    /// Somebody else's verdict, cut to what the own rules allow.
    pub(super) const fn adopt(&mut self, up: bool, streak: u8) {
        self.up = up;
        self.reached = true;
        let most = self.needed() - 1;
        self.streak = if streak < most { streak } else { most };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` a good check, `-` a bad one; after each, the verdict (`U`, `D`) and the streak.
    fn run(rise: u8, fall: u8, evidence: &str) -> String {
        let mut verdict = Verdict::new(rise, fall);
        let one = |sign| {
            verdict.check(sign == '+');
            let up = if verdict.up() { 'U' } else { 'D' };
            format!("{up}{}", verdict.streak())
        };
        evidence.chars().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rise_and_fall() {
        for (rise, fall, evidence, expected) in [
            (2, 3, "+", "U0"),
            (2, 3, "-", "D0"),
            (2, 3, "+---", "U0 U1 U2 D0"),
            (2, 3, "+--+---", "U0 U1 U2 U0 U1 U2 D0"),
            (2, 3, "-++", "D0 D1 U0"),
            (2, 3, "-+-++", "D0 D1 D0 D1 U0"),
            (1, 1, "+-+-", "U0 D0 U0 D0"),
            (1, 2, "---+--", "D0 D0 D0 U0 U1 D0"),
            (3, 1, "+-+++", "U0 D0 D1 D2 U0"),
        ] {
            let got = run(rise, fall, evidence);
            assert_eq!(got, expected, "rise {rise}, fall {fall}, {evidence}");
        }
    }

    #[test]
    fn the_longest_streaks_fit() {
        let mut verdict = Verdict::new(100, 100);
        verdict.check(true);
        for _ in 0..99 {
            verdict.check(false);
        }
        assert!(verdict.up());
        verdict.check(false);
        assert!(!verdict.up());
    }

    #[test]
    fn on_trial_one_failure_is_enough() {
        let mut verdict = Verdict::new(1, 3);
        for _ in 0..3 {
            verdict.weigh(false);
        }
        assert!(!verdict.up());
        verdict.try_again();
        assert_eq!((verdict.up(), verdict.streak()), (true, 2));
        verdict.weigh(false);
        assert!(!verdict.up());
    }

    #[test]
    fn an_adopted_streak_is_cut_to_the_own_rules() {
        for (up, claimed, kept) in [(true, 255, 2), (true, 1, 1), (false, 9, 1), (false, 0, 0)] {
            let mut verdict = Verdict::new(2, 3);
            verdict.adopt(up, claimed);
            assert_eq!((verdict.up(), verdict.streak()), (up, kept));
        }
    }
}
