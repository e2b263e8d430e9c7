//! The log of `tandem run`: to standard error, one event a line, as text or as JSON.
//!
//! Its level can be changed while the node runs (`tandem log`). No flood of events becomes a flood of
//! lines: above [`PER_SECOND`] lines a second they are left out, and how many is said. journald is told
//! how much each line matters, and puts the time to it by itself.

mod outlet;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::fstat;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, reload};

use self::outlet::Outlet;
use super::args::LogFormat;
use crate::daemon::LogLevel;
use crate::net::clock;

/// What is logged; a directive list of `tracing-subscriber`.
const VARIABLE: &str = "TANDEM_LOG";
/// Where journald listens, as systemd says.
const JOURNAL: &str = "JOURNAL_STREAM";
/// Lines in one second at most; connections have a limit of their own (`datapath::proxy::log`).
const PER_SECOND: u32 = 10_000;

/// The log at work. What is on its way is written when this is dropped.
#[derive(Debug)]
pub(super) struct Log {
    outlet: Outlet,
}

impl Drop for Log {
    fn drop(&mut self) {
        self.outlet.finish();
    }
}

/// Starts the log. What is returned with it changes its level.
///
/// # Errors
///
/// `TANDEM_LOG` cannot be understood, or there can be no thread that writes.
pub(super) fn start(format: LogFormat) -> Result<(Log, LogLevel), String> {
    let text = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| "info".to_owned());
    let filter = filter(&text)
        .map_err(|error| format!("{VARIABLE}={error}, for example {VARIABLE}=debug"))?;
    let (filter, handle) = reload::Layer::new(filter);
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let journal = to_journal();
    let form = Form {
        json: matches!(format, LogFormat::Json),
        journal,
    };
    let told = move |count| form.left_out(count, "nobody read them in time");
    let outlet = Outlet::start(io::stderr(), told);
    let outlet = outlet.map_err(|error| format!("cannot start the thread of the log: {error}"))?;
    let limited = Limited {
        rate: Arc::default(),
        outlet: outlet.clone(),
        form,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(limited)
        .with_target(false);
    let layer = match (format, journal) {
        (LogFormat::Json, _) => lines.json().flatten_event(true).with_ansi(false).boxed(),
        (LogFormat::Text, true) => lines.compact().with_ansi(color).without_time().boxed(),
        (LogFormat::Text, false) => lines.compact().with_ansi(color).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .init();
    let level = LogLevel::new(move |text| {
        let wanted = self::filter(text)?;
        let failed = |error: reload::Error| format!("cannot change the log's level: {error}");
        handle.reload(wanted).map_err(failed)
    });
    Ok((Log { outlet }, level))
}

fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| format!("{text}: {error}; write a level"))
}

/// Says why the node ends, beside the log, which may not have been started.
pub(super) fn complain(message: &str) {
    if to_journal() {
        // Nobody is left to tell if this cannot be written.
        let _ = io::stderr().write_all(&prioritized(
            Level::ERROR,
            format!("{message}\n").as_bytes(),
        ));
    } else {
        super::complain(message);
    }
}

/// Whether standard error leads to journald (`$JOURNAL_STREAM` in systemd.exec(5)).
fn to_journal() -> bool {
    let stream = std::env::var(JOURNAL).ok();
    let here = fstat(io::stderr()).ok().map(|it| (it.st_dev, it.st_ino));
    is_stream(stream.as_deref(), here)
}

/// Whether this is what the variable names: a device and an inode. Who has redirected the error output
/// of a program that systemd started has the variable too.
fn is_stream(variable: Option<&str>, here: Option<(u64, u64)>) -> bool {
    let named = variable.and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| device.parse().ok().zip(inode.parse().ok()));
    named.is_some() && named == here
}

/// The text with its priority before each line, as journald reads it (sd-daemon(3)).
fn prioritized(level: Level, text: &[u8]) -> Vec<u8> {
    let prefix = match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        Level::DEBUG | Level::TRACE => b"<7>",
    };
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| [prefix, line].concat()).collect()
}

/// How lines are written.
#[derive(Clone, Copy, Debug)]
struct Form {
    json: bool,
    journal: bool,
}

impl Form {
    /// As it goes to whoever reads.
    fn marked(self, level: Level, line: &[u8]) -> Vec<u8> {
        match self.journal {
            true => prioritized(level, line),
            false => line.to_vec(),
        }
    }

    /// A line that says so.
    fn left_out(self, count: u64, why: &str) -> Vec<u8> {
        let what = format!("{count} lines were left out: {why}");
        let what = match self.json {
            true => format!("{{\"level\":\"WARN\",\"message\":\"{what}\"}}\n"),
            false => format!("WARN {what}\n"),
        };
        self.marked(Level::WARN, what.as_bytes())
    }
}

/// Standard error, so many lines a second.
#[derive(Clone, Debug)]
struct Limited {
    rate: Arc<Mutex<Rate>>,
    outlet: Outlet,
    form: Form,
}

/// The same for one event.
#[derive(Debug)]
struct Line {
    to: Limited,
    level: Level,
}

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
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        let (to, level) = (self.clone(), Level::INFO);
        Line { to, level }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        let (to, level) = (self.clone(), *event.level());
        Line { to, level }
    }
}

impl Write for Line {
    /// A whole event.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut rate = self.to.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (good, dropped) = rate.line(clock::monotonic());
        drop(rate);
        let Limited { outlet, form, .. } = &self.to;
        if dropped > 0 {
            let why = format!("more than {PER_SECOND} a second");
            outlet.send(form.left_out(dropped, &why));
        }
        if good {
            outlet.send(form.marked(self.level, line));
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

    #[test]
    fn the_journal_is_where_its_variable_says() {
        for (variable, here, is) in [
            (Some("9:36214"), Some((9, 36214)), true),
            (Some("9:36214"), Some((9, 36215)), false),
            (Some("9:36214"), Some((8, 36214)), false),
            (Some("9:36214"), None, false),
            (None, Some((9, 36214)), false),
            (Some("9"), Some((9, 0)), false),
            (Some("9:x"), None, false),
            (Some(""), None, false),
        ] {
            assert_eq!(is_stream(variable, here), is, "{variable:?} {here:?}");
        }
    }

    #[test]
    fn each_line_has_the_priority_of_its_event() {
        for (level, text, marked) in [
            (Level::ERROR, "x\n", "<3>x\n"),
            (Level::WARN, "x\n", "<4>x\n"),
            (Level::INFO, "x\n\ny\n", "<6>x\n<6>\n<6>y\n"),
            (Level::DEBUG, "x", "<7>x"),
            (Level::TRACE, "", ""),
        ] {
            let bytes = prioritized(level, text.as_bytes());
            assert_eq!(String::from_utf8(bytes).unwrap(), marked, "{text:?}");
        }
        let plain = "WARN 2 lines were left out: so\n";
        let json = "{\"level\":\"WARN\",\"message\":\"2 lines were left out: so\"}\n";
        for (json, journal, mark, told) in [
            (false, false, "", plain),
            (false, true, "<4>", plain),
            (true, false, "", json),
            (true, true, "<4>", json),
        ] {
            let form = Form { json, journal };
            let line = String::from_utf8(form.left_out(2, "so")).unwrap();
            assert_eq!(line, format!("{mark}{told}"));
        }
    }
}
