//! Named scenarios of the drain: a switchover that breaks no proxied connection, and everything that
//! may come in between.

use tandem::node::io::Input;
use tandem::status::{Cause, DrainStatus, Status, What};

use super::nature::Act;
use super::scenarios::{A, B, Scenario};

/// The first seed in which both nodes relay, and the first in which only A does.
const BOTH: u64 = 16;
const ONLY_A: u64 = 112;

/// A is master and has connections, of which so many percent end at each look.
fn settled(first: u64, ends: u64) -> Scenario {
    let mut s = Scenario::settled_from(first);
    s.0.proxied.ends = ends;
    assert!(s.flows(A) >= 10, "{}", s.0.trace_tail(40));
    assert_eq!((s.flows(B), s.0.proxied.resets), (0, 0));
    s
}

impl Scenario {
    fn flows(&self, machine: usize) -> usize {
        self.0.flows[machine].len()
    }

    fn status(&self, machine: usize) -> Status {
        let process = self.0.machines[machine].process.as_ref().unwrap();
        process.node.status(process.clock(self.0.now))
    }

    /// The drain as its node tells it, and as the other one does.
    fn drain(&self, old: usize) -> (DrainStatus, DrainStatus) {
        let own = self.status(old).drain.expect("it drains");
        let told = self.status(1 - old).peer.drain.expect("the master knows");
        (own, told)
    }

    fn switch(&mut self, from: usize) {
        self.0.act(Act::Failover(from));
        assert!(self.until_owner(1 - from) <= 10);
    }

    fn second_chance(&self, machine: usize) -> bool {
        let process = self.0.machines[machine].process.as_ref().unwrap();
        process.relay.second_chance
    }

    /// Nothing was reset, by anybody, but for so many.
    fn lost(&self, resets: u64) {
        let lost = (self.0.proxied.resets, self.0.proxied.refused);
        assert_eq!(lost, (resets, 0), "{}", self.0.trace_tail(40));
    }
}

#[test]
fn a_switchover_breaks_no_proxied_connection() {
    let mut s = settled(BOTH, 50);
    let before = s.flows(A) as u64;
    s.switch(A);
    s.run_for(150);
    let (own, told) = s.drain(A);
    assert_eq!((own.of, told.of), (before, before));
    assert!(own.left > 0 && own.left <= before && told.left >= own.left);
    assert!(own.cut_in_ms.is_some() && told.cut_in_ms.is_some());
    assert!(s.second_chance(B));
    s.run_for(4_000);
    s.lost(0);
    let (own, told) = s.drain(A);
    assert_eq!((own.left, own.cut, own.cut_in_ms), (0, 0, None));
    assert_eq!((told.left, told.cut, told.cut_in_ms), (0, 0, None));
    assert!(!s.second_chance(B));
    assert!(s.flows(B) > 0 && s.flows(A) == 0);
    assert_eq!(s.masters(), [B]);
}

/// To and fro, also while the drain of the time before is not over.
#[test]
fn ten_switchovers_break_no_proxied_connection() {
    for pause in [300, 3_000] {
        let mut s = settled(BOTH, 50);
        for round in 0..10 {
            s.switch(round % 2);
            s.run_for(pause);
        }
        s.lost(0);
        assert_eq!(s.masters(), [A]);
    }
}

/// Handed back while it drains: each node has what it had, nothing is reset.
#[test]
fn a_switchover_can_be_taken_back_on_either_node() {
    for asked in [A, B] {
        let mut s = settled(BOTH, 0);
        let before = s.flows(A);
        s.switch(A);
        s.run_for(2_000);
        let others = s.flows(B);
        s.0.act(Act::Failover(asked));
        assert!(s.until_owner(A) <= 10);
        s.run_for(200);
        assert!(s.status(A).drain.is_none());
        assert!(s.flows(A) >= before, "{}", s.0.trace_tail(40));
        let replica = s.0.machines[B].process.as_ref().unwrap().node.replica();
        assert!(replica.flows().len() >= before, "B knows them again");
        assert_eq!(s.drain(B).0.left, others as u64);
        s.run_for(1_500);
        s.lost(0);
        assert!(s.second_chance(A));
    }
}

#[test]
fn what_is_left_after_drain_timeout_is_reset() {
    let mut s = settled(BOTH, 0);
    let before = s.flows(A) as u64;
    s.switch(A);
    s.run_for(5_900);
    s.lost(0);
    s.run_for(300);
    s.lost(before);
    let (own, told) = s.drain(A);
    assert_eq!((own.left, own.of, own.cut), (0, before, before));
    assert_eq!((told.left, told.of, told.cut), (0, before, before));
    assert!(!s.second_chance(B));
}

#[test]
fn without_the_peers_relay_a_switchover_resets_at_once() {
    let mut s = settled(ONLY_A, 0);
    let before = s.flows(A) as u64;
    s.switch(A);
    s.run_for(2_000);
    s.lost(before);
    assert!(s.status(A).drain.is_none());
    assert_eq!(s.status(B).peer.drain.map(|drain| drain.of), Some(0));
}

#[test]
fn the_old_master_dies_while_it_drains_and_nothing_else_happens() {
    let mut s = settled(BOTH, 0);
    s.switch(A);
    s.run_for(1_500);
    s.0.act(Act::Crash(A));
    s.run_for(3_000);
    assert_eq!(s.masters(), [B]);
    let told = s.status(B).peer.drain.unwrap();
    assert_eq!((told.left, told.cut, told.cut_in_ms), (0, told.of, None));
    s.0.act(Act::Start(A));
    s.run_for(3_000);
    assert_eq!(s.masters(), [B]);
    assert!(!s.second_chance(B));
    s.lost(0);
}

/// Started again at once: what it had is gone, and the new master knows.
#[test]
fn a_restart_ends_the_drain() {
    let mut s = settled(BOTH, 0);
    s.switch(A);
    s.run_for(1_500);
    s.0.act(Act::Crash(A));
    s.0.act(Act::Start(A));
    s.run_for(3_000);
    assert_eq!(s.masters(), [B]);
    assert!(!s.second_chance(B) && s.status(A).drain.is_none());
}

#[test]
fn the_new_master_dies_and_the_old_one_has_its_connections_again() {
    for act in [Act::Crash(B), Act::PowerLoss(B)] {
        let mut s = settled(BOTH, 0);
        let before = s.flows(A);
        s.switch(A);
        s.run_for(1_500);
        let process = s.0.machines[A].process.as_ref().unwrap();
        assert!(process.relay.accept);
        s.0.act(act);
        s.until_owner(A);
        s.run_for(100);
        assert!(s.flows(A) >= before && s.status(A).drain.is_none());
        // What was the drain's end passes by.
        s.run_for(6_000);
        s.lost(0);
        assert_eq!(s.masters(), [A]);
    }
}

#[test]
fn a_node_that_stops_drains_first() {
    let mut s = settled(BOTH, 25);
    s.0.give(A, Input::Stop);
    s.until_owner(B);
    s.run_for(1_000);
    assert!(s.status(A).stopping && s.status(A).drain.is_some());
    s.run_for(6_000);
    assert!(s.0.machines[A].process.is_none(), "it has stopped");
    assert_eq!(s.masters(), [B]);
    assert_eq!(s.0.proxied.refused, 0);
}

#[test]
fn a_node_that_is_told_to_stop_twice_drains_no_more() {
    let mut s = settled(BOTH, 0);
    let before = s.flows(A) as u64;
    s.0.give(A, Input::Stop);
    s.until_owner(B);
    s.run_for(4_000);
    s.lost(0);
    s.0.give(A, Input::Stop);
    s.lost(before);
    assert!(s.0.machines[A].process.is_none());
    assert_eq!(s.masters(), [B]);
}

/// A stopping node takes nothing over, and goes on draining.
#[test]
fn the_new_master_dies_while_the_old_one_stops() {
    let mut s = settled(BOTH, 0);
    s.0.give(A, Input::Stop);
    s.until_owner(B);
    s.run_for(1_000);
    s.0.act(Act::Crash(B));
    s.run_for(1_000);
    assert!(s.masters().is_empty() && s.status(A).drain.is_some());
    s.0.act(Act::Start(B));
    s.until_owner(B);
    s.lost(0);
    s.run_for(6_000);
    assert!(s.0.machines[A].process.is_none());
}

/// It would lose what the peer does not know yet.
#[test]
fn a_stop_waits_for_a_peer_that_has_just_started() {
    let mut s = settled(BOTH, 50);
    s.0.act(Act::Crash(B));
    s.run_for(1_000);
    s.0.act(Act::Start(B));
    let follows = |status: &Status| status.peer.alive && !status.replication.in_sync;
    assert!((0..500).any(|_| {
        s.run_for(1);
        follows(&s.status(A))
    }));
    s.0.act(Act::Stop(A));
    assert!(s.until_owner(B) <= 1_000, "{}", s.0.trace_tail(40));
    let event = s.status(B).last_transition.unwrap();
    let What::Transition { cause, .. } = event.what else {
        panic!("{event:?}");
    };
    assert_eq!(cause, Cause::Stop, "handed over: {}", s.0.trace_tail(40));
    s.run_for(4_000);
    s.lost(0);
}
