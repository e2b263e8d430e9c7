//! Short names for what the tests say over and over.

use super::Replica;
use crate::model::{BackendId, Epoch, FlowId, ServiceId};
use crate::time::Mono;
use crate::wire::replication::{
    AdminState, FlowRecord, Frame, HealthRecord, Item, NatKey, NatRecord, Position, StickKey,
    StickRecord,
};
use crate::wire::statement::{Said, Stamp, Statement};

pub(super) fn admin(backend: u32, state: AdminState) -> Item {
    Item::Said {
        backend: BackendId(backend),
        statement: Statement {
            service: ServiceId(1),
            name: "b".into(),
            at: Stamp(1),
            said: Said::State {
                state,
                cut_ms: None,
            },
        },
    }
}

pub(super) fn health(backend: u32, good: u64) -> Item {
    Item::Health {
        backend: BackendId(backend),
        record: HealthRecord {
            good,
            ..HealthRecord::default()
        },
    }
}

pub(super) fn open(flow: u64, backend: u32) -> Item {
    Item::FlowOpen {
        flow: FlowId(flow),
        record: FlowRecord {
            client: ([192, 0, 2, 1], 4_000).into(),
            service: ServiceId(1),
            backend: BackendId(backend),
            since_unix_ms: 5,
            up: 0,
            down: 0,
        },
    }
}

pub(super) const fn bytes(flow: u64, count: u64) -> Item {
    Item::FlowBytes {
        flow: FlowId(flow),
        up: count,
        down: 2 * count,
    }
}

pub(super) const fn close(flow: u64) -> Item {
    Item::FlowClose { flow: FlowId(flow) }
}

/// A connection of the kernel mode.
pub(super) fn nat_key(port: u16) -> NatKey {
    NatKey {
        client: ([192, 0, 2, 1], port).into(),
        service: ([192, 0, 2, 100], 80).into(),
    }
}

pub(super) fn nat_open(port: u16, backend: u32) -> Item {
    let record = NatRecord {
        service: ServiceId(1),
        backend: BackendId(backend),
        source: ([192, 0, 2, 100], 20_000 + port).into(),
        target: ([198, 51, 100, 21], 8_080).into(),
        client_mark: 7,
        backend_mark: None,
        since_unix_ms: 5,
    };
    let key = nat_key(port);
    Item::NatOpen { key, record }
}

pub(super) fn nat_marks(port: u16, backend: u32) -> Item {
    Item::NatMarks {
        key: nat_key(port),
        client: 7,
        backend,
    }
}

pub(super) fn nat_close(port: u16) -> Item {
    Item::NatClose { key: nat_key(port) }
}

/// A client that is remembered.
pub(super) const fn stick(hash: u64, backend: u32, used_ms: u64) -> Item {
    let backend = BackendId(backend);
    let key = stick_key(hash);
    let record = StickRecord { backend, used_ms };
    Item::Stick { key, record }
}

pub(super) const fn unstick(hash: u64) -> Item {
    let key = stick_key(hash);
    Item::Unstick { key }
}

const fn stick_key(hash: u64) -> StickKey {
    let service = ServiceId(1);
    StickKey { service, hash }
}

pub(super) const fn at(epoch: u64, sequence: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        sequence,
    }
}

pub(super) const T0: Mono = Mono::from_millis(1_000);
pub(super) fn replica_of(items: impl IntoIterator<Item = Item>) -> Replica {
    let mut replica = Replica::default();
    for item in items {
        replica.apply(&item);
    }
    replica
}

pub(super) fn begin(position: Position, items: u64) -> Frame {
    Frame::SnapshotBegin { position, items }
}

pub(super) fn update(after: Position, items: &[Item]) -> Frame {
    let items = items.to_vec();
    Frame::Update { after, items }
}
