//! What the program told before this node led: as standby it serves what its master hands over, and
//! the master's death becomes known a moment later.
//!
//! Meanwhile the table may have changed, by the master's word too, so the events only say where to
//! look.

use std::collections::VecDeque;

use super::super::layout::FlowKey;
use super::super::maps::Maps;
use super::super::names::{EventKind, State};
use super::super::program::NatError;
use super::super::tables::Told;
use super::Engine;
use crate::wire::replication::Item;

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
}

impl Engine {
    /// Connections of the peer's last process, unless something else has their places.
    pub(super) fn take_over(
        &mut self,
        items: &[Item],
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        let mut fresh = Vec::new();
        for item in items {
            let Item::NatOpen { key, record } = item else {
                continue;
            };
            let front = FlowKey::new(key.client, key.service);
            let back = FlowKey::new(record.target, record.source);
            if maps.flow(&front)?.is_none() && maps.flow(&back)?.is_none() {
                fresh.push(item.clone());
            }
        }
        self.learn(&fresh, maps, now)
    }

    /// This node leads now.
    pub(super) fn catch_up(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        for told in std::mem::take(&mut self.early.waiting) {
            let event = match &told {
                Told::Carried(carried) => &carried.event,
                Told::Event(event) => event,
            };
            let key = event.key;
            let Some(flow) = maps.flow(&key)? else {
                continue;
            };
            // It may go to another backend yet.
            let begins = flow.state == State::Opening.number()
                && self.known.print(&flow) == self.known.print(&event.flow);
            match (EventKind::from_number(event.kind), told) {
                (Some(EventKind::Opened), Told::Carried(carried)) if begins => {
                    self.on_opened(carried, now);
                }
                (Some(EventKind::Refused), Told::Event(event)) if begins => {
                    self.on_refused(&event, maps, now)?;
                }
                _ => self.found(&key, &flow, now),
            }
        }
        Ok(())
    }
}
