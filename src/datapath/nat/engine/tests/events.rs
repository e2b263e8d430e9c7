//! Reports, refusals, and what is counted.

use super::*;
use crate::balance::flow::FlowEnd;

fn master() -> Host {
    Host::master(&config("round_robin", &[1], |_| {}))
}

#[test]
fn the_story_of_a_connection() {
    let mut host = master();
    let (ours, theirs) = host.open(at(CLIENT), 100).unwrap();
    host.now += 5 * MS;
    host.send(theirs, ours, SYN | ACK, (900, 101));
    host.send(at(CLIENT), at(VIP), ACK, (101, 901));
    host.send(at(CLIENT), at(VIP), FIN | ACK, (101, 901));
    host.send(theirs, ours, FIN | ACK, (901, 102));
    let key = key(at(CLIENT));
    let events = host.events();
    assert_eq!(names(&events), ["opened", "answered", "closed"]);
    let NatEvent::Opened {
        key: opened,
        record,
        age_ms,
    } = events[0]
    else {
        panic!();
    };
    assert_eq!((opened, age_ms, record.since_unix_ms), (key, 0, 0));
    assert_eq!((record.source, record.target), (ours, theirs));
    assert_eq!((record.client_mark, record.backend_mark), (100, None));
    assert_eq!(record.backend, id(0));
    let marks = NatEvent::Marks {
        key,
        backend: id(0),
        client: 100,
        backend_mark: 900,
        answered: true,
    };
    let end = FlowEnd::Complete;
    assert_eq!(events[1..], [marks, NatEvent::Closed { key, end }]);
}

#[test]
fn a_reset_that_was_not_its_senders_brings_it_back_whole() {
    let mut host = master();
    host.establish(at(CLIENT));
    host.events();
    host.send(at(CLIENT), at(VIP), RST, (101, 0));
    host.send(at(CLIENT), at(VIP), ACK, (101, 901)).unwrap();
    let events = host.events();
    assert_eq!(names(&events), ["closed", "opened", "answered"]);
    let NatEvent::Opened { record, .. } = events[1] else {
        panic!();
    };
    assert_eq!(record.backend_mark, Some(900));
}

#[test]
fn a_port_whose_client_began_anew_ends_the_old_connection() {
    let mut host = master();
    let (ours, theirs) = host.establish(at(CLIENT));
    host.events();
    // The backend has to ask first: anybody can send a SYN.
    assert_eq!(host.open(at(CLIENT), 7_000), Some((ours, theirs)));
    host.send(theirs, ours, ACK, (901, 101)).unwrap();
    assert_eq!(names(&host.events()), [] as [&str; 0]);
    host.send(at(CLIENT), at(VIP), RST, (101, 0)).unwrap();
    assert_ne!(host.open(at(CLIENT), 7_000).unwrap().0, ours);
    let events = host.events();
    assert_eq!(names(&events), ["closed", "opened"]);
    assert_eq!(host.status().flows, 1);
}

#[test]
fn a_long_report_comes_in_parts() {
    let mut host = master();
    let events = 1_024 + 100;
    for n in 0..events {
        host.pass(&frame(client(n), at(VIP), SYN, (100, 0)))
            .unwrap();
    }
    for told in std::mem::take(&mut host.maps.events) {
        host.engine.told(told, &mut host.maps, host.now).unwrap();
    }
    let lengths: Vec<(u64, usize)> = std::iter::from_fn(|| host.engine.poll_report())
        .map(|report| (report.ticket, report.events.len()))
        .collect();
    assert_eq!(lengths, [(1, 1_024), (2, 100)]);
}

#[test]
fn what_belongs_to_no_connection_is_reset_with_the_right_numbers() {
    let mut host = master();
    let reset = |seq, flags, ack| Seen {
        from: at(VIP),
        to: at(CLIENT),
        flags,
        seq,
        ack,
        payload: 0,
        mss: None,
    };
    host.send(at(CLIENT), at(VIP), ACK, (101, 901));
    assert_eq!(host.packets(), [reset(901, RST, 0)]);
    host.send(at(CLIENT), at(VIP), FIN, (101, 0));
    assert_eq!(host.packets(), [reset(0, RST | ACK, 102)]);
    host.send(at(CLIENT), at(VIP), RST, (101, 0));
    assert_eq!(host.packets(), [], "a reset is not answered");
    // A backend's packet to a port of ours.
    let ours = at("198.51.100.100:20000");
    host.send(backend(0), ours, ACK, (5, 6));
    let sent = host.packets();
    assert_eq!(
        (sent[0].from, sent[0].to, sent[0].seq),
        (ours, backend(0), 6)
    );
    host.publish(&[]);
    host.send(at(CLIENT), at(VIP), SYN, (100, 0));
    assert_eq!(host.packets(), [reset(0, RST | ACK, 101)]);
    assert_eq!(names(&host.events()), ["unserved"]);
    assert_eq!(host.status().resets, 4);
}

#[test]
fn nothing_is_reset_by_a_standby_or_just_after_a_takeover_or_too_often() {
    let mut host = master();
    let stray = |host: &mut Host| {
        host.send(at(CLIENT), at(VIP), ACK, (101, 901));
        host.packets().len()
    };
    host.command(NatCommand::Yield);
    assert_eq!(stray(&mut host), 0);
    host.command(NatCommand::Lead);
    assert_eq!(stray(&mut host), 0);
    host.now += 999 * MS;
    assert_eq!(stray(&mut host), 0);
    host.now += MS;
    let burst = (0..3_000).map(|_| stray(&mut host)).sum::<usize>();
    assert_eq!(burst, 1_000);
    host.now += 100 * MS;
    let next = (0..3_000).map(|_| stray(&mut host)).sum::<usize>();
    assert_eq!(next, 100);
}

#[test]
fn dropped_strays_are_not_told() {
    let mut host = Host::master(&config("round_robin", &[1], |config| {
        mode(config).stray = Stray::Drop;
    }));
    host.send(at(CLIENT), at(VIP), ACK, (101, 901));
    host.send(backend(0), at("198.51.100.100:20000"), ACK, (5, 6));
    assert_eq!(host.packets(), []);
    let counters = host.status().counters;
    assert_eq!((counters["drop_unknown"], counters["drop_stray"]), (1, 1));
}

#[test]
fn an_event_of_a_flow_that_is_forgotten_already_leaves_nothing() {
    let mut host = master();
    host.pass(&frame(at(CLIENT), at(VIP), SYN, (100, 0)))
        .unwrap();
    let late = std::mem::take(&mut host.maps.events);
    assert_eq!(late.len(), 1);
    // No backend answers, and a walk finds it before anybody has told of it.
    host.run(33_000);
    assert!(host.flow(at(CLIENT)).is_none());
    host.maps.events = late;
    host.tell();
    assert_eq!(host.status().flows, 0);
    assert_eq!(host.events(), []);
}
