//! Named scenarios: each explains one promise.

use tandem::model::{BackendId, Role};
use tandem::status::{Cause, What};
use tandem::wire::admin::{Request, Response};
use tandem::wire::replication::AdminState;

use super::faults::Faults;
use super::nature::Act;
use super::world::{MS, SECOND, World};

pub const A: usize = 0;
pub const B: usize = 1;

pub struct Scenario(pub World);

impl Scenario {
    /// A pair that has been well for a while; A is master.
    fn settled() -> Self {
        Self::settled_from(0)
    }

    /// The same with services in kernel mode, and clients that have their answers.
    fn with_connections() -> Self {
        let s = Self::settled_from(8);
        assert!(s.promised() > 0, "{}", s.0.trace_tail(40));
        s
    }

    pub fn settled_from(first: u64) -> Self {
        let mut seed = first;
        loop {
            let mut world = World::new(seed, Faults::NONE);
            world.run_until(8 * SECOND).unwrap();
            if world.machines[A].is_master() && !world.config.election.preempt {
                return Self(world);
            }
            seed += 1;
        }
    }

    pub fn run_for(&mut self, ms: u64) {
        let end = self.0.now + ms * MS;
        self.0.run_until(end).unwrap();
    }

    pub fn masters(&self) -> Vec<usize> {
        [A, B]
            .into_iter()
            .filter(|m| self.0.machines[*m].is_master())
            .collect()
    }

    /// Milliseconds until this machine is the only one that holds the address and the LAN knows.
    pub fn until_owner(&mut self, machine: usize) -> u64 {
        for ms in 0..5_000 {
            let holds = [A, B].map(|m| self.0.machines[m].kernel.holds(self.0.now));
            let lan = self.0.lan.map(|(owner, _)| owner);
            if holds[machine] && !holds[1 - machine] && lan == Some(machine) {
                return ms;
            }
            self.run_for(1);
        }
        panic!("never\n{}", self.0.trace_tail(40));
    }

    /// Living connections whose clients were answered by the standby's word.
    fn promised(&self) -> usize {
        self.0.living_promises().count()
    }

    /// Those go on: each that lives for another while gets its answers.
    fn connections_go_on(&mut self) {
        let before = self.0.checkers.flows.counts;
        let living: Vec<u64> = self.0.living_promises().collect();
        self.run_for(6_000);
        let after = self.0.checkers.flows.counts;
        assert_eq!(after.void, before.void);
        assert!(after.forwarded > before.forwarded);
        let waits = |number: &&u64| {
            let client = &self.0.traffic.clients[number];
            client.end.is_live() && client.end.is_waiting()
        };
        let waiting: Vec<&u64> = living.iter().filter(waits).collect();
        assert!(waiting.is_empty(), "{waiting:?}\n{}", self.0.trace_tail(20));
    }

    pub fn cause(&self, machine: usize) -> Cause {
        let process = self.0.machines[machine].process.as_ref().unwrap();
        let status = process.node.status(process.clock(self.0.now));
        match status.last_transition.unwrap().what {
            What::Transition { cause, .. } => cause,
            other => panic!("{other:?}"),
        }
    }
}

/// A killed process is noticed through the session and confirmed by its host, not waited for.
#[test]
fn a_killed_master_is_followed_within_milliseconds() {
    let mut s = Scenario::settled();
    s.0.act(Act::Crash(A));
    let ms = s.until_owner(B);
    assert_eq!(s.cause(B), Cause::ProcessDied);
    assert!(ms <= 35, "{ms} ms"); // the model lets a dead process's address live for up to 30 ms
}

#[test]
fn a_silent_machine_is_followed_after_the_master_down_interval() {
    let mut s = Scenario::settled();
    s.0.act(Act::PowerLoss(A));
    let ms = s.until_owner(B);
    assert_eq!(s.cause(B), Cause::HeartbeatsLost);
    assert!((250..=380).contains(&ms), "{ms} ms");
}

#[test]
fn a_switchover_moves_the_address_within_milliseconds_and_stays() {
    let mut s = Scenario::settled();
    s.0.ask(A, Request::Failover);
    assert!(matches!(s.0.replies.back(), Some(Response::Done { .. })));
    let ms = s.until_owner(B);
    assert!(ms <= 10, "{ms} ms");
    s.run_for(5_000);
    assert_eq!(s.masters(), [B]);
    assert_eq!((s.cause(A), s.cause(B)), (Cause::Handover, Cause::Handover));
}

#[test]
fn a_switchover_can_be_asked_of_the_backup_too() {
    let mut s = Scenario::settled();
    s.0.ask(B, Request::Failover);
    assert!(s.until_owner(B) <= 10);
}

/// VRRP leaves two masters here for as long as the cut lasts.
#[test]
fn a_one_way_cut_ends_with_one_master() {
    for (from, winner) in [(A, B), (B, A)] {
        let mut s = Scenario::settled();
        for path in 0..2 {
            s.0.act(Act::Cut {
                from,
                path,
                cut: true,
            });
        }
        s.run_for(3_000);
        assert_eq!(s.masters(), [winner], "{}", s.0.trace_tail(20));
        for path in 0..2 {
            s.0.act(Act::Cut {
                from,
                path,
                cut: false,
            });
        }
        s.run_for(3_000);
        assert_eq!(s.masters(), [winner]);
        assert_eq!(s.until_owner(winner), 0);
    }
}

/// The better claim is worth nothing if nobody hears it.
#[test]
fn of_two_masters_the_one_that_is_not_heard_yields() {
    let mut s = Scenario::settled();
    let cut = |s: &mut Scenario, from: usize, cut: bool| {
        for path in 0..2 {
            s.0.act(Act::Cut { from, path, cut });
        }
    };
    cut(&mut s, A, true);
    cut(&mut s, B, true);
    s.run_for(2_000);
    assert_eq!(s.masters(), [A, B]);
    cut(&mut s, A, false);
    s.run_for(1_000);
    assert_eq!(
        s.masters(),
        [A],
        "B has the later epoch, but A does not hear it"
    );
    assert_eq!(s.cause(B), Cause::Unheard);
    cut(&mut s, B, false);
    s.run_for(2_000);
    assert_eq!(s.masters(), [A]);
    assert_eq!(s.until_owner(A), 0);
}

#[test]
fn a_forged_reset_moves_nothing() {
    let mut s = Scenario::settled();
    for _ in 0..50 {
        s.0.act(Act::ForgeReset);
        s.0.act(Act::ForgeIcmp(B));
        s.run_for(173);
    }
    s.run_for(1_000);
    assert_eq!(s.masters(), [A]);
    assert_eq!(s.cause(B), Cause::MasterHeard);
}

#[test]
fn after_a_partition_heals_everybody_reaches_the_one_master() {
    let mut s = Scenario::settled();
    let cut = |s: &mut Scenario, cut| {
        for (from, path) in [(A, 0), (A, 1), (B, 0), (B, 1)] {
            s.0.act(Act::Cut { from, path, cut });
        }
    };
    cut(&mut s, true);
    s.run_for(2_000);
    assert_eq!(
        s.masters(),
        [A, B],
        "two nodes without a witness cannot do better"
    );
    cut(&mut s, false);
    s.run_for(1_000);
    assert_eq!(s.masters(), [B], "the higher epoch wins");
    assert_eq!(s.until_owner(B), 0);
}

#[test]
fn a_master_that_slept_without_its_clock_seeing_it_yields() {
    let mut s = Scenario::settled();
    s.0.act(Act::MachinePause {
        machine: A,
        ms: 2_000,
    });
    s.run_for(4_000);
    assert_eq!(s.masters(), [B]);
    assert_eq!(s.until_owner(B), 0);
}

#[test]
fn a_drained_backend_stays_drained_over_a_failover() {
    let mut s = Scenario::settled();
    s.0.act(Act::Drain(A, true));
    s.run_for(50);
    s.0.act(Act::Crash(A));
    s.until_owner(B);
    let node = &s.0.machines[B].process.as_ref().unwrap().node;
    assert_eq!(node.role(), Role::Master);
    let drained = BackendId::of("web", "b2");
    assert_eq!(node.roster().state(drained), AdminState::Drain);
    assert_eq!(node.replica().said().len(), 1);
}

#[test]
fn draining_is_refused_on_the_backup() {
    let mut s = Scenario::settled();
    s.0.act(Act::Drain(B, true));
    let Some(Response::Error { message }) = s.0.replies.back() else {
        panic!("{:?}", s.0.replies);
    };
    assert!(message.contains("say it to the master (A)"), "{message}");
}

/// What a connection is promised by the standby's word, whatever happens to the master.
#[test]
fn promised_connections_outlive_their_master() {
    let pause = Act::MachinePause {
        machine: A,
        ms: 1_000,
    };
    let hang = Act::Hang {
        machine: A,
        ms: 1_000,
        dead_man: false,
    };
    for act in [Act::PowerLoss(A), Act::Crash(A), pause, hang] {
        let mut s = Scenario::with_connections();
        s.0.act(act);
        s.until_owner(B);
        s.connections_go_on();
    }
}

#[test]
fn promised_connections_move_with_a_switchover_and_back() {
    let mut s = Scenario::with_connections();
    for (from, to) in [(A, B), (B, A)] {
        s.0.ask(from, Request::Failover);
        s.until_owner(to);
        s.connections_go_on();
    }
}

/// The kernel of a dead process forwards what it knows until its lease ends; then nobody does until
/// the other node leads.
#[test]
fn a_lease_ends_with_the_life_of_its_node() {
    let mut s = Scenario::with_connections();
    assert!(s.0.machines[A].kept.may_forward(s.0.now));
    s.0.act(Act::Crash(A));
    assert!(s.0.machines[A].kept.may_forward(s.0.now));
    s.run_for(300);
    assert!(!s.0.machines[A].kept.may_forward(s.0.now));
    assert!(s.0.machines[B].kept.may_forward(s.0.now));
}
