//! What a former life of this program left in the table. It is read on the way of the first walk,
//! since a million connections take longer to read than a node should need to start, and more memory
//! to report than it should have; so for a while a key in the table may not be known yet.

use super::super::layout::{Flow, FlowKey};
use super::Engine;
use super::learn::is_closed;

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
        }
        // It is of no snapshot that is being read: unless that names it, it goes when that ends.
        let whole = self.learner.whole();
        self.known.change(hash, |it| it.round = whole);
    }
}
