//! Becoming master, ceasing to be, and starting with a table that is there.

use std::collections::BTreeSet;

use super::*;

fn pair() -> (Host, Host) {
    let config = config("round_robin", &[1, 1], |_| {});
    let standby = Host::new(&config, NodeId::Second);
    (Host::master(&config), standby)
}

fn teach(master: &mut Host, standby: &mut Host) {
    let unix_ms = 1_000 + master.now / MS;
    let items = items(&master.events(), unix_ms);
    standby.command(NatCommand::Learn(items));
}

fn probe(from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> Seen {
    Seen {
        from,
        to,
        flags: ACK | 8,
        seq,
        ack,
        payload: 1,
        mss: None,
    }
}

#[test]
fn both_ends_are_asked_where_they_are() {
    let (mut master, mut standby) = pair();
    let (ours, theirs) = master.establish(client(0));
    let (begun, at_backend) = master.open(client(1), 100).unwrap();
    let (from, to) = master.establish(client(2));
    master.send(client(2), at(VIP), FIN | ACK, (101, 901));
    master.send(to, from, FIN | ACK, (901, 102));
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    standby.run(100);
    assert_eq!(
        standby.packets(),
        [],
        "answers would go to the other node still"
    );
    standby.command(NatCommand::Probe);
    standby.run(100);
    // A handshake's backend repeats its answer. Those that ended are not asked.
    let probes = [
        Seen {
            from: begun,
            to: at_backend,
            flags: SYN,
            seq: 100,
            ack: 0,
            payload: 0,
            mss: None,
        },
        probe(at(VIP), client(0), 900, 101),
        probe(ours, theirs, 100, 901),
    ];
    assert_eq!(standby.packets(), probes);
    assert_eq!(standby.status().probed, 1);
    standby.run(10_000);
    assert_eq!(standby.packets(), []);
}

/// Its receiver would believe that all has arrived, and never send again what got lost.
#[test]
fn a_probe_acknowledges_no_more_than_its_other_end_did() {
    let (mut master, mut standby) = pair();
    let (ours, theirs) = master.establish(client(0));
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    // What came before this got lost, and the addresses are not here yet.
    standby.now += MS;
    standby.send(client(0), at(VIP), ACK, (50_101, 901));
    standby.command(NatCommand::Probe);
    standby.run(100);
    let probes = [
        probe(at(VIP), client(0), 900, 101),
        probe(ours, theirs, 100, 901),
    ];
    assert_eq!(standby.packets(), probes);
}

#[test]
fn who_has_spoken_since_is_not_asked() {
    let (mut master, mut standby) = pair();
    let (ours, theirs) = master.establish(client(0));
    let (to, from) = master.establish(client(1));
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    standby.command(NatCommand::Probe);
    standby.now += MS;
    standby.send(client(0), at(VIP), ACK, (101, 901));
    for (from, to, seq, ack) in [(client(1), at(VIP), 101, 901), (from, to, 901, 101)] {
        standby.send(from, to, ACK, (seq, ack));
    }
    standby.run(100);
    let probes: Vec<Seen> = standby.packets();
    assert_eq!(probes, [probe(ours, theirs, 100, 901)]);
    assert_eq!(standby.status().probed, 1);
}

#[test]
fn the_newest_are_asked_first_and_not_all_at_once() {
    let (mut master, mut standby) = pair();
    for n in 0..1_000 {
        master.now += MS;
        master.establish(client(n));
        standby.now = master.now;
        teach(&mut master, &mut standby);
    }
    standby.command(NatCommand::Lead);
    standby.command(NatCommand::Probe);
    let mut order = Vec::new();
    let clients: BTreeMap<SocketAddr, u32> = (0..1_000).map(|n| (client(n), n)).collect();
    for _ in 0..40 {
        standby.run(1);
        let sent = standby.packets();
        assert!(sent.len() <= 2 * 2 * 64, "{} at once", sent.len());
        order.extend(sent.iter().filter_map(|it| clients.get(&it.to).copied()));
    }
    assert_eq!(order, (0..1_000).rev().collect::<Vec<_>>());
}

/// Lost bytes are those of connections that move many: their marks were fresh.
#[test]
fn the_busy_are_asked_before_the_table_is_read() {
    let (mut master, mut standby) = pair();
    let busy = client(3);
    let ends: Vec<_> = (0..20).map(|n| master.establish(client(n))).collect();
    let (ours, theirs) = ends[3];
    standby.now = master.now;
    teach(&mut master, &mut standby);
    let far = marks::BUSY_STEP + 1_000;
    master.send(busy, at(VIP), ACK, (far, 901));
    master.send(theirs, ours, ACK, (901, far));
    master.run(2_000);
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    standby.command(NatCommand::Probe);
    // Before any walk.
    let now = standby.now + MS;
    standby.engine.probe(&standby.maps, now).unwrap();
    let sent = standby.packets();
    let first: BTreeSet<_> = sent[..2].iter().map(|packet| packet.to).collect();
    assert_eq!(first, BTreeSet::from([busy, theirs]));
    assert_eq!(sent.len(), 2 * 20);
    standby.run(100);
    assert_eq!(standby.packets(), [], "once");
}

#[test]
fn each_is_asked_once_though_the_walk_begins_again() {
    let config = config("round_robin", &[1, 1], |config| {
        mode(config).on_down = OnDown::Reset;
    });
    let mut master = Host::master(&config);
    let mut standby = Host::new(&config, NodeId::Second);
    master.publish(&[0]);
    master.run(10);
    let count = super::super::collect::BATCH as u32 * 3 / 4;
    for n in 0..count {
        master.establish(client(n));
    }
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    // A part of the clients' entries is read, then another backend goes down.
    let now = standby.now;
    standby.engine.tick(&mut standby.maps, now).unwrap();
    standby.down(&[0], &[1]);
    standby.run(100);
    standby.command(NatCommand::Probe);
    standby.run(200);
    assert_eq!(standby.packets().len() as u32, 2 * count);
    assert_eq!(standby.status().probed, u64::from(count));
}

#[test]
fn ports_and_turns_go_on_elsewhere() {
    let (mut master, mut standby) = pair();
    master.establish(client(0));
    standby.command(NatCommand::Lead);
    let config = config("round_robin", &[1, 1], |_| {});
    let mut other = Engine::new(&config, NodeId::Second, &links(), 8);
    let mut maps = Reference::default();
    other.begin(&mut maps, START).unwrap();
    other.command(NatCommand::Lead, &mut maps, START).unwrap();
    assert_ne!(maps.ports, standby.maps.ports);
    assert_ne!(maps.ports, [0, 0]);
}

/// A program whose process had died saw an end, and its peer told of that connection afterwards.
#[test]
fn an_end_that_was_seen_before_the_master_told_of_the_connection_is_none() {
    for port_is_used_again in [false, true] {
        let (mut master, mut standby) = pair();
        master.establish(client(0));
        let told = items(&master.events(), 1_000 + master.now / MS);
        standby.now = master.now;
        standby.command(NatCommand::Learn(told.clone()));
        standby.send(client(0), at(VIP), RST, (101, 0)).unwrap();
        assert_eq!(
            standby.flow(client(0)).unwrap().state,
            State::Closed.number()
        );
        if port_is_used_again {
            master.send(client(0), at(VIP), RST, (101, 0)).unwrap();
            master.establish(client(0));
            teach(&mut master, &mut standby);
        } else {
            standby.command(NatCommand::SnapshotBegin);
            standby.command(NatCommand::Learn(told));
            standby.command(NatCommand::SnapshotEnd);
        }
        standby.command(NatCommand::Lead);
        standby.run(1_000);
        assert_eq!(standby.events(), [], "{port_is_used_again}");
        assert_eq!(
            standby.flow(client(0)).unwrap().state,
            State::Established.number()
        );
    }
}

/// One that was seen since is.
#[test]
fn an_end_that_was_seen_before_the_mastership_is_told() {
    let (mut master, mut standby) = pair();
    master.establish(client(0));
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.send(client(0), at(VIP), RST, (101, 0)).unwrap();
    standby.command(NatCommand::Lead);
    standby.run(1_000);
    assert!(matches!(standby.events()[..], [NatEvent::Closed { .. }]));
}

#[test]
fn who_is_not_master_any_more_says_and_sends_nothing() {
    let (mut master, _) = pair();
    let (ours, theirs) = master.open(client(0), 100).unwrap();
    master.pass(&frame(client(1), at(VIP), SYN, (100, 0)));
    for told in std::mem::take(&mut master.maps.events) {
        master
            .engine
            .told(told, &mut master.maps, master.now)
            .unwrap();
    }
    master.events();
    master.command(NatCommand::Yield);
    master.run(10_000);
    assert_eq!(master.packets(), [], "no retry");
    // Frames still come, as long as the lease holds.
    master.send(theirs, ours, RST | ACK, (0, 101));
    master.open(client(2), 100);
    assert!(master.events().is_empty());
    // Back again, it finds what it missed.
    master.command(NatCommand::Lead);
    master.run(100);
    let opened = master.events();
    assert!(opened.iter().any(|event| {
        matches!(event, NatEvent::Opened { key: it, .. } if *it == key(client(2)))
    }));
}

#[test]
fn a_program_that_starts_finds_what_is_there() {
    let (mut master, _) = pair();
    master.establish(client(0));
    master.open(client(1), 100);
    let (ours, theirs) = master.establish(client(2));
    master.send(client(2), at(VIP), FIN | ACK, (101, 901));
    master.send(theirs, ours, FIN | ACK, (901, 102));
    let before = master.maps.flows.clone();
    let config = config("round_robin", &[1, 1], |_| {});
    let mut next = Engine::new(&config, NodeId::First, &links(), 9);
    let now = master.now + 3_000 * MS;
    next.begin(&mut master.maps, now).unwrap();
    next.tick(&mut master.maps, now).unwrap();
    assert_eq!(master.maps.flows, before);
    let report = next.poll_report().unwrap();
    let mut names = names(&report.events);
    names.sort_unstable();
    assert_eq!(names, ["answered", "opened", "opened"]);
    let NatEvent::Opened { age_ms, .. } = report.events[0] else {
        panic!();
    };
    assert_eq!(age_ms, 3_000);
    assert_eq!(next.poll_report(), None);
    assert_eq!(next.status(&master.maps).flows, 3);
    // Nobody serves before somebody is published.
    assert_eq!(master.open(client(5), 100), None);
}

/// The old master died before it told that the backend had answered; the client has the answer.
#[test]
fn a_client_that_acknowledges_is_in_its_connection() {
    let (mut master, mut standby) = pair();
    let (ours, theirs) = master.open(client(0), 100).unwrap();
    standby.now = master.now;
    teach(&mut master, &mut standby);
    standby.command(NatCommand::Lead);
    let hello = standby.send(client(0), at(VIP), ACK, (101, 4_001)).unwrap();
    assert_eq!((hello.from, hello.to), (ours, theirs));
    let marks = NatEvent::Marks {
        key: key(client(0)),
        backend: standby
            .flow(client(0))
            .map(|it| BackendId(it.backend))
            .unwrap(),
        client: 100,
        backend_mark: 4_000,
        answered: true,
    };
    assert_eq!(standby.events(), [marks]);
    // Its backend's word is no refusal, and it is not forgotten like one that never opened.
    assert!(standby.send(theirs, ours, ACK, (4_001, 101)).is_some());
    standby.run(60_000);
    assert_eq!(
        standby.flow(client(0)).unwrap().state,
        State::Established.number()
    );
    assert_eq!(standby.packets(), []);
}

/// A standby whose process died with this table, and the engine that starts with it.
fn reborn(config: &Config, flows: &BTreeMap<FlowKey, Flow>, now: u64) -> Host {
    let maps = Reference {
        flows: flows.clone(),
        ..Reference::default()
    };
    Host::begin(config, NodeId::Second, maps, now)
}

#[test]
fn what_was_there_is_taken_up_in_pieces_as_fast_as_it_is_reported() {
    let config = config("round_robin", &[1, 1], |_| {});
    let mut master = Host::master(&config);
    let count = 3 * super::super::collect::BATCH as u32;
    for n in 0..count {
        master.establish(client(n));
    }
    let mut next = reborn(&config, &master.maps.flows, master.now);
    let (mut known, mut most) = (0, 0);
    for _ in 0..100 {
        // Nobody takes the reports: it waits.
        next.now += MS;
        let now = next.now;
        next.engine.tick(&mut next.maps, now).unwrap();
        let flows = next.status().flows;
        (known, most) = (flows, most.max(flows - known));
    }
    assert!(
        most <= super::super::collect::BATCH as u64,
        "{most} at once"
    );
    assert!(known <= u64::from(count) * 2 / 3, "{known} wait");
    while next.status().flows < count.into() {
        next.run(1);
    }
    next.run(1);
    let told = tally(names(&next.events()));
    assert_eq!(told["opened"], count as usize);
    assert_eq!(next.maps.flows, master.maps.flows);
}

#[test]
fn a_snapshot_that_comes_while_the_table_is_taken_up_decides() {
    let config = config("round_robin", &[1, 1], |_| {});
    let mut master = Host::master(&config);
    let count = super::super::collect::BATCH as u32 * 3 / 4;
    for n in 0..count {
        master.establish(client(n));
    }
    let left = master.maps.flows.clone();
    // While the other node was dead, some ended, and some began anew, from elsewhere.
    for n in 0..count / 4 {
        master.send(client(n), at(VIP), RST, (101, 0));
    }
    master.run(60_000);
    for n in 0..count / 8 {
        master.establish(client(n));
    }
    let items = {
        let mut again = reborn(&config, &master.maps.flows, master.now);
        again.run(100);
        items(&again.events(), 1_000 + master.now / MS)
    };
    // The snapshot comes before anything was read, in the middle, or afterwards.
    for ticks in 0..6 {
        let mut next = reborn(&config, &left, master.now);
        let tick = |next: &mut Host| {
            next.now += MS;
            let now = next.now;
            next.engine.tick(&mut next.maps, now).unwrap();
        };
        (0..ticks / 2).for_each(|_| tick(&mut next));
        next.command(NatCommand::SnapshotBegin);
        let (first, second) = items.split_at(items.len() / 2);
        next.command(NatCommand::Learn(first.to_vec()));
        (0..ticks).for_each(|_| tick(&mut next));
        next.command(NatCommand::Learn(second.to_vec()));
        next.command(NatCommand::SnapshotEnd);
        next.run(100);
        let keys = |host: &Host| host.maps.flows.keys().copied().collect::<Vec<_>>();
        assert!(keys(&next) == keys(&master), "after {ticks}");
        assert_eq!(next.status().flows, master.status().flows);
    }
}

#[test]
fn two_engines_with_one_seed_do_the_same() {
    let run = || {
        let mut host = Host::master(&config("random", &[1, 2, 3], |_| {}));
        for n in 0..50 {
            let (ours, theirs) = host.open(client(n), 100).unwrap();
            host.send(theirs, ours, RST | ACK, (0, 101));
        }
        host.run(1_000);
        (host.packets(), host.events(), host.maps.flows)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_new_master_refuses_clients_that_find_no_backend_but_nothing_stray() {
    let config = config("round_robin", &[1], |_| {});
    let mut host = Host::new(&config, NodeId::First);
    host.publish(&[]);
    host.command(NatCommand::Lead);
    host.send(at(CLIENT), at(VIP), ACK, (100, 7));
    assert_eq!(host.packets().len(), 0);
    host.send(at(CLIENT), at(VIP), SYN, (100, 0));
    assert_eq!(host.packets().len(), 1);
    host.now += super::super::events::GRACE;
    host.send(at(CLIENT), at(VIP), ACK, (100, 7));
    assert_eq!(host.packets().len(), 1);
}
