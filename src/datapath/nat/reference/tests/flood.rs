//! More than there should be.

use super::*;

/// Limits what a source may open.
fn limited(rate: u32) -> Reference {
    let mut world = world(0, Scheduler::RoundRobin);
    for service in world.services.values_mut() {
        service.source_rate = rate;
    }
    world
}

fn later(now: u64) -> Arrival {
    Arrival { now, ..arrival() }
}

#[test]
fn a_source_opens_so_many_flows_a_second_and_no_more() {
    let mut world = limited(2);
    let mut knock = |from: &str, now: u64| match world.process(&syn(from, 1), &later(now)) {
        Verdict::Redirect { .. } => true,
        Verdict::Drop(Counter::SourceRate) => false,
        verdict => panic!("{verdict:?}"),
    };
    let (begin, end) = (NOW, NOW + 1_000_000_000);
    assert!(knock("203.0.113.1:1", begin));
    assert!(knock("203.0.113.1:2", begin));
    assert!(!knock("203.0.113.1:3", begin));
    assert!(knock("203.0.113.2:1", begin), "another one");
    assert!(!knock("203.0.113.1:4", end - 1));
    assert!(knock("203.0.113.1:5", end), "its second is over");
    assert!(knock("203.0.113.1:6", end));
    assert!(!knock("203.0.113.1:7", end));
    // Nobody is told to answer.
    assert!(world.refusals.is_empty());
    assert_eq!(world.counters[&Counter::SourceRate], 3);
    assert_eq!(world.turns, [5], "whoever is dropped takes no turn");
}

#[test]
fn a_syn_again_and_what_belongs_to_a_flow_are_not_counted() {
    let mut world = limited(1);
    let (ours, theirs) = established(&mut world);
    for _ in 0..5 {
        through(&mut world, &syn(CLIENT, 100));
        through(
            &mut world,
            &frame(theirs, ours, sent(ACK, 901, 101), b"data"),
        );
    }
    let one_more = world.process(&syn("203.0.113.1:40001", 1), &arrival());
    assert_eq!(one_more, Verdict::Drop(Counter::SourceRate));
}

#[test]
fn a_full_table_drops_what_is_new_and_nothing_else() {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    world.capacity = 4;
    for n in 0..5_u16 {
        let verdict = world.process(&syn(&format!("203.0.113.9:{}", 1 + n), 1), &arrival());
        let room = n == 0;
        assert_eq!(room, matches!(verdict, Verdict::Redirect { .. }));
        assert_eq!(room, verdict != Verdict::Drop(Counter::TableFull));
    }
    through(
        &mut world,
        &frame(theirs, ours, sent(ACK, 901, 101), b"data"),
    );
    through(
        &mut world,
        &frame(at(CLIENT), at(VIP), sent(ACK, 101, 905), &[]),
    );
    assert_eq!(state(&world), State::Established);
}
