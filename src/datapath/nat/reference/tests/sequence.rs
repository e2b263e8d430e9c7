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
    through(
        &mut world,
        &frame(theirs, ours, sent(SYN | ACK, 900, 55), &[]),
    );
    assert_eq!(state(&world), State::Opening);
    assert!(waiting(&mut world).is_empty());
}
