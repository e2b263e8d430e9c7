//! Frames, and what they say.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use super::{ACK, FIN, RST, SYN};

/// What a packet says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) payload: usize,
    pub(super) mss: Option<u16>,
}

pub(super) fn seen(packet: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let ip = sliced.net.as_ref().unwrap();
    let (from, to): (IpAddr, IpAddr) = match ip.ipv4_ref() {
        Some(ip) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        ),
        None => {
            let header = ip.ipv6_ref().unwrap().header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
    };
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    let mss = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    });
    Seen {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        flags: tcp.slice()[13],
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        payload: tcp.payload().len(),
        mss,
    }
}

/// A segment; SYNs announce a segment size.
pub(super) fn frame(
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    (seq, ack): (u32, u32),
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([0; 6], [0; 6]);
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("two families"),
    };
    let mut tcp = builder.tcp(from.port(), to.port(), seq, 9_999);
    if flags & SYN != 0 {
        let options = [
            TcpOptionElement::MaximumSegmentSize(1_460),
            TcpOptionElement::WindowScale(7),
        ];
        tcp = tcp.syn().options(&options).unwrap();
    }
    if flags & FIN != 0 {
        tcp = tcp.fin();
    }
    if flags & RST != 0 {
        tcp = tcp.rst();
    }
    if flags & ACK != 0 {
        tcp = tcp.ack(ack);
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &[]).unwrap();
    bytes
}
