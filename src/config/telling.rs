//! Whom a node tells how it is.

use std::net::SocketAddr;
use std::time::Duration;

use super::Command;

/// `[metrics]`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Metrics {
    /// Where `/metrics` is served; on a host without one of these addresses nothing comes there. Up to
    /// 8; empty: nowhere.
    pub listen: Vec<SocketAddr>,
}

/// `[notify]`: what is run when the role has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Notify {
    /// The program.
    pub command: Command,
    /// How long it may take. Default 10 s, 10 ms to 1 h.
    pub timeout: Duration,
}
