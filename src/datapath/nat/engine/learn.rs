//! Records and entries: what the master tells becomes entries here, and what is in the table
//! becomes records.

use std::net::SocketAddr;

use super::super::layout::{Endpoint, FLOW_CLIENT, FLOW_DNAT, Flow, FlowKey};
use super::super::maps::Maps;
use super::super::names::State;
use super::super::program::NatError;
use super::Engine;
use super::draft::Draft;
use super::known::{Entry, NOWHERE};
use crate::balance::flow::FlowEnd;
use crate::balance::nat::NatEvent;
use crate::model::{BackendId, ServiceId};
use crate::wire::replication::{Item, NatKey, NatRecord};

const MS: u64 = 1_000_000;

/// What the client's key is to the node.
pub(super) fn nat_key(key: &FlowKey) -> NatKey {
    NatKey {
        client: key.from(),
        service: key.to(),
    }
}

/// Where a client's packets go to.
pub(super) const fn endpoint(key: &FlowKey) -> Endpoint {
    Endpoint {
        address: key.dst,
        port: key.dport,
        zero: 0,
        family: key.family,
    }
}

pub(super) const fn is_closed(flow: &Flow) -> bool {
    flow.state == State::Closed.number()
}

/// Whether its backend has answered, so that both marks are known.
pub(super) const fn is_answered(flow: &Flow) -> bool {
    flow.state > State::Opening.number()
}

/// Whether the backend's entry belongs to this client.
pub(super) fn belongs(back: &Flow, key: &FlowKey) -> bool {
    back.opposite(key.family) == *key
}

/// A snapshot that is being read, or swept up after.
#[derive(Debug, Default)]
pub(super) struct Learner {
    draft: Draft,
    /// The snapshot that entries belong to.
    pub(super) round: u16,
    /// The last one that was whole: the node has what belongs to it.
    whole: u16,
    /// The last one that began.
    begun: u16,
    /// One is being read.
    reading: bool,
    /// One that began after the whole one did not end: the table has what it brought, and what it
    /// would have taken away, and the node has neither.
    torn: bool,
    /// Records of services that this node does not have.
    pub(super) strange: u64,
    /// Records that the table had no room for.
    pub(super) no_room: u64,
}

impl Learner {
    /// This node leads from here on. What was learned lately, and whether the table may have what
    /// the node has not.
    pub(super) fn lead(&mut self) -> (Draft, bool) {
        // What begins now is told to the node, and the program changes the table.
        self.round = self.whole;
        self.reading = false;
        (std::mem::take(&mut self.draft), self.torn)
    }

    /// This is not in the table any more.
    pub(super) fn forget(&mut self, keys: &[FlowKey]) {
        for key in keys {
            self.draft.forget(key);
        }
    }

    /// All that is in the table was told to the node.
    pub(super) const fn told_all(&mut self) {
        self.torn = false;
    }

    /// The last snapshot that was whole.
    pub(super) const fn whole(&self) -> u16 {
        self.whole
    }

    /// The node may not have this entry.
    const fn is_doubtful(&self, entry: &Entry) -> bool {
        self.torn && entry.round != self.whole
    }
}

/// A client's entry, and its backend's if that is there.
type Both = (Flow, Option<(FlowKey, Flow)>);

/// What a record says of a connection that it may not say.
fn is_strange(key: &NatKey, record: &NatRecord) -> bool {
    let v4 = key.client.is_ipv4();
    [key.service, record.source, record.target]
        .iter()
        .any(|at| at.is_ipv4() != v4)
}

impl Engine {
    /// All of a flow, as the node knows it.
    pub(super) fn record(&self, key: &FlowKey, flow: &Flow) -> NatRecord {
        let (client, backend) = self.marks_of(key, flow);
        NatRecord {
            service: ServiceId(flow.service),
            backend: BackendId(flow.backend),
            source: SocketAddr::new(flow.to_src.ip(key.family), flow.to_sport.get()),
            target: SocketAddr::new(flow.to_dst.ip(key.family), flow.to_dport.get()),
            client_mark: client,
            backend_mark: is_answered(flow).then_some(backend),
            since_unix_ms: 0,
        }
    }

    /// Reports a flow whole. The ticket of the report.
    pub(super) fn report_opened(&mut self, key: &FlowKey, flow: &Flow, hash: u64, now: u64) -> u64 {
        let record = self.record(key, flow);
        let ticket = self.reports.push(NatEvent::Opened {
            key: nat_key(key),
            record,
            age_ms: now.saturating_sub(flow.opened) / MS,
        });
        self.known.put(hash, self.entry(flow, ticket));
        if is_answered(flow) {
            self.report_marks(key, flow, true);
        }
        ticket
    }

    /// Reports where the ends of a flow are.
    pub(super) fn report_marks(&mut self, key: &FlowKey, flow: &Flow, answered: bool) {
        let (client, backend_mark) = self.marks_of(key, flow);
        self.reports.push(NatEvent::Marks {
            key: nat_key(key),
            backend: BackendId(flow.backend),
            client,
            backend_mark,
            answered,
        });
    }

    /// What is to be known of a flow.
    pub(super) fn entry(&self, flow: &Flow, ticket: u64) -> Entry {
        let place = self.plan.backend_with(flow.backend);
        Entry {
            backend: place.map_or(NOWHERE, |place| place as u32),
            print: self.known.print(flow),
            ticket: ticket as u32,
            round: self.learner.round,
            answered: is_answered(flow),
            closed: is_closed(flow),
        }
    }

    /// Reports what an entry of the table says that was not reported.
    pub(super) fn found(&mut self, key: &FlowKey, flow: &Flow, now: u64) {
        let hash = self.known.hash(key);
        let print = self.known.print(flow);
        let known = self.known.get(hash).copied();
        if is_closed(flow) {
            match known {
                None => self.known.put(hash, self.entry(flow, 0)),
                Some(_) => self.ended(key, hash, FlowEnd::Complete),
            }
            return;
        }
        match known {
            Some(it) if it.print == print && !it.closed && !self.learner.is_doubtful(&it) => {
                if is_answered(flow) && !it.answered {
                    self.report_marks(key, flow, true);
                    self.known.change(hash, |it| it.answered = true);
                }
            }
            _ => {
                self.report_opened(key, flow, hash, now);
            }
        }
    }

    /// The master told this. All of it is written before this returns.
    pub(super) fn learn(
        &mut self,
        items: &[Item],
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        // An error leaves an empty one behind, which is never wrong.
        let mut draft = std::mem::take(&mut self.learner.draft);
        for item in items {
            match item {
                Item::NatOpen { key, record } => {
                    self.learn_open(key, record, &mut draft, maps, now)?;
                }
                Item::NatMarks {
                    key,
                    client,
                    backend,
                } => self.learn_marks(key, (*client, *backend), &mut draft, maps, now)?,
                Item::NatClose { key } => self.learn_close(key, &mut draft, maps, now)?,
                Item::Said { .. }
                | Item::FlowBytes { .. }
                | Item::FlowClose { .. }
                | Item::FlowOpen { .. }
                | Item::Health { .. }
                | Item::Stick { .. }
                | Item::Unstick { .. } => {}
            }
        }
        for key in draft.write(maps)? {
            self.learner.no_room += 1;
            self.known.remove(self.known.hash(&key));
        }
        self.learner.draft = draft;
        Ok(())
    }

    fn learn_open(
        &mut self,
        key: &NatKey,
        record: &NatRecord,
        draft: &mut Draft,
        maps: &impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        let service = self.plan.service_with(record.service.0);
        let Some(service) = service.filter(|_| !is_strange(key, record)) else {
            self.learner.strange += 1;
            return Ok(());
        };
        let front_key = FlowKey::new(key.client, key.service);
        let hash = self.known.hash(&front_key);
        let flags = service.flow_flags();
        let dnat = flags & FLOW_DNAT != 0;
        let outlet = self.plan.outlet_at(endpoint(&front_key));
        let began = record.since_unix_ms.saturating_sub(self.unix_ms_at_zero);
        let opened = began.saturating_mul(MS).min(now);
        let answered = record.backend_mark.is_some();
        let state = if answered {
            State::Established
        } else {
            State::Opening
        };
        let backend_isn = record.backend_mark.unwrap_or(0);
        let after = |mark: u32| if answered { mark.wrapping_add(1) } else { 0 };
        let (source, target) = (record.source.ip(), record.target.ip());
        let front = Flow {
            to_src: source.into(),
            to_dst: target.into(),
            to_sport: record.source.port().into(),
            to_dport: record.target.port().into(),
            service: record.service.0,
            backend: record.backend.0,
            ifindex: self.plan.device(source, target, dnat),
            client_isn: record.client_mark,
            backend_isn,
            state: state.number(),
            flags: flags | FLOW_CLIENT,
            mss: outlet.map_or(0, |outlet| outlet.entry.mss),
            opened,
            seen: opened,
            seq: record.client_mark.wrapping_add(1),
            ack: after(backend_isn),
            ..Flow::default()
        };
        let back = Flow {
            to_src: front_key.dst,
            to_dst: front_key.src,
            to_sport: front_key.dport,
            to_dport: front_key.sport,
            ifindex: self.plan.device_of(key.service.ip()),
            flags,
            seq: after(backend_isn),
            ack: after(record.client_mark),
            ..front
        };
        let back_key = front.opposite(front_key.family);
        if (self.known.get(hash).is_some() || self.walk.adopts())
            && let Some(old) = draft.get(&front_key, maps)?
        {
            let old_key = old.opposite(front_key.family);
            let stale = old_key != back_key
                && draft
                    .get(&old_key, maps)?
                    .is_some_and(|it| belongs(&it, &front_key));
            if stale {
                draft.remove(old_key);
            }
        }
        draft.put(back_key, back);
        draft.put(front_key, front);
        self.known.put(hash, self.entry(&front, self.gate.acked()));
        Ok(())
    }

    /// Both entries of a flow, as they are to be.
    fn both(key: &FlowKey, draft: &Draft, maps: &impl Maps) -> Result<Option<Both>, NatError> {
        let Some(front) = draft.get(key, maps)? else {
            return Ok(None);
        };
        let back_key = front.opposite(key.family);
        let back = draft.get(&back_key, maps)?;
        let back = back.filter(|back| belongs(back, key));
        Ok(Some((front, back.map(|back| (back_key, back)))))
    }

    fn learn_marks(
        &mut self,
        key: &NatKey,
        (client, backend): (u32, u32),
        draft: &mut Draft,
        maps: &impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        if key.client.is_ipv4() != key.service.is_ipv4() {
            self.learner.strange += 1;
            return Ok(());
        }
        let front_key = FlowKey::new(key.client, key.service);
        let Some((mut front, back)) = Self::both(&front_key, draft, maps)? else {
            return Ok(());
        };
        let mark = |flow: &mut Flow, seq: u32, ack: u32| {
            flow.client_isn = client;
            flow.backend_isn = backend;
            if !is_answered(flow) {
                flow.state = State::Established.number();
            }
            flow.seq = seq.wrapping_add(1);
            flow.ack = ack.wrapping_add(1);
            flow.seen = now;
        };
        mark(&mut front, client, backend);
        if let Some((back_key, mut back)) = back {
            mark(&mut back, backend, client);
            draft.put(back_key, back);
        }
        draft.put(front_key, front);
        let hash = self.known.hash(&front_key);
        self.known.change(hash, |it| it.answered = true);
        Ok(())
    }

    fn learn_close(
        &mut self,
        key: &NatKey,
        draft: &mut Draft,
        maps: &impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        if key.client.is_ipv4() != key.service.is_ipv4() {
            self.learner.strange += 1;
            return Ok(());
        }
        let front_key = FlowKey::new(key.client, key.service);
        let Some((mut front, back)) = Self::both(&front_key, draft, maps)? else {
            return Ok(());
        };
        (front.state, front.seen) = (State::Closed.number(), now);
        if let Some((back_key, mut back)) = back {
            (back.state, back.seen) = (front.state, now);
            draft.put(back_key, back);
        }
        draft.put(front_key, front);
        let hash = self.known.hash(&front_key);
        self.known.change(hash, |it| it.closed = true);
        Ok(())
    }

    /// A snapshot begins.
    pub(super) fn snapshot_begin(&mut self) {
        self.learner.begun = self.learner.begun.wrapping_add(1);
        self.learner.round = self.learner.begun;
        (self.learner.reading, self.learner.torn) = (true, true);
        self.walk.stop_sweep();
    }

    /// A snapshot is whole: what it did not have goes.
    pub(super) fn snapshot_end(&mut self, now: u64) {
        if std::mem::take(&mut self.learner.reading) {
            self.learner.whole = self.learner.round;
            self.learner.torn = false;
            self.walk.start_sweep(now);
        }
    }

    /// A snapshot came to nothing.
    pub(super) const fn snapshot_void(&mut self) {
        self.learner.reading = false;
    }
}
