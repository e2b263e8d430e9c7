//! Discovery: which backends a pool has, by what names and files say.
//!
//! Owns: when a name is asked next and what its answers mean ([`Resolution`]), which of the found
//! addresses become backends under which names ([`Source`]), and the shape of a backends file
//! ([`list`]). Never: asks or reads anything (`finder` does), knows what a backend is doing.
//! Invariant: no answer, however it came, ends connections: what is gone is drained by the node.

pub mod list;
mod resolution;
mod resolvers;
mod servers;
mod source;

pub use resolution::{Answer, EMPTY_ANSWERS, EMPTY_FOR, NONE, Resolution, Standing, Timing};
pub use resolvers::resolvers;
pub use servers::{first_servers, members_of};
pub use source::{Entry, Source};

#[cfg(test)]
mod list_test;
#[cfg(test)]
mod resolution_test;
#[cfg(test)]
mod servers_test;
#[cfg(test)]
mod source_test;
