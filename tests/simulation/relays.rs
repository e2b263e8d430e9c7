//! Named scenarios of the relay: clients and backends that hear no announcement, and a master that
//! dies, hangs, or hands over.

use tandem::model::Role;

use super::ends::State;
use super::nature::Act;
use super::scenarios::{A, B, Scenario};
use super::world::{MS, SECOND, World};

/// Services in kernel mode, and both nodes relay.
const BOTH: u64 = 24;
/// An answer that no timer of the client had to fetch.
const AT_ONCE: u64 = 100 * MS;

/// A is master and has connections of the service that waits for the standby, and of no other;
/// nobody on the LAN hears announcements.
fn settled(stubborn: bool) -> Scenario {
    let mut s = Scenario::settled_from(BOTH);
    assert_eq!(s.0.relays, [true; 2]);
    s.0.deafen(stubborn);
    for _ in 0..12 {
        s.opens();
        s.run_for(20);
    }
    s.run_for(2_500);
    assert!(s.living().len() >= 12, "{}", s.0.trace_tail(40));
    s
}

impl Scenario {
    /// A client that stays.
    fn opens(&mut self) -> u64 {
        let service = self.0.config.services.iter().find(|it| it.name == "db");
        let service = service.unwrap().listen[0];
        let std::net::SocketAddr::V4(service) = service else {
            panic!("{service}");
        };
        self.0.connects(None, service, u32::MAX)
    }

    /// One a millisecond.
    fn come(&mut self, count: u64) -> Vec<u64> {
        let come = |_| {
            self.run_for(1);
            self.opens()
        };
        (0..count).map(come).collect()
    }

    /// Established connections of the service that waits for the standby.
    fn living(&self) -> Vec<u64> {
        let service = self.0.config.services.iter().find(|it| it.name == "db");
        let at = service.unwrap().listen[0];
        let clients = self.0.traffic.clients.iter();
        clients
            .filter(|(_, it)| it.end.state == State::Open && at == it.end.remote.into())
            .map(|(number, _)| *number)
            .collect()
    }

    /// Each of these is there, and none waits.
    fn all_live(&mut self, numbers: &[u64]) {
        self.run_for(3_500);
        for number in numbers {
            let client = &self.0.traffic.clients[number];
            let waits = self.0.now.saturating_sub(client.waits_since);
            let stalls = client.end.is_waiting() && waits > SECOND;
            let ended = client.end.state == State::Closed;
            let well = ended || client.end.state == State::Open && !stalls;
            assert!(
                well,
                "{number}: {:?}\n{}",
                client.end,
                self.0.trace_tail(40)
            );
        }
    }

    fn all_at_once(&self, numbers: &[u64]) {
        for number in numbers {
            let took = self.0.traffic.clients[number].took;
            let well = took.is_some_and(|took| took < AT_ONCE);
            assert!(well, "{number}: {took:?}\n{}", self.0.trace_tail(40));
        }
    }

    fn relayed(&self) -> u64 {
        self.0.neighbours.relayed
    }

    fn part(&mut self, cut: bool) {
        for (from, path) in [(A, 0), (A, 1), (B, 0), (B, 1)] {
            self.0.act(Act::Cut { from, path, cut });
        }
    }
}

/// Nobody hears the announcement, nobody notices.
#[test]
fn a_killed_master_is_not_missed_by_those_who_hear_nothing() {
    let mut s = settled(true);
    let before = s.living();
    s.0.act(Act::Crash(A));
    // The program knows after 3 ms at most.
    s.run_for(3);
    let fresh = s.come(300);
    assert_eq!(s.masters(), [B]);
    assert!(s.relayed() > 300);
    s.all_live(&before);
    s.all_at_once(&fresh);
    s.all_live(&fresh);
    // Back again: the table that it inherits is the master's now.
    s.0.act(Act::Start(A));
    s.run_for(500);
    assert_eq!(s.masters(), [B]);
    s.all_live(&before);
    s.all_live(&fresh);
}

/// Handshakes that waited in the dead process for the standby's word are answered by the standby's
/// asking, not by a timer.
#[test]
fn handshakes_that_wait_in_a_killed_master_are_asked_for() {
    let mut s = settled(true);
    let fresh = s.come(20);
    s.0.act(Act::Crash(A));
    s.run_for(1_000);
    s.all_at_once(&fresh);
    s.all_live(&fresh);
}

/// Established connections go on by the table, then by the relay; new ones wait for the lease.
#[test]
fn a_hanging_master_stalls_no_connection_of_those_who_hear_nothing() {
    let mut s = settled(true);
    let before = s.living();
    s.0.act(Act::Hang {
        machine: A,
        ms: 2_000,
        dead_man: false,
    });
    s.run_for(260);
    let fresh = s.come(200);
    assert_eq!(s.masters(), [A, B], "A has not run since");
    s.run_for(50);
    s.all_at_once(&fresh);
    s.run_for(2_000);
    assert_eq!(s.masters(), [B]);
    s.all_live(&before);
    s.all_live(&fresh);
}

/// Told by itself, a neighbour that is not stubborn finds the master.
#[test]
fn neighbours_that_are_told_send_to_the_master() {
    let mut s = settled(false);
    let before = s.living();
    s.0.act(Act::Failover(A));
    s.run_for(4_000);
    assert!(s.0.neighbours.turned > 0);
    let relayed = s.relayed();
    s.come(50);
    s.run_for(100);
    assert_eq!(s.relayed(), relayed, "nobody is stale any more");
    s.all_live(&before);
}

/// The tables go on with what is there; nothing begins, and no packet goes round.
#[test]
fn with_both_dead_connections_go_on_and_nothing_begins() {
    let mut s = settled(true);
    let before = s.living();
    s.0.act(Act::Crash(B));
    s.0.act(Act::Crash(A));
    s.run_for(3);
    let fresh = s.come(100);
    s.all_live(&before);
    assert!(s.relayed() > 0);
    assert!(
        fresh
            .iter()
            .all(|it| s.0.traffic.clients[it].took.is_none())
    );
    for machine in [A, B] {
        s.0.act(Act::Start(machine));
    }
    s.run_for(9_000);
    assert_eq!(s.masters().len(), 1);
    s.all_live(&before);
}

/// Neither is master: each packet goes over once, and is dropped there.
#[test]
fn with_no_master_nothing_begins_and_nothing_goes_round() {
    let mut s = settled(true);
    let before = s.living();
    for machine in [A, B] {
        s.0.act(Act::Hang {
            machine,
            ms: 1_500,
            dead_man: false,
        });
    }
    s.run_for(300);
    let (fresh, relayed) = (s.come(100), s.relayed());
    s.run_for(500);
    assert!(
        fresh
            .iter()
            .all(|it| s.0.traffic.clients[it].took.is_none())
    );
    assert!(s.relayed() >= relayed);
    s.run_for(3_000);
    assert_eq!(s.masters().len(), 1);
    s.all_live(&before);
}

#[test]
fn after_a_split_those_who_hear_nothing_reach_the_one_master() {
    let mut s = settled(true);
    let before = s.living();
    s.part(true);
    s.run_for(2_000);
    assert_eq!(s.masters(), [A, B]);
    s.part(false);
    s.run_for(3_000);
    assert_eq!(s.masters(), [B]);
    let fresh = s.come(100);
    s.all_live(&before);
    s.all_at_once(&fresh);
}

/// A new process decides nothing by the table that it inherits, before it knows its role.
#[test]
fn a_process_that_starts_again_goes_on_with_the_table_it_inherits() {
    // Alone; or while its peer takes over.
    for alone in [true, false] {
        let mut s = settled(true);
        let before = s.living();
        if alone {
            s.0.act(Act::PowerLoss(B));
            s.run_for(1_000);
        }
        s.0.act(Act::Crash(A));
        s.run_for(if alone { 1 } else { 50 });
        s.0.act(Act::Start(A));
        s.run_for(100);
        let role = s.0.machines[A].process.as_ref().unwrap().node.role();
        assert_eq!(role == Role::Initialize, alone, "{}", s.0.trace_tail(20));
        s.all_live(&before);
        assert_eq!(s.masters(), [if alone { A } else { B }]);
    }
}

/// A knows nothing, and nobody lives who could tell it; what B's table has goes on.
#[test]
fn a_node_that_lost_its_power_and_starts_alone_leaves_the_dead_their_connections() {
    let mut s = settled(false);
    let mut before = s.living();
    s.0.act(Act::PowerLoss(A));
    s.run_for(1_000);
    before.extend(s.come(20));
    s.run_for(100);
    s.0.act(Act::Crash(B));
    s.0.act(Act::Start(A));
    s.run_for(1_000);
    assert_eq!(s.masters(), [A]);
    let fresh = s.come(50);
    s.run_for(5_000);
    s.all_at_once(&fresh);
    s.all_live(&fresh);
    s.all_live(&before);
}

#[test]
fn a_kill_during_a_drain_loses_no_connection_of_the_kernel_mode() {
    for victim in [A, B] {
        let mut s = settled(true);
        let before = s.living();
        s.0.proxied.ends = 0;
        s.0.act(Act::Failover(A));
        s.run_for(1_000);
        let process = s.0.machines[A].process.as_ref().unwrap();
        assert!(process.node.draining().is_some());
        s.0.act(Act::Crash(victim));
        s.run_for(3);
        let fresh = s.come(200);
        s.all_live(&before);
        s.all_at_once(&fresh);
        assert_eq!(s.masters(), [1 - victim]);
    }
}

#[test]
fn switchovers_to_and_fro_are_not_noticed_by_those_who_hear_nothing() {
    for stubborn in [false, true] {
        let mut s = settled(stubborn);
        let mut all = s.living();
        for round in 0..6 {
            s.0.act(Act::Failover(round % 2));
            s.run_for(50);
            let fresh = s.come(20);
            s.run_for(1_000);
            s.all_at_once(&fresh);
            all.extend(fresh);
        }
        s.all_live(&all);
        assert_eq!(s.masters(), [A]);
    }
}

/// What comes by the peer moves no mastership.
#[test]
fn packets_that_are_handed_over_make_nobody_master() {
    let mut s = settled(true);
    for deaf in s.0.neighbours.deaf.values_mut() {
        deaf.leads_to = Some(B);
    }
    let relayed = s.relayed();
    let fresh = s.come(300);
    s.run_for(2_000);
    assert!(s.relayed() > relayed + 300);
    assert_eq!(s.masters(), [A]);
    s.all_at_once(&fresh);
}

/// The checkers of the relay see what they are for.
mod checkers {
    use super::*;
    use tandem::datapath::nat::layout::Neighbour;

    fn breaks(s: &mut Scenario, ms: u64, promise: &str) {
        let end = s.0.now + ms * MS;
        let broken = s.0.run_until(end).unwrap_err();
        assert!(broken.contains(promise), "{broken}");
    }

    fn tables(
        world: &mut World,
        machine: usize,
    ) -> &mut tandem::datapath::nat::reference::Reference {
        &mut world.machines[machine].kept.tables
    }

    /// Neither machine knows the peer's frames as such.
    #[test]
    fn a_packet_that_goes_round_is_seen() {
        let mut s = settled(true);
        s.0.act(Act::Crash(A));
        s.0.act(Act::Crash(B));
        for machine in [A, B] {
            let at = Neighbour {
                own: [2, 0, 0, 0, 9, 9],
                ..tables(&mut s.0, machine).neighbours[&2]
            };
            tables(&mut s.0, machine).neighbours.insert(2, at);
        }
        s.run_for(3);
        s.opens();
        breaks(&mut s, 100, "once");
    }

    #[test]
    fn a_decision_without_a_right_is_seen() {
        let mut s = settled(true);
        tables(&mut s.0, B).lease = u64::MAX;
        for deaf in s.0.neighbours.deaf.values_mut() {
            deaf.leads_to = Some(B);
        }
        s.opens();
        breaks(&mut s, 100, "decides");
    }

    #[test]
    fn forwarding_without_a_right_is_seen() {
        let mut s = settled(true);
        for deaf in s.0.neighbours.deaf.values_mut() {
            deaf.leads_to = Some(B);
        }
        // The process there writes what is right, again and again.
        let broken = (0..300).find_map(|_| {
            tables(&mut s.0, B).lease = u64::MAX;
            tables(&mut s.0, B).frozen = true;
            let end = s.0.now + 10 * MS;
            s.0.run_until(end).err()
        });
        assert!(broken.is_some_and(|it| it.contains("lease")));
    }

    #[test]
    fn two_ways_of_one_connection_are_seen() {
        let mut s = settled(true);
        // What B has of them leads elsewhere, and A's process is dead.
        for flow in tables(&mut s.0, B).flows.values_mut() {
            flow.to_sport = (flow.to_sport.get() ^ 1).into();
        }
        s.0.checkers.flows.forget_promises();
        s.0.act(Act::Crash(A));
        for deaf in s.0.neighbours.deaf.values_mut() {
            deaf.leads_to = Some(B);
        }
        breaks(&mut s, 3_000, "one way");
    }

    #[test]
    fn a_reset_of_a_living_connection_is_seen() {
        let mut s = settled(true);
        s.0.checkers.flows.forget_promises();
        let number = s.living()[0];
        let client = &s.0.traffic.clients[&number].end;
        let reset = client.reset_of_this();
        s.0.host_gets(&reset.frame());
        breaks(&mut s, 100, "no reset");
    }

    #[test]
    fn a_mastership_by_a_report_is_seen() {
        let mut s = settled(true);
        s.0.checkers.data_path_told(Role::Backup, Role::Master);
        breaks(&mut s, 100, "owner");
    }
}
