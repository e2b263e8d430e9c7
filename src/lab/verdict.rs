//! From what was seen to what it means: one run's figures, and whether they are good enough.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::config::NODES;
use super::load::{Attempt, Failure, Record};
use super::owners::Sightings;
use super::scenario::{Harm, Scenario};
use super::topology::node_mac;
use crate::model::{NodeId, Role};
use crate::status::{Cause, Event, What};
use crate::time::Mono;

/// From a dead process's last claim of the VIP at most this long to its death. The kernel takes
/// the device back while it ends the process; measured: well under a millisecond.
const GHOST: Duration = Duration::from_millis(100);
/// A prober that was held up for longer than this says nothing about outages of 10 ms.
const STALL: Duration = Duration::from_millis(20);

impl Scenario {
    /// Longest time without a completed answer, as the median of the runs.
    pub(super) const fn outage_limit(self) -> Option<Duration> {
        match self {
            Self::Kill9 | Self::Switchover => Some(Duration::from_millis(10)),
            // Three heartbeats of 100 ms, the skew time, and the takeover itself.
            Self::Hang | Self::Poweroff => Some(Duration::from_millis(400)),
            Self::Cut | Self::BackendDown | Self::Partition => None,
        }
    }

    /// Whether the other node must be master afterwards.
    const fn moves(self) -> bool {
        matches!(
            self,
            Self::Kill9 | Self::Hang | Self::Poweroff | Self::Switchover
        )
    }
}

/// Everything that was seen in one run.
pub(super) struct Evidence<'a> {
    pub scenario: Scenario,
    pub harm: Harm,
    pub record: &'a Record,
    pub seen: &'a Sightings,
    pub master_before: NodeId,
    pub masters: &'a [NodeId],
    /// Timeline of the master at the end, from the fault on.
    pub events: &'a [Event],
    pub unprovoked: Vec<String>,
}

/// One run's figures. Milliseconds are counted from the fault.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// What was done.
    pub scenario: Scenario,
    /// From 1.
    pub run: u32,
    /// Longest time between two successive completed answers to new connections, from the fault on.
    pub outage_ms: f64,
    /// New connections attempted.
    pub requests_total: usize,
    /// Those that failed, by kind.
    pub requests_failed: BTreeMap<Failure, u64>,
    /// What the new master gave as the cause of its takeover.
    pub detected_by: Option<Cause>,
    /// From the last sign of the old master's life to the decision.
    pub detection_ms: Option<f64>,
    /// From the decision to the address held and announced.
    pub takeover_ms: Option<f64>,
    /// Most hosts that answered for one VIP at the same time, once settled.
    pub vip_owners_max: usize,
    /// When the old master last claimed the VIP.
    pub old_owner_last_answer_ms: Option<f64>,
    /// When the new master first did.
    pub new_owner_first_answer_ms: Option<f64>,
    /// Longest time that the prober itself was held up.
    pub prober_stalled_ms: f64,
    /// Who was master.
    pub master_before: &'static str,
    /// Who is.
    pub master_after: Option<&'static str>,
    /// How many nodes say that they are.
    pub masters_at_end: usize,
    /// Answers, by backend.
    pub answered_by: BTreeMap<String, u64>,
    /// What happened before or during the run without being part of it: a node ended, or the
    /// mastership moved. On a machine that stands still for long enough that is what must happen,
    /// so it is told and not judged.
    pub unprovoked: Vec<String>,
    /// Nothing is wrong.
    pub ok: bool,
    /// What is.
    pub why_not: Vec<String>,
}

impl Run {
    /// All failed requests.
    pub fn failed(&self) -> u64 {
        self.requests_failed.values().sum()
    }

    /// The machine was too busy for the prober to judge this outage.
    pub(super) fn is_void(&self) -> bool {
        let limit = self.scenario.outage_limit();
        let over = limit.is_some_and(|limit| self.outage_ms > ms(limit));
        over && self.prober_stalled_ms > ms(STALL)
    }

    /// Where the run's own time begins.
    pub(super) fn of(evidence: &Evidence<'_>, number: u32) -> Self {
        let Evidence {
            scenario,
            harm,
            record,
            seen,
            master_before,
            masters,
            events,
            unprovoked,
        } = evidence;
        let after = masters.first().copied();
        let takeover = after.and_then(|_| takeover(events));
        let since = |at: Option<Mono>| at.map(|at| signed_ms(at, harm.at));
        let old = node_mac(*master_before);
        let moved = after.filter(|after| after != master_before);
        let calm = harm.calm.iter();
        let mut run = Self {
            scenario: *scenario,
            run: number,
            outage_ms: record
                .outage(harm.at)
                .map_or(f64::INFINITY, |(_, gap)| ms(gap)),
            requests_total: record.attempts.len(),
            requests_failed: record.failures(),
            detected_by: takeover.map(|it| it.0),
            detection_ms: takeover.and_then(|it| it.1),
            takeover_ms: takeover.and_then(|it| it.2),
            vip_owners_max: calm
                .map(|(from, until)| seen.owners_max(*from, *until))
                .max()
                .unwrap_or(0),
            old_owner_last_answer_ms: moved.and_then(|_| since(seen.last_of(old))),
            new_owner_first_answer_ms: moved
                .and_then(|new| since(seen.first_of(node_mac(new), harm.at))),
            prober_stalled_ms: ms(record.stalled),
            master_before: NODES[master_before.index()],
            master_after: after.map(|id| NODES[id.index()]),
            masters_at_end: masters.len(),
            answered_by: record.answers(),
            unprovoked: unprovoked.clone(),
            ok: true,
            why_not: Vec::new(),
        };
        run.why_not = complaints(&run, evidence);
        run.ok = run.why_not.is_empty();
        run
    }
}

fn complaints(run: &Run, evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence {
        scenario,
        harm,
        record,
        seen,
        ..
    } = evidence;
    let mut found = harm.complaints.clone();
    let mut claim = |good: bool, what: String| {
        if !good {
            found.push(what);
        }
    };
    let masters = run.masters_at_end;
    claim(masters == 1, format!("{masters} masters at the end"));
    let owners = run.vip_owners_max;
    claim(
        owners < 2,
        format!("{owners} hosts answered for the VIP at once"),
    );
    if scenario.moves() {
        let before = run.master_before;
        claim(
            run.master_after != Some(before),
            format!("{before} is master as before"),
        );
    }
    let lost = lost_while_calm(record, harm);
    claim(
        lost == 0,
        format!("{lost} requests failed that began when all was settled"),
    );
    claim(
        !run.answered_by.is_empty(),
        "no request was answered".to_owned(),
    );
    let refused = run
        .requests_failed
        .get(&Failure::Refused)
        .copied()
        .unwrap_or(0);
    if *scenario == Scenario::Switchover {
        claim(refused == 0, format!("{refused} requests were refused"));
    }
    let last = seen.last_of(node_mac(evidence.master_before));
    let silent_from = match scenario {
        Scenario::Kill9 | Scenario::Poweroff => Some(harm.done + GHOST),
        Scenario::Hang => harm.over,
        _ => None,
    };
    if let (Some(last), Some(from)) = (last, silent_from) {
        let late = signed_ms(last, harm.at);
        claim(
            last <= from,
            format!(
                "{} claimed the VIP {late:.1} ms after the fault",
                run.master_before
            ),
        );
    }
    found
}

/// Failures that nothing excuses: begun while the pair was settled, and not under way when the
/// next change came.
fn lost_while_calm(record: &Record, harm: &Harm) -> usize {
    let excused = |attempt: &Attempt| {
        let mut changes = [Some(harm.done), harm.over].into_iter().flatten();
        changes.any(|change| attempt.start <= change && change <= attempt.end)
    };
    let calm = |attempt: &Attempt| {
        let mut calm = harm.calm.iter();
        calm.any(|(from, until)| *from <= attempt.start && attempt.start < *until)
    };
    let failed = record.attempts.iter().filter(|a| a.outcome.is_err());
    failed.filter(|a| calm(a) && !excused(a)).count()
}

/// The last takeover of a timeline: cause, detection, takeover.
fn takeover(events: &[Event]) -> Option<(Cause, Option<f64>, Option<f64>)> {
    events.iter().rev().find_map(|event| match &event.what {
        What::Transition {
            to: Role::Master,
            cause,
            detection_ms,
            takeover_ms,
            ..
        } => Some((*cause, *detection_ms, *takeover_ms)),
        _ => None,
    })
}

/// In milliseconds.
pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// From `zero` to `at`, in milliseconds; negative if it lies before.
pub(super) fn signed_ms(at: Mono, zero: Mono) -> f64 {
    ms(at.since(zero)) - ms(zero.since(at))
}

#[cfg(test)]
#[path = "verdict_test.rs"]
mod tests;
