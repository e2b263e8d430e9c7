//! SYNs that go to another backend.

use super::*;
use crate::balance::flow::FlowEnd;
use crate::model::ConnectFailure;

fn master(backends: usize) -> Host {
    Host::master(&config("round_robin", &vec![1; backends], |_| {}))
}

/// The only packet that was made: a SYN as the client sent it. From where, to where.
fn again(host: &mut Host) -> (SocketAddr, SocketAddr) {
    let sent = host.packets();
    let [syn] = sent.as_slice() else {
        panic!("not one packet: {sent:?}");
    };
    assert_eq!((syn.flags, syn.seq, syn.mss), (SYN, 100, Some(1_460)));
    (syn.from, syn.to)
}

/// The client shakes hands with whoever is there, and sees its own connection.
fn shakes_hands(host: &mut Host, ours: SocketAddr, theirs: SocketAddr) {
    let answer = host.send(theirs, ours, SYN | ACK, (900, 101)).unwrap();
    assert_eq!((answer.from, answer.to), (at(VIP), at(CLIENT)));
    let ack = host.send(at(CLIENT), at(VIP), ACK, (101, 901)).unwrap();
    assert_eq!((ack.from, ack.to), (ours, theirs));
    assert_eq!(host.maps.flows.len(), 2, "nothing stale is left");
}

#[test]
fn a_refusal_is_hidden_and_the_next_backend_asked() {
    let mut host = master(2);
    let (ours, first) = host.open(at(CLIENT), 100).unwrap();
    assert_eq!(host.send(first, ours, RST | ACK, (0, 101)), None);
    let (new, second) = again(&mut host);
    assert_ne!(second, first);
    assert_ne!(new.port(), 0);
    shakes_hands(&mut host, new, second);
    let events = host.events();
    assert_eq!(names(&events), ["opened", "failed", "opened", "answered"]);
    let NatEvent::ConnectFailed { failure, .. } = events[1] else {
        panic!();
    };
    assert_eq!(failure, ConnectFailure::Refused);
    let NatEvent::Opened { record, .. } = events[2] else {
        panic!();
    };
    assert_eq!((record.source, record.target), (new, second));
    assert_eq!(host.status().retries, 1);
    // What the first one says from now on is nobody's.
    assert_eq!(host.send(first, ours, SYN | ACK, (1, 101)), None);
}

#[test]
fn silence_is_hidden_too_after_the_connect_timeout() {
    let mut host = master(2);
    let (_, first) = host.open(at(CLIENT), 100).unwrap();
    host.run(249);
    assert_eq!(host.packets(), []);
    host.run(1);
    let (new, second) = again(&mut host);
    assert_ne!(second, first);
    shakes_hands(&mut host, new, second);
    host.run(1_000);
    assert_eq!(host.packets(), [], "an answered SYN has no timer");
    assert!(host.events().iter().any(|event| {
        matches!(
            event,
            NatEvent::ConnectFailed {
                failure: ConnectFailure::Timeout,
                ..
            }
        )
    }));
}

#[test]
fn a_backend_that_remembers_is_asked_from_another_port() {
    let mut host = master(2);
    let (mut ours, first) = host.open(at(CLIENT), 100).unwrap();
    for _ in 0..3 {
        assert_eq!(host.send(first, ours, ACK, (77, 55)), None);
        let (new, same) = again(&mut host);
        assert_eq!(same, first);
        assert_ne!(new, ours);
        ours = new;
    }
    host.send(first, ours, ACK, (77, 55));
    let (ours, second) = again(&mut host);
    assert_ne!(second, first, "it has had its chances");
    shakes_hands(&mut host, ours, second);
    let failed = names(&host.events()).contains(&"failed");
    assert!(!failed, "it is no failure of the backend");
}

#[test]
fn when_all_failed_the_client_gets_one_reset() {
    let mut host = master(3);
    let (mut ours, mut theirs) = host.open(at(CLIENT), 100).unwrap();
    let mut tried = vec![theirs];
    for _ in 0..2 {
        host.send(theirs, ours, RST | ACK, (0, 101));
        (ours, theirs) = again(&mut host);
        tried.push(theirs);
    }
    tried.sort_unstable();
    assert_eq!(tried, [backend(0), backend(1), backend(2)]);
    host.run(250);
    let reset = Seen {
        from: at(VIP),
        to: at(CLIENT),
        flags: RST | ACK,
        seq: 0,
        ack: 101,
        payload: 0,
        mss: None,
    };
    assert_eq!(host.packets(), [reset]);
    host.run(5_000);
    assert_eq!(host.packets(), []);
    assert!(host.maps.flows.is_empty());
    let events = host.events();
    assert_eq!(
        names(&events),
        [
            "opened", "failed", "opened", "failed", "opened", "failed", "closed", "unserved"
        ]
    );
    let end = FlowEnd::BackendError;
    assert_eq!(
        events[6],
        NatEvent::Closed {
            key: key(at(CLIENT)),
            end
        }
    );
    let status = host.status();
    assert_eq!((status.unserved, status.resets, status.flows), (1, 1, 0));
}

#[test]
fn the_only_backend_is_asked_twice() {
    // The only one, and the only one that may be asked.
    for backends in [1, 3] {
        let mut host = master(backends);
        host.publish(&[0]);
        host.now += 60_000 * MS;
        let (ours, theirs) = host.open(at(CLIENT), 100).unwrap();
        host.run(249);
        assert_eq!(host.packets(), []);
        // One lost SYN is no reason to refuse.
        host.run(1);
        assert_eq!(again(&mut host), (ours, theirs), "the same connection");
        host.run(249);
        assert_eq!(host.packets(), []);
        shakes_hands(&mut host, ours, theirs);
        host.run(1_000);
        assert_eq!(host.packets(), []);
    }
}

#[test]
fn the_only_backend_that_stays_silent_is_refused_for_once() {
    let mut host = master(1);
    host.open(at(CLIENT), 100).unwrap();
    host.run(250);
    again(&mut host);
    host.run(250);
    let sent = host.packets();
    let [reset] = sent.as_slice() else {
        panic!("not one reset: {sent:?}");
    };
    assert_eq!(
        (reset.to, reset.flags, reset.ack),
        (at(CLIENT), RST | ACK, 101)
    );
    host.run(5_000);
    assert_eq!(host.packets(), []);
    assert!(host.maps.flows.is_empty());
    let story = ["opened", "failed", "failed", "closed", "unserved"];
    assert_eq!(names(&host.events()), story);
    let status = host.status();
    assert_eq!((status.retries, status.unserved, status.resets), (0, 1, 1));
}

#[test]
fn a_drained_backend_is_not_asked() {
    let mut host = master(3);
    let (ours, first) = host.open(at(CLIENT), 100).unwrap();
    let rest: Vec<usize> = (0..3).filter(|n| backend(*n) != first).collect();
    host.publish(&rest[..1]);
    host.send(first, ours, RST | ACK, (0, 101));
    assert_eq!(again(&mut host).1, backend(rest[0]));
}

#[test]
fn an_answer_that_crosses_the_timer_wins() {
    let mut host = master(2);
    let (ours, first) = host.open(at(CLIENT), 100).unwrap();
    host.now += 250 * MS;
    // The program has seen it, the engine has not read the ring yet.
    host.pass(&frame(first, ours, SYN | ACK, (900, 101)))
        .unwrap();
    host.run(0);
    assert_eq!(host.packets(), []);
    host.tell();
    let ack = host.send(at(CLIENT), at(VIP), ACK, (101, 901)).unwrap();
    assert_eq!((ack.from, ack.to), (ours, first));
}

#[test]
fn two_flows_never_share_a_tuple() {
    // Three ports of its own for four clients.
    let few = config("round_robin", &[1, 1], |config| {
        (config.kernel.first_port, config.kernel.last_port) = (30_000, 30_005);
    });
    let mut host = Host::master(&few);
    // Both backends refuse everybody, over and over; whoever finds no port is refused himself.
    for n in 0..40 {
        host.open(client(n), 100);
        let opening: Vec<_> = host
            .maps
            .flows
            .iter()
            .map(|(key, flow)| (*key, *flow))
            .collect();
        let backs = opening
            .iter()
            .filter(|(_, flow)| flow.flags & FLOW_CLIENT == 0);
        for (back_key, _) in backs.clone().take(1) {
            host.send(back_key.from(), back_key.to(), RST | ACK, (0, 101));
        }
        let fronts = host
            .maps
            .flows
            .iter()
            .filter(|(_, flow)| flow.flags & FLOW_CLIENT != 0);
        for (front_key, front) in fronts {
            let back = &host.maps.flows[&front.opposite(front_key.family)];
            assert_eq!(back.opposite(front_key.family), *front_key);
            assert!(
                (30_000..=30_002).contains(&front.to_sport.get()),
                "its own half"
            );
        }
    }
    assert!(host.status().retries > 10);
}

#[test]
fn dnat_keeps_the_clients_address() {
    let dnat = config("round_robin", &[1, 1], |config| {
        mode(config).forward = Forward::Dnat;
    });
    let mut host = Host::master(&dnat);
    let (ours, first) = host.open(at(CLIENT), 100).unwrap();
    assert_eq!(ours, at(CLIENT));
    host.send(first, ours, ACK, (77, 55));
    let (ours, second) = again(&mut host);
    assert_eq!(ours, at(CLIENT));
    assert_ne!(second, first, "there is no other port to ask it from");
    shakes_hands(&mut host, ours, second);
}

#[test]
fn a_refusal_without_its_syn_lets_the_next_syn_begin_anew() {
    let mut host = master(2);
    host.pass(&frame(at(CLIENT), at(VIP), SYN, (100, 0)));
    host.maps.events.clear();
    let flow = host.flow(at(CLIENT)).unwrap();
    let back = flow.opposite(4);
    host.send(back.from(), back.to(), RST | ACK, (0, 101));
    assert!(host.maps.flows.is_empty());
    assert!(host.open(at(CLIENT), 100).is_some());
}

#[test]
fn the_oldest_syn_is_forgotten_when_there_are_too_many() {
    let mut host = master(2);
    host.engine.retry.most = 3;
    for n in 0..4 {
        host.pass(&frame(client(n), at(VIP), SYN, (100, 0)))
            .unwrap();
    }
    host.tell();
    assert_eq!(host.status().counters["syns_forgotten"], 1);
    host.run(250);
    let again: Vec<u16> = host.packets().iter().map(|it| it.from.port()).collect();
    assert_eq!(again.len(), 3);
    let moved = |n| host.flow(client(n)).unwrap().to_sport.get();
    assert!(!again.contains(&moved(0)));
    assert!((1..4).all(|n| again.contains(&moved(n))));
}

#[test]
fn each_scheduler_has_its_next_choice() {
    let next = |balance: &str, weights: &[u16]| {
        let mut host = Host::master(&config(balance, weights, |_| {}));
        let first = host.open(at(CLIENT), 100).unwrap();
        host.send(first.1, first.0, RST | ACK, (0, 101));
        (first.1, again(&mut host).1)
    };
    let (first, second) = next("weighted_round_robin", &[1, 9, 5]);
    let heaviest = if first == backend(1) { 2 } else { 1 };
    assert_eq!(second, backend(heaviest));
    for balance in ["random", "least_connections"] {
        let (first, second) = next(balance, &[1, 9, 5]);
        assert_ne!(first, second, "{balance}");
    }
}

#[test]
fn a_full_table_ends_the_search() {
    let mut host = master(2);
    let (ours, first) = host.open(at(CLIENT), 100).unwrap();
    host.maps.capacity = 2;
    host.send(first, ours, RST | ACK, (0, 101));
    let sent = host.packets();
    assert_eq!(
        (sent.len(), sent[0].to, sent[0].flags),
        (1, at(CLIENT), RST | ACK)
    );
    assert!(host.maps.flows.is_empty());
}
