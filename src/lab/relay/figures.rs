//! From what was seen in a run to its figures. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::faults::Death;
use super::goals::{Met, SHORT, judge};
use super::plan::{Fault, Plan};
use super::switches::Switch;
use super::wrk::Wrk;
use crate::lab::Failure;
use crate::lab::survive::{Counts, Ends, How, Kind, Step, Trouble, Window};
use crate::lab::verdict::ms;
use crate::time::Mono;

/// Everything that was seen in one run.
pub(super) struct Evidence<'a> {
    pub(super) plan: &'a Plan,
    pub(super) number: u32,
    pub(super) windows: Vec<Window>,
    pub(super) death: Option<Death>,
    pub(super) ends: Ends,
    pub(super) wrk: Option<Wrk>,
}

/// How the connections that stood when a process was harmed ended. Those of the kernel mode should
/// not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct OldEnds {
    /// Connections that stood.
    pub stood: usize,
    /// Ended by a reset.
    pub reset: usize,
    /// By a FIN: a cut answer looks complete.
    pub fin: usize,
    /// Because nothing came for too long, or the wrong bytes.
    pub other: usize,
    /// Not ended when the watch did. In proxy mode their clients wait for nothing.
    pub alive: usize,
    /// From the harm to the last of these ends, in microseconds.
    pub last_us: u64,
}

/// Those that are told one by one.
const TROUBLED: usize = 16;

/// A new connection that was lost or late.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Troubled {
    /// When it began, after a process was harmed; negative: before.
    pub began_ms: Option<f64>,
    /// Until its end, or its answer.
    pub took_ms: f64,
    /// What its client saw; none: it was late.
    pub failure: Option<Failure>,
    /// The client's port; none: it never stood.
    pub port: Option<u16>,
}

/// One run's figures. Times in milliseconds; those of stalls and new connections are of the fault
/// itself, of the time before, or of the node's return; the counts are of the whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// From 1.
    pub run: u32,
    /// New connections, all.
    pub new_total: u64,
    /// Those that failed or got no whole answer.
    pub new_lost: u64,
    /// Of the lost, those that were under way when a process was harmed.
    pub new_in_flight: u64,
    /// Of the lost, those that were begun from then on until it was gone.
    pub new_while_dying: u64,
    /// Those whose handshake took more than 100 ms.
    pub new_late: u64,
    /// The first of those that were lost or late.
    pub new_troubled: Vec<Troubled>,
    /// Those that the lab did not open, because too many were under way.
    pub new_skipped: u64,
    /// How far the lab stayed below its rate while nothing happened, in percent.
    pub new_short_percent: f64,
    /// Slowest handshake.
    pub new_slowest_ms: f64,
    /// Slowest handshake while nothing happened: what the machine does by itself.
    pub calm_slowest_ms: f64,
    /// Slowest handshake while the node came back.
    pub back_slowest_ms: f64,
    /// Longest wait for an answer of connections that ask.
    pub stall_requests_ms: f64,
    /// The same while nothing happened.
    pub calm_requests_ms: f64,
    /// The same while the node came back.
    pub back_requests_ms: f64,
    /// Longest stall of a download.
    pub stall_downloads_ms: f64,
    /// Longest stall of an upload.
    pub stall_uploads_ms: f64,
    /// Longest time that the tool itself was held up.
    pub tool_stalled_ms: f64,
    /// Connections that stay and were lost.
    pub lost: u64,
    /// The same by kind.
    pub lost_by_kind: BTreeMap<&'static str, u64>,
    /// Idle connections that did not answer when they were asked.
    pub idle_silent: u64,
    /// Bytes that were not those that were sent.
    pub wrong_bytes: u64,
    /// Steps after which there was not one master, or not the one that should be.
    pub wrong_masters: u64,
    /// From the harm until the process was gone, if it went.
    pub died_ms: Option<f64>,
    /// How old connections ended, if a process died.
    pub old: Option<OldEnds>,
    /// What `wrk` saw, if it ran.
    pub wrk: Option<Wrk>,
    /// Each goal.
    pub goals: Vec<Met>,
    /// Of a run of switchovers: what clients noticed of each, of the time before and of the end.
    pub switches: Vec<Switch>,
    /// Window by window.
    pub windows: Vec<Window>,
    /// Every goal that each run must reach is reached.
    pub ok: bool,
}

impl Run {
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        let Evidence {
            plan,
            number,
            windows,
            death,
            ends,
            wrk,
        } = evidence;
        let (new_in_flight, new_while_dying) = in_flight(*death, ends);
        let all = || windows.iter().map(|window| &window.counts);
        let sum = |of: fn(&Window) -> u64| sum_of(windows, of);
        let most = |of: fn(&Window) -> f64, when: fn(Step) -> bool| {
            let those = windows.iter().filter(|window| when(window.step));
            those.map(of).fold(0.0, f64::max)
        };
        let calm = |of| most(of, |step| step == Step::Calm);
        let back = |of| most(of, |step| step == Step::Rejoin);
        let harm = |of| most(of, Step::moves);
        let mut lost_by_kind = BTreeMap::new();
        for (kind, tally) in all().flat_map(Counts::kinds) {
            *lost_by_kind.entry(kind.name()).or_default() += tally.lost();
        }
        let mut run = Self {
            run: *number,
            new_total: sum(|w| w.counts.new.attempts),
            new_lost: sum(|w| w.counts.new.lost() + w.counts.new.failed()),
            new_in_flight,
            new_while_dying,
            new_late: sum(|w| w.counts.new.late),
            new_troubled: troubled(*death, ends),
            new_skipped: sum(|w| w.counts.new.skipped),
            new_short_percent: short(plan.crowd.new_rate, windows),
            new_slowest_ms: harm(|w| w.counts.new.handshake_ms),
            calm_slowest_ms: calm(|w| w.counts.new.handshake_ms),
            back_slowest_ms: back(|w| w.counts.new.handshake_ms),
            stall_requests_ms: harm(|w| w.counts.requests.stall_ms),
            calm_requests_ms: calm(|w| w.counts.requests.stall_ms),
            back_requests_ms: back(|w| w.counts.requests.stall_ms),
            stall_downloads_ms: harm(|w| w.counts.downloads.stall_ms),
            stall_uploads_ms: harm(|w| w.counts.uploads.stall_ms),
            tool_stalled_ms: all()
                .map(|counts| counts.tool_stalled_ms)
                .fold(0.0, f64::max),
            lost: lost_by_kind.values().sum(),
            lost_by_kind,
            idle_silent: sum_of(windows, |window| idle_silent(plan.crowd.idle, window)),
            wrong_bytes: all()
                .flat_map(Counts::kinds)
                .map(|(_, tally)| tally.wrong_bytes)
                .sum(),
            wrong_masters: sum(|window| u64::from(!right_master(window))),
            died_ms: death.and_then(|it| Some(ms(it.gone?.since(it.at)))),
            old: death.map(|death| old(plan, death, ends)),
            wrk: *wrk,
            goals: Vec::new(),
            switches: match plan.fault {
                Fault::Switchover => Switch::all(plan.crowd.idle, windows),
                _ => Vec::new(),
            },
            windows: windows.clone(),
            ok: false,
        };
        run.goals = judge(plan, std::slice::from_ref(&run));
        run.ok = run.goals.iter().all(|goal| goal.ok || goal.median);
        run
    }

    /// It failed, and the machine was too busy for the lab itself before anything happened.
    pub(super) fn is_void(&self) -> bool {
        !self.ok && self.new_short_percent > SHORT
    }
}

/// The first new connections that were lost or late.
fn troubled(death: Option<Death>, ends: &Ends) -> Vec<Troubled> {
    let since_harm = |at: Mono| {
        let harm = death?.at;
        Some(ms(at.since(harm)) - ms(harm.since(at)))
    };
    let one = |one: &Trouble| Troubled {
        began_ms: since_harm(one.began),
        took_ms: ms(one.ended.since(one.began)),
        failure: one.failure,
        port: one.port,
    };
    ends.of_new.iter().take(TROUBLED).map(one).collect()
}

/// Lost new connections that the dying process had, and those that its kernel took for it while it
/// died. Nobody can keep what only a dead process knew.
fn in_flight(death: Option<Death>, ends: &Ends) -> (u64, u64) {
    let Some((at, gone)) = death.and_then(|death| Some((death.at, death.gone?))) else {
        return (0, 0);
    };
    let lost = || {
        let of_new = ends.of_new.iter();
        of_new.filter(|one| one.failure.is_some() && one.ended >= at)
    };
    let open = lost().filter(|loss| loss.began <= at).count();
    let until_gone = lost().filter(|loss| loss.began <= gone).count();
    (open as u64, (until_gone - open) as u64)
}

fn old(plan: &Plan, death: Death, ends: &Ends) -> OldEnds {
    let stood = Kind::ALL.map(|kind| plan.crowd.of(kind)).iter().sum();
    let mut old = OldEnds {
        stood,
        ..OldEnds::default()
    };
    let mut last = Duration::ZERO;
    // Those that replaced them cannot end in such numbers before the watch does; if they do, the
    // first ones are the old ones.
    let of_then = ends
        .of_staying
        .iter()
        .filter(|end| death.at <= end.at && end.at <= death.until);
    for end in of_then.take(stood) {
        last = last.max(end.at.since(death.at));
        match end.how {
            How::Reset => old.reset += 1,
            How::Fin => old.fin += 1,
            How::Other => old.other += 1,
        }
    }
    old.alive = stood - old.reset - old.fin - old.other;
    old.last_us = last.as_micros() as u64;
    old
}

fn short(rate: u32, windows: &[Window]) -> f64 {
    let calm = windows.iter().filter(|window| window.step == Step::Calm);
    let (opened, wanted) = calm.fold((0.0, 0.0), |(opened, wanted), window| {
        let due = f64::from(rate) * window.took_ms / 1e3;
        (opened + window.counts.new.attempts as f64, wanted + due)
    });
    match wanted > 0.0 {
        true => f64::max(0.0, 100.0 * (1.0 - opened / wanted)),
        false => 0.0,
    }
}

fn sum_of(windows: &[Window], of: impl Fn(&Window) -> u64) -> u64 {
    windows.iter().map(of).sum()
}

/// Idle connections that were asked in this window and did not answer.
pub(super) fn idle_silent(idle: usize, window: &Window) -> u64 {
    match window.step {
        Step::Failover => (idle as u64).saturating_sub(window.counts.idle.progress),
        _ => 0,
    }
}

pub(super) fn right_master(window: &Window) -> bool {
    match window.masters_after[..] {
        [after] => (after != window.master_before) == window.step.moves(),
        _ => false,
    }
}

#[cfg(test)]
#[path = "figures_test.rs"]
mod tests;
