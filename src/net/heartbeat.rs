//! Heartbeat sockets: one connected UDP socket a path.
//!
//! Connected, because the kernel then drops what does not come from the peer's address and port,
//! and reports an ICMP port unreachable as `ECONNREFUSED` (udp(7), ip(7)): the peer's kernel lives
//! and its process does not. A pending error of that kind is given to the next receive *or* the
//! next send, whichever comes first, so both report it. The peer's kernel limits how many of these
//! it sends (`icmp_ratelimit`, icmp(7)), so their absence means nothing.
//!
//! A filter in the kernel (`net::door`) drops what does not begin like the peer's heartbeats before it
//! takes room in the socket's buffer, so that a flood of garbage under the peer's address costs no
//! heartbeat and no turn of the loop.
//!
//! Owns: the sockets. Never: opens a seal, decides what silence means.
//! Invariants: sending never waits; what arrives waits in a bounded queue, and what does not fit is
//! dropped and counted.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{CloseOrder, door, move_high};
use crate::model::PathId;
use crate::wire::seal::{Knock, MAX_DATAGRAM};

/// Arrivals that wait for the turn loop, over all paths.
pub const ARRIVALS: usize = 1_024;
/// Time between attempts to open a socket whose address is not there yet.
const REOPEN: Duration = Duration::from_secs(1);
/// Pause after an error that should not come in a row, so that it cannot spin.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Differentiated services: class selector 6, network control (RFC 2474; RFC 4594, 3.1), as VRRP
/// implementations send.
const CS6: u32 = 0xc0;
/// Highest priority of a packet in the local queues that needs no capability (socket(7)).
const QUEUE_PRIORITY: u32 = 6;

/// Something came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// A datagram from the peer's address. Not authenticated.
    Datagram {
        /// The path.
        path: PathId,
        /// Everything in it; one that is longer than `MAX_DATAGRAM` is cut to one byte more.
        bytes: Vec<u8>,
    },
    /// The peer's kernel says that nobody listens there. Not authenticated.
    PortClosed {
        /// The path.
        path: PathId,
    },
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendOutcome {
    /// The kernel took it.
    Sent,
    /// It did not go: the socket is full or not open yet, or there is no route.
    Dropped,
    /// An earlier datagram met a closed port. This one was then tried again and may have gone.
    PortClosed,
}

/// The sockets of all paths. Dropping it closes them.
#[derive(Debug)]
pub struct Heartbeats {
    sockets: BTreeMap<PathId, Arc<OnceLock<UdpSocket>>>,
    overflows: Arc<AtomicU64>,
    /// Ends the receivers when dropped.
    _receivers: JoinSet<()>,
    knocks: Arc<Mutex<[Knock; 2]>>,
}

impl Heartbeats {
    /// Opens a socket for each `(path, local, remote)`, for heartbeats that begin with one of
    /// `knocks`.
    ///
    /// An address that is not there yet (at boot) is tried again every second in the background;
    /// the log says so once. Must be called within a tokio runtime.
    pub fn open(
        paths: &[(PathId, SocketAddr, SocketAddr)],
        knocks: [Knock; 2],
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(ARRIVALS);
        let overflows = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Mutex::new(knocks));
        let mut sockets = BTreeMap::new();
        let mut receivers = JoinSet::new();
        for &(path, local, remote) in paths {
            let slot = Arc::new(OnceLock::new());
            // The first attempt happens here, so that a heartbeat can go out at once.
            let first = connected(local, remote, knocks);
            if let Err(error) = &first {
                tracing::warn!(%local, %remote, %error, "heartbeat path cannot open yet; retrying");
            }
            if let Ok(socket) = first {
                // A fresh slot takes the value.
                let _ = slot.set(socket);
            }
            sockets.insert(path, Arc::clone(&slot));
            let link = Link {
                path,
                local,
                remote,
                knocks: Arc::clone(&shared),
                arrivals: arrivals.clone(),
                overflows: Arc::clone(&overflows),
            };
            receivers.spawn(async move { link.receive(&slot).await });
        }
        let heartbeats = Self {
            sockets,
            overflows,
            _receivers: receivers,
            knocks: shared,
        };
        (heartbeats, receiver)
    }

    /// Heartbeats begin with one of these from now on. None is lost that begins as before and now.
    pub fn rekey(&self, knocks: [Knock; 2]) {
        *lock(&self.knocks) = knocks;
        for socket in self.sockets.values().filter_map(|slot| slot.get()) {
            // As at the start: without a filter it goes, too.
            let _ = SockRef::from(socket).attach_filter(&door::filter(knocks));
        }
    }

    /// Sends a datagram, now or not at all.
    pub fn try_send(&self, path: PathId, bytes: &[u8]) -> SendOutcome {
        let Some(socket) = self.sockets.get(&path).and_then(|slot| slot.get()) else {
            return SendOutcome::Dropped;
        };
        // Not through tokio, which would say "would block" until its first look at the socket.
        let socket = SockRef::from(socket);
        match socket.send(bytes) {
            Ok(_) => SendOutcome::Sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => SendOutcome::Dropped,
            Err(error) => {
                // The error may belong to an earlier datagram; reporting it has cleared it, and
                // nothing was sent.
                let again = socket.send(bytes);
                match (error.kind(), again) {
                    (io::ErrorKind::ConnectionRefused, _) => SendOutcome::PortClosed,
                    (_, Ok(_)) => SendOutcome::Sent,
                    (_, Err(_)) => SendOutcome::Dropped,
                }
            }
        }
    }

    /// Arrivals that were dropped because the turn loop did not take them.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Datagrams that the kernel dropped before they were read: not ours, or no room.
    pub fn unread(&self) -> u64 {
        let sockets = self.sockets.values().filter_map(|slot| slot.get());
        sockets.map(|socket| u64::from(drops(socket))).sum()
    }

    /// The bound address of a path, once it is open.
    pub fn local_addr(&self, path: PathId) -> Option<SocketAddr> {
        self.sockets.get(&path)?.get()?.local_addr().ok()
    }
}

/// The receiving end of one path.
struct Link {
    path: PathId,
    local: SocketAddr,
    remote: SocketAddr,
    knocks: Arc<Mutex<[Knock; 2]>>,
    arrivals: mpsc::Sender<Arrival>,
    overflows: Arc<AtomicU64>,
}

impl Link {
    async fn receive(self, slot: &OnceLock<UdpSocket>) {
        let socket = self.opened(slot).await;
        let path = self.path;
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            let arrival = match socket.recv(&mut buffer).await {
                Ok(length) => Arrival::Datagram {
                    path,
                    bytes: buffer[..length].to_vec(),
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Arrival::PortClosed { path }
                }
                Err(error) => {
                    tracing::debug!(path = path.0, %error, "heartbeat socket");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            match self.arrivals.try_send(arrival) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.overflows.fetch_add(1, Ordering::Relaxed);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    async fn opened<'a>(&self, slot: &'a OnceLock<UdpSocket>) -> &'a UdpSocket {
        loop {
            if let Some(socket) = slot.get() {
                return socket;
            }
            tokio::time::sleep(REOPEN).await;
            // Held, so that no other knocks come between.
            let knocks = lock(&self.knocks);
            if let Ok(socket) = connected(self.local, self.remote, *knocks) {
                tracing::info!(local = %self.local, remote = %self.remote, "heartbeat path is open");
                // Only this task sets it.
                let _ = slot.set(socket);
            }
        }
    }
}

fn lock(knocks: &Mutex<[Knock; 2]>) -> MutexGuard<'_, [Knock; 2]> {
    knocks.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connected(local: SocketAddr, remote: SocketAddr, knocks: [Knock; 2]) -> io::Result<UdpSocket> {
    // socket2 opens with close-on-exec.
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Better service where the network offers it; a heartbeat goes without, too. Fragmentation
    // needs no care: a datagram is shorter than the least MTU that the kernel believes in.
    let _ = match local {
        SocketAddr::V4(_) => socket.set_tos_v4(CS6),
        SocketAddr::V6(_) => socket.set_tclass_v6(CS6),
    };
    let _ = socket.set_priority(QUEUE_PRIORITY);
    // Without it, garbage costs a system call and a turn each, no more.
    let _ = socket.attach_filter(&door::filter(knocks));
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    let high = move_high(OwnedFd::from(socket), CloseOrder::First);
    UdpSocket::from_std(StdUdpSocket::from(high))
}

/// The socket's own count of dropped datagrams (`SK_MEMINFO_DROPS`).
fn drops(socket: &UdpSocket) -> u32 {
    /// Place and number of the values (linux/sock_diag.h).
    const DROPS: usize = 8;
    const VALUES: usize = 9;
    let mut values = [0_u32; VALUES];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `values`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { values[DROPS] } else { 0 }
}

#[cfg(test)]
#[path = "heartbeat_test.rs"]
mod tests;
