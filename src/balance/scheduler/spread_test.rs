//! Distributions, disruption, limits and the order of retries, of all schedulers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::fixture::{ids, route, route_of, service};
use super::*;
use crate::balance::Load;
use crate::model::BackendId;

const ALL: [Scheduler; 10] = [
    Scheduler::RoundRobin,
    Scheduler::WeightedRoundRobin,
    Scheduler::LeastConnections,
    Scheduler::LeastResponseTime,
    Scheduler::Random,
    Scheduler::PowerOfTwo,
    Scheduler::SourceHash,
    Scheduler::Maglev,
    Scheduler::First,
    Scheduler::Adaptive,
];
const HASHED: [Scheduler; 2] = [Scheduler::SourceHash, Scheduler::Maglev];

fn client(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc612_0000 + n).into()
}

fn picked(route: &Route, n: u32, rng: &mut fastrand::Rng) -> Option<usize> {
    Picks::new(client(n)).next(route, Duration::ZERO, rng)
}

fn counts(route: &Route, picks: u32) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut counts = vec![0; route.pool().len()];
    for n in 0..picks {
        counts[picked(route, n, &mut rng).unwrap()] += 1;
    }
    counts
}

/// The order in which one client's connection tries.
fn order(route: &Route, client: IpAddr) -> Vec<BackendId> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut picks = Picks::new(client);
    std::iter::from_fn(|| picks.next(route, Duration::ZERO, &mut rng))
        .map(|place| route.pool()[place].id)
        .collect()
}

fn chi_square(counts: &[u32], weights: &[u16]) -> f64 {
    let total: f64 = counts.iter().map(|count| f64::from(*count)).sum();
    let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let part = |(count, weight): (&u32, &u16)| {
        let expected = total * f64::from(*weight) / sum;
        (f64::from(*count) - expected).powi(2) / expected
    };
    counts.iter().zip(weights).map(part).sum()
}

#[test]
fn random_ones_pass_the_chi_square_test() {
    // 4 degrees of freedom: 18.47 is exceeded once in a thousand; the seed is fixed.
    let weights = [1, 2, 3, 10, 4];
    for scheduler in [
        Scheduler::Random,
        Scheduler::PowerOfTwo,
        Scheduler::SourceHash,
    ] {
        let route = route(scheduler, &weights);
        let counts = counts(&route, 100_000);
        let chi = chi_square(&counts, &weights);
        assert!(chi < 18.47, "{scheduler}: {chi} {counts:?}");
    }
}

#[test]
fn maglev_and_adaptive_keep_the_weights() {
    let weights = [1_u16, 2, 3, 10, 4];
    for (scheduler, off) in [(Scheduler::Maglev, 0.03), (Scheduler::Adaptive, 0.001)] {
        let route = route(scheduler, &weights);
        for (count, weight) in counts(&route, 100_000).iter().zip(weights) {
            let expected = 5_000.0 * f64::from(weight);
            let error = (f64::from(*count) / expected - 1.0).abs();
            assert!(error < off, "{scheduler}: {count} of {expected}");
        }
    }
}

#[test]
fn two_choices_are_far_better_than_one() {
    // Mitzenmacher: the fullest of n has about ln ln n / ln 2 more than the mean; with one random
    // choice, about the root of 2 m ln n / n.
    let fullest = |scheduler| {
        let route = route(scheduler, &[1; 64]);
        let mut rng = fastrand::Rng::with_seed(5);
        let mut held = Vec::new();
        for n in 0..6_400 {
            let place = picked(&route, n, &mut rng).unwrap();
            held.push(Load::on(&route.pool()[place]).unwrap());
        }
        route.pool().iter().map(|it| it.live()).max().unwrap()
    };
    let (one, two) = (fullest(Scheduler::Random), fullest(Scheduler::PowerOfTwo));
    assert!(two <= 104, "{two}");
    assert!(one >= 115, "{one}");
}

#[test]
fn hashed_ones_depend_on_the_client_and_the_names_only() {
    for scheduler in HASHED {
        let weights = [3, 2, 1, 1, 5];
        let one = route(scheduler, &weights);
        let mut turned = service(scheduler.into(), &weights);
        turned.backends.reverse();
        let other = Route::new(&turned, &ids(5).into_iter().collect());
        for n in 0..500 {
            let whole = order(&one, client(n));
            assert_eq!(whole, order(&other, client(n)), "{scheduler}");
            assert_eq!(whole, order(&one, client(n)), "{scheduler}");
        }
        let v4 = client(9);
        let IpAddr::V4(bare) = v4 else { unreachable!() };
        assert_eq!(order(&one, v4), order(&one, bare.to_ipv6_mapped().into()));
    }
}

#[test]
fn the_key_of_the_hash_moves_clients() {
    for scheduler in HASHED {
        let plain = route(scheduler, &[1; 8]);
        let balance = Balance {
            hash_key: "some words".into(),
            ..scheduler.into()
        };
        let keyed = route_of(balance, &[1; 8]);
        let same =
            (0..1_000).filter(|n| order(&plain, client(*n))[0] == order(&keyed, client(*n))[0]);
        let same = same.count();
        assert!((80..180).contains(&same), "{scheduler}: {same} of 1,000");
    }
}

#[test]
fn one_of_ten_goes_and_only_its_clients_move() {
    for (scheduler, others) in [(Scheduler::SourceHash, 0.0), (Scheduler::Maglev, 0.01)] {
        let all = service(scheduler.into(), &[1; 10]);
        let before = Route::new(&all, &ids(10).into_iter().collect());
        let after = Route::new(&all, &ids(10).into_iter().skip(1).collect());
        let gone = ids(1)[0];
        let (mut own, mut moved, mut next) = (0, 0, BTreeSet::new());
        for n in 0..10_000 {
            let (old, new) = (order(&before, client(n)), order(&after, client(n)));
            if old[0] == gone {
                own += 1;
                next.insert(new[0]);
                if scheduler == Scheduler::SourceHash {
                    assert_eq!(old[1..], new, "a retry goes where the client will be");
                }
            } else if old[0] != new[0] {
                moved += 1;
            }
        }
        assert!((900..1_100).contains(&own), "{scheduler}: {own}");
        assert!(
            f64::from(moved) <= others * 10_000.0,
            "{scheduler}: {moved}"
        );
        assert_eq!(
            next.len(),
            9,
            "{scheduler}: its clients are spread over the others"
        );
    }
}

#[test]
fn bounded_load_is_never_exceeded() {
    for scheduler in HASHED {
        let balance = Balance {
            bounded_load: Some(125),
            ..scheduler.into()
        };
        let weights = [1_u16, 1, 2, 4];
        let route = route_of(balance, &weights);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut held = Vec::new();
        let mut first = 0;
        for n in 0..800_u32 {
            // A third of all connections come from one client.
            let who = if n % 3 == 0 { 0 } else { n };
            let place = picked(&route, who, &mut rng).unwrap();
            first += u32::from(route.pool()[place].id == order(&route, client(who))[0]);
            held.push(Load::on(&route.pool()[place]).unwrap());
            for (target, weight) in route.pool().iter().zip(weights) {
                let most = (1.25 * f64::from(weight) / 8.0 * f64::from(n + 1)).ceil();
                assert!(
                    f64::from(target.live()) <= most,
                    "{scheduler} {n}: {}",
                    target.live()
                );
            }
        }
        assert!(first > 0);
    }
}

#[test]
fn first_fills_in_order() {
    let mut service = service(Scheduler::First.into(), &[1; 3]);
    service.backends[0].max_connections = Some(2);
    service.backends[1].max_connections = Some(1);
    let route = Route::new(&service, &ids(3).into_iter().collect());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut held = Vec::new();
    let mut next = |held: &mut Vec<Load>| {
        let place = picked(&route, 1, &mut rng).unwrap();
        held.push(Load::on(&route.pool()[place]).unwrap());
        place
    };
    let places: Vec<_> = (0..5).map(|_| next(&mut held)).collect();
    assert_eq!(places, [0, 0, 1, 2, 2]);
    held.remove(0);
    assert_eq!(next(&mut held), 0);
}

#[test]
fn nobody_exceeds_the_limit_of_a_backend() {
    for scheduler in ALL {
        let mut service = service(scheduler.into(), &[5, 1, 3, 1]);
        for (backend, most) in service.backends.iter_mut().zip([3, 5, 2, 4]) {
            backend.max_connections = Some(most);
        }
        let route = Route::new(&service, &ids(4).into_iter().collect());
        let mut rng = fastrand::Rng::with_seed(1);
        let mut held = Vec::new();
        for n in 0..14 {
            let place = picked(&route, n, &mut rng).expect("there is room");
            held.push(Load::on(&route.pool()[place]).expect("that one has room"));
        }
        assert_eq!(picked(&route, 99, &mut rng), None, "{scheduler}");
        assert!(Load::on(&route.pool()[0]).is_none());
        assert_eq!(route.pool()[0].live(), 3);
        held.pop();
        assert!(picked(&route, 99, &mut rng).is_some(), "{scheduler}");
    }
}

#[test]
fn every_scheduler_tries_every_backend_once() {
    for scheduler in ALL {
        let route = route(scheduler, &[5, 1, 256, 1, 9, 30]);
        for n in 0..50 {
            let order = order(&route, client(n));
            let distinct: BTreeSet<_> = order.iter().collect();
            assert_eq!((order.len(), distinct.len()), (6, 6), "{scheduler}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_choices() {
    for scheduler in ALL {
        let one = counts(&route(scheduler, &[3, 2, 1]), 500);
        assert_eq!(
            one,
            counts(&route(scheduler, &[3, 2, 1]), 500),
            "{scheduler}"
        );
    }
}

/// Samples of so many milliseconds, at time zero.
fn measured(route: &Route, millis: &[u64]) {
    for (target, millis) in route.pool().iter().zip(millis) {
        let took = Duration::from_millis(*millis);
        target.gauge().unwrap().sample(took, Duration::ZERO);
    }
}

#[test]
fn the_least_response_time_wins_and_the_next_least_is_next() {
    let route = route(Scheduler::LeastResponseTime, &[1, 1, 4]);
    measured(&route, &[30, 20, 100]);
    let all = ids(3);
    assert_eq!(order(&route, client(1)), [all[1], all[2], all[0]]);
    // One connection there: 20 x 2 against 100 / 4 and 30.
    let _one = Load::on(&route.pool()[1]).unwrap();
    assert_eq!(order(&route, client(1)), [all[2], all[0], all[1]]);
}

#[test]
fn connections_spread_in_proportion_to_speed_and_weight() {
    let route = route(Scheduler::LeastResponseTime, &[1, 1, 2]);
    measured(&route, &[10, 20, 20]);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut held = Vec::new();
    for n in 0..500 {
        let place = picked(&route, n, &mut rng).unwrap();
        held.push(Load::on(&route.pool()[place]).unwrap());
    }
    // W / R: 1/10, 1/20, 2/20.
    let live: Vec<_> = route.pool().iter().map(|it| it.live()).collect();
    assert!(
        live[0].abs_diff(200) <= 1 && live[1].abs_diff(100) <= 1,
        "{live:?}"
    );
}

#[test]
fn an_unmeasured_backend_is_tried_by_one_client() {
    let route = route(Scheduler::LeastResponseTime, &[1, 1]);
    let fast = route.pool()[0].gauge().unwrap();
    fast.sample(Duration::from_millis(5), Duration::ZERO);
    let mut rng = fastrand::Rng::with_seed(1);
    assert_eq!(picked(&route, 1, &mut rng), Some(1));
    let _trial = Load::on(&route.pool()[1]).unwrap();
    assert_eq!(picked(&route, 1, &mut rng), Some(0));
}

#[test]
fn only_what_needs_it_measures() {
    for scheduler in ALL {
        let wanted = [Scheduler::LeastResponseTime, Scheduler::Adaptive].contains(&scheduler);
        let route = route(scheduler, &[1]);
        assert_eq!(route.measures(), wanted);
        assert_eq!(route.pool()[0].gauge().is_some(), wanted);
    }
}
