//! The control socket: how an operator talks to a running node on the same host.
//!
//! A Unix socket; one JSON object a line, each way (`wire::admin`, `docs/protocol.md`).
//!
//! Owns: the socket file, clients and their limits, both ends of the line protocol. Never: answers
//! a request itself; each goes to the node as an [`Asked`].
//!
//! Invariants: no client costs the node more than the requests it makes, which are asked one at a
//! time; whatever a client sends, it gets a line that says what is wrong; one that does not read,
//! write or go on in time is closed.

pub mod client;
mod socket;

use tokio::sync::oneshot;

use crate::wire::admin::{Request, Response};

pub use socket::{ControlError, Server};

/// A request for the node, and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// The client gives up after a few seconds; the answer is then dropped.
    pub reply: oneshot::Sender<Response>,
}

#[cfg(test)]
mod tests;
