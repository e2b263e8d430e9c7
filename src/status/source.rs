//! Sources of backends.

use serde::{Deserialize, Serialize};

/// A source of backends, as the adapter that asks it knows it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourceStatus {
    /// What it is: `dns web.example:80`, `srv _http._tcp.web.example`, `file /etc/tandem/web.json`.
    pub source: String,
    /// The pool that its backends are in.
    pub pool: String,
    /// Backends that it gives.
    pub backends: u64,
    /// Milliseconds since its last good answer; none: there was none in this life.
    pub answered_ms_ago: Option<u64>,
    /// Milliseconds until it is asked again.
    pub next_in_ms: Option<u64>,
    /// Why the last answer was not taken, or not as a whole.
    pub error: Option<String>,
}
