//! How long a backend takes to answer, for the schedulers that ask (`balance::gauge`).
//!
//! A connection has a watch until the first byte of its answer; then it looks at the clock twice.

use std::time::Duration;

use super::flows::Flow;
use super::pump::Ending;
use super::shared::Shared;
use crate::balance::flow::FlowEnd;
use crate::balance::{Gauge, Load};

/// Waits for the first byte of one answer.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    gauge: &'a Gauge,
    shared: &'a Shared,
    /// What counts for a failure.
    limit: Duration,
    /// What the connect took.
    connect: Duration,
    /// When the backend took the connect, or later the client's first byte.
    since: Duration,
    asked: bool,
}

impl<'a> Watch<'a> {
    /// None if nobody wants to know. `limit`: what counts for a failure.
    pub(super) fn new(
        load: &'a Load,
        shared: &'a Shared,
        limit: Duration,
        connect: Duration,
    ) -> Option<Box<Self>> {
        let gauge = load.target().gauge()?;
        let now = shared.now();
        gauge.connected(connect, now);
        Some(Box::new(Self {
            gauge,
            shared,
            limit,
            connect,
            since: now,
            asked: false,
        }))
    }

    /// Looks at what has moved; true when there is nothing more to wait for.
    pub(super) fn look(&mut self, flow: &Flow) -> bool {
        if !self.asked && flow.up.get() > 0 {
            self.asked = true;
            self.since = self.shared.now();
            self.gauge.asked();
        }
        if flow.down.get() == 0 {
            return false;
        }
        let now = self.shared.now();
        let took = self.connect + now.saturating_sub(self.since);
        if self.asked {
            self.gauge.answered(took, now);
        } else {
            self.gauge.sample(took, now);
        }
        true
    }

    /// The connection ended without an answer.
    pub(super) fn end(self, ending: Ending) {
        let now = self.shared.now();
        if self.asked {
            let waited = now.saturating_sub(self.since);
            self.gauge.gave_up(self.connect + waited, now);
        }
        if ending.end == FlowEnd::BackendError {
            self.gauge.failed(self.limit, now);
        }
    }
}
