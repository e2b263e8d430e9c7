//! Where the ends of connections are, as the standby was told: numbers that each end has had long
//! ago, for the probes after a takeover. They are told anew as the ends move on.

use std::collections::BTreeMap;

use super::super::layout::{Flow, FlowKey};
use super::super::maps::Maps;
use super::super::names::State;
use super::super::program::NatError;
use super::Engine;
use super::learn::belongs;

/// Marks are refreshed when an end has moved on by so much: a quarter of how far back they may be.
pub(super) const STEP: u32 = 1 << 29;
/// Marks are also refreshed, of so many connections in one walk, when an end has moved on by so
/// much: whose marks are fresh is busy, and is asked first after a takeover.
pub(super) const BUSY_STEP: u32 = 1 << 16;
pub(super) const BUSY_MOST: u32 = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Those that were reported and are not those in the table.
    told: BTreeMap<FlowKey, (u32, u32)>,
    /// How many were refreshed in this walk.
    refreshed: u32,
}

impl Marks {
    /// A walk begins.
    pub(super) const fn begin(&mut self) {
        self.refreshed = 0;
    }

    pub(super) fn forget(&mut self, key: &FlowKey) {
        // Almost always empty: only connections that moved much are there.
        if !self.told.is_empty() {
            self.told.remove(key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.told.clear();
    }
}

impl Engine {
    /// Where the ends of a flow were at least, as was reported last.
    pub(super) fn marks_of(&self, key: &FlowKey, flow: &Flow) -> (u32, u32) {
        let told = self.marks.told.get(key).copied();
        told.unwrap_or((flow.client_isn, flow.backend_isn))
    }

    /// Reports marks anew when an end has moved on far.
    ///
    /// A mark is one less than what the other end acknowledged: what its owner has sent last may
    /// not have arrived, and a probe must never lie where something is still expected.
    pub(super) fn refresh_marks(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        maps: &impl Maps,
    ) -> Result<(), NatError> {
        // From here on each end has acknowledged something; before, an entry says zero.
        let shaken = [State::Established, State::Closing].map(State::number);
        if !self.leading || !shaken.contains(&flow.state) {
            return Ok(());
        }
        let (client, backend) = self.marks_of(key, flow);
        let up = flow.seq.wrapping_sub(client);
        let down = flow.ack.wrapping_sub(backend);
        let moved = up.max(down);
        let is_due = moved > STEP || moved > BUSY_STEP && self.marks.refreshed < BUSY_MOST;
        if !is_due {
            return Ok(());
        }
        self.marks.refreshed += 1;
        let back = maps.flow(&flow.opposite(key.family))?;
        let Some(back) = back.filter(|back| belongs(back, key)) else {
            return Ok(());
        };
        let marks = (back.ack.wrapping_sub(1), flow.ack.wrapping_sub(1));
        if marks != (client, backend) {
            self.marks.told.insert(*key, marks);
            self.report_marks(key, flow, false);
        }
        Ok(())
    }
}
