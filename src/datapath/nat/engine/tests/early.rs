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
    // The kernel's are there from the beginning.
    (host.maps.ports, host.maps.turns) = (vec![0; 8], vec![0; 8]);
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
