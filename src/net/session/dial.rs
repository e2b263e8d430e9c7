//! The dialling side: path after path, until one leads to the peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::stream::{self, Established};
use super::{AllKeys, SessionError, Shared, tune};

/// Time for one connect. A path that answers does so within a round trip or one retransmission.
pub(super) const CONNECT_TIME: Duration = Duration::from_millis(500);
/// Pause before dialling again: after a session, and after all paths failed once.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause doubles up to this.
const MAX_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Dialler {
    paths: Vec<(SocketAddr, SocketAddr)>,
    keys: AllKeys,
    shared: Arc<Shared>,
    /// Before the next round; none before the first of all.
    pause: Duration,
}

impl Dialler {
    pub(super) fn new(
        paths: Vec<(SocketAddr, SocketAddr)>,
        keys: AllKeys,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            paths,
            keys,
            shared,
            pause: Duration::ZERO,
        }
    }

    /// Dials until a session is established.
    pub(super) async fn next(&mut self) -> Established {
        loop {
            tokio::time::sleep(self.pause).await;
            for &(local, remote) in &self.paths {
                match self.attempt(local, remote).await {
                    Ok(session) => {
                        self.pause = PAUSE;
                        return session;
                    }
                    Err(error) => self.shared.no_session(remote, &error),
                }
            }
            self.pause = (self.pause * 2).clamp(PAUSE, MAX_PAUSE);
        }
    }

    async fn attempt(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Established, SessionError> {
        let connect = connect(local, remote);
        let stream = tokio::time::timeout(CONNECT_TIME, connect)
            .await
            .map_err(|_elapsed| SessionError::ConnectTimeout)??;
        let keys = self.keys.load_full();
        stream::as_dialler(stream, remote, &keys[0]).await
    }
}

async fn connect(mut local: SocketAddr, remote: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = match local {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // From the path's address, for the peer accepts no other; the port is nobody's concern.
    local.set_port(0);
    socket.bind(local)?;
    let stream = socket.connect(remote).await?;
    tune(&stream)?;
    Ok(stream)
}
