//! Packet sockets of the lab (packet(7)).

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, socket,
};

/// A socket that gets the frames of this protocol on this interface; 0: on every one. It belongs
/// to the namespace of the thread that opens it.
pub(super) fn open(protocol: i32, interface: u32, flags: SockFlag) -> io::Result<OwnedFd> {
    // No protocol yet: nothing shall be queued before the socket is bound to its interface.
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        flags | SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (protocol as u16).to_be(),
        sll_ifindex: interface as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let raw = (&raw const address).cast::<libc::sockaddr>();
    // SAFETY: `address` is a whole sockaddr_ll, which is what its family says.
    let address = unsafe { LinkAddr::from_raw(raw, None) }.ok_or(ErrorKind::InvalidInput)?;
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}
