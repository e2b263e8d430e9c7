//! What user space and the program share: the maps' keys and values, and the names of things.
//!
//! `bpf/layout.h` says the same in C and explains each field; a test compares the two, and the
//! object itself carries the offsets that its compiler chose. All numbers are in host byte order
//! except [`Port`] and [`Address`], which are as on the wire.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address as on the wire. IPv4 uses the first four bytes and leaves the rest zero.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Address(pub [u8; 16]);

/// A port as on the wire.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Port(pub [u8; 2]);

/// IPv4 or IPv6, as keys name it.
pub const V4: u32 = 4;
/// See [`V4`].
pub const V6: u32 = 6;

impl Address {
    /// The address of this family.
    pub fn ip(self, family: u32) -> IpAddr {
        let [a, b, c, d, ..] = self.0;
        if family == V4 {
            Ipv4Addr::new(a, b, c, d).into()
        } else {
            Ipv6Addr::from(self.0).into()
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes = ip.octets(),
        }
        Self(bytes)
    }
}

impl Port {
    /// In host byte order.
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Self {
        Self(port.to_be_bytes())
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

const fn family(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

/// A packet's sender and receiver, as seen on the wire before translation.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct FlowKey {
    /// Sender.
    pub src: Address,
    /// Receiver.
    pub dst: Address,
    /// Sender's port.
    pub sport: Port,
    /// Receiver's port.
    pub dport: Port,
    /// [`V4`] or [`V6`].
    pub family: u32,
}

impl FlowKey {
    /// The key of packets from one to the other; both must be of one family.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            src: from.ip().into(),
            dst: to.ip().into(),
            sport: from.port().into(),
            dport: to.port().into(),
            family: family(from.ip()),
        }
    }

    /// Who sends.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.src.ip(self.family), self.sport.get())
    }

    /// To whom.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.dst.ip(self.family), self.dport.get())
    }
}

/// One direction of a flow: what becomes of a packet with its key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Flow {
    /// New sender.
    pub to_src: Address,
    /// New receiver.
    pub to_dst: Address,
    /// New sender's port.
    pub to_sport: Port,
    /// New receiver's port.
    pub to_dport: Port,
    /// Id of the service.
    pub service: u32,
    /// Id of the backend.
    pub backend: u32,
    /// Device by which translated packets leave; 0: by which they came.
    pub ifindex: u32,
    /// The client's initial sequence number.
    pub client_isn: u32,
    /// The backend's; valid from [`State::Answered`](super::State::Answered) on.
    pub backend_isn: u32,
    /// A [`State`](super::State).
    pub state: u8,
    /// `FLOW_*`.
    pub flags: u8,
    /// `MARK_*`.
    pub marks: u8,
    /// Zero.
    pub zero: u8,
    /// As its service's.
    pub mss: u32,
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds.
    pub opened: u64,
    /// Last packet of this direction, same clock.
    pub seen: u64,
    /// Packets of this direction; a super-packet counts once.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// What the sender of this direction will send next, by its last packet that was no RST:
    /// sequence number, payload, SYN and FIN.
    pub seq: u32,
    /// What it acknowledged last.
    pub ack: u32,
}

impl Flow {
    /// The key of the other direction.
    pub const fn opposite(&self, family: u32) -> FlowKey {
        FlowKey {
            src: self.to_dst,
            dst: self.to_src,
            sport: self.to_dport,
            dport: self.to_sport,
            family,
        }
    }
}

/// The key is the client's, else the backend's.
pub const FLOW_CLIENT: u8 = 1;
/// The client gets its SYN-ACK from user space, once the standby knows the flow: the program holds
/// each that comes before the flow is established.
pub const FLOW_SYNC: u8 = 2;
/// A refusing backend is hidden from the client: user space tries another.
pub const FLOW_RETRY: u8 = 4;
/// The client's address and port are kept.
pub const FLOW_DNAT: u8 = 8;

/// The client sent FIN.
pub const MARK_CLIENT_FIN: u8 = 1;
/// The backend sent FIN.
pub const MARK_BACKEND_FIN: u8 = 2;
/// The client, or somebody in its name, sent RST.
pub const MARK_CLIENT_RST: u8 = 4;
/// The backend, or somebody in its name, sent RST.
pub const MARK_BACKEND_RST: u8 = 8;

/// Where a service listens; with port 0, an address of ours.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// Port.
    pub port: Port,
    /// Zero.
    pub zero: u16,
    /// [`V4`] or [`V6`].
    pub family: u32,
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        Self {
            address: at.ip().into(),
            port: at.port().into(),
            zero: 0,
            family: family(at.ip()),
        }
    }
}

impl From<IpAddr> for Endpoint {
    fn from(ip: IpAddr) -> Self {
        SocketAddr::new(ip, 0).into()
    }
}

/// A service, and where its slots are. Written whole, so its slots change in one step: fill a
/// part of `slots` that nobody reads, then point `first` to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Service {
    /// Its id.
    pub id: u32,
    /// `SERVICE_*`.
    pub flags: u32,
    /// A [`Scheduler`](super::Scheduler).
    pub scheduler: u32,
    /// Its first slot.
    pub first: u32,
    /// How many; 0: nobody serves.
    pub slots: u32,
    /// Its counter in `turns`.
    pub turn: u32,
    /// Seed of the hash.
    pub seed: u32,
    /// The largest segment that fits all our links: the least MTU less 40 (IPv4) or 60 (IPv6).
    /// Larger ones that a client or backend announces are lowered to it, since no ICMP error
    /// tells of a link of ours. 0: as announced.
    pub mss: u32,
    /// Most flows that one [`Source`] opens in a second. 0: no limit.
    pub source_rate: u32,
}

/// Whom a rate is for: an IPv4 address, or a /64 of IPv6, whose holder has all of its addresses.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Source {
    /// As on the wire; IPv4 uses the first four bytes and leaves the rest zero.
    pub net: [u8; 8],
    /// Id of the service.
    pub service: u32,
    /// [`V4`] or [`V6`].
    pub family: u32,
}

/// What a [`Source`] asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Window {
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds. It lasts a second.
    pub start: u64,
    /// SYNs that would open a flow since then, with those that were dropped.
    pub syns: u64,
}

/// User space is told of packets that deserve a RST.
pub const SERVICE_REJECT: u32 = 1;
/// New flows carry [`FLOW_SYNC`].
pub const SERVICE_SYNC: u32 = 2;
/// New flows carry [`FLOW_RETRY`].
pub const SERVICE_RETRY: u32 = 4;
/// New flows carry [`FLOW_DNAT`].
pub const SERVICE_DNAT: u32 = 8;

/// A slot without a backend.
pub const NO_BACKEND: u32 = u32::MAX;

/// A backend. An index is never given to another one while a slot names it: the kernel copies a
/// value while the program reads it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Backend {
    /// Its address.
    pub address: Address,
    /// Our address towards it; unused with [`SERVICE_DNAT`].
    pub source: Address,
    /// Its port; 0: no backend.
    pub port: Port,
    /// Zero.
    pub zero: u16,
    /// Its id.
    pub id: u32,
    /// The device that leads to it; 0: the one by which the client came.
    pub ifindex: u32,
    /// Zero.
    pub zero2: u32,
}

/// What an address of ours is for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Owned {
    /// `OWNED_*`.
    pub flags: u32,
}

/// Its ports within the range belong to flows.
pub const OWNED_SOURCE: u32 = 1;
/// User space is told of packets that match no flow.
pub const OWNED_REJECT: u32 = 2;
/// A service of the kernel mode or a source: TCP that cannot be translated is refused.
pub const OWNED_NAT: u32 = 4;
/// All that comes for it is the master's: relayed by a node that is not.
pub const OWNED_VIP: u32 = 8;
/// What is not decided is the peer's.
pub const FROZEN_ALL: u64 = 1;
/// The peer is about to lead: what is not decided is its own already.
pub const FROZEN_OFFERED: u64 = 2;

/// What this node may do; times are `CLOCK_MONOTONIC`, nanoseconds. Each word is for itself: they
/// are not written in one step.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Right {
    /// Decide and forward until then.
    pub until: u64,
    /// Handshakes wait for the standby's word until then: no process hangs for so short.
    pub waits: u64,
    /// [`FROZEN_ALL`], [`FROZEN_OFFERED`]: only the flows that are there.
    pub frozen: u64,
    /// As standby: until then, what the peer hands over is ours.
    pub accept: u64,
    /// As master: until then, the peer gets what belongs to no flow and no socket.
    pub second: u64,
}

/// Where the two nodes are on an interface.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Neighbour {
    /// This node.
    pub own: [u8; 6],
    /// Its peer.
    pub peer: [u8; 6],
    /// Zero.
    pub zero: u32,
}

/// The process that leads the program, as stat(2) of its `/proc/self/ns/pid` and getpid(2) say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Life {
    /// Device of its PID namespace.
    pub dev: u64,
    /// Inode of it.
    pub ino: u64,
    /// Its number there.
    pub pid: u32,
    /// Not 0: its main thread has ended.
    pub dead: u32,
}

/// A neighbour that still sends a VIP's packets to this node, which is not master.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Stale {
    /// The VIP.
    pub vip: Address,
    /// The packet's sender.
    pub sender: Address,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The interface by which it came.
    pub ifindex: u32,
    /// Who sent the frame.
    pub mac: [u8; 6],
    /// Zero.
    pub zero: u16,
}

/// Ports towards the backends, inclusive.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Those of both nodes.
    pub range_first: u16,
    /// Last of them.
    pub range_last: u16,
    /// Those that this node takes.
    pub own_first: u16,
    /// Last of them.
    pub own_last: u16,
}

/// Something happened to a flow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Event {
    /// An [`EventKind`](super::EventKind).
    pub kind: u32,
    /// A [`Cause`](super::Cause).
    pub cause: u32,
    /// The client's key.
    pub key: FlowKey,
    /// The client's entry after the packet.
    pub flow: Flow,
    /// What the other direction counted.
    pub back_packets: u64,
    /// See `back_packets`.
    pub back_bytes: u64,
}

/// Most bytes of a SYN or SYN-ACK that are kept.
pub const SYN_MAX: usize = 128;

/// The record of [`EventKind::Opened`](super::EventKind::Opened) with the SYN, and of
/// [`EventKind::Established`](super::EventKind::Established) of a flow with [`FLOW_SYNC`] with
/// the SYN-ACK that waits: from the IP header on, before translation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Carried {
    /// The event.
    pub event: Event,
    /// Bytes of `packet`.
    pub length: u32,
    /// Zero.
    pub zero: u32,
    /// The packet.
    pub packet: [u8; SYN_MAX],
}

/// A packet that deserves a RST.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Refusal {
    /// Its key.
    pub key: FlowKey,
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement.
    pub ack: u32,
    /// Sequence numbers it takes.
    pub length: u32,
    /// A [`Counter`](super::Counter).
    pub reason: u16,
    /// TCP's flags.
    pub flags: u8,
    /// Zero.
    pub zero: u8,
}

/// Types that go through maps and rings as bytes.
macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: `repr(C)`, only integers and arrays of them, every bit pattern is a value, and
        // no padding: the test `no_padding` adds the fields up.
        unsafe impl aya::Pod for $name {}
    )*};
}

plain!(FlowKey Flow Endpoint Service Source Window Backend Owned Right Neighbour Life Stale Settings Event Carried Refusal);

/// A record of a ring, if it has the size of this type.
pub(super) fn record<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    (bytes.len() == size_of::<T>()).then(|| {
        // SAFETY: as many bytes as the type has, and any bytes are a value of a `Pod`.
        unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
    })
}

#[cfg(test)]
#[path = "layout_test.rs"]
mod tests;
