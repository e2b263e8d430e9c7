//! SYNs that can still go to another backend: as long as a backend has not answered, its refusal
//! or silence is hidden from the client.

use std::collections::BTreeMap;

use super::super::layout::{Carried, Event, FLOW_DNAT, Flow, FlowKey, Port};
use super::super::maps::Maps;
use super::super::names::{Cause, State};
use super::super::packet;
use super::super::program::NatError;
use super::Engine;
use super::known::ByHash;
use super::learn::{belongs, endpoint};
use crate::balance::flow::FlowEnd;
use crate::balance::nat::NatEvent;
use crate::model::{BackendId, ConnectFailure};

/// SYNs that are kept, at most.
const MOST: usize = 65_536;
/// Ports that are tried at one backend, as the program does.
const PORTS: usize = 16;
/// How often a SYN goes to one backend that remembers an older connection.
const STALE: u8 = 3;
/// What a backend sent just now is not further ahead of what its client has than this.
const BEHIND: u32 = 1 << 24;
/// Timers that are looked at in one call.
const BUDGET: usize = 256;

/// A client's SYN, and where it is now.
#[derive(Debug)]
struct Saved {
    /// Its flow is the client's entry as it was written last.
    carried: Box<Carried>,
    timer: (u64, u64),
    /// Places of backends that failed.
    failed: Vec<usize>,
    stale: u8,
    /// It went to the only backend once more.
    repeated: bool,
}

impl Saved {
    /// From the IP header on, as the client sent it.
    fn syn(&self) -> &[u8] {
        let length = self.carried.length as usize;
        self.carried.packet.get(..length).unwrap_or_default()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) most: usize,
    saved: ByHash<Saved>,
    /// When each goes on, and the number of the timer.
    timers: BTreeMap<(u64, u64), u64>,
    next: u64,
    /// SYNs that there was no room for.
    pub(super) forgotten: u64,
}

/// Why a backend is given up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Why {
    Failed(ConnectFailure),
    /// It remembers an older connection of our port.
    Stale,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            most: MOST,
            saved: ByHash::default(),
            timers: BTreeMap::new(),
            next: 0,
            forgotten: 0,
        }
    }
}

impl Retry {
    fn put(&mut self, hash: u64, at: u64, mut saved: Saved) {
        self.take(hash);
        if self.saved.len() >= self.most
            && let Some((_, oldest)) = self.timers.pop_first()
        {
            self.saved.remove(&oldest);
            self.forgotten += 1;
        }
        saved.timer = (at, self.next);
        self.next += 1;
        self.timers.insert(saved.timer, hash);
        self.saved.insert(hash, saved);
    }

    fn take(&mut self, hash: u64) -> Option<Saved> {
        let saved = self.saved.remove(&hash)?;
        self.timers.remove(&saved.timer);
        Some(saved)
    }

    /// Keeps a SYN.
    pub(super) fn save(&mut self, hash: u64, carried: Box<Carried>, at: u64) {
        let saved = Saved {
            carried,
            timer: (0, 0),
            failed: Vec::new(),
            stale: 0,
            repeated: false,
        };
        self.put(hash, at, saved);
    }

    /// It is answered, or gone.
    pub(super) fn forget(&mut self, hash: u64) {
        self.take(hash);
    }

    pub(super) fn clear(&mut self) {
        self.saved.clear();
        self.timers.clear();
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }
}

impl Engine {
    /// A backend refused a SYN, and the client has not been told.
    pub(super) fn on_refused(
        &mut self,
        event: &Event,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        let hash = self.known.hash(&event.key);
        let Some(saved) = self.retry.take(hash) else {
            return if event.cause == Cause::StaleAck.number() {
                self.answered_elsewhere(event, hash, maps)
            } else {
                self.start_over(event, hash, maps)
            };
        };
        if self.known.print(&saved.carried.event.flow) != self.known.print(&event.flow) {
            // The refusal is older than the last try.
            self.retry.put(hash, saved.timer.0, saved);
            return Ok(());
        }
        let why = if event.cause == Cause::StaleAck.number() {
            Why::Stale
        } else {
            Why::Failed(ConnectFailure::Refused)
        };
        self.again(hash, saved, why, maps, now)
    }

    /// There is no SYN to send again (it was not kept, or came to the other node). The client's
    /// next one begins anew, at another backend.
    fn start_over(
        &mut self,
        event: &Event,
        hash: u64,
        maps: &mut impl Maps,
    ) -> Result<(), NatError> {
        match maps.flow(&event.key)? {
            Some(flow) if self.is_opening(&flow, &event.flow) => {}
            _ => return Ok(()),
        }
        self.failed(event.flow.backend, ConnectFailure::Refused);
        let back_key = event.flow.opposite(event.key.family);
        maps.remove_flows(&[event.key, back_key])?;
        self.ended(&event.key, hash, FlowEnd::BackendError);
        self.known.remove(hash);
        Ok(())
    }

    /// A backend speaks of a connection that this node did not see answered. Its SYN-ACK went
    /// through the old master, which died before it told; the client may have it and must not lose
    /// the connection. If the backend remembers an older one instead, the client's RST clears it.
    fn answered_elsewhere(
        &mut self,
        event: &Event,
        hash: u64,
        maps: &mut impl Maps,
    ) -> Result<(), NatError> {
        let key = event.key;
        let front = maps.flow(&key)?;
        let Some(front) = front.filter(|flow| self.is_opening(flow, &event.flow)) else {
            return Ok(());
        };
        let back_key = front.opposite(key.family);
        let Some(back) = maps.flow(&back_key)?.filter(|it| belongs(it, &key)) else {
            return Ok(());
        };
        // Left of whatever the client still expects.
        let backend_isn = back.seq.wrapping_sub(BEHIND);
        let answered = |flow| Flow {
            state: State::Established.number(),
            backend_isn,
            ..flow
        };
        let front = Flow {
            ack: backend_isn.wrapping_add(1),
            ..answered(front)
        };
        maps.put_flows(&[(back_key, answered(back)), (key, front)])?;
        self.report_marks(&key, &front, true);
        self.known.change(hash, |it| it.answered = true);
        Ok(())
    }

    fn is_opening(&self, flow: &Flow, like: &Flow) -> bool {
        flow.state == State::Opening.number() && self.known.print(flow) == self.known.print(like)
    }

    fn failed(&mut self, backend: u32, failure: ConnectFailure) {
        let backend = BackendId(backend);
        self.reports
            .push(NatEvent::ConnectFailed { backend, failure });
    }

    /// Backends that have been silent for too long.
    pub(super) fn retry_silent(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        for _ in 0..BUDGET {
            let Some(hash) = self.retry.timers.first_entry() else {
                break;
            };
            if hash.key().0 > now {
                break;
            }
            let hash = *hash.get();
            if let Some(saved) = self.retry.take(hash) {
                let why = Why::Failed(ConnectFailure::Timeout);
                self.again(hash, saved, why, maps, now)?;
            }
        }
        Ok(())
    }

    fn again(
        &mut self,
        hash: u64,
        mut saved: Saved,
        why: Why,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        let (key, old) = (saved.carried.event.key, saved.carried.event.flow);
        // The answer may be on its way to us.
        match maps.flow(&key)? {
            Some(flow) if self.is_opening(&flow, &old) => {}
            _ => return Ok(()),
        }
        let place = self.plan.backend_with(old.backend);
        if let Why::Failed(failure) = why {
            self.failed(old.backend, failure);
        } else if old.flags & FLOW_DNAT == 0 && saved.stale < STALE {
            saved.stale += 1;
            let outlet = self.plan.outlet_at(endpoint(&key));
            let same = outlet.and_then(|it| it.pool.iter().find(|(at, _)| Some(*at) == place));
            if let Some((_, index)) = same.copied()
                && self.move_to(index, hash, &mut saved, maps, now)?
            {
                self.keep(hash, saved, now);
                return Ok(());
            }
        }
        saved.failed.extend(place);
        while let Some((place, index)) = self.next_backend(&key, &saved.failed) {
            if self.move_to(index, hash, &mut saved, maps, now)? {
                saved.stale = 0;
                self.keep(hash, saved, now);
                return Ok(());
            }
            saved.failed.push(place);
        }
        // One lost SYN is no reason to refuse: the only backend gets it once more.
        let alone = saved.failed.len() <= 1 && why == Why::Failed(ConnectFailure::Timeout);
        if alone && !std::mem::replace(&mut saved.repeated, true) {
            saved.failed.clear();
            self.packets.extend(packet::translate(saved.syn(), &old));
            self.keep(hash, saved, now);
            return Ok(());
        }
        self.give_up(&key, &saved.carried.event.flow, hash, maps)
    }

    fn keep(&mut self, hash: u64, saved: Saved, now: u64) {
        let service = saved.carried.event.flow.service;
        let wait = self.plan.service_with(service).map_or(0, |it| it.connect);
        self.retry.put(hash, now.saturating_add(wait), saved);
    }

    /// Sends the SYN to this backend. Whether it went.
    fn move_to(
        &mut self,
        index: u32,
        hash: u64,
        saved: &mut Saved,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<bool, NatError> {
        let (key, old) = (saved.carried.event.key, saved.carried.event.flow);
        let old_back_key = old.opposite(key.family);
        let Some(old_back) = maps.flow(&old_back_key)? else {
            return Ok(false);
        };
        let backend = self.plan.array[index as usize];
        let dnat = old.flags & FLOW_DNAT != 0;
        let mut front = Flow {
            to_src: if dnat { key.src } else { backend.source },
            to_dst: backend.address,
            to_dport: backend.port,
            backend: backend.id,
            ifindex: backend.ifindex,
            seen: now,
            ..old
        };
        let back = Flow {
            backend: backend.id,
            seen: now,
            ..old_back
        };
        let Some(back_key) = self.take_port(&mut front, key.family, &back, maps)? else {
            return Ok(false);
        };
        maps.put_flows(&[(key, front)])?;
        // Did the old backend answer just now? Then it has the connection.
        if let Some(raced) = maps.flow(&old_back_key)?
            && raced.state != State::Opening.number()
        {
            let front = Flow {
                state: raced.state,
                marks: raced.marks,
                backend_isn: raced.backend_isn,
                ..old
            };
            maps.put_flows(&[(key, front)])?;
            maps.remove_flows(&[back_key])?;
            return Ok(true);
        }
        maps.remove_flows(&[old_back_key])?;
        saved.carried.event.flow = front;
        self.packets.extend(packet::translate(saved.syn(), &front));
        self.counts.retries += 1;
        self.report_opened(&key, &front, hash, now);
        Ok(true)
    }

    /// Makes the backend's entry, with a port of ours that makes its key new.
    fn take_port(
        &mut self,
        front: &mut Flow,
        family: u32,
        back: &Flow,
        maps: &mut impl Maps,
    ) -> Result<Option<FlowKey>, NatError> {
        // A table without room is like one without a port.
        let mut add = |key: &FlowKey| match maps.add_flow(key, back) {
            Err(NatError::Full { .. }) => Ok(false),
            added => added,
        };
        if front.flags & FLOW_DNAT != 0 {
            let key = front.opposite(family);
            return Ok(add(&key)?.then_some(key));
        }
        let settings = self.plan.settings;
        for _ in 0..PORTS {
            let port = self.rng.u16(settings.own_first..=settings.own_last);
            front.to_sport = Port::from(port);
            let key = front.opposite(family);
            if add(&key)? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// No backend took it.
    fn give_up(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        hash: u64,
        maps: &mut impl Maps,
    ) -> Result<(), NatError> {
        maps.remove_flows(&[*key, flow.opposite(key.family)])?;
        let ack = flow.client_isn.wrapping_add(1);
        let reset = packet::reset(key.to(), key.from(), 0, Some(ack));
        self.packets.push_back(reset);
        self.counts.resets += 1;
        self.counts.unserved += 1;
        self.ended(key, hash, FlowEnd::BackendError);
        self.known.remove(hash);
        if let Some(service) = self.plan.service_with(flow.service) {
            let service = service.id;
            self.reports.push(NatEvent::Unserved { service });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod tests;
