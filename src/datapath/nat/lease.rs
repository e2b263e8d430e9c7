//! The lease: until when this node forwards.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData, MapError};

use super::error::NatError;
use super::layout::{FROZEN_ALL, FROZEN_OFFERED, Right};
use super::tables::map_error;
use crate::balance::nat::leases::Rights;

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
        let led = self.until()? > 0;
        self.set(Rights {
            until: if led { until } else { 0 },
            waits: if led { until } else { 0 },
            frozen: led,
            ..Rights::default()
        })
    }

    /// This is what the node may do. The program's clock lags by up to a jiffy (10 ms at most), so
    /// it stops that much later. One call of bpf(2), which does not wait; none if nothing changes.
    ///
    /// # Errors
    ///
    /// What the kernel said; then it is as before.
    pub fn set(&mut self, rights: Rights) -> Result<(), NatError> {
        let Rights {
            until,
            waits,
            frozen,
            offered,
            accept,
            second,
        } = rights;
        let right = Right {
            until,
            waits,
            frozen: match (frozen, offered) {
                (_, true) => FROZEN_OFFERED,
                (true, false) => FROZEN_ALL,
                (false, false) => 0,
            },
            accept,
            second,
        };
        if right != self.right {
            let set = self.map.set(0, right, 0);
            set.map_err(map_error("renew the lease"))?;
            self.right = right;
        }
        Ok(())
    }

    /// Until then it may forward and decide, and nothing else.
    ///
    /// # Errors
    ///
    /// As those of [`Lease::set`].
    pub fn renew(&mut self, until: u64) -> Result<(), NatError> {
        self.set(Rights {
            until,
            waits: until,
            ..Rights::default()
        })
    }

    /// Until when.
    ///
    /// # Errors
    ///
    /// As those of [`Lease::set`].
    pub fn until(&self) -> Result<u64, NatError> {
        let right = self.map.get(&0, 0).map_err(map_error("read the lease"))?;
        Ok(right.until)
    }
}
