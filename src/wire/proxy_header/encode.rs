//! Writing a header.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::crc32c::Crc32c;
use super::v2::{
    AUTHORITY, CRC32C, FIXED, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, TLV_HEAD, UNIQUE_ID, VERSION,
};
use super::{Addresses, MAX_AUTHORITY, MAX_UNIQUE_ID};

/// The form of a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What a header is to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outgoing<'a> {
    /// Its form.
    pub version: Version,
    /// The client's connection. None: this connection is our own, a health check (LOCAL; in
    /// version 1, which has no such word, give the ends of this connection, or UNKNOWN is written).
    pub addresses: Option<Addresses>,
    /// Version 2: the name that the client asked for. Longer than [`MAX_AUTHORITY`]: left out.
    pub authority: Option<&'a str>,
    /// Version 2: the name of the connection. Longer than [`MAX_UNIQUE_ID`]: left out.
    pub unique_id: Option<&'a [u8]>,
    /// Version 2: with a checksum.
    pub crc32c: bool,
}

/// The header's bytes: at most 536, the smallest segment that every host must take (section 2).
pub fn encode(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let addresses = outgoing.addresses.map(plain);
    match outgoing.version {
        Version::V1 => line(addresses),
        Version::V2 => binary(outgoing, addresses),
    }
}

/// IPv4 addresses as such, if both are; else both as IPv6.
fn plain(addresses: Addresses) -> Addresses {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (source, destination) = (
        canonical(addresses.source),
        canonical(addresses.destination),
    );
    if source.is_ipv4() == destination.is_ipv4() {
        return Addresses {
            source,
            destination,
        };
    }
    let wide = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), at.port())),
        IpAddr::V6(_) => at,
    };
    Addresses {
        source: wide(source),
        destination: wide(destination),
    }
}

fn line(addresses: Option<Addresses>) -> Vec<u8> {
    let mut line = String::with_capacity(64);
    let written = match addresses {
        Some(Addresses {
            source,
            destination,
        }) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (text(source.ip()), text(destination.ip()));
            let ports = (source.port(), destination.port());
            write!(
                line,
                "PROXY {family} {from} {to} {} {}\r\n",
                ports.0, ports.1
            )
        }
        None => write!(line, "PROXY UNKNOWN\r\n"),
    };
    written.expect("a String takes everything");
    line.into_bytes()
}

/// In hexadecimal only, also where IPv6 has a mixed form.
fn text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

fn binary(outgoing: &Outgoing<'_>, addresses: Option<Addresses>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(SIGNATURE);
    let (command, kind) = match addresses {
        None => (LOCAL, 0),
        Some(it) if it.source.is_ipv4() => (PROXY, TCP4),
        Some(_) => (PROXY, TCP6),
    };
    bytes.extend_from_slice(&[VERSION | command, kind, 0, 0]);
    if let Some(Addresses {
        source,
        destination,
    }) = addresses
    {
        for at in [source, destination] {
            match at.ip() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
        }
        for at in [source, destination] {
            bytes.extend_from_slice(&at.port().to_be_bytes());
        }
        if let Some(name) = outgoing
            .authority
            .filter(|name| name.len() <= MAX_AUTHORITY)
        {
            tlv(&mut bytes, AUTHORITY, name.as_bytes());
        }
        if let Some(id) = outgoing.unique_id.filter(|id| id.len() <= MAX_UNIQUE_ID) {
            tlv(&mut bytes, UNIQUE_ID, id);
        }
        if outgoing.crc32c {
            tlv(&mut bytes, CRC32C, &[0; 4]);
        }
    }
    let length = (bytes.len() - FIXED) as u16;
    bytes[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    if outgoing.crc32c && addresses.is_some() {
        let mut crc = Crc32c::new();
        crc.add(&bytes);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&crc.sum().to_be_bytes());
    }
    bytes
}

fn tlv(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = (value.len() as u16).to_be_bytes();
    bytes.reserve(TLV_HEAD + value.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(value);
}
