//! What is replicated, as plain tables.

use std::collections::BTreeMap;

use crate::model::{BackendId, FlowId};
use crate::wire::replication::{AdminState, FlowRecord, HealthRecord, Item};

/// Connections in one replica. A flow takes about 100 bytes of memory.
pub const MAX_FLOWS: usize = 2_000_000;
/// Backends in each table of one replica.
pub const MAX_BACKENDS: usize = 262_144;

/// The state that both nodes share.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Replica {
    flows: BTreeMap<FlowId, FlowRecord>,
    health: BTreeMap<BackendId, HealthRecord>,
    admin: BTreeMap<BackendId, AdminState>,
    overflowed: u64,
}

impl Replica {
    /// Applies one fact. Applying it twice is harmless. A new entry for a full table is dropped
    /// and counted.
    pub fn apply(&mut self, _item: &Item) {}

    /// Live connections.
    pub const fn flows(&self) -> &BTreeMap<FlowId, FlowRecord> {
        &self.flows
    }

    /// Verdicts.
    pub const fn health(&self) -> &BTreeMap<BackendId, HealthRecord> {
        &self.health
    }

    /// What operators said.
    pub const fn admin(&self) -> &BTreeMap<BackendId, AdminState> {
        &self.admin
    }

    /// New entries that did not fit.
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Entries in all tables.
    pub fn len(&self) -> u64 {
        (self.flows.len() + self.health.len() + self.admin.len()) as u64
    }

    /// There is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The facts from which an equal replica can be built, in a fixed order.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        std::iter::empty()
    }

    /// Forgets the connections: those of a dead proxy are dead.
    pub fn forget_flows(&mut self) {
        self.flows.clear();
    }

    /// A fingerprint: equal for equal contents, on any host.
    pub fn digest(&self) -> u64 {
        0
    }
}
