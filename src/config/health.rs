//! Health checks.

use std::time::Duration;

/// Health check of a service's backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked. `tcp`: a connect that succeeds is healthy.
    pub kind: HealthKind,
    /// Time between checks of one backend, jittered by 10 %. Default 2 s, 10 ms to 1 h.
    pub interval: Duration,
    /// Time for one check. Default 1 s, 1 ms to 1 h; at most `interval`.
    pub timeout: Duration,
    /// Good checks in a row that bring a backend up. Default 2, 1 to 100.
    pub rise: u8,
    /// Bad checks in a row that take a backend down. Default 3, 1 to 100.
    pub fall: u8,
}

/// What a health check does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HealthKind {
    /// A TCP connect.
    Tcp,
}
