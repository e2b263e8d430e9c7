//! The read model as OpenMetrics text, for Prometheus and its like.
//!
//! Owns: the names, units and meanings of all metrics ([`all`]); `docs/metrics.md` lists the same, and a
//! test compares them. Never: counts anything itself: every number is in [`Status`].
//!
//! Invariants: labels have values of the configuration and of fixed lists only, never a client's
//! address, so that the number of series is bounded by services, backends, addresses and paths.

mod kernel;
mod node;
mod traffic;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::status::{BOUNDS_US, Histogram, Status};

/// What an HTTP answer with such text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Every name begins so.
const PREFIX: &str = "tandem";

/// What a metric's values are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// As of now.
    Gauge,
    /// Times, in buckets.
    Histogram,
    /// Facts in labels; the value is 1.
    Info,
}

impl Kind {
    /// As OpenMetrics writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// What a metric's values are counted in, if not in pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A share of 1.
    Ratio,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// As names end with it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::Seconds => "seconds",
        }
    }
}

/// A metric: what it is called, what it means, and where it comes from.
#[derive(Clone, Copy)]
pub struct Metric {
    kind: Kind,
    name: &'static str,
    unit: Option<Unit>,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
    take: fn(&Status, &mut Samples),
}

impl Metric {
    /// As an expression asks for it; of a histogram without `_bucket`, `_sum` and `_count`.
    pub fn full_name(&self) -> String {
        let unit = self.unit.map_or("", Unit::as_str);
        let name = format!("{PREFIX}_{}", self.name);
        let name = match unit {
            "" => name,
            unit => format!("{name}_{unit}"),
        };
        match self.kind {
            Kind::Counter => format!("{name}_total"),
            Kind::Info => format!("{name}_info"),
            Kind::Gauge | Kind::Histogram => name,
        }
    }

    /// What its values are.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What its values are counted in; none: pieces.
    pub const fn unit(&self) -> Option<Unit> {
        self.unit
    }
}

const fn metric(
    kind: Kind,
    name: &'static str,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
    take: fn(&Status, &mut Samples),
) -> Metric {
    Metric {
        kind,
        name,
        unit,
        labels,
        help,
        take,
    }
}

/// All metrics, in the order of the text.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    let parts = [node::METRICS, traffic::METRICS, kernel::METRICS];
    parts.into_iter().flatten()
}

#[derive(Clone, Debug)]
enum Value {
    Number(f64),
    Histogram(Histogram),
}

/// The values of one metric: those of its labels, in their order, and the number.
#[derive(Debug, Default)]
struct Samples(Vec<(Vec<String>, Value)>);

impl Samples {
    /// One without labels.
    fn one(&mut self, value: f64) {
        self.at([], value);
    }

    fn at<const N: usize>(&mut self, labels: [&str; N], value: f64) {
        let labels = labels.into_iter().map(str::to_owned).collect();
        self.0.push((labels, Value::Number(value)));
    }

    /// True is 1.
    fn flag<const N: usize>(&mut self, labels: [&str; N], value: bool) {
        self.at(labels, f64::from(u8::from(value)));
    }

    fn histogram<const N: usize>(&mut self, labels: [&str; N], value: &Histogram) {
        let labels = labels.into_iter().map(str::to_owned).collect();
        self.0.push((labels, Value::Histogram(value.clone())));
    }
}

/// A node's state as text.
pub fn text(status: Status) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Snapshot(status)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes everything");
    text
}

#[derive(Debug)]
struct Snapshot(Status);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in all() {
            let mut samples = Samples::default();
            (metric.take)(&self.0, &mut samples);
            if samples.0.is_empty() {
                continue;
            }
            let unit = metric
                .unit
                .map(|unit| prometheus_client::registry::Unit::Other(unit.as_str().to_owned()));
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let unit = unit.as_ref();
            let mut family = encoder.encode_descriptor(metric.name, metric.help, unit, kind)?;
            for (values, value) in &samples.0 {
                let names = metric.labels.iter().copied();
                let labels: Vec<(&str, &str)> =
                    names.zip(values.iter().map(String::as_str)).collect();
                if metric.kind == Kind::Info {
                    family.encode_info(&labels.as_slice())?;
                } else if labels.is_empty() {
                    write(&mut family, metric.kind, value)?;
                } else {
                    let labels = labels.as_slice();
                    write(&mut family.encode_family(&labels)?, metric.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;
    match value {
        // Whole numbers of any size are exact up to 2^53.
        Value::Number(value) if kind == Kind::Counter => encoder.encode_counter(value, NO_EXEMPLAR),
        Value::Number(value) => encoder.encode_gauge(value),
        Value::Histogram(histogram) => {
            let seconds = |us: &u64| *us as f64 / 1e6;
            let bounds = BOUNDS_US.iter().map(seconds).chain([f64::INFINITY]);
            let counts = histogram.counts.iter().copied().chain(std::iter::repeat(0));
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let (sum, count) = (seconds(&histogram.sum_us), histogram.count());
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

#[cfg(test)]
#[path = "metrics_test.rs"]
mod tests;
