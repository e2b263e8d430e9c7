use super::*;
use crate::balance::scheduler::fixture::{ids, route};

#[test]
fn the_pool_holds_the_eligible_in_the_order_of_the_file() {
    let all = route(Scheduler::RoundRobin, &[1, 1, 1]);
    let some = ids(3).into_iter().skip(1).collect();
    let pool: Vec<_> = again(&all, &some).pool().iter().map(|t| t.id).collect();
    assert_eq!(pool, ids(3)[1..]);
}

#[test]
fn an_id_that_is_no_backend_of_the_service_is_ignored() {
    let all = route(Scheduler::RoundRobin, &[1]);
    let strange = BTreeSet::from([BackendId::of("other", "b")]);
    assert!(again(&all, &strange).pool().is_empty());
}

#[test]
fn counts_survive_a_recompilation_and_end_with_the_connection() {
    let old = route(Scheduler::LeastConnections, &[1, 1]);
    let load = Load::on(&old.pool()[0]).unwrap();
    let new = again(&old, &ids(2).into_iter().collect());
    drop(old);
    assert_eq!(new.pool()[0].live(), 1);
    assert_eq!(load.target().id, new.pool()[0].id);
    drop(load);
    assert_eq!(new.pool()[0].live(), 0);
}

#[test]
fn the_position_survives_a_recompilation() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut route = route(Scheduler::WeightedRoundRobin, &[3, 2, 1]);
    let mut counts = [0; 3];
    for _ in 0..60 {
        let place = crate::balance::Picks::new([192, 0, 2, 7].into())
            .next(&route, Duration::ZERO, &mut rng)
            .unwrap();
        counts[place] += 1;
        route = again(&route, &ids(3).into_iter().collect());
    }
    assert_eq!(counts, [30, 20, 10]);
}

#[test]
fn a_service_whose_backends_stay_keeps_its_route() {
    let all = Arc::new(route(Scheduler::Maglev, &[1, 1]));
    let eligible: BTreeSet<_> = ids(2).into_iter().collect();
    let routes = Routes {
        routes: vec![all],
        pools: Vec::new(),
    };
    let same = routes.recompile(&eligible);
    assert!(Arc::ptr_eq(&routes.routes[0], &same.routes[0]));
    let other = routes.recompile(&eligible.into_iter().skip(1).collect());
    assert_eq!(other.route(0).pool().len(), 1);
}

fn again(old: &Route, eligible: &BTreeSet<BackendId>) -> Route {
    Route::compile(old.service, Arc::clone(&old.base), eligible)
}
