//! Walks over the whole table, in batches: what has been silent for too long goes, marks are
//! refreshed, and whatever else concerns every connection is done on the way.
//!
//! One walk serves all purposes. While nothing is urgent it is slow, so that it costs little.

use std::collections::{BTreeMap, BTreeSet};

use super::super::layout::{FLOW_CLIENT, Flow, FlowKey, MARK_BACKEND_RST, MARK_CLIENT_RST};
use super::super::maps::{Cursor, Maps};
use super::super::names::{Counter, State};
use super::super::packet;
use super::super::program::NatError;
use super::Engine;
use super::learn::{belongs, is_answered, is_closed};
use crate::balance::flow::FlowEnd;
use crate::model::BackendId;

const MS: u64 = 1_000_000;
/// Entries that are read in one call.
pub(super) const BATCH: usize = 4_096;
/// Between two batches of a walk that is not urgent: 400,000 entries a second.
const PACE: u64 = 10 * MS;
/// Entries that are removed by one call. Few: a client may begin anew between our last look and
/// the call.
const TOGETHER: usize = 16;
/// From the beginning of one walk to that of the next, at least.
const ROUND: u64 = 1_000 * MS;
/// Between two looks at the count of lost events.
const LOOK: u64 = 50 * MS;
/// A standby keeps ended connections so many times longer: it may take over, and does not know what
/// their ends have still to say.
const STANDBY_PATIENCE: u64 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Walk {
    cursor: Option<Cursor>,
    active: bool,
    /// When the next batch is due.
    next: u64,
    began: u64,
    /// Take up what a former life left.
    adopt: bool,
    /// Report what is not known.
    rescan: bool,
    /// Again, from the start, once this walk is over.
    rescan_again: bool,
    /// A snapshot ended then: remove what it did not have.
    sweep: Option<u64>,
    /// Find what is to be probed.
    gather: bool,
    /// End the connections of these backends.
    purge: BTreeSet<BackendId>,
    /// Found to be silent for too long, and still in the table.
    expired: Vec<FlowKey>,
    lost: u64,
    look_at: u64,
    /// Connections by state, so far and in the last whole walk.
    counting: BTreeMap<u8, u64>,
    pub(super) states: BTreeMap<u8, u64>,
    /// Walks because of lost events.
    pub(super) rescans: u64,
}

impl Walk {
    fn restart(&mut self, now: u64) {
        self.cursor = None;
        self.active = true;
        self.counting.clear();
        (self.began, self.next) = (now, now);
    }

    fn is_urgent(&self) -> bool {
        self.adopts_or_rescans() || self.gather || self.sweep.is_some() || !self.purge.is_empty()
    }

    /// It may report every connection.
    const fn adopts_or_rescans(&self) -> bool {
        self.adopt || self.rescan
    }

    pub(super) fn start_adopt(&mut self, now: u64) {
        self.adopt = true;
        self.restart(now);
    }

    /// A key in the table may not be known.
    pub(super) const fn adopts(&self) -> bool {
        self.adopt
    }

    pub(super) fn start_sweep(&mut self, now: u64) {
        self.sweep = Some(now);
        self.restart(now);
    }

    pub(super) const fn stop_sweep(&mut self) {
        self.sweep = None;
    }

    pub(super) fn start_gather(&mut self, now: u64) {
        self.gather = true;
        self.restart(now);
    }

    pub(super) fn start_purge(&mut self, backends: impl IntoIterator<Item = BackendId>, now: u64) {
        self.purge.extend(backends);
        self.restart(now);
    }

    /// Events were lost.
    pub(super) fn start_rescan(&mut self, now: u64) {
        self.rescans += 1;
        // One that never ends helps nobody.
        if self.rescan {
            self.rescan_again = true;
        } else {
            self.rescan = true;
            self.restart(now);
        }
    }

    /// This node's part is over.
    pub(super) fn give_up(&mut self) {
        (self.rescan, self.rescan_again, self.gather) = (false, false, false);
        self.purge.clear();
    }

    pub(super) fn timeout(&self, leading: bool) -> u64 {
        if leading {
            self.next.min(self.look_at)
        } else {
            self.next
        }
    }
}

impl Engine {
    /// Looks whether events were lost.
    pub(super) fn look_for_loss(&mut self, maps: &impl Maps, now: u64) -> Result<(), NatError> {
        if now < self.walk.look_at {
            return Ok(());
        }
        self.walk.look_at = now + LOOK;
        let lost = maps.counter(Counter::LostEvent)?;
        if lost != self.walk.lost {
            self.walk.lost = lost;
            self.walk.start_rescan(now);
        }
        Ok(())
    }

    /// Events that were lost so far are of no interest.
    pub(super) fn skip_losses(&mut self, maps: &impl Maps) -> Result<(), NatError> {
        self.walk.lost = maps.counter(Counter::LostEvent)?;
        Ok(())
    }

    /// The next batch of a walk, if one is due.
    pub(super) fn walk(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        if now < self.walk.next {
            return Ok(());
        }
        if self.walk.adopts_or_rescans() && self.reports.are_many() {
            self.walk.next = now + MS;
            return Ok(());
        }
        if !self.walk.active {
            self.walk.restart(now);
        }
        if self.walk.cursor.is_none() {
            self.marks.begin();
        }
        if self.walk.gather && self.walk.cursor.is_none() {
            // A walk that begins again would find some twice.
            self.prober.find_anew();
        }
        // Left there by a walk that failed: by now they may have begun anew.
        self.walk.expired.clear();
        let (entries, next) = maps.walk_flows(self.walk.cursor, BATCH)?;
        for (key, flow) in &entries {
            if flow.flags & FLOW_CLIENT != 0 {
                *self.walk.counting.entry(flow.state).or_default() += 1;
                self.visit(key, flow, maps, now)?;
            } else if self.leading {
                self.visit_back(key, flow, maps, now)?;
            }
        }
        self.remove_expired(maps)?;
        self.walk.cursor = next;
        if next.is_none() {
            self.end_walk(now);
        } else if !self.walk.is_urgent() {
            self.walk.next = now + PACE;
        }
        Ok(())
    }

    fn end_walk(&mut self, now: u64) {
        self.walk.active = false;
        self.walk.states = std::mem::take(&mut self.walk.counting);
        self.walk.next = now.max(self.walk.began + ROUND);
        self.walk.sweep = None;
        self.walk.purge.clear();
        self.walk.adopt = false;
        if std::mem::take(&mut self.walk.gather) {
            self.prober.found_all();
        }
        if self.walk.rescan {
            self.learner.told_all();
        }
        self.walk.rescan = std::mem::take(&mut self.walk.rescan_again);
        if self.walk.rescan {
            self.walk.restart(now);
        }
    }

    fn visit(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        if let Some(ended) = self.walk.sweep {
            let hash = self.known.hash(key);
            let round = self.known.get(hash).map(|it| it.round);
            // What the program began since then is no remnant, though nobody has told of it yet.
            let fresh = self.leading && flow.opened >= ended;
            if round != Some(self.learner.round) && !fresh {
                self.remove(key, flow, maps)?;
                self.forget(key, hash);
                return Ok(());
            }
        }
        if self.walk.adopt {
            self.adopt(key, flow, now);
        }
        if self.leading {
            if self.walk.purge.contains(&BackendId(flow.backend))
                && is_answered(flow)
                && !is_closed(flow)
            {
                return self.reset_both(key, flow, maps);
            }
            if self.walk.rescan {
                self.found(key, flow, now);
            }
            if self.walk.gather && flow.opened <= self.led_at {
                self.prober.found(*key, flow);
            }
        }
        if self.expire(key, flow, maps, now)? {
            return Ok(());
        }
        self.refresh_marks(key, flow, maps)
    }

    /// How long a flow may be silent.
    fn patience(&self, flow: &Flow) -> u64 {
        match State::from_number(flow.state) {
            // A standby has not heard the ends.
            Some(State::Closed) if !self.leading => self.times.closed * STANDBY_PATIENCE,
            Some(State::Closed) => self.times.closed,
            Some(State::Closing) => self.times.closing,
            Some(State::Established) => {
                let service = self.plan.service_with(flow.service);
                service.map_or(self.times.closing, |service| service.idle)
            }
            Some(State::Opening | State::Answered) | None => self.times.opening,
        }
    }

    /// How long an ended flow may be silent. As long as an end has not been told that its last octet
    /// arrived, it sends that again, after ever longer pauses.
    fn farewell(&self, flow: &Flow, back: Option<&Flow>) -> u64 {
        let reset = flow.marks & (MARK_CLIENT_RST | MARK_BACKEND_RST) != 0;
        let told = |back: &Flow| flow.ack == back.seq && back.ack == flow.seq;
        if reset || back.is_none_or(told) {
            self.times.closed
        } else {
            self.times.closing.max(self.times.closed)
        }
    }

    fn seen(&self, flow: &Flow) -> u64 {
        // Before that its packets were seen by the other node.
        if self.leading {
            flow.seen.max(self.led_at)
        } else {
            flow.seen
        }
    }

    /// Removes a flow that has been silent for too long. Whether it did.
    fn expire(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<bool, NatError> {
        if !self.leading && !is_closed(flow) {
            return Ok(false);
        }
        let mut patience = self.patience(flow);
        if now < self.seen(flow).saturating_add(patience) {
            return Ok(false);
        }
        let back_key = flow.opposite(key.family);
        let back = maps.flow(&back_key)?;
        let back = back.filter(|back| belongs(back, key));
        if self.leading && is_closed(flow) {
            patience = self.farewell(flow, back.as_ref());
            if now < self.seen(flow).saturating_add(patience) {
                return Ok(false);
            }
        }
        if back.is_some_and(|back| now < self.seen(&back).saturating_add(patience)) {
            return Ok(false);
        }
        // The walk read it a while ago: it may have spoken, or begun anew. A standby's table
        // changes by its own hand only.
        let same = |now: &Flow| now.seen == flow.seen && now.state == flow.state;
        if self.leading && !maps.flow(key)?.is_some_and(|now| same(&now)) {
            return Ok(false);
        }
        self.walk.expired.push(*key);
        self.walk.expired.extend(back.map(|_| back_key));
        if self.walk.expired.len() >= TOGETHER {
            self.remove_expired(maps)?;
        }
        let hash = self.known.hash(key);
        if self.leading {
            let end = if is_closed(flow) {
                FlowEnd::Complete
            } else {
                FlowEnd::Idle
            };
            self.ended(key, hash, end);
        }
        self.forget(key, hash);
        Ok(true)
    }

    fn remove_expired(&mut self, maps: &mut impl Maps) -> Result<(), NatError> {
        let expired = std::mem::take(&mut self.walk.expired);
        self.learner.forget(&expired);
        maps.remove_flows(&expired)
    }

    /// Removes both entries; the backend's only if it is this client's.
    fn remove(&mut self, key: &FlowKey, flow: &Flow, maps: &mut impl Maps) -> Result<(), NatError> {
        let back_key = flow.opposite(key.family);
        let own = maps.flow(&back_key)?.is_some_and(|it| belongs(&it, key));
        let keys = [*key, back_key];
        self.learner.forget(&keys);
        maps.remove_flows(if own { &keys } else { &keys[..1] })
    }

    /// A backend's entry whose client's is gone: a life of this program ended in between.
    fn visit_back(
        &self,
        key: &FlowKey,
        flow: &Flow,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        if now < self.seen(flow).saturating_add(self.times.longest) {
            return Ok(());
        }
        let front = maps.flow(&flow.opposite(key.family))?;
        if front.is_some_and(|front| belongs(&front, key)) {
            return Ok(());
        }
        maps.remove_flows(&[*key])
    }

    /// Ends a flow at both ends.
    fn reset_both(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        maps: &mut impl Maps,
    ) -> Result<(), NatError> {
        let back_key = flow.opposite(key.family);
        let back = maps.flow(&back_key)?;
        self.remove(key, flow, maps)?;
        // What an end acknowledged last is what it expects next (RFC 5961, section 3.2).
        let to_client = packet::reset(key.to(), key.from(), flow.ack, None);
        self.packets.push_back(to_client);
        if let Some(back) = back.filter(|back| belongs(back, key)) {
            let to_backend = packet::reset(back_key.to(), back_key.from(), back.ack, None);
            self.packets.push_back(to_backend);
            self.counts.resets += 1;
        }
        self.counts.resets += 1;
        let hash = self.known.hash(key);
        self.ended(key, hash, FlowEnd::BackendError);
        self.forget(key, hash);
        Ok(())
    }
}
