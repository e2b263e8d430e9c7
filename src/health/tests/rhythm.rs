//! The three intervals, the first verdict, flap damping, first bytes.

use super::*;
use crate::config::{Flap, Health, Observe, Start};

fn bench(change: impl FnOnce(&mut Health)) -> Bench {
    let mut config = config(1);
    config.services.truncate(1);
    change(config.services[0].health.as_mut().unwrap());
    Bench::of(&config, 7)
}

/// `+` a good check, `-` a bad one; before each, the seconds since the one before, rounded.
fn gaps(bench: &mut Bench, evidence: &str) -> Vec<u64> {
    let mut gaps = vec![];
    for sign in evidence.chars() {
        let last = bench.now;
        bench.check(sign == '+');
        gaps.push((bench.now.since(last).as_millis() as u64 + 500) / 1_000);
    }
    gaps
}

#[test]
fn a_changing_verdict_is_checked_faster_and_a_settled_down_one_slower() {
    let mut bench = bench(|health| {
        health.interval = Duration::from_secs(10);
        health.fast_interval = Duration::from_secs(1);
        health.down_interval = Duration::from_secs(30);
    });
    let seconds = gaps(&mut bench, "++-+---+-++");
    let near = [0, 10, 10, 1, 10, 1, 1, 30, 1, 30, 1];
    for (got, wanted) in seconds.iter().zip(near) {
        assert!(
            got.abs_diff(wanted) <= wanted / 10,
            "{seconds:?} is not {near:?}"
        );
    }
    bench.open.clear();
}

#[test]
fn the_first_verdict_may_be_given() {
    for (start, evidence, states) in [
        (Start::Up, "-", [(true, 0), (true, 1)]),
        (Start::Down, "+", [(false, 0), (false, 1)]),
        (Start::Check, "-", [(true, 0), (false, 0)]),
    ] {
        let mut bench = bench(|health| health.start = start);
        assert_eq!(bench.state(checked()), states[0], "{start:?}");
        bench.check(evidence == "+");
        assert_eq!(bench.state(checked()), states[1], "{start:?}");
    }
}

#[test]
fn a_flapping_backend_is_held_down_and_comes_back() {
    let mut bench = bench(|health| {
        (health.rise, health.fall) = (2, 1);
        health.flap = Some(Flap {
            limit: 1,
            window: Duration::from_secs(60),
            hold: Duration::from_secs(30),
            hold_max: Duration::from_secs(45),
        });
    });
    bench.check(true);
    for _ in 0..2 {
        bench.check(false);
        bench.check(true);
        bench.check(true);
        assert!(bench.book.is_up(checked()), "a fall and a flap are free");
    }
    for hold in [30, 45, 45] {
        bench.check(false);
        let fell = bench.now;
        let reason = bench.book.reason(checked()).to_owned();
        assert!(
            reason.contains(&format!("(held down for {hold} s after ")),
            "{reason}"
        );
        while !bench.book.is_up(checked()) {
            bench.check(true);
        }
        let down = bench.now.since(fell).as_secs();
        assert!((hold..hold + 3).contains(&down), "{down} of {hold}");
    }
}

#[test]
fn resets_before_the_first_byte_count_where_they_are_looked_at() {
    // The last one is not taken down by clients.
    let mut two = config(2);
    let health = two.services[0].health.as_mut().unwrap();
    health.observe = Observe::FirstByte;
    let mut watched = Bench::of(&two, 7);
    assert!(watched.book.wants_first_bytes());
    watched.check(true);
    watched.check(true);
    for _ in 0..3 {
        assert!(watched.book.is_up(checked()));
        watched.connect(checked());
        watched.book.reset_early(checked(), watched.now);
        watched.drain();
    }
    let reason = "3 clients reset before a first byte".to_owned();
    assert_eq!(watched.verdicts(), [(false, reason)]);

    let mut spoken = bench(|health| health.observe = Observe::FirstByte);
    spoken.check(true);
    for _ in 0..9 {
        spoken.book.reset_early(checked(), spoken.now);
        spoken.book.spoke(checked(), spoken.now);
        spoken.drain();
    }
    assert_eq!(spoken.state(checked()), (true, 0));

    let mut usual = bench(|_| {});
    assert!(!usual.book.wants_first_bytes());
    let mut deaf = bench(|health| health.observe = Observe::Nothing);
    for bench in [&mut usual, &mut deaf] {
        bench.check(true);
        for _ in 0..9 {
            bench.book.reset_early(checked(), bench.now);
        }
        assert_eq!(bench.state(checked()), (true, 0));
    }
    for _ in 0..9 {
        deaf.fail(checked(), ConnectFailure::Refused);
    }
    assert_eq!(deaf.state(checked()), (true, 0));
}
