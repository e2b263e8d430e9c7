//! What a worker tells the node: batches of events, and what happens when nobody takes them.
//!
//! Events wait in one batch. If the channel stays full until the batch has grown to [`PENDING`],
//! the batch is thrown away: a new generation begins, which opens with `Lost` and tells every live
//! connection again, a chunk a batch. A connection is only spoken of in a generation that knows it.

use std::mem::take;

use tokio::sync::mpsc::Sender;

use super::flows::{Flow, Flows};
use crate::balance::flow::{FlowEnd, FlowEvent};

/// A batch of so many is sent at once, without waiting for the timer.
const FULL_BATCH: usize = 256;
/// Events that wait while the channel is full.
const PENDING: usize = 1_024;
/// Slots that are looked through for one batch when connections are told again.
const RETOLD: usize = 256;

/// The events of one worker on their way up.
#[derive(Debug)]
pub(super) struct Report {
    worker: u16,
    sender: Sender<Vec<FlowEvent>>,
    batch: Vec<FlowEvent>,
    /// From 1.
    generation: u32,
    /// Thrown away and not yet said.
    lost: u64,
    /// The next slot to be told again.
    retell: Option<usize>,
}

impl Report {
    pub(super) const fn new(worker: u16, sender: Sender<Vec<FlowEvent>>) -> Self {
        Self {
            worker,
            sender,
            batch: Vec::new(),
            generation: 1,
            lost: 0,
            retell: None,
        }
    }

    /// A backend took the connection.
    pub(super) fn opened(&mut self, flow: &Flow) {
        self.make_room(1);
        flow.told.set(self.generation);
        self.batch.extend(flow.opening());
    }

    /// The connection ended.
    pub(super) fn closed(&mut self, flow: &Flow, end: FlowEnd) {
        self.make_room(2);
        if flow.told.get() != self.generation {
            self.batch.extend(flow.opening());
        }
        self.batch.push(FlowEvent::Closed {
            flow: flow.id,
            up: flow.up.get(),
            down: flow.down.get(),
            end,
        });
    }

    /// Bytes moved.
    pub(super) fn progress(&mut self, flow: &Flow) {
        if flow.told.get() == self.generation {
            self.push(FlowEvent::Progress {
                flow: flow.id,
                up: flow.up.get(),
                down: flow.down.get(),
            });
        }
    }

    /// Anything that belongs to no open connection.
    pub(super) fn push(&mut self, event: FlowEvent) {
        self.make_room(1);
        self.batch.push(event);
    }

    fn make_room(&mut self, events: usize) {
        if self.batch.len() + events > PENDING {
            self.lost += self.batch.len() as u64;
            self.batch.clear();
            self.generation = self.generation.wrapping_add(1).max(1);
            self.retell = Some(0);
        }
    }

    /// The batch should not wait for the timer.
    pub(super) const fn is_full(&self) -> bool {
        self.batch.len() >= FULL_BATCH
    }

    /// There is nothing to send.
    pub(super) const fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.retell.is_none()
    }

    /// Sends what there is, if the channel has room; else it waits.
    pub(super) fn flush(&mut self, flows: &Flows) {
        if self.is_empty() {
            return;
        }
        let sender = self.sender.clone();
        let Ok(permit) = sender.try_reserve() else {
            return;
        };
        let mut batch = self.retold(flows);
        if batch.is_empty() {
            batch = take(&mut self.batch);
        } else {
            batch.append(&mut self.batch);
        }
        permit.send(batch);
    }

    fn retold(&mut self, flows: &Flows) -> Vec<FlowEvent> {
        let mut batch = Vec::new();
        let Some(from) = self.retell else {
            return batch;
        };
        if self.lost > 0 {
            batch.push(FlowEvent::Lost {
                worker: self.worker,
                count: take(&mut self.lost),
            });
        }
        for flow in flows.part(from, RETOLD) {
            if flow.told.get() != self.generation
                && let Some(opening) = flow.opening()
            {
                flow.told.set(self.generation);
                batch.push(opening);
            }
        }
        let next = from + RETOLD;
        self.retell = (next < flows.slots()).then_some(next);
        batch
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
