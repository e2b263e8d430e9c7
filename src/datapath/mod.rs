//! The data path: clients' connections and backends' connections, and the bytes between them.
//!
//! Owns: the listeners of the services, every client's and every backend's socket, the threads that
//! serve them ([`proxy`]); the program in the kernel that forwards without any of these ([`nat`]). Never: decides who is healthy or who is master; it is told where new connections may
//! go and when to let go of all, and it tells what happened in batches.
//! Invariants: nothing here waits for the node (a full queue loses events, says so, and tells the
//! live connections again); no connection outlives a call of `drop_flows` that came after it.

pub mod nat;
pub mod proxy;

pub use proxy::Proxy;

use std::io;
use std::net::SocketAddr;

use crate::dial::DialError;

/// The data path could not start.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A service's sockets cannot be as it wants them.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A listener could not be opened.
    #[error("service {service} cannot listen on {address}: {source}; {remedy}")]
    Listen {
        /// Name of the service.
        service: String,
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A worker could not start.
    #[error(
        "worker {worker} cannot start: {source}; lower proxy.workers or raise the limits of threads and open files"
    )]
    Worker {
        /// Which, from 0.
        worker: u16,
        /// What the kernel said.
        source: io::Error,
    },
}
