//! Floating addresses: what is wanted, against what the kernel says is there.
//!
//! Owns: the lease's renewal, the schedule of announcements. Never: talks to the kernel.

pub mod kernel;
