//! Both ends of very many connections, made by hand: a kernel's own would take gigabytes.
//!
//! The clients' addresses and the server's belong to nobody; hosts that own the next hop to them
//! hear every frame on a packet socket and answer, and their kernels drop what they hear. A
//! connection's number is the client's first sequence number, which no balancer changes, so each
//! end knows which connection a frame is of.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tandem::lab::{Network, VIP4};
use tandem::model::Mac;
use tandem::net::clock::Clock;
use tandem::time::Mono;

use super::packets::{ETH0, Frames, Wire};

/// Where the clients' addresses are: behind the lab's client.
pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// The server's address: behind the lab's first backend.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);
/// Service and payload.
const PORT: u16 = 80;
/// Ports of each client address.
const PORTS: Range<u16> = 10_000..60_000;
/// Handshakes under way at once: the data path's queues hold several times as many.
const UNDER_WAY: usize = 2_048;
/// Frames that are handed to the kernel at once; its own queues have room for 1,000.
const BATCH: usize = 128;
/// As a kernel's first retransmission of a segment.
const AGAIN: Duration = Duration::from_millis(200);
/// As a kernel's first retransmission of a SYN.
const SYN_AGAIN: Duration = Duration::from_secs(1);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 14 + 20 + 20;

/// A segment without options.
#[derive(Clone, Copy, Debug)]
struct Tcp {
    macs: (Mac, Mac),
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    /// Its payload, if it has any.
    says: Option<u32>,
}

/// One's complement sum of big-endian words (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    let words = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)));
    start + words.sum::<u32>()
}

const fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    !(((once & 0xffff) + (once >> 16)) as u16)
}

impl Tcp {
    fn write(&self, frame: &mut Vec<u8>) {
        let payload = if self.says.is_some() { 4 } else { 0 };
        frame.clear();
        frame.extend(self.macs.1.0);
        frame.extend(self.macs.0.0);
        frame.extend([8, 0]);
        let length = (20 + 20 + payload) as u16;
        frame.extend([0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(self.from.0.octets());
        frame.extend(self.to.0.octets());
        let check = folded(sum(&frame[14..34], 0));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame.extend(self.from.1.to_be_bytes());
        frame.extend(self.to.1.to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.ack.to_be_bytes());
        frame.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(self.says.iter().flat_map(|says| says.to_be_bytes()));
        let pseudo = 6 + u32::from(length) - 20;
        let check = folded(sum(&frame[34..], sum(&frame[26..34], pseudo)));
        frame[50..52].copy_from_slice(&check.to_be_bytes());
    }

    fn read(frame: &[u8]) -> Option<Self> {
        let at = |at: usize| frame[at..at + 4].try_into().expect("four bytes");
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let mac = |at: usize| Mac(frame[at..at + 6].try_into().expect("six bytes"));
        let plain = frame.len() >= HEADERS
            && frame[12..15] == [8, 0, 0x45]
            && frame[23] == 6
            && frame[46] == 5 << 4;
        let length = plain.then(|| usize::from(port(16)))?;
        Some(Self {
            macs: (mac(6), mac(0)),
            from: (Ipv4Addr::from(at(26)), port(34)),
            to: (Ipv4Addr::from(at(30)), port(36)),
            seq: u32::from_be_bytes(at(38)),
            ack: u32::from_be_bytes(at(42)),
            flags: frame[47],
            says: (length == 44 && frame.len() >= HEADERS + 4)
                .then(|| u32::from_be_bytes(at(HEADERS))),
        })
    }

    /// From its receiver to its sender.
    const fn answer(&self, seq: u32, ack: u32, flags: u8, says: Option<u32>) -> Self {
        Self {
            macs: (self.macs.1, self.macs.0),
            from: self.to,
            to: self.from,
            seq,
            ack,
            flags,
            says,
        }
    }
}

/// The address and port of a connection's client.
fn client(number: u32) -> (Ipv4Addr, u16) {
    let ports = u32::from(PORTS.end - PORTS.start);
    let address = u32::from(CLIENTS) + 1 + number / ports;
    let port = PORTS.start + (number % ports) as u16;
    (address.into(), port)
}

/// The backend's first sequence number.
const fn isn(number: u32) -> u32 {
    !number
}

/// What the server has seen.
#[derive(Debug)]
struct Seen {
    /// The ports of each connection at the server: where it comes from, and where it goes to.
    ports: Vec<AtomicU32>,
    /// Payloads from other ports than those of their connection's SYN.
    moved: AtomicU64,
    resets: AtomicU64,
    over: AtomicBool,
}

/// See the module.
pub(crate) struct Crowd {
    wire: Wire,
    mac: Mac,
    seen: Arc<Seen>,
    server: Option<JoinHandle<()>>,
    clock: Clock,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// SYNs that were sent again.
    pub(crate) again: usize,
    /// Connections without an answer.
    pub(crate) missing: usize,
    pub(crate) took: Duration,
}

impl Crowd {
    /// Room for so many connections; the clients' frames leave with this source address.
    pub(crate) async fn start(network: &Network, count: usize, mac: Mac) -> Self {
        let seen = Arc::new(Seen {
            ports: (0..count).map(|_| AtomicU32::new(0)).collect(),
            moved: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let wire = Wire::tap(&network.backends[0], ETH0).await;
        wire.hear_much();
        let told = Arc::clone(&seen);
        let server = std::thread::spawn(move || serve(&wire, &told));
        let wire = Wire::tap(&network.client, ETH0).await;
        wire.hear_much();
        Self {
            wire,
            mac,
            seen,
            server: Some(server),
            clock: Clock::start(),
        }
    }

    fn segment(&self, to: Mac, number: u32, seq: u32, flags: u8) -> Tcp {
        Tcp {
            macs: (self.mac, to),
            from: client(number),
            to: (VIP4, PORT),
            seq,
            ack: 0,
            flags,
            says: None,
        }
    }

    /// Opens these connections through this node. Blocks.
    pub(crate) fn open(&self, node: Mac, numbers: Range<u32>) -> Opened {
        let mut answered = vec![false; numbers.len()];
        let mut left = numbers.len();
        let place = |number: u32| (number - numbers.start) as usize;
        let mut opened = Opened::default();
        let began = self.clock.now();
        let mut heard = Frames::new(2 * BATCH, HEADERS + 4);
        let mut out = Frames::new(2 * BATCH, HEADERS + 4);
        for attempt in 0..3 {
            let (mut next, mut under_way) = (numbers.start, 0);
            let mut last = self.clock.now();
            while (next < numbers.end || under_way > 0) && self.clock.now().since(last) < SYN_AGAIN
            {
                while out.len() < BATCH && under_way < UNDER_WAY && next < numbers.end {
                    if !answered[place(next)] {
                        under_way += 1;
                        opened.again += usize::from(attempt > 0);
                        self.segment(node, next, next, SYN).write(out.add());
                    }
                    next += 1;
                }
                self.wire.send_all(&mut out);
                self.wire.hear(&mut heard);
                for tcp in heard.iter().filter_map(Tcp::read) {
                    let number = tcp.ack.wrapping_sub(1);
                    let right = tcp.flags == SYN | ACK
                        && tcp.seq == isn(number)
                        && numbers.contains(&number)
                        && tcp.to == client(number);
                    if !right {
                        continue;
                    }
                    if !std::mem::replace(&mut answered[place(number)], true) {
                        (left, under_way) = (left - 1, under_way.saturating_sub(1));
                        last = self.clock.now();
                    }
                    let (seq, ack) = (tcp.ack, tcp.seq.wrapping_add(1));
                    tcp.answer(seq, ack, ACK, None).write(out.add());
                }
            }
            self.wire.send_all(&mut out);
            if left == 0 {
                break;
            }
        }
        opened.missing = left;
        opened.took = self.clock.now().since(began);
        opened
    }

    /// One segment on each of these connections through this node, and again until it is
    /// answered; how many never were. Blocks.
    pub(crate) fn speak(&self, node: Mac, numbers: &[u32], within: Duration) -> usize {
        let mut silent: std::collections::BTreeSet<u32> = numbers.iter().copied().collect();
        let began = self.clock.now();
        let mut sent: Option<Mono> = None;
        let mut heard = Frames::new(2 * BATCH, HEADERS + 4);
        let mut out = Frames::new(2 * BATCH, HEADERS + 4);
        while !silent.is_empty() && self.clock.now().since(began) < within {
            let now = self.clock.now();
            if sent.is_none_or(|at| now.since(at) >= AGAIN) {
                sent = Some(now);
                for number in &silent {
                    let mut tcp = self.segment(node, *number, number + 1, PSH | ACK);
                    tcp.ack = isn(*number).wrapping_add(1);
                    tcp.says = Some(*number);
                    tcp.write(out.add());
                    if out.len() == BATCH {
                        self.wire.send_all(&mut out);
                    }
                }
                self.wire.send_all(&mut out);
            }
            self.wire.hear(&mut heard);
            for tcp in heard.iter().filter_map(Tcp::read) {
                if let Some(number) = tcp.says
                    && tcp.from == (VIP4, PORT)
                    && tcp.to == client(number)
                {
                    silent.remove(&number);
                }
            }
        }
        silent.len()
    }

    /// Segments that reached the server from another port than their connection's SYN, and resets
    /// that reached it.
    pub(crate) fn astray(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.seen.moved), count(&self.seen.resets))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.seen.over.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Answers SYNs and payloads.
fn serve(wire: &Wire, seen: &Seen) {
    let mut heard = Frames::new(2 * BATCH, HEADERS + 4);
    let mut out = Frames::new(2 * BATCH, HEADERS + 4);
    while !seen.over.load(Ordering::Relaxed) {
        wire.hear(&mut heard);
        for tcp in heard.iter().filter_map(Tcp::read) {
            if tcp.to.0 != SERVER {
                continue;
            }
            let ports = u32::from(tcp.from.1) << 16 | u32::from(tcp.to.1);
            if tcp.flags & (RST | FIN) != 0 {
                seen.resets.fetch_add(1, Ordering::Relaxed);
            } else if tcp.flags == SYN {
                let number = tcp.seq;
                if let Some(known) = seen.ports.get(number as usize) {
                    known.store(ports, Ordering::Relaxed);
                    let ack = number.wrapping_add(1);
                    let answer = tcp.answer(isn(number), ack, SYN | ACK, None);
                    answer.write(out.add());
                }
            } else if let Some(number) = tcp.says
                && let Some(known) = seen.ports.get(number as usize)
            {
                if known.load(Ordering::Relaxed) == ports {
                    let (seq, ack) = (isn(number).wrapping_add(1), tcp.seq.wrapping_add(4));
                    let answer = tcp.answer(seq, ack, PSH | ACK, Some(number));
                    answer.write(out.add());
                } else {
                    seen.moved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        wire.send_all(&mut out);
    }
}
