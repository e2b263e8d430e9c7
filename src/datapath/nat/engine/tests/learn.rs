//! A standby's table.

use super::*;
use crate::replication::Replica;
use crate::wire::replication::NatRecord;

fn standby() -> Host {
    Host::new(&config("round_robin", &[1, 1], |_| {}), NodeId::Second)
}

fn record(client: SocketAddr, port: u16, target: usize) -> Item {
    let source = SocketAddr::new(at("198.51.100.100:0").ip(), port);
    Item::NatOpen {
        key: key(client),
        record: NatRecord {
            service: crate::model::ServiceId::of("web"),
            backend: id(target),
            source,
            target: backend(target),
            client_mark: 100,
            backend_mark: None,
            since_unix_ms: 500_000,
        },
    }
}

fn learn(host: &mut Host, items: Vec<Item>) {
    host.command(NatCommand::Learn(items));
}

/// Both entries of each flow point to each other.
fn whole(host: &Host) {
    for (key, flow) in &host.maps.flows {
        let other = host.maps.flows[&flow.opposite(key.family)];
        assert_eq!(other.opposite(key.family), *key);
    }
}

#[test]
fn an_entry_has_all_that_the_program_needs() {
    let sync = config("round_robin", &[1, 1], |config| {
        mode(config).replication = Acknowledge::Sync;
    });
    let mut host = Host::new(&sync, NodeId::Second);
    learn(&mut host, vec![record(client(0), 20_000, 1)]);
    let mut master = Host::master(&sync);
    master.open(client(0), 100).unwrap();
    let (made, front) = (
        master.flow(client(0)).unwrap(),
        host.flow(client(0)).unwrap(),
    );
    assert_eq!((front.flags, front.mss), (made.flags, made.mss));
    assert_eq!(
        (front.state, front.client_isn, front.seq),
        (made.state, 100, made.seq)
    );
    assert_eq!((front.ifindex, host.maps.flows.len()), (BACK, 2));
    // 500,000 ms since 1970, and the clock's zero was at 1,000 ms.
    assert_eq!(front.opened, 499_000 * MS);
    let made = master.maps.flows[&made.opposite(4)];
    let back = host.maps.flows[&front.opposite(4)];
    assert_eq!(
        (back.flags, back.mss, back.ifindex),
        (made.flags, made.mss, FRONT)
    );
    whole(&host);
}

#[test]
fn what_was_written_lately_is_not_read_again_but_what_went_is() {
    let mut host = standby();
    let close = Item::NatClose {
        key: key(client(0)),
    };
    learn(&mut host, vec![record(client(0), 20_000, 1)]);
    let table = std::mem::take(&mut host.maps.flows);
    learn(&mut host, vec![close.clone()]);
    assert_eq!(
        host.maps.flows.len(),
        2,
        "written, though nothing was there to be read"
    );
    // The patience of a standby, and a walk.
    host.run(15_000);
    assert_eq!(host.maps.flows.len(), 0);
    learn(&mut host, vec![close.clone()]);
    assert_eq!(host.maps.flows.len(), 0, "it went");
    // Whoever leads reads what the program wrote.
    learn(&mut host, vec![record(client(0), 20_000, 1)]);
    host.command(NatCommand::Lead);
    host.command(NatCommand::Yield);
    host.maps.flows.clear();
    learn(&mut host, vec![close]);
    assert_eq!(host.maps.flows.len(), 0, "nothing to be ended");
    assert_eq!(table.len(), 2);
}

#[test]
fn marks_make_it_answered_and_an_end_ends_both_entries() {
    let mut host = standby();
    let marks = Item::NatMarks {
        key: key(client(0)),
        client: 100,
        backend: 900,
    };
    learn(&mut host, vec![record(client(0), 20_000, 1), marks]);
    let front = host.flow(client(0)).unwrap();
    let back = host.maps.flows[&front.opposite(4)];
    for flow in [front, back] {
        assert_eq!(flow.state, State::Established.number());
        assert_eq!((flow.client_isn, flow.backend_isn), (100, 900));
    }
    assert_eq!(
        (front.seq, front.ack, back.seq, back.ack),
        (101, 901, 901, 101)
    );
    learn(
        &mut host,
        vec![Item::NatClose {
            key: key(client(0)),
        }],
    );
    let front = host.flow(client(0)).unwrap();
    assert!(super::super::learn::is_closed(&front));
    assert!(super::super::learn::is_closed(
        &host.maps.flows[&front.opposite(4)]
    ));
    // Twice is harmless; so is what is not known.
    learn(
        &mut host,
        vec![Item::NatClose {
            key: key(client(0)),
        }],
    );
    learn(
        &mut host,
        vec![Item::NatClose {
            key: key(client(7)),
        }],
    );
    learn(
        &mut host,
        vec![Item::NatMarks {
            key: key(client(7)),
            client: 1,
            backend: 2,
        }],
    );
    assert_eq!(host.maps.flows.len(), 2);
    host.run(12_000);
    assert!(host.maps.flows.is_empty());
}

#[test]
fn a_flow_that_goes_elsewhere_leaves_nothing_behind() {
    for one_list in [true, false] {
        let mut host = standby();
        let moves = vec![record(client(0), 20_000, 0), record(client(0), 20_001, 1)];
        if one_list {
            learn(&mut host, moves);
        } else {
            moves
                .into_iter()
                .for_each(|item| learn(&mut host, vec![item]));
        }
        assert_eq!(host.maps.flows.len(), 2);
        whole(&host);
        assert_eq!(host.flow(client(0)).unwrap().to_sport.get(), 20_001);
    }
}

#[test]
fn a_port_that_was_given_on_belongs_to_its_new_flow() {
    let mut host = standby();
    learn(
        &mut host,
        vec![
            record(client(0), 20_000, 0),
            Item::NatClose {
                key: key(client(0)),
            },
        ],
    );
    // The master has forgotten the first one, and its port is another's now.
    learn(&mut host, vec![record(client(1), 20_000, 0)]);
    // The first one's time is up.
    host.run(15_000);
    assert_eq!(host.maps.flows.len(), 2);
    // It comes again, goes again.
    let end = Item::NatClose {
        key: key(client(0)),
    };
    learn(&mut host, vec![record(client(0), 20_001, 0), end]);
    whole(&host);
    host.run(15_000);
    assert_eq!(host.maps.flows.len(), 2);
    whole(&host);
    assert_eq!(host.flow(client(1)).unwrap().to_sport.get(), 20_000);
}

#[test]
fn a_snapshot_replaces_what_was_there() {
    let mut host = standby();
    learn(
        &mut host,
        vec![record(client(0), 20_000, 0), record(client(1), 20_001, 0)],
    );
    host.command(NatCommand::SnapshotBegin);
    learn(
        &mut host,
        vec![record(client(1), 20_001, 0), record(client(2), 20_002, 0)],
    );
    host.run(100);
    assert_eq!(host.maps.flows.len(), 6, "nothing goes before its end");
    host.command(NatCommand::SnapshotEnd);
    learn(&mut host, vec![record(client(3), 20_003, 0)]);
    host.run(100);
    assert_eq!(host.maps.flows.len(), 6);
    assert_eq!(host.flow(client(0)), None);
    assert_eq!(host.status().flows, 3);
    whole(&host);
}

#[test]
fn a_snapshot_that_came_to_nothing_removes_nothing_and_the_next_one_does() {
    let mut host = standby();
    learn(&mut host, vec![record(client(0), 20_000, 0)]);
    host.command(NatCommand::SnapshotBegin);
    learn(&mut host, vec![record(client(1), 20_001, 0)]);
    host.command(NatCommand::SnapshotVoid);
    host.command(NatCommand::SnapshotEnd);
    host.run(3_000);
    assert_eq!(host.maps.flows.len(), 4);
    host.command(NatCommand::SnapshotBegin);
    host.command(NatCommand::SnapshotEnd);
    host.run(100);
    assert!(host.maps.flows.is_empty());
}

#[test]
fn who_leads_with_remnants_of_a_snapshot_sweeps_on_and_spares_what_is_new() {
    let mut host = standby();
    host.publish(&[0, 1]);
    learn(&mut host, vec![record(client(0), 20_000, 0)]);
    host.command(NatCommand::SnapshotBegin);
    host.command(NatCommand::SnapshotEnd);
    host.now += MS;
    host.command(NatCommand::Lead);
    // Its event is not read yet.
    host.pass(&frame(client(1), at(VIP), SYN, (100, 0)))
        .unwrap();
    host.run(50);
    assert_eq!(host.flow(client(0)), None);
    assert!(host.flow(client(1)).is_some());
}

/// The node has the whole snapshot that came before, and nothing of the torn one: what it has after
/// these reports must be what the table has.
#[test]
fn who_leads_after_half_a_snapshot_tells_what_it_brought() {
    for void in [true, false] {
        let mut host = standby();
        host.publish(&[0, 1]);
        let before = vec![
            record(client(0), 20_000, 0),
            record(client(1), 20_001, 0),
            record(client(2), 20_002, 0),
        ];
        host.command(NatCommand::SnapshotBegin);
        learn(&mut host, before.clone());
        host.command(NatCommand::SnapshotEnd);
        host.run(100);
        // Of two attempts, one has gone elsewhere and one is new.
        for half in [record(client(1), 20_005, 1), record(client(3), 20_003, 0)] {
            host.command(NatCommand::SnapshotBegin);
            learn(&mut host, vec![half]);
            if void {
                host.command(NatCommand::SnapshotVoid);
            }
        }
        host.command(NatCommand::Lead);
        host.establish(client(4));
        host.run(100);
        let mut replica = Replica::default();
        let told = items(&host.events(), 10_000_000);
        let opened = |item: &&Item| matches!(item, Item::NatOpen { .. });
        assert_eq!(told.iter().filter(opened).count(), 3, "{told:?}");
        for item in before.iter().chain(&told) {
            replica.apply(item);
        }
        let targets = |n: u32| replica.nat()[&key(client(n))].source.port();
        assert_eq!([0, 1, 2, 3].map(targets), [20_000, 20_005, 20_002, 20_003]);
        assert_eq!(replica.nat().len(), 5);
        assert_eq!(host.maps.flows.len(), 10);
        whole(&host);
        // Once is enough.
        host.run(3_000);
        host.command(NatCommand::Yield);
        host.command(NatCommand::Lead);
        host.run(100);
        assert_eq!(items(&host.events(), 10_000_000), []);
    }
}

/// What the whole snapshot does not have, and the sweep after it had not met yet, is nothing to
/// tell.
#[test]
fn who_leads_after_a_whole_snapshot_tells_nothing_of_it() {
    let mut host = standby();
    host.publish(&[0, 1]);
    host.command(NatCommand::SnapshotBegin);
    learn(&mut host, vec![record(client(0), 20_000, 0)]);
    host.command(NatCommand::SnapshotVoid);
    host.command(NatCommand::SnapshotBegin);
    learn(&mut host, vec![record(client(1), 20_001, 0)]);
    host.command(NatCommand::SnapshotEnd);
    host.command(NatCommand::Lead);
    host.run(100);
    assert_eq!(items(&host.events(), 10_000_000), []);
    assert_eq!(host.status().flows, 1);
    assert_eq!(host.flow(client(0)), None);
}

#[test]
fn what_makes_no_sense_is_counted_and_skipped() {
    let mut host = standby();
    let Item::NatOpen { key, record: good } = record(client(0), 20_000, 0) else {
        panic!();
    };
    let unknown = NatRecord {
        service: crate::model::ServiceId(1),
        ..good
    };
    let mixed = NatRecord {
        target: at("[2001:db8::1]:80"),
        ..good
    };
    let items = [unknown, mixed].map(|record| Item::NatOpen { key, record });
    learn(&mut host, items.to_vec());
    let key = NatKey {
        service: at("[2001:db8::100]:80"),
        ..key
    };
    learn(
        &mut host,
        vec![
            Item::NatClose { key },
            Item::NatMarks {
                key,
                client: 1,
                backend: 2,
            },
        ],
    );
    assert!(host.maps.flows.is_empty());
    assert_eq!(host.status().counters["learned_strange"], 4);
}

#[test]
fn a_master_learns_from_nobody() {
    let mut host = Host::master(&config("round_robin", &[1, 1], |_| {}));
    learn(&mut host, vec![record(client(0), 20_000, 0)]);
    host.command(NatCommand::SnapshotBegin);
    host.establish(client(1));
    host.command(NatCommand::SnapshotEnd);
    host.run(3_000);
    assert_eq!(host.maps.flows.len(), 2);
}

#[test]
fn a_record_without_room_leaves_no_half() {
    let mut host = standby();
    host.maps.capacity = 5;
    let items = (0..3).map(|n| record(client(n), 20_000 + n as u16, 0));
    learn(&mut host, items.collect());
    whole(&host);
    assert_eq!(host.maps.flows.len(), 4);
    assert_eq!(host.status().counters["learned_no_room"], 1);
    assert_eq!(host.status().flows, 2);
    // There is room again, and the record comes again.
    host.maps.capacity = 6;
    learn(
        &mut host,
        vec![record(client(0), 20_000, 0), record(client(1), 20_001, 0)],
    );
    learn(&mut host, vec![record(client(2), 20_002, 0)]);
    whole(&host);
    assert_eq!(host.status().flows, 3);
}
