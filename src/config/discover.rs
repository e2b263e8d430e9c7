//! Where a pool's backends come from, beside the file itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Weight;

/// `[dns]`: whom to ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dns {
    /// Resolvers, in the order in which they are asked. Empty: those of `/etc/resolv.conf`, which is
    /// read anew for each question. Up to 8.
    pub servers: Vec<SocketAddr>,
    /// Time for one answer of one of them. Default 2 s, 100 ms to 30 s.
    pub timeout: Duration,
    /// How often all of them are asked before a question has failed. Default 2, 1 to 10.
    pub attempts: u8,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 2,
        }
    }
}

/// `[[service.discover]]` or `[[service.pool.discover]]`: a source of backends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discover {
    /// The place of its pool in [`super::Proxied::pools`]; none: the service's own.
    pub pool: Option<u16>,
    /// What is asked or read.
    pub origin: Origin,
    /// Which addresses are wanted. Default both.
    pub family: Family,
    /// A name is not asked again before this, whatever its TTL. Default 5 s, 1 s to 1 h.
    pub min_ttl: Duration,
    /// It is asked again after this at the latest. Default 1 min, 1 s to 1 day.
    pub max_ttl: Duration,
    /// How long the last good answer is used while none comes. None: for ever. 1 s to 7 days.
    pub hold: Option<Duration>,
    /// How long an address stays that an answer does not name any more. Default 0 s, up to 1 h.
    pub linger: Duration,
    /// Most backends. Default 64, 1 to 1,024.
    pub max_backends: u16,
    /// Weight of those for which the source gives none. Default 1, 1 to 256.
    pub weight: Weight,
}

/// What a source is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Origin {
    /// Addresses of a name (A and AAAA).
    Dns {
        /// In lower case, absolute, without the dot at the end.
        name: String,
        /// The port of all of them.
        port: u16,
    },
    /// The servers of a service (SRV, RFC 2782).
    Srv {
        /// In lower case, absolute, without the dot at the end.
        name: String,
    },
    /// A file that somebody else writes.
    File {
        /// JSON if it ends in `.json`, TOML if it ends in `.toml`.
        path: PathBuf,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { name, port } => write!(f, "dns {name}:{port}"),
            Self::Srv { name } => write!(f, "srv {name}"),
            Self::File { path } => write!(f, "file {}", path.display()),
        }
    }
}

/// Which addresses of a name are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4 and IPv6.
    Both,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// IPv4 addresses are wanted.
    pub const fn v4(self) -> bool {
        matches!(self, Self::Both | Self::V4)
    }

    /// IPv6 addresses are wanted.
    pub const fn v6(self) -> bool {
        matches!(self, Self::Both | Self::V6)
    }
}
