//! What the benchmark prints.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::Serialize;

use super::rivals::Kind;
use crate::lab::netns::Rights;
use crate::lab::report::median;

/// The whole document.
#[derive(Clone, Debug, Serialize)]
pub(in crate::lab) struct Report {
    pub(super) bench: &'static str,
    pub(super) conditions: Conditions,
    pub(super) rows: Vec<Row>,
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
        let haproxy = match &self.haproxy {
            Some(version) => format!("haproxy {version}"),
            None => "haproxy is not installed: nothing to compare with".to_owned(),
        };
        let debug = match self.release {
            true => "",
            false => "; DEBUG BUILD: figures mean nothing",
        };
        format!(
            "tandem {} and {haproxy}; Linux {}, {} CPUs shared by all, {}; medians of {} rounds of \
             {} ms; load average {:.1} before, {:.1} after{debug}",
            self.version,
            self.kernel,
            self.cpus,
            self.congestion_control
                .unwrap_or("default congestion control"),
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
    pub(super) direct: Option<f64>,
    pub(super) tandem: Option<f64>,
    pub(super) haproxy: Option<f64>,
    pub(super) haproxy_tuned: Option<f64>,
    /// Median over the rounds of ours divided by theirs.
    pub(super) to_haproxy: Option<f64>,
    pub(super) to_tuned: Option<f64>,
}

impl Row {
    /// From `value(kind, round)`.
    pub(super) fn new(
        what: &'static str,
        unit: &'static str,
        more: bool,
        rounds: usize,
        value: impl Fn(Kind, usize) -> Option<f64>,
    ) -> Self {
        let over = |values: Vec<f64>| (!values.is_empty()).then(|| median(values));
        let of = |kind| over((0..rounds).filter_map(|round| value(kind, round)).collect());
        let to = |kind| {
            let ratio = |round| Some(value(Kind::Tandem, round)? / value(kind, round)?);
            let ratios = (0..rounds)
                .filter_map(ratio)
                .filter(|r: &f64| r.is_finite());
            over(ratios.collect())
        };
        Self {
            what,
            unit,
            more,
            direct: of(Kind::Direct),
            tandem: of(Kind::Tandem),
            haproxy: of(Kind::Haproxy),
            haproxy_tuned: of(Kind::Tuned),
            to_haproxy: to(Kind::Haproxy),
            to_tuned: to(Kind::Tuned),
        }
    }
}

pub(in crate::lab) fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "",
        "unit",
        "direct",
        "tandem",
        "haproxy",
        "tuned",
        "to haproxy",
        "to tuned",
    ]);
    for row in &report.rows {
        let number = |value: Option<f64>| value.map_or_else(String::new, short);
        let ratio = |value: Option<f64>| value.map_or_else(String::new, |r| format!("{r:.2}x"));
        table.add_row([
            row.what.to_owned(),
            row.unit.to_owned(),
            number(row.direct),
            number(row.tandem),
            number(row.haproxy),
            number(row.haproxy_tuned),
            ratio(row.to_haproxy),
            ratio(row.to_tuned),
        ]);
    }
    format!("{table}\n\n{}", report.conditions.line())
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
                Kind::Haproxy | Kind::Tuned => Some(base),
            }
        };
        let row = Row::new("requests", "1/s", true, 3, values);
        assert_eq!(row.direct, None);
        assert!((row.tandem.unwrap() - 120.0).abs() < 1e-9);
        assert!((row.to_haproxy.unwrap() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1234.5, 12.34, 1.234, 0.1234].map(short),
            ["1234", "12.3", "1.23", "0.123"]
        );
    }
}
