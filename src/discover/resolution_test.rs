//! A question over time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::time::Mono;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const PLAIN: Timing = Timing {
    min_ttl: s(5),
    max_ttl: s(60),
    hold: None,
    linger: s(0),
};

fn answer(hosts: &[u8], ttl: u64) -> Result<Answer, String> {
    let members = hosts.iter().map(|host| (address(*host), 1)).collect();
    Ok(Answer {
        members,
        ttl: s(ttl),
    })
}

fn address(host: u8) -> SocketAddr {
    ([192, 0, 2, host], 80).into()
}

fn lost() -> Result<Answer, String> {
    Err("no answer in 2s".into())
}

/// A question whose answers come at once.
struct Run {
    it: Resolution,
    now: Mono,
}

impl Run {
    fn new(timing: Timing) -> Self {
        let now = Mono::ZERO + s(100);
        Self {
            it: Resolution::new(timing, 7, now),
            now,
        }
    }

    /// Waits until it asks; how long that took, and whether the set is another one by what came.
    fn next(&mut self, answer: Result<Answer, String>) -> (Duration, bool) {
        let began = self.now;
        let mut changed = false;
        loop {
            self.now = self.it.poll_timeout().unwrap().max(self.now);
            changed |= self.it.handle_timeout(self.now);
            if self.it.ask(self.now) {
                break;
            }
        }
        assert!(!self.it.ask(self.now), "one at a time");
        (
            self.now.since(began),
            self.it.handle(answer, self.now) | changed,
        )
    }

    fn hosts(&self) -> Vec<u8> {
        let all = self.it.members();
        all.map(|(address, _)| match address {
            SocketAddr::V4(v4) => v4.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        })
        .collect()
    }

    fn error(&self) -> String {
        self.it.standing().error.unwrap_or_default()
    }
}

fn about(waited: Duration, ttl: Duration) -> bool {
    ttl <= waited && waited <= ttl.mul_f64(1.1)
}

#[test]
fn it_is_asked_again_by_its_ttl_within_bounds() {
    let mut run = Run::new(PLAIN);
    assert_eq!(run.next(answer(&[1], 20)), (s(0), true), "due at once");
    for (ttl, next) in [(0, 20), (1, 5), (5, 5), (30, 5), (86_400, 30), (30, 60)] {
        let (waited, changed) = run.next(answer(&[1], ttl));
        assert!(about(waited, s(next)), "{waited:?} instead of {next} s");
        assert!(!changed);
    }
}

#[test]
fn answers_are_compared_as_sets_with_weights() {
    let mut run = Run::new(PLAIN);
    run.next(answer(&[2, 1], 9));
    assert!(!run.next(answer(&[1, 2, 1], 9)).1);
    assert!(run.next(answer(&[1, 3], 9)).1);
    assert_eq!(run.hosts(), [1, 3]);
    let heavier = Answer {
        members: BTreeMap::from([(address(1), 1), (address(3), 2)]),
        ttl: s(9),
    };
    assert!(run.next(Ok(heavier.clone())).1, "a weight");
    assert!(!run.next(Ok(heavier)).1);
}

#[test]
fn while_nobody_answers_the_last_answer_stays_for_ever() {
    let mut run = Run::new(PLAIN);
    run.next(answer(&[1], 20));
    let waits: Vec<_> = (0..9).map(|_| run.next(lost())).collect();
    assert!(waits.iter().all(|(_, changed)| !changed));
    for ((waited, _), most) in waits[1..].iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        let least = s(most).mul_f64(0.75);
        assert!(least <= *waited && *waited <= s(most), "{waited:?} {most}");
    }
    assert_eq!(run.hosts(), [1]);
    assert_eq!(run.error(), "no answer in 2s");
    assert!(run.next(answer(&[2], 20)).1);
    assert_eq!((run.hosts(), run.error()), (vec![2], String::new()));
    assert!(about(run.next(lost()).0, s(20)), "the back-off starts anew");
    let (waited, _) = run.next(lost());
    assert!(waited <= s(1), "{waited:?}");
}

#[test]
fn or_for_as_long_as_is_held() {
    let mut run = Run::new(Timing {
        hold: Some(s(100)),
        ..PLAIN
    });
    run.next(answer(&[1], 20));
    let answered = run.now;
    while !run.next(lost()).1 {
        assert!(run.now.since(answered) < s(100));
    }
    assert!(run.now.since(answered) >= s(100));
    assert!(run.hosts().is_empty());
    // It may not go while its answers come, however seldom.
    let mut run = Run::new(Timing {
        hold: Some(s(1)),
        ..PLAIN
    });
    run.next(answer(&[1], 20));
    assert!(!run.next(answer(&[1], 20)).1);
    assert_eq!(run.hosts(), [1]);
    // As soon as one does not, it has been too long.
    assert!(run.next(lost()).1);
}

#[test]
fn a_name_without_addresses_is_believed_when_said_again_and_again() {
    let mut run = Run::new(PLAIN);
    run.next(answer(&[1, 2], 9));
    run.next(answer(&[], 0));
    let first = run.now;
    assert_eq!(
        run.error(),
        "no such record, said 1 times: not believed yet"
    );
    let mut said = 1;
    while !run.next(answer(&[], 0)).1 {
        said += 1;
        assert_eq!(run.hosts(), [1, 2]);
    }
    assert!(run.now.since(first) >= EMPTY_FOR);
    assert!(said + 1 >= EMPTY_ANSWERS && run.hosts().is_empty());
    assert_eq!(run.error(), NONE);
    // A name that has none is not asked without a pause.
    let (waited, changed) = run.next(answer(&[], 0));
    assert!(about(waited, s(5)) && !changed);
    assert!(run.next(answer(&[3], 0)).1);
}

#[test]
fn a_long_ttl_of_nothing_does_not_delay_that() {
    let mut run = Run::new(Timing {
        max_ttl: s(86_400),
        ..PLAIN
    });
    run.next(answer(&[1], 9));
    run.next(answer(&[], 86_400));
    let first = run.now;
    while !run.next(answer(&[], 86_400)).1 {}
    assert!(run.now.since(first) <= s(35), "{:?}", run.now.since(first));
}

#[test]
fn anything_between_begins_the_count_anew() {
    for between in [lost(), answer(&[1], 5)] {
        let mut run = Run::new(PLAIN);
        run.next(answer(&[1], 5));
        for _ in 0..50 {
            assert!(!run.next(answer(&[], 5)).1);
            assert!(!run.next(answer(&[], 5)).1);
            assert!(!run.next(between.clone()).1);
        }
        assert_eq!(run.hosts(), [1]);
    }
}

#[test]
fn an_address_lingers_when_answers_name_others_each_time() {
    let mut run = Run::new(Timing {
        linger: s(30),
        ..PLAIN
    });
    run.next(answer(&[1, 2], 5));
    // Two of three, others each time: after the first round nothing changes any more.
    let turns = [&[2, 3], &[3, 1], &[1, 2]];
    run.next(answer(turns[0], 5));
    for turn in turns.iter().cycle().take(30) {
        let (_, changed) = run.next(answer(*turn, 5));
        assert!(!changed);
        assert_eq!(run.hosts(), [1, 2, 3]);
    }
    let before = run.now;
    while !run.next(answer(&[3], 60)).1 {}
    assert_eq!(run.hosts(), [3]);
    let took = run.now.since(before);
    assert!(s(30) <= took && took < s(130), "{took:?}");
}

#[test]
fn what_lingers_goes_although_nobody_answers() {
    let mut run = Run::new(Timing {
        linger: s(3),
        ..PLAIN
    });
    run.next(answer(&[1, 2], 5));
    run.next(answer(&[1], 5));
    assert_eq!(run.hosts(), [1, 2]);
    let at = run.it.poll_timeout().unwrap();
    assert_eq!(at.since(run.now), s(3));
    assert!(!run.it.ask(at) && run.it.handle_timeout(at));
    assert_eq!(run.hosts(), [1]);
}

#[test]
fn two_nodes_do_not_ask_at_the_same_moment() {
    let due = |seed| {
        let mut it = Resolution::new(PLAIN, seed, Mono::ZERO);
        it.ask(Mono::ZERO);
        it.handle(answer(&[1], 30), Mono::ZERO);
        it.poll_timeout()
    };
    assert_ne!(due(1), due(2));
    assert_eq!(due(1), due(1), "a function of the seed");
}
