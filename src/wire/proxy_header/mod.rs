//! The header of the PROXY protocol: who the client is, as a proxy says it (haproxy,
//! proxy-protocol.txt, versions 1 and 2).
//!
//! [`decode`] looks at the first bytes of a connection and says whether the header is there, needs
//! more bytes, or is none. [`Outgoing`] is what [`encode`] writes.
//! Never: guesses. Who calls `decode` expects a header (section 2); what is none is an error.
//! Invariants: nothing beyond the header is looked at; nothing is allocated by decoding.

mod crc32c;
mod encode;
mod v1;
mod v2;

use std::net::SocketAddr;

pub use encode::{Outgoing, Version, encode};

/// Longest header that is taken. Version 2 could have 65,551 bytes; its text says that a header
/// fits the smallest segment (536 bytes), and unix addresses with every registered TLV stay far
/// below this.
pub const MAX_HEADER: usize = 4 << 10;
/// Longest unique id (section 2.2.5).
pub const MAX_UNIQUE_ID: usize = 128;
/// Longest authority that is taken: a DNS name has no more (RFC 1035, 2.3.4).
pub const MAX_AUTHORITY: usize = 255;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decoded<'b> {
    /// The beginning of a header.
    More,
    /// A header.
    Header(Header<'b>),
}

/// What a header says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header<'b> {
    /// Bytes of the header; the client's own follow.
    pub length: usize,
    /// Client and destination. None: the connection's own are meant, since the sender made it for
    /// itself (LOCAL) or does not know (UNKNOWN, unspecified), or since they are not of TCP.
    pub addresses: Option<Addresses>,
    /// The name that the client asked for; none: not said, or no text of a name's length.
    pub authority: Option<&'b str>,
    /// The name of the connection.
    pub unique_id: Option<&'b [u8]>,
    /// The client's application protocols, as TLS writes them.
    pub alpn: Option<&'b [u8]>,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to; of the same IP version.
    pub destination: SocketAddr,
}

/// The bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// It begins like neither version.
    #[error("it does not begin with a header of the PROXY protocol")]
    NoHeader,
    /// A line of version 1 that is too long or does not end right.
    #[error("the line of version 1 is not ended by CR LF within 107 bytes")]
    Line,
    /// A word of version 1.
    #[error("the line of version 1 is not as it must be")]
    Words,
    /// An unknown version or command, or an address family or protocol that is none.
    #[error("version 2 has no such version, command, family or protocol")]
    Kind,
    /// The lengths of version 2 contradict each other, or are too much.
    #[error("the lengths of version 2 are wrong")]
    Length,
    /// The checksum is another one.
    #[error("the checksum is wrong")]
    Checksum,
}

/// Looks for a header at the beginning of these bytes.
///
/// # Errors
///
/// As soon as they cannot become a header. Then the connection is to be aborted (section 2).
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Malformed> {
    match bytes.first() {
        None => Ok(Decoded::More),
        Some(first) if *first == v1::SIGNATURE[0] => v1::decode(bytes),
        Some(_) => v2::decode(bytes),
    }
}

/// Whether the bytes, as far as they go, are those of the signature.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let known = bytes.len().min(signature.len());
    bytes[..known] == signature[..known]
}

#[cfg(test)]
#[path = "../proxy_header_test.rs"]
mod tests;
