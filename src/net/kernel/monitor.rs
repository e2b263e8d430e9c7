//! What changes in the kernel by somebody else's hand: links and addresses, as route netlink tells
//! its listeners (rtnetlink(7)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::netlink::{DATAGRAM, Message, receive};

/// Room for changes that wait for us; what does not fit is an overrun, after which we read anew.
const ROOM: usize = 1 << 20;
/// Datagrams taken at once, so that a storm cannot keep us from commands.
const AT_ONCE: usize = 64;

/// Hears what changes.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

/// What changed.
#[derive(Debug)]
pub(super) enum Change {
    /// A link is there, or is otherwise than it was.
    Link(LinkMessage),
    /// A link is gone.
    LinkGone(u32),
    /// An address left this device.
    AddressGone(u32),
    /// The kernel had more to say than fitted.
    Overrun,
}

impl Monitor {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Over the host's limit where that is permitted.
        if setsockopt(&socket, sockopt::RcvBufForce, &ROOM).is_err() {
            socket.set_rx_buf_sz(ROOM as libc::c_int)?;
        }
        socket.bind_auto()?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
        ] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Takes what waits.
    pub(super) fn drain(&mut self, changes: &mut Vec<Change>) {
        for _ in 0..AT_ONCE {
            let received = receive(&self.socket, &mut self.buffer, |message| {
                changes.extend(change(message));
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => changes.push(Change::Overrun),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn change(message: Message) -> Option<Change> {
    match message.payload {
        // Of another family: what a bridge says of its port, not what the link is.
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) if link.header.interface_family != AddressFamily::Unspec => None,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            Some(Change::Link(link))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
            Some(Change::LinkGone(link.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(address)) => {
            Some(Change::AddressGone(address.header.index))
        }
        NetlinkPayload::Overrun(_) => Some(Change::Overrun),
        _ => None,
    }
}
