//! The lab: the whole pair on one machine.

mod backend;
mod error;
mod host;
mod load;
mod netns;
mod owners;
mod topology;

pub use backend::{Server, pattern, pattern_checksum};
pub use error::LabError;
pub use host::Host;
pub use load::{Attempt, Failure, Load, Record};
pub use netns::{Rights, enter};
pub use owners::{Family, Sighting, Sightings, Watch};
pub use topology::{BACKENDS, Lan, Network, VIP4, VIP6, backend_address, node_addresses, node_mac};
