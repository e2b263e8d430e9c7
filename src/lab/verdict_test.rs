//! A verdict that cannot fail is worth nothing: each rule is broken once.

use super::super::owners::{Family, Sighting};
use super::*;

const fn at(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

/// One request every 2 ms for two seconds, each answered in 1 ms; the fault comes at 400 ms.
fn served() -> Record {
    let attempt = |n: u64| Attempt {
        start: at(2 * n),
        end: at(2 * n + 1),
        outcome: Ok("b1".to_owned()),
    };
    Record {
        attempts: (0..1_000).map(attempt).collect(),
        ..Record::default()
    }
}

fn fail(record: &mut Record, from: u64, until: u64, failure: Failure) {
    for attempt in &mut record.attempts {
        if at(from) <= attempt.start && attempt.start < at(until) {
            attempt.outcome = Err(failure);
        }
    }
}

fn claims(owner: NodeId, from: u64, until: u64) -> impl Iterator<Item = Sighting> {
    (from..until).step_by(5).map(move |ms| Sighting {
        at: at(ms),
        family: Family::V4,
        owner: node_mac(owner),
        asked: true,
    })
}

struct Case {
    scenario: Scenario,
    record: Record,
    seen: Sightings,
    masters: Vec<NodeId>,
    over: Option<Mono>,
}

impl Case {
    /// A failover from the first to the second node as it should be.
    fn good(scenario: Scenario) -> Self {
        let old = claims(NodeId::First, 0, 400);
        Self {
            scenario,
            record: served(),
            seen: Sightings(old.chain(claims(NodeId::Second, 402, 2_000)).collect()),
            masters: vec![NodeId::Second],
            over: None,
        }
    }

    fn run(&self) -> Run {
        let mut harm = Harm::new(at(400), at(400));
        harm.over = self.over;
        harm.calm.push((at(900), at(2_000)));
        let evidence = Evidence {
            scenario: self.scenario,
            harm,
            record: &self.record,
            seen: &self.seen,
            master_before: NodeId::First,
            masters: &self.masters,
            events: &[],
            unprovoked: Vec::new(),
        };
        Run::of(&evidence, 1)
    }

    fn complaint(&self) -> String {
        let run = self.run();
        assert_eq!(run.ok, run.why_not.is_empty());
        run.why_not.join("; ")
    }
}

#[test]
fn a_good_failover_is_ok() {
    let run = Case::good(Scenario::Kill9).run();
    assert_eq!(run.why_not, [""; 0]);
    assert_eq!((run.master_before, run.master_after), ("lb1", Some("lb2")));
    assert_eq!(run.new_owner_first_answer_ms, Some(2.0));
    assert_eq!(run.old_owner_last_answer_ms, Some(-5.0));
    assert!((run.outage_ms - 2.0).abs() < 1e-9, "{}", run.outage_ms);
}

#[test]
fn failures_while_it_fails_over_are_excused_and_later_ones_are_not() {
    let mut case = Case::good(Scenario::Kill9);
    fail(&mut case.record, 400, 890, Failure::Refused);
    assert_eq!(case.complaint(), "");
    fail(&mut case.record, 1_000, 1_003, Failure::Reset);
    assert_eq!(
        case.complaint(),
        "2 requests failed that began when all was settled"
    );
    case.over = Some(at(1_001));
    assert!(
        case.complaint().starts_with("1 requests"),
        "under way when it was over"
    );
}

#[test]
fn a_planned_switchover_refuses_nobody() {
    let mut case = Case::good(Scenario::Switchover);
    fail(&mut case.record, 400, 403, Failure::Refused);
    assert_eq!(case.complaint(), "2 requests were refused");
}

#[test]
fn the_number_of_masters_is_one_and_it_is_the_other_node() {
    let mut case = Case::good(Scenario::Kill9);
    case.masters.clear();
    assert_eq!(case.complaint(), "0 masters at the end");
    case.masters = NodeId::BOTH.to_vec();
    assert!(case.complaint().starts_with("2 masters at the end"));
    case.masters = vec![NodeId::First];
    assert_eq!(case.complaint(), "lb1 is master as before");
    case.scenario = Scenario::Cut;
    assert_eq!(case.complaint(), "", "who it is does not matter there");
}

#[test]
fn a_dead_owner_is_silent_at_once_and_a_hanging_one_when_it_is_let_go() {
    let mut case = Case::good(Scenario::Kill9);
    let with_ghost = |from, until| {
        let all = claims(NodeId::First, 0, 400).chain(claims(NodeId::First, from, until));
        let mut all: Vec<_> = all.chain(claims(NodeId::Second, 402, 2_000)).collect();
        all.sort_by_key(|seen| seen.at);
        Sightings(all)
    };
    case.seen = with_ghost(600, 610);
    assert_eq!(
        case.complaint(),
        "lb1 claimed the VIP 205.0 ms after the fault"
    );
    case.scenario = Scenario::Hang;
    case.over = Some(at(700));
    assert_eq!(case.complaint(), "");
    case.over = Some(at(600));
    assert_eq!(
        case.complaint(),
        "lb1 claimed the VIP 205.0 ms after the fault"
    );
    case.scenario = Scenario::Cut;
    case.seen = with_ghost(1_500, 1_510);
    assert_eq!(case.complaint(), "2 hosts answered for the VIP at once");
}

#[test]
fn an_outage_that_the_prober_made_is_void() {
    let mut case = Case::good(Scenario::Kill9);
    case.record
        .attempts
        .retain(|a| a.start < at(400) || a.start > at(450));
    assert!(!case.run().is_void(), "a real outage");
    case.record.stalled = Duration::from_millis(50);
    assert!(case.run().is_void());
    case.scenario = Scenario::Poweroff;
    assert!(!case.run().is_void(), "within its limit all the same");
}
