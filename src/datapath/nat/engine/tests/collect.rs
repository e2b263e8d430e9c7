//! What becomes of silent connections, and of those whose events were lost.

use super::*;
use crate::balance::flow::FlowEnd;

fn master() -> Host {
    Host::master(&config("round_robin", &[1], |config| {
        config.services[0].idle_timeout = Duration::from_secs(600);
    }))
}

/// Seconds until a silent connection in this state is forgotten.
fn forgotten_after(host: &mut Host, client: SocketAddr) -> u64 {
    assert!(host.flow(client).is_some());
    for second in 1..=700 {
        host.run(1_000);
        if host.flow(client).is_none() {
            assert!(host.maps.flows.is_empty(), "both entries");
            assert_eq!(host.status().flows, 0);
            return second;
        }
    }
    panic!("never");
}

fn last(host: &mut Host) -> NatEvent {
    host.events().pop().unwrap()
}

#[test]
fn each_state_has_its_patience() {
    let idle = NatEvent::Closed {
        key: key(client(0)),
        end: FlowEnd::Idle,
    };
    // A walk every other second.
    let mut host = master();
    host.open(client(0), 100);
    // There was no room for its SYN, or it is refused before that.
    host.engine.retry.clear();
    assert!(
        (30..=32).contains(&forgotten_after(&mut host, client(0))),
        "opening"
    );
    assert_eq!(last(&mut host), idle);
    let (ours, theirs) = host.open(client(0), 100).unwrap();
    host.send(theirs, ours, SYN | ACK, (900, 101));
    assert!(
        (30..=32).contains(&forgotten_after(&mut host, client(0))),
        "answered"
    );
    assert_eq!(last(&mut host), idle);
    host.establish(client(0));
    assert!(
        (600..=602).contains(&forgotten_after(&mut host, client(0))),
        "established"
    );
    assert_eq!(last(&mut host), idle);
    host.establish(client(0));
    host.send(client(0), at(VIP), FIN | ACK, (101, 901));
    assert!(
        (240..=242).contains(&forgotten_after(&mut host, client(0))),
        "closing"
    );
    assert_eq!(last(&mut host), idle);
    let (ours, theirs) = host.establish(client(0));
    host.send(client(0), at(VIP), FIN | ACK, (101, 901));
    host.send(theirs, ours, FIN | ACK, (901, 102));
    // Nobody has said that the backend's FIN arrived.
    assert!(
        (240..=242).contains(&forgotten_after(&mut host, client(0))),
        "closed, but not for good"
    );
    host.events();
    let (ours, theirs) = host.establish(client(0));
    host.send(client(0), at(VIP), FIN | ACK, (101, 901));
    host.send(theirs, ours, FIN | ACK, (901, 102));
    host.send(client(0), at(VIP), ACK, (102, 902));
    let end = FlowEnd::Complete;
    assert_eq!(
        last(&mut host),
        NatEvent::Closed {
            key: key(client(0)),
            end
        }
    );
    assert!(
        (2..=4).contains(&forgotten_after(&mut host, client(0))),
        "closed"
    );
    assert_eq!(names(&host.events()), Vec::<&str>::new(), "said already");
}

#[test]
fn one_direction_that_speaks_is_enough() {
    let mut host = master();
    let (ours, theirs) = host.establish(client(0));
    host.run(599_000);
    host.send(theirs, ours, ACK, (901, 101)).unwrap();
    host.run(599_000);
    host.send(client(0), at(VIP), ACK, (101, 901)).unwrap();
    host.run(599_000);
    assert!(host.flow(client(0)).is_some());
}

#[test]
fn a_standby_forgets_only_what_ended() {
    let mut host = master();
    host.establish(client(0));
    let (ours, theirs) = host.establish(client(1));
    host.send(client(1), at(VIP), FIN | ACK, (101, 901));
    host.send(theirs, ours, FIN | ACK, (901, 102));
    host.command(NatCommand::Yield);
    host.events();
    host.run(1_000_000);
    assert!(host.flow(client(0)).is_some());
    assert_eq!(host.flow(client(1)), None);
    assert!(host.events().is_empty());
    // Silence before its time is not silence: the other node saw the packets.
    host.command(NatCommand::Lead);
    host.run(599_000);
    assert!(host.flow(client(0)).is_some());
    assert!(forgotten_after(&mut host, client(0)) <= 3);
}

#[test]
fn what_lost_events_would_have_said_is_found_in_the_table() {
    let mut host = master();
    host.establish(client(0));
    let (ours, theirs) = host.establish(client(1));
    host.open(client(2), 100);
    host.events();
    let lose = |host: &mut Host| {
        host.maps.events.clear();
        *host.maps.counters.entry(Counter::LostEvent).or_default() += 1;
    };
    // One begins, one ends, one is answered; of none there is a word.
    host.pass(&frame(client(3), at(VIP), SYN, (100, 0)));
    host.pass(&frame(client(1), at(VIP), FIN | ACK, (101, 901)));
    host.pass(&frame(theirs, ours, FIN | ACK, (901, 102)));
    let back = host.flow(client(2)).unwrap().opposite(4);
    host.pass(&frame(back.from(), back.to(), SYN | ACK, (900, 101)));
    lose(&mut host);
    host.run(100);
    let mut events = host.events();
    events.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(names(&events), ["closed", "answered", "opened"]);
    let opened = |event: &NatEvent| matches!(event, NatEvent::Opened { key: it, .. } if *it == key(client(3)));
    assert!(events.iter().any(opened));
    assert_eq!(host.status().rescans, 1);
    // A new connection of an old client's port.
    host.pass(&frame(client(0), at(VIP), RST, (101, 0)));
    host.pass(&frame(client(0), at(VIP), SYN, (5_000, 0)));
    lose(&mut host);
    host.run(100);
    let NatEvent::Opened { record, .. } = host.events()[0] else {
        panic!();
    };
    assert_eq!(record.client_mark, 5_000);
    host.run(20_000);
    assert_eq!(host.status().rescans, 2);
}

#[test]
fn marks_follow_what_was_acknowledged() {
    let mut host = master();
    let (ours, theirs) = host.establish(client(0));
    host.events();
    host.run(10_000);
    assert!(host.events().is_empty());
    // Half a gigabyte and more later.
    let far = marks::STEP + 1_000;
    host.send(client(0), at(VIP), ACK, (far, 901));
    host.send(theirs, ours, ACK, (901, far - 500));
    host.run(10_000);
    let marks = |client_mark| NatEvent::Marks {
        key: key(client(0)),
        backend: id(0),
        client: client_mark,
        backend_mark: 900,
        answered: false,
    };
    assert_eq!(
        host.events(),
        [marks(far - 501)],
        "once, and what has surely arrived"
    );
    host.send(client(0), at(VIP), ACK, (far.wrapping_mul(2), 901));
    host.send(theirs, ours, ACK, (901, far.wrapping_mul(2)));
    host.run(10_000);
    assert_eq!(host.events(), [marks(far.wrapping_mul(2) - 1)]);
}

#[test]
fn marks_of_busy_connections_are_told_in_each_walk_but_not_of_all() {
    let mut host = Host::master(&config("round_robin", &[1, 1], |_| {}));
    let most = marks::BUSY_MOST;
    let ends: Vec<_> = (0..most + 10).map(|n| host.establish(client(n))).collect();
    host.run(5_000);
    host.events();
    for round in 1..=2 {
        let far = 100 + round * (marks::BUSY_STEP + 1_000);
        for (n, (ours, theirs)) in (0..).zip(&ends) {
            host.send(client(n), at(VIP), ACK, (far, 901));
            host.send(*theirs, *ours, ACK, (901, far));
        }
        host.run(1_000);
        let told = tally(names(&host.events()));
        assert_eq!(told, BTreeMap::from([("marks", most as usize)]));
    }
}

#[test]
fn when_a_backend_goes_down_its_connections_do_if_they_are_to() {
    let two = |on_down| {
        let mut host = Host::master(&config("round_robin", &[1, 1], |config| {
            mode(config).on_down = on_down;
        }));
        let ends = [host.establish(client(0)), host.establish(client(1))];
        host.open(client(2), 100);
        host.packets();
        host.events();
        let gone = (0..2).find(|n| backend(*n) == ends[0].1).unwrap();
        host.down(&[1 - gone], &[gone]);
        host.run(10);
        (host, ends)
    };
    let (mut host, _) = two(OnDown::Keep);
    assert_eq!(host.packets(), []);
    assert!(host.flow(client(0)).is_some());
    let (mut host, ends) = two(OnDown::Reset);
    let reset = |from, to, seq| Seen {
        from,
        to,
        flags: RST,
        seq,
        ack: 0,
        payload: 0,
        mss: None,
    };
    let (ours, theirs) = ends[0];
    let resets = [reset(at(VIP), client(0), 901), reset(ours, theirs, 101)];
    assert_eq!(
        host.packets(),
        resets,
        "each with what its receiver expects next"
    );
    assert_eq!(host.flow(client(0)), None);
    assert!(host.flow(client(1)).is_some());
    let end = FlowEnd::BackendError;
    assert_eq!(
        host.events(),
        [NatEvent::Closed {
            key: key(client(0)),
            end
        }]
    );
}

#[test]
fn half_a_flow_is_cleaned_up() {
    let mut host = master();
    host.establish(client(0));
    let front = FlowKey::new(client(0), at(VIP));
    host.maps.flows.remove(&front);
    host.run(599_000);
    assert_eq!(host.maps.flows.len(), 1);
    host.run(5_000);
    assert_eq!(host.maps.flows.len(), 0);
}
