//! What a flow remembers of sequence numbers, and SYN-ACKs that wait.

use super::*;

/// The client's entry, and the backend's.
fn entries(world: &Reference) -> (Flow, Flow) {
    let front = world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
    (front, world.flows[&front.opposite(V4)])
}

#[test]
fn each_direction_remembers_where_its_sender_is() {
    let mut world = world(0, Scheduler::RoundRobin);
    let numbers = |world: &Reference| {
        let (front, back) = entries(world);
        [front.seq, front.ack, back.seq, back.ack]
    };
    let (ours, theirs, _) = through(&mut world, &syn(CLIENT, u32::MAX));
    assert_eq!(numbers(&world), [0, 0, 0, 0]);
    through(
        &mut world,
        &frame(theirs, ours, sent(SYN | ACK, 900, 0), &[]),
    );
    assert_eq!(numbers(&world), [0, 0, 901, 0]);
    let up = |flags, payload: &[u8]| frame(at(CLIENT), at(VIP), sent(flags, 0, 901), payload);
    through(&mut world, &up(ACK, b"hello"));
    assert_eq!(numbers(&world), [5, 901, 901, 0]);
    through(
        &mut world,
        &frame(theirs, ours, sent(FIN | ACK, 901, 5), b"bye"),
    );
    assert_eq!(numbers(&world), [5, 901, 905, 5]);
    // A RST, or who says that it is one, changes none of them.
    through(&mut world, &up(RST | ACK, &[]));
    assert_eq!(numbers(&world), [5, 901, 905, 5]);
}

#[test]
fn the_event_of_a_new_flow_knows_what_the_client_sends_next() {
    let mut world = world(0, Scheduler::RoundRobin);
    through(&mut world, &syn(CLIENT, 100));
    let Some(Told::Carried(carried)) = world.events.first() else {
        panic!("nothing told");
    };
    assert_eq!(carried.event.flow.seq, 101);
}

/// The SYN-ACKs that were told so far, and what the client's entry said of the backend.
fn waiting(world: &mut Reference) -> Vec<(Vec<u8>, u32, u32)> {
    let carried = world.events.drain(..).filter_map(|told| match told {
        Told::Carried(carried) => Some(carried),
        Told::Event(event) => {
            assert_ne!(
                event.kind,
                EventKind::Established.number(),
                "told without it"
            );
            None
        }
    });
    let answers = carried.filter(|it| it.event.kind == EventKind::Established.number());
    let shown = answers.map(|it| {
        let bytes = it.packet[..it.length as usize].to_vec();
        (
            bytes,
            it.event.flow.backend_isn,
            u32::from(it.event.flow.state),
        )
    });
    shown.collect()
}

const ANSWERED: u32 = 2;

#[test]
fn a_syn_ack_waits_for_the_standby_as_often_as_it_comes() {
    let mut world = world(SERVICE_SYNC, Scheduler::RoundRobin);
    let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
    let answer = |isn| frame(theirs, ours, sent(SYN | ACK, isn, 101), &[]);
    // The last one is another, as SYN cookies make it: the client shall have what was told.
    for isn in [900, 900, 950] {
        let verdict = world.process(&answer(isn), &arrival());
        assert_eq!(verdict, Verdict::Drop(Counter::Waiting));
        let told = waiting(&mut world);
        assert_eq!(told, [(answer(isn)[L3..].to_vec(), isn, ANSWERED)]);
        assert_eq!(state(&world), State::Answered);
        // The client asks again meanwhile.
        assert_eq!(through(&mut world, &syn(CLIENT, 100)).1, theirs);
    }
    assert_eq!(entries(&world).1.seq, 951);
    through(
        &mut world,
        &frame(at(CLIENT), at(VIP), sent(ACK, 101, 951), &[]),
    );
    assert_eq!(state(&world), State::Established);
    // From now on nothing waits.
    through(&mut world, &answer(950));
    assert!(waiting(&mut world).is_empty());
    assert_eq!(world.counters[&Counter::Waiting], 3);
}

#[test]
fn a_syn_ack_that_the_client_would_refuse_does_not_wait() {
    let mut world = world(SERVICE_SYNC, Scheduler::RoundRobin);
    let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
    // Of an older connection: the client's RST tells the backend so.
    for ack in [100, 55, 101 + 65_536] {
        through(
            &mut world,
            &frame(theirs, ours, sent(SYN | ACK, 900, ack), &[]),
        );
    }
    assert_eq!(state(&world), State::Opening);
    assert!(waiting(&mut world).is_empty());
}

#[test]
fn the_answer_to_a_syn_with_data_is_an_answer() {
    let mut world = world(SERVICE_SYNC, Scheduler::RoundRobin);
    let opening = frame(at(CLIENT), at(VIP), sent(SYN, u32::MAX - 2, 0), b"hello");
    let (ours, theirs, _) = through(&mut world, &opening);
    assert_eq!(entries(&world).0.seq, 3);
    let answer = frame(theirs, ours, sent(SYN | ACK, 900, 3), &[]);
    let verdict = world.process(&answer, &arrival());
    assert_eq!(verdict, Verdict::Drop(Counter::Waiting));
    assert_eq!(waiting(&mut world).len(), 1);
}

/// A standby that took over may know a flow as opening only, though its client has the SYN-ACK.
#[test]
fn a_client_that_acknowledges_has_its_answer() {
    for flags in [0, SERVICE_SYNC, SERVICE_RETRY] {
        let mut world = world(flags, Scheduler::RoundRobin);
        let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
        told(&mut world);
        // It has sent something, too, and what the backend sent before.
        let ack = |seq, ack| frame(at(CLIENT), at(VIP), sent(ACK, seq, ack), b"hello");
        assert_eq!(through(&mut world, &ack(501, 4_001)), (ours, theirs, 5));
        assert_eq!(state(&world), State::Established);
        assert_eq!(
            told(&mut world),
            [(EventKind::Established, Cause::None)],
            "user space tells the standby"
        );
        let (front, back) = entries(&world);
        assert_eq!(front.backend_isn, 4_000, "the client has it");
        assert_eq!(back.backend_isn, front.backend_isn);
        // The backend goes on, and is not held.
        through(
            &mut world,
            &frame(theirs, ours, sent(ACK, 4_001, 506), b"data"),
        );
        through(
            &mut world,
            &frame(theirs, ours, sent(SYN | ACK, 900, 101), &[]),
        );
        assert_eq!(told(&mut world), []);
    }
}

#[test]
fn an_acknowledgement_that_does_not_fit_the_syn_opens_nothing() {
    let mut world = world(SERVICE_RETRY, Scheduler::RoundRobin);
    through(&mut world, &syn(CLIENT, 100));
    told(&mut world);
    for (flags, seq) in [
        (ACK, 100),
        (ACK, 101 + 65_536),
        (ACK, 0x4000_0000),
        (0, 101),
        (FIN, 101),
    ] {
        through(
            &mut world,
            &frame(at(CLIENT), at(VIP), sent(flags, seq, 901), &[]),
        );
        assert_eq!(state(&world), State::Opening);
    }
    assert_eq!(told(&mut world), []);
    // The last word of one that was short.
    through(
        &mut world,
        &frame(at(CLIENT), at(VIP), sent(FIN | ACK, 101, 901), &[]),
    );
    assert_eq!(state(&world), State::Closing);
}
