//! What is told, and what the peer tells.

use super::*;

#[test]
fn counters_are_told_once_a_second_at_most_and_never_forgotten() {
    let mut config = config(1);
    let health = config.services[0].health.as_mut().unwrap();
    (health.interval, health.timeout) = (MS * 10, MS * 10);
    let mut bench = Bench::of(&config, 7);
    while bench.now < Mono::from_millis(3_500) {
        bench.check(true);
    }
    let good = bench.book.record(checked()).good;
    assert!(good > 300);
    bench.pass(TELL_GAP);
    assert!(bench.news.iter().all(|news| !news.verdict_changed));
    assert_eq!(bench.news.len(), 5, "at 0 s, 1 s, 2 s, 3 s, and the rest");
    assert_eq!(bench.news[4].record.good, good);
}

#[test]
fn the_peers_verdict_holds_until_there_is_evidence_of_our_own() {
    let down = HealthRecord {
        up: false,
        streak: 1,
        good: 70,
        bad: 30,
    };
    let mut bench = Bench::new();
    for backend in [checked(), unchecked()] {
        bench.book.adopt(backend, down, bench.now);
        bench.drain();
    }
    assert_eq!(bench.book.record(checked()), down);
    assert!(!bench.book.is_up(unchecked()));
    let reason = bench.book.reason(checked()).to_owned();
    assert_eq!(reason, "the peer's verdict (1 of 2)");
    assert_eq!(bench.verdicts().len(), 2);

    bench.check(true);
    let risen = bench.book.record(checked());
    assert_eq!((risen.up, risen.good, risen.bad), (true, 71, 30));
    bench.book.adopt(checked(), down, bench.now);
    bench.drain();
    assert_eq!(bench.book.record(checked()), risen, "we know better");

    bench.pass(RETRY_AFTER);
    assert!(bench.book.is_up(unchecked()), "also the adopted are tried");
}

#[test]
fn what_the_peer_says_cannot_break_the_book() {
    let mut bench = Bench::new();
    let wild = HealthRecord {
        up: true,
        streak: u8::MAX,
        good: u64::MAX,
        bad: u64::MAX,
    };
    bench.book.adopt(BackendId(1), wild, bench.now);
    bench.book.adopt(checked(), wild, bench.now);
    bench.drain();
    assert_eq!(bench.news, [], "it is what the peer knows, and still up");
    bench.check(false);
    bench.check(true);
    bench.check(true);
    let record = bench.book.record(checked());
    assert_eq!((record.good, record.bad), (u64::MAX, u64::MAX));
    assert!(record.up);
}
