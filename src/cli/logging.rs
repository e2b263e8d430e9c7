//! The log of `tandem run`: to standard error, one event a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged; a directive list of `tracing-subscriber`.
const VARIABLE: &str = "TANDEM_LOG";

/// Starts the log.
///
/// # Errors
///
/// `TANDEM_LOG` cannot be understood.
pub(super) fn start() -> Result<(), String> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            format!("{VARIABLE}={text}: {error}; write a level, for example {VARIABLE}=debug")
        })?,
        _ => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    // journald stamps each line itself.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    Ok(())
}
