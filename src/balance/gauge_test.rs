use proptest::prelude::*;

use super::*;

const DECAY: Duration = Duration::from_secs(10);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn close(gauge: &Gauge, now: u64, micros: f32) {
    let found = gauge.response_time(at(now)).unwrap();
    assert!(
        (found / micros - 1.0).abs() < 1e-3,
        "{found} is not {micros}"
    );
}

#[test]
fn a_slower_sample_counts_at_once_and_fades() {
    let gauge = Gauge::new(DECAY);
    assert_eq!(gauge.response_time(at(0)), None);
    gauge.sample(at(10), at(1_000));
    close(&gauge, 1_000, 10_000.0);
    gauge.sample(at(500), at(1_001));
    close(&gauge, 1_001, 500_000.0);
    // A time constant later it is 1/e; the faster sample then has the share 1 - 1/e.
    close(&gauge, 11_001, 500_000.0 * (-1.0_f32).exp());
    gauge.sample(at(10), at(11_001));
    let eased = 500_000.0 * (-1.0_f32).exp() + 10_000.0 * (1.0 - (-1.0_f32).exp());
    close(&gauge, 11_001, eased);
}

#[test]
fn a_connect_counts_until_there_is_an_answer() {
    let gauge = Gauge::new(DECAY);
    gauge.connected(at(2), at(0));
    close(&gauge, 0, 2_000.0);
    gauge.sample(at(50), at(1));
    gauge.connected(at(900), at(2));
    close(&gauge, 1, 50_000.0);
}

#[test]
fn a_failure_counts_as_the_limit() {
    let gauge = Gauge::new(DECAY);
    gauge.sample(at(1), at(0));
    gauge.failed(at(2_000), at(1));
    close(&gauge, 1, 2_000_000.0);
}

#[test]
fn who_gives_up_can_only_raise_it() {
    let gauge = Gauge::new(DECAY);
    gauge.sample(at(100), at(0));
    gauge.asked();
    gauge.gave_up(at(50), at(0));
    close(&gauge, 0, 100_000.0);
    gauge.asked();
    assert_eq!(gauge.take().waiting, 1);
    gauge.gave_up(at(3_000), at(0));
    close(&gauge, 0, 3_000_000.0);
}

#[test]
fn a_window_holds_what_happened_in_it() {
    let gauge = Gauge::new(DECAY);
    gauge.asked();
    gauge.asked();
    gauge.answered(at(10), at(5));
    gauge.sample(at(30), at(5));
    gauge.failed(at(1), at(5));
    let seen = gauge.take();
    assert_eq!((seen.answers, seen.failures, seen.waiting), (2, 1, 1));
    assert!((seen.mean - 20_000.0).abs() < 1.0);
    assert_eq!(gauge.take().answers, 0);
}

proptest! {
    #[test]
    fn it_never_exceeds_the_slowest_and_survives_the_clock_going_round(
        samples in prop::collection::vec((0_u64..100_000, 0_u64..5_000), 1..50),
        start in u64::from(u32::MAX) - 60_000..u64::from(u32::MAX) + 60_000,
    ) {
        let gauge = Gauge::new(DECAY);
        let mut now = start;
        let mut slowest = 1.0_f32;
        for (micros, pause) in samples {
            now += pause;
            slowest = slowest.max(micros as f32);
            gauge.sample(Duration::from_micros(micros), at(now));
            let found = gauge.response_time(at(now)).unwrap();
            prop_assert!(found <= slowest * 1.001 && found >= micros as f32 * 0.999);
        }
    }
}
