//! What the engine needs of the kernel's maps, so that it runs on anything that is like them:
//! [`Tables`] in the kernel, [`Reference`] in tests and in a simulation.

use std::ops::Bound;

use super::layout::{Backend, Endpoint, Flow, FlowKey, Owned, Service, Settings};
use super::names::Counter;
use super::program::NatError;
use super::reference::Reference;
use super::tables::Tables;

/// Where a walk over the flows is. Only of use to the maps that gave it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cursor {
    /// Behind this key.
    After(FlowKey),
    /// At this place of the kernel's table.
    Place(u32),
}

/// Entries of a walk, and where it goes on; none: that was all.
pub type Batch = (Vec<(FlowKey, Flow)>, Option<Cursor>);

/// The maps. Every error is what the kernel said, except that removing what is absent is none.
pub trait Maps {
    /// One direction of a flow.
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, NatError>;
    /// Writes entries, in this order, over what is there.
    /// With an error some may have been written.
    fn put_flows(&mut self, entries: &[(FlowKey, Flow)]) -> Result<(), NatError>;
    /// Writes an entry unless there is one. Whether it was written.
    fn add_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, NatError>;
    /// Removes entries.
    /// With an error some may have been removed.
    fn remove_flows(&mut self, keys: &[FlowKey]) -> Result<(), NatError>;
    /// The next entries of a walk over all of them, about `most`; none begins. It may miss or
    /// repeat what comes or goes meanwhile.
    fn walk_flows(&self, cursor: Option<Cursor>, most: usize) -> Result<Batch, NatError>;
    /// Which ports belong to flows.
    fn set_settings(&mut self, settings: Settings) -> Result<(), NatError>;
    /// Adds or changes a service, in one step.
    fn set_service(&mut self, at: Endpoint, service: Service) -> Result<(), NatError>;
    /// Adds or changes an address of ours.
    fn set_address(&mut self, at: Endpoint, owned: Owned) -> Result<(), NatError>;
    /// Writes indices of backends into slots from `first` on; not in one step.
    fn set_slots(&mut self, first: u32, backends: &[u32]) -> Result<(), NatError>;
    /// Writes a backend that no slot names.
    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), NatError>;
    /// How many ports towards this backend were tried.
    fn ports_tried(&self, index: u32) -> Result<u64, NatError>;
    /// Sets what [`ports_tried`](Self::ports_tried) gives.
    fn set_ports_tried(&mut self, index: u32, tried: u64) -> Result<(), NatError>;
    /// How many flows a service's rotation has placed.
    fn turns(&self, turn: u32) -> Result<u64, NatError>;
    /// Sets what [`turns`](Self::turns) gives.
    fn set_turns(&mut self, turn: u32, turns: u64) -> Result<(), NatError>;
    /// What was counted, over all CPUs.
    fn counter(&self, counter: Counter) -> Result<u64, NatError>;
}

impl Maps for Tables {
    fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, NatError> {
        self.flow(key)
    }

    fn put_flows(&mut self, entries: &[(FlowKey, Flow)]) -> Result<(), NatError> {
        self.put_flows(entries)
    }

    fn add_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, NatError> {
        self.add_flow(key, flow)
    }

    fn remove_flows(&mut self, keys: &[FlowKey]) -> Result<(), NatError> {
        self.remove_flows(keys)
    }

    fn walk_flows(&self, cursor: Option<Cursor>, most: usize) -> Result<Batch, NatError> {
        let place = match cursor {
            Some(Cursor::Place(place)) => Some(place),
            _ => None,
        };
        let (entries, next) = self.walk_flows(place, most)?;
        Ok((entries, next.map(Cursor::Place)))
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), NatError> {
        self.set_settings(settings)
    }

    fn set_service(&mut self, at: Endpoint, service: Service) -> Result<(), NatError> {
        self.set_service(at, service)
    }

    fn set_address(&mut self, at: Endpoint, owned: Owned) -> Result<(), NatError> {
        self.set_address(at, owned)
    }

    fn set_slots(&mut self, first: u32, backends: &[u32]) -> Result<(), NatError> {
        self.set_slots(first, backends)
    }

    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), NatError> {
        self.set_backend(index, backend)
    }

    fn ports_tried(&self, index: u32) -> Result<u64, NatError> {
        self.ports_tried(index)
    }

    fn set_ports_tried(&mut self, index: u32, tried: u64) -> Result<(), NatError> {
        self.set_ports_tried(index, tried)
    }

    fn turns(&self, turn: u32) -> Result<u64, NatError> {
        self.turns(turn)
    }

    fn set_turns(&mut self, turn: u32, turns: u64) -> Result<(), NatError> {
        self.set_turns(turn, turns)
    }

    fn counter(&self, counter: Counter) -> Result<u64, NatError> {
        self.counter(counter)
    }
}

/// Writes to a place of an array that grows as needed.
fn put<T: Clone + Default>(array: &mut Vec<T>, index: u32, value: T) {
    let index = index as usize;
    if array.len() <= index {
        array.resize(index + 1, T::default());
    }
    array[index] = value;
}

/// Its arrays grow with what is written to them. A capacity of zero holds nothing.
impl Maps for Reference {
    fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, NatError> {
        Ok(self.flows.get(key).copied())
    }

    fn put_flows(&mut self, entries: &[(FlowKey, Flow)]) -> Result<(), NatError> {
        for (key, flow) in entries {
            if self.flows.len() >= self.capacity && !self.flows.contains_key(key) {
                return Err(NatError::Full {
                    what: "write a flow",
                });
            }
            self.flows.insert(*key, *flow);
        }
        Ok(())
    }

    fn add_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, NatError> {
        if self.flows.contains_key(key) {
            return Ok(false);
        }
        self.put_flows(&[(*key, *flow)]).map(|()| true)
    }

    fn remove_flows(&mut self, keys: &[FlowKey]) -> Result<(), NatError> {
        for key in keys {
            self.flows.remove(key);
        }
        Ok(())
    }

    fn walk_flows(&self, cursor: Option<Cursor>, most: usize) -> Result<Batch, NatError> {
        let from = match cursor {
            Some(Cursor::After(key)) => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let range = self.flows.range((from, Bound::Unbounded));
        let entries: Vec<_> = range.take(most).map(|(key, flow)| (*key, *flow)).collect();
        let last = entries.last().filter(|_| entries.len() == most);
        let next = last.map(|(key, _)| Cursor::After(*key));
        Ok((entries, next))
    }

    fn set_settings(&mut self, settings: Settings) -> Result<(), NatError> {
        self.settings = settings;
        Ok(())
    }

    fn set_service(&mut self, at: Endpoint, service: Service) -> Result<(), NatError> {
        self.services.insert(at, service);
        // The kernel's counters are there from the beginning: a standby that accepts uses them.
        let turns = self.turns.len().max(service.turn as usize + 1);
        self.turns.resize(turns, 0);
        Ok(())
    }

    fn set_address(&mut self, at: Endpoint, owned: Owned) -> Result<(), NatError> {
        self.addresses.insert(at, owned);
        Ok(())
    }

    fn set_slots(&mut self, first: u32, backends: &[u32]) -> Result<(), NatError> {
        for (slot, backend) in (first..).zip(backends) {
            put(&mut self.slots, slot, *backend);
        }
        Ok(())
    }

    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), NatError> {
        put(&mut self.backends, index, backend);
        let ports = self.ports.len().max(index as usize + 1);
        self.ports.resize(ports, 0);
        Ok(())
    }

    fn ports_tried(&self, index: u32) -> Result<u64, NatError> {
        Ok(self.ports.get(index as usize).copied().unwrap_or(0))
    }

    fn set_ports_tried(&mut self, index: u32, tried: u64) -> Result<(), NatError> {
        put(&mut self.ports, index, tried);
        Ok(())
    }

    fn turns(&self, turn: u32) -> Result<u64, NatError> {
        Ok(self.turns.get(turn as usize).copied().unwrap_or(0))
    }

    fn set_turns(&mut self, turn: u32, turns: u64) -> Result<(), NatError> {
        put(&mut self.turns, turn, turns);
        Ok(())
    }

    fn counter(&self, counter: Counter) -> Result<u64, NatError> {
        Ok(self.counters.get(&counter).copied().unwrap_or(0))
    }
}
