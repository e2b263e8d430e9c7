//! What somebody sends who knows the addresses and ports of a connection, and no more: it goes to
//! the end that it is for, which knows what to make of it, and ends nothing here.

use super::*;

const FAR: u32 = 0x4000_0000;

/// Both ends' sender and receiver, as the world sees them: `[client's, backend's]`.
fn ends(ours: SocketAddr, theirs: SocketAddr) -> [(SocketAddr, SocketAddr); 2] {
    [(at(CLIENT), at(VIP)), (theirs, ours)]
}

fn say(world: &mut Reference, (from, to): (SocketAddr, SocketAddr), what: Sent, payload: &[u8]) {
    through(world, &frame(from, to, what, payload));
}

/// A connection that is silent: what the client sends next is 101, the backend 901.
fn silent() -> (Reference, [(SocketAddr, SocketAddr); 2]) {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    told(&mut world);
    (world, ends(ours, theirs))
}

#[test]
fn a_syn_on_an_open_flow_goes_to_its_backend_and_ends_nothing() {
    let (mut world, [client, backend]) = silent();
    for isn in [100, 5_000, FAR] {
        assert_eq!(through(&mut world, &syn(CLIENT, isn)).1, backend.0);
        assert_eq!(state(&world), State::Established);
    }
    // RFC 5961, section 4.2: the backend asks; who did not send that SYN goes on.
    say(&mut world, backend, sent(ACK, 901, 101), &[]);
    say(&mut world, client, sent(ACK, 101, 901), b"hello");
    say(&mut world, backend, sent(ACK, 901, 106), &[]);
    assert_eq!(state(&world), State::Established);
    assert_eq!(told(&mut world), []);
    assert_eq!(world.flows.len(), 2);
}

#[test]
fn a_client_that_forgot_says_so_and_begins_anew() {
    let (mut world, [client, backend]) = silent();
    // One side's FIN is no end.
    say(&mut world, backend, sent(FIN | ACK, 901, 101), &[]);
    say(&mut world, client, sent(ACK, 101, 902), &[]);
    assert_eq!(state(&world), State::Closing);
    assert_eq!(through(&mut world, &syn(CLIENT, 5_000)).1, backend.0);
    say(&mut world, backend, sent(ACK, 902, 101), &[]);
    assert_eq!(state(&world), State::Closing);
    say(&mut world, client, sent(RST, 101, 0), &[]);
    assert_eq!(state(&world), State::Closed);
    assert_ne!(through(&mut world, &syn(CLIENT, 5_000)).1, backend.0);
    assert_eq!(state(&world), State::Opening);
    let story = [
        (EventKind::Closed, Cause::ClientRst),
        (EventKind::Closed, Cause::Replaced),
        (EventKind::Opened, Cause::None),
    ];
    assert_eq!(told(&mut world), story);
}

#[test]
fn a_backend_that_forgot_too_has_the_flow_for_the_new_connection() {
    for held in [false, true] {
        let (mut world, [client, backend]) = silent();
        for flow in world.flows.values_mut() {
            flow.flags |= if held {
                super::super::super::layout::FLOW_SYNC
            } else {
                0
            };
        }
        through(&mut world, &syn(CLIENT, FAR));
        let answer = |ack| frame(backend.0, backend.1, sent(SYN | ACK, 70, ack), &[]);
        // Of nothing that was asked, and of the SYN of this flow.
        for ack in [2 * FAR, 101] {
            through(&mut world, &answer(ack));
            assert_eq!(state(&world), State::Established);
        }
        for _ in 0..2 {
            let verdict = world.process(&answer(FAR + 1), &arrival());
            let waits = verdict == Verdict::Drop(Counter::Waiting);
            assert_eq!(waits, held, "{verdict:?}");
            assert_eq!(state(&world), State::Answered);
        }
        say(&mut world, client, sent(ACK, FAR + 1, 71), &[]);
        assert_eq!(state(&world), State::Established);
        let times = if held { 2 } else { 1 };
        assert_eq!(
            told(&mut world),
            vec![(EventKind::Established, Cause::None); times]
        );
        let flow = world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
        assert_eq!((flow.client_isn, flow.backend_isn), (FAR, 70));
    }
}

#[test]
fn a_handshake_that_its_client_gave_up_makes_room() {
    for answered in [false, true] {
        let mut world = world(0, Scheduler::RoundRobin);
        let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
        if answered {
            say(&mut world, (theirs, ours), sent(SYN | ACK, 900, 101), &[]);
        }
        assert_eq!(through(&mut world, &syn(CLIENT, 100)).1, theirs);
        assert_ne!(through(&mut world, &syn(CLIENT, 5_000)).1, theirs);
        assert_eq!(world.counters[&Counter::Replaced], 1);
    }
}

#[test]
fn a_reset_ends_a_flow_only_if_its_receiver_believes_it() {
    // Who sends it, with which numbers, and whether it counts (RFC 5961, section 3.2).
    let cases = [
        (0, RST, 101, 0, true),
        (0, RST | ACK, 101, FAR, true),
        (0, RST, 100, 0, false),
        (0, RST, 102, 0, false),
        (0, RST, 0, 0, false),
        (0, RST | ACK, 0, 901, false),
        (0, RST, FAR, 0, false),
        (1, RST, 901, 0, true),
        (1, RST, 902, 0, false),
        (1, RST | ACK, 0, 101, false),
        (1, RST, 0, 0, false),
    ];
    for (who, flags, seq, ack, counts) in cases {
        let (mut world, ends) = silent();
        say(&mut world, ends[who], sent(flags, seq, ack), &[]);
        let flow = world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
        let case = (who, seq, ack);
        let wanted = if counts {
            State::Closed
        } else {
            State::Established
        };
        assert_eq!(state(&world), wanted, "{case:?}");
        assert_eq!(flow.marks != 0, counts, "{case:?}");
        assert_eq!(told(&mut world).is_empty(), !counts, "{case:?}");
    }
}

#[test]
fn a_reset_behind_what_is_on_its_way_counts() {
    let (mut world, [client, backend]) = silent();
    say(&mut world, client, sent(ACK, 101, 901), &[7; 1_000]);
    // The backend's answer crosses it.
    say(&mut world, backend, sent(ACK, 901, 101), b"data");
    say(&mut world, client, sent(RST | ACK, 1_101, 901), &[]);
    assert_eq!(state(&world), State::Closed);
}

#[test]
fn a_forged_segment_does_not_make_a_forged_reset_true() {
    for (seq, ack) in [(FAR, 901), (FAR, FAR), (102, FAR)] {
        let (mut world, [client, _]) = silent();
        say(&mut world, client, sent(ACK, seq, ack), &[]);
        say(&mut world, client, sent(RST, seq, 0), &[]);
        assert_eq!(state(&world), State::Established, "{seq} {ack}");
    }
}

#[test]
fn a_fin_that_cannot_be_on_its_way_is_none() {
    for (flags, seq, ack) in [(FIN | ACK, FAR, 901), (FIN | ACK, 101, FAR), (FIN, 101, 0)] {
        let (mut world, [client, _]) = silent();
        say(&mut world, client, sent(flags, seq, ack), &[]);
        assert_eq!(state(&world), State::Established, "{flags} {seq} {ack}");
    }
    // Numbers that go round, and one that comes again.
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs, _) = through(&mut world, &syn(CLIENT, u32::MAX - 1));
    let [client, backend] = ends(ours, theirs);
    say(
        &mut world,
        backend,
        sent(SYN | ACK, u32::MAX, u32::MAX),
        &[],
    );
    say(&mut world, client, sent(ACK, u32::MAX, 0), &[]);
    for _ in 0..2 {
        say(&mut world, client, sent(FIN | ACK, u32::MAX, 0), b"data");
        assert_eq!(state(&world), State::Closing);
    }
    say(&mut world, backend, sent(FIN | ACK, 0, 4), &[]);
    assert_eq!(state(&world), State::Closed);
}

#[test]
fn while_a_flow_opens_a_reset_must_fit_the_syn() {
    let open = || {
        let mut world = world(SERVICE_RETRY, Scheduler::RoundRobin);
        let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
        told(&mut world);
        (world, ends(ours, theirs))
    };
    // Only the backend's real refusal is held.
    let (mut world, [client, backend]) = open();
    for (flags, seq, ack) in [
        (RST, 0, 0),
        (RST, 101, 101),
        (RST | ACK, 0, 100),
        (RST | ACK, 0, FAR),
    ] {
        say(&mut world, backend, sent(flags, seq, ack), &[]);
        assert_eq!(state(&world), State::Opening);
    }
    for seq in [0, 100, 102, FAR] {
        say(&mut world, client, sent(RST, seq, 0), &[]);
        assert_eq!(state(&world), State::Opening);
    }
    assert_eq!(told(&mut world), []);
    let refusal = frame(backend.0, backend.1, sent(RST | ACK, 0, 101), &[]);
    let verdict = world.process(&refusal, &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Held));
    say(&mut world, client, sent(RST, 101, 0), &[]);
    assert_eq!(state(&world), State::Closed);
    // The client may not have the SYN-ACK yet, or have it.
    for (flags, seq, ack, counts) in [
        (RST | ACK, 0, 101, true),
        (RST, 901, 0, true),
        (RST, 900, 0, false),
        (RST | ACK, 0, FAR, false),
    ] {
        let (mut world, [_, backend]) = open();
        say(&mut world, backend, sent(SYN | ACK, 900, 101), &[]);
        say(&mut world, backend, sent(flags, seq, ack), &[]);
        let wanted = if counts {
            State::Closed
        } else {
            State::Answered
        };
        assert_eq!(state(&world), wanted, "{seq} {ack}");
    }
}

#[test]
fn an_end_that_has_not_spoken_to_this_node_may_be_anywhere() {
    let (mut world, [client, _]) = silent();
    // As a standby learned it: where its ends were a while ago.
    for flow in world.flows.values_mut() {
        flow.packets = 0;
    }
    say(&mut world, client, sent(RST, 77_777, 0), &[]);
    assert_eq!(state(&world), State::Closed);
}
