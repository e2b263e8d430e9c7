//! Writes to the table of flows that go together.

use std::collections::BTreeMap;

use super::super::layout::{FLOW_CLIENT, Flow, FlowKey};
use super::super::maps::Maps;
use super::super::program::NatError;

/// Entries in a generation of what was written lately.
const GENERATION: usize = 4_096;

/// Writes that are kept back until a whole list has been read, so that they go in few batches; and
/// what was written lately, so that it need not be read: most connections are told of three times
/// within a second. For a table that nobody else changes.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// What is to be there; none: nothing.
    entries: BTreeMap<FlowKey, Option<Flow>>,
    /// What is there. The older ones are let go together.
    recent: [BTreeMap<FlowKey, Flow>; 2],
}

impl Draft {
    pub(super) fn get(&self, key: &FlowKey, maps: &impl Maps) -> Result<Option<Flow>, NatError> {
        if let Some(flow) = self.entries.get(key) {
            return Ok(*flow);
        }
        let mut recent = self.recent.iter().filter_map(|flows| flows.get(key));
        recent
            .next()
            .map_or_else(|| maps.flow(key), |flow| Ok(Some(*flow)))
    }

    pub(super) fn put(&mut self, key: FlowKey, flow: Flow) {
        self.entries.insert(key, Some(flow));
    }

    pub(super) fn remove(&mut self, key: FlowKey) {
        self.entries.insert(key, None);
    }

    /// The clients' entries that were written lately.
    pub(super) fn recent(&self) -> impl Iterator<Item = (FlowKey, Flow)> {
        let all = self.recent.iter().flatten();
        let fronts = all.filter(|(_, flow)| flow.flags & FLOW_CLIENT != 0);
        fronts.map(|(key, flow)| (*key, *flow))
    }

    /// It is not in the table any more.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        for flows in &mut self.recent {
            flows.remove(key);
        }
    }

    /// Backends' entries go first, so that no packet finds half a flow. The clients' keys that
    /// there was no room for.
    pub(super) fn write(&mut self, maps: &mut impl Maps) -> Result<Vec<FlowKey>, NatError> {
        let mut removed = Vec::new();
        let (mut fronts, mut backs) = (Vec::new(), Vec::new());
        for (key, flow) in std::mem::take(&mut self.entries) {
            self.forget(&key);
            match flow {
                None => removed.push(key),
                Some(flow) if flow.flags & FLOW_CLIENT != 0 => fronts.push((key, flow)),
                Some(flow) => backs.push((key, flow)),
            }
        }
        maps.remove_flows(&removed)?;
        let mut homeless = write_what_fits(&backs, maps)?;
        let mut lost = Vec::new();
        for (key, flow) in write_what_fits(&fronts, maps)? {
            let back_key = flow.opposite(key.family);
            maps.remove_flows(&[back_key])?;
            homeless.extend([(key, flow), (back_key, flow)]);
            lost.push(key);
        }
        self.remember(backs.into_iter().chain(fronts));
        for (key, _) in homeless {
            self.forget(&key);
        }
        Ok(lost)
    }

    fn remember(&mut self, written: impl Iterator<Item = (FlowKey, Flow)>) {
        if self.recent[0].len() >= GENERATION {
            self.recent.swap(0, 1);
            self.recent[0].clear();
        }
        self.recent[0].extend(written);
    }
}

/// Writes entries; those that there was no room for.
fn write_what_fits(
    entries: &[(FlowKey, Flow)],
    maps: &mut impl Maps,
) -> Result<Vec<(FlowKey, Flow)>, NatError> {
    match maps.put_flows(entries) {
        Err(NatError::Full { .. }) => {}
        written => return written.map(|()| Vec::new()),
    }
    let mut lost = Vec::new();
    for entry in entries {
        match maps.put_flows(&[*entry]) {
            Err(NatError::Full { .. }) => lost.push(*entry),
            written => written?,
        }
    }
    Ok(lost)
}
