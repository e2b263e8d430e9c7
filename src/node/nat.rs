//! The kernel mode's part of a node: what its data path tells goes into the log, what the master
//! tells goes to the data path, and acknowledgements find the reports that they are for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::io::Output;
use super::{Node, Replication};
use crate::balance::flow::{FlowEvent, Unserved};
use crate::balance::nat::{NatCommand, NatEvent, NatReport};
use crate::model::{BackendId, ServiceId};
use crate::replication::Learned;
use crate::time::Mono;
use crate::wire::replication::{Frame, Item, MAX_BATCH, NatKey, NatRecord};

/// Most connections that are told to a master so.
const INHERITED: usize = 4_096;

/// What the node keeps of the kernel mode beside the replica.
#[derive(Debug, Default)]
pub(super) struct NatBook {
    /// Reports that are not acknowledged: ticket, and the last sequence of the log when it was
    /// written.
    unacknowledged: VecDeque<(u64, u64)>,
    /// The data path is to pause, and has said that it does.
    paused: bool,
    quiet: bool,
    published: Option<(BTreeSet<BackendId>, BTreeSet<BackendId>)>,
    /// Connections of this node's last process that a master may not know.
    inherited: Vec<Item>,
    /// Those that were up when this was looked at last.
    up: Vec<BackendId>,
    /// Connections since the start of the process.
    services: BTreeMap<ServiceId, u64>,
    backends: BTreeMap<BackendId, u64>,
}

impl NatBook {
    /// Connections since the start of the process.
    pub(super) fn of_service(&self, id: ServiceId) -> u64 {
        self.services.get(&id).copied().unwrap_or(0)
    }

    /// Connections since the start of the process.
    pub(super) fn of_backend(&self, id: BackendId) -> u64 {
        self.backends.get(&id).copied().unwrap_or(0)
    }

    fn count(&mut self, record: &NatRecord) {
        *self.services.entry(record.service).or_default() += 1;
        *self.backends.entry(record.backend).or_default() += 1;
    }
}

impl Node {
    pub(super) fn tell_nat(&mut self, command: NatCommand) {
        self.outputs.push_back(Output::Nat(command));
    }

    /// Everything that clients may have seen is in the log, and stays so.
    pub(super) fn nat_is_quiet(&self) -> bool {
        self.nat.quiet || !self.has_nat()
    }

    pub(super) fn has_nat(&self) -> bool {
        let mut services = self.config.services.iter();
        services.any(|service| service.kernel.is_some())
    }

    pub(super) fn handle_nat(&mut self, report: NatReport, now: Mono) {
        self.nat.quiet |= report.paused && self.nat.paused;
        for event in report.events {
            self.handle_nat_event(event, now);
        }
        let sequence = match &self.replication {
            Replication::Source(source) => source.position().sequence,
            Replication::Sink(_) => 0,
        };
        let report = (report.ticket, sequence);
        self.nat.unacknowledged.push_back(report);
    }

    fn handle_nat_event(&mut self, event: NatEvent, now: Mono) {
        match event {
            NatEvent::Closed { key, .. } => self.write_nat(Item::NatClose { key }, now),
            NatEvent::ConnectFailed { backend, failure } => {
                let failed = FlowEvent::ConnectFailed { backend, failure };
                self.handle_flows(&[failed], now);
            }
            NatEvent::Marks {
                key,
                backend,
                client,
                backend_mark,
                answered,
            } => {
                if answered {
                    self.health.connected(backend, now);
                }
                let backend = backend_mark;
                let marks = Item::NatMarks {
                    key,
                    client,
                    backend,
                };
                self.write_nat(marks, now);
            }
            NatEvent::Inherited {
                key,
                mut record,
                age_ms,
            } => {
                record.since_unix_ms = self.journal.unix_ms(now).saturating_sub(age_ms);
                if self.nat.inherited.len() < INHERITED {
                    self.nat.inherited.push(Item::NatOpen { key, record });
                }
            }
            NatEvent::Opened {
                key,
                mut record,
                age_ms,
            } => {
                record.since_unix_ms = self.journal.unix_ms(now).saturating_sub(age_ms);
                self.open_nat(key, record, now);
            }
            NatEvent::Stale(stale) => self.handle_stale(stale, now),
            NatEvent::Unserved { service } => {
                let why = Unserved::AllFailed;
                self.handle_flows(&[FlowEvent::Unserved { service, why }], now);
            }
        }
    }

    fn open_nat(&mut self, key: NatKey, record: NatRecord, now: Mono) {
        match self.replica().nat().get(&key) {
            // The same one, on another backend.
            Some(known) if known.client_mark == record.client_mark => {
                *self.nat.backends.entry(record.backend).or_default() += 1;
            }
            _ => self.nat.count(&record),
        }
        self.write_nat(Item::NatOpen { key, record }, now);
    }

    /// Into the log; before this node has heard of any master, into what it begins with.
    fn write_nat(&mut self, item: Item, now: Mono) {
        match &mut self.replication {
            Replication::Source(source) => source.write(item, now),
            Replication::Sink(sink) => sink.adopt(&item),
        }
    }

    /// As backup that is in sync: tells the master of what it does not know. As master, this node has
    /// it in its own log.
    fn tell_inherited(&mut self) {
        if self.nat.inherited.is_empty() || !self.in_sync() {
            return;
        }
        let all = std::mem::take(&mut self.nat.inherited);
        if !matches!(self.replication, Replication::Sink(_)) {
            return;
        }
        let known = self.replica().nat();
        let unknown = |item: &Item| match item {
            Item::NatOpen { key, .. } => !known.contains_key(key),
            _ => false,
        };
        let items: Vec<Item> = all.into_iter().filter(unknown).collect();
        for items in items.chunks(MAX_BATCH) {
            self.send_frame(Frame::Inherited(items.to_vec()));
        }
    }

    /// As master: the backup's last process had these.
    pub(super) fn inherit(&mut self, items: Vec<Item>, now: Mono) {
        let known = self.replica().nat();
        let (services, nat) = (&self.config.services, &known);
        let fits = |item: &Item| match item {
            Item::NatOpen { key, record } => {
                let mut services = services.iter();
                let service = services.find(|service| service.id == record.service);
                let backends = service
                    .filter(|it| it.kernel.is_some())
                    .map(|it| &it.backends);
                !nat.contains_key(key)
                    && backends.is_some_and(|all| all.iter().any(|it| it.id == record.backend))
            }
            _ => false,
        };
        let items: Vec<Item> = items.into_iter().filter(fits).collect();
        if items.is_empty() {
            return;
        }
        let text = format!(
            "{} that the peer's last process had not told go on",
            match items.len() {
                1 => "1 connection".to_owned(),
                many => format!("{many} connections"),
            }
        );
        self.note(text, now);
        for item in &items {
            self.write_nat(item.clone(), now);
        }
        self.tell_nat(NatCommand::Inherit(items));
    }

    /// What the data path in the kernel is to know after this turn.
    pub(super) fn run_nat(&mut self, now: Mono) {
        while let Replication::Sink(sink) = &mut self.replication
            && let Some(learned) = sink.poll_learned()
        {
            let learned = self.learn_sticks(learned, now);
            let learned = self.learn_said(learned, now);
            self.tell_nat(match learned {
                Learned::Items(items) if items.is_empty() => continue,
                Learned::Items(items) => NatCommand::Learn(items),
                Learned::SnapshotBegin => NatCommand::SnapshotBegin,
                Learned::SnapshotEnd => NatCommand::SnapshotEnd,
                Learned::SnapshotVoid => NatCommand::SnapshotVoid,
            });
        }
        self.acknowledge_nat();
        self.tell_inherited();
        let paused = self.handover.is_some() || self.election.handing_over();
        if paused != self.nat.paused && self.has_nat() {
            (self.nat.paused, self.nat.quiet) = (paused, false);
            self.tell_nat(if paused {
                NatCommand::Pause
            } else {
                NatCommand::Resume
            });
        }
    }

    /// Says which reports the standby knows. While none follows, nobody waits.
    fn acknowledge_nat(&mut self) {
        let waiting = &mut self.nat.unacknowledged;
        let (known, by_standby) = match &self.replication {
            Replication::Source(source) if source.in_sync() => {
                let known = |(_, sequence): &(u64, u64)| source.follows_to(*sequence);
                (waiting.partition_point(known), true)
            }
            Replication::Source(_) | Replication::Sink(_) => (waiting.len(), false),
        };
        let last = waiting.drain(..known).next_back();
        if let Some((ticket, _)) = last {
            self.tell_nat(NatCommand::Acknowledged { ticket, by_standby });
        }
    }

    /// Where new connections of the kernel mode go, if there is a service of that mode. Called at
    /// every turn; `moved`: the eligible ones are others than before.
    pub(super) fn publish_nat(&mut self, moved: bool) {
        if !moved && self.nat.up.iter().copied().eq(self.health.up()) {
            return;
        }
        self.nat.up = self.health.up().collect();
        let (Some(eligible), true) = (&self.published, self.has_nat()) else {
            return;
        };
        let all = self.config.services.iter();
        let kernel = all.filter(|service| service.kernel.is_some());
        let backends = kernel.flat_map(|service| &service.backends);
        let down: BTreeSet<BackendId> = backends
            .map(|backend| backend.id)
            .filter(|id| !self.health.is_up(*id) && !self.roster.leaving.contains_key(id))
            .collect();
        let wanted = (eligible.clone(), down);
        if self.nat.published.as_ref() != Some(&wanted) {
            let (eligible, down) = wanted.clone();
            self.nat.published = Some(wanted);
            self.tell_nat(NatCommand::Publish { eligible, down });
        }
    }
}
