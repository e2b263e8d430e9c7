//! What clients' connects do to a verdict.

use super::*;

/// Every check is answered well for this time.
fn calm(bench: &mut Bench, time: Duration) {
    let end = bench.now + time;
    while bench.now < end {
        for request in std::mem::take(&mut bench.open) {
            bench.answer(request, outcome(true));
        }
        bench.pass(TIMEOUT / 2);
    }
}

#[test]
fn a_burst_of_failed_clients_takes_a_backend_down_and_hastens_the_check() {
    let mut bench = Bench::of(&config(2), 7);
    bench.check(true);
    bench.check(true);
    bench.pass(INTERVAL / 2);
    for _ in 0..100 {
        bench.fail(checked(), ConnectFailure::Refused);
    }
    let reason = "3 client connects refused".to_owned();
    assert_eq!(bench.verdicts(), [(false, reason)]);
    assert_eq!(bench.open.len(), 1, "the check is due at once");
    bench.connect(checked());
    assert_eq!(
        bench.state(checked()),
        (false, 0),
        "only checks bring it up"
    );
    calm(&mut bench, INTERVAL * 3);
    assert_eq!(bench.verdicts(), [(true, "check ok in 0.2 ms".into())]);
}

#[test]
fn a_check_is_not_hastened_more_often_than_a_tenth_of_the_interval() {
    let mut bench = Bench::new();
    bench.check(true);
    let mut asked = vec![bench.now];
    for _ in 0..1_000 {
        bench.pass(MS);
        bench.fail(checked(), ConnectFailure::Timeout);
        bench.connect(checked());
        if !bench.open.is_empty() {
            bench.check(true);
            asked.push(bench.now);
        }
    }
    let gaps: Vec<_> = asked.windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(gaps.iter().all(|gap| *gap >= INTERVAL / 10), "{gaps:?}");
    assert_eq!(gaps.len(), 5, "1 s holds five gaps of 200 ms");
}

#[test]
fn a_client_that_connects_ends_a_row_of_failures() {
    let mut bench = Bench::new();
    bench.check(true);
    for backend in [checked(), unchecked()] {
        for _ in 0..10 {
            bench.fail(backend, ConnectFailure::Refused);
            bench.fail(backend, ConnectFailure::Unreachable);
            let reason = "2 client connects found no way to the host (2 of 3)";
            assert_eq!(bench.book.reason(backend), reason);
            bench.connect(backend);
            assert_eq!(bench.state(backend), (true, 0));
        }
    }
    assert_eq!(bench.verdicts(), []);
}

#[test]
fn checks_and_clients_count_towards_the_same_row() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.check(false);
    bench.fail(checked(), ConnectFailure::Timeout);
    assert_eq!(bench.state(checked()), (true, 2));
    bench.check(false);
    assert_eq!(bench.verdicts(), [(false, "connect refused".into())]);
    bench.check(true);
    bench.fail(checked(), ConnectFailure::Timeout);
    assert_eq!(
        bench.state(checked()),
        (false, 0),
        "the row of good is over"
    );
}

#[test]
fn a_failure_that_may_be_our_own_is_no_evidence_but_worth_a_check() {
    let mut bench = Bench::new();
    bench.check(true);
    bench.pass(INTERVAL / 2);
    for backend in [checked(), unchecked()] {
        for _ in 0..100 {
            bench.fail(backend, ConnectFailure::Other);
        }
        assert_eq!(bench.state(backend), (true, 0));
    }
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn without_checks_a_backend_falls_and_is_tried_again() {
    let mut bench = Bench::new();
    let fall = |bench: &mut Bench| {
        for _ in 0..PASSIVE_FALL {
            assert!(bench.book.is_up(unchecked()));
            bench.fail(unchecked(), ConnectFailure::Refused);
        }
        assert!(!bench.book.is_up(unchecked()));
    };
    fall(&mut bench);
    bench.pass(RETRY_AFTER - MS);
    assert_eq!(bench.state(unchecked()), (false, 0));
    bench.pass(MS);
    assert_eq!(bench.state(unchecked()), (true, 2), "on trial");
    bench.fail(unchecked(), ConnectFailure::Refused);
    assert_eq!(bench.state(unchecked()), (false, 0));
    bench.pass(RETRY_AFTER);
    bench.connect(unchecked());
    assert_eq!(bench.state(unchecked()), (true, 0));
    let told: Vec<bool> = bench.verdicts().iter().map(|(up, _)| *up).collect();
    assert_eq!(told, [false, true, false, true]);

    fall(&mut bench);
    bench.connect(unchecked());
    assert_eq!(bench.state(unchecked()), (true, 0), "a client got through");
    bench.pass(RETRY_AFTER * 2);
    assert_eq!(bench.state(unchecked()), (true, 0), "no trial is left over");
}

/// Where the connects to all of them fail, it is most likely this node's own trouble.
#[test]
fn clients_do_not_take_down_the_last_one_and_its_check_does() {
    let mut bench = Bench::of(&config(2), 7);
    let both = [checked(), BackendId::of("checked", "b1")];
    for _ in both {
        bench.check(true);
    }
    bench.pass(INTERVAL / 2);
    for _ in 0..10 {
        for backend in both {
            bench.fail(backend, ConnectFailure::Timeout);
        }
    }
    let reason = "3 client connects timed out".to_owned();
    assert_eq!(bench.verdicts(), [(false, reason)]);
    assert_eq!(bench.state(both[1]), (true, 2), "one short of it");
    let hastened: Vec<_> = bench.open.iter().map(|it| it.backend).collect();
    assert_eq!(hastened, both);
    let last = bench.open.remove(1);
    bench.answer(last, outcome(false));
    assert_eq!(bench.state(both[1]), (false, 0));
    // The other one is back, and this one may fall again.
    calm(&mut bench, INTERVAL * 3);
    assert!(both.iter().all(|it| bench.book.is_up(*it)));
    for _ in 0..3 {
        bench.fail(both[1], ConnectFailure::Refused);
    }
    assert_eq!(bench.state(both[1]), (false, 0));
}
