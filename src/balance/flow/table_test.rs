//! Counts, what the peer is told, and the loss of events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::balance::flow::FlowEnd;
use crate::config::fixture::pair;
use crate::model::ConnectFailure;

const CONFIG: &str = r#"

[[service]]
name = "web"
listen = ["192.0.2.100:80"]

[[service.backend]]
name = "b1"
address = "198.51.100.1:80"

[[service.backend]]
name = "b2"
address = "198.51.100.2:80"
"#;

fn web() -> ServiceId {
    ServiceId::of("web")
}

fn b(n: u8) -> BackendId {
    BackendId::of("web", &format!("b{n}"))
}

const fn id(worker: u16, n: u64) -> FlowId {
    FlowId((worker as u64) << WORKER_SHIFT | n)
}

fn opened(flow: FlowId, backend: BackendId) -> FlowEvent {
    FlowEvent::Opened {
        flow,
        service: web(),
        backend,
        client: ([203, 0, 113, 1], 4_000).into(),
        connect: Duration::from_millis(1),
    }
}

const fn closed(flow: FlowId) -> FlowEvent {
    FlowEvent::Closed {
        flow,
        up: 1,
        down: 1,
        end: FlowEnd::Complete,
    }
}

const fn lost(worker: u16) -> FlowEvent {
    FlowEvent::Lost { worker, count: 1 }
}

const fn progress(flow: FlowId, up: u64) -> FlowEvent {
    FlowEvent::Progress { flow, up, down: 7 }
}

fn record(backend: BackendId, since_unix_ms: u64, up: u64, down: u64) -> FlowRecord {
    FlowRecord {
        client: ([203, 0, 113, 1], 4_000).into(),
        service: web(),
        backend,
        since_unix_ms,
        up,
        down,
    }
}

fn open_item(flow: FlowId, record: FlowRecord) -> Item {
    Item::FlowOpen { flow, record }
}

const fn close_item(flow: FlowId) -> Item {
    Item::FlowClose { flow }
}

fn table() -> FlowTable {
    FlowTable::new(&pair(CONFIG))
}

fn small(limit: usize) -> FlowTable {
    FlowTable::with_rows([web()].into_iter(), [b(1), b(2)].into_iter(), limit)
}

/// What the peer is told of these events, which come at this time of day.
fn tell(table: &mut FlowTable, unix_ms: u64, events: &[FlowEvent]) -> Vec<Item> {
    let mut out = Vec::new();
    for event in events {
        table.handle(event, unix_ms, &mut out);
    }
    out
}

/// Connections now and in total: of the service, of each backend.
fn counts(table: &FlowTable) -> [(u64, u64); 3] {
    let service = table.service(web());
    let [b1, b2] = [b(1), b(2)].map(|id| table.backend(id));
    [
        (service.connections, service.total),
        (b1.connections, b1.total),
        (b2.connections, b2.total),
    ]
}

#[test]
fn a_connection_is_counted_while_it_lives_and_in_the_total() {
    let mut table = table();
    let (x, y) = (id(0, 1), id(1, 1));
    let told = tell(
        &mut table,
        5,
        &[opened(x, b(1)), opened(y, b(2)), progress(x, 3), closed(x)],
    );
    let bytes = Item::FlowBytes {
        flow: x,
        up: 3,
        down: 7,
    };
    let expected = [
        open_item(x, record(b(1), 5, 0, 0)),
        open_item(y, record(b(2), 5, 0, 0)),
        bytes,
        close_item(x),
    ];
    assert_eq!(told, expected);
    assert_eq!(counts(&table), [(1, 2), (0, 1), (1, 1)]);
    assert_eq!((table.len(), table.connections(web())), (1, 1));
}

#[test]
fn failures_are_counted_by_kind() {
    let mut table = table();
    let unserved = |why| FlowEvent::Unserved {
        service: web(),
        why,
    };
    let failed = FlowEvent::ConnectFailed {
        backend: b(2),
        failure: ConnectFailure::Refused,
    };
    let told = tell(
        &mut table,
        5,
        &[
            failed,
            unserved(Unserved::AllFailed),
            unserved(Unserved::NoBackend),
            unserved(Unserved::Limit),
            unserved(Unserved::Header),
        ],
    );
    assert_eq!(told, []);
    assert_eq!(table.backend(b(2)).connect_failures, 1);
    assert_eq!(table.backend(b(1)), BackendCounts::default());
    let service = table.service(web());
    assert_eq!((service.failed, service.refused), (2, 1));
    assert_eq!(service.bad_headers, 1);
    assert!(table.is_empty());
}

#[test]
fn what_is_unknown_is_ignored() {
    let mut table = table();
    let mut stranger = opened(id(0, 1), BackendId(1));
    if let FlowEvent::Opened { service, .. } = &mut stranger {
        *service = ServiceId(1);
    }
    let told = tell(&mut table, 5, &[closed(id(0, 9)), progress(id(0, 9), 1)]);
    assert_eq!(told, []);
    // A service that is not configured (any more): it lives, but has no counts.
    assert_eq!(tell(&mut table, 5, &[stranger]).len(), 1);
    assert_eq!(counts(&table), [(0, 0); 3]);
    assert_eq!(table.service(ServiceId(1)), ServiceCounts::default());
    assert_eq!(table.len(), 1);
    let told = tell(&mut table, 5, &[closed(id(0, 1))]);
    assert_eq!(told, [close_item(id(0, 1))]);
}

#[test]
fn a_loss_voids_one_workers_connections_until_they_are_told_again() {
    let mut table = table();
    let (kept, gone, other) = (id(1, 0), id(1, (1 << WORKER_SHIFT) - 1), id(2, 0));
    let below = id(0, (1 << WORKER_SHIFT) - 1);
    let all = [kept, gone, other, below].map(|flow| opened(flow, b(1)));
    tell(&mut table, 5, &all);
    tell(&mut table, 6, &[progress(kept, 40)]);

    let told = tell(&mut table, 9, &[lost(1)]);
    assert_eq!(told, [close_item(kept), close_item(gone)]);
    assert_eq!(counts(&table), [(2, 4), (2, 4), (0, 0)]);
    assert_eq!((table.len(), table.losses()), (2, 1));

    // One is told again and one is new; the third ended unseen.
    let new = id(1, 7);
    let told = tell(&mut table, 9, &[opened(kept, b(1)), opened(new, b(2))]);
    let expected = [
        open_item(kept, record(b(1), 5, 40, 7)),
        open_item(new, record(b(2), 9, 0, 0)),
    ];
    assert_eq!(told, expected, "it keeps its age and its bytes");
    assert_eq!(counts(&table), [(4, 5), (3, 4), (1, 1)]);
}

#[test]
fn a_loss_while_connections_are_told_again_counts_none_twice() {
    let mut table = table();
    let (x, y) = (id(1, 1), id(1, 2));
    let both = [opened(x, b(1)), opened(y, b(1))];
    tell(&mut table, 5, &both);
    tell(&mut table, 6, &[lost(1), opened(x, b(1)), lost(1)]);
    assert_eq!(counts(&table), [(0, 2), (0, 2), (0, 0)]);
    tell(&mut table, 7, &both);
    assert_eq!(counts(&table), [(2, 2), (2, 2), (0, 0)]);
    // One that ends while it is void was counted already; nobody needs to hear of it.
    assert_eq!(tell(&mut table, 8, &[lost(1), closed(x)]).len(), 2);
    tell(&mut table, 9, &[opened(y, b(1))]);
    assert_eq!(counts(&table), [(1, 2), (1, 2), (0, 0)]);
}

#[test]
fn a_connection_told_twice_is_one_and_the_latest_holds() {
    let mut table = table();
    let x = id(0, 1);
    tell(&mut table, 5, &[opened(x, b(1)), progress(x, 4)]);
    let told = tell(&mut table, 6, &[opened(x, b(2))]);
    assert_eq!(told, [open_item(x, record(b(2), 5, 4, 7))]);
    assert_eq!(counts(&table), [(1, 1), (0, 1), (1, 0)]);
}

#[test]
fn a_full_table_counts_what_it_cannot_hold() {
    let mut table = small(2);
    let flows: Vec<FlowId> = (1..=3).map(|n| id(0, n)).collect();
    let events: Vec<FlowEvent> = flows.iter().map(|flow| opened(*flow, b(1))).collect();
    assert_eq!(tell(&mut table, 5, &events).len(), 2);
    assert_eq!(counts(&table)[0], (2, 3));
    assert_eq!((table.len(), table.overflowed()), (2, 1));
    assert_eq!(tell(&mut table, 5, &[closed(flows[2])]), []);
    assert_eq!(tell(&mut table, 5, &[closed(flows[0])]).len(), 1);
    assert_eq!(tell(&mut table, 5, &[opened(id(0, 4), b(1))]).len(), 1);
    assert_eq!((table.len(), table.overflowed()), (2, 1));
}

#[test]
fn void_connections_make_room() {
    let mut table = small(2);
    let old = [opened(id(0, 1), b(1)), opened(id(0, 2), b(1))];
    tell(&mut table, 5, &old);
    let new = [lost(0), opened(id(0, 3), b(1)), opened(id(0, 4), b(1))];
    tell(&mut table, 6, &new);
    assert_eq!((table.len(), table.overflowed()), (2, 0));
    assert_eq!(table.void.len(), 0);
    assert_eq!(counts(&table)[0], (2, 4));
}

#[test]
fn the_end_of_a_mastership_leaves_the_totals() {
    let mut table = table();
    let (x, y) = (id(0, 1), id(1, 1));
    let events = [opened(x, b(1)), opened(y, b(2)), lost(1)];
    tell(&mut table, 5, &events);
    table.clear();
    assert_eq!(counts(&table), [(0, 2), (0, 1), (0, 1)]);
    assert!(table.is_empty() && table.void.is_empty());
    assert_eq!(tell(&mut table, 6, &[closed(x), closed(y)]), [], "late");
    assert_eq!(counts(&table), [(0, 2), (0, 1), (0, 1)]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open(u16, u8),
    Close(usize),
    Progress(usize, u64),
    /// So many of the next events of this worker never arrive.
    Lose(u16, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u16, 1..3_u8).prop_map(|(worker, backend)| Step::Open(worker, backend)),
        3 => any::<usize>().prop_map(Step::Close),
        2 => (any::<usize>(), 0..4_u64).prop_map(|(flow, up)| Step::Progress(flow, up)),
        1 => (0..3_u16, 0..5_u8).prop_map(|(worker, count)| Step::Lose(worker, count)),
    ]
}

/// The data path as it is, the table, and a peer that applies what it is told.
struct World {
    table: FlowTable,
    real: BTreeMap<FlowId, BackendId>,
    /// Connections of which the table ever heard.
    heard: BTreeSet<FlowId>,
    peer: BTreeMap<FlowId, BackendId>,
    losing: BTreeMap<u16, u8>,
    next: u64,
}

impl World {
    fn emit(&mut self, worker: u16, event: &FlowEvent) {
        if let Some(left) = self.losing.get_mut(&worker) {
            if *left > 0 {
                *left -= 1;
                return;
            }
            self.losing.remove(&worker);
            self.tell_again(worker);
            return;
        }
        self.give(event);
    }

    fn tell_again(&mut self, worker: u16) {
        self.give(&lost(worker));
        let all: Vec<FlowEvent> = self
            .real
            .range(flows_of(worker))
            .map(|(flow, backend)| opened(*flow, *backend))
            .collect();
        for event in all {
            self.give(&event);
        }
    }

    fn give(&mut self, event: &FlowEvent) {
        if let FlowEvent::Opened { flow, .. } = event {
            self.heard.insert(*flow);
        }
        let mut out = Vec::new();
        self.table.handle(event, 0, &mut out);
        for item in out {
            match item {
                Item::FlowOpen { flow, record } => {
                    self.peer.insert(flow, record.backend);
                }
                Item::FlowClose { flow } => assert!(self.peer.remove(&flow).is_some()),
                Item::FlowBytes { flow, .. } => assert!(self.peer.contains_key(&flow)),
                other => panic!("{other:?}"),
            }
        }
        let live = self.table.live.iter();
        let live: BTreeMap<FlowId, BackendId> = live.map(|(id, it)| (*id, it.backend)).collect();
        assert_eq!(self.peer, live, "the peer knows what is live here");
        let [service, b1, b2] = counts(&self.table);
        let on = |backend| live.values().filter(|it| **it == backend).count() as u64;
        assert_eq!((b1.0, b2.0), (on(b(1)), on(b(2))));
        assert_eq!(service, (b1.0 + b2.0, b1.1 + b2.1));
        assert_eq!(service.1, self.heard.len() as u64, "each is counted once");
    }

    fn step(&mut self, step: Step) {
        let pick = |n: usize| {
            let at = n % self.real.len().max(1);
            self.real.keys().nth(at).copied()
        };
        let worker_of = |flow: FlowId| (flow.0 >> WORKER_SHIFT) as u16;
        match step {
            Step::Open(worker, backend) => {
                self.next += 1;
                let flow = id(worker, self.next);
                self.real.insert(flow, b(backend));
                self.emit(worker, &opened(flow, b(backend)));
            }
            Step::Close(n) => {
                if let Some(flow) = pick(n) {
                    self.real.remove(&flow);
                    self.emit(worker_of(flow), &closed(flow));
                }
            }
            Step::Progress(n, up) => {
                if let Some(flow) = pick(n) {
                    self.emit(worker_of(flow), &progress(flow, up));
                }
            }
            Step::Lose(worker, count) => {
                self.losing.insert(worker, count);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_table_comes_to_the_truth_after_each_loss(steps in vec(step(), 0..80)) {
        let mut world = World {
            table: small(MAX_LIVE),
            real: BTreeMap::new(),
            heard: BTreeSet::new(),
            peer: BTreeMap::new(),
            losing: BTreeMap::new(),
            next: 0,
        };
        for step in steps {
            world.step(step);
        }
        for worker in std::mem::take(&mut world.losing).into_keys() {
            world.tell_again(worker);
        }
        prop_assert_eq!(&world.peer, &world.real);
        prop_assert_eq!(world.table.len(), world.real.len());
    }
}
