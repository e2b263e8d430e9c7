//! Writing a packet, as `bpf/translate.h` does: every checksum is changed by what changed under
//! it, so a sum that was wrong, or that of a pseudo header only, stays what it was.

use super::super::layout::{Flow, V4};
use super::packet::{L3, Packet, Quote, RST, SYN};

const TCP_CHECK: usize = 16;
/// TCP options that are looked at.
const OPTIONS: usize = 10;

/// The words of what a checksum covers, before and after.
#[derive(Clone, Copy, Debug, Default)]
struct Change(u64);

impl Change {
    fn words(&mut self, old: &[u8], new: &[u8]) {
        for (old, new) in old.chunks(2).zip(new.chunks(2)) {
            let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
            self.0 += u64::from(!word(old)) + u64::from(word(new));
        }
    }

    /// RFC 1624, equation 3.
    fn apply(self, frame: &mut [u8], at: usize) {
        let check = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mut sum = u64::from(!check) + self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[at..at + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
}

/// Overwrites bytes; the change says what that does to a sum over them.
fn put(frame: &mut [u8], at: usize, new: &[u8], change: &mut Change) {
    let place = &mut frame[at..at + new.len()];
    change.words(place, new);
    place.copy_from_slice(new);
}

/// Where the addresses are in an IP header, and how long each is.
const fn addresses(family: u32) -> (usize, usize) {
    if family == V4 { (12, 4) } else { (8, 16) }
}

/// New addresses and one hop less. What that changed of the addresses.
fn ip(frame: &mut [u8], packet: &Packet, flow: &Flow) -> Change {
    let (at, size) = addresses(packet.key.family);
    let mut change = Change::default();
    put(frame, L3 + at, &flow.to_src.0[..size], &mut change);
    put(frame, L3 + at + size, &flow.to_dst.0[..size], &mut change);
    if packet.key.family == V4 {
        let mut header = change;
        put(
            frame,
            L3 + 8,
            &[packet.hops - 1, frame[L3 + 9]],
            &mut header,
        );
        header.apply(frame, L3 + 10);
    } else {
        frame[L3 + 7] = packet.hops - 1;
    }
    change
}

/// Another sequence number.
pub(super) fn sequence(frame: &mut [u8], packet: &Packet, number: u32) {
    let mut change = Change::default();
    put(frame, packet.l4 + 4, &number.to_be_bytes(), &mut change);
    change.apply(frame, packet.l4 + TCP_CHECK);
}

/// A RST with this number, of a SYN.
pub(super) fn into_reset(frame: &mut [u8], packet: &Packet, number: u32) {
    sequence(frame, packet, number);
    let mut change = Change::default();
    put(
        frame,
        packet.l4 + 12,
        &[frame[packet.l4 + 12], RST],
        &mut change,
    );
    change.apply(frame, packet.l4 + TCP_CHECK);
}

/// Lowers the segment size that a SYN or SYN-ACK announces.
fn clamp(frame: &mut [u8], packet: &Packet, limit: u32) -> Change {
    let mut change = Change::default();
    let (mut at, end) = (packet.l4 + 20, packet.end - packet.payload as usize);
    for _ in 0..OPTIONS {
        if at + 4 > end {
            break;
        }
        match (frame[at], frame[at + 1]) {
            (0, _) => break,
            (1, _) => at += 1,
            (2, 4) => {
                let announced = u16::from_be_bytes([frame[at + 2], frame[at + 3]]);
                if u32::from(announced) > limit {
                    // Sums go by words: take the whole ones around the value.
                    let around = at + 2 - (at & 1)..at + 4 + (at & 1);
                    let before = frame[around.clone()].to_vec();
                    frame[at + 2..at + 4].copy_from_slice(&(limit as u16).to_be_bytes());
                    change.words(&before, &frame[around]);
                }
                break;
            }
            (_, 0 | 1) => break,
            (_, length) => at += usize::from(length),
        }
    }
    change
}

/// A TCP packet.
pub(super) fn tcp(frame: &mut [u8], packet: &Packet, flow: &Flow) {
    let mut change = ip(frame, packet, flow);
    put(frame, packet.l4, &flow.to_sport.0, &mut change);
    put(frame, packet.l4 + 2, &flow.to_dport.0, &mut change);
    if packet.flags & SYN != 0 && flow.mss != 0 {
        change.0 += clamp(frame, packet, flow.mss).0;
    }
    change.apply(frame, packet.l4 + TCP_CHECK);
}

/// An ICMP error: the quote becomes what its receiver once sent.
pub(super) fn icmp(frame: &mut [u8], packet: &Packet, quote: &Quote, flow: &Flow) {
    let quoted = quote.l3..packet.end;
    let before = frame[quoted.clone()].to_vec();
    let (at, size) = addresses(packet.key.family);
    let mut change = Change::default();
    put(frame, quote.l3 + at, &flow.to_dst.0[..size], &mut change);
    put(
        frame,
        quote.l3 + at + size,
        &flow.to_src.0[..size],
        &mut change,
    );
    if packet.key.family == V4 {
        change.apply(frame, quote.l3 + 10);
    }
    put(frame, quote.l4, &flow.to_dport.0, &mut change);
    put(frame, quote.l4 + 2, &flow.to_sport.0, &mut change);
    if quote.l4 + TCP_CHECK + 2 <= packet.end {
        change.apply(frame, quote.l4 + TCP_CHECK);
    }
    let mut message = Change::default();
    let even = before.len() & !1;
    message.words(&before[..even], &frame[quoted][..even]);
    let outer = ip(frame, packet, flow);
    // The checksum of ICMPv6 covers the addresses as well (RFC 4443, section 2.3).
    if packet.key.family != V4 {
        message.0 += outer.0;
    }
    message.apply(frame, packet.l4 + 2);
}
