use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::fixture::route;
use super::rotation::{Stride, smooth};
use super::*;
use crate::balance::Load;

const WEIGHTED: [Scheduler; 4] = [
    Scheduler::RoundRobin,
    Scheduler::WeightedRoundRobin,
    Scheduler::LeastConnections,
    Scheduler::Random,
];

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

fn picks() -> Picks {
    Picks::new([192, 0, 2, 7].into())
}

fn pick(route: &Route, rng: &mut fastrand::Rng) -> Option<usize> {
    picks().next(route, Duration::ZERO, rng)
}

/// First choices of so many connections that end at once.
fn firsts(route: &Route, connections: usize) -> Vec<usize> {
    let mut rng = rng();
    let pick = |_| pick(route, &mut rng).unwrap();
    (0..connections).map(pick).collect()
}

fn counts(route: &Route, places: &[usize]) -> Vec<usize> {
    let mut counts = vec![0; route.pool().len()];
    for place in places {
        counts[*place] += 1;
    }
    counts
}

#[test]
fn round_robin_goes_round_and_ignores_weights() {
    let route = route(Scheduler::RoundRobin, &[5, 1, 1]);
    assert_eq!(firsts(&route, 7), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn weighted_round_robin_is_smooth() {
    let route = route(Scheduler::WeightedRoundRobin, &[5, 1, 1]);
    assert_eq!(firsts(&route, 7), [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn equal_weights_need_no_table() {
    let weights = Rotation::weighted(&[256; 1_024]);
    assert!(matches!(weights, Rotation::Even(1_024)));
}

#[test]
fn a_common_divisor_shortens_the_table() {
    let Rotation::Table(table) = Rotation::weighted(&[200, 100]) else {
        panic!("a table");
    };
    assert_eq!(*table, [0, 1, 0]);
}

#[test]
fn the_largest_service_needs_no_large_table() {
    let mut weights = [256; 1_024];
    weights[0] = 255;
    let rotation = Rotation::weighted(&weights);
    let Rotation::Stride(stride) = &rotation else {
        panic!("a stride");
    };
    assert_eq!(stride.ends.len(), 1_024);
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let mut counts = [0; 1_024];
    let mut last = usize::MAX;
    // From an odd number on: any window will do.
    for ticket in 12_345..12_345 + sum {
        let place = rotation.at(ticket);
        assert_ne!(place, last, "twice in a row");
        last = place;
        counts[place] += 1;
    }
    assert_eq!(counts, weights);
}

#[test]
fn no_table_is_longer_than_its_limit_says() {
    for backends in [2, 40, 63, 64, 65, 1_024] {
        // The worst: all but one at the top, without a common divisor.
        let mut weights = vec![256; backends];
        weights[0] = 255;
        match Rotation::weighted(&weights) {
            Rotation::Table(table) => assert!(table.len() <= 16_384),
            Rotation::Stride(_) => assert!(backends >= 64),
            Rotation::Even(_) => panic!("these weights differ"),
        }
    }
}

#[test]
fn least_connections_fills_by_weight() {
    let route = route(Scheduler::LeastConnections, &[3, 2, 1]);
    let mut rng = rng();
    let mut loads = Vec::new();
    for _ in 0..60 {
        let place = pick(&route, &mut rng).unwrap();
        loads.push(Load::on(&route.pool()[place]).unwrap());
    }
    let live: Vec<u32> = route.pool().iter().map(|target| target.live()).collect();
    assert_eq!(live, [30, 20, 10]);
}

#[test]
fn least_connections_goes_where_room_is_and_takes_turns_among_equals() {
    let route = route(Scheduler::LeastConnections, &[1, 1, 1]);
    assert_eq!(firsts(&route, 6), [0, 1, 2, 0, 1, 2]);
    let busy = [
        Load::on(&route.pool()[0]).unwrap(),
        Load::on(&route.pool()[2]).unwrap(),
    ];
    assert_eq!(firsts(&route, 3), [1, 1, 1]);
    drop(busy);
}

#[test]
fn random_draws_by_weight() {
    let route = route(Scheduler::Random, &[3, 2, 1]);
    let drawn = firsts(&route, 60_000);
    let counts = counts(&route, &drawn);
    // Binomial: sigma is 122, 115, 91. Five sigma, and the seed is fixed.
    for (count, expected) in counts.iter().zip([30_000_i64, 20_000, 10_000]) {
        assert!((*count as i64 - expected).abs() < 600, "{counts:?}");
    }
    assert!(drawn == firsts(&route, 60_000), "the seed decides");
}

#[test]
fn weighted_retries_go_to_the_highest_weight_first() {
    let route = route(Scheduler::WeightedRoundRobin, &[1, 4, 2, 3]);
    let mut rng = rng();
    for _ in 0..10 {
        let mut picks = picks();
        let order: Vec<_> =
            std::iter::from_fn(|| picks.next(&route, Duration::ZERO, &mut rng)).collect();
        let mut rest: Vec<_> = [1, 3, 2, 0].into();
        rest.retain(|place| *place != order[0]);
        assert_eq!(order[1..], rest);
    }
}

#[test]
fn weighted_retries_share_equals() {
    // The first is dead; its connections must not all land on the second.
    let route = route(Scheduler::WeightedRoundRobin, &[2, 1, 1]);
    let mut rng = rng();
    let mut second = [0; 3];
    for _ in 0..4_000 {
        let mut picks = picks();
        if picks.next(&route, Duration::ZERO, &mut rng) == Some(0) {
            second[picks.next(&route, Duration::ZERO, &mut rng).unwrap()] += 1;
        }
    }
    assert_eq!(second.iter().sum::<i32>(), 2_000);
    assert!((second[1] - second[2]).abs() < 250, "{second:?}");
}

#[test]
fn retries_do_not_shift_the_rotation_of_others() {
    for scheduler in [Scheduler::RoundRobin, Scheduler::WeightedRoundRobin] {
        let quiet = route(scheduler, &[3, 2, 1]);
        let troubled = route(scheduler, &[3, 2, 1]);
        let mut rng = rng();
        for _ in 0..30 {
            let calm = pick(&quiet, &mut rng);
            let mut picks = picks();
            assert_eq!(picks.next(&troubled, Duration::ZERO, &mut rng), calm);
            picks.next(&troubled, Duration::ZERO, &mut rng);
        }
    }
}

#[test]
fn nothing_is_picked_from_an_empty_pool() {
    for scheduler in WEIGHTED {
        let route = route(scheduler, &[]);
        assert_eq!(pick(&route, &mut rng()), None);
    }
}

#[test]
fn workers_share_one_rotation() {
    let route = Arc::new(route(Scheduler::WeightedRoundRobin, &[3, 2, 1]));
    let worker = |_| {
        let route = Arc::clone(&route);
        std::thread::spawn(move || firsts(&route, 1_500))
    };
    let workers: Vec<_> = (0..4).map(worker).collect();
    let picked: Vec<_> = workers
        .into_iter()
        .flat_map(|w| w.join().unwrap())
        .collect();
    assert_eq!(counts(&route, &picked), [3_000, 2_000, 1_000]);
}

/// The longest run of one backend, round the sequence's end.
fn longest_run(sequence: &[u16], place: u16) -> usize {
    let twice = || sequence.iter().chain(sequence);
    let mut run = 0;
    let runs = twice().map(|p| {
        run = if *p == place { run + 1 } else { 0 };
        run
    });
    runs.max().unwrap_or(0)
}

proptest! {
    #[test]
    fn every_window_of_a_weighted_rotation_is_exact(
        weights in prop::collection::vec(1_u16..=256, 1..12),
        from in any::<u32>(),
    ) {
        let rotation = Rotation::weighted(&weights);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let mut counts = vec![0_u16; weights.len()];
        for ticket in u64::from(from)..u64::from(from) + sum {
            counts[rotation.at(ticket)] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn every_window_of_a_stride_is_exact(
        weights in prop::collection::vec(1_u32..=256, 2..40),
        from in any::<u32>(),
    ) {
        let stride = Stride::new(&weights);
        let sum: u32 = weights.iter().sum();
        let mut counts = vec![0_u32; weights.len()];
        for ticket in u64::from(from)..u64::from(from) + u64::from(sum) {
            counts[stride.at(ticket)] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn a_backend_of_at_most_half_the_weight_gets_two_in_a_row_at_most(
        weights in prop::collection::vec(1_u32..=32, 2..10),
    ) {
        let sum: u32 = weights.iter().sum();
        let sequence = smooth(&weights, sum as usize);
        for (place, weight) in weights.iter().enumerate() {
            if 2 * weight <= sum {
                prop_assert!(longest_run(&sequence, place as u16) <= 2, "{:?}", sequence);
            }
        }
    }

    #[test]
    fn every_backend_is_tried_exactly_once(
        weights in prop::collection::vec(1_u16..=256, 1..20),
        which in 0_usize..4,
        before in 0_usize..50,
        seed in any::<u64>(),
    ) {
        let route = route(WEIGHTED[which], &weights);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..before {
            pick(&route, &mut rng);
        }
        let mut picks = picks();
        let order: Vec<_> = std::iter::from_fn(|| picks.next(&route, Duration::ZERO, &mut rng)).collect();
        let distinct: BTreeSet<_> = order.iter().collect();
        prop_assert_eq!(order.len(), weights.len());
        prop_assert_eq!(distinct.len(), weights.len());
    }
}
