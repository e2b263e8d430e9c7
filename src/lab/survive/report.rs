//! What `survive` prints.

use comfy_table::Table;
use serde::Serialize;

use super::clients::Crowd;
use super::gauge::{Counts, Kind, Tally};
use super::run::{Plan, Step};
use super::verdict::{Run, Window};
use crate::lab::config::Mode;
use crate::lab::report::{Conditions, median};

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where this was measured.
    pub lab: Conditions,
    /// How the services ran.
    pub mode: Mode,
    /// What is asked: no connection lost and no byte wrong. Not of `async`.
    pub required: bool,
    /// The connections.
    pub crowd: Crowd,
    /// Over all runs, by what was done.
    pub steps: Vec<Row>,
    /// In the order in which they ran.
    pub runs: Vec<Run>,
    /// Every run is.
    pub ok: bool,
}

/// All windows of one step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub step: Step,
    /// How often.
    pub times: usize,
    /// How long nothing came through the VIP: the median.
    pub hole_ms: f64,
    /// The longest.
    pub hole_ms_max: f64,
    /// How long the tool itself was held up, the longest.
    pub tool_stalled_ms_max: f64,
    /// Connections that receive a stream.
    pub downloads: Sum,
    /// Connections that send one.
    pub uploads: Sum,
    /// Connections that ask.
    pub requests: Sum,
    /// Connections that were silent.
    pub idle: Sum,
    /// New connections: how many ended.
    pub new_attempts: u64,
    /// Failed before the handshake was complete.
    pub new_failed: u64,
    /// Lost after it was.
    pub new_lost: u64,
    /// Handshakes of more than half a second.
    pub new_delayed: u64,
    /// Slowest handshake.
    pub new_handshake_ms_max: f64,
}

/// One kind of connection over all windows of a step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sum {
    /// Lost.
    pub lost: u64,
    /// Bytes that were not what was sent.
    pub wrong_bytes: u64,
    /// Longest stall: the median of the windows.
    pub stall_ms: f64,
    /// The longest.
    pub stall_ms_max: f64,
}

impl Sum {
    fn of<'a>(tallies: impl Iterator<Item = &'a Tally> + Clone) -> Self {
        let stalls = tallies.clone().map(|tally| tally.stall_ms);
        Self {
            lost: tallies.clone().map(Tally::lost).sum(),
            wrong_bytes: tallies.map(|tally| tally.wrong_bytes).sum(),
            stall_ms: median(stalls.clone().collect()),
            stall_ms_max: stalls.fold(0.0, f64::max),
        }
    }

    fn cell(&self) -> String {
        let wrong = match self.wrong_bytes {
            0 => String::new(),
            n => format!(", {n} bytes WRONG"),
        };
        let (stall, most) = (self.stall_ms, self.stall_ms_max);
        format!("{} lost{wrong}, {stall:.0}/{most:.0}", self.lost)
    }
}

impl Report {
    /// From all runs.
    pub fn new(lab: Conditions, plan: &Plan, runs: Vec<Run>) -> Self {
        let mut steps = Vec::new();
        for step in plan.steps.iter().copied().chain([Step::End]) {
            if steps.iter().all(|row: &Row| row.step != step) {
                let all = runs.iter().flat_map(|run| &run.windows);
                let of: Vec<_> = all.filter(|window| window.step == step).collect();
                steps.push(Row::new(step, &of));
            }
        }
        Self {
            lab,
            mode: plan.mode,
            required: plan.mode != Mode::Async,
            crowd: plan.crowd,
            steps,
            ok: !runs.is_empty() && runs.iter().all(|run| run.ok),
            runs,
        }
    }
}

impl Row {
    fn new(step: Step, windows: &[&Window]) -> Self {
        let of = |kind: Kind| {
            Sum::of(
                windows
                    .iter()
                    .map(move |w| w.counts.kinds()[kind as usize].1),
            )
        };
        let most = |of: &dyn Fn(&Window) -> f64| windows.iter().map(|w| of(w)).fold(0.0, f64::max);
        let sum = |of: &dyn Fn(&Window) -> u64| windows.iter().map(|w| of(w)).sum();
        Self {
            step,
            times: windows.len(),
            hole_ms: median(windows.iter().map(|w| w.counts.hole_ms).collect()),
            hole_ms_max: most(&|w| w.counts.hole_ms),
            tool_stalled_ms_max: most(&|w| w.counts.tool_stalled_ms),
            downloads: of(Kind::Download),
            uploads: of(Kind::Upload),
            requests: of(Kind::Requests),
            idle: of(Kind::Idle),
            new_attempts: sum(&|w| w.counts.new.attempts),
            new_failed: sum(&|w| w.counts.new.failed()),
            new_lost: sum(&|w| w.counts.new.lost()),
            new_delayed: sum(&|w| w.counts.new.delayed),
            new_handshake_ms_max: most(&|w| w.counts.new.handshake_ms),
        }
    }
}

/// One line about a run, as it ends.
pub(in crate::lab) fn line(run: &Run) -> String {
    let windows = || run.windows.iter().map(|window| &window.counts);
    let lost: u64 = windows()
        .flat_map(Counts::kinds)
        .map(|(_, tally)| tally.lost())
        .sum();
    let new: u64 = windows().map(|counts| counts.new.attempts).sum();
    let lost_new: u64 = windows().map(|counts| counts.new.lost()).sum();
    let holes = run.windows.iter().filter(|window| window.step.moves());
    let holes = holes.map(|w| format!("{} {:.1}", w.step.name(), w.counts.hole_ms));
    let verdict = match run.ok {
        true => "ok".to_owned(),
        false => format!("NOT OK: {}", run.why_not.join("; ")),
    };
    format!(
        "survive run {}: holes {} ms; {lost} connections lost, {lost_new} of {new} new ones: \
         {verdict}",
        run.run,
        holes.collect::<Vec<_>>().join(", "),
    )
}

/// The closing table.
pub(in crate::lab) fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.set_header([
        "step",
        "times",
        "hole",
        "tool",
        "downloads",
        "uploads",
        "requests",
        "idle",
        "new: lost, failed, delayed",
        "handshake",
    ]);
    for row in &report.steps {
        table.add_row([
            row.step.name().to_owned(),
            row.times.to_string(),
            format!("{:.1}/{:.1}", row.hole_ms, row.hole_ms_max),
            format!("{:.0}", row.tool_stalled_ms_max),
            row.downloads.cell(),
            row.uploads.cell(),
            row.requests.cell(),
            row.idle.cell(),
            format!(
                "{}, {}, {} of {}",
                row.new_lost, row.new_failed, row.new_delayed, row.new_attempts
            ),
            format!("{:.0}", row.new_handshake_ms_max),
        ]);
    }
    let crowd = &report.crowd;
    format!(
        "{table}\n\n\
         Times in milliseconds. hole: longest time in which nothing came through the VIP, median/most. \
         tool: longest time that the\ntool was held up. Each kind: connections lost, longest stall at \
         the receiver (time without what was due), median/most.\nfailed: before the handshake.\n\
         {} mode; {} downloads and {} uploads ({} of each unpaced, the others {} kB/s), {} that ask, \
         {} idle, {} new a second.\n{}",
        report.mode.name(),
        crowd.downloads,
        crowd.uploads,
        crowd.unpaced,
        crowd.pace / 1_000,
        crowd.requests,
        crowd.idle,
        crowd.new_rate,
        match (report.required, report.ok) {
            (true, true) => "Required: nothing lost, no byte wrong. It is so.",
            (true, false) => "Required: nothing lost, no byte wrong. IT IS NOT SO.",
            (false, true) => "Nothing is required of connections, only that no byte is wrong.",
            (false, false) => "A byte is wrong, or the pair did not do its part.",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_sums_up_its_windows_losses_and_keeps_the_longest_stall() {
        let tally = |lost, stall_ms| Tally {
            lost: [(crate::lab::Failure::Reset, lost)].into(),
            wrong_bytes: lost,
            stall_ms,
            ..Tally::default()
        };
        let tallies = [tally(1, 5.0), tally(2, 300.0), tally(0, 7.0)];
        let sum = Sum::of(tallies.iter());
        assert_eq!(sum.cell(), "3 lost, 3 bytes WRONG, 7/300");
        assert_eq!(Sum::of(tallies[2..].iter()).cell(), "0 lost, 7/7");
    }

    #[test]
    fn no_run_is_no_good_report() {
        let rights = crate::lab::Rights::Root;
        let text = crate::lab::default_config().replace("@DIR@", "/tmp");
        let config = crate::config::Config::parse(&text).expect("the lab's file is valid");
        let lab = Conditions::here(rights, &config.election);
        let report = Report::new(lab, &Plan::new(Mode::Sync), Vec::new());
        assert!(!report.ok);
        // Each step once, although a run has several rejoins.
        assert_eq!(report.steps.len(), 7);
    }
}
