//! Expected beside observed.

use std::fmt::Write;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;

use super::Case;
use crate::lab::topology::BACKENDS;
use crate::model::Scheduler;

/// What was measured.
#[derive(Debug, Serialize)]
pub(in crate::lab) struct Report {
    pub(super) weights: [u16; BACKENDS],
    pub(super) even_ms: [u64; BACKENDS],
    pub(super) uneven_ms: [u64; BACKENDS],
    /// Of each row.
    pub(super) connections: usize,
    /// At a time.
    pub(super) clients: usize,
    pub(super) addresses: u16,
    pub(super) backends: [String; BACKENDS],
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// All shares are as near as they should be.
    pub(in crate::lab) fn ok(&self) -> bool {
        self.rows.iter().all(|row| row.ok)
    }
}

/// One scheduler.
#[derive(Debug, Serialize)]
pub(in crate::lab) struct Row {
    scheduler: Scheduler,
    balance: &'static str,
    /// The third backend is slow.
    uneven: bool,
    /// Shares of the connections.
    expected: [f64; BACKENDS],
    observed: [f64; BACKENDS],
    counts: [u64; BACKENDS],
    /// How far off a share may be.
    within: f64,
    ok: bool,
}

impl Row {
    pub(super) fn new(case: &Case, counts: [u64; BACKENDS]) -> Self {
        let total: u64 = counts.iter().sum();
        let sum: f64 = case.expected.iter().sum();
        let expected = case.expected.map(|share| share / sum);
        let observed = counts.map(|count| count as f64 / total.max(1) as f64);
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= case.within + 1e-9;
        Self {
            scheduler: case.scheduler,
            balance: case.balance,
            uneven: case.uneven,
            ok: expected.iter().zip(&observed).all(near),
            expected,
            observed,
            counts,
            within: case.within,
        }
    }
}

/// For people.
pub(in crate::lab) fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["balance", "answers after", "expected", "observed", ""]);
    for row in &report.rows {
        let percents = |shares: &[f64; BACKENDS]| {
            let words = shares.map(|share| format!("{:.1}", share * 100.0));
            format!("{} %", words.join(" / "))
        };
        let delays = match row.uneven {
            true => report.uneven_ms,
            false => report.even_ms,
        };
        let delays = delays.map(|delay| delay.to_string()).join(" / ");
        table.add_row([
            format!("`{}`", row.balance.trim_matches('"')),
            format!("{delays} ms"),
            percents(&row.expected),
            percents(&row.observed),
            if row.ok { "" } else { "OFF" }.to_owned(),
        ]);
    }
    let mut text = table.to_string();
    let _ = write!(
        text,
        "\n\n{} connections each, {} at a time, from {} addresses; weights {}.",
        report.connections,
        report.clients,
        report.addresses,
        report.weights.map(|weight| weight.to_string()).join(" / ")
    );
    text
}
