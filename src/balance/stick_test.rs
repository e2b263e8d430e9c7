use std::collections::BTreeSet;

use super::super::scheduler::fixture::service;
use super::*;
use crate::balance::Picks;
use crate::model::Scheduler;

const S: Duration = Duration::from_secs(1);
const A: BackendId = BackendId(1);
const B: BackendId = BackendId(2);

const TOLD: Learned = Learned {
    tell: true,
    evicted: None,
};
const KNOWN: Learned = Learned {
    tell: false,
    evicted: None,
};

#[test]
fn an_entry_lives_for_its_ttl_after_its_last_use() {
    let mut table = StickTable::new(9, 80 * S);
    assert_eq!(table.find(7, S), None);
    assert_eq!(table.learn(7, A, S), TOLD);
    assert_eq!(table.find(7, 80 * S), Some(A));
    assert_eq!(table.find(7, 81 * S), None, "to look is no use");
    assert_eq!(table.learn(7, A, 80 * S), TOLD);
    assert_eq!(table.find(7, 159 * S), Some(A));
    table.expire(159 * S, 9);
    assert_eq!(table.len(), 1);
    table.expire(160 * S, 9);
    assert!(table.is_empty());
}

#[test]
fn uses_are_told_some_times_within_the_ttl() {
    let mut table = StickTable::new(9, 80 * S);
    let told = (0..160).filter(|n| table.learn(7, A, *n * S).tell);
    assert_eq!(told.count(), 16);
    assert_eq!(table.learn(7, B, 160 * S), TOLD, "another backend at once");
    assert_eq!(table.learn(7, B, 169 * S), KNOWN);
    assert_eq!(table.learn(7, B, 170 * S), TOLD);
}

#[test]
fn a_full_table_forgets_what_was_used_longest_ago() {
    let mut table = StickTable::new(3, 80 * S);
    for (key, at) in [(1, 1), (2, 2), (3, 3), (1, 4)] {
        assert_eq!(table.learn(key, A, at * S).evicted, None);
    }
    assert_eq!(table.learn(4, A, 5 * S).evicted, Some(2));
    let found: Vec<_> = (1..=4)
        .filter(|key| table.find(*key, 6 * S).is_some())
        .collect();
    assert_eq!((found, table.len()), (vec![1, 3, 4], 3));
    // What the master says is older than all of these, so there is no place for it.
    table.adopt(5, Some((A, 60_000)), 6 * S);
    assert_eq!((table.find(5, 6 * S), table.len()), (None, 3));
    table.adopt(5, Some((A, 1_000)), 6 * S);
    assert_eq!((table.find(5, 6 * S), table.len()), (Some(A), 3));
    assert_eq!(table.find(3, 6 * S), None);
}

#[test]
fn expired_entries_go_in_portions() {
    let mut table = StickTable::new(100, 10 * S);
    for key in 0..100 {
        table.learn(key, A, S);
    }
    table.expire(11 * S, 30);
    assert_eq!(table.len(), 70);
    table.expire(11 * S, 300);
    assert!(table.is_empty());
}

#[test]
fn an_adopted_entry_keeps_its_age_on_a_process_that_is_younger() {
    let mut table = StickTable::new(9, 80 * S);
    table.adopt(7, Some((A, 60_000)), S);
    assert_eq!(table.find(7, 20 * S), Some(A));
    assert_eq!(table.find(7, 21 * S), None);
    assert_eq!(
        table.learn(7, A, 20 * S),
        TOLD,
        "nobody has told it from here"
    );
    table.adopt(7, Some((B, 0)), 21 * S);
    assert_eq!(table.find(7, 22 * S), Some(B));
    table.adopt(7, None, 22 * S);
    assert!(table.is_empty());
    table.adopt(8, Some((A, u64::MAX)), S);
    assert_eq!(table.find(8, S), None);
}

#[test]
fn keys_depend_on_the_secret_and_the_service() {
    let hash = |key, service, value: &[u8]| Hasher::new([key; 16], ServiceId(service)).hash(value);
    let all = [
        hash(1, 1, b"a"),
        hash(2, 1, b"a"),
        hash(1, 2, b"a"),
        hash(1, 1, b"b"),
    ];
    assert_eq!(BTreeSet::from(all).len(), 4);
    // Both nodes, whatever they run on: another value here forgets every client at an upgrade.
    assert_eq!(all[0], VECTOR);
    assert_eq!(
        format!("{:?}", Hasher::new([1; 16], ServiceId(1))),
        "Hasher(..)"
    );
}

const VECTOR: u64 = 6_151_169_271_643_127_962;

#[test]
fn a_backend_that_takes_no_connections_is_replaced_or_refused() {
    use StickFallback::{Reassign, Refuse};
    let all = service(Scheduler::RoundRobin.into(), &[1, 1, 1]);
    let ids: Vec<_> = all.backends.iter().map(|backend| backend.id).collect();
    let up = BTreeSet::from([ids[0], ids[2]]);
    let route = Route::new(&all, &up);
    let rows = [
        (None, Reassign, Advice::Any),
        (None, Refuse, Advice::Any),
        (Some(ids[2]), Reassign, Advice::First(1)),
        (Some(ids[2]), Refuse, Advice::Only(1)),
        (Some(ids[1]), Reassign, Advice::Any),
        (Some(ids[1]), Refuse, Advice::Refuse),
        // Of another pool, or gone from the configuration.
        (Some(BackendId(9)), Refuse, Advice::Any),
    ];
    for (had, fallback, expected) in rows {
        assert_eq!(advise(had, &route, fallback), expected, "{had:?}");
    }
}

/// Places in the order in which they are tried.
fn tried(route: &Route, advice: Advice) -> Vec<usize> {
    let mut picks = Picks::new("192.0.2.7".parse().unwrap());
    picks.advise(advice, None);
    let mut rng = fastrand::Rng::with_seed(1);
    std::iter::from_fn(|| picks.next(route, Duration::ZERO, &mut rng)).collect()
}

#[test]
fn advice_comes_before_the_scheduler_and_takes_no_turn() {
    let all = service(Scheduler::RoundRobin.into(), &[1, 1, 1]);
    let up = all.backends.iter().map(|backend| backend.id).collect();
    let route = Route::new(&all, &up);
    assert_eq!(tried(&route, Advice::Any), [0, 1, 2]);
    assert_eq!(tried(&route, Advice::Only(2)), [2]);
    assert_eq!(tried(&route, Advice::Refuse), [0; 0]);
    assert_eq!(tried(&route, Advice::First(2)), [2, 1, 0]);
    assert_eq!(tried(&route, Advice::Any), [2, 0, 1]);
}

#[test]
fn a_number_takes_the_addresss_place_in_what_hashes() {
    for scheduler in [Scheduler::SourceHash, Scheduler::Maglev] {
        let all = service(scheduler.into(), &[1; 5]);
        let up = all.backends.iter().map(|backend| backend.id).collect();
        let route = Route::new(&all, &up);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut pick = |client: &str, number| {
            let mut picks = Picks::new(client.parse().unwrap());
            picks.advise(Advice::Any, Some(number));
            picks.next(&route, Duration::ZERO, &mut rng).unwrap()
        };
        let hasher = Hasher::new([1; 16], ServiceId(1));
        let mut seen = BTreeSet::new();
        for n in 0..100_u8 {
            let number = hasher.hash(&[n]);
            let place = pick("192.0.2.7", number);
            assert_eq!(pick("2001:db8::7", number), place);
            seen.insert(place);
        }
        assert_eq!(seen.len(), 5);
    }
}
