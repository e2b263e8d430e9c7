//! The log of `tandem run`: to standard error, one event a line, as text or as JSON.
//!
//! Its level can be changed while the node runs (`tandem log`). No flood of events becomes a flood of
//! lines: above [`PER_SECOND`] lines a second they are left out, and how many is said.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use super::args::LogFormat;
use crate::daemon::LogLevel;
use crate::net::clock;

/// What is logged; a directive list of `tracing-subscriber`.
const VARIABLE: &str = "TANDEM_LOG";
/// Lines in one second at most; connections have a limit of their own (`datapath::proxy::log`).
const PER_SECOND: u32 = 10_000;

/// Starts the log. What is returned changes its level.
///
/// # Errors
///
/// `TANDEM_LOG` cannot be understood.
pub(super) fn start(format: LogFormat) -> Result<LogLevel, String> {
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| "info".to_owned());
    let filter = filter(&text)
        .map_err(|error| format!("{VARIABLE}={error}, for example {VARIABLE}=debug"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Limited::default())
        .with_target(false);
    // journald stamps each line itself.
    let stamped = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = match (format, stamped) {
        (LogFormat::Json, _) => lines.json().flatten_event(true).with_ansi(false).boxed(),
        (LogFormat::Text, true) => lines.compact().with_ansi(color).without_time().boxed(),
        (LogFormat::Text, false) => lines.compact().with_ansi(color).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .init();
    Ok(LogLevel::new(move |text| {
        let wanted = self::filter(text)?;
        let failed = |error: reload::Error| format!("cannot change the log's level: {error}");
        handle.reload(wanted).map_err(failed)
    }))
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("{text}: {error}; write a level"))
}

/// Standard error, so many lines a second.
#[derive(Clone, Debug, Default)]
struct Limited(Arc<Mutex<Rate>>);

/// Lines of the present second.
#[derive(Debug, Default)]
struct Rate {
    since: Duration,
    written: u32,
    left_out: u64,
}

impl Rate {
    /// Whether a line may be written, and how many before it were not.
    fn line(&mut self, now: Duration) -> (bool, u64) {
        let mut left_out = 0;
        if now >= self.since + Duration::from_secs(1) {
            self.since = now;
            self.written = 0;
            left_out = std::mem::take(&mut self.left_out);
        }
        let good = self.written < PER_SECOND;
        self.written += u32::from(good);
        self.left_out += u64::from(!good);
        (good, left_out)
    }
}

impl<'a> MakeWriter<'a> for Limited {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Limited {
    /// A whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut rate = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (good, left_out) = rate.line(clock::monotonic());
        drop(rate);
        let mut out = io::stderr().lock();
        if left_out > 0 {
            let what = format!("{left_out} lines were left out: more than {PER_SECOND} a second");
            match line.first() {
                Some(b'{') => writeln!(out, "{{\"level\":\"WARN\",\"message\":\"{what}\"}}")?,
                _ => writeln!(out, "WARN {what}")?,
            }
        }
        if good {
            out.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_what_was_left_out_is_said() {
        let mut rate = Rate::default();
        let at = Duration::from_millis;
        for _ in 0..PER_SECOND {
            assert_eq!(rate.line(at(1_500)), (true, 0));
        }
        assert_eq!(rate.line(at(1_600)), (false, 0));
        assert_eq!(rate.line(at(2_499)), (false, 0));
        assert_eq!(rate.line(at(2_500)), (true, 2));
        assert_eq!(rate.line(at(2_501)), (true, 0));
    }

    #[test]
    fn a_level_or_a_list_is_understood() {
        for good in ["debug", "info,tandem::connection=off", "warn"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        assert!(filter("tandem=loud").is_err_and(|error| error.contains("write a level")));
    }
}
