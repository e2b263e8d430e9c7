//! Live connections and their counts.

use super::FlowEvent;
use crate::config::Config;
use crate::model::{BackendId, ServiceId};
use crate::wire::replication::Item;

/// Counts of one service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceCounts {
    /// Connections now.
    pub connections: u64,
    /// Connections since the start of the process.
    pub total: u64,
    /// Clients that no backend took.
    pub failed: u64,
    /// Clients refused by a limit.
    pub refused: u64,
}

/// Counts of one backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BackendCounts {
    /// Connections now.
    pub connections: u64,
    /// Connections since the start of the process.
    pub total: u64,
    /// Connects that failed.
    pub connect_failures: u64,
}

/// Live connections, as the data path told them.
#[derive(Clone, Debug)]
pub struct FlowTable {}

impl FlowTable {
    /// An empty table with a row for each service and backend.
    pub fn new(_config: &Config) -> Self {
        Self {}
    }

    /// Counts one event; appends to `out` what the peer should know. `unix_ms` is the time of day.
    pub fn handle(&mut self, _event: &FlowEvent, _unix_ms: u64, _out: &mut Vec<Item>) {}

    /// Connections of this service now.
    pub fn connections(&self, service: ServiceId) -> u64 {
        self.service(service).connections
    }

    /// Counts of a service; zeros if it is unknown.
    pub fn service(&self, _service: ServiceId) -> ServiceCounts {
        ServiceCounts::default()
    }

    /// Counts of a backend; zeros if it is unknown.
    pub fn backend(&self, _backend: BackendId) -> BackendCounts {
        BackendCounts::default()
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        0
    }

    /// There is no live connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Times that a worker said `Lost`.
    pub fn losses(&self) -> u64 {
        0
    }

    /// Connections that did not fit into the table.
    pub fn overflowed(&self) -> u64 {
        0
    }

    /// The mastership ended: no connection is live. Totals stay.
    pub fn clear(&mut self) {}
}
