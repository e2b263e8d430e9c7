//! The listening side: accept on every path, let the peer's addresses try the handshake.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::stream::{self, Established};
use super::{AllKeys, HANDSHAKES, SessionError, Shared, tune};
use crate::net::{CloseOrder, move_high};

/// Time between attempts to listen on an address that is not there yet.
const REOPEN: Duration = Duration::from_secs(1);
/// Pause after an error that should not come in a row, so that it cannot spin.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Connections that the kernel keeps for us: enough that a burst of garbage does not make it
/// drop the peer's SYN.
const BACKLOG: i32 = 128;

/// What a handshake ends with.
type Outcome = Result<Established, (SocketAddr, SessionError)>;

pub(super) struct Listener {
    accepted: mpsc::Receiver<(TcpStream, SocketAddr)>,
    handshakes: JoinSet<Outcome>,
    /// Those in progress, oldest first.
    running: VecDeque<AbortHandle>,
    keys: AllKeys,
    shared: Arc<Shared>,
    /// Ends the acceptors when dropped.
    _acceptors: JoinSet<()>,
}

impl Listener {
    /// Listens on the local address of every path, as soon as it is there.
    pub(super) fn open(
        paths: &[(SocketAddr, SocketAddr)],
        keys: AllKeys,
        shared: Arc<Shared>,
    ) -> Self {
        let peer: BTreeSet<IpAddr> = paths.iter().map(|(_, remote)| remote.ip()).collect();
        let (accepted, receiver) = mpsc::channel(1);
        let mut acceptors = JoinSet::new();
        for &(local, _) in paths {
            let acceptor = Acceptor {
                local,
                peer: peer.clone(),
                accepted: accepted.clone(),
                shared: Arc::clone(&shared),
            };
            acceptors.spawn(acceptor.run());
        }
        Self {
            accepted: receiver,
            handshakes: JoinSet::new(),
            running: VecDeque::with_capacity(HANDSHAKES),
            keys,
            shared,
            _acceptors: acceptors,
        }
    }

    /// The next stream that proves to be the peer's. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> Established {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(session)) => return session,
                    Ok(Err((remote, error))) => self.shared.no_session(remote, &error),
                    // Pushed out: counted then. A panic has ended the process.
                    Err(_) => {}
                },
                Some((stream, remote)) = self.accepted.recv() => self.begin(stream, remote),
            }
        }
    }

    /// The oldest makes room for the newest: who holds connections open in silence keeps nobody
    /// out.
    fn begin(&mut self, stream: TcpStream, remote: SocketAddr) {
        self.running.retain(|handshake| !handshake.is_finished());
        while self.running.len() >= HANDSHAKES
            && let Some(oldest) = self.running.pop_front()
        {
            oldest.abort();
            self.shared
                .no_session(remote, &SessionError::HandshakePushedOut);
        }
        let keys = self.keys.load_full();
        let handshake = async move {
            let session = stream::as_listener(stream, remote, &keys).await;
            session.map_err(|error| (remote, error))
        };
        self.running.push_back(self.handshakes.spawn(handshake));
    }
}

/// Accepts on one path.
struct Acceptor {
    local: SocketAddr,
    peer: BTreeSet<IpAddr>,
    accepted: mpsc::Sender<(TcpStream, SocketAddr)>,
    shared: Arc<Shared>,
}

impl Acceptor {
    async fn run(self) {
        let listener = self.opened().await;
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(local = %self.local, %error, "session listener");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            if !self.peer.contains(&remote.ip()) {
                self.shared.no_session(remote, &SessionError::Stranger);
                continue;
            }
            if let Err(error) = tune(&stream) {
                // The connection is gone already.
                self.shared.no_session(remote, &error.into());
                continue;
            }
            if self.accepted.send((stream, remote)).await.is_err() {
                return;
            }
        }
    }

    async fn opened(&self) -> TcpListener {
        let mut told = false;
        loop {
            match listening(self.local) {
                Ok(listener) => {
                    if told {
                        tracing::info!(local = %self.local, "session listener is open");
                    }
                    return listener;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(local = %self.local, %error, "session listener cannot open yet; retrying");
                }
                Err(_) => {}
            }
            tokio::time::sleep(REOPEN).await;
        }
    }
}

fn listening(local: SocketAddr) -> io::Result<TcpListener> {
    // socket2 opens with close-on-exec.
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the connections of the life before (socket(7)).
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    socket.listen(BACKLOG)?;
    let high = move_high(OwnedFd::from(socket), CloseOrder::Second);
    TcpListener::from_std(high.into())
}
