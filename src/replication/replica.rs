//! What is replicated, as plain tables.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::ops::Bound::{Excluded, Unbounded};

use xxhash_rust::xxh3::Xxh3;

use crate::model::{BackendId, FlowId};
use crate::wire::codec;
use crate::wire::replication::{
    FlowRecord, Frame, HealthRecord, Item, MAX_BATCH, NatKey, NatRecord, StickKey, StickRecord,
};
use crate::wire::statement::{Aspect, Statement};

/// Connections in one replica, of each kind. A flow takes about 100 bytes of memory.
pub const MAX_FLOWS: usize = 2_000_000;
/// Backends in each table of one replica.
pub const MAX_BACKENDS: usize = 262_144;

/// Clients that are remembered, of all services. One takes about 60 bytes of memory.
pub const MAX_STICKS: usize = 2_000_000;

/// The state that both nodes share. Two are equal if their tables are.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    flows: BTreeMap<FlowId, FlowRecord>,
    nat: BTreeMap<NatKey, NatRecord>,
    /// How many of `nat` each backend has.
    nat_live: BTreeMap<BackendId, u64>,
    sticks: BTreeMap<StickKey, StickRecord>,
    health: BTreeMap<BackendId, HealthRecord>,
    said: BTreeMap<(BackendId, Aspect), Statement>,
    overflowed: u64,
    limits: Limits,
}

/// [`MAX_FLOWS`] (here also for [`MAX_STICKS`], which is as many) and [`MAX_BACKENDS`]; tests take smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) flows: usize,
    pub(super) backends: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: MAX_FLOWS,
            backends: MAX_BACKENDS,
        }
    }
}

/// The entry that an item is about. The order of keys is the order of [`Replica::items`]: what
/// matters most and is least comes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    Said(BackendId, Aspect),
    Health(BackendId),
    Flow(FlowId),
    Nat(NatKey),
    Stick(StickKey),
}

impl Key {
    pub(super) const fn of(item: &Item) -> Self {
        match item {
            Item::Said { backend, statement } => Self::Said(*backend, statement.said.aspect()),
            Item::Health { backend, .. } => Self::Health(*backend),
            Item::FlowBytes { flow, .. }
            | Item::FlowClose { flow }
            | Item::FlowOpen { flow, .. } => Self::Flow(*flow),
            Item::NatClose { key } | Item::NatMarks { key, .. } | Item::NatOpen { key, .. } => {
                Self::Nat(*key)
            }
            Item::Stick { key, .. } | Item::Unstick { key } => Self::Stick(*key),
        }
    }
}

impl PartialEq for Replica {
    fn eq(&self, other: &Self) -> bool {
        self.flows == other.flows
            && self.nat == other.nat
            && self.sticks == other.sticks
            && self.health == other.health
            && self.said == other.said
    }
}

impl Eq for Replica {}

impl Replica {
    #[cfg(test)]
    pub(super) fn with_limits(flows: usize, backends: usize) -> Self {
        Self {
            limits: Limits { flows, backends },
            ..Self::default()
        }
    }

    /// Applies one fact and says whether that changed anything. Applying it twice is harmless.
    /// A new entry for a full table is dropped and counted; what is said of a connection that is
    /// not there is dropped.
    pub fn apply(&mut self, item: &Item) -> bool {
        let Limits { flows, backends } = self.limits;
        let put = match *item {
            Item::Said {
                backend,
                ref statement,
            } => {
                let key = (backend, statement.said.aspect());
                put(&mut self.said, key, statement.clone(), backends)
            }
            Item::Health { backend, record } => put(&mut self.health, backend, record, backends),
            Item::FlowOpen { flow, record } => put(&mut self.flows, flow, plain(record), flows),
            Item::FlowBytes { flow, up, down } => {
                self.flows.get_mut(&flow).map_or(Put::Same, |r| {
                    let changed = (r.up, r.down) != (up, down);
                    (r.up, r.down) = (up, down);
                    if changed { Put::Changed } else { Put::Same }
                })
            }
            Item::FlowClose { flow } => match self.flows.remove(&flow) {
                Some(_) => Put::Changed,
                None => Put::Same,
            },
            Item::NatOpen { key, record } => self.open_nat(key, record, flows),
            Item::NatMarks {
                key,
                client,
                backend,
            } => self.nat.get_mut(&key).map_or(Put::Same, |r| {
                let was = (r.client_mark, r.backend_mark);
                (r.client_mark, r.backend_mark) = (client, Some(backend));
                if was == (client, Some(backend)) {
                    Put::Same
                } else {
                    Put::Changed
                }
            }),
            Item::NatClose { key } => self.close_nat(key),
            Item::Stick { key, record } => put(&mut self.sticks, key, record, flows),
            Item::Unstick { key } => match self.sticks.remove(&key) {
                Some(_) => Put::Changed,
                None => Put::Same,
            },
        };
        self.overflowed += u64::from(put == Put::Full);
        put == Put::Changed
    }

    /// Live connections.
    pub const fn flows(&self) -> &BTreeMap<FlowId, FlowRecord> {
        &self.flows
    }

    fn open_nat(&mut self, key: NatKey, record: NatRecord, limit: usize) -> Put {
        let was = self.nat.get(&key).map(|known| known.backend);
        let put = put(&mut self.nat, key, record, limit);
        if put == Put::Changed {
            if let Some(was) = was {
                self.uncount_nat(was);
            }
            *self.nat_live.entry(record.backend).or_default() += 1;
        }
        put
    }

    fn close_nat(&mut self, key: NatKey) -> Put {
        let Some(record) = self.nat.remove(&key) else {
            return Put::Same;
        };
        self.uncount_nat(record.backend);
        Put::Changed
    }

    fn uncount_nat(&mut self, backend: BackendId) {
        if let Some(live) = self.nat_live.get_mut(&backend) {
            *live = live.saturating_sub(1);
        }
    }

    /// Live connections of both modes.
    pub fn connections(&self) -> u64 {
        (self.flows.len() + self.nat.len()) as u64
    }

    /// Live connections of the kernel mode on this backend.
    pub fn nat_live(&self, backend: BackendId) -> u64 {
        self.nat_live.get(&backend).copied().unwrap_or(0)
    }

    /// Live connections of the kernel mode.
    pub const fn nat(&self) -> &BTreeMap<NatKey, NatRecord> {
        &self.nat
    }

    /// Clients that are remembered.
    pub const fn sticks(&self) -> &BTreeMap<StickKey, StickRecord> {
        &self.sticks
    }

    /// Verdicts.
    pub const fn health(&self) -> &BTreeMap<BackendId, HealthRecord> {
        &self.health
    }

    /// What operators said.
    pub const fn said(&self) -> &BTreeMap<(BackendId, Aspect), Statement> {
        &self.said
    }

    /// New entries that did not fit.
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Entries in all tables.
    pub fn len(&self) -> u64 {
        let connections = self.flows.len() + self.nat.len();
        (connections + self.sticks.len() + self.health.len() + self.said.len()) as u64
    }

    /// There is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The facts from which an equal replica can be built, in a fixed order.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        self.items_after(None)
    }

    /// The items behind this key.
    pub(super) fn items_after(&self, last: Option<Key>) -> impl Iterator<Item = Item> + '_ {
        // From here in the table that the key is in, all of those behind it, nothing of those before.
        let said = match last {
            None => Some(Unbounded),
            Some(Key::Said(id, aspect)) => Some(Excluded((id, aspect))),
            Some(_) => None,
        };
        let health = match last {
            Some(Key::Health(id)) => Some(Excluded(id)),
            None | Some(Key::Said(..)) => Some(Unbounded),
            Some(_) => None,
        };
        let flows = match last {
            Some(Key::Flow(id)) => Some(Excluded(id)),
            Some(Key::Nat(_) | Key::Stick(_)) => None,
            _ => Some(Unbounded),
        };
        let nat = match last {
            Some(Key::Nat(key)) => Some(Excluded(key)),
            Some(Key::Stick(_)) => None,
            _ => Some(Unbounded),
        };
        let sticks = match last {
            Some(Key::Stick(key)) => Excluded(key),
            _ => Unbounded,
        };
        let said = said.map(|from| self.said.range((from, Unbounded)));
        let health = health.map(|from| self.health.range((from, Unbounded)));
        let flows = flows.map(|from| self.flows.range((from, Unbounded)));
        let nat = nat.map(|from| self.nat.range((from, Unbounded)));
        let sticks = self.sticks.range((sticks, Unbounded)).map(stick_item);
        let said = said.into_iter().flatten().map(said_item);
        let health = health.into_iter().flatten().map(health_item);
        let flows = flows.into_iter().flatten().map(flow_item);
        let nat = nat.into_iter().flatten().map(nat_item);
        said.chain(health).chain(flows).chain(nat).chain(sticks)
    }

    /// The item for this key, if there is an entry.
    pub(super) fn item(&self, key: Key) -> Option<Item> {
        match key {
            Key::Said(id, aspect) => self.said.get_key_value(&(id, aspect)).map(said_item),
            Key::Health(id) => self.health.get_key_value(&id).map(health_item),
            Key::Flow(id) => self.flows.get_key_value(&id).map(flow_item),
            Key::Nat(key) => self.nat.get_key_value(&key).map(nat_item),
            Key::Stick(key) => self.sticks.get_key_value(&key).map(stick_item),
        }
    }

    /// Forgets the proxied connections, since those of a dead proxy are dead, and gives them as a
    /// state of their own: for the [`Attic`](super::Attic).
    pub fn forget_flows(&mut self) -> Self {
        Self {
            flows: std::mem::take(&mut self.flows),
            ..Self::default()
        }
    }

    /// Takes these proxied connections in, and forgets those that it had.
    pub fn put_flows(&mut self, of: Self) {
        self.flows = of.flows;
    }

    /// Gives back so many entries of each table of connections and clients.
    pub(super) fn shed(&mut self, most: usize) {
        for _ in 0..most {
            let none = self.flows.pop_first().is_none() & self.nat.pop_first().is_none();
            if none & self.sticks.pop_first().is_none() {
                break;
            }
        }
    }

    /// What is left is small.
    pub(super) fn has_no_connections(&self) -> bool {
        self.flows.is_empty() && self.nat.is_empty() && self.sticks.is_empty()
    }

    /// A fingerprint: equal for equal contents, on any host. It is the hash of the bytes of a
    /// snapshot.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut items = self.items().peekable();
        while items.peek().is_some() {
            let chunk = items.by_ref().take(MAX_BATCH).collect();
            hash.update(&codec::encode_frame(&Frame::SnapshotChunk(chunk)));
        }
        hash.digest()
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Put {
    Changed,
    Full,
    Same,
}

fn put<K: Ord, V: PartialEq>(table: &mut BTreeMap<K, V>, key: K, value: V, limit: usize) -> Put {
    if let Some(known) = table.get_mut(&key) {
        let changed = *known != value;
        *known = value;
        return if changed { Put::Changed } else { Put::Same };
    }
    if table.len() >= limit {
        return Put::Full;
    }
    table.insert(key, value);
    Put::Changed
}

/// The record as it comes out of the wire: scope and flow label of an IPv6 client mean something on
/// one host only and do not travel.
const fn plain(record: FlowRecord) -> FlowRecord {
    let client = match record.client {
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
        v4 @ SocketAddr::V4(_) => v4,
    };
    FlowRecord { client, ..record }
}

const fn nat_item((key, record): (&NatKey, &NatRecord)) -> Item {
    let (key, record) = (*key, *record);
    Item::NatOpen { key, record }
}

const fn stick_item((key, record): (&StickKey, &StickRecord)) -> Item {
    let (key, record) = (*key, *record);
    Item::Stick { key, record }
}

fn said_item(((backend, _), statement): (&(BackendId, Aspect), &Statement)) -> Item {
    Item::Said {
        backend: *backend,
        statement: statement.clone(),
    }
}

const fn health_item((backend, record): (&BackendId, &HealthRecord)) -> Item {
    let (backend, record) = (*backend, *record);
    Item::Health { backend, record }
}

const fn flow_item((flow, record): (&FlowId, &FlowRecord)) -> Item {
    let (flow, record) = (*flow, *record);
    Item::FlowOpen { flow, record }
}

#[cfg(test)]
#[path = "replica_test.rs"]
mod tests;
