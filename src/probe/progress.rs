//! How far a check has come, so that one which runs out of time can say what it waited for.

use std::io;
use std::time::Duration;

use crate::health::probe::{MAX_WORDS, ProbeOutcome};
use crate::model::ConnectFailure;

/// Why a check is not good.
#[derive(Debug)]
pub(super) enum Fail {
    /// No connection.
    Connect(ConnectFailure),
    /// This host had no socket, process or memory for it.
    NoSocket,
    /// In a few words.
    Wrong(String),
}

/// What is missing now; empty: a connection.
#[derive(Debug, Default)]
pub(super) struct Progress(String);

impl Progress {
    /// Connected; from now on this is missing (`no TLS handshake`).
    pub(super) fn waits(&mut self, what: impl Into<String>) {
        self.0 = what.into();
    }

    /// The time is over.
    pub(super) fn late(self, timeout: Duration) -> ProbeOutcome {
        if self.0.is_empty() {
            let failure = ConnectFailure::Timeout;
            return ProbeOutcome::Bad { failure };
        }
        wrong(&format!("{} in {} ms", self.0, timeout.as_millis()))
    }
}

/// Within the limit of words, whatever they are made of.
pub(super) fn wrong(what: &str) -> ProbeOutcome {
    let what = what.chars().take(MAX_WORDS).collect();
    ProbeOutcome::Wrong { what }
}

/// A connection that ended with an error while this was done.
pub(super) fn broken(doing: &str, error: &io::Error) -> Fail {
    Fail::Wrong(match error.kind() {
        io::ErrorKind::ConnectionReset => format!("reset while {doing}"),
        io::ErrorKind::UnexpectedEof => format!("closed while {doing}"),
        io::ErrorKind::BrokenPipe => format!("closed while {doing}"),
        _ => format!("{error} while {doing}"),
    })
}
