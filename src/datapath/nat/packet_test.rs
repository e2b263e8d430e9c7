use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use super::super::layout::Address;
use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Word by word over the pseudo header and the segment, in one's complement: 0xffff if it is right.
fn plain_sum(packet: &[u8], l4: usize) -> u32 {
    let addresses = if packet[0] >> 4 == 4 {
        &packet[12..20]
    } else {
        &packet[8..40]
    };
    let mut all = addresses.to_vec();
    all.extend(((packet.len() - l4) as u32).to_be_bytes());
    all.extend([0, 0, 0, 6]);
    all.extend(&packet[l4..]);
    if all.len() % 2 == 1 {
        all.push(0);
    }
    let mut sum: u32 = 0;
    for word in all.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word[1]);
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum
}

/// What a packet says: sender, receiver, hops, flags, numbers, payload, segment size. Its sums and
/// lengths must be right.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    from: SocketAddr,
    to: SocketAddr,
    hops: u8,
    flags: u8,
    seq: u32,
    ack: u32,
    payload: Vec<u8>,
    mss: Option<u16>,
}

fn seen(packet: &Packet) -> Seen {
    let sliced = SlicedPacket::from_ip(&packet.bytes).unwrap();
    let (from, to, hops, l4) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), packet.bytes.len());
            let (from, to) = (header.source.into(), header.destination.into());
            (from, to, header.time_to_live, header.header_len())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 40, packet.bytes.len());
            let (from, to) = (header.source.into(), header.destination.into());
            let l4 = packet.bytes.len() - ip.payload().payload.len();
            (from, to, header.hop_limit, l4)
        }
        NetSlice::Arp(_) => panic!("no IP"),
    };
    let (from, to): (IpAddr, IpAddr) = (from, to);
    assert_eq!(plain_sum(&packet.bytes, l4), 0xffff);
    assert_eq!(packet.to, to);
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
        hops,
        flags: tcp.slice()[13],
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        payload: tcp.payload().to_vec(),
        mss,
    }
}

/// A SYN with options; its TCP checksum is garbage.
fn syn(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let options = [
        TcpOptionElement::Noop,
        TcpOptionElement::MaximumSegmentSize(9_000),
        TcpOptionElement::WindowScale(7),
    ];
    let mut bytes = Vec::new();
    let tcp = match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            PacketBuilder::ipv4(src.octets(), dst.octets(), 33).tcp(from.port(), to.port(), 100, 9)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            PacketBuilder::ipv6(src.octets(), dst.octets(), 33).tcp(from.port(), to.port(), 100, 9)
        }
        _ => panic!("two families"),
    };
    let tcp = tcp.syn().options(&options).unwrap();
    tcp.write(&mut bytes, payload).unwrap();
    let l4 = if from.is_ipv4() { 20 } else { 40 };
    bytes[l4 + 16] ^= 0x5a;
    bytes
}

fn entry(from: SocketAddr, to: SocketAddr) -> Flow {
    Flow {
        to_src: Address::from(from.ip()),
        to_dst: Address::from(to.ip()),
        to_sport: from.port().into(),
        to_dport: to.port().into(),
        mss: 1_400,
        ..Flow::default()
    }
}

const FAMILIES: [[&str; 4]; 2] = [
    [
        "203.0.113.1:40000",
        "192.0.2.100:80",
        "198.51.100.100:30000",
        "198.51.100.21:8080",
    ],
    [
        "[2001:db8:3::1]:40000",
        "[2001:db8:1::100]:80",
        "[2001:db8:2::100]:30000",
        "[2001:db8:2::21]:8080",
    ],
];

#[test]
fn a_held_packet_goes_on_as_the_program_would_send_it_but_with_whole_sums() {
    for ends in FAMILIES {
        let [client, vip, source, backend] = ends.map(at);
        let packet = translate(&syn(client, vip, b"abc"), &entry(source, backend)).unwrap();
        let expected = Seen {
            from: source,
            to: backend,
            hops: 32,
            flags: 2,
            seq: 100,
            ack: 0,
            payload: b"abc".to_vec(),
            mss: Some(1_400),
        };
        assert_eq!(seen(&packet), expected);
    }
}

#[test]
fn of_a_packet_that_was_cut_short_the_rest_goes_on() {
    for ends in FAMILIES {
        let [client, vip, source, backend] = ends.map(at);
        let whole = syn(client, vip, &[7; 200]);
        let packet = translate(&whole[..128], &entry(source, backend)).unwrap();
        let there = 128 - (whole.len() - 200);
        assert_eq!(seen(&packet).payload, vec![7; there]);
        // Into the TCP header there is no sense in it.
        let l4 = if client.is_ipv4() { 20 } else { 40 };
        for length in 0..l4 + 20 {
            assert_eq!(translate(&whole[..length], &entry(source, backend)), None);
        }
    }
}

#[test]
fn a_packet_on_its_last_hop_does_not_go_on() {
    let [client, vip, source, backend] = FAMILIES[0].map(at);
    for (hops, goes) in [(0, false), (1, false), (2, true)] {
        let mut bytes = syn(client, vip, &[]);
        bytes[8] = hops;
        assert_eq!(
            translate(&bytes, &entry(source, backend)).is_some(),
            goes,
            "{hops}"
        );
    }
}

#[test]
fn resets_and_probes_have_their_numbers_and_right_sums() {
    for ends in FAMILIES {
        let [client, vip, ..] = ends.map(at);
        let expected = |flags, seq, ack, payload: &[u8]| Seen {
            from: vip,
            to: client,
            hops: 64,
            flags,
            seq,
            ack,
            payload: payload.to_vec(),
            mss: None,
        };
        let bare = reset(vip, client, u32::MAX, None);
        assert_eq!(seen(&bare), expected(RST, u32::MAX, 0, &[]));
        let with = reset(vip, client, 0, Some(77));
        assert_eq!(seen(&with), expected(RST | ACK, 0, 77, &[]));
        let octet = probe(vip, client, 5, 6);
        assert_eq!(seen(&octet), expected(ACK | PSH, 5, 6, &[0]));
    }
}
