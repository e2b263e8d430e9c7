//! Balancing: which backend a new connection goes to.
//!
//! Owns: the compiled routes ([`Routes`]), the algorithms ([`scheduler`]), and the shapes of what
//! the data paths tell about connections ([`flow`], [`nat`]), and the memory of clients ([`stick`]).
//! Never: opens a connection, knows what is healthy (it is told who is eligible), reads a clock.
//! Invariants: routes never change once compiled, they are replaced whole; what must survive a
//! replacement (the rotation's position, the counts of connections) is shared by old and new.

pub mod access;
mod adaptive;
pub mod budget;
pub mod flow;
pub mod found;
pub mod gauge;
pub mod nat;
pub mod queue;
pub mod ramp;
pub mod rate;
pub mod roster;
pub mod routes;
pub mod rules;
pub mod scheduler;
pub mod standby;
pub mod stick;
mod tally;

pub use access::Access;
pub use budget::RetryBudget;
pub use found::{Found, Member};
pub use gauge::Gauge;
pub use rate::Rates;
pub use roster::{Effective, Origin, Roster};
pub use routes::{Load, Route, Routes, Target};
pub use rules::{Chosen, Rules};
pub use scheduler::Picks;
pub use stick::Stick;
