//! Access lists, retries and queues on loopback.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::time::Instant;

use super::log::Log;
use super::queue::Place;
use super::rig::{
    LONG, Rig, abort, assert_reset, backend, config, echo, id, listener, nobody, ping,
};
use crate::balance::flow::{FlowEnd, FlowEvent, Unserved};
use crate::config::{Config, Limits, Logged};

fn limited(backends: &[SocketAddr], change: impl FnOnce(&mut Limits)) -> Config {
    let mut config = config(backends);
    change(&mut config.services[0].proxied.limits);
    config
}

/// One connection for each backend; others wait.
fn queued(backends: &[SocketAddr], size: u32, timeout: Duration) -> Config {
    let mut config = limited(backends, |limits| {
        limits.queue_size = size;
        limits.queue_timeout = timeout;
    });
    for backend in &mut config.services[0].backends {
        backend.max_connections = Some(1);
    }
    config
}

fn refusals(events: &[FlowEvent], wanted: Unserved) -> usize {
    let is =
        |event: &&FlowEvent| matches!(event, FlowEvent::Unserved { why, .. } if *why == wanted);
    events.iter().filter(is).count()
}

impl Rig {
    fn refused(&mut self, why: Unserved, count: usize) {
        let what = format!("{count} {why:?}");
        self.until(&what, |seen| refusals(seen, why) == count);
    }

    fn failures(&self) -> Vec<usize> {
        let mut failures = BTreeMap::new();
        for event in &self.seen {
            if let FlowEvent::ConnectFailed { backend, .. } = event {
                *failures.entry(*backend).or_insert(0) += 1;
            }
        }
        failures.into_values().collect()
    }

    /// Waits until so many wait.
    fn waiting(&mut self, count: usize) {
        let place = Place {
            service: 0,
            pool: None,
        };
        for _ in 0..LONG.as_millis() {
            if self.proxy.shared.line(place).unwrap().len() == count {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("never {count} in the queue");
    }
}

fn untouched(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// Nothing came, and no end either.
fn unanswered(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let got = stream.peek(&mut [0]);
    assert_eq!(got.unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn who_is_denied_costs_no_connect() {
    let (backend, address) = listener();
    let mut rig = Rig::of(&limited(&[address], |limits| {
        limits.deny = vec!["127.0.0.0/8".parse().unwrap()];
    }));
    assert_reset(&mut rig.connect());
    rig.refused(Unserved::Denied, 1);
    untouched(&backend);

    let mut rig = Rig::of(&limited(&[echo()], |limits| {
        limits.deny = vec!["127.0.0.0/8".parse().unwrap()];
        limits.allow = vec!["127.0.0.1/32".parse().unwrap()];
    }));
    ping(&mut rig.connect());
    rig.ends(1);
    assert_eq!(refusals(&rig.seen, Unserved::Denied), 0);
}

#[test]
fn behind_another_proxy_the_client_of_the_header_is_judged() {
    let mut config = limited(&[echo()], |limits| {
        limits.allow = vec!["203.0.113.0/24".parse().unwrap()];
        limits.source_rate = 2;
    });
    config.services[0].proxied.accept_proxy = vec!["127.0.0.0/8".parse().unwrap()];
    let mut rig = Rig::of(&config);
    let from = |rig: &Rig, client: &str| {
        let mut stream = rig.connect();
        let header = format!("PROXY TCP4 {client} 192.0.2.1 40000 443\r\n");
        stream.write_all(header.as_bytes()).unwrap();
        stream
    };
    for _ in 0..2 {
        ping(&mut from(&rig, "203.0.113.7"));
    }
    assert_reset(&mut from(&rig, "198.51.100.7"));
    rig.refused(Unserved::Denied, 1);
    assert_reset(&mut from(&rig, "203.0.113.7"));
    rig.refused(Unserved::SourceRate, 1);
    ping(&mut from(&rig, "203.0.113.8"));
}

#[test]
fn a_source_that_is_too_fast_is_refused() {
    let mut rig = Rig::of(&limited(&[echo()], |limits| limits.source_rate = 1));
    let mut client = rig.connect();
    ping(&mut client);
    // On a machine that stands still for a second, another one is let in.
    let started = Instant::now();
    let mut refused = 0;
    for _ in 0..20 {
        let mut other = rig.connect();
        let _ = other.write_all(b"ping");
        refused += usize::from(other.read_exact(&mut [0; 4]).is_err());
    }
    let served = 20 - refused;
    assert!(served as u64 <= started.elapsed().as_secs() + 1, "{served}");
    rig.refused(Unserved::SourceRate, refused);
}

#[test]
fn every_backend_is_tried_once_and_no_more_than_retries_says() {
    let dead: Vec<_> = (0..5).map(|_| nobody()).collect();
    for (retries, tried) in [
        (None, 5),
        (Some(9), 5),
        (Some(4), 5),
        (Some(1), 2),
        (Some(0), 1),
    ] {
        let mut rig = Rig::of(&limited(&dead, |limits| limits.retries = retries));
        assert_reset(&mut rig.connect());
        rig.refused(Unserved::AllFailed, 1);
        assert_eq!(rig.failures(), vec![1; tried], "{retries:?}");
    }
}

#[test]
fn retries_beyond_the_budget_are_not_made() {
    let dead: Vec<_> = (0..3).map(|_| nobody()).collect();
    let mut rig = Rig::of(&limited(&dead, |limits| limits.retry_budget = Some(1)));
    for _ in 0..12 {
        assert_reset(&mut rig.connect());
    }
    rig.refused(Unserved::AllFailed, 12);
    let failures: usize = rig.failures().iter().sum();
    // Ten retries in ten seconds; more only if this took longer.
    assert!((22..30).contains(&failures), "{failures}");
}

/// A listener whose queue is full: it answers no SYN.
fn silent() -> (Socket, Vec<Socket>, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        let _ = socket.connect(&address.into());
        socket
    };
    let filling = (0..4).map(fill).collect();
    (socket, filling, address)
}

#[test]
fn the_deadline_is_for_all_tries_together() {
    let silent: Vec<_> = (0..3).map(|_| silent()).collect();
    let addresses: Vec<_> = silent.iter().map(|(_, _, address)| *address).collect();
    let mut config = limited(&addresses, |limits| {
        limits.connect_deadline = Some(Duration::from_millis(300));
    });
    config.services[0].connect_timeout = Duration::from_millis(200);
    let mut rig = Rig::of(&config);
    assert_reset(&mut rig.connect());
    rig.refused(Unserved::AllFailed, 1);
    assert_eq!(rig.failures(), [1, 1]);
}

#[test]
fn who_waits_is_served_in_order() {
    let mut rig = Rig::of(&queued(&[echo()], 10, LONG));
    let mut first = rig.connect();
    ping(&mut first);
    let mut others = Vec::new();
    for n in 1..=5 {
        let mut other = rig.connect();
        other.write_all(b"ping").unwrap();
        others.push(other);
        rig.waiting(n);
    }
    drop(first);
    while !others.is_empty() {
        let mut next = others.remove(0);
        next.read_exact(&mut [0; 4]).unwrap();
        rig.waiting(others.len());
        others.iter().for_each(unanswered);
    }
    rig.ends(6);
}

#[test]
fn who_leaves_frees_the_place_in_the_queue() {
    let mut rig = Rig::of(&queued(&[echo()], 3, LONG));
    let mut first = rig.connect();
    ping(&mut first);
    let silent = rig.connect();
    rig.waiting(1);
    let mut talker = rig.connect();
    talker.write_all(b"ping").unwrap();
    rig.waiting(2);
    let mut third = rig.connect();
    third.write_all(b"ping").unwrap();
    rig.waiting(3);
    assert_reset(&mut rig.connect());
    rig.refused(Unserved::Limit, 1);
    drop(silent);
    rig.waiting(2);
    abort(talker);
    rig.waiting(1);
    // It has said all it wants to, and waits for the answer.
    third.shutdown(std::net::Shutdown::Write).unwrap();
    drop(first);
    third.read_exact(&mut [0; 4]).unwrap();
    rig.waiting(0);
}

#[test]
fn nobody_waits_for_longer_than_the_timeout() {
    let mut rig = Rig::of(&queued(&[echo()], 3, Duration::from_millis(50)));
    let mut first = rig.connect();
    ping(&mut first);
    assert_reset(&mut rig.connect());
    rig.refused(Unserved::QueueTimeout, 1);
    rig.waiting(0);
    drop(first);
    rig.ends(1);
    ping(&mut rig.connect());
}

#[test]
fn a_backend_that_comes_up_takes_who_waits() {
    let mut rig = Rig::of(&queued(&[echo(), echo()], 3, LONG));
    rig.proxy.publish(&[id(0)].into());
    let (mut first, mut second) = (rig.connect(), rig.connect());
    ping(&mut first);
    second.write_all(b"ping").unwrap();
    rig.waiting(1);
    rig.proxy.publish(&[id(0), id(1)].into());
    second.read_exact(&mut [0; 4]).unwrap();
    rig.waiting(0);
}

#[test]
fn nobody_is_forgotten_in_the_queue_and_no_backend_has_too_many() {
    let most = Arc::new(AtomicU32::new(0));
    let counted = |most: &Arc<AtomicU32>| {
        let (most, now) = (Arc::clone(most), Arc::new(AtomicU32::new(0)));
        backend(move |mut stream| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut bytes = [0; 4];
            let done = stream.read_exact(&mut bytes);
            now.fetch_sub(1, Ordering::SeqCst);
            done.and_then(|()| stream.write_all(&bytes))
        })
    };
    let backends: Vec<_> = (0..3).map(|_| counted(&most)).collect();
    let mut config = queued(&backends, 1_000, LONG);
    config.proxy.workers = Some(2);
    for backend in &mut config.services[0].backends {
        backend.max_connections = Some(2);
    }
    let rig = Rig::of(&config);
    let address = rig.address();
    let client = |_| {
        thread::spawn(move || {
            for _ in 0..15 {
                let mut stream = super::rig::patient(TcpStream::connect(address).unwrap());
                ping(&mut stream);
                SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
        })
    };
    let clients: Vec<_> = (0..24).map(client).collect();
    for client in clients {
        client.join().unwrap();
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
}

#[test]
fn connections_of_a_backend_that_is_down_are_reset() {
    let mut rig = Rig::new(&[echo(), echo()]);
    let mut clients = [rig.connect(), rig.connect()];
    clients.iter_mut().for_each(ping);
    rig.proxy.reset_backend(id(1));
    assert_eq!(rig.ends(1), [(FlowEnd::BackendDown, 4, 4)]);
    assert_reset(&mut clients[1]);
    ping(&mut clients[0]);
}

#[test]
fn who_comes_up_beside_others_begins_slowly() {
    let config = limited(&[echo(), echo()], |limits| limits.slow_start = LONG * 1_000);
    let mut rig = Rig::of(&config);
    let share = |rig: &mut Rig, connections: usize| {
        let before = rig.seen.len();
        let ended = rig.ends(0).len();
        for n in 1..=connections {
            ping(&mut rig.connect());
            rig.ends(ended + n);
        }
        let of = |event: &&FlowEvent| matches!(event, FlowEvent::Opened { backend, .. } if *backend == id(1));
        rig.seen[before..].iter().filter(of).count()
    };
    assert_eq!(share(&mut rig, 20), 10, "together they begin as always");
    rig.proxy.publish(&[id(0)].into());
    rig.proxy.publish(&[id(0), id(1)].into());
    let few = share(&mut rig, 100);
    assert!((1..15).contains(&few), "a tenth of its half: {few}");
    rig.proxy.publish(&[id(1)].into());
    assert_eq!(share(&mut rig, 5), 5, "there is nobody else");
}

#[test]
fn the_log_says_who_ended_a_connection_and_in_which_phase() {
    let log = |client: &mut dyn FnMut(&mut Rig), change: fn(&mut Config), expected: &str| {
        let mut config = queued(&[echo()], 1, Duration::from_millis(20));
        change(&mut config);
        config.services[0].proxied.limits.log = Logged::All;
        // In place of the thread.
        let (log, records) = Log::channel(8);
        let mut rig = Rig::logged(&config, log);
        client(&mut rig);
        let record = records.recv_timeout(LONG).unwrap();
        assert_eq!(record.letters(), expected, "{record:?}");
        record
    };
    let nothing = |_: &mut Config| {};
    let record = log(&mut |rig| ping(&mut rig.connect()), nothing, "--");
    assert_eq!(
        (record.up, record.down, record.backend),
        (4, 4, Some(id(0)))
    );
    assert!(record.total >= record.wait && record.wait >= record.connect);
    let mut reset = |rig: &mut Rig| assert_reset(&mut rig.connect());
    log(
        &mut |rig| {
            let mut client = rig.connect();
            ping(&mut client);
            abort(client);
        },
        nothing,
        "CD",
    );
    log(
        &mut |rig| {
            let mut client = rig.connect();
            ping(&mut client);
            rig.proxy.reset_backend(id(0));
            assert_reset(&mut client);
        },
        nothing,
        "TD",
    );
    log(
        &mut |rig| {
            let mut client = rig.connect();
            ping(&mut client);
            assert_reset(&mut rig.connect());
        },
        nothing,
        "TQ",
    );
    log(
        &mut reset,
        |config| config.services[0].backends[0].address = nobody().into(),
        "SC",
    );
    let deny = |config: &mut Config| {
        config.services[0].proxied.limits.deny = vec!["127.0.0.0/8".parse().unwrap()];
    };
    log(&mut reset, deny, "TA");
}

#[test]
fn a_full_log_drops_and_counts() {
    let mut config = config(&[nobody()]);
    config.services[0].proxied.limits.log = Logged::Errors;
    let (log, records) = Log::channel(2);
    let mut rig = Rig::logged(&config, log);
    for _ in 0..5 {
        assert_reset(&mut rig.connect());
    }
    rig.refused(Unserved::AllFailed, 5);
    assert_eq!(records.try_iter().count(), 2);
    assert_eq!(rig.proxy.shared.log.load_full().unwrap().dropped(), 3);
}
