use super::*;
use crate::balance::scheduler::fixture::{ids, route, service};

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

fn config(service: &Service) -> Config {
    const FILE: &str = r#"
        cluster = { name = "edge", key_file = "/k" }
        node = [
            { name = "lb1", priority = 200, addresses = ["192.0.2.11"] },
            { name = "lb2", priority = 100, addresses = ["192.0.2.12"] },
        ]
        vip = [{ address = "192.0.2.100/24", interface = "eth0" }]
        [[service]]
        name = "web"
        listen = ["192.0.2.100:80"]
        backend = [{ name = "b0", address = "198.51.100.7:80" }]
    "#;
    let mut config = Config::parse(FILE).unwrap();
    config.services = vec![service.clone()];
    config
}

#[test]
fn another_configuration_keeps_what_stays() {
    let mut service = service(Scheduler::LeastResponseTime.into(), &[1, 1, 1]);
    let all: BTreeSet<_> = ids(4).into_iter().collect();
    let old = Routes::compile(&config(&service), &all);
    let loads: Vec<_> = old
        .route(0)
        .pool()
        .iter()
        .map(|it| Load::on(it).unwrap())
        .collect();
    let took = Duration::from_millis(7);
    let gauge = |routes: &Routes, n: usize| {
        let target = &routes.route(0).pool()[n];
        target.gauge().unwrap().response_time(took).is_some()
    };
    for target in old.route(0).pool() {
        target.gauge().unwrap().sample(took, took);
    }
    old.route(0).ticket();

    // b0 stays with another weight and limit, b1 moves, b2 goes, b3 comes.
    let mut comes = service.backends.remove(2);
    (comes.id, comes.name) = (ids(4)[3], "b3".into());
    service.backends.push(comes);
    service.backends[0].weight = crate::model::Weight(5);
    service.backends[0].max_connections = Some(1);
    service.backends[1].address = service.backends[1].address.elsewhere(None, Some(7));
    let new = old.reconfigure(&config(&service), &all);
    new.weigh(&BTreeMap::new());
    let pool = new.route(0).pool();
    assert_eq!(
        pool.iter().map(|it| it.id).collect::<Vec<_>>(),
        [ids(4)[0], ids(4)[1], ids(4)[3]]
    );
    assert_eq!(
        pool.iter().map(|it| it.live()).collect::<Vec<_>>(),
        [1, 0, 0]
    );
    assert_eq!([0, 1, 2].map(|n| gauge(&new, n)), [true, false, false]);
    assert_eq!((pool[0].weight(), pool[0].has_room()), (5, false));
    assert_eq!(new.route(0).ticket(), 1, "the rotation goes on");
    drop(loads);
    assert_eq!(pool[0].live(), 0);

    let same = new.reconfigure(&config(&service), &all);
    assert!(
        !Arc::ptr_eq(&new.routes[0], &same.routes[0]),
        "other weights"
    );
    let again = same.reconfigure(&config(&service), &all);
    assert!(Arc::ptr_eq(&again.routes[0], &same.routes[0]));
}
