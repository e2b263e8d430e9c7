//! What the kernel mode needs to know of its host.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};

use super::engine::{Link, Links};
use super::error::{NatError, attach_error};
use super::program::{Nat, Sizes};

nix::ioctl_readwrite_bad!(get_mtu, libc::SIOCGIFMTU, libc::ifreq);

/// The MTU of an interface of this thread's network namespace, in bytes.
fn mtu(interface: &str) -> io::Result<u32> {
    // Any socket serves to ask (netdevice(7)).
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"))?;
    // SAFETY: zero is a value of every field: numbers, and a union of plain ones.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request is a live value, with a name that ends with zero.
    unsafe { get_mtu(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: that is the field which this request fills in.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(io::Error::other)
}

fn link(interface: &str) -> io::Result<Link> {
    Ok(Link {
        ifindex: if_nametoindex(interface)?,
        mtu: mtu(interface)?,
    })
}

/// These interfaces, and the time.
pub(super) fn links(interfaces: &BTreeSet<&str>) -> Result<Links, NatError> {
    let mut found = BTreeMap::new();
    for interface in interfaces {
        let link = link(interface).map_err(|error| {
            attach_error(interface, ProgramError::from(TcError::IoError(error)))
        })?;
        found.insert((*interface).to_owned(), link);
    }
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    let zero = read(ClockId::CLOCK_REALTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC));
    Ok(Links {
        interfaces: found,
        unix_ms_at_zero: u64::try_from(zero.as_millis()).unwrap_or(0),
    })
}

/// Loads the program with small tables and throws it away again: what this host lacks, as a start
/// would find it. What is given back is why the death of a process would be noticed late, if so.
///
/// # Errors
///
/// What is missing, and what to do.
pub fn rehearse() -> Result<Option<String>, NatError> {
    let sizes = Sizes {
        flows: 1_024,
        ..Sizes::default()
    };
    Nat::load(&sizes).map(|nat| nat.unwatched)
}

/// Where the program is, in words.
pub(super) fn places(nat: &Nat) -> impl Iterator<Item = String> {
    let places = nat.places();
    places.map(|(interface, hook)| format!("{interface} ({})", hook.name()))
}
