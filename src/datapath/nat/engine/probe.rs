//! Stale octets after a takeover: each end of each connection is asked where it is, so that what
//! was lost on the way to the old master is sent again now and not when a timer fires.
//!
//! An octet that its receiver has had long ago lies left of its window; it answers at once with
//! the number that it expects (RFC 9293, section 3.10.7.4), and passes nothing on.

use std::collections::BinaryHeap;

use super::super::layout::{Flow, FlowKey};
use super::super::maps::Maps;
use super::super::packet;
use super::super::program::NatError;
use super::learn::{is_answered, is_closed};
use super::{Engine, Packet};

/// Connections that are probed in a millisecond.
const PER_MS: u64 = 64;
/// What is owed after a pause, at most.
const BURST: u64 = 10 * PER_MS;
const MS: u64 = 1_000_000;
/// How long the newest connection is looked for before the first is probed.
const LOOK: u64 = 50 * MS;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Prober {
    /// When each began, and its key: the newest first.
    queue: BinaryHeap<(u64, FlowKey)>,
    /// When the last were probed.
    last: u64,
    /// Until then the queue only grows.
    from: u64,
    /// The addresses are here: answers come to this node.
    ready: bool,
}

impl Prober {
    pub(super) fn begin(&mut self, now: u64) {
        self.queue.clear();
        self.last = now.saturating_sub(MS);
        self.from = now + LOOK;
        self.ready = false;
    }

    /// Answers to probes come to this node from now on.
    pub(super) const fn go(&mut self, now: u64) {
        self.ready = true;
        self.last = now.saturating_sub(MS);
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// Every connection has been found.
    pub(super) const fn found_all(&mut self) {
        self.from = 0;
    }

    pub(super) fn found(&mut self, key: FlowKey, flow: &Flow) {
        if is_answered(flow) && !is_closed(flow) {
            self.queue.push((flow.opened, key));
        }
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        (self.ready && !self.queue.is_empty()).then(|| self.from.max(self.last + MS))
    }
}

impl Engine {
    /// Probes as many as are due.
    pub(super) fn probe(&mut self, maps: &impl Maps, now: u64) -> Result<(), NatError> {
        if self.prober.timeout().is_none_or(|at| at > now) {
            return Ok(());
        }
        let due = (now - self.prober.last) / MS * PER_MS;
        self.prober.last = now;
        for _ in 0..due.min(BURST) {
            let Some((opened, key)) = self.prober.queue.pop() else {
                break;
            };
            // It may have ended, or begun anew, meanwhile.
            let flow = maps
                .flow(&key)?
                .filter(|flow| flow.opened == opened && is_answered(flow) && !is_closed(flow));
            if let Some(flow) = flow {
                let marks = self.marks_of(&key, &flow);
                self.packets.extend(probes(&key, &flow, marks));
                self.counts.probed += 1;
            }
        }
        Ok(())
    }
}

/// To the client in the backend's name, and to the backend in the client's.
fn probes(key: &FlowKey, flow: &Flow, (client, backend): (u32, u32)) -> [Packet; 2] {
    let there = flow.opposite(key.family);
    [
        packet::probe(key.to(), key.from(), backend, flow.seq),
        packet::probe(there.to(), there.from(), client, flow.ack),
    ]
}
