//! Writes to the table of flows that go together.

use std::collections::BTreeMap;

use super::super::layout::{FLOW_CLIENT, Flow, FlowKey};
use super::super::maps::Maps;
use super::super::program::NatError;

/// Writes that are kept back until a whole list has been read, so that they go in few batches.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// What is to be there; none: nothing.
    entries: BTreeMap<FlowKey, Option<Flow>>,
}

impl Draft {
    pub(super) fn get(&self, key: &FlowKey, maps: &impl Maps) -> Result<Option<Flow>, NatError> {
        self.entries
            .get(key)
            .map_or_else(|| maps.flow(key), |flow| Ok(*flow))
    }

    pub(super) fn put(&mut self, key: FlowKey, flow: Flow) {
        self.entries.insert(key, Some(flow));
    }

    pub(super) fn remove(&mut self, key: FlowKey) {
        self.entries.insert(key, None);
    }

    /// Backends' entries go first, so that no packet finds half a flow. The clients' keys that
    /// there was no room for.
    pub(super) fn write(self, maps: &mut impl Maps) -> Result<Vec<FlowKey>, NatError> {
        let mut removed = Vec::new();
        let (mut fronts, mut backs) = (Vec::new(), Vec::new());
        for (key, flow) in self.entries {
            match flow {
                None => removed.push(key),
                Some(flow) if flow.flags & FLOW_CLIENT != 0 => fronts.push((key, flow)),
                Some(flow) => backs.push((key, flow)),
            }
        }
        maps.remove_flows(&removed)?;
        write_what_fits(&backs, maps)?;
        let mut lost = Vec::new();
        for (key, flow) in write_what_fits(&fronts, maps)? {
            maps.remove_flows(&[flow.opposite(key.family)])?;
            lost.push(key);
        }
        Ok(lost)
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
