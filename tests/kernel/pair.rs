//! The other node in generated worlds: who hands what to whom, and what only that concerns.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use fastrand::Rng;
use tandem::datapath::nat::layout::Neighbour;
use tandem::datapath::nat::reference::Reference;
use tandem::datapath::nat::{Nat, NatError};

use crate::frames::{ACK, FIN, RST, SYN, Tcp};
use crate::world::{client, give, other, vip};

/// The loopback device, on which test runs happen.
const DEVICE: u32 = 1;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[derive(Debug)]
pub(crate) struct Pair {
    /// The peer is known.
    met: bool,
    /// Who else sends: another one in each world, so that nobody was told of before.
    stranger: [u8; 6],
}

impl Pair {
    pub(crate) fn new(rng: &mut Rng, series: u32) -> Self {
        let [a, b, c, d] = series.to_be_bytes();
        Self {
            met: rng.u8(..4) > 0,
            stranger: [6, 0, a, b, c, d],
        }
    }

    /// Writes down where the peer is.
    pub(crate) fn meet(&self, nat: &mut Nat, reference: &mut Reference) -> Result<(), NatError> {
        let at = self.met.then_some(Neighbour {
            own: OWN,
            peer: PEER,
            zero: 0,
        });
        reference.neighbours = at.map(|at| (DEVICE, at)).into_iter().collect();
        nat.tables.set_neighbour(DEVICE, at)
    }

    /// Something about this node changes.
    pub(crate) fn change(
        &mut self,
        rng: &mut Rng,
        nat: &mut Nat,
        reference: &mut Reference,
    ) -> Result<(), NatError> {
        let until = if rng.u8(..4) > 0 { u64::MAX } else { 0 };
        match rng.u8(..if reference.dead { 3 } else { 7 }) {
            0 => {
                self.met = !self.met;
                self.meet(nat, reference)?;
            }
            1 if reference.dead => {
                nat.enliven()?;
                (reference.dead, reference.opened) = (false, 0);
                reference.recent.clear();
            }
            1 => {
                nat.die();
                reference.dead = true;
            }
            2 => {
                reference.accept = until;
                give(nat, reference)?;
            }
            3 => {
                reference.second = until;
                give(nat, reference)?;
            }
            4 => {
                reference.waits = until;
                give(nat, reference)?;
            }
            _ => {
                reference.lease = until;
                give(nat, reference)?;
            }
        }
        Ok(())
    }

    /// Whoever sends this frame.
    pub(crate) fn send(&self, rng: &mut Rng, frame: &mut [u8]) {
        // Ports of a frame without options; nobody but the peer asks for port 0.
        let kick = frame.get(34..38) == Some(&[0; 4]) || frame.get(54..58) == Some(&[0; 4]);
        let from = if kick || rng.u8(..4) == 0 {
            PEER
        } else {
            self.stranger
        };
        frame[6..12].copy_from_slice(&from);
    }

    /// A frame that only a pair knows.
    pub(crate) fn frame(&self, rng: &mut Rng) -> Vec<u8> {
        let six = rng.bool();
        match rng.u8(..8) {
            0..5 => kick(rng, six),
            5..6 => proxied(rng, six),
            6..7 => datagram(rng, six),
            _ => arp(rng),
        }
    }
}

/// The peer asks for a handshake.
fn kick(rng: &mut Rng, six: bool) -> Vec<u8> {
    let to = if rng.bool() { vip(six) } else { other(six) };
    let mut from = client(rng, six);
    from.set_port(if rng.u8(..8) == 0 { 1 } else { 0 });
    let mut tcp = Tcp::new(from, SocketAddr::new(to, 0), SYN);
    tcp.seq = match rng.u8(..8) {
        0 => rng.u32(1_000..1_100),
        1 => rng.u32(..40),
        _ => rng.u32(..6),
    };
    tcp.hops = if rng.u8(..30) == 0 { 1 } else { 64 };
    tcp.frame()
}

fn proxied(rng: &mut Rng, six: bool) -> Vec<u8> {
    let flags = [SYN, ACK, FIN | ACK, RST][rng.usize(..4)];
    let to = SocketAddr::new(other(six), 80);
    Tcp::new(client(rng, six), to, flags).frame()
}

fn datagram(rng: &mut Rng, six: bool) -> Vec<u8> {
    let from = client(rng, six);
    let to = if rng.u8(..4) == 0 {
        from.ip()
    } else {
        other(six)
    };
    let builder = PacketBuilder::ethernet2([0; 6], [0; 6]);
    let builder = match (from.ip(), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("one family"),
    };
    let mut frame = Vec::new();
    let written = if rng.bool() {
        builder.udp(from.port(), 53).write(&mut frame, &[7; 9])
    } else if six {
        builder.icmpv6_echo_request(1, 2).write(&mut frame, &[7; 9])
    } else {
        builder.icmpv4_echo_request(1, 2).write(&mut frame, &[7; 9])
    };
    written.expect("a Vec takes all");
    frame
}

/// Who has this address? Or an answer, which is none of the program's business.
fn arp(rng: &mut Rng) -> Vec<u8> {
    let asked = [vip(false), other(false), client(rng, false).ip()][rng.usize(..3)];
    let IpAddr::V4(asked) = asked else {
        unreachable!("IPv4");
    };
    let mut frame = vec![0; 42];
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, rng.u8(1..3)]);
    frame[38..42].copy_from_slice(&asked.octets());
    if rng.bool() {
        frame[..6].fill(0xff);
    }
    frame
}
