//! What the program told before this node led: as standby it serves what its master hands over, and
//! the master's death becomes known a moment later.
//!
//! The first of it may be as old as the process before, and what the master told has come since.

use std::collections::VecDeque;

use super::super::maps::Maps;
use super::super::names::EventKind;
use super::super::program::NatError;
use super::super::tables::Told;
use super::Engine;
use super::learn::is_closed;

/// Half a second of 10,000 connections a second.
const MOST: usize = 5_000;

/// Events that are waiting for the mastership.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: VecDeque<Told>,
}

impl Early {
    /// False: there is no room, so that the table must be read whole.
    pub(super) fn keep(&mut self, told: Told) -> bool {
        let room = self.waiting.len() < MOST;
        if room {
            self.waiting.push_back(told);
        }
        room
    }

    /// All of them, in order.
    pub(super) fn take(&mut self) -> VecDeque<Told> {
        std::mem::take(&mut self.waiting)
    }
}

impl Engine {
    /// Whether this is the end of a connection that the master told of afterwards, or of one before
    /// it on the same ports.
    pub(super) fn is_overtaken(&self, told: &Told, maps: &impl Maps) -> Result<bool, NatError> {
        let Told::Event(event) = told else {
            return Ok(false);
        };
        let known = self.known.get(self.known.hash(&event.key));
        let ended = EventKind::from_number(event.kind) == Some(EventKind::Closed);
        let Some(known) = known.filter(|_| ended) else {
            return Ok(false);
        };
        let print = self.known.print(&event.flow);
        if known.print != print {
            return Ok(true);
        }
        let there = maps.flow(&event.key)?;
        Ok(there.is_some_and(|flow| self.known.print(&flow) == print && !is_closed(&flow)))
    }
}
