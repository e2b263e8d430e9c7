//! Remote desktops: the connection request ([MS-RDPBCGR], 2.2.1.1), which says whom it is from, or
//! where the client was before.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::Look;

/// First byte of a TPKT (RFC 1006, 6).
pub const TPKT: u8 = 3;
/// TPKT's head, and the fixed part of the X.224 connection request behind it.
const HEAD: usize = 4 + 7;
/// X.224's code of a connection request.
const REQUEST: u8 = 0xe0;
const COOKIE: &[u8] = b"Cookie: mstshash=";
const TOKEN: &[u8] = b"Cookie: msts=";

/// What the connection request carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Request<'b> {
    /// The user's name, or its beginning: what is behind `mstshash=`.
    pub user: Option<&'b [u8]>,
    /// The routing token, if it is not that: what is behind `msts=`.
    pub token: Option<&'b [u8]>,
}

impl Request<'_> {
    /// The server that the token names: address and port as decimal numbers of their bytes in
    /// little-endian order, as servers behind a balancer write it.
    pub fn server(&self) -> Option<SocketAddrV4> {
        let text = str::from_utf8(self.token?).ok()?;
        let mut parts = text.split('.');
        let ip: u32 = parts.next()?.parse().ok()?;
        let port: u16 = parts.next()?.parse().ok()?;
        let [a, b, c, d] = ip.to_le_bytes();
        Some(SocketAddrV4::new(
            Ipv4Addr::new(a, b, c, d),
            port.swap_bytes(),
        ))
    }
}

/// Reads a client's first bytes.
pub fn request(bytes: &[u8]) -> Look<'_> {
    let good = |(at, byte): (usize, &u8)| match at {
        0 => *byte == TPKT,
        1 => *byte == 0,
        5 => byte & 0xf0 == REQUEST,
        _ => true,
    };
    if !bytes.iter().take(HEAD).enumerate().all(good) {
        return Look::Unknown;
    }
    let [_, _, high, low, rest, ..] = *bytes else {
        return Look::More;
    };
    // X.224's length does not count itself.
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length != usize::from(rest) + 5 || length < HEAD {
        return Look::Unknown;
    }
    let Some(variable) = bytes.get(HEAD..length) else {
        return Look::More;
    };
    let end = variable.windows(2).position(|two| two == b"\r\n");
    let line = end.map_or(&[][..], |end| &variable[..end]);
    Look::Rdp(Request {
        user: line.strip_prefix(COOKIE),
        token: line.strip_prefix(TOKEN),
    })
}
