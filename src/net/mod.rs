//! Adapters to the network and to the host: sockets, addresses, clock, entropy, the dead-man timer.
//!
//! Owns: every socket that is not a client's or a backend's, and every netlink message. Never:
//! decides anything.

pub mod clock;
mod door;
pub mod guard;
pub mod heartbeat;
pub mod kernel;
pub mod key;
pub mod session;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};

/// Who hears first that this process died. The kernel closes the files of a dying process from
/// the highest descriptor down (measured on Linux 6.18; not a promise of any manual page, so this
/// makes detection faster and nothing depends on it).
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseOrder {
    /// Heartbeat sockets, so that the peer's probes find the port closed when it sees the session
    /// end.
    First = 1,
    /// Listeners of the session, so that a redial is refused instead of queued.
    Second = 2,
    /// The session's stream: its end is the news.
    Third = 3,
}

/// Descriptors for each of the three.
const PER_ORDER: u64 = 32;
/// The kernel's descriptor table grows to the highest one used; this keeps it at 8 MiB.
const HIGHEST: u64 = 1 << 20;

/// Moves a descriptor to the top of what `RLIMIT_NOFILE` allows now, below those of an earlier
/// order. Raise the limit before. Where that fails, the descriptor stays as it is.
pub(crate) fn move_high(fd: OwnedFd, order: CloseOrder) -> OwnedFd {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return fd;
    };
    let lowest = soft
        .min(HIGHEST)
        .saturating_sub(PER_ORDER * order as u64)
        .max(u64::try_from(fd.as_raw_fd()).unwrap_or(0));
    let Ok(lowest) = i32::try_from(lowest) else {
        return fd;
    };
    match fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(lowest)) {
        // SAFETY: fcntl(2) has just made this descriptor, and nobody else knows it.
        Ok(high) => unsafe { OwnedFd::from_raw_fd(high) },
        Err(_) => fd,
    }
}
