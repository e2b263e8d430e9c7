//! Checks: verdicts, tokens, losses, rhythm.

use super::*;

#[test]
fn before_any_evidence_everything_is_up_and_nothing_is_news() {
    let mut bench = Bench::new();
    assert_eq!(bench.state(checked()), (true, 0));
    assert_eq!(bench.state(unchecked()), (true, 0));
    assert_eq!(bench.book.reason(checked()), "not checked yet");
    assert!(!bench.book.is_up(BackendId(1)), "an unknown one is down");
    bench.check(true);
    assert_eq!(bench.verdicts(), [], "it was up already");
}

#[test]
fn one_check_gives_the_first_verdict_and_the_next_ones_need_a_row() {
    let mut bench = Bench::new();
    bench.check(false);
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    bench.check(true);
    assert_eq!(bench.state(checked()), (false, 1));
    assert_eq!(bench.book.reason(checked()), "check ok in 0.2 ms (1 of 2)");
    bench.check(true);
    assert_eq!(bench.verdicts(), [(true, "check ok in 0.2 ms".into())]);
    for _ in 0..3 {
        assert!(bench.book.is_up(checked()));
        bench.check(false);
    }
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (2, 4));
}

#[test]
fn reasons_say_how_a_check_failed() {
    for (failure, reason) in [
        (ConnectFailure::Refused, "connect refused"),
        (ConnectFailure::Timeout, "no answer in 500 ms"),
        (ConnectFailure::Unreachable, "host unreachable"),
        (ConnectFailure::Other, "connect failed"),
    ] {
        let mut bench = Bench::new();
        let request = bench.ask();
        assert_eq!(request.timeout, TIMEOUT);
        assert_eq!(request.address, "198.51.100.7:1000".parse().unwrap());
        bench.answer(request, ProbeOutcome::Bad { failure });
        assert_eq!(bench.book.reason(checked()), reason);
    }
}

#[test]
fn an_answer_counts_once_and_only_with_the_token_of_the_check_in_flight() {
    let mut bench = Bench::new();
    let first = bench.ask();
    let forged = ProbeRequest {
        token: first.token + 1,
        ..first.clone()
    };
    bench.answer(forged, outcome(false));
    assert_eq!(bench.book.record(checked()).bad, 0);
    bench.answer(first.clone(), outcome(true));
    bench.answer(first.clone(), outcome(true));
    assert_eq!(bench.book.record(checked()).good, 1);
    let second = bench.ask();
    bench.answer(first, outcome(false));
    bench.answer(second, outcome(true));
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (2, 0));
}

#[test]
fn a_lost_check_is_no_evidence_and_stalls_nothing() {
    let mut bench = Bench::new();
    let lost = bench.ask();
    let asked = bench.now;
    bench.pass(TIMEOUT + ANSWER_SLACK);
    assert_eq!(bench.open, [], "one in flight at a time");
    let next = bench.ask();
    assert!(bench.now.since(asked) <= INTERVAL * 11 / 10);
    bench.answer(lost, outcome(false));
    assert_eq!(bench.book.record(checked()).bad, 0);
    bench.answer(next, outcome(true));
    assert_eq!(bench.book.record(checked()).good, 1);
}

#[test]
fn checks_keep_their_interval_give_or_take_a_tenth() {
    let mut bench = Bench::new();
    let mut last = None;
    let mut gaps = vec![];
    for _ in 0..200 {
        bench.check(true);
        gaps.extend(last.replace(bench.now).map(|last| bench.now.since(last)));
    }
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least >= INTERVAL * 9 / 10 && *most <= INTERVAL * 11 / 10);
    assert!(*most - *least > INTERVAL / 10, "they are spread");
}

#[test]
fn first_checks_come_within_a_moment_and_not_all_at_once() {
    let mut bench = Bench::of(&config(1_000), 7);
    bench.pass(FIRST_SPREAD / 2);
    let half = bench.open.len();
    assert!((400..600).contains(&half), "{half} in the first half");
    bench.pass(FIRST_SPREAD / 2);
    assert_eq!(bench.open.len(), 1_000);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let times = |seed| {
        let mut bench = Bench::of(&config(3), seed);
        let mut times = vec![];
        for _ in 0..20 {
            bench.check(true);
            times.push(bench.now);
        }
        times
    };
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
}

#[test]
fn after_a_long_sleep_one_check_is_due_and_not_a_backlog() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.now += INTERVAL * 50;
    bench.book.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.open.len(), 1);
}
