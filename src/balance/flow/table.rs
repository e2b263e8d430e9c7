//! Live connections and their counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::{FlowEnd, FlowEvent, Unserved};
use crate::config::Config;
use crate::model::{BackendId, FlowId, ServiceId};
use crate::status::{Ends, Failures};
use crate::wire::replication::{FlowRecord, Item};

/// Connections in the table at most, void ones included. As many as a replica may hold; one takes
/// about 60 bytes.
const MAX_LIVE: usize = 2_000_000;
/// Bits of a flow id below its worker.
const WORKER_SHIFT: u32 = 48;

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
    /// Clients refused for want of a good header of the PROXY protocol.
    pub bad_headers: u64,
    /// Clients refused by an access list.
    pub denied: u64,
    /// Clients refused by `source_rate`.
    pub too_fast: u64,
    /// Clients that waited in vain for a backend with room.
    pub queue_timeouts: u64,
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
    /// The same, by how.
    pub failures: Failures,
    /// Bytes from clients, as far as they were told.
    pub up: u64,
    /// Bytes to clients.
    pub down: u64,
    /// Connections that have ended, by how.
    pub ends: Ends,
}

impl BackendCounts {
    const fn ended(&mut self, end: FlowEnd) {
        let count = match end {
            FlowEnd::Complete => &mut self.ends.complete,
            FlowEnd::ClientError => &mut self.ends.client_error,
            FlowEnd::BackendDown => &mut self.ends.backend_down,
            FlowEnd::BackendError => &mut self.ends.backend_error,
            FlowEnd::Idle => &mut self.ends.idle,
            FlowEnd::Dropped => &mut self.ends.dropped,
        };
        *count += 1;
    }
}

/// Live connections, as the data path told them.
///
/// What it tells the peer keeps the peer's connections equal to the live ones here, event by event.
///
/// When a worker lost events, its connections are void: no longer counted as live, and closed for
/// the peer. They are remembered, so that one that is told again is not a new one in the totals and
/// keeps its age and its bytes. Which of them have ended nobody says; they make room as soon as it
/// is needed.
#[derive(Clone, Debug)]
pub struct FlowTable {
    live: BTreeMap<FlowId, Live>,
    void: BTreeMap<FlowId, Live>,
    services: BTreeMap<ServiceId, ServiceCounts>,
    backends: BTreeMap<BackendId, BackendCounts>,
    losses: u64,
    overflowed: u64,
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    service: ServiceId,
    backend: BackendId,
    since_unix_ms: u64,
    up: u64,
    down: u64,
}

impl FlowTable {
    /// An empty table with a row for each service and backend.
    pub fn new(config: &Config) -> Self {
        let services = config.services.iter();
        let backends = services.clone().flat_map(|service| &service.backends);
        Self::with_rows(
            services.map(|service| service.id),
            backends.map(|backend| backend.id),
            MAX_LIVE,
        )
    }

    fn with_rows(
        services: impl Iterator<Item = ServiceId>,
        backends: impl Iterator<Item = BackendId>,
        limit: usize,
    ) -> Self {
        Self {
            live: BTreeMap::new(),
            void: BTreeMap::new(),
            services: services.map(|id| (id, ServiceCounts::default())).collect(),
            backends: backends.map(|id| (id, BackendCounts::default())).collect(),
            losses: 0,
            overflowed: 0,
            limit,
        }
    }

    /// A row for each backend of this configuration; those of others go, unless they have connections.
    pub fn reconfigure(&mut self, config: &Config) {
        let backends = config.services.iter().flat_map(|service| &service.backends);
        let there: BTreeSet<BackendId> = backends.map(|backend| backend.id).collect();
        self.backends
            .retain(|id, counts| counts.connections > 0 || there.contains(id));
        for id in there {
            self.backends.entry(id).or_default();
        }
    }

    /// Counts one event; appends to `out` what the peer should know. `unix_ms` is the time of day.
    ///
    /// Events of a connection that is not live are ignored, and there is no count of a service or
    /// backend that has no row.
    pub fn handle(&mut self, event: &FlowEvent, unix_ms: u64, out: &mut Vec<Item>) {
        match *event {
            FlowEvent::Closed {
                flow,
                up,
                down,
                end,
            } => {
                self.void.remove(&flow);
                if let Some(closed) = self.live.remove(&flow) {
                    self.uncount(closed);
                    self.moved(closed, up, down);
                    if let Some(counts) = self.backends.get_mut(&closed.backend) {
                        counts.ended(end);
                    }
                    out.push(Item::FlowClose { flow });
                }
            }
            FlowEvent::ConnectFailed { backend, failure } => {
                if let Some(counts) = self.backends.get_mut(&backend) {
                    counts.connect_failures += 1;
                    counts.failures.add(failure);
                }
            }
            FlowEvent::Lost { worker, .. } => self.lost(worker, out),
            FlowEvent::Opened {
                flow,
                service,
                backend,
                client,
                ..
            } => {
                let fresh = Live {
                    service,
                    backend,
                    since_unix_ms: unix_ms,
                    up: 0,
                    down: 0,
                };
                self.opened(flow, fresh, client, out);
            }
            FlowEvent::Progress { flow, up, down } => {
                if let Some(live) = self.live.get_mut(&flow) {
                    let before = *live;
                    (live.up, live.down) = (up, down);
                    self.moved(before, up, down);
                    out.push(Item::FlowBytes { flow, up, down });
                }
            }
            // The node writes these down by itself.
            FlowEvent::Stuck { .. } | FlowEvent::Unstuck { .. } => {}
            FlowEvent::Unserved { service, why } => {
                if let Some(counts) = self.services.get_mut(&service) {
                    match why {
                        Unserved::AllFailed | Unserved::NoBackend => counts.failed += 1,
                        Unserved::Denied => counts.denied += 1,
                        Unserved::Header => counts.bad_headers += 1,
                        Unserved::Limit => counts.refused += 1,
                        Unserved::QueueTimeout => counts.queue_timeouts += 1,
                        Unserved::SourceRate => counts.too_fast += 1,
                    }
                }
            }
        }
    }

    /// The backend of a live connection.
    pub fn backend_of(&self, flow: FlowId) -> Option<BackendId> {
        self.live.get(&flow).map(|live| live.backend)
    }

    fn opened(&mut self, flow: FlowId, fresh: Live, client: SocketAddr, out: &mut Vec<Item>) {
        let told = self.live.remove(&flow);
        if let Some(told) = told {
            self.uncount(told);
        }
        let known = told.or_else(|| self.void.remove(&flow));
        let live = known.map_or(fresh, |known| Live {
            service: fresh.service,
            backend: fresh.backend,
            ..known
        });
        let new = u64::from(known.is_none());
        if let Some(counts) = self.services.get_mut(&live.service) {
            counts.total += new;
        }
        if let Some(counts) = self.backends.get_mut(&live.backend) {
            counts.total += new;
        }
        if self.live.len() + self.void.len() >= self.limit && self.void.pop_first().is_none() {
            self.overflowed += 1;
            return;
        }
        self.count(live);
        self.live.insert(flow, live);
        let record = FlowRecord {
            client,
            service: live.service,
            backend: live.backend,
            since_unix_ms: live.since_unix_ms,
            up: live.up,
            down: live.down,
        };
        out.push(Item::FlowOpen { flow, record });
    }

    /// Its bytes are so many now.
    fn moved(&mut self, before: Live, up: u64, down: u64) {
        if let Some(counts) = self.backends.get_mut(&before.backend) {
            counts.up += up.saturating_sub(before.up);
            counts.down += down.saturating_sub(before.down);
        }
    }

    fn lost(&mut self, worker: u16, out: &mut Vec<Item>) {
        self.losses += 1;
        let lost: Vec<(FlowId, Live)> = self
            .live
            .extract_if(flows_of(worker), |_, _| true)
            .collect();
        for (flow, live) in lost {
            self.uncount(live);
            self.void.insert(flow, live);
            out.push(Item::FlowClose { flow });
        }
    }

    fn count(&mut self, live: Live) {
        if let Some(counts) = self.services.get_mut(&live.service) {
            counts.connections += 1;
        }
        if let Some(counts) = self.backends.get_mut(&live.backend) {
            counts.connections += 1;
        }
    }

    fn uncount(&mut self, live: Live) {
        if let Some(counts) = self.services.get_mut(&live.service) {
            counts.connections -= 1;
        }
        if let Some(counts) = self.backends.get_mut(&live.backend) {
            counts.connections -= 1;
        }
    }

    /// Connections of this service now.
    pub fn connections(&self, service: ServiceId) -> u64 {
        self.service(service).connections
    }

    /// Counts of a service; zeros if it is unknown.
    pub fn service(&self, service: ServiceId) -> ServiceCounts {
        self.services.get(&service).copied().unwrap_or_default()
    }

    /// Counts of a backend; zeros if it is unknown.
    pub fn backend(&self, backend: BackendId) -> BackendCounts {
        self.backends.get(&backend).copied().unwrap_or_default()
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// There is no live connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Times that a worker said `Lost`.
    pub const fn losses(&self) -> u64 {
        self.losses
    }

    /// Connections that did not fit into the table. They are in the totals only.
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// The mastership ended: no connection is live. Totals stay.
    pub fn clear(&mut self) {
        self.live.clear();
        self.void.clear();
        for counts in self.services.values_mut() {
            counts.connections = 0;
        }
        for counts in self.backends.values_mut() {
            counts.connections = 0;
        }
    }
}

/// The ids of one worker's flows.
const fn flows_of(worker: u16) -> RangeInclusive<FlowId> {
    let first = (worker as u64) << WORKER_SHIFT;
    FlowId(first)..=FlowId(first | ((1 << WORKER_SHIFT) - 1))
}

#[cfg(test)]
#[path = "table_test.rs"]
mod tests;
