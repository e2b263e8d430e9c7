//! Kernel mode: connections end to end between client and backend, forwarded by a program in the
//! kernel that rewrites addresses and ports of each packet.
//!
//! Owns: the program (C, `bpf/`; its object is committed and embedded), its maps, and its place at
//! TC ingress of the interfaces. [`mod@reference`] is the same translation in plain Rust, against
//! which the program is tested. [`mod@engine`] leads the program: told what it saw and what the node
//! wants, it writes the maps.
//! Never: decides which backends serve, or when this node may forward; both are written into the
//! maps by its caller.
//! Invariants: while the lease has lapsed no packet is forwarded; what belongs to a service or to
//! a flow is translated or dropped and counted, and never reaches the local stack; every drop
//! has a [`Counter`].
//!
//! # What is not translated
//!
//! | packet | what becomes of it |
//! |---|---|
//! | fragments of TCP to an address of ours | dropped (`Fragment`): TCP finds its path's MTU |
//! | a whole TCP header is missing, lengths lie | dropped (`Malformed`) |
//! | IPv6 routing header not used up, AH, more than six extension headers | dropped (`Extension`) |
//! | TTL or hop limit 1 | dropped (`Hops`); no ICMP: the node is no hop that clients see |
//! | SYN from one of our own addresses, loopback, multicast, unspecified | dropped (`BadSource`) |
//! | SYN of a backend to a service that keeps the client's address, if it picked itself | dropped (`Hairpin`) |
//! | SYN beyond what its source may open in a second | dropped (`SourceRate`), and nobody is told |
//! | SYN for which the table has no room | dropped (`TableFull`); flows that are there go on |
//! | SYN-ACK of a flow that the standby has to know first | held (`Waiting`); user space gets it and sends it |
//! | RST or stale ACK of a backend, with retry | held (`Held`); user space tries another backend |
//! | SYN-ACK of a backend that takes a SYN on an old flow's ports for a new connection's | goes on, or waits for the standby: the flow is the new connection's from there on |
//! | no SYN and no flow | dropped (`Unknown`, `Stray`); with `*_REJECT` user space gets a [`layout::Refusal`] and may answer RST |
//! | VLAN tag on the interface where the program is | passes; it comes again on the VLAN's device |
//! | ICMP errors that quote no flow, everything that is not TCP | passes to the local stack |
//! | the node itself as client | never meets ingress: it must ask a backend directly |
//!
//! A backend as a client of its own service is served like any other client by full NAT.

pub mod adapter;
mod attach;
mod backlog;
mod batch;
pub mod engine;
mod error;
mod host;
pub mod inject;
mod kick;
pub mod layout;
mod lease;
mod life;
pub mod maps;
mod names;
mod orders;
pub mod packet;
mod pins;
pub mod program;
pub mod reference;
pub mod tables;

pub use adapter::{NatOptions, Running, start};
pub use attach::Hook;
pub use error::NatError;
pub use host::rehearse;
pub use lease::Lease;
pub use names::{Cause, Counter, EventKind, Scheduler, State};
pub use orders::NatHandle;
pub use pins::{Adopted, cleanup};
pub use program::{Nat, Sizes};
