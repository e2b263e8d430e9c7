//! The book against a naive oracle.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The rules, told anew: looks at all evidence since the last change, every time.
struct Oracle {
    up: bool,
    decided: bool,
    since_change: Vec<bool>,
    rise: usize,
    fall: usize,
}

impl Oracle {
    /// Against the verdict, in a row.
    fn against(&self) -> usize {
        let row = self.since_change.iter().rev();
        row.take_while(|piece| **piece != self.up).count()
    }

    /// It is the only one, so that clients do not take it down.
    fn client_failed(&mut self) {
        if !self.up || self.against() + 1 < self.fall {
            self.weigh(false, false);
        }
    }

    fn weigh(&mut self, good: bool, is_check: bool) {
        self.since_change.push(good);
        let against = self.against();
        let needed = match (is_check && !self.decided, self.up) {
            (true, _) => 1,
            (false, true) => self.fall,
            (false, false) => self.rise,
        };
        self.decided |= is_check;
        if against >= needed {
            self.up = good;
            self.decided = true;
            self.since_change.clear();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// Answers the latest check, or the n-th before it.
    Answer(usize, bool),
    Client(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let which = prop_oneof![4 => Just(0), 1 => 1_usize..4];
    prop_oneof![
        4 => (0_u64..3_000).prop_map(Step::Pass),
        6 => (which, any::<bool>()).prop_map(|(nth, good)| Step::Answer(nth, good)),
        3 => any::<bool>().prop_map(Step::Client),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_book_agrees_with_a_naive_oracle(
        seed: u64,
        rise in 1_u8..5,
        fall in 1_u8..5,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut config = config(1);
        config.services.truncate(1);
        let health = config.services[0].health.as_mut().unwrap();
        (health.rise, health.fall) = (rise, fall);
        let mut bench = Bench::of(&config, seed);
        let mut oracle = Oracle {
            up: true,
            decided: false,
            since_change: vec![],
            rise: rise.into(),
            fall: fall.into(),
        };
        let mut answered = BTreeSet::new();
        let mut told = true;
        for step in steps {
            match step {
                Step::Pass(ms) => bench.pass(Duration::from_millis(ms)),
                Step::Answer(nth, good) => {
                    if let Some((asked, request)) = bench.asked.iter().rev().nth(nth).cloned() {
                        bench.answer(request.clone(), outcome(good));
                        let in_time = bench.now < asked + (TIMEOUT + ANSWER_SLACK);
                        if nth == 0 && in_time && answered.insert(request.token) {
                            oracle.weigh(good, true);
                        }
                    }
                }
                Step::Client(true) => {
                    bench.connect(checked());
                    if oracle.up {
                        oracle.weigh(true, false);
                    }
                }
                Step::Client(false) => {
                    bench.fail(checked(), ConnectFailure::Refused);
                    oracle.client_failed();
                }
            }
            let record = bench.book.record(checked());
            prop_assert_eq!(record.up, oracle.up);
            prop_assert_eq!(record.good + record.bad, answered.len() as u64);
            for news in bench.news.drain(..) {
                prop_assert_eq!(news.verdict_changed, news.record.up != told);
                told = news.record.up;
            }
            prop_assert_eq!(told, oracle.up, "a verdict is told at once");
            let rhythm = bench.asked.windows(2).map(|two| two[1].0.since(two[0].0));
            prop_assert!(rhythm.min().is_none_or(|gap| gap >= INTERVAL / 10));
        }
    }
}
