//! What the program saw, one thing at a time.

use super::super::layout::{Carried, Event, FLOW_RETRY, Flow, FlowKey, Refusal};
use super::super::maps::Maps;
use super::super::names::{Cause, Counter, EventKind};
use super::super::packet;
use super::super::program::NatError;
use super::learn::{endpoint, nat_key};
use super::{Engine, MS};
use crate::balance::flow::FlowEnd;
use crate::balance::nat::NatEvent;

/// After a takeover no stray packet is refused for so long: its connection may still be on its way
/// here.
pub(super) const GRACE: u64 = 1_000 * MS;
/// Answers to refused packets: this many at once, and in a second.
pub(super) const RESETS: u64 = 1_000;

impl Engine {
    /// Whether an event of a flow's life came when the table had forgotten it already: then nobody
    /// would forget it again. After a flood events may be read late.
    pub(super) fn is_gone(
        &self,
        event: &Event,
        maps: &impl Maps,
        now: u64,
    ) -> Result<bool, NatError> {
        let least = self.times.opening.min(self.times.closing);
        let least = least.min(self.times.closed);
        let late = now >= event.flow.seen.saturating_add(least);
        let known = || self.known.get(self.known.hash(&event.key)).is_some();
        let doubtful = match EventKind::from_number(event.kind) {
            Some(EventKind::Opened) => late,
            Some(EventKind::Established | EventKind::Revived) => late || !known(),
            Some(EventKind::Closed | EventKind::Refused) | None => false,
        };
        if !doubtful {
            return Ok(false);
        }
        let print = self.known.print(&event.flow);
        let there = maps.flow(&event.key)?;
        Ok(there.is_none_or(|flow| self.known.print(&flow) != print))
    }

    pub(super) fn on_opened(&mut self, carried: Box<Carried>, now: u64) {
        let Event { key, flow, .. } = carried.event;
        let hash = self.known.hash(&key);
        self.gate.forget(hash);
        self.marks.forget(&key);
        let print = self.known.print(&flow);
        let known = self.known.get(hash);
        // A walk may have found it before its event came.
        if !known.is_some_and(|it| it.print == print && !it.closed) {
            self.report_opened(&key, &flow, hash, now);
        }
        if flow.flags & FLOW_RETRY != 0 {
            let wait = self
                .plan
                .service_with(flow.service)
                .map_or(0, |it| it.connect);
            self.retry.save(hash, carried, now.saturating_add(wait));
        }
    }

    /// A backend answered; `held`: with the SYN-ACK that waits for us.
    pub(super) fn on_answered(&mut self, event: &Event, held: Option<Box<Carried>>, now: u64) {
        let Event { key, flow, .. } = event;
        let hash = self.known.hash(key);
        let print = self.known.print(flow);
        self.retry.forget(hash);
        let known = self.known.get(hash).copied();
        let (again, ticket) = match known {
            Some(it) if it.closed => return,
            Some(it) if it.print == print => {
                self.report_marks(key, flow, !it.answered);
                self.known.change(hash, |it| it.answered = true);
                (it.answered, self.reports.whole(it.ticket))
            }
            // The event of its beginning was lost.
            _ => (false, self.report_opened(key, flow, hash, now)),
        };
        if let Some(held) = held
            && let Some(free) = self.gate.admit(hash, ticket, again, held, now)
        {
            self.answer(&free);
        }
    }

    /// Sends a SYN-ACK on to its client.
    pub(super) fn answer(&mut self, carried: &Carried) {
        let Event { key, flow, .. } = &carried.event;
        let back = Flow {
            to_src: key.dst,
            to_dst: key.src,
            to_sport: key.dport,
            to_dport: key.sport,
            mss: flow.mss,
            ..Flow::default()
        };
        let bytes = carried.packet.get(..carried.length as usize);
        let packet = packet::translate(bytes.unwrap_or_default(), &back);
        self.packets.extend(packet);
    }

    pub(super) fn on_closed(&mut self, event: &Event) {
        let hash = self.known.hash(&event.key);
        let end = match Cause::from_number(event.cause) {
            Some(Cause::ClientRst | Cause::Replaced) => FlowEnd::ClientError,
            Some(Cause::BackendRst | Cause::StaleAck) => FlowEnd::BackendError,
            Some(Cause::Fin | Cause::None) | None => FlowEnd::Complete,
        };
        self.ended(&event.key, hash, end);
        if event.cause == Cause::Replaced.number() {
            self.known.remove(hash);
        }
    }

    pub(super) fn on_revived(&mut self, event: &Event, now: u64) {
        let hash = self.known.hash(&event.key);
        if self.known.get(hash).is_none_or(|it| it.closed) {
            self.report_opened(&event.key, &event.flow, hash, now);
        }
    }

    /// A flow ended: reports it, once, and lets go of what waits for it.
    pub(super) fn ended(&mut self, key: &FlowKey, hash: u64, end: FlowEnd) {
        self.gate.forget(hash);
        self.retry.forget(hash);
        self.marks.forget(key);
        if self.known.get(hash).is_some_and(|it| !it.closed) {
            self.known.change(hash, |it| it.closed = true);
            let key = nat_key(key);
            self.reports.push(NatEvent::Closed { key, end });
        }
    }

    /// A flow is not in the table any more.
    pub(super) fn forget(&mut self, key: &FlowKey, hash: u64) {
        self.gate.forget(hash);
        self.retry.forget(hash);
        self.marks.forget(key);
        self.known.remove(hash);
    }

    /// The program refused a packet.
    pub fn refused(&mut self, refusal: &Refusal, now: u64) {
        self.now = now;
        if !self.leading {
            return;
        }
        let key = &refusal.key;
        let no_backend = u32::from(refusal.reason) == Counter::NoBackend.number();
        if no_backend && let Some(outlet) = self.plan.outlet_at(endpoint(key)) {
            let service = self.plan.services[outlet.service].id;
            self.reports.push(NatEvent::Unserved { service });
            self.counts.unserved += 1;
        }
        // A client that begins is of no connection that could still come.
        let early = !no_backend && now < self.led_at + GRACE;
        if early || !self.may_reset(now) {
            return;
        }
        self.packets.push_back(packet::refusal(refusal));
        self.counts.resets += 1;
    }

    fn may_reset(&mut self, now: u64) -> bool {
        let (left, at) = &mut self.allowance;
        // A thousand in a second: a millionth in a nanosecond is 1,000 / 1,000.
        *left = left
            .saturating_add(now.saturating_sub(*at))
            .min(RESETS * MS);
        *at = now;
        let may = *left >= MS;
        *left -= if may { MS } else { 0 };
        may
    }
}
