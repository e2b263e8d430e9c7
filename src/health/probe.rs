//! What the prober is asked, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{BackendAddress, BackendId, ConnectFailure};
use crate::wire::agent::Answer;

/// How much later than its time limit an answer may come. Whoever asked then takes the check for
/// lost, and asks again.
pub const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// Longest text of an outcome, in characters.
pub const MAX_WORDS: usize = 200;

/// One check of one backend. Answered once, or (when there are too many) never.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProbeRequest {
    /// Whom.
    pub backend: BackendId,
    /// Whether the backend is checked or its agent asked.
    pub whom: Whom,
    /// Where.
    pub address: BackendAddress,
    /// Time limit.
    pub timeout: Duration,
    /// To be returned, so that late answers are told from present ones.
    pub token: u64,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Whom {
    /// The agent beside the backend.
    Agent,
    /// The backend.
    Backend,
}

/// The answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProbeResult {
    /// Whom.
    pub backend: BackendId,
    /// From the request.
    pub token: u64,
    /// How it went.
    pub outcome: ProbeOutcome,
}

/// How a check went.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ProbeOutcome {
    /// The agent spoke.
    Agent(Answer),
    /// There was no connection.
    Bad {
        /// How.
        failure: ConnectFailure,
    },
    /// It succeeded.
    Good {
        /// How long it took.
        took: Duration,
    },
    /// It succeeded, and an operator should know something.
    Warned {
        /// How long it took.
        took: Duration,
        /// What, in a few words.
        what: String,
    },
    /// There was a connection, and then something was wrong.
    Wrong {
        /// What, in a few words (`status 503, not 200-399`).
        what: String,
    },
}

/// Bytes of a stranger within such words: in quotes, escaped, cut after this many of them.
pub fn quoted(bytes: &[u8], most: usize) -> String {
    let start = &bytes[..bytes.len().min(most)];
    let dots = if start.len() < bytes.len() { "…" } else { "" };
    format!("\"{}{dots}\"", start.escape_ascii())
}
