//! Many connections: where they go, what limits them, what ends them, and what is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;

use super::rig::{
    LONG, Rig, accept, assert_reset, backend, config, echo, id, listener, live, nobody, patient,
    ping,
};
use super::serve::serve;
use super::*;
use crate::balance::flow::{FlowEnd, Unserved};
use crate::model::{ConnectFailure, NodeId, Scheduler, Weight};

/// A backend that sends its name and closes.
fn named(name: u8) -> SocketAddr {
    backend(move |mut stream| stream.write_all(&[name]))
}

fn name(mut stream: TcpStream) -> u8 {
    let mut name = [0];
    stream.read_exact(&mut name).unwrap();
    name[0]
}

fn unserved(events: &[FlowEvent]) -> Vec<Unserved> {
    let why = |event: &FlowEvent| match event {
        FlowEvent::Unserved { why, .. } => Some(*why),
        _ => None,
    };
    events.iter().filter_map(why).collect()
}

fn failures(events: &[FlowEvent]) -> Vec<(BackendId, ConnectFailure)> {
    let failed = |event: &FlowEvent| match event {
        FlowEvent::ConnectFailed { backend, failure } => Some((*backend, *failure)),
        _ => None,
    };
    events.iter().filter_map(failed).collect()
}

#[test]
fn two_workers_keep_the_weights_exactly() {
    let mut config = config(&[named(0), named(1), named(2)]);
    config.proxy.workers = Some(2);
    config.services[0].balance = Scheduler::WeightedRoundRobin.into();
    for (backend, weight) in config.services[0].backends.iter_mut().zip([3, 2, 1]) {
        backend.weight = Weight(weight);
    }
    let mut rig = Rig::of(&config);
    let mut counts = [0; 3];
    for _ in 0..600 {
        counts[usize::from(name(rig.connect()))] += 1;
    }
    assert_eq!(counts, [300, 200, 100]);
    rig.ends(600);
    let workers: BTreeSet<u64> = (rig.seen.iter())
        .filter_map(|event| match event {
            FlowEvent::Opened { flow, .. } => Some(flow.0 >> 48),
            _ => None,
        })
        .collect();
    assert_eq!(workers, BTreeSet::from([0, 1]), "both workers served");
}

#[test]
fn least_connections_counts_live_connections() {
    let mut config = config(&[echo(), echo()]);
    config.services[0].balance = Scheduler::LeastConnections.into();
    let mut rig = Rig::of(&config);
    let mut held: Vec<_> = (0..10).map(|_| rig.connect()).collect();
    for client in &mut held {
        ping(client);
    }
    rig.until("openings", |seen| live(seen) == 10);
    let mut counts = BTreeMap::new();
    for event in &rig.seen {
        if let FlowEvent::Opened { backend, .. } = event {
            *counts.entry(*backend).or_insert(0) += 1;
        }
    }
    assert_eq!(counts, BTreeMap::from([(id(0), 5), (id(1), 5)]));
}

#[test]
fn a_failed_connect_leads_to_the_next_until_one_takes_the_client() {
    let mut rig = Rig::new(&[nobody(), nobody(), echo()]);
    let mut client = rig.connect();
    // The bytes that were said before there was a backend are not lost.
    ping(&mut client);
    rig.until("the opening", |seen| live(seen) == 1);
    let refused = ConnectFailure::Refused;
    assert_eq!(failures(&rig.seen), [(id(0), refused), (id(1), refused)]);
}

#[test]
fn when_all_failed_the_client_is_reset() {
    let mut rig = Rig::new(&[nobody(), nobody(), nobody()]);
    let mut client = rig.connect();
    assert_reset(&mut client);
    rig.until("the news", |seen| !unserved(seen).is_empty());
    assert_eq!(unserved(&rig.seen), [Unserved::AllFailed]);
    let tried: BTreeSet<_> = failures(&rig.seen).into_iter().map(|(id, _)| id).collect();
    assert_eq!(tried, (0..3).map(id).collect());
    assert_eq!(failures(&rig.seen).len(), 3);
}

#[test]
fn a_backend_that_does_not_answer_costs_its_timeout_only() {
    // A listener whose queue is full drops connection requests.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    filler.set_nonblocking(true).unwrap();
    let _ = filler.connect(&address.into());
    let mut config = config(&[address, echo()]);
    config.services[0].connect_timeout = Duration::from_millis(100);
    let mut rig = Rig::of(&config);
    ping(&mut rig.connect());
    rig.until("the failure", |seen| !failures(seen).is_empty());
    assert_eq!(failures(&rig.seen), [(id(0), ConnectFailure::Timeout)]);
}

#[test]
fn without_an_eligible_backend_the_client_is_reset() {
    let mut rig = Rig::new(&[echo()]);
    let mut before = rig.connect();
    ping(&mut before);
    rig.proxy.publish(&BTreeSet::new());
    assert_reset(&mut rig.connect());
    rig.until("the news", |seen| !unserved(seen).is_empty());
    assert_eq!(unserved(&rig.seen), [Unserved::NoBackend]);
    // A connection that was there before stays.
    ping(&mut before);
    rig.proxy.publish(&BTreeSet::from([id(0)]));
    ping(&mut rig.connect());
}

#[test]
fn limits_reset_what_is_over_them_and_free_what_ends() {
    for limit in ["proxy", "service"] {
        let mut config = config(&[echo()]);
        match limit {
            "proxy" => config.proxy.max_connections = 2,
            _ => config.services[0].max_connections = 2,
        }
        let mut rig = Rig::of(&config);
        let mut clients = [rig.connect(), rig.connect()];
        clients.iter_mut().for_each(ping);
        assert_reset(&mut rig.connect());
        rig.until("the news", |seen| !unserved(seen).is_empty());
        assert_eq!(unserved(&rig.seen), [Unserved::Limit]);
        drop(clients);
        rig.ends(2);
        ping(&mut rig.connect());
    }
}

#[test]
fn an_idle_connection_is_reset_and_a_busy_one_is_not() {
    let mut config = config(&[echo()]);
    config.services[0].idle_timeout = Duration::from_millis(1_500);
    let mut rig = Rig::of(&config);
    let mut idle = rig.connect();
    let mut busy = rig.connect();
    ping(&mut idle);
    for _ in 0..16 {
        ping(&mut busy);
        thread::sleep(Duration::from_millis(200));
    }
    assert_reset(&mut idle);
    ping(&mut busy);
    assert_eq!(rig.ends(1), [(FlowEnd::Idle, 4, 4)]);
    let progress = |event: &&FlowEvent| matches!(event, FlowEvent::Progress { .. });
    let told = rig.seen.iter().filter(progress).count();
    assert!((2..=6).contains(&told), "about one a second: {told}");
}

#[test]
fn dropped_flows_are_reset_on_both_sides_at_once() {
    let (listener, address) = listener();
    let mut config = config(&[address]);
    config.proxy.workers = Some(2);
    let mut rig = Rig::of(&config);
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..20 {
        clients.push(rig.connect());
        servers.push(accept(&listener));
    }
    rig.until("openings", |seen| live(seen) == 20);
    rig.proxy.drop_flows();
    clients.iter_mut().for_each(assert_reset);
    servers.iter_mut().for_each(assert_reset);
    let ends = rig.ends(20);
    assert!(ends.iter().all(|end| *end == (FlowEnd::Dropped, 0, 0)));
    assert_eq!(live(&rig.seen), 0);
    // The proxy lives on.
    let _client = rig.connect();
    accept(&listener);
}

#[test]
fn a_connection_that_still_looks_for_a_backend_is_dropped_too() {
    // Nobody answers there (RFC 5737), or the host says so at once.
    let mut rig = Rig::new(&["192.0.2.77:9".parse().unwrap()]);
    let mut client = rig.connect();
    thread::sleep(Duration::from_millis(50));
    rig.proxy.drop_flows();
    assert_reset(&mut client);
    rig.until("nothing", |seen| live(seen) == 0);
}

#[test]
fn stopping_resets_and_frees_the_port() {
    let mut rig = Rig::new(&[echo()]);
    let mut client = rig.connect();
    ping(&mut client);
    let address = rig.address();
    assert!(rig.proxy.progressing());
    rig.until("the opening", |seen| live(seen) == 1);
    let Rig { proxy, .. } = rig;
    proxy.stop();
    assert_reset(&mut client);
    TcpListener::bind(address).unwrap();
}

#[test]
fn ipv6_on_both_sides() {
    let server = TcpListener::bind("[::1]:0").unwrap();
    let mut config = config(&[server.local_addr().unwrap()]);
    config.services[0].listen = vec!["[::1]:0".parse().unwrap()];
    let rig = Rig::of(&config);
    let mut client = rig.connect();
    client.write_all(b"six").unwrap();
    let mut word = [0; 3];
    accept(&server).read_exact(&mut word).unwrap();
    assert_eq!(&word, b"six");
}

#[test]
fn a_standby_listens_on_addresses_that_it_does_not_have() {
    let mut config = config(&[echo()]);
    config.services[0].listen = vec![
        "192.0.2.100:0".parse().unwrap(),
        "[2001:db8::100]:0".parse().unwrap(),
    ];
    let rig = Rig::of(&config);
    let ips: Vec<_> = rig.proxy.addresses().iter().map(|(_, a)| a.ip()).collect();
    assert_eq!(ips[0].to_string(), "192.0.2.100");
    assert_eq!(ips[1].to_string(), "2001:db8::100");
}

#[test]
fn a_port_in_use_is_an_error_with_a_remedy_even_if_it_could_be_shared() {
    let rig = Rig::new(&[echo()]);
    let mut config = config(&[echo()]);
    config.services[0].listen = vec![rig.address()];
    let (sender, _events) = mpsc::channel(1);
    let error = Proxy::start(&config, NodeId::First, sender, 1, [7; 16])
        .unwrap_err()
        .to_string();
    assert!(error.contains("web"), "{error}");
    assert!(error.contains(&rig.address().to_string()), "{error}");
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn openings_and_ends_balance() {
    let mut config = config(&[named(0), nobody()]);
    config.proxy.workers = Some(2);
    let mut rig = Rig::of(&config);
    let held: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    for client in held {
        name(client);
    }
    rig.ends(50);
    let mut open = BTreeSet::new();
    for event in &rig.seen {
        match event {
            FlowEvent::Opened { flow, client, .. } => {
                assert!(open.insert(*flow), "opened twice");
                assert!(client.ip().is_loopback());
            }
            FlowEvent::Closed { flow, .. } => assert!(open.remove(flow), "closed, not open"),
            _ => {}
        }
    }
    assert!(open.is_empty());
}

#[test]
fn events_that_nobody_takes_are_lost_aloud_and_the_live_are_told_again() {
    let config = config(&[echo()]);
    let (sender, mut events) = mpsc::channel(1);
    let proxy = Proxy::start(&config, NodeId::First, sender, 1, [7; 16]).unwrap();
    proxy.publish(&BTreeSet::from([id(0)]));
    let address = proxy.addresses()[0].1;
    let connect = || patient(TcpStream::connect(address).unwrap());
    let mut held: Vec<_> = (0..20).map(|_| connect()).collect();
    held.iter_mut().for_each(ping);
    // Nobody reads: one batch in the channel, a thousand events in the worker, then a loss.
    for _ in 0..900 {
        ping(&mut connect());
    }
    let mut known = BTreeSet::new();
    let mut lost = 0;
    for _ in 0..LONG.as_millis() / 5 {
        while let Ok(batch) = events.try_recv() {
            for event in batch {
                match event {
                    FlowEvent::Lost { worker, count } => {
                        assert_eq!(worker, 0);
                        lost += count;
                        known.clear();
                    }
                    FlowEvent::Opened { flow, .. } => assert!(known.insert(flow)),
                    FlowEvent::Closed { flow, .. } => assert!(known.remove(&flow)),
                    _ => {}
                }
            }
        }
        if lost > 0 && known.len() == held.len() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("lost {lost}, known {}", known.len());
}

#[test]
fn a_connection_costs_little_memory() {
    fn size<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }
    assert!(size(serve) <= 544, "{}", size(serve));
}
