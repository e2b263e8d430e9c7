//! What is counted and measured of a service's clients and backends.

use serde::{Deserialize, Serialize};

/// The memory of a service's clients.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct StickStatus {
    /// Clients that are remembered.
    pub entries: u64,
    /// Connections since the start of the process that went where their client was.
    pub hits: u64,
    /// Connections whose client was not known, or whose backend took none.
    pub misses: u64,
}

/// What a scheduler knows of a backend.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Measure {
    /// Response time as of now (peak-EWMA), in microseconds; none before the first.
    pub response_us: Option<u64>,
    /// Weight that is left, with `adaptive`.
    pub effective_weight: Option<f64>,
}
