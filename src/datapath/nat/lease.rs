//! The lease: until when this node forwards.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData, MapError};

use super::error::NatError;
use super::layout::Right;
use super::tables::map_error;

/// The right to forward. It is a value of its own, since the thread that decides about mastership
/// renews it, and another one owns the tables.
pub struct Lease {
    map: Array<MapData, Right>,
    /// As it was written last.
    right: Right,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

impl Lease {
    /// A handle of the lease in this map.
    pub(super) fn of(map: &MapData) -> Result<Self, NatError> {
        let failed = |reason: String| NatError::Other {
            what: "open the lease",
            reason,
        };
        let fd = map.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| failed(error.to_string()))?;
        let map = MapData::from_fd(fd).and_then(|map| Map::from_map_data(map)?.try_into());
        let map: Array<_, Right> = map.map_err(|error: MapError| failed(error.to_string()))?;
        let right = map.get(&0, 0).map_err(map_error("read the lease"))?;
        Ok(Self { map, right })
    }

    /// Freezes it until then, if one was given and not taken back. What a process that is dead could
    /// accept or hand over ends with it.
    pub(super) fn hold(&mut self, until: u64) -> Result<(), NatError> {
        (self.right.accept, self.right.second) = (0, 0);
        match self.until()? {
            0 => self.lapse(),
            _ => self.freeze(until),
        }
    }

    /// This node may forward until then: `CLOCK_MONOTONIC`, nanoseconds. The program's clock lags
    /// by up to a jiffy (10 ms at most), so it stops that much later. One call of bpf(2), which
    /// does not wait.
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    pub fn renew(&mut self, until: u64) -> Result<(), NatError> {
        (self.right.until, self.right.frozen) = (until, 0);
        self.write()
    }

    /// Until then this node may forward the flows that are there, and decide nothing: none begins,
    /// none is replaced, nobody is refused.
    pub fn freeze(&mut self, until: u64) -> Result<(), NatError> {
        (self.right.until, self.right.frozen) = (until, 1);
        self.write()
    }

    /// This node may not forward any more: what belongs to a service or to a flow is dropped.
    pub fn lapse(&mut self) -> Result<(), NatError> {
        self.renew(0)
    }

    /// As standby of a master: until then, what the peer hands over is served here.
    pub fn accept(&mut self, until: u64) -> Result<(), NatError> {
        self.right.accept = until;
        self.write()
    }

    /// As master: until then, a packet of a connection that nobody here knows goes to the peer.
    pub fn second_chance(&mut self, until: u64) -> Result<(), NatError> {
        self.right.second = until;
        self.write()
    }

    fn write(&mut self) -> Result<(), NatError> {
        let set = self.map.set(0, self.right, 0);
        set.map_err(map_error("renew the lease"))
    }

    /// Until when.
    pub fn until(&self) -> Result<u64, NatError> {
        let right = self.map.get(&0, 0).map_err(map_error("read the lease"))?;
        Ok(right.until)
    }
}
