//! Two nodes: who serves a packet, who hands it on, and that nobody hands it back.

use super::super::super::layout::{Neighbour, OWNED_VIP};
use super::*;

const HERE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THERE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const PROXIED: &str = "192.0.2.101:80";

/// A node that is master until 2,000 ns, and knows its peer.
fn node(flags: u32) -> Reference {
    let mut world = world(flags, Scheduler::RoundRobin);
    world.lease = 2_000;
    for at in [at(VIP), at(PROXIED)] {
        let owned = world.addresses.entry(at.ip().into()).or_default();
        owned.flags |= OWNED_VIP;
    }
    let at = Neighbour {
        own: HERE,
        peer: THERE,
        zero: 0,
    };
    world.neighbours.insert(4, at);
    world
}

fn by(sender: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&HERE);
    frame[6..12].copy_from_slice(&sender);
    frame
}

fn syn(to: &str, seq: u32) -> Vec<u8> {
    frame(at(CLIENT), at(to), sent(SYN, seq, 0), &[])
}

fn ack(to: &str, seq: u32) -> Vec<u8> {
    frame(at(CLIENT), at(to), sent(ACK, seq, 77), &[1, 2, 3])
}

fn answer(world: &Reference, seq: u32) -> Vec<u8> {
    let front = &world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
    let back = front.opposite(V4);
    frame(back.from(), back.to(), sent(SYN | ACK, 500, seq + 1), &[])
}

fn when(now: u64) -> Arrival {
    Arrival { now, ..arrival() }
}

/// What comes for a VIP, of each kind.
fn all() -> Vec<Vec<u8>> {
    let fragment = {
        let mut bytes = syn(VIP, 1);
        bytes[20] |= 0x20;
        bytes
    };
    let mut udp = Vec::new();
    let builder = PacketBuilder::ethernet2([0; 6], [0; 6]);
    let builder = builder.ipv4([203, 0, 113, 1], [192, 0, 2, 101], 64);
    builder.udp(9, 9).write(&mut udp, &[1]).unwrap();
    vec![
        syn(VIP, 1),
        ack(VIP, 1),
        syn(PROXIED, 1),
        ack(PROXIED, 1),
        fragment,
        udp,
    ]
}

#[test]
fn a_node_that_is_not_master_hands_everything_to_its_peer_and_decides_nothing() {
    let mut world = node(0);
    for packet in all() {
        let Verdict::Relay(relayed) = world.process(&by(STRANGER, packet.clone()), &when(2_000))
        else {
            panic!("not relayed");
        };
        assert_eq!(relayed[..6], THERE);
        assert_eq!(relayed[6..12], HERE);
        assert_eq!(relayed[12..], packet[12..], "else as it came");
    }
    assert!(world.flows.is_empty() && world.events.is_empty() && world.refusals.is_empty());
    assert_eq!(world.stales.len(), 2, "one sender, two VIPs");
    assert_eq!(world.stales[0].mac, STRANGER);
    // Not told again within a second.
    world.process(&by(STRANGER, syn(VIP, 1)), &when(1_000_001_999));
    assert_eq!(world.stales.len(), 2);
    world.process(&by(STRANGER, syn(VIP, 1)), &when(1_000_002_000));
    assert_eq!(world.stales.len(), 3);
}

#[test]
fn what_was_handed_over_is_never_handed_back() {
    let mut world = node(0);
    for packet in all() {
        let verdict = world.process(&by(THERE, packet), &when(2_000));
        assert_eq!(verdict, Verdict::Drop(Counter::Loop));
    }
    // Nor by a master who does not know it.
    world.second = 2_000;
    for packet in [ack(VIP, 1), ack(PROXIED, 1)] {
        let verdict = world.process(&by(THERE, packet), &arrival());
        assert!(!matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
    }
}

#[test]
fn without_a_known_peer_nothing_is_handed_anywhere() {
    let mut world = node(0);
    world.neighbours.clear();
    for packet in all() {
        let verdict = world.process(&by(STRANGER, packet), &when(2_000));
        assert_eq!(verdict, Verdict::Drop(Counter::Lease));
    }
}

#[test]
fn a_standby_serves_what_its_master_hands_over_and_hands_on_what_others_send() {
    let mut world = node(SERVICE_SYNC);
    (world.lease, world.accept) = (0, 2_000);
    let verdict = world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
    let verdict = world.process(&by(THERE, syn(VIP, 1)), &arrival());
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    let verdict = world.process(&by(THERE, syn(PROXIED, 1)), &arrival());
    assert_eq!(verdict, Verdict::Pass);
    assert_eq!(world.counters[&Counter::Accepted], 2);
    // Its answer comes by the peer as well, and waits for nobody: who would know of it first?
    let answer = answer(&world, 1);
    let verdict = world.process(&by(STRANGER, answer.clone()), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
    let verdict = world.process(&by(THERE, answer), &arrival());
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    // Its own lease.
    let verdict = world.process(&by(THERE, syn(VIP, 9)), &when(2_000));
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
}

#[test]
fn a_dead_process_leaves_its_connections_to_the_table_and_the_rest_to_the_peer() {
    let mut world = node(SERVICE_SYNC);
    let opened = world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    assert!(matches!(opened, Verdict::Redirect { .. }));
    let answer = answer(&world, 1);
    let held = world.process(&by(STRANGER, answer.clone()), &arrival());
    assert_eq!(held, Verdict::Drop(Counter::Waiting));
    world.dead = true;
    world.stales.clear();
    let later = when(2_000 + FROZEN - 1);
    // Nobody is there who could send it later.
    let verdict = world.process(&by(STRANGER, answer.clone()), &later);
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    for packet in [ack(VIP, 2), syn(VIP, 1)] {
        for sender in [STRANGER, THERE] {
            let verdict = world.process(&by(sender, packet.clone()), &later);
            assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
        }
    }
    assert_eq!(world.counters[&Counter::Frozen], 5);
    let other = frame(at("203.0.113.1:40001"), at(VIP), sent(SYN, 1, 0), &[]);
    for packet in [other, ack(PROXIED, 1)] {
        let verdict = world.process(&by(STRANGER, packet), &later);
        assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
    }
    assert!(world.stales.is_empty(), "nobody reads them");
    // The peer will use the ports again one day.
    let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &when(2_000 + FROZEN));
    assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
}

/// What follows on these ports is the peer's, and the old entry would send it elsewhere.
#[test]
fn a_new_connection_on_old_ports_ends_the_frozen_one_and_is_the_peers() {
    for dead in [true, false] {
        let mut world = node(0);
        world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
        // Killed, or started again and not knowing who leads.
        (world.dead, world.frozen) = (dead, !dead);
        for packet in [syn(VIP, 5), ack(VIP, 6)] {
            let verdict = world.process(&by(STRANGER, packet), &arrival());
            assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
        }
        assert!(world.flows.is_empty());
    }
}

/// Where the peer hands over what its stale neighbours send, and has not begun to lead yet, a new
/// connection would be dropped and repeated after a second.
#[test]
fn what_is_not_decided_while_the_mastership_is_offered_is_the_peers() {
    let mut world = node(0);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    let new = || frame(at("203.0.113.1:40001"), at(VIP), sent(SYN, 1, 0), &[]);
    for offered in [false, true] {
        (world.frozen, world.offered) = (true, offered);
        for packet in [new(), ack(PROXIED, 1)] {
            let verdict = world.process(&by(STRANGER, packet.clone()), &arrival());
            assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
            let verdict = world.process(&by(THERE, packet), &arrival());
            match verdict {
                Verdict::Relay(_) => assert!(offered),
                other => assert_eq!((other, offered), (Verdict::Drop(Counter::Loop), false)),
            }
        }
    }
    let verdict = world.process(&by(THERE, ack(VIP, 2)), &arrival());
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
}

#[test]
fn a_process_that_never_led_leaves_nothing() {
    let mut world = node(0);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    (world.lease, world.dead) = (0, true);
    let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
    let verdict = world.process(&by(THERE, ack(VIP, 2)), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
}

#[test]
fn a_process_that_hangs_forwards_until_it_is_dead_and_decides_until_its_lease_ends() {
    let mut world = node(0);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    let late = 2_000 + HUNG;
    for now in [1_999, 2_000, late - 1] {
        let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &when(now));
        assert!(matches!(verdict, Verdict::Redirect { .. }), "{now}");
    }
    let other = frame(at("203.0.113.1:40009"), at(VIP), sent(SYN, 7, 0), &[]);
    let verdict = world.process(&by(STRANGER, other), &when(2_000));
    assert!(matches!(verdict, Verdict::Relay(_)));
    let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &when(late));
    assert!(matches!(verdict, Verdict::Relay(_)));
    // One that turns has taken the lease back.
    world.lease = late;
    let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &when(late + 1));
    assert!(matches!(verdict, Verdict::Redirect { .. }));
    world.lease = 0;
    let verdict = world.process(&by(STRANGER, ack(VIP, 2)), &when(late + 1));
    assert!(matches!(verdict, Verdict::Relay(_)));
}

#[test]
fn connections_of_the_host_stay_where_they_are() {
    let mut world = node(0);
    let key = FlowKey::new(at(CLIENT), at(PROXIED));
    let other = frame(at("203.0.113.1:40001"), at(PROXIED), sent(ACK, 2, 77), &[]);
    world.sockets.insert(key);
    // The one that gave up the mastership has it; the other hands it back to it.
    world.lease = 0;
    for sender in [STRANGER, THERE] {
        let verdict = world.process(&by(sender, ack(PROXIED, 2)), &arrival());
        assert_eq!(verdict, Verdict::Pass);
    }
    let verdict = world.process(&by(STRANGER, other.clone()), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
    let verdict = world.process(&by(THERE, other.clone()), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
    // The master: a second chance for what it does not know, and a new connection is its own.
    (world.lease, world.second) = (2_000, 1_500);
    assert_eq!(
        world.process(&by(STRANGER, ack(PROXIED, 2)), &arrival()),
        Verdict::Pass
    );
    assert_eq!(
        world.process(&by(STRANGER, syn(PROXIED, 2)), &arrival()),
        Verdict::Pass
    );
    let verdict = world.process(&by(STRANGER, other.clone()), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
    assert_eq!(world.counters[&Counter::Handed], 1);
    assert_eq!(
        world.process(&by(STRANGER, other), &when(1_500)),
        Verdict::Pass
    );
    // Its sockets are gone with the process, whatever the table says.
    world.dead = true;
    let verdict = world.process(&by(STRANGER, ack(PROXIED, 2)), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
}

#[test]
fn the_peer_has_a_new_connection_on_the_ports_of_one_that_is_over_here() {
    let mut world = node(0);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    let opened = answer(&world, 1);
    world.process(&opened, &arrival());
    let end =
        |from: &str, to: &str, seq, ack| frame(at(from), at(to), sent(ACK | FIN, seq, ack), &[]);
    world.process(&by(STRANGER, end(CLIENT, VIP, 2, 501)), &arrival());
    let key = FlowKey::new(at(CLIENT), at(VIP));
    let back = world.flows[&key].opposite(V4);
    let last = frame(back.from(), back.to(), sent(ACK | FIN, 501, 3), &[]);
    world.process(&last, &arrival());
    assert_eq!(world.flows[&key].state, State::Closed.number());
    // A process hangs until its lease is over: the SYN goes to the peer and leaves the old entry, by which
    // the frozen node would forward what follows when the process is dead.
    let mut hung = world.clone();
    hung.lease = 500;
    let new = by(
        STRANGER,
        frame(at(CLIENT), at(VIP), sent(SYN, 9_000, 0), &[]),
    );
    assert!(matches!(hung.process(&new, &arrival()), Verdict::Relay(_)));
    hung.dead = true;
    let next = frame(at(CLIENT), at(VIP), sent(ACK, 9_001, 1 << 31), &[]);
    let verdict = hung.process(&by(STRANGER, next.clone()), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
    // The other way round: the hung one began it in the last of its lease. Its peer, which has not heard
    // of it, does not send it to the old one's backend, whose RST would end it.
    let mut peer = world.clone();
    (peer.lease, peer.accept) = (0, 2_000);
    let verdict = peer.process(&by(THERE, next.clone()), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
    (peer.lease, peer.waits, peer.accept, peer.second) = (2_000, 2_000, 0, 2_000);
    let verdict = peer.process(&by(THERE, next), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
    world.second = 2_000;
    // The old one's last word goes its way, as does what is not known to be another's.
    let says = |ack| by(STRANGER, frame(at(CLIENT), at(VIP), sent(ACK, 3, ack), &[]));
    for ack in [502, 502 + (1 << 22)] {
        let verdict = world.process(&says(ack), &arrival());
        assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    }
    let verdict = world.process(&says(503 + (1 << 23)), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)), "{verdict:?}");
    assert_eq!(world.counters[&Counter::Handed], 1);
    // A client that begins anew is this node's, and without a second chance everything is.
    world.second = 0;
    let verdict = world.process(&says(1 << 31), &arrival());
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    world.second = 2_000;
    let verdict = world.process(&by(STRANGER, syn(VIP, 4_000)), &arrival());
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
}

#[test]
fn the_peer_has_the_answers_repeated_for_which_a_dead_process_let_clients_wait() {
    let mut world = node(SERVICE_SYNC);
    let clients = [
        "203.0.113.1:40000",
        "203.0.113.1:40001",
        "203.0.113.1:40002",
    ];
    for (client, isn) in clients.iter().zip([10, 20, 30]) {
        let syn = frame(at(client), at(VIP), sent(SYN, isn, 0), &[]);
        world.process(&by(STRANGER, syn), &arrival());
    }
    let kick = |number| {
        let from = "192.0.2.102:0";
        frame(at(from), at("192.0.2.101:0"), sent(SYN, number, 0), &[])
    };
    // Only the peer may ask, and only after a death.
    assert_eq!(
        world.process(&by(THERE, kick(0)), &arrival()),
        Verdict::Pass
    );
    world.dead = true;
    let verdict = world.process(&by(STRANGER, kick(0)), &arrival());
    assert!(matches!(verdict, Verdict::Relay(_)));
    for (number, client, isn) in [(0, clients[2], 30), (2, clients[0], 10)] {
        let Verdict::Redirect { frame, .. } = world.process(&by(THERE, kick(number)), &arrival())
        else {
            panic!("the SYN goes to the backend");
        };
        let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        let (from, to) = checked(&frame);
        let flow = &world.flows[&FlowKey::new(at(client), at(VIP))];
        assert_eq!(seq, isn, "the SYN of {client}");
        assert_eq!(
            (from, to),
            (flow.opposite(V4).to(), flow.opposite(V4).from())
        );
    }
    assert_eq!(world.counters[&Counter::Kicked], 2);
    for number in [3, 1_024, u32::MAX] {
        let verdict = world.process(&by(THERE, kick(number)), &arrival());
        assert_eq!(verdict, Verdict::Drop(Counter::Loop), "{number}");
    }
    // Established: nobody waits.
    let front = FlowKey::new(at(clients[1]), at(VIP));
    world.flows.get_mut(&front).unwrap().state = State::Established.number();
    let verdict = world.process(&by(THERE, kick(1)), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
}

#[test]
fn the_kernel_is_not_asked_for_a_vip() {
    let mut world = node(0);
    let ask = |operation: u8, ip: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend(STRANGER);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        frame.extend([0; 16]);
        frame.extend(ip);
        frame
    };
    let many = Arrival {
        foreign: true,
        ..arrival()
    };
    for until in [0, 2_000] {
        world.lease = until;
        for vip in [[192, 0, 2, 100], [192, 0, 2, 101]] {
            // Also on the master; but no claim.
            for operation in [1, 2] {
                assert_eq!(world.process(&ask(operation, vip), &many), Verdict::Pass);
            }
        }
        assert_eq!(world.process(&ask(1, [192, 0, 2, 1]), &many), Verdict::Pass);
    }
    assert_eq!(world.counters, [(Counter::Arp, 4)].into());
}

/// A process that hangs lets nobody wait for it until it is dead; it may still go on.
#[test]
fn a_process_that_has_not_turned_lately_holds_no_answer_back() {
    let mut world = node(SERVICE_SYNC);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    let answer = by(STRANGER, answer(&world, 1));
    let kick = frame(
        at("192.0.2.102:0"),
        at("192.0.2.101:0"),
        sent(SYN, 0, 0),
        &[],
    );
    world.waits = 1_500;
    let soon = when(1_499);
    let verdict = world.process(&answer, &soon);
    assert_eq!(verdict, Verdict::Drop(Counter::Waiting));
    let verdict = world.process(&by(THERE, kick.clone()), &soon);
    assert_eq!(verdict, Verdict::Pass, "the process has it in hand");
    let late = when(1_500);
    let verdict = world.process(&by(THERE, kick.clone()), &late);
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    let verdict = world.process(&by(STRANGER, kick.clone()), &late);
    assert_eq!(verdict, Verdict::Pass, "nobody but the peer asks");
    let verdict = world.process(&answer, &late);
    assert!(matches!(verdict, Verdict::Redirect { .. }), "{verdict:?}");
    // Not master any more.
    world.lease = 0;
    let verdict = world.process(&by(THERE, kick), &when(2_000));
    assert_eq!(verdict, Verdict::Drop(Counter::Loop));
}

/// A backend in TIME_WAIT acknowledges what it remembers. Nobody tells the client whose process hangs,
/// and the backend repeats that to nobody for a while, so the peer's question makes it forget.
#[test]
fn a_backend_that_remembers_an_older_connection_is_made_to_forget_it() {
    let mut world = node(SERVICE_SYNC | SERVICE_RETRY);
    world.process(&by(STRANGER, syn(VIP, 1)), &arrival());
    let front = *world
        .flows
        .values()
        .find(|it| it.flags & FLOW_CLIENT != 0)
        .unwrap();
    let (backend, ours) = (front.opposite(V4).from(), front.opposite(V4).to());
    let isn = front.client_isn;
    let asked = |world: &mut Reference| {
        let kick = frame(
            at("192.0.2.102:0"),
            at("192.0.2.101:0"),
            sent(SYN, 0, 0),
            &[],
        );
        let Verdict::Redirect { frame, .. } = world.process(&by(THERE, kick), &arrival()) else {
            panic!("it goes to the backend");
        };
        assert_eq!(checked(&frame), (ours, backend));
        let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap());
        (frame[47], seq)
    };
    let stale = |ack| by(STRANGER, frame(backend, ours, sent(ACK, 77, ack), &[]));
    let old = isn.wrapping_sub(5_000);
    let verdict = world.process(&stale(old), &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Held));
    world.waits = 0;
    assert_eq!(asked(&mut world), (RST, old));
    assert_eq!(asked(&mut world), (SYN, isn), "and then the SYN");
    // It speaks of this connection, whose answer another node saw.
    world.process(&stale(isn.wrapping_add(38)), &arrival());
    assert_eq!(asked(&mut world), (SYN, isn));
}
