//! What sources outside of the configuration's file (DNS, a watched file) found.

use std::net::SocketAddr;

use crate::model::ServiceId;

/// A backend that a source found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// Derived from its address, so that both nodes give it one name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, 1 to 256.
    pub weight: u16,
}

/// The whole set of one source as of now: what is not in it is gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// The service.
    pub service: ServiceId,
    /// The name of its pool.
    pub pool: String,
    /// What status says of where they come from: `dns web.example:80`.
    pub source: String,
    /// All of them.
    pub members: Vec<Member>,
}
