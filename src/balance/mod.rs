//! Balancing: which backend a new connection goes to.
pub mod flow;
