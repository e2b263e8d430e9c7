//! What it prints: a line for each run, and at the end figures and goals.

use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;
use serde::Serialize;

use super::figures::Run;
use super::goals::{Met, judge};
use super::plan::{Fault, Plan};
use super::switches;
use crate::lab::config::Mode;
use crate::lab::report::{Conditions, median};
use crate::lab::survive::Crowd;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where this was measured.
    pub lab: Conditions,
    /// In the order in which they ran.
    pub series: Vec<Series>,
}

impl Report {
    /// Every series is.
    pub fn ok(&self) -> bool {
        !self.series.is_empty() && self.series.iter().all(|series| series.ok)
    }
}

/// All runs of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// What was done.
    pub fault: Fault,
    /// How the services ran.
    pub mode: Mode,
    /// Nobody heard where the addresses are.
    pub stale: bool,
    /// The connections.
    pub crowd: Crowd,
    /// Switchovers in each run; 0 where it is of another fault.
    pub switchovers: u32,
    /// Median and worst of the runs.
    pub figures: Vec<Figure>,
    /// Over all runs.
    pub goals: Vec<Met>,
    /// In turn.
    pub runs: Vec<Run>,
    /// Of each run that was repeated: why.
    pub void: Vec<String>,
    /// Every goal is met.
    pub ok: bool,
}

/// A figure over all runs.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What is measured.
    pub what: &'static str,
    /// Median of the runs.
    pub median: f64,
    /// The most of any run.
    pub most: f64,
}

type Of = fn(&Run) -> f64;

/// What is told of each series beside its goals.
const FIGURES: [(&str, Of); 15] = [
    ("new connections", |run| run.new_total as f64),
    ("  lost", |run| run.new_lost as f64),
    ("  lost, in flight when it was harmed", |run| {
        run.new_in_flight as f64
    }),
    ("  lost, begun while it died", |run| {
        run.new_while_dying as f64
    }),
    ("  later than 100 ms", |run| run.new_late as f64),
    ("  slowest, ms", |run| run.new_slowest_ms),
    ("  slowest while calm, ms", |run| run.calm_slowest_ms),
    ("  slowest while the node came back, ms", |run| {
        run.back_slowest_ms
    }),
    ("old connections lost", |run| run.lost as f64),
    ("longest stall: requests, ms", |run| run.stall_requests_ms),
    ("  requests while calm, ms", |run| run.calm_requests_ms),
    ("  requests while the node came back, ms", |run| {
        run.back_requests_ms
    }),
    ("  downloads, ms", |run| run.stall_downloads_ms),
    ("  uploads, ms", |run| run.stall_uploads_ms),
    ("the tool was held up, ms", |run| run.tool_stalled_ms),
];

impl Series {
    /// From its runs, and from the reasons why others were repeated.
    pub fn new(plan: &Plan, runs: Vec<Run>, void: Vec<String>) -> Self {
        let figure = |(what, of): (&'static str, Of)| Figure {
            what,
            median: median(runs.iter().map(of).collect()),
            most: runs.iter().map(of).fold(0.0, f64::max),
        };
        let goals = judge(plan, &runs);
        Self {
            fault: plan.fault,
            mode: plan.mode,
            stale: plan.stale,
            crowd: plan.crowd,
            switchovers: match plan.fault {
                Fault::Switchover => plan.switchovers,
                _ => 0,
            },
            figures: FIGURES.map(figure).to_vec(),
            ok: goals.iter().all(|goal| goal.ok),
            goals,
            runs,
            void,
        }
    }
}

/// One line about a run, as it ends.
pub(in crate::lab) fn line(plan: &Plan, run: &Run) -> String {
    let failed = run.goals.iter().filter(|goal| !goal.ok && !goal.median);
    let failed: Vec<_> = failed
        .map(|goal| format!("{:.0} {}", goal.is, goal.what))
        .collect();
    let verdict = match run.ok {
        true => "ok".to_owned(),
        false => format!("NOT OK: {}", failed.join("; ")),
    };
    let death = run
        .died_ms
        .map_or_else(String::new, |ms| format!(", dead after {ms:.1} ms"));
    let old = run.old.map_or_else(String::new, |old| {
        let (reset, fin, last) = (old.reset, old.fin, old.last_us as f64 / 1e3);
        let silent = old.other + old.alive;
        match reset + fin + old.other {
            0 => format!("; all {} old go on", old.stood),
            _ => format!("; old: {reset} reset, {fin} FIN, {silent} neither, within {last:.1} ms"),
        }
    });
    let wrk = run.wrk.map_or_else(String::new, |wrk| {
        format!("; wrk: {} errors of {}", wrk.errors, wrk.requests)
    });
    format!(
        "{} run {}: new: {} lost ({} in flight, {} begun meanwhile), {} late of {}, slowest {:.1} ms; {} old lost, \
         stall {:.1} ms{death}{old}{wrk}: {verdict}",
        plan.fault.name(),
        run.run,
        run.new_lost,
        run.new_in_flight,
        run.new_while_dying,
        run.new_late,
        run.new_total,
        run.new_slowest_ms,
        run.lost,
        run.stall_requests_ms,
    )
}

/// The closing tables.
pub(in crate::lab) fn table(report: &Report) -> String {
    let all: Vec<_> = report.series.iter().map(of_one).collect();
    all.join("\n\n")
}

fn of_one(series: &Series) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    table.set_header(["", "median", "most", "goal", "met"]);
    for figure in &series.figures {
        table.add_row([
            figure.what.to_owned(),
            number(figure.median),
            number(figure.most),
            String::new(),
            String::new(),
        ]);
    }
    for goal in &series.goals {
        let is = number(goal.is);
        let (median, most) = match goal.median {
            true => (is, String::new()),
            false => (String::new(), is),
        };
        table.add_row([
            goal.what.to_owned(),
            median,
            most,
            format!("at most {}", number(goal.at_most)),
            if goal.ok { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let crowd = &series.crowd;
    let switches = match switches::text(&series.runs) {
        none if none.is_empty() => none,
        text => format!("\n{text}"),
    };
    format!(
        "{}, {} mode, {}, {} runs ({} repeated): {}\n{table}\n{} new connections a second, {} downloads, {} \
         uploads, {} that ask, {} idle.{switches}",
        series.fault.name(),
        series.mode.name(),
        match series.stale {
            true => "nobody hears announcements",
            false => "with announcements",
        },
        series.runs.len(),
        series.void.len(),
        if series.ok {
            "all goals met"
        } else {
            "NOT ALL GOALS MET"
        },
        crowd.new_rate,
        crowd.downloads,
        crowd.uploads,
        crowd.requests,
        crowd.idle,
    )
}

/// Whole numbers without a point.
pub(super) fn number(value: f64) -> String {
    match value.fract() == 0.0 {
        true => format!("{value:.0}"),
        false => format!("{value:.1}"),
    }
}
