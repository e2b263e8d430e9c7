//! What connections tell the schedulers, and the limits of backends.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use super::rig::{Rig, assert_reset, backend, config, echo, nobody, ping};
use crate::balance::flow::{FlowEvent, Unserved};
use crate::model::Scheduler;

#[test]
fn a_full_backend_is_passed_over_and_full_ones_refuse() {
    let mut config = config(&[echo(), echo()]);
    for backend in &mut config.services[0].backends {
        backend.max_connections = Some(1);
    }
    let mut rig = Rig::of(&config);
    let mut both = [rig.connect(), rig.connect()];
    both.iter_mut().for_each(ping);
    assert_reset(&mut rig.connect());
    let limit = |event: &FlowEvent| {
        let FlowEvent::Unserved { why, .. } = event else {
            return false;
        };
        *why == Unserved::Limit
    };
    rig.until("a refusal", |seen| seen.iter().any(limit));
    let [first, second] = both;
    drop(first);
    rig.ends(1);
    ping(&mut rig.connect());
    drop(second);
}

#[test]
fn a_slow_backend_is_avoided() {
    let slow = backend(|mut stream| {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        thread::sleep(Duration::from_millis(300));
        stream.write_all(&bytes)
    });
    let mut config = config(&[slow, echo()]);
    config.services[0].balance = Scheduler::LeastResponseTime.into();
    let mut rig = Rig::of(&config);
    for n in 0..20 {
        ping(&mut rig.connect());
        rig.ends(n + 1);
    }
    let route = rig.proxy.shared.routes.load_full();
    let pool = route.route(0).pool();
    let now = rig.proxy.shared.now();
    assert!(pool[0].response_time(now).unwrap() > 100_000.0);
    let opened = |n: usize| {
        let of = |event: &&FlowEvent| matches!(event, FlowEvent::Opened { backend, .. } if *backend == super::rig::id(n));
        rig.seen.iter().filter(of).count()
    };
    assert!(opened(0) <= 3, "{} of 20 went to the slow one", opened(0));
}

#[test]
fn a_backend_that_refuses_at_once_is_not_the_fastest() {
    for scheduler in [Scheduler::LeastResponseTime, Scheduler::Adaptive] {
        let mut config = config(&[nobody(), echo()]);
        config.services[0].balance = scheduler.into();
        let mut rig = Rig::of(&config);
        for n in 0..20 {
            ping(&mut rig.connect());
            rig.ends(n + 1);
        }
        let route = rig.proxy.shared.routes.load_full();
        let [refuses, serves] = route.route(0).pool() else {
            panic!("two");
        };
        let now = rig.proxy.shared.now();
        let of = |target: &crate::balance::Target| target.response_time(now).unwrap();
        assert!(of(refuses) > of(serves), "{scheduler}");
        // A failure counts as a whole time limit, whatever the other one took here.
        let limit = config.services[0].connect_timeout.as_micros() as f32;
        assert!(of(refuses) > limit / 2.0, "{scheduler}: {}", of(refuses));
        if scheduler == Scheduler::LeastResponseTime {
            let failed = |event: &&FlowEvent| matches!(event, FlowEvent::ConnectFailed { .. });
            let failed = rig.seen.iter().filter(failed).count();
            assert!(failed <= 3, "{failed}");
        }
    }
}

#[test]
fn a_reset_before_the_answer_is_a_failure_and_an_unanswered_wait_counts() {
    let resets = backend(|mut stream| {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        super::rig::abort(stream);
        Ok(())
    });
    let mut config = config(&[resets]);
    config.services[0].balance = Scheduler::LeastResponseTime.into();
    let mut rig = Rig::of(&config);
    let mut client = rig.connect();
    client.write_all(b"ping").unwrap();
    assert_reset(&mut client);
    rig.ends(1);
    let route = rig.proxy.shared.routes.load_full();
    let found = route.route(0).pool()[0].response_time(rig.proxy.shared.now());
    assert!(
        found.unwrap() > 1_000_000.0,
        "the connect's limit: {found:?}"
    );
}
