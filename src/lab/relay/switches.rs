//! A run of switchovers one by one: what clients noticed of each, and a summary of all. Pure.

use comfy_table::Table;
use comfy_table::presets::ASCII_FULL_CONDENSED;
use serde::Serialize;

use super::figures::{Run, idle_silent, right_master};
use super::report::number;
use crate::lab::survive::{Step, Window};

/// What clients noticed while one thing was done. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Switch {
    /// Its number from 1; none: before the first and after the last.
    pub number: Option<u32>,
    /// Who handed over to whom, or what else was done.
    pub what: String,
    /// How long it took and was watched.
    pub took_ms: f64,
    /// New connections.
    pub new: u64,
    /// Those whose handshake took more than 100 ms.
    pub late: u64,
    /// Slowest handshake.
    pub handshake_ms: f64,
    /// Longest wait for an answer of connections that ask.
    pub requests_ms: f64,
    /// The same of idle connections, which are asked once it is done.
    pub idle_ms: f64,
    /// Longest stall of a download.
    pub downloads_ms: f64,
    /// Longest stall of an upload.
    pub uploads_ms: f64,
    /// Everything that went wrong.
    pub errors: u64,
    /// In words.
    pub why: Vec<String>,
}

impl Switch {
    /// One for each window. `idle`: connections that are asked after each switchover.
    pub(super) fn all(idle: usize, windows: &[Window]) -> Vec<Self> {
        let mut number = 0;
        let one = |window: &Window| {
            let switch = window.step == Step::Failover;
            number += u32::from(switch);
            Self::of(switch.then_some(number), idle, window)
        };
        windows.iter().map(one).collect()
    }

    fn of(number: Option<u32>, idle: usize, window: &Window) -> Self {
        let counts = &window.counts;
        let after = match &window.masters_after[..] {
            [] => "nobody".to_owned(),
            all => all.join(" and "),
        };
        let mut found = Vec::new();
        let mut add = |count: u64, what: String| {
            if count > 0 {
                found.push((count, what));
            }
        };
        for (failure, count) in &counts.new.failed {
            add(*count, format!("new failed ({failure:?})"));
        }
        for (failure, count) in &counts.new.lost {
            add(*count, format!("new lost ({failure:?})"));
        }
        add(counts.new.skipped, "new not opened".to_owned());
        for (kind, tally) in counts.kinds() {
            for (failure, count) in &tally.lost {
                add(*count, format!("{} lost ({failure:?})", kind.name()));
            }
            let what = format!("wrong bytes in {}", kind.name());
            add(tally.wrong_bytes, what);
        }
        add(idle_silent(idle, window), "idle did not answer".to_owned());
        add(
            u64::from(!right_master(window)),
            format!("wrong master ({after})"),
        );
        Self {
            number,
            what: match number {
                Some(_) => format!("{} to {after}", window.master_before),
                None => window.step.name().to_owned(),
            },
            took_ms: window.took_ms,
            new: counts.new.attempts,
            late: counts.new.late,
            handshake_ms: counts.new.handshake_ms,
            requests_ms: counts.requests.stall_ms,
            idle_ms: counts.idle.stall_ms,
            downloads_ms: counts.downloads.stall_ms,
            uploads_ms: counts.uploads.stall_ms,
            errors: found.iter().map(|(count, _)| count).sum(),
            why: found
                .into_iter()
                .map(|(count, what)| format!("{count} {what}"))
                .collect(),
        }
    }
}

type Wait = (&'static str, fn(&Switch) -> f64);

const WAITS: [Wait; 5] = [
    ("handshake", |switch| switch.handshake_ms),
    ("request", |switch| switch.requests_ms),
    ("idle, asked", |switch| switch.idle_ms),
    ("download", |switch| switch.downloads_ms),
    ("upload", |switch| switch.uploads_ms),
];

/// Each of them in a line, and what a tired reader must know. Empty if none was done.
pub(super) fn text(runs: &[Run]) -> String {
    let all: Vec<_> = runs
        .iter()
        .flat_map(|run| run.switches.iter().map(move |switch| (run.run, switch)))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED);
    let head = ["run", "", "longest wait, ms:"].into_iter();
    let head = head.chain(WAITS.map(|(name, _)| name));
    table.set_header(head.chain(["late of new", "errors"]));
    for (run, switch) in &all {
        let nth = switch.number.map_or_else(String::new, |n| n.to_string());
        let start = [run.to_string(), nth, switch.what.clone()].into_iter();
        let waits = WAITS.map(|(_, of)| format!("{:.1}", of(switch)));
        let late = format!("{} of {}", switch.late, switch.new);
        let errors = match switch.errors {
            0 => "0".to_owned(),
            _ => switch.why.join(", "),
        };
        table.add_row(start.chain(waits).chain([late, errors]));
    }
    format!("{table}\n{}", summary(runs, &all))
}

fn summary(runs: &[Run], all: &[(u32, &Switch)]) -> String {
    let switched = || all.iter().filter(|(_, switch)| switch.number.is_some());
    let wrk = || runs.iter().filter_map(|run| run.wrk);
    let of_wrk: u64 = wrk().map(|wrk| wrk.errors).sum();
    let errors = all.iter().map(|(_, switch)| switch.errors).sum::<u64>() + of_wrk;
    let verdict = match errors {
        0 => "no error of any kind, no wrong byte".to_owned(),
        errors => format!("{errors} ERRORS"),
    };
    let mut lines = vec![format!("{} switchovers: {verdict}.", switched().count())];
    let new: u64 = runs.iter().map(|run| run.new_total).sum();
    let lost: u64 = runs.iter().map(|run| run.new_lost).sum();
    let old: u64 = runs.iter().map(|run| run.lost).sum();
    let mut counts = format!("{lost} of {new} new connections lost, {old} old ones");
    match wrk().map(|wrk| wrk.requests).sum::<u64>() {
        0 => counts += "; wrk did not run",
        requests => counts += &format!("; wrk saw {of_wrk} errors in {requests} requests"),
    }
    lines.push(format!("{counts}."));
    let longest = |(name, of): Wait| {
        let worst = switched().max_by(|(_, a), (_, b)| of(a).total_cmp(&of(b)));
        let calm = all.iter().filter(|(_, switch)| switch.what == CALM);
        let calm = calm.map(|(_, switch)| of(switch)).fold(0.0, f64::max);
        worst.map(|(run, switch)| {
            let nth = switch.number.unwrap_or_default();
            let run = match runs.len() {
                1 => String::new(),
                _ => format!(" of run {run}"),
            };
            let (is, calm) = (number(of(switch)), number(calm));
            format!("{name} {is} ms (number {nth}{run}; calm {calm})")
        })
    };
    let longest: Vec<_> = WAITS.into_iter().filter_map(longest).collect();
    lines.push(format!("Longest waits: {}.", longest.join(", ")));
    lines.join("\n")
}

/// The name of the time before.
const CALM: &str = Step::Calm.name();
