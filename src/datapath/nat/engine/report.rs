//! What is to be reported, in reports of bounded size, each with its ticket.

use std::collections::VecDeque;
use std::mem;

use crate::balance::nat::{NatEvent, NatReport};

/// Events in one report at most: the node takes one in a turn, and 2 us for each.
const MOST: usize = 1_024;

/// So many full reports are many: what can wait is not added to them.
const MANY: usize = 8;

/// Reports that wait for the caller.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Of the last report that was given away.
    given: u64,
    full: VecDeque<Vec<NatEvent>>,
    current: Vec<NatEvent>,
    /// The last one is to say that the gate is closed.
    pause: bool,
}

impl Reports {
    /// Adds an event. The ticket of the report that it will be in.
    pub(super) fn push(&mut self, event: NatEvent) -> u64 {
        if self.current.len() == MOST {
            self.full.push_back(mem::take(&mut self.current));
        }
        self.current.push(event);
        self.last()
    }

    /// The ticket of the report that the next event goes into, if it is not full.
    pub(super) fn last(&self) -> u64 {
        self.given + self.full.len() as u64 + 1
    }

    /// The caller is behind.
    pub(super) fn are_many(&self) -> bool {
        self.full.len() >= MANY
    }

    /// The ticket with these last 32 bits.
    pub(super) fn whole(&self, low: u32) -> u64 {
        let last = self.last();
        last.saturating_sub(u64::from((last as u32).wrapping_sub(low)))
    }

    /// Whether the next report of all that happened so far says that the gate is closed.
    pub(super) const fn pause(&mut self, pause: bool) {
        self.pause = pause;
    }

    pub(super) fn take(&mut self) -> Option<NatReport> {
        let (events, paused) = match self.full.pop_front() {
            Some(events) => (events, false),
            None if self.current.is_empty() && !self.pause => return None,
            None => (mem::take(&mut self.current), mem::take(&mut self.pause)),
        };
        self.given += 1;
        Some(NatReport {
            ticket: self.given,
            events,
            paused,
        })
    }

    /// Nobody is to hear of what happened so far.
    pub(super) fn clear(&mut self) {
        self.full.clear();
        self.current.clear();
        self.pause = false;
    }
}
