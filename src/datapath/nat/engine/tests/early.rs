//! As standby: what the master hands over, before its death is known.

use super::*;
use crate::datapath::nat::layout::Neighbour;

/// Every frame here comes from the peer.
fn standby(replication: Acknowledge) -> Host {
    let config = config("round_robin", &[1, 1], |config| {
        mode(config).replication = replication;
    });
    let mut host = Host::new(&config, NodeId::Second);
    host.publish(&[0, 1]);
    host.run(10);
    host.maps.lease = 0;
    host.maps.accept = u64::MAX;
    let peer = Neighbour::default();
    host.maps.neighbours = [(FRONT, peer)].into();
    host
}

fn lead(host: &mut Host) {
    host.maps.lease = u64::MAX;
    host.command(NatCommand::Lead);
    host.tell();
}

#[test]
fn connections_stand_before_it_leads_and_are_told_once_it_does() {
    for replication in [Acknowledge::Async, Acknowledge::Sync] {
        let mut host = standby(replication);
        host.establish(client(0));
        host.open(client(1), 100).expect("served at once");
        host.run(50);
        assert_eq!(host.events(), [], "a standby reports nothing");
        assert_eq!(host.packets(), [], "and nobody waits for its word");
        lead(&mut host);
        let told = host.events();
        assert_eq!(names(&told), ["opened", "answered", "opened"]);
        let clients: Vec<_> = told
            .iter()
            .filter_map(|event| match event {
                NatEvent::Opened { key, .. } => Some(key.client),
                _ => None,
            })
            .collect();
        assert_eq!(clients, [client(0), client(1)]);
    }
}

/// What a process that died had begun in its last moments, a master may not know.
#[test]
fn the_last_connections_of_a_dead_process_are_told_as_such() {
    let config = config("round_robin", &[1, 1], |_| {});
    let mut old = Host::master(&config);
    old.establish(client(0));
    old.now += 5_000 * MS;
    old.establish(client(1));
    old.open(client(2), 100).unwrap();
    let (ours, theirs) = old.establish(client(3));
    old.send(theirs, ours, RST, (901, 0)).unwrap();
    let died = old.now + 100 * MS;
    let mut engine = Engine::new(&config, NodeId::First, &links(), 7);
    engine.begin(&mut old.maps, died).unwrap();
    engine.inherit(died);
    let mut host = Host {
        engine,
        now: died,
        maps: old.maps,
        events: Vec::new(),
        ticket: 0,
    };
    host.run(50);
    let inherited: Vec<_> = host
        .events()
        .iter()
        .filter_map(|event| match event {
            NatEvent::Inherited { key, .. } => Some(key.client),
            _ => None,
        })
        .collect();
    assert_eq!(inherited, [client(1)], "answered, and begun lately");
}

#[test]
fn a_master_takes_what_the_peers_last_process_had_unless_its_place_is_taken() {
    let config = config("round_robin", &[1, 1], |_| {});
    let mut old = Host::new(&config, NodeId::Second);
    old.publish(&[0, 1]);
    old.command(NatCommand::Lead);
    old.establish(client(0));
    old.establish(client(1));
    let items = items(&old.events(), 1_000 + old.now / MS);
    let opened = items.into_iter();
    let opened: Vec<_> = opened
        .filter(|item| matches!(item, Item::NatOpen { .. }))
        .collect();
    assert_eq!(opened.len(), 2);
    let mut master = Host::master(&config);
    let (mine, _) = master.establish(client(1));
    master.command(NatCommand::Inherit(opened.clone()));
    assert_eq!(
        master.flow(client(0)).map(|it| it.to_sport),
        old.flow(client(0)).map(|it| it.to_sport)
    );
    let kept = master.flow(client(1)).unwrap().to_sport;
    assert_eq!(kept.get(), mine.port(), "its own goes on");
    master.run(50);
    assert!(!names(&master.events()).contains(&"inherited"));
    // A backup leaves it to the log.
    let mut backup = Host::new(&config, NodeId::First);
    backup.command(NatCommand::Inherit(opened));
    assert_eq!(backup.flow(client(0)), None);
}

#[test]
fn what_ended_or_was_learned_otherwise_meanwhile_is_not_told() {
    let mut host = standby(Acknowledge::Async);
    host.establish(client(0));
    let (ours, theirs) = host.establish(client(1));
    host.send(theirs, ours, RST, (901, 0)).unwrap();
    // The master lives after all, and says that the first one is over.
    let key = key(client(0));
    host.command(NatCommand::Learn(vec![Item::NatClose { key }]));
    lead(&mut host);
    let told = host.events();
    assert!(!names(&told).contains(&"opened"), "{told:?}");
}

#[test]
fn a_refusal_that_came_early_goes_to_the_next_backend() {
    let mut host = standby(Acknowledge::Async);
    let (ours, theirs) = host.open(client(0), 100).unwrap();
    host.send(theirs, ours, RST | ACK, (0, 101));
    assert_eq!(host.packets(), []);
    lead(&mut host);
    let again: Vec<_> = host.packets().iter().map(|seen| seen.to).collect();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0], theirs);
}
