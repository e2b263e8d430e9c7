//! The whole node minus IO.

pub mod io;
