//! Handshakes that wait for the standby.

use super::*;

fn sync_master() -> Host {
    Host::master(&config("round_robin", &[1, 1], |config| {
        mode(config).replication = Acknowledge::Sync;
    }))
}

/// A SYN and its SYN-ACK, which the program holds.
fn held(host: &mut Host, client: SocketAddr) {
    let (ours, theirs) = host.open(client, 100).unwrap();
    assert_eq!(host.send(theirs, ours, SYN | ACK, (900, 101)), None);
}

fn answer(client: SocketAddr) -> Seen {
    Seen {
        from: at(VIP),
        to: client,
        flags: SYN | ACK,
        seq: 900,
        ack: 101,
        payload: 0,
        mss: Some(1_460),
    }
}

#[test]
fn a_client_is_answered_once_the_standby_knows_it() {
    let mut host = sync_master();
    let (one, two) = (client(0), client(1));
    held(&mut host, one);
    let ticket = host.ticket;
    held(&mut host, two);
    assert_eq!(
        names(&host.events()),
        ["opened", "answered", "opened", "answered"]
    );
    assert_eq!(host.packets(), []);
    assert_eq!(host.status().waiting, 2);
    host.command(NatCommand::Acknowledged {
        ticket: ticket - 1,
        by_standby: true,
    });
    assert_eq!(
        host.packets(),
        [answer(one)],
        "its `opened` is one report before its SYN-ACK"
    );
    host.acknowledge(true);
    assert_eq!(host.packets(), [answer(two)]);
    let status = host.status();
    assert_eq!((status.waiting, status.released_acknowledged), (0, 2));
    assert!(!status.degraded);
}

/// What the standby knows of the old connection is no word for the new one on its ports.
#[test]
fn a_client_that_forgot_and_begins_anew_waits_again() {
    let mut host = sync_master();
    let client = client(0);
    let (ours, theirs) = host.open(client, 100).unwrap();
    host.send(theirs, ours, SYN | ACK, (900, 101));
    host.acknowledge(true);
    host.packets();
    host.send(client, at(VIP), ACK, (101, 901)).unwrap();
    host.open(client, 7_000).unwrap();
    host.send(theirs, ours, ACK, (901, 101)).unwrap();
    host.send(client, at(VIP), RST, (101, 0)).unwrap();
    host.acknowledge(true);
    let (ours, theirs) = host.open(client, 7_000).unwrap();
    let answer = host.send(theirs, ours, SYN | ACK, (5_000, 7_001));
    assert_eq!((answer, host.packets()), (None, Vec::new()));
    assert_eq!(host.status().waiting, 1);
    host.acknowledge(true);
    let sent = host.packets();
    assert_eq!((sent.len(), sent[0].to, sent[0].ack), (1, client, 7_001));
}

#[test]
fn with_nobody_to_wait_for_it_goes_on_and_is_counted_so() {
    let mut host = sync_master();
    let (ours, theirs) = host.open(client(0), 100).unwrap();
    host.acknowledge(false);
    host.send(theirs, ours, SYN | ACK, (900, 101));
    assert_eq!(host.packets(), [answer(client(0))]);
    assert_eq!(host.status().released_alone, 1);
}

#[test]
fn a_slow_standby_costs_its_protection_and_gets_it_back() {
    let mut host = sync_master();
    held(&mut host, client(0));
    host.run(10);
    held(&mut host, client(1));
    host.run(9);
    assert_eq!(host.packets(), [], "the first has waited for 19 ms");
    host.run(1);
    let both = [answer(client(0)), answer(client(1))];
    assert_eq!(
        host.packets(),
        both,
        "when one was too long for it, none waits"
    );
    held(&mut host, client(2));
    assert_eq!(host.packets(), [answer(client(2))]);
    let status = host.status();
    assert_eq!((status.released_late, status.degraded), (3, true));
    // The acknowledgement of the first comes, of the others none.
    host.run(20);
    host.command(NatCommand::Acknowledged {
        ticket: 1,
        by_standby: true,
    });
    assert!(host.status().degraded, "it lags behind");
    host.acknowledge(true);
    assert!(!host.status().degraded);
    held(&mut host, client(3));
    assert_eq!(host.packets(), []);
    host.acknowledge(true);
    assert_eq!(host.packets(), [answer(client(3))]);
    assert_eq!(host.status().released_acknowledged, 1);
}

#[test]
fn a_syn_ack_that_comes_again_takes_the_place_of_the_one_that_waits() {
    let mut host = sync_master();
    let (ours, theirs) = host.open(client(0), 100).unwrap();
    host.send(theirs, ours, SYN | ACK, (900, 101));
    host.send(theirs, ours, SYN | ACK, (950, 101));
    host.acknowledge(true);
    let sent = host.packets();
    assert_eq!(sent.iter().map(|it| it.seq).collect::<Vec<_>>(), [950]);
    // The client did not get it: the backend sends it again, and the standby knows by now.
    host.send(theirs, ours, SYN | ACK, (950, 101));
    assert_eq!(host.packets().len(), 1);
    assert_eq!(host.status().released_acknowledged, 1, "one handshake");
}

#[test]
fn a_handshake_that_was_given_up_is_not_answered() {
    let mut host = sync_master();
    held(&mut host, client(0));
    // The backend, or the client, resets it.
    host.send(client(0), at(VIP), RST, (101, 0));
    assert_eq!(host.status().waiting, 0);
    host.acknowledge(true);
    assert_eq!(host.packets(), []);
    held(&mut host, client(1));
    host.command(NatCommand::Yield);
    host.command(NatCommand::Acknowledged {
        ticket: 99,
        by_standby: true,
    });
    host.run(100);
    assert_eq!(host.packets(), []);
    assert_eq!(host.status().waiting, 0);
}

#[test]
fn what_was_taken_over_is_answered_at_once() {
    let mut first = sync_master();
    let (ours, theirs) = first.open(client(0), 100).unwrap();
    let mut second = Host::new(
        &config("round_robin", &[1, 1], |config| {
            mode(config).replication = Acknowledge::Sync;
        }),
        NodeId::Second,
    );
    second.command(NatCommand::Learn(items(&first.events(), 2_000_000)));
    second.command(NatCommand::Lead);
    second.send(theirs, ours, SYN | ACK, (900, 101));
    assert_eq!(second.packets(), [answer(client(0))]);
    second.send(client(0), at(VIP), ACK, (101, 901)).unwrap();
}

#[test]
fn while_a_switchover_is_offered_only_the_standbys_word_counts() {
    let mut host = sync_master();
    held(&mut host, client(0));
    host.command(NatCommand::Pause);
    host.acknowledge(false);
    host.run(1_000);
    assert_eq!(host.packets(), [], "no timer, and nobody else");
    held(&mut host, client(1));
    host.command(NatCommand::Acknowledged {
        ticket: 2,
        by_standby: true,
    });
    assert_eq!(host.packets(), [answer(client(0))]);
    // It came to nothing: the other one has waited for too long.
    host.command(NatCommand::Resume);
    host.run(20);
    assert_eq!(host.packets(), [answer(client(1))]);
    let status = host.status();
    assert_eq!((status.released_acknowledged, status.released_late), (1, 1));
}

#[test]
fn an_old_handshake_does_not_go_on_during_a_switchover_either() {
    let mut host = sync_master();
    let (ours, theirs) = host.open(client(0), 100).unwrap();
    host.send(theirs, ours, SYN | ACK, (900, 101));
    host.run(20);
    assert_eq!(
        host.packets(),
        [answer(client(0))],
        "late, and lost on its way"
    );
    host.command(NatCommand::Pause);
    host.send(theirs, ours, SYN | ACK, (900, 101));
    assert_eq!(host.packets(), []);
    host.acknowledge(true);
    assert_eq!(host.packets(), [answer(client(0))]);
}
