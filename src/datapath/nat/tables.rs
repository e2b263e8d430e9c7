//! The program's maps, each with the operations that user space needs.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::sys::SyscallError;

use super::batch::Batches;
use super::error::NatError;
use super::layout::{
    Backend, Carried, Endpoint, Event, Flow, FlowKey, Neighbour, Owned, Refusal, Service, Settings,
    Stale, record,
};
use super::names::Counter;

const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

/// What the program said of a flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// It began, or its SYN-ACK waits: with the packet.
    Carried(Box<Carried>),
    /// Anything else.
    Event(Event),
}

/// Entries of a walk, and the place where it goes on.
pub type Walked = (Vec<(FlowKey, Flow)>, Option<u32>);

/// All maps but the lease, and those that are the program's own.
pub struct Tables {
    flows: HashMap<MapData, FlowKey, Flow>,
    batches: Batches<FlowKey, Flow>,
    services: HashMap<MapData, Endpoint, Service>,
    addresses: HashMap<MapData, Endpoint, Owned>,
    slots: Array<MapData, u32>,
    backends: Array<MapData, Backend>,
    ports: Array<MapData, u64>,
    turns: Array<MapData, u64>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    refusals: RingBuf<MapData>,
    neighbours: HashMap<MapData, u32, Neighbour>,
    stales: RingBuf<MapData>,
    /// Where something was written since the program was loaded.
    written: BTreeSet<Endpoint>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, NatError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| NatError::Other {
        what: "read the program's object",
        reason: format!("it has no map {name}"),
    })?;
    map.try_into().map_err(|error: MapError| NatError::Other {
        what: "open a table",
        reason: format!("{name}: {error}"),
    })
}

fn batches(ebpf: &Ebpf) -> Result<Batches<FlowKey, Flow>, NatError> {
    let refused = |reason: String| NatError::Other {
        what: "open a table",
        reason: format!("flows: {reason}"),
    };
    match ebpf.map("flows") {
        Some(Map::HashMap(flows)) => Batches::of(flows).map_err(|error| refused(error.to_string())),
        _ => Err(refused("it is no hash map".into())),
    }
}

fn batch_error(what: &'static str, call: &'static str, io_error: io::Error) -> NatError {
    map_error(what)(SyscallError { call, io_error }.into())
}

pub(super) fn map_error(what: &'static str) -> impl FnOnce(MapError) -> NatError {
    move |source| match &source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
            NatError::Full { what }
        }
        _ => NatError::Map { what, source },
    }
}

/// Whether the kernel said that there is no such key.
fn absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn lookup<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    key: &K,
    what: &'static str,
) -> Result<Option<V>, NatError> {
    match map.get(key, ANY) {
        Ok(value) => Ok(Some(value)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(map_error(what)(error)),
    }
}

fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: &K,
    what: &'static str,
) -> Result<bool, NatError> {
    match map.remove(key) {
        Ok(()) => Ok(true),
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(map_error(what)(error)),
    }
}

impl Tables {
    /// All maps but the lease, which is another's to write.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, NatError> {
        Ok(Self {
            batches: batches(ebpf)?,
            flows: take(ebpf, "flows")?,
            services: take(ebpf, "services")?,
            addresses: take(ebpf, "addresses")?,
            slots: take(ebpf, "slots")?,
            backends: take(ebpf, "backends")?,
            ports: take(ebpf, "ports")?,
            turns: take(ebpf, "turns")?,
            settings: take(ebpf, "settings")?,
            counters: take(ebpf, "counters")?,
            events: take(ebpf, "events")?,
            refusals: take(ebpf, "refusals")?,
            neighbours: take(ebpf, "neighbours")?,
            stales: take(ebpf, "stales")?,
            written: BTreeSet::new(),
        })
    }

    /// Which ports belong to flows.
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), NatError> {
        let set = self.settings.set(0, settings, ANY);
        set.map_err(map_error("write the settings"))
    }

    /// Adds or changes a service, in one step.
    pub fn set_service(&mut self, at: Endpoint, service: Service) -> Result<(), NatError> {
        self.written.insert(at);
        let set = self.services.insert(at, service, ANY);
        set.map_err(map_error("write a service"))
    }

    /// Whether it was there.
    pub fn remove_service(&mut self, at: Endpoint) -> Result<bool, NatError> {
        remove(&mut self.services, &at, "remove a service")
    }

    /// Adds or changes an address of ours.
    pub fn set_address(&mut self, at: Endpoint, owned: Owned) -> Result<(), NatError> {
        self.written.insert(at);
        let set = self.addresses.insert(at, owned, ANY);
        set.map_err(map_error("write an address"))
    }

    /// Whether it was there.
    pub fn remove_address(&mut self, at: Endpoint) -> Result<bool, NatError> {
        remove(&mut self.addresses, &at, "remove an address")
    }

    /// Removes the services and addresses that were not written since the program was loaded: in
    /// tables that a former life left, those that the configuration has lost. How many.
    pub fn remove_unwritten(&mut self) -> Result<usize, NatError> {
        let keys = self.services.keys().collect::<Result<Vec<_>, _>>();
        let services = keys.map_err(map_error("read the services"))?;
        let keys = self.addresses.keys().collect::<Result<Vec<_>, _>>();
        let addresses = keys.map_err(map_error("read the addresses"))?;
        let stale = |at: &Endpoint| !self.written.contains(at);
        let services: Vec<_> = services.into_iter().filter(stale).collect();
        let addresses: Vec<_> = addresses.into_iter().filter(stale).collect();
        for at in &services {
            self.remove_service(*at)?;
        }
        for at in &addresses {
            self.remove_address(*at)?;
        }
        Ok(services.len() + addresses.len())
    }

    /// Where the two nodes are on this interface; none: no peer is known there.
    pub fn set_neighbour(
        &mut self,
        ifindex: u32,
        neighbour: Option<Neighbour>,
    ) -> Result<(), NatError> {
        let what = "write where the peer is";
        match neighbour {
            Some(at) => {
                let set = self.neighbours.insert(ifindex, at, ANY);
                set.map_err(map_error(what))
            }
            None => remove(&mut self.neighbours, &ifindex, what).map(drop),
        }
    }

    /// Writes indices of backends into slots from `first` on. Not in one step: write where no
    /// service reads yet.
    pub fn set_slots(&mut self, first: u32, backends: &[u32]) -> Result<(), NatError> {
        for (slot, backend) in (first..).zip(backends) {
            let set = self.slots.set(slot, *backend, ANY);
            set.map_err(map_error("write a slot"))?;
        }
        Ok(())
    }

    /// Writes a backend that no slot names.
    pub fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), NatError> {
        let set = self.backends.set(index, backend, ANY);
        set.map_err(map_error("write a backend"))
    }

    /// How many ports towards this backend were tried: the next is this one modulo the range.
    pub fn ports_tried(&self, index: u32) -> Result<u64, NatError> {
        let get = self.ports.get(&index, ANY);
        get.map_err(map_error("read the ports"))
    }

    /// Sets what [`ports_tried`](Self::ports_tried) gives: a standby that takes over goes on
    /// where it likes.
    pub fn set_ports_tried(&mut self, index: u32, tried: u64) -> Result<(), NatError> {
        let set = self.ports.set(index, tried, ANY);
        set.map_err(map_error("write the ports"))
    }

    /// How many flows a service's round robin has placed.
    pub fn turns(&self, turn: u32) -> Result<u64, NatError> {
        let get = self.turns.get(&turn, ANY);
        get.map_err(map_error("read the turns"))
    }

    /// Sets what [`turns`](Self::turns) gives.
    pub fn set_turns(&mut self, turn: u32, turns: u64) -> Result<(), NatError> {
        let set = self.turns.set(turn, turns, ANY);
        set.map_err(map_error("write the turns"))
    }

    /// One direction of a flow.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, NatError> {
        lookup(&self.flows, key, "read a flow")
    }

    /// Writes one direction of a flow. The backend's goes first, so that no packet finds half.
    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), NatError> {
        let set = self.flows.insert(key, flow, ANY);
        set.map_err(map_error("write a flow"))
    }

    /// Like [`set_flow`](Self::set_flow), but leaves what is there. Whether it was written.
    pub fn add_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<bool, NatError> {
        match self.flows.insert(key, flow, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(false)
            }
            Err(error) => Err(map_error("add a flow")(error)),
        }
    }

    /// Whether it was there.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<bool, NatError> {
        remove(&mut self.flows, key, "remove a flow")
    }

    /// Writes many, in this order.
    pub fn put_flows(&mut self, entries: &[(FlowKey, Flow)]) -> Result<(), NatError> {
        let (keys, flows): (Vec<_>, Vec<_>) = entries.iter().copied().unzip();
        let put = self.batches.update(&keys, &flows);
        put.map_err(|error| batch_error("write flows", "bpf_map_update_batch", error))
    }

    /// Removes many; those that are not there are no error.
    pub fn remove_flows(&mut self, keys: &[FlowKey]) -> Result<(), NatError> {
        let removed = self.batches.delete(keys);
        removed.map_err(|error| batch_error("remove flows", "bpf_map_delete_batch", error))
    }

    /// The next entries of a walk over all, about so many, and where it goes on; none: it is
    /// over. What comes or goes meanwhile may or may not be met; nothing is met twice.
    pub fn walk_flows(&self, place: Option<u32>, most: usize) -> Result<Walked, NatError> {
        let step = self.batches.walk(place, most);
        step.map_err(|error| batch_error("read the flows", "bpf_map_lookup_batch", error))
    }

    /// Every entry, while traffic may go on: what comes or goes meanwhile may or may not be there.
    pub fn flows(&self) -> impl Iterator<Item = Result<(FlowKey, Flow), NatError>> + '_ {
        let entries = self.flows.iter();
        entries.map(|entry| entry.map_err(map_error("read the flows")))
    }

    /// What was counted, over all CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64, NatError> {
        let values = self.counters.get(&counter.number(), ANY);
        let values = values.map_err(map_error("read the counters"))?;
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }

    /// The next event, if there is one. What cannot wait (flows with
    /// [`FLOW_SYNC`](super::layout::FLOW_SYNC), refusals) wakes the reader, the rest does not: poll
    /// at least every millisecond under load, and rescan the flows when [`Counter::LostEvent`]
    /// moves.
    pub fn next_event(&mut self) -> Option<Told> {
        let item = self.events.next()?;
        let carried = record(&item).map(|carried| Told::Carried(Box::new(carried)));
        carried.or_else(|| record(&item).map(Told::Event))
    }

    /// Readable when the program wakes the reader of [`next_event`](Self::next_event).
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Readable while there are refusals.
    pub(super) fn refusals_fd(&self) -> BorrowedFd<'_> {
        self.refusals.as_fd()
    }

    /// The next stale neighbour.
    pub fn next_stale(&mut self) -> Option<Stale> {
        let item = self.stales.next()?;
        record(&item)
    }

    /// The next packet that deserves a RST.
    pub fn next_refusal(&mut self) -> Option<Refusal> {
        let item = self.refusals.next()?;
        record(&item)
    }
}
