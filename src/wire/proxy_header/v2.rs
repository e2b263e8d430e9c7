//! Version 2: binary, with TLVs (section 2.2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::Crc32c;
use super::{
    Addresses, Decoded, Header, MAX_AUTHORITY, MAX_HEADER, MAX_UNIQUE_ID, Malformed, begins,
};

pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
pub(super) const FIXED: usize = 16;
/// The upper half of the thirteenth byte.
pub(super) const VERSION: u8 = 0x20;
/// Commands: the connection is the sender's own, or somebody's whom it stands for.
pub(super) const LOCAL: u8 = 0;
pub(super) const PROXY: u8 = 1;
/// Family and protocol.
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

/// Types of TLVs.
pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
/// Type and length.
pub(super) const TLV_HEAD: usize = 3;

pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Malformed> {
    if !begins(bytes, SIGNATURE) {
        return Err(Malformed::NoHeader);
    }
    // As early as possible, so that the sender learns of it.
    let command = match bytes.get(12) {
        None => return Ok(Decoded::More),
        Some(byte) if byte & 0xf0 != VERSION => return Err(Malformed::Kind),
        Some(byte) => byte & 0x0f,
    };
    if command > PROXY {
        return Err(Malformed::Kind);
    }
    let Some(kind) = bytes.get(13).copied() else {
        return Ok(Decoded::More);
    };
    // Of a LOCAL connection even the family is to be ignored.
    if command == PROXY && (kind >> 4 > 3 || kind & 0x0f > 2) {
        return Err(Malformed::Kind);
    }
    let (Some(high), Some(low)) = (bytes.get(14), bytes.get(15)) else {
        return Ok(Decoded::More);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_HEADER {
        return Err(Malformed::Length);
    }
    let Some(whole) = bytes.get(..length) else {
        return Ok(Decoded::More);
    };
    let mut header = Header {
        length,
        ..Header::default()
    };
    let size = match kind {
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        // Unspecified.
        _ => return Ok(Decoded::Header(header)),
    };
    if command == LOCAL {
        return Ok(Decoded::Header(header));
    }
    let block = &whole[FIXED..];
    let (addresses, tlvs) = block.split_at_checked(size).ok_or(Malformed::Length)?;
    header.addresses = match kind {
        TCP4 => v4(addresses),
        TCP6 => v6(addresses),
        _ => None,
    };
    read_tlvs(&mut header, whole, length - tlvs.len())?;
    Ok(Decoded::Header(header))
}

fn v4(block: &[u8]) -> Option<Addresses> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *block else {
        return None;
    };
    Some(Addresses {
        source: (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j])).into(),
        destination: (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l])).into(),
    })
}

fn v6(block: &[u8]) -> Option<Addresses> {
    let (source, rest) = block.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    let [a, b, c, d] = *ports else { return None };
    let address = |ip: &[u8; 16], port| SocketAddr::from((Ipv6Addr::from(*ip), port));
    Some(Addresses {
        source: address(source, u16::from_be_bytes([a, b])),
        destination: address(destination, u16::from_be_bytes([c, d])),
    })
}

/// Reads what stands behind the addresses, from `at` on. Unknown types, NOOP among them, are
/// skipped; of a type that comes twice the first counts.
fn read_tlvs<'b>(header: &mut Header<'b>, whole: &'b [u8], at: usize) -> Result<(), Malformed> {
    let mut at = at;
    while at < whole.len() {
        let rest = &whole[at..];
        let [kind, high, low, ..] = *rest else {
            return Err(Malformed::Length);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest
            .get(TLV_HEAD..TLV_HEAD + length)
            .ok_or(Malformed::Length)?;
        match kind {
            ALPN => header.alpn = header.alpn.or(Some(value)),
            AUTHORITY if length <= MAX_AUTHORITY => {
                header.authority = header.authority.or_else(|| str::from_utf8(value).ok());
            }
            UNIQUE_ID if length > MAX_UNIQUE_ID => return Err(Malformed::Length),
            UNIQUE_ID => header.unique_id = header.unique_id.or(Some(value)),
            CRC32C => {
                let wanted = value.try_into().map_err(|_| Malformed::Length)?;
                let mut crc = Crc32c::new();
                crc.add(&whole[..at + TLV_HEAD]);
                crc.add(&[0; 4]);
                crc.add(&whole[at + TLV_HEAD + 4..]);
                if crc.sum() != u32::from_be_bytes(wanted) {
                    return Err(Malformed::Checksum);
                }
            }
            _ => {}
        }
        at += TLV_HEAD + length;
    }
    Ok(())
}
