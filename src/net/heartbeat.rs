//! Heartbeat sockets: one connected UDP socket a path.
//!
//! Connected, because the kernel then drops what does not come from the peer's address and port,
//! and reports an ICMP port unreachable as `ECONNREFUSED` (udp(7), ip(7)): the peer's kernel lives
//! and its process does not. A pending error of that kind is given to the next receive *or* the
//! next send, whichever comes first, so both report it. The peer's kernel limits how many of these
//! it sends (`icmp_ratelimit`, icmp(7)), so their absence means nothing.
//!
//! Owns: the sockets. Never: opens a seal, decides what silence means.
//! Invariants: sending never waits; what arrives waits in a bounded queue, and what does not fit is
//! dropped and counted.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{CloseOrder, move_high};
use crate::model::PathId;
use crate::wire::seal::MAX_DATAGRAM;

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
}

impl Heartbeats {
    /// Opens a socket for each `(path, local, remote)`.
    ///
    /// An address that is not there yet (at boot) is tried again every second in the background;
    /// the log says so once. Must be called within a tokio runtime.
    pub fn open(paths: &[(PathId, SocketAddr, SocketAddr)]) -> (Self, mpsc::Receiver<Arrival>) {
        let (arrivals, receiver) = mpsc::channel(ARRIVALS);
        let overflows = Arc::new(AtomicU64::new(0));
        let mut sockets = BTreeMap::new();
        let mut receivers = JoinSet::new();
        for &(path, local, remote) in paths {
            let slot = Arc::new(OnceLock::new());
            // The first attempt happens here, so that a heartbeat can go out at once.
            let first = connected(local, remote);
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
                arrivals: arrivals.clone(),
                overflows: Arc::clone(&overflows),
            };
            receivers.spawn(async move { link.receive(&slot).await });
        }
        let heartbeats = Self {
            sockets,
            overflows,
            _receivers: receivers,
        };
        (heartbeats, receiver)
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
            if let Ok(socket) = connected(self.local, self.remote) {
                tracing::info!(local = %self.local, remote = %self.remote, "heartbeat path is open");
                // Only this task sets it.
                let _ = slot.set(socket);
            }
        }
    }
}

fn connected(local: SocketAddr, remote: SocketAddr) -> io::Result<UdpSocket> {
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
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    let high = move_high(OwnedFd::from(socket), CloseOrder::First);
    UdpSocket::from_std(StdUdpSocket::from(high))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    const PATH: PathId = PathId(3);

    /// Heartbeats on 127.0.0.1 towards a plain socket on 127.0.0.2 that is connected back.
    fn pair() -> (Heartbeats, mpsc::Receiver<Arrival>, StdUdpSocket) {
        let peer = StdUdpSocket::bind("127.0.0.2:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let remote = peer.local_addr().unwrap();
        let (beats, arrivals) = Heartbeats::open(&[(PATH, "127.0.0.1:0".parse().unwrap(), remote)]);
        peer.connect(beats.local_addr(PATH).unwrap()).unwrap();
        (beats, arrivals, peer)
    }

    async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
        tokio::time::timeout(Duration::from_secs(5), arrivals.recv())
            .await
            .expect("an arrival in time")
            .expect("the receivers live")
    }

    #[tokio::test]
    async fn datagrams_go_both_ways_and_the_first_one_goes_at_once() {
        let (beats, mut arrivals, peer) = pair();
        assert_eq!(beats.try_send(PATH, b"there"), SendOutcome::Sent);
        let mut buffer = [0; 64];
        assert_eq!(peer.recv(&mut buffer).unwrap(), 5);
        peer.send(b"back").unwrap();
        assert_eq!(
            next(&mut arrivals).await,
            Arrival::Datagram {
                path: PATH,
                bytes: b"back".to_vec()
            }
        );
    }

    #[tokio::test]
    async fn a_stranger_is_not_heard() {
        let (beats, mut arrivals, peer) = pair();
        let stranger = StdUdpSocket::bind("127.0.0.3:0").unwrap();
        let here = beats.local_addr(PATH).unwrap();
        stranger.send_to(b"stranger", here).unwrap();
        let other_port = StdUdpSocket::bind("127.0.0.2:0").unwrap();
        other_port.send_to(b"other port", here).unwrap();
        peer.send(b"peer").unwrap();
        assert_eq!(
            next(&mut arrivals).await,
            Arrival::Datagram {
                path: PATH,
                bytes: b"peer".to_vec()
            }
        );
        assert!(arrivals.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_closed_port_is_reported_by_the_receiver() {
        let (beats, mut arrivals, peer) = pair();
        drop(peer);
        assert_eq!(beats.try_send(PATH, b"anyone?"), SendOutcome::Sent);
        assert_eq!(
            next(&mut arrivals).await,
            Arrival::PortClosed { path: PATH }
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_reported_by_the_next_send_if_that_comes_first() {
        let (beats, _arrivals, peer) = pair();
        drop(peer);
        // No await in between: the receiver has no chance to take the error.
        assert_eq!(beats.try_send(PATH, b"anyone?"), SendOutcome::Sent);
        assert_eq!(beats.try_send(PATH, b"anyone?"), SendOutcome::PortClosed);
    }

    #[tokio::test]
    async fn an_oversized_datagram_arrives_one_byte_too_long() {
        let (_beats, mut arrivals, peer) = pair();
        peer.send(&[0; 2_000]).unwrap();
        let Arrival::Datagram { bytes, .. } = next(&mut arrivals).await else {
            panic!("a datagram");
        };
        assert_eq!(bytes.len(), MAX_DATAGRAM + 1);
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let (beats, mut arrivals, peer) = pair();
        let mut sent = 0;
        while beats.overflows() == 0 && sent < 20 * ARRIVALS {
            for _ in 0..50 {
                peer.send(b"flood").unwrap();
            }
            sent += 50;
            tokio::task::yield_now().await;
        }
        assert!(beats.overflows() > 0);
        let mut queued = 0;
        while arrivals.try_recv().is_ok() {
            queued += 1;
        }
        assert_eq!(queued, ARRIVALS);
    }

    #[tokio::test]
    async fn a_path_whose_address_is_taken_opens_later() {
        let peer = StdUdpSocket::bind("127.0.0.2:0").unwrap();
        let blocker = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        let local = blocker.local_addr().unwrap();
        let (beats, mut arrivals) = Heartbeats::open(&[(PATH, local, peer.local_addr().unwrap())]);
        assert_eq!(beats.try_send(PATH, b"early"), SendOutcome::Dropped);
        assert_eq!(beats.try_send(PathId(9), b"no path"), SendOutcome::Dropped);
        drop(blocker);
        tokio::time::sleep(REOPEN + Duration::from_millis(300)).await;
        peer.send_to(b"now", local).unwrap();
        assert_eq!(
            next(&mut arrivals).await,
            Arrival::Datagram {
                path: PATH,
                bytes: b"now".to_vec()
            }
        );
        assert_eq!(beats.try_send(PATH, b"now"), SendOutcome::Sent);
    }

    #[tokio::test]
    async fn an_address_that_the_host_does_not_have_is_no_end() {
        let (beats, _arrivals) = Heartbeats::open(&[(
            PATH,
            "192.0.2.1:7373".parse().unwrap(),
            "192.0.2.2:7373".parse().unwrap(),
        )]);
        assert_eq!(beats.try_send(PATH, b"x"), SendOutcome::Dropped);
        assert_eq!(beats.local_addr(PATH), None);
    }

    #[tokio::test]
    async fn the_socket_is_marked_and_lies_above_ordinary_descriptors() {
        let (beats, _arrivals, peer) = pair();
        let socket = beats.sockets[&PATH].get().unwrap();
        assert_eq!(SockRef::from(socket).tos_v4().unwrap(), CS6);
        assert_eq!(SockRef::from(socket).priority().unwrap(), QUEUE_PRIORITY);
        assert!(socket.as_raw_fd() > peer.as_raw_fd() + 100);
        let flags = nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}
