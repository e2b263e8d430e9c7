//! What a run must have shown: a table for each fault and mode. Pure.

use serde::Serialize;

use super::figures::Run;
use super::plan::{Fault, Plan};
use crate::lab::report::median;

/// Longest stall of a request, as the median of the runs.
const STALL_MS: f64 = 10.0;
/// Old connections of a dead proxy are reset within this.
const RESET_MS: f64 = 50.0;
/// What the lab may stay below its own rate, in percent.
pub(super) const SHORT: f64 = 5.0;
/// A master that hangs is not given longer: the lease of the lab's file, and the jiffy by which the
/// program's clock lags.
const LEASE_MS: f64 = 250.0;

/// A goal, what it was, and whether that is enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Met {
    /// What is measured.
    pub what: &'static str,
    /// What it was: the worst of the runs, or their median.
    pub is: f64,
    /// The most that it may be.
    pub at_most: f64,
    /// It is the median of the runs that counts.
    pub median: bool,
    /// It is.
    pub ok: bool,
}

struct Goal {
    what: &'static str,
    of: fn(&Run) -> f64,
    at_most: f64,
    median: bool,
}

const fn each(what: &'static str, at_most: f64, of: fn(&Run) -> f64) -> Goal {
    Goal {
        what,
        of,
        at_most,
        median: false,
    }
}

/// The goals, met or not, over these runs. Without a run none is met.
pub(super) fn judge(plan: &Plan, runs: &[Run]) -> Vec<Met> {
    let met = |goal: Goal| {
        let all = runs.iter().map(goal.of);
        let is = match goal.median {
            _ if runs.is_empty() => f64::INFINITY,
            true => median(all.collect()),
            false => all.fold(0.0, f64::max),
        };
        Met {
            what: goal.what,
            is,
            at_most: goal.at_most,
            median: goal.median,
            ok: is <= goal.at_most,
        }
    };
    goals(plan).into_iter().map(met).collect()
}

fn goals(plan: &Plan) -> Vec<Goal> {
    let mut goals = vec![
        each("% below the lab's own rate while calm", SHORT, |run| {
            run.new_short_percent
        }),
        each("new connections not opened", 0.0, |run| {
            run.new_skipped as f64
        }),
        each("steps without the right master", 0.0, |run| {
            run.wrong_masters as f64
        }),
        each("wrong bytes", 0.0, |run| run.wrong_bytes as f64),
    ];
    let lost_new = each("new connections lost", 0.0, |run| run.new_lost as f64);
    let late = each("new connections later than 100 ms", 0.0, |run| {
        run.new_late as f64
    });
    let lost = each("old connections lost", 0.0, |run| run.lost as f64);
    let stall = Goal {
        what: "longest stall of a request, median, ms",
        of: |run| run.stall_requests_ms,
        at_most: STALL_MS,
        median: true,
    };
    let outside = each("new connections lost that were not in flight", 0.0, |run| {
        let known = run.new_in_flight + run.new_while_dying;
        run.new_lost.saturating_sub(known) as f64
    });
    let fin = each("old connections ended by FIN", 0.0, |run| {
        run.old.map_or(0, |old| old.fin) as f64
    });
    match (plan.fault, plan.mode.is_kernel()) {
        (Fault::Kill9, true) => goals.extend([lost_new, late, lost, stall]),
        (Fault::Hang, true) => goals.extend([
            lost_new,
            each("slowest new connection, ms", LEASE_MS, |run| {
                run.new_slowest_ms
            }),
            lost,
            stall,
        ]),
        (Fault::Kill9, false) => goals.extend([
            outside,
            late,
            fin,
            each("old connections not reset", 0.0, |run| {
                run.old.map_or(0, |old| old.other + old.alive) as f64
            }),
            each("last reset of an old connection, ms", RESET_MS, |run| {
                run.old.map_or(0.0, |old| old.last_us as f64 / 1e3)
            }),
        ]),
        // What a hanging process has is lost when its timer kills it.
        (Fault::Hang, false) => goals.extend([outside, fin]),
        (Fault::Switchover | Fault::Upgrade, _) => goals.extend([lost_new, lost]),
    }
    if plan.fault == Fault::Switchover {
        goals.push(each("idle connections that did not answer", 0.0, |run| {
            run.idle_silent as f64
        }));
        goals.push(each("errors that wrk saw", 0.0, |run| {
            run.wrk.map_or(0, |wrk| wrk.errors) as f64
        }));
    }
    goals
}
