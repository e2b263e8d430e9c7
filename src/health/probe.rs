//! What the prober is asked, and what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{BackendId, ConnectFailure};

/// How much later than its time limit an answer may come. Whoever asked then takes the check for
/// lost, and asks again.
pub const ANSWER_SLACK: Duration = Duration::from_secs(1);

/// One check of one backend. Answered once, or (when there are too many) never.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProbeRequest {
    /// Whom.
    pub backend: BackendId,
    /// Where.
    pub address: SocketAddr,
    /// Time limit.
    pub timeout: Duration,
    /// To be returned, so that late answers are told from present ones.
    pub token: u64,
}

/// The answer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProbeResult {
    /// Whom.
    pub backend: BackendId,
    /// From the request.
    pub token: u64,
    /// How it went.
    pub outcome: ProbeOutcome,
}

/// How a check went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ProbeOutcome {
    /// It failed.
    Bad {
        /// How.
        failure: ConnectFailure,
    },
    /// It succeeded.
    Good {
        /// How long it took.
        took: Duration,
    },
}
