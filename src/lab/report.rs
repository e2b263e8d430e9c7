//! What the lab prints: one JSON document, or a table.

use std::collections::BTreeSet;
use std::time::Duration;

use comfy_table::Table;
use serde::Serialize;

use super::load::{EVERY, Failure};
use super::netns::Rights;
use super::scenario::Scenario;
use super::verdict::{Run, ms};
use crate::config::Election;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where this was measured.
    pub lab: Conditions,
    /// In the order in which they ran.
    pub scenarios: Vec<Series>,
}

impl Report {
    /// Every scenario is.
    pub fn ok(&self) -> bool {
        self.scenarios.iter().all(|series| series.ok)
    }
}

/// Under which conditions the figures were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    /// Version of the program.
    pub version: &'static str,
    /// Built with optimisations.
    pub release: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// How the namespaces were made.
    pub rights: Rights,
    /// Time between two new connections.
    pub probe_every_ms: f64,
    /// Time between heartbeats.
    pub heartbeat_ms: f64,
    /// Heartbeats that may be missed.
    pub misses: u8,
}

impl Conditions {
    pub(super) fn here(rights: Rights, election: &Election) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            release: !cfg!(debug_assertions),
            kernel: kernel.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            rights,
            probe_every_ms: ms(EVERY),
            heartbeat_ms: ms(election.heartbeat),
            misses: election.misses,
        }
    }
}

/// All runs of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Which.
    pub scenario: Scenario,
    /// Those that count.
    pub runs: Vec<Run>,
    /// Runs that were repeated because the prober itself was held up.
    pub void: usize,
    /// Median over the runs of the longest gap between two successful new connections.
    pub outage_ms: f64,
    /// The longest.
    pub outage_ms_max: f64,
    /// The longest that the median may be.
    pub outage_ms_limit: Option<f64>,
    /// Over all runs.
    pub requests_total: usize,
    /// Over all runs.
    pub requests_failed: u64,
    /// Over all runs.
    pub requests_refused: u64,
    /// Each cause that a new master gave.
    pub detected_by: BTreeSet<String>,
    /// The most of any run.
    pub vip_owners_max: usize,
    /// Every run is ok, and the median is within its limit.
    pub ok: bool,
}

impl Series {
    pub(super) fn new(scenario: Scenario, runs: Vec<Run>, void: usize) -> Self {
        let outages = || runs.iter().map(|run| run.outage_ms);
        let median = median(outages().collect());
        let limit = scenario.outage_limit().map(ms);
        let refused = |run: &Run| run.requests_failed.get(&Failure::Refused).copied();
        let cause = |run: &Run| {
            let cause = serde_json::to_value(run.detected_by?).ok()?;
            cause.as_str().map(str::to_owned)
        };
        Self {
            scenario,
            void,
            outage_ms: median,
            outage_ms_max: outages().fold(0.0, f64::max),
            outage_ms_limit: limit,
            requests_total: runs.iter().map(|run| run.requests_total).sum(),
            requests_failed: runs.iter().map(Run::failed).sum(),
            requests_refused: runs.iter().filter_map(refused).sum(),
            detected_by: runs.iter().filter_map(cause).collect(),
            vip_owners_max: runs.iter().map(|run| run.vip_owners_max).max().unwrap_or(0),
            ok: runs.iter().all(|run| run.ok) && limit.is_none_or(|limit| median <= limit),
            runs,
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::INFINITY,
        n if n % 2 == 1 => values[n / 2],
        n => values[n / 2 - 1].midpoint(values[n / 2]),
    }
}

/// One line about a run, as it ends.
pub(super) fn line(run: &Run) -> String {
    let verdict = match run.ok {
        true => "ok".to_owned(),
        false => format!("NOT OK: {}", run.why_not.join("; ")),
    };
    let verdict = match run.unprovoked.join("; ") {
        nothing if nothing.is_empty() => verdict,
        unprovoked => format!("{verdict} (unprovoked: {unprovoked})"),
    };
    format!(
        "{:<12} run {}: {} -> {}, outage {:.1} ms, {} of {} requests failed: {verdict}",
        run.scenario,
        run.run,
        run.master_before,
        run.master_after.unwrap_or("nobody"),
        run.outage_ms,
        run.failed(),
        run.requests_total,
    )
}

/// The closing table of all series.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.set_header([
        "scenario",
        "runs",
        "outage median",
        "max",
        "limit",
        "failed",
        "refused",
        "detected by",
        "owners",
        "ok",
    ]);
    for series in &report.scenarios {
        let causes: Vec<_> = series.detected_by.iter().map(String::as_str).collect();
        table.add_row([
            series.scenario.to_string(),
            series.runs.len().to_string(),
            format!("{:.1} ms", series.outage_ms),
            format!("{:.1} ms", series.outage_ms_max),
            series
                .outage_ms_limit
                .map_or_else(String::new, |limit| format!("{limit:.0} ms")),
            format!("{} of {}", series.requests_failed, series.requests_total),
            series.requests_refused.to_string(),
            causes.join(", "),
            series.vip_owners_max.to_string(),
            if series.ok { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    table
}

/// For people: `1.234 s`, `12.3 ms`.
pub(super) fn human(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 100.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 2.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_infinite(), "no run is no good run");
    }
}
