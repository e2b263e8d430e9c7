//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Decoded, Header, Malformed, begins};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";
/// The longest line with its CR LF.
pub(super) const MAX_LINE: usize = 107;

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Malformed> {
    if !begins(bytes, SIGNATURE) {
        return Err(Malformed::NoHeader);
    }
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    // Neither CR nor LF may stand alone, so the first of them decides.
    let end = window.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    match end.map(|end| &window[end..]) {
        Some([b'\r', b'\n', ..]) => {}
        None | Some([b'\r']) if window.len() < MAX_LINE => return Ok(Decoded::More),
        _ => return Err(Malformed::Line),
    }
    let end = end.unwrap_or_default();
    let line = str::from_utf8(&window[SIGNATURE.len().min(end)..end]);
    let header = |addresses| {
        Ok(Decoded::Header(Header {
            length: end + 2,
            addresses,
            ..Header::default()
        }))
    };
    // After UNKNOWN comes anything or nothing.
    if window[..end]
        .strip_prefix(b"PROXY UNKNOWN")
        .is_some_and(|rest| matches!(rest, [] | [b' ', ..]))
    {
        return header(None);
    }
    let line = line.map_err(|_| Malformed::Words)?;
    let addresses = addresses(line).ok_or(Malformed::Words)?;
    header(Some(addresses))
}

fn addresses(line: &str) -> Option<Addresses> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let parse: fn(&str) -> Option<IpAddr> = match family {
        // Rust's parser takes four numbers without leading zeros, and no other form.
        "TCP4" => |word| Some(IpAddr::V4(word.parse::<Ipv4Addr>().ok()?)),
        "TCP6" => |word| Some(IpAddr::V6(word.parse::<Ipv6Addr>().ok()?)),
        _ => return None,
    };
    let (source, destination) = (parse(words.next()?)?, parse(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    match words.next() {
        None => Some(Addresses {
            source: SocketAddr::new(source, from),
            destination: SocketAddr::new(destination, to),
        }),
        Some(_) => None,
    }
}

/// A decimal number without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let leads = word.len() > 1 && word.starts_with('0');
    if plain && !leads {
        word.parse().ok()
    } else {
        None
    }
}
