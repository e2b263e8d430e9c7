//! Held connections: clients that keep one connection open and ask on it again and again.
//!
//! They show what a failover does to connections that stand: in proxy mode they end with the
//! process that carries them, and their clients connect again.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::host::Host;
use crate::net::clock::Clock;

/// How many.
pub(super) const CONNECTIONS: usize = 8;
/// Time between two requests on one connection.
const EVERY: Duration = Duration::from_millis(20);
/// Time for one request, and for one connect.
const DEADLINE: Duration = Duration::from_secs(1);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: tandem.test\r\nConnection: keep-alive\r\n\r\n";

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Breaks {
    /// Connections that ended before their client wanted it.
    pub broken: u64,
    /// Longest time from such an end to the first answer on a new connection.
    pub longest: Duration,
}

/// Held connections at work. They end when this is dropped.
#[derive(Debug)]
pub struct Held {
    breaks: Arc<Mutex<Breaks>>,
    /// Never read: dropping it ends the clients.
    _clients: JoinSet<()>,
}

impl Held {
    /// Opens connections from this host, and keeps asking on them.
    pub fn start(host: &Host, target: SocketAddr, clock: Clock) -> Self {
        let breaks = Arc::<Mutex<Breaks>>::default();
        let mut clients = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let client = hold(target, clock, breaks.clone());
            clients.spawn_on(client, host.runtime());
        }
        Self {
            breaks,
            _clients: clients,
        }
    }

    /// What happened so far.
    pub fn breaks(&self) -> Breaks {
        *self.breaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn hold(target: SocketAddr, clock: Clock, breaks: Arc<Mutex<Breaks>>) {
    let mut broken_at = None;
    loop {
        let mut answered = false;
        let _: io::Result<()> = async {
            let stream = within(TcpStream::connect(target)).await?;
            stream.set_nodelay(true)?;
            let mut stream = BufReader::new(stream);
            loop {
                within(ask(&mut stream)).await?;
                answered = true;
                if let Some(at) = broken_at.take() {
                    let mut breaks = breaks.lock().unwrap_or_else(PoisonError::into_inner);
                    breaks.longest = breaks.longest.max(clock.now().since(at));
                }
                sleep(EVERY).await;
            }
        }
        .await;
        if answered {
            broken_at = Some(clock.now());
            let mut breaks = breaks.lock().unwrap_or_else(PoisonError::into_inner);
            breaks.broken += 1;
        } else {
            // No use in asking a node that refuses again at once.
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DEADLINE, work).await?
}

/// One request and its whole answer.
async fn ask(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    stream.get_mut().write_all(GET).await?;
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            Some((key, value)) if key.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().map_err(|_| ErrorKind::InvalidData)?;
            }
            None if line == "\r\n" => break,
            _ => {}
        }
    }
    let mut body = Vec::new();
    let count = stream.take(length).read_to_end(&mut body).await?;
    match count as u64 == length {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}
