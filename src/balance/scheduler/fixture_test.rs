//! A service with these weights, for the tests of schedulers and routes.

use std::time::Duration;

use crate::balance::Route;
use crate::config::{Backend, Balance, Proxied, Service};
use crate::model::{BackendAddress, BackendId, Scheduler, ServiceId, Weight};

/// The ids of the fixture's backends, in order.
pub(in crate::balance) fn ids(backends: usize) -> Vec<BackendId> {
    let id = |n| BackendId::of("web", &format!("b{n}"));
    (0..backends).map(id).collect()
}

/// All of them eligible.
pub(in crate::balance) fn route(scheduler: Scheduler, weights: &[u16]) -> Route {
    route_of(scheduler.into(), weights)
}

/// The same, with settings.
pub(in crate::balance) fn route_of(balance: Balance, weights: &[u16]) -> Route {
    let service = service(balance, weights);
    Route::new(&service, &ids(weights.len()).into_iter().collect())
}

/// The service.
pub(in crate::balance) fn service(balance: Balance, weights: &[u16]) -> Service {
    let backend = |(n, weight): (usize, &u16)| Backend {
        id: ids(n + 1)[n],
        name: format!("b{n}"),
        address: BackendAddress::Tcp(([192, 0, 2, 1], 1_000 + n as u16).into()),
        weight: Weight(*weight),
        pool: None,
        max_connections: None,
        backup: false,
        check_address: None,
        check_port: None,
        agent_address: None,
        agent_port: None,
    };
    Service {
        discover: Vec::new(),
        id: ServiceId::of("web"),
        name: "web".into(),
        listen: Vec::new(),
        balance,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(300),
        max_connections: 100,
        kernel: None,
        proxied: Proxied::default(),
        agent: None,
        health: None,
        backends: weights.iter().enumerate().map(backend).collect(),
    }
}
