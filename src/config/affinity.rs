//! How a proxied service knows its clients again.

use std::time::Duration;

/// `[service.affinity]`
#[derive(Clone, Debug, PartialEq)]
pub struct Affinity {
    /// What a client is recognised by.
    pub by: StickBy,
    /// How clients keep their backends.
    pub how: StickHow,
}

/// What a client is recognised by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StickBy {
    /// Its address, as far as these prefixes reach. Default /32 and /64.
    Source {
        /// Of IPv4 addresses, 1 to 32.
        prefix4: u8,
        /// Of IPv6 addresses, 1 to 128.
        prefix6: u8,
    },
    /// The TLS session that it resumes; learnt from the backend's reply.
    SessionId,
    /// The name that it asks for by TLS.
    Sni,
    /// The user, or else the routing token, of a remote desktop.
    RdpCookie,
    /// The cookie of this name in its first HTTP/1 request; learnt from the backend's reply.
    Cookie(String),
}

impl StickBy {
    /// The client's first bytes are needed.
    pub const fn reads_request(&self) -> bool {
        !matches!(self, Self::Source { .. })
    }

    /// The backend says it, not the client.
    pub const fn reads_reply(&self) -> bool {
        matches!(self, Self::SessionId | Self::Cookie(_))
    }
}

/// How clients keep their backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StickHow {
    /// By what the scheduler makes of their keys (`source_hash`, `maglev`).
    Hash,
    /// By a table.
    Table {
        /// Entries at most; then the one goes that was used longest ago. Default 100,000; 1 to
        /// 1,000,000.
        size: u32,
        /// An entry that is not used for so long is forgotten. Default 30 min, 1 s to 7 days.
        ttl: Duration,
        /// What happens to clients whose backend takes no connections. Default `reassign`.
        fallback: StickFallback,
    },
}

/// What happens to clients whose backend takes no connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StickFallback {
    /// Another one serves them, and is remembered from then on.
    Reassign,
    /// They are reset.
    Refuse,
}
