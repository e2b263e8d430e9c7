//! What the kernel adapter is told about floating addresses, and what it reports.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{Epoch, Mac, Neighbour, Stale, Vip};

/// A wish. Commands of an older epoch than one already seen are not carried out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum KernelCommand {
    /// Tell the neighbours, once, that these addresses live here.
    Announce {
        /// The mastership.
        epoch: Epoch,
        /// The addresses.
        vips: Arc<[Vip]>,
    },
    /// Have exactly these addresses, for one lease from now. Repeated to renew the lease.
    Hold {
        /// The mastership.
        epoch: Epoch,
        /// The addresses.
        vips: Arc<[Vip]>,
    },
    /// Have none of the addresses.
    Release {
        /// The mastership that ends.
        epoch: Epoch,
    },
    /// Tell one neighbour, once, that this address lives at the master: it still sends to this node,
    /// which is not master.
    Remind {
        /// The highest epoch that this node knows.
        epoch: Epoch,
        /// Who is to be told.
        stale: Stale,
        /// Where the address lives.
        at: Mac,
    },
}

/// What the kernel did, or what somebody else did to it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum KernelReport {
    /// The kernel refused. The adapter goes on trying as long as it is told to hold.
    Failed {
        /// The mastership.
        epoch: Epoch,
        /// What was tried, the errno, and what to do about it.
        what: String,
    },
    /// Every address of the `Hold` is there (once for each epoch, and again after a failure).
    Held {
        /// The mastership.
        epoch: Epoch,
    },
    /// An interface that carries a VIP came up or went down. Also sent for each at the start.
    Link {
        /// Its name.
        interface: String,
        /// It is up and has a carrier.
        up: bool,
    },
    /// Where this node and its peer are on an interface that carries a VIP; at the start, and whenever
    /// that changes.
    Neighbour {
        /// The interface's name.
        interface: String,
        /// Where.
        neighbour: Neighbour,
    },
    /// No address is left, or where the addresses stay on the device: this node is silent about them.
    Released {
        /// The mastership that ended.
        epoch: Epoch,
    },
    /// Somebody removed this address; it was put back.
    Restored {
        /// The address.
        vip: IpAddr,
    },
    /// Somebody else on the link claims this address while we hold it.
    Rival {
        /// The address.
        vip: IpAddr,
        /// Who.
        mac: Mac,
    },
}
