//! What can go wrong in the lab, by cause.

use std::io;

use crate::control::client::CallError;
use crate::net::key::KeyError;

/// Why the lab could not be built or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This host allows no network namespaces, or no TUN device in them.
    #[error("{why}; run `sudo tandem lab`")]
    NotAllowed {
        /// What was tried, and what the kernel said.
        why: String,
    },
    /// The kernel refused a link, an address or a rule.
    #[error("cannot {what}: {source}")]
    Network {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A file, a socket or a process failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A node did not answer on its control socket.
    #[error(transparent)]
    Control(#[from] CallError),
    /// The key's file could not be written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A node ended although nobody ended it.
    #[error("{node} ended by itself ({status}); last lines of its log:\n{log}")]
    NodeEnded {
        /// Its name.
        node: String,
        /// Exit code or signal.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A node gave an answer that has no place here.
    #[error("{node} answered: {message}")]
    Refused {
        /// Its name.
        node: String,
        /// What it said.
        message: String,
    },
    /// What was measured says nothing.
    #[error("{what}; try again while the machine does less")]
    Disturbed {
        /// What happened.
        what: String,
    },
    /// Something did not come about in time.
    #[error("{what} did not happen within {seconds} s: {state}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was there instead.
        state: String,
    },
}

impl LabError {
    /// For `map_err` on IO results.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// For `map_err` on system calls.
    pub(super) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let io = Self::io(what);
        move |errno| io(errno.into())
    }

    /// For `map_err` on netlink results.
    pub(super) fn network(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Network {
            what,
            source: Box::new(source),
        }
    }
}
