//! Raw sockets on an interface that carries floating addresses: neighbours' questions and claims
//! come in, announcements and answers go out.
//!
//! Not through `pnet::datalink`, whose channels make the interface promiscuous, are inherited by
//! children, and wait without limit. A filter in the kernel lets only ARP and neighbour discovery
//! through, so that data never wakes us.

use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::KernelError;
use crate::wire::announce::LONGEST;

/// Frames taken from one socket at once.
const AT_ONCE: usize = 64;

/// Whether raw sockets may be opened at all.
pub(super) fn permitted() -> Result<(), KernelError> {
    match Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(KernelError::NoNetRaw(error))
        }
        Err(error) => Err(KernelError::io("open a packet socket", error)),
    }
}

/// The sockets of one interface.
#[derive(Debug)]
pub(super) struct Port {
    arp: Socket,
    neighbours: Socket,
    /// Holds the memberships; nothing is received on it.
    _groups: Option<Socket>,
}

impl Port {
    /// Opens the sockets and joins the groups where solicitations for our addresses arrive.
    pub(super) fn open(interface: u32, groups: &[Ipv6Addr]) -> io::Result<Self> {
        let port = Self {
            arp: listen(interface, libc::ETH_P_ARP, &[])?,
            neighbours: listen(interface, libc::ETH_P_IPV6, &NEIGHBOUR_DISCOVERY)?,
            _groups: join(interface, groups),
        };
        Ok(port)
    }

    /// Sends a frame, now or not at all.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.arp.send(frame).map(drop)
    }

    /// Takes what waits.
    pub(super) fn drain(&self, mut each: impl FnMut(&[u8])) {
        for socket in [&self.arp, &self.neighbours] {
            let mut room = [0; LONGEST];
            for _ in 0..AT_ONCE {
                let mut socket: &Socket = socket;
                match socket.read(&mut room) {
                    Ok(length) => each(&room[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Such as "network is down", said once; the link's own news comes by netlink.
                    Err(_) => {}
                }
            }
        }
    }

    /// To be polled for reading.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.arp.as_fd(), self.neighbours.as_fd()]
    }
}

/// Filtered before it is bound, so that nothing slips through.
pub(super) fn listen(
    interface: u32,
    protocol: libc::c_int,
    filter: &[SockFilter],
) -> io::Result<Socket> {
    // Close-on-exec; protocol 0 receives nothing yet (packet(7)).
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    socket.bind(&address(interface, protocol as u16))?;
    Ok(socket)
}

fn address(interface: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types of this platform, and all-zero is valid.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a whole sockaddr_ll was written above.
    unsafe { SockAddr::new(storage, length) }
}

/// Joined on a socket of the address family, so that the kernel tells switches (MLD) and the
/// network card's filter. Joined for good, not only while we hold: then the master's first
/// question finds its way at once.
fn join(interface: u32, groups: &[Ipv6Addr]) -> Option<Socket> {
    if groups.is_empty() {
        return None;
    }
    let joined = Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|socket| {
        for group in groups {
            match socket.join_multicast_v6(group, interface) {
                // Two addresses can share a group.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                result => result?,
            }
        }
        Ok(socket)
    });
    joined
        .inspect_err(|error| {
            tracing::warn!(interface, %error, "cannot join the group of a floating address; \
                 neighbours may not reach it: is IPv6 switched off on the interface?");
        })
        .ok()
}

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// Bytes from the start of the frame.
const NEXT_HEADER: u32 = 14 + 6;
const ICMPV6_TYPE: u32 = 14 + 40;

/// IPv6 is given by the socket's protocol; of it, ICMPv6 of type 135 and 136.
const NEIGHBOUR_DISCOVERY: [SockFilter; 7] = [
    SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER),
    SockFilter::new(EQUAL, 0, 4, libc::IPPROTO_ICMPV6 as u32),
    SockFilter::new(LOAD_BYTE, 0, 0, ICMPV6_TYPE),
    SockFilter::new(EQUAL, 1, 0, 135),
    SockFilter::new(EQUAL, 0, 1, 136),
    SockFilter::new(RETURN, 0, 0, u32::MAX),
    SockFilter::new(RETURN, 0, 0, 0),
];
