//! What the benchmark prints.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;

use super::relay::Pair;
use super::rivals::{Cost, Kind};
use crate::lab::netns::Rights;
use crate::lab::report::median;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub(in crate::lab) struct Report {
    pub(super) bench: &'static str,
    pub(super) conditions: Conditions,
    pub(super) rows: Vec<Row>,
    #[serde(skip)]
    pub(super) layout: Layout,
}

impl Report {
    /// Nothing that was asked for is missing.
    pub(in crate::lab) const fn is_complete(&self) -> bool {
        self.conditions.no_kernel_mode.is_none()
    }
}

/// Who is shown, and who is divided by whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) columns: &'static [Kind],
    pub(super) ratios: &'static [Ratio],
    /// Beside each ratio the least and the most of the rounds: where it is about 1, they say what
    /// the machine does by itself.
    pub(super) spread: bool,
}

/// One divided by another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    pub(super) name: &'static str,
    pub(super) of: Kind,
    pub(super) to: Kind,
}

/// Under which conditions the figures were taken.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Conditions {
    pub(super) version: &'static str,
    pub(super) release: bool,
    pub(super) kernel: String,
    pub(super) cpus: usize,
    pub(super) rights: Rights,
    /// None: not installed, so there is nothing to compare with.
    pub(super) haproxy: Option<String>,
    /// None: not installed, or not asked for.
    pub(super) nftables: Option<String>,
    /// Why the kernel mode is missing, if it was asked for and is.
    pub(super) no_kernel_mode: Option<String>,
    /// The pair that is compared with itself, if one is.
    pub(super) pair: Option<Pair>,
    pub(super) cpu_of: Cost,
    /// Processors that were busy while nothing was measured: figures of the whole machine contain
    /// them.
    pub(super) background_cpus: f64,
    pub(super) rounds: u32,
    pub(super) window_ms: u128,
    /// Everybody's; none: the host's default.
    pub(super) congestion_control: Option<&'static str>,
    /// The host's load average over a minute, before and after.
    pub(super) load: [f64; 2],
}

impl Conditions {
    pub(super) fn load_average() -> f64 {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let first = text.split(' ').next();
        first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
    }

    fn line(&self) -> String {
        let mut rivals = match (&self.pair, &self.haproxy) {
            (Some(pair), _) => format!("itself without the relay, {} mode", pair.mode.name()),
            (None, Some(version)) => format!("haproxy {version}"),
            (None, None) => "haproxy is not installed: nothing to compare with".to_owned(),
        };
        if let Some(version) = &self.nftables {
            rivals += &format!(" and nftables {version}");
        }
        let cpu = match self.cpu_of {
            Cost::Process => "the balancer's process",
            Cost::Lab => "all of the lab, clients and servers included",
        };
        let missing = match &self.no_kernel_mode {
            Some(why) => format!("\nTHE KERNEL MODE IS MISSING: {why}"),
            None => String::new(),
        };
        let debug = match self.release {
            true => "",
            false => "; DEBUG BUILD: figures mean nothing",
        };
        format!(
            "tandem {} and {rivals}; Linux {}, {} CPUs shared by all, {}; CPU of {cpu}; {:.2} CPUs busy \
             with something else; medians of {} rounds of {} ms; load average {:.1} before, {:.1} after{debug}{missing}",
            self.version,
            self.kernel,
            self.cpus,
            self.congestion_control
                .unwrap_or("default congestion control"),
            self.background_cpus,
            self.rounds,
            self.window_ms,
            self.load[0],
            self.load[1],
        )
    }
}

/// One figure of everybody.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) unit: &'static str,
    /// More is better.
    pub(super) more: bool,
    #[serde(flatten)]
    values: BTreeMap<&'static str, Option<f64>>,
    /// Medians over the rounds of one divided by the other.
    #[serde(flatten)]
    ratios: BTreeMap<&'static str, Option<f64>>,
    /// The same ratios round by round.
    by_round: BTreeMap<&'static str, Vec<f64>>,
}

impl Row {
    /// From `value(kind, round)`.
    pub(super) fn new(
        what: &'static str,
        unit: &'static str,
        more: bool,
        rounds: usize,
        layout: Layout,
        value: impl Fn(Kind, usize) -> Option<f64>,
    ) -> Self {
        let over = |values: Vec<f64>| (!values.is_empty()).then(|| median(values));
        let of = |kind| over((0..rounds).filter_map(|round| value(kind, round)).collect());
        let divide = |ratio: &Ratio| -> Vec<f64> {
            let one = |round| Some(value(ratio.of, round)? / value(ratio.to, round)?);
            let all = (0..rounds).filter_map(one);
            all.filter(|r: &f64| r.is_finite()).collect()
        };
        let values = layout.columns.iter().map(|kind| (kind.name(), of(*kind)));
        let ratios = layout.ratios.iter();
        let by_round: BTreeMap<_, _> = ratios.map(|ratio| (ratio.name, divide(ratio))).collect();
        let ratios = by_round
            .iter()
            .map(|(name, all)| (*name, over(all.clone())));
        Self {
            what,
            unit,
            more,
            values: values.collect(),
            ratios: ratios.collect(),
            by_round,
        }
    }
}

/// Ratios that fit beside the figures.
const BESIDE: usize = 2;

pub(in crate::lab) fn table(report: &Report) -> String {
    let Layout {
        columns,
        ratios,
        spread,
    } = report.layout;
    let columns: Vec<_> = columns.iter().map(|kind| kind.name()).collect();
    let ratios: Vec<_> = ratios.iter().map(|ratio| ratio.name).collect();
    let line = &report.conditions.line();
    if ratios.len() <= BESIDE {
        let all = part(&report.rows, &columns, &ratios, spread);
        return format!("{all}\n\n{line}");
    }
    let figures = part(&report.rows, &columns, &[], spread);
    let ratios = part(&report.rows, &[], &ratios, spread);
    format!("{figures}\n\n{ratios}\n\n{line}")
}

fn part(rows: &[Row], columns: &[&'static str], ratios: &[&'static str], spread: bool) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let names = columns
        .iter()
        .chain(ratios)
        .map(|name| name.replace('_', " "));
    table.set_header(["".to_owned(), "unit".to_owned()].into_iter().chain(names));
    for row in rows {
        let number = |name| row.values.get(name).copied().flatten();
        let number = |name| number(name).map_or_else(String::new, short);
        let ratio = |name| {
            let Some(median) = row.ratios.get(name).copied().flatten() else {
                return String::new();
            };
            let all = || row.by_round[name].iter().copied();
            match spread {
                true => {
                    let (least, most) =
                        (all().fold(median, f64::min), all().fold(median, f64::max));
                    format!("{median:.3}x ({least:.2} to {most:.2})")
                }
                false => format!("{median:.2}x"),
            }
        };
        let head = [row.what, row.unit].map(str::to_owned).into_iter();
        let cells = columns.iter().copied().map(number);
        table.add_row(head.chain(cells).chain(ratios.iter().copied().map(ratio)));
    }
    table
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The second round was twice as slow for everybody: that is the machine.
        let values = |kind, round: usize| {
            let base = [100.0, 50.0, 100.0][round];
            match kind {
                Kind::Direct => None,
                Kind::Tandem => Some(base * 1.2),
                _ => Some(base),
            }
        };
        let layout = Layout {
            columns: &[Kind::Direct, Kind::Tandem],
            ratios: &[Ratio {
                name: "to_haproxy",
                of: Kind::Tandem,
                to: Kind::Haproxy,
            }],
            spread: false,
        };
        let row = Row::new("requests", "1/s", true, 3, layout, values);
        assert_eq!(row.values["direct"], None);
        assert!((row.values["tandem"].unwrap() - 120.0).abs() < 1e-9);
        assert!((row.ratios["to_haproxy"].unwrap() - 1.2).abs() < 1e-9);
        let rows = [row];
        for (spread, wanted) in [(false, "1.20x"), (true, "1.200x (1.20 to 1.20)")] {
            let text = part(&rows, &["direct", "tandem"], &["to_haproxy"], spread).to_string();
            let words: Vec<_> = text.split('|').map(str::trim).collect();
            assert!(words.windows(3).any(|w| w == ["", "120", wanted]), "{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1234.5, 12.34, 1.234, 0.1234].map(short),
            ["1234", "12.3", "1.23", "0.123"]
        );
    }
}
