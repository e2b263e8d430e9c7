//! What the program told before this node led: as standby it serves what its master hands over, and
//! the master's death becomes known a moment later.

use std::collections::VecDeque;

use super::super::tables::Told;

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
