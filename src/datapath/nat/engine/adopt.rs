//! What a former life of this program left in the table. It is read on the way of the first walk,
//! since a million connections take longer to read than a node should need to start, and more memory
//! to report than it should have; so for a while a key in the table may not be known yet.

use super::super::layout::{Flow, FlowKey};
use super::learn::{is_answered, is_closed, nat_key};
use super::{Engine, MS};
use crate::balance::nat::NatEvent;

/// A connection that began so long before the death of its process, or later, may not have been told.
const UNTOLD: u64 = 2_000 * MS;

impl Engine {
    /// Reports what the table has that is not known. What a snapshot brought is known already.
    pub(super) fn adopt(&mut self, key: &FlowKey, flow: &Flow, now: u64) {
        let hash = self.known.hash(key);
        if self.known.get(hash).is_some() {
            return;
        }
        if is_closed(flow) {
            self.known.put(hash, self.entry(flow, 0));
        } else {
            self.report_opened(key, flow, hash, now);
            self.report_inherited(key, flow, now);
        }
        // It is of no snapshot that is being read: unless that names it, it goes when that ends.
        let whole = self.learner.whole();
        self.known.change(hash, |it| it.round = whole);
    }

    /// The table was a process's that led, and is dead; its lease was renewed last at this time.
    pub fn inherit(&mut self, died: u64) {
        self.died = Some(died);
    }

    fn report_inherited(&mut self, key: &FlowKey, flow: &Flow, now: u64) {
        let late = |died: u64| flow.opened.saturating_add(UNTOLD) >= died;
        if self.died.is_some_and(late) && is_answered(flow) {
            self.reports.push(NatEvent::Inherited {
                key: nat_key(key),
                record: self.record(key, flow),
                age_ms: now.saturating_sub(flow.opened) / MS,
            });
        }
    }
}
