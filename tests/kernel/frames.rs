//! Frames with right checksums, made byte by byte.

use std::net::{IpAddr, SocketAddr};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP packet to be made.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) hops: u8,
    pub(crate) payload: Vec<u8>,
    /// Options of a SYN, a multiple of four.
    pub(crate) announced: Vec<u8>,
    /// IPv4: option bytes, a multiple of four.
    pub(crate) options: Vec<u8>,
    /// IPv6: extension headers; each begins with its own number, which is moved to where it
    /// belongs.
    pub(crate) extensions: Vec<Vec<u8>>,
    /// IPv4: flags and offset.
    pub(crate) fragment: u16,
}

impl Tcp {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        Self {
            from,
            to,
            seq: 1_000,
            ack: 0,
            flags,
            hops: 64,
            payload: Vec::new(),
            announced: vec![2, 4, 5, 0xb4],
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000,
        }
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        ethernet(self.from.ip(), &self.packet())
    }

    /// From the IP header on.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let options: &[u8] = if self.flags & SYN == 0 {
            &[]
        } else {
            &self.announced
        };
        tcp.push(u8::try_from(5 + options.len() / 4).unwrap() << 4);
        tcp.push(self.flags);
        tcp.extend([0xfa, 0xf0, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(&self.payload);
        let check = transport_check(self.from.ip(), self.to.ip(), 6, &tcp);
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        ip(self, 6, &tcp)
    }
}

/// The sum over all words, folded, before it is complemented.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for word in part.chunks(2) {
            sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn transport_check(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let length = u32::try_from(segment.len()).unwrap().to_be_bytes();
    !sum(&[&octets(from), &octets(to), &[0, protocol], &length, segment])
}

fn ip(packet: &Tcp, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let (from, to) = (packet.from.ip(), packet.to.ip());
    let mut bytes = Vec::new();
    if from.is_ipv4() {
        let header = 20 + packet.options.len();
        bytes.extend([0x40 | u8::try_from(header / 4).unwrap(), 0]);
        bytes.extend(u16::try_from(header + segment.len()).unwrap().to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(packet.fragment.to_be_bytes());
        bytes.extend([packet.hops, protocol, 0, 0]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
        bytes.extend(&packet.options);
        let check = !sum(&[&bytes]);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
    } else {
        let mut next = protocol;
        let mut extensions = Vec::new();
        for extension in packet.extensions.iter().rev() {
            let mut extension = extension.clone();
            std::mem::swap(&mut extension[0], &mut next);
            extensions.splice(0..0, extension);
        }
        let length = u16::try_from(extensions.len() + segment.len()).unwrap();
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, packet.hops]);
        bytes.extend(octets(from));
        bytes.extend(octets(to));
        bytes.extend(extensions);
    }
    bytes.extend(segment);
    bytes
}

/// With Ethernet addresses that the loopback device takes for its own.
fn ethernet(family: IpAddr, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(if family.is_ipv4() {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    });
    frame.extend(packet);
    frame
}

/// An ICMP error from a router that quotes the beginning of a packet.
pub(crate) fn icmp(
    router: IpAddr,
    to: IpAddr,
    kind: u8,
    code: u8,
    word: u32,
    quote: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(quote);
    let (protocol, check) = if router.is_ipv4() {
        (1, !sum(&[&message]))
    } else {
        (58, transport_check(router, to, 58, &message))
    };
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut shape = Tcp::new(SocketAddr::new(router, 0), SocketAddr::new(to, 0), 0);
    shape.fragment = 0;
    ethernet(router, &ip(&shape, protocol, &message))
}
