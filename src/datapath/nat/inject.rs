//! Packets that were made in user space, on their way to the network.
//!
//! Raw sockets, so the kernel finds the route and the neighbour, and queues while it looks for the
//! latter. It looks for a route of the packet's own sender, as it does for what the program sends
//! on. What is sent passes netfilter's OUTPUT, and does not come to the program, which stands
//! at ingress.

use std::io::{self, IoSlice};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::engine::Packet;
use super::error::NatError;

/// Most packets of one system call.
const BATCH: usize = 64;
/// Bytes that may wait in a socket: some 20,000 handshakes at once.
const BUFFER: usize = 16 << 20;

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// The kernel took them.
    pub sent: u64,
    /// No route or no neighbour.
    pub unreachable: u64,
    /// No room in the socket or the device's queue.
    pub full: u64,
    /// Larger than the link's MTU.
    pub large: u64,
    /// Refused, by netfilter for example.
    pub refused: u64,
    /// Anything else.
    pub other: u64,
}

impl Sent {
    /// Their names and values.
    pub const fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("sent", self.sent),
            ("send_unreachable", self.unreachable),
            ("send_full", self.full),
            ("send_large", self.large),
            ("send_refused", self.refused),
            ("send_other", self.other),
        ]
    }

    const fn count(&mut self, errno: Errno) {
        let counter = match errno {
            // The last: IPv6, and no device has an address that could send there.
            Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::EADDRNOTAVAIL => &mut self.unreachable,
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => &mut self.full,
            Errno::EMSGSIZE => &mut self.large,
            Errno::EPERM | Errno::EACCES => &mut self.refused,
            _ => &mut self.other,
        };
        *counter += 1;
    }
}

/// The sockets.
#[derive(Debug)]
pub struct Injector {
    four: Socket,
    /// None on a host without IPv6.
    six: Option<Socket>,
    sent: Sent,
}

fn open(domain: Domain) -> io::Result<Socket> {
    // Nothing is ever received by this protocol (raw(7)).
    let protocol = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    if domain == Domain::IPV4 {
        socket.set_header_included_v4(true)?;
    } else {
        socket.set_header_included_v6(true)?;
        // A sender may be of another host, as clients are; IPv4 asks nothing of a raw socket.
        socket.set_freebind_v6(true)?;
    }
    // Beyond the host's limit, which is small, if we may.
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    Ok(socket)
}

impl Injector {
    /// Opens the sockets, in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`NatError::Raw`] without CAP_NET_RAW.
    pub fn open() -> Result<Self, NatError> {
        let raw = |source| NatError::Raw {
            what: "open a raw socket",
            source,
        };
        let six = match open(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            six => Some(six.map_err(raw)?),
        };
        Ok(Self {
            four: open(Domain::IPV4).map_err(raw)?,
            six,
            sent: Sent::default(),
        })
    }

    /// What became of all packets so far.
    pub const fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Sends packets, each family in its order, and never waits: what the kernel does not take is
    /// counted and forgotten. How many it took.
    pub fn send(&mut self, packets: &[Packet]) -> usize {
        let before = self.sent.sent;
        let (four, six): (Vec<&Packet>, Vec<&Packet>) =
            packets.iter().partition(|packet| packet.to.is_ipv4());
        for part in four.chunks(BATCH) {
            send_all(&self.four, part, &mut self.sent);
        }
        for part in six.chunks(BATCH) {
            match &self.six {
                Some(socket) => send_all(socket, part, &mut self.sent),
                None => self.sent.unreachable += part.len() as u64,
            }
        }
        usize::try_from(self.sent.sent - before).expect("at most as many as were given")
    }
}

/// Where it goes. The port must be zero (raw(7), ipv6(7)).
fn receiver(to: IpAddr) -> SockAddr {
    SocketAddr::new(to, 0).into()
}

fn send_all(socket: &Socket, packets: &[&Packet], sent: &mut Sent) {
    let receivers: Vec<SockAddr> = packets.iter().map(|packet| receiver(packet.to)).collect();
    let parts: Vec<[IoSlice<'_>; 1]> = packets
        .iter()
        .map(|packet| [IoSlice::new(&packet.bytes)])
        .collect();
    let mut senders: Vec<Control> = packets
        .iter()
        .map(|packet| Control::of(sender(&packet.bytes)))
        .collect();
    let mut messages: Vec<libc::mmsghdr> = receivers
        .iter()
        .zip(&parts)
        .zip(&mut senders)
        .map(|((receiver, part), sender)| message(receiver, part, sender))
        .collect();
    let mut rest = messages.as_mut_slice();
    while !rest.is_empty() {
        let count = u32::try_from(rest.len()).expect("a batch");
        // SAFETY: `rest` has `count` messages; their names, parts and controls point to `receivers`,
        // `parts`, `packets` and `senders`, which live until the end of this function, and are only
        // read.
        let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
        // The first that failed is skipped: an error is its own affair.
        let passed = match Errno::result(done) {
            Ok(done) => {
                let done = usize::try_from(done).unwrap_or(0);
                sent.sent += done as u64;
                done
            }
            Err(Errno::EINTR) => 0,
            Err(errno) => {
                sent.count(errno);
                1
            }
        };
        rest = rest.split_at_mut(passed).1;
    }
}

/// The sender that a packet names.
fn sender(packet: &[u8]) -> IpAddr {
    let four = packet.get(12..).and_then(<[u8]>::first_chunk::<4>);
    let six = packet.get(8..).and_then(<[u8]>::first_chunk::<16>);
    match (packet.first().map(|first| first >> 4), four, six) {
        (Some(6), _, Some(six)) => (*six).into(),
        (_, Some(four), _) => (*four).into(),
        // Shorter than any header: the kernel will say so.
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// A control message as cmsg(3) lays it out: the data follow the header, aligned as it is.
#[repr(C)]
struct Told<T> {
    header: libc::cmsghdr,
    data: T,
}

impl<T> Told<T> {
    fn new(level: libc::c_int, kind: libc::c_int, data: T) -> Self {
        // SAFETY: zero is a value of every field.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (offset_of!(Self, data) + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        Self { header, data }
    }
}

/// Whose route a packet takes: the sender in its own header is none of the route's concern
/// (ip(7), `IP_PKTINFO`; ipv6(7), `IPV6_PKTINFO`).
enum Control {
    Four(Told<libc::in_pktinfo>),
    Six(Told<libc::in6_pktinfo>),
}

impl Control {
    fn of(sender: IpAddr) -> Self {
        match sender {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(ip).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Self::Four(Told::new(libc::IPPROTO_IP, libc::IP_PKTINFO, info))
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                Self::Six(Told::new(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info))
            }
        }
    }

    /// Where it is, and how long.
    fn place(&mut self) -> (*mut libc::c_void, usize) {
        match self {
            Self::Four(told) => ((&raw mut *told).cast(), size_of_val(told)),
            Self::Six(told) => ((&raw mut *told).cast(), size_of_val(told)),
        }
    }
}

fn message(receiver: &SockAddr, part: &[IoSlice<'_>; 1], sender: &mut Control) -> libc::mmsghdr {
    // SAFETY: zero is a value of every field: null pointers, and lengths of nothing.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    let (control, length) = sender.place();
    message.msg_hdr.msg_name = receiver.as_ptr().cast_mut().cast();
    message.msg_hdr.msg_namelen = receiver.len();
    message.msg_hdr.msg_iov = part.as_ptr().cast_mut().cast();
    message.msg_hdr.msg_iovlen = part.len();
    message.msg_hdr.msg_control = control;
    message.msg_hdr.msg_controllen = length as _;
    message
}
