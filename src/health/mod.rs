//! Health of the backends: rise and fall, when to probe next, jitter, passive marking.
//!
//! Owns: the verdict on each backend, its counters, and the time of its next check. Never: opens a
//! socket (`probe` does), picks a backend (`balance` does), talks to the peer (`replication` does).
//!
//! Invariants: at most one check of a backend is in flight; an answer counts only if it carries the
//! token of that check; between two changes of a verdict lie `rise` good or `fall` bad pieces of
//! evidence in a row, except for the first verdict, which needs one.

mod book;
pub mod probe;

pub use book::{HealthBook, HealthChange};
