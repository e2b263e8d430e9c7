//! The lease: until when this node forwards.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData, MapError};

use super::error::NatError;
use super::tables::map_error;

/// The right to forward. It is a value of its own, since the thread that decides about mastership
/// renews it, and another one owns the tables.
pub struct Lease {
    until: Array<MapData, u64>,
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
        let until = MapData::from_fd(fd).and_then(|map| Map::from_map_data(map)?.try_into());
        let until = until.map_err(|error: MapError| failed(error.to_string()))?;
        Ok(Self { until })
    }

    /// This node may forward until then: `CLOCK_MONOTONIC`, nanoseconds. The program's clock lags
    /// by up to a jiffy (10 ms at most), so it stops that much later. One call of bpf(2), which
    /// does not wait.
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    pub fn renew(&mut self, until: u64) -> Result<(), NatError> {
        let set = self.until.set(0, until, 0);
        set.map_err(map_error("renew the lease"))
    }

    /// This node may not forward any more: what belongs to a service or to a flow is dropped.
    pub fn lapse(&mut self) -> Result<(), NatError> {
        self.renew(0)
    }

    /// Until when.
    pub fn until(&self) -> Result<u64, NatError> {
        let until = self.until.get(&0, 0);
        until.map_err(map_error("read the lease"))
    }
}
