//! Where the peer is on a link, by the kernel's table of neighbours.
//!
//! Owns: a netlink socket that hears changes of the peer's entries. Never: sends to the peer; its
//! heartbeats keep the entries fresh.
//!
//! Invariants:
//! * A filter in the kernel lets only entries of the peer's addresses through, so that a host with
//!   thousands of neighbours does not wake us for them.
//! * Only what the kernel itself would send to counts: an entry with an Ethernet address, in a valid
//!   state. An entry that fails or goes says nothing.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use rtnetlink::packet_core::{NLM_F_ACK, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use socket2::{SockFilter, SockRef};

use super::netlink::{DATAGRAM, Netlink, receive};
use crate::model::Mac;

/// Datagrams taken at once.
const AT_ONCE: usize = 64;

/// The peer's addresses, and an ear for what becomes of them.
#[derive(Debug)]
pub(super) struct Peer {
    ips: Vec<IpAddr>,
    socket: Socket,
    buffer: Vec<u8>,
}

/// An address of the peer is at `mac` on this link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sighting {
    pub(super) index: u32,
    pub(super) ip: IpAddr,
    pub(super) mac: Mac,
}

impl Peer {
    pub(super) fn open(ips: Vec<IpAddr>) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        // Before the group is joined, so that nothing slips through.
        SockRef::from(&socket).attach_filter(&filter(&ips))?;
        socket.add_membership(libc::RTNLGRP_NEIGH)?;
        Ok(Self {
            ips,
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// What the kernel knows now of this link. Changes that come later are heard.
    pub(super) fn look(&self, netlink: &mut Netlink, index: u32) -> Vec<Sighting> {
        let mut seen = Vec::new();
        for &ip in &self.ips {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = index;
            message.header.family = family(ip);
            let destination = NeighbourAttribute::Destination(ip.into());
            message.attributes.push(destination);
            let request = RouteNetlinkMessage::GetNeighbour(message);
            // No entry is an error, too (ENOENT). Whatever it is, the heartbeats make an entry soon,
            // and that is heard.
            let _ = netlink.request(NLM_F_ACK, request, |answer| {
                if let RouteNetlinkMessage::NewNeighbour(entry) = answer {
                    seen.extend(sighting(&entry));
                }
            });
        }
        seen
    }

    /// Takes what waits. False: the kernel had more to say than fitted, so [`look`](Self::look).
    pub(super) fn drain(&mut self, mut each: impl FnMut(Sighting)) -> bool {
        let mut whole = true;
        for _ in 0..AT_ONCE {
            let received = receive(&self.socket, &mut self.buffer, |message| {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) =
                    message.payload
                    && let Some(seen) = sighting(&entry)
                    && self.ips.contains(&seen.ip)
                {
                    each(seen);
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => whole = false,
            }
        }
        whole
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn sighting(entry: &NeighbourMessage) -> Option<Sighting> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let valid = matches!(
        entry.header.state,
        Delay | Permanent | Probe | Reachable | Stale
    );
    let ip = entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
            _ => None,
        });
    let mac = entry
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok().map(Mac),
            _ => None,
        })
        .filter(is_host);
    let (ip, mac) = ip.zip(mac).filter(|_| valid)?;
    Some(Sighting {
        index: entry.header.ifindex,
        ip,
        mac,
    })
}

/// One host's address: no group's and not nobody's.
pub(super) fn is_host(mac: &Mac) -> bool {
    mac.0[0] & 1 == 0 && *mac != Mac::default()
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// In `struct nlmsghdr`.
const MESSAGE_TYPE: u32 = 4;
/// In `struct ndmsg`, which follows it.
const FAMILY: u32 = 16;
/// `NDA_DST` is the first attribute that the kernel writes; its value.
const DESTINATION: u32 = 16 + 12 + 4;

/// "A neighbour's entry is new or otherwise, and it is one of these." A notification is one message.
/// What lies elsewhere than here is not let through; [`Peer::look`] would still find it.
fn filter(ips: &[IpAddr]) -> Vec<SockFilter> {
    // Loads are big-endian, the header is not.
    let kind = u16::from_be_bytes(libc::RTM_NEWNEIGH.to_ne_bytes());
    let drop = || SockFilter::new(RETURN, 0, 0, 0);
    let mut program = vec![
        SockFilter::new(LOAD_HALF, 0, 0, MESSAGE_TYPE),
        SockFilter::new(EQUAL, 1, 0, kind.into()),
        drop(),
    ];
    for ip in ips {
        let (family, octets) = match ip {
            IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
            IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
        };
        let (words, _) = octets.as_chunks::<4>();
        // Two instructions a word, and the acceptance: what a mismatch steps over.
        let mut rest = words.len() as u8 * 2 + 1;
        program.push(SockFilter::new(LOAD_BYTE, 0, 0, FAMILY));
        program.push(SockFilter::new(EQUAL, 0, rest, family as u32));
        for (at, word) in (DESTINATION..).step_by(4).zip(words) {
            rest -= 2;
            let word = u32::from_be_bytes(*word);
            program.push(SockFilter::new(LOAD_WORD, 0, 0, at));
            program.push(SockFilter::new(EQUAL, 0, rest, word));
        }
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(drop());
    program
}
