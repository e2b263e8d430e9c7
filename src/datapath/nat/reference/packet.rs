//! Reading a packet, as `bpf/packet.h` does.

use super::super::layout::{Address, FlowKey, V4, V6};

/// Where the IP header begins.
pub(super) const L3: usize = 14;
const EXTENSIONS: usize = 6;
const TCP_HEADER: usize = 20;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const NONE: u8 = 59;
const OPTIONS: u8 = 60;

/// What a frame is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Other,
    Tcp,
    Icmp,
    Fragment,
    Malformed,
    Extension,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packet {
    pub(super) key: FlowKey,
    pub(super) l4: usize,
    pub(super) end: usize,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: u32,
    pub(super) hops: u8,
    pub(super) flags: u8,
}

impl Packet {
    /// Sequence numbers that it takes.
    pub(super) const fn taken(&self) -> u32 {
        self.payload + (self.flags & (SYN | FIN)).count_ones()
    }

    /// It begins a connection.
    pub(super) const fn is_bare_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }
}

/// `N` bytes from there, if the frame has them.
fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(frame: &[u8], at: usize) -> Option<u16> {
    bytes(frame, at).map(u16::from_be_bytes)
}

fn be32(frame: &[u8], at: usize) -> Option<u32> {
    bytes(frame, at).map(u32::from_be_bytes)
}

/// An IPv4 address where an address of either family goes.
fn address4(frame: &[u8], at: usize) -> Option<Address> {
    let mut address = Address::default();
    address.0[..4].copy_from_slice(&bytes::<4>(frame, at)?);
    Some(address)
}

/// What this frame is, and what it says. `long`: it is a super-packet.
pub(super) fn read(frame: &[u8], long: bool) -> (Kind, Packet) {
    let mut packet = Packet::default();
    let kind = match be16(frame, 12) {
        Some(0x0800) => ipv4(frame, long, &mut packet),
        Some(0x86dd) => ipv6(frame, long, &mut packet),
        _ => None,
    };
    (kind.unwrap_or(Kind::Other), packet)
}

fn ipv4(frame: &[u8], long: bool, packet: &mut Packet) -> Option<Kind> {
    let header: [u8; 20] = bytes(frame, L3)?;
    if header[0] >> 4 != 4 {
        return None;
    }
    packet.key.family = V4;
    packet.key.src = address4(frame, L3 + 12)?;
    packet.key.dst = address4(frame, L3 + 16)?;
    let bad = match header[9] {
        TCP => Kind::Malformed,
        ICMP => Kind::Other,
        _ => return None,
    };
    packet.hops = header[8];
    let length = match be16(frame, L3 + 2)? {
        0 if long => frame.len() - L3,
        length => length.into(),
    };
    let words = usize::from(header[0] & 15);
    packet.l4 = L3 + words * 4;
    packet.end = L3 + length;
    if words < 5 || packet.end < packet.l4 || packet.end > frame.len() {
        return Some(bad);
    }
    if be16(frame, L3 + 6)? & 0x3fff != 0 {
        return Some(if header[9] == TCP {
            Kind::Fragment
        } else {
            Kind::Other
        });
    }
    Some(if header[9] == TCP {
        tcp(frame, packet)
    } else {
        Kind::Icmp
    })
}

fn ipv6(frame: &[u8], long: bool, packet: &mut Packet) -> Option<Kind> {
    let header: [u8; 40] = bytes(frame, L3)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    packet.key.family = V6;
    packet.key.src = Address(bytes(frame, L3 + 8)?);
    packet.key.dst = Address(bytes(frame, L3 + 24)?);
    packet.hops = header[7];
    let length = match be16(frame, L3 + 4)? {
        0 if long => frame.len() - L3 - 40,
        length => length.into(),
    };
    packet.l4 = L3 + 40;
    packet.end = packet.l4 + length;
    let mut next = header[6];
    if packet.end > frame.len() {
        return Some(if next == TCP {
            Kind::Malformed
        } else {
            Kind::Other
        });
    }
    for _ in 0..EXTENSIONS {
        match next {
            TCP | ICMPV6 => break,
            AUTHENTICATION => return Some(Kind::Extension),
            HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS => {}
            _ => return None,
        }
        if packet.l4 + 8 > packet.end {
            return Some(Kind::Malformed);
        }
        let extension: [u8; 4] = bytes(frame, packet.l4)?;
        let mut size = (usize::from(extension[1]) + 1) * 8;
        if next == FRAGMENT {
            size = 8;
            if extension[2] != 0 || extension[3] & 0xf9 != 0 {
                let harmless = matches!(extension[0], ICMPV6 | UDP | NONE);
                return Some(if harmless {
                    Kind::Other
                } else {
                    Kind::Fragment
                });
            }
        }
        if next == ROUTING && extension[3] != 0 {
            return Some(Kind::Extension);
        }
        next = extension[0];
        packet.l4 += size;
    }
    Some(match next {
        ICMPV6 => Kind::Icmp,
        TCP => tcp(frame, packet),
        _ => Kind::Extension,
    })
}

fn tcp(frame: &[u8], packet: &mut Packet) -> Kind {
    let at = packet.l4;
    if at + TCP_HEADER > packet.end {
        return Kind::Malformed;
    }
    let Some(header) = bytes::<TCP_HEADER>(frame, at) else {
        return Kind::Malformed;
    };
    let length = usize::from(header[12] >> 4) * 4;
    if length < TCP_HEADER || at + length > packet.end {
        return Kind::Malformed;
    }
    packet.key.sport.0 = [header[0], header[1]];
    packet.key.dport.0 = [header[2], header[3]];
    packet.seq = be32(frame, at + 4).unwrap_or_default();
    packet.ack = be32(frame, at + 8).unwrap_or_default();
    packet.flags = header[13];
    packet.payload = u32::try_from(packet.end - at - length).unwrap_or(u32::MAX);
    Kind::Tcp
}

/// What an ICMP error quotes: a packet that left here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quote {
    /// The key of the answer to it.
    pub(super) key: FlowKey,
    pub(super) l3: usize,
    pub(super) l4: usize,
}

/// The quote of TCP in an ICMP error.
pub(super) fn quote(frame: &[u8], packet: &Packet) -> Option<Quote> {
    let l3 = packet.l4 + 8;
    if l3 > packet.end {
        return None;
    }
    let kind = *frame.get(packet.l4)?;
    let mut key = FlowKey {
        family: packet.key.family,
        ..FlowKey::default()
    };
    let l4 = if key.family == V4 {
        let header: [u8; 20] = bytes(frame, l3)?;
        let whole = matches!(kind, 3 | 11 | 12)
            && header[0] >> 4 == 4
            && header[0] & 15 >= 5
            && header[9] == TCP
            && be16(frame, l3 + 6)? & 0x1fff == 0;
        if !whole {
            return None;
        }
        key.src = address4(frame, l3 + 16)?;
        key.dst = address4(frame, l3 + 12)?;
        l3 + usize::from(header[0] & 15) * 4
    } else {
        let header: [u8; 40] = bytes(frame, l3)?;
        if !matches!(kind, 1..=4) || header[0] >> 4 != 6 || header[6] != TCP {
            return None;
        }
        key.src = Address(bytes(frame, l3 + 24)?);
        key.dst = Address(bytes(frame, l3 + 8)?);
        l3 + 40
    };
    if l4 + 8 > packet.end {
        return None;
    }
    key.sport.0 = bytes(frame, l4 + 2)?;
    key.dport.0 = bytes(frame, l4)?;
    (key.dst == packet.key.dst).then_some(Quote { key, l3, l4 })
}
