//! Adapters to the network and to the host: sockets, addresses, clock, entropy, the dead-man timer.
//!
//! Owns: every socket that is not a client's or a backend's, and every netlink message. Never:
//! decides anything.

pub mod clock;
pub mod guard;
pub mod heartbeat;
pub mod kernel;
pub mod key;
pub mod session;
