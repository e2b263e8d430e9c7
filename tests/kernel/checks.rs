//! Checksums, as somebody else computes them.

use etherparse::{LaxNetSlice, LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};

/// What is wrong with the checksums of a frame; nothing if they are right.
pub(crate) fn wrong(frame: &[u8]) -> Option<String> {
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Some(format!("not a packet: {error}")),
    };
    let (net, transport) = (packet.net?, packet.transport?);
    match (net, transport) {
        (NetSlice::Ipv4(ip), transport) => {
            let header = ip.header().to_header();
            if header.calc_header_checksum() != header.header_checksum {
                return Some("IPv4 header".into());
            }
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let right = tcp.calc_checksum_ipv4(header.source, header.destination);
                    (right != Ok(tcp.checksum())).then(|| format!("TCP, not {right:?}"))
                }
                TransportSlice::Icmpv4(icmp) => {
                    let right = icmp.icmp_type().calc_checksum(icmp.payload());
                    let quoted = quoted(icmp.payload());
                    (right != icmp.checksum())
                        .then(|| "ICMP".to_owned())
                        .or(quoted)
                }
                _ => None,
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let right = tcp.calc_checksum_ipv6(from, to);
                    (right != Ok(tcp.checksum())).then(|| format!("TCP, not {right:?}"))
                }
                TransportSlice::Icmpv6(icmp) => {
                    (!icmp.is_checksum_valid(from, to)).then(|| "ICMPv6".to_owned())
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// The header of the IPv4 packet that an error quotes.
fn quoted(quote: &[u8]) -> Option<String> {
    let packet = LaxSlicedPacket::from_ip(quote).ok()?;
    let Some(LaxNetSlice::Ipv4(ip)) = packet.net else {
        return None;
    };
    let header = ip.header().to_header();
    (header.calc_header_checksum() != header.header_checksum)
        .then(|| "the quote's IPv4 header".into())
}
