//! `tandem lab --scenario survive`: connections of every kind through the VIP at once, and one
//! fault after the other. What the kernel mode promises is judged: none is lost, no byte is wrong.
//!
//! Owns: the traffic, its counts and their verdict. The faults are those of the other scenarios.
//! Invariant: a connection that was lost is counted before it is opened again.

mod clients;
mod ends;
mod gauge;
mod newcomers;
mod report;
mod run;
mod server;
mod stream;
mod traffic;
mod verdict;

pub use self::clients::Crowd;
pub use self::gauge::{Counts, NewTally, Tally};
pub use self::report::{Report, Row};
pub use self::run::{Plan, Step};
pub use self::verdict::{Run, Window};

#[cfg(test)]
pub(super) use self::ends::End;
pub(super) use self::ends::{Ends, How, Trouble};
pub(super) use self::gauge::{Board, Kind};
pub(super) use self::report::{line, table};
pub(super) use self::run::window;
pub(super) use self::server::{receive, send};
pub(super) use self::traffic::{Origins, Traffic};
