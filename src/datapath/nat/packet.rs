//! Packets that are made in user space: SYNs and SYN-ACKs that the program held, resets, probes.
//!
//! Their checksums are complete: what the program holds may carry that of a pseudo header only, as
//! virtual devices leave the rest to hardware.

use std::net::{IpAddr, SocketAddr};

use super::layout::{Flow, Refusal};
use super::reference;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const RST: u8 = 0x04;

const TCP: u8 = 6;
const HOPS: u8 = 64;
/// The window of a probe: whoever believes it is not to stop, nor to send much.
const WINDOW: u16 = 1_024;

/// A packet to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packet {
    /// From the IP header on.
    pub bytes: Vec<u8>,
    /// Its receiver.
    pub to: IpAddr,
}

/// The complement sum of 16-bit words (RFC 1071), not yet inverted; an odd octet counts as high.
fn sum(words: u32, bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    let sum = pairs.fold(u64::from(words), |sum, pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        sum + u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u32
}

/// Writes the checksums of a packet whose TCP header is at `l4`.
fn seal(bytes: &mut [u8], l4: usize) {
    let v4 = bytes[0] >> 4 == 4;
    let addresses = if v4 { 12..20 } else { 8..40 };
    if v4 {
        bytes[10..12].fill(0);
        let check = !(sum(0, &bytes[..usize::from(bytes[0] & 15) * 4]) as u16);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
    }
    bytes[l4 + 16..l4 + 18].fill(0);
    // The pseudo header: addresses, protocol, length of the segment (RFC 9293, section 3.1).
    let length = (bytes.len() - l4) as u32;
    let pseudo = sum(u32::from(TCP) + length, &bytes[addresses]);
    let check = !(sum(pseudo, &bytes[l4..]) as u16);
    bytes[l4 + 16..l4 + 18].copy_from_slice(&check.to_be_bytes());
}

/// A TCP packet, from its IP header on, as the program would send it on by this entry. None: it is
/// no whole one.
pub fn translate(packet: &[u8], flow: &Flow) -> Option<Packet> {
    let (mut bytes, l4) = reference::translated(packet, flow)?;
    seal(&mut bytes, l4);
    let family = u32::from(bytes[0] >> 4);
    let to = flow.to_dst.ip(family);
    Some(Packet { bytes, to })
}

/// Ends a connection at one of its ends, in the name of the other.
pub fn reset(from: SocketAddr, to: SocketAddr, seq: u32, ack: Option<u32>) -> Packet {
    let flags = if ack.is_some() { RST | ACK } else { RST };
    make(
        from,
        to,
        &Segment {
            seq,
            ack: ack.unwrap_or(0),
            flags,
            window: 0,
            payload: &[],
        },
    )
}

/// The answer to a packet of no connection (RFC 9293, section 3.10.7.1).
pub fn refusal(refused: &Refusal) -> Packet {
    let (from, to) = (refused.key.to(), refused.key.from());
    if refused.flags & ACK != 0 {
        reset(from, to, refused.ack, None)
    } else {
        let after = refused.seq.wrapping_add(refused.length);
        reset(from, to, 0, Some(after))
    }
}

/// One octet that its receiver has had: it says at once where it is, and passes nothing on.
pub fn probe(from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> Packet {
    make(
        from,
        to,
        &Segment {
            seq,
            ack,
            flags: ACK | PSH,
            window: WINDOW,
            payload: &[0],
        },
    )
}

/// Asks the program of a node whose process has died for the SYN of a handshake that waits there:
/// the `number`-th youngest. It makes the packet that SYN.
pub fn kick(from: IpAddr, to: IpAddr, number: u32) -> Packet {
    syn(SocketAddr::new(from, 0), SocketAddr::new(to, 0), number)
}

/// A SYN that its receiver has had: it repeats its answer, if that was not acknowledged yet, with the
/// options that it chose for the first; else it says where it is (RFC 9293, section 3.10.7.4).
pub fn syn(from: SocketAddr, to: SocketAddr, seq: u32) -> Packet {
    make(
        from,
        to,
        &Segment {
            seq,
            ack: 0,
            flags: SYN,
            window: WINDOW,
            payload: &[],
        },
    )
}

struct Segment<'a> {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    payload: &'a [u8],
}

fn make(from: SocketAddr, to: SocketAddr, segment: &Segment<'_>) -> Packet {
    let length = (20 + segment.payload.len()) as u16;
    let mut bytes = Vec::with_capacity(61);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            // No options, do not fragment.
            bytes.extend([0x45, 0]);
            bytes.extend((20 + length).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, HOPS, TCP, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        (src, dst) => {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([TCP, HOPS]);
            for ip in [src, dst] {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                bytes.extend(ip.octets());
            }
        }
    }
    let l4 = bytes.len();
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([0x50, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(segment.payload);
    seal(&mut bytes, l4);
    Packet { bytes, to: to.ip() }
}

#[cfg(test)]
#[path = "packet_test.rs"]
mod tests;
