//! TCP over IPv4, as bytes: what the pretend clients and backends send, with right checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const IP: usize = 20;
/// Of an Ethernet frame, before the IP header.
pub const LINK: usize = 14;
/// An MSS of 1,460 octets.
const ANNOUNCED: [u8; 4] = [2, 4, 5, 0xb4];

/// One segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub payload: Vec<u8>,
}

impl Segment {
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence numbers that it takes.
    pub const fn taken(&self) -> u32 {
        self.payload.len() as u32 + (self.flags & (SYN | FIN)).count_ones()
    }

    /// An Ethernet frame without addresses.
    pub fn frame(&self) -> Vec<u8> {
        let options: &[u8] = if self.has(SYN) { &ANNOUNCED } else { &[] };
        let header = 20 + options.len();
        let length = (IP + header + self.payload.len()) as u16;
        let mut frame = vec![0; LINK - 2];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(self.from.ip().octets());
        frame.extend(self.to.ip().octets());
        let check = !sum(0, &frame[LINK..]);
        frame[LINK + 10..LINK + 12].copy_from_slice(&check.to_be_bytes());
        let l4 = frame.len();
        frame.extend(self.from.port().to_be_bytes());
        frame.extend(self.to.port().to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.ack.to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        frame.extend(options);
        frame.extend(&self.payload);
        let check = !segment_sum(&frame[LINK..]);
        frame[l4 + 16..l4 + 18].copy_from_slice(&check.to_be_bytes());
        frame
    }

    /// Reads a frame as a host does.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(frame: &[u8]) -> Result<Self, &'static str> {
        let packet = frame.get(LINK..).unwrap_or_default();
        let header = packet.get(..IP + 20).ok_or("it is cut short")?;
        let length = u16::from_be_bytes([header[2], header[3]]);
        if header[0] != 0x45 || header[9] != 6 || usize::from(length) != packet.len() {
            return Err("it is no TCP packet of that length");
        }
        let data = IP + usize::from(header[IP + 12] >> 4) * 4;
        let payload = packet.get(data..).ok_or("it is cut short")?;
        if sum(0, &packet[..IP]) != 0xffff {
            return Err("its IP checksum is wrong");
        }
        if segment_sum(packet) != 0xffff {
            return Err("its TCP checksum is wrong");
        }
        let word = |at| u32::from_be_bytes(*header[at..].first_chunk().expect("it is long enough"));
        Ok(Self {
            from: sender(packet),
            to: receiver(packet),
            seq: word(IP + 4),
            ack: word(IP + 8),
            flags: header[IP + 13],
            payload: payload.to_vec(),
        })
    }
}

/// The frame of a packet.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; LINK];
    frame[LINK - 2] = 0x08;
    frame.extend(packet);
    frame
}

fn address(packet: &[u8], ip: usize, port: usize) -> SocketAddrV4 {
    let [a, b, c, d] = *packet[ip..].first_chunk().expect("it is long enough");
    let port = u16::from_be_bytes([packet[port], packet[port + 1]]);
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)
}

fn sender(packet: &[u8]) -> SocketAddrV4 {
    address(packet, 12, IP)
}

fn receiver(packet: &[u8]) -> SocketAddrV4 {
    address(packet, 16, IP + 2)
}

/// Sender and receiver of a frame, unchecked.
pub fn glance(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let packet = &frame[LINK..];
    (sender(packet), receiver(packet))
}

/// The sum of RFC 1071, not inverted. Four octets at a time: most of a run's time is spent here.
fn sum(first: u32, bytes: &[u8]) -> u16 {
    let (mut sum, mut at) = (u64::from(first), 0);
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        sum += u64::from(u32::from_be_bytes(*word));
        at += 4;
    }
    let mut rest = [0; 4];
    rest[..bytes.len() - at].copy_from_slice(&bytes[at..]);
    sum += u64::from(u32::from_be_bytes(rest));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The same of a packet's segment with its pseudo header.
fn segment_sum(packet: &[u8]) -> u16 {
    let length = (packet.len() - IP) as u32;
    let addresses = sum(6 + length, &packet[12..IP]);
    sum(addresses.into(), &packet[IP..])
}

#[test]
fn a_damaged_packet_is_noticed() {
    let segment = Segment {
        from: "192.0.2.1:1000".parse().unwrap(),
        to: "192.0.2.2:80".parse().unwrap(),
        seq: 1,
        ack: 2,
        flags: SYN | ACK,
        payload: b"abc".to_vec(),
    };
    let mut frame = segment.frame();
    assert_eq!(Segment::read(&frame), Ok(segment));
    frame[LINK + 13] ^= 1;
    assert!(Segment::read(&frame).is_err());
}
