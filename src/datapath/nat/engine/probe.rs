//! Stale octets after a takeover: each end of each connection is asked where it is, so that what
//! was lost on the way to the old master is sent again now and not when a timer fires.
//!
//! An octet that its receiver has had long ago lies left of its window; it answers at once with
//! the number that it expects (RFC 9293, section 3.10.7.4), and passes nothing on. A handshake of which
//! nobody knows whether it is over may have waited in the old master: its backend is asked for its
//! answer again, by the SYN that it has had.

use std::collections::{BTreeSet, BinaryHeap};

use super::super::layout::{FLOW_SYNC, Flow, FlowKey};
use super::super::maps::Maps;
use super::super::packet;
use super::super::program::NatError;
use super::Engine;
use super::learn::{is_answered, is_closed};

/// Connections that are probed in a millisecond: a million takes 16 s, the oldest last.
const PER_MS: u64 = 64;
/// What is owed after a pause, at most.
const BURST: u64 = 10 * PER_MS;
const MS: u64 = 1_000_000;
/// How long the newest connection is looked for before the first is probed.
const LOOK: u64 = 50 * MS;

/// A handshake that began longer ago is over, or has been tried again by its client.
const HANDSHAKE: u64 = 500 * MS;

/// When a connection was heard of last, when it began, and its key: 56 bytes.
type Found = (u64, u64, FlowKey);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Prober {
    /// Those that the old master told of lately, the latest last.
    early: Vec<Found>,
    /// They and those of them that were probed.
    were_early: BTreeSet<FlowKey>,
    /// The table's others, the latest first.
    queue: BinaryHeap<Found>,
    /// When the last were probed.
    last: u64,
    /// Until then the queue only grows.
    from: u64,
    /// Since when the addresses are here and answers come to this node.
    ready: Option<u64>,
}

impl Prober {
    /// This node leads. The old master told of these not long before its end, so most of what got
    /// lost is theirs: they do not wait until the table is read.
    pub(super) fn begin(&mut self, lately: impl Iterator<Item = (FlowKey, Flow)>, now: u64) {
        self.clear();
        self.last = now.saturating_sub(MS);
        self.from = now + LOOK;
        self.ready = None;
        self.early = lately.filter_map(|(key, flow)| found(key, &flow)).collect();
        self.early.sort_unstable();
        self.were_early = self.early.iter().map(|(_, _, key)| *key).collect();
    }

    /// Answers to probes come to this node from now on.
    pub(super) const fn go(&mut self, now: u64) {
        self.ready = Some(now);
        self.last = now.saturating_sub(MS);
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            ready: self.ready,
            last: self.last,
            ..Self::default()
        };
    }

    /// The table is read from its beginning.
    pub(super) fn find_anew(&mut self) {
        self.queue = BinaryHeap::new();
    }

    /// Every connection has been found.
    pub(super) fn found_all(&mut self) {
        self.from = 0;
        self.were_early = BTreeSet::new();
    }

    pub(super) fn found(&mut self, key: FlowKey, flow: &Flow) {
        if !self.were_early.contains(&key) {
            self.queue.extend(found(key, flow));
        }
    }

    fn next(&mut self, now: u64) -> Option<Found> {
        let next = self.early.pop();
        next.or_else(|| (self.from <= now).then(|| self.queue.pop()).flatten())
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        self.ready?;
        let next = self.last + MS;
        match (self.early.is_empty(), self.queue.is_empty()) {
            (false, _) => Some(next),
            (true, false) => Some(next.max(self.from)),
            (true, true) => None,
        }
    }
}

/// Only who goes on can have lost something.
fn found(key: FlowKey, flow: &Flow) -> Option<Found> {
    (!is_closed(flow)).then_some((flow.seen, flow.opened, key))
}

/// Whether its client may still be waiting for an answer: that of its backend is known here, but not
/// whether the old master let it go.
fn begins(flow: &Flow, now: u64) -> bool {
    let held = flow.flags & FLOW_SYNC != 0 && flow.packets == 0;
    (held || !is_answered(flow)) && now < flow.opened.saturating_add(HANDSHAKE)
}

impl Engine {
    /// Probes as many as are due. An end that has spoken to this node already needs no probe: what
    /// it said has told the other end what was lost.
    pub(super) fn probe(&mut self, maps: &impl Maps, now: u64) -> Result<(), NatError> {
        let (Some(ready), Some(at)) = (self.prober.ready, self.prober.timeout()) else {
            return Ok(());
        };
        if at > now {
            return Ok(());
        }
        let due = (now - self.prober.last) / MS * PER_MS;
        self.prober.last = now;
        for _ in 0..due.min(BURST) {
            let Some((_, opened, key)) = self.prober.next(now) else {
                break;
            };
            // It may have ended, or begun anew, meanwhile.
            let flow = maps
                .flow(&key)?
                .filter(|flow| flow.opened == opened && !is_closed(flow));
            let Some(flow) = flow else { continue };
            let there = flow.opposite(key.family);
            if begins(&flow, now) {
                let syn = packet::syn(there.to(), there.from(), flow.client_isn);
                self.packets.push_back(syn);
            }
            if !is_answered(&flow) {
                continue;
            }
            let (client, backend) = self.marks_of(&key, &flow);
            let client_spoke = flow.seen > ready;
            let backend_spoke = maps.flow(&there)?.is_some_and(|back| back.seen > ready);
            // What the other end acknowledged when the marks were told. An end that has not heard
            // from the other since then takes a probe's acknowledgement for the other's: more than
            // that would make it forget what got lost.
            let (to_client, to_backend) = (client.wrapping_add(1), backend.wrapping_add(1));
            if !client_spoke {
                let probe = packet::probe(key.to(), key.from(), backend, to_client);
                self.packets.push_back(probe);
            }
            if !backend_spoke {
                let probe = packet::probe(there.to(), there.from(), client, to_backend);
                self.packets.push_back(probe);
            }
            self.counts.probed += u64::from(!(client_spoke && backend_spoke));
        }
        if self.prober.queue.is_empty() {
            // Its memory, too.
            self.prober.queue = BinaryHeap::new();
        }
        Ok(())
    }
}
