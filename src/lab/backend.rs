//! A small HTTP/1.1 server: what stands behind the balancers.
//!
//! `GET /` answers the server's name. The other paths exist for tests: `/bytes/N` sends N bytes of
//! [`pattern`], `/slow/MS` answers after so many milliseconds, `POST /sink` answers length and
//! checksum of the body, `/echo` sends back raw bytes until the other side closes its half,
//! `/stream/N/RATE` and `/store/N` send and receive streams without end (see `survive`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::Xxh3;

use super::error::LabError;
use super::host::Host;
use super::survive::{Board, receive, send};
use crate::net::clock::Clock;

/// Longest request head, in bytes.
const MAX_HEAD: u64 = 8 * 1024;
const CHUNK: usize = 64 * 1024;

/// The n-th byte of what `/bytes/N` sends; its period is prime, so that a lost or doubled chunk
/// shows.
pub const fn pattern(n: u64) -> u8 {
    (n % 251) as u8
}

/// The checksum that `/sink` answers, of the first `length` bytes of [`pattern`].
pub fn pattern_checksum(length: u64) -> u64 {
    let mut hash = Xxh3::new();
    let mut sent = 0;
    while sent < length {
        let part: Vec<u8> = chunk(sent, length).collect();
        hash.update(&part);
        sent += part.len() as u64;
    }
    hash.digest()
}

fn chunk(sent: u64, length: u64) -> impl Iterator<Item = u8> {
    (sent..length.min(sent + CHUNK as u64)).map(pattern)
}

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct Server {
    name: Arc<str>,
    addresses: Vec<SocketAddr>,
    served: Arc<AtomicU64>,
    /// Where the progress of uploads is noted.
    board: Arc<Board>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on this address of the host.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn start(host: &Host, name: &str, address: SocketAddr) -> Result<Self, LabError> {
        let board = Arc::new(Board::new(Clock::start()));
        Self::start_with(host, name, vec![address], board).await
    }

    /// Listens on all of these, and notes on the board what arrives in uploads.
    pub(super) async fn start_with(
        host: &Host,
        name: &str,
        addresses: Vec<SocketAddr>,
        board: Arc<Board>,
    ) -> Result<Self, LabError> {
        let mut server = Self {
            name: name.into(),
            addresses,
            served: Arc::default(),
            board,
            tasks: Vec::new(),
        };
        server.resume(host).await?;
        Ok(server)
    }

    /// Requests answered since the start.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Listens again after [`Self::stop`].
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn resume(&mut self, host: &Host) -> Result<(), LabError> {
        for address in self.addresses.iter().copied() {
            let listener = host
                .run(async move { bind(address) })
                .await
                .map_err(LabError::io(format!("listen on {address}")))?;
            let (name, served) = (self.name.clone(), self.served.clone());
            let accept = accept(listener, name, served, self.board.clone());
            self.tasks.push(host.spawn(accept));
        }
        Ok(())
    }

    /// Closes the listeners: from now on connects are refused. Connections that stand go on.
    pub async fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, name: Arc<str>, served: Arc<AtomicU64>, board: Arc<Board>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (name, served, board) = (name.clone(), served.clone(), board.clone());
                tokio::spawn(async move { serve(stream, &name, &served, &board).await });
            }
            // Out of descriptors, or the connection died in the queue: neither ends a server.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// What a request asks.
#[derive(Debug, Default, Eq, PartialEq)]
struct Request {
    method: String,
    path: String,
    length: u64,
    keep_alive: bool,
}

impl Request {
    /// The path's number, for example 300 of `/slow/300`.
    fn number(&self) -> Option<u64> {
        self.path.rsplit('/').next()?.parse().ok()
    }

    /// The numbers of `/stream/N/RATE`.
    fn stream(&self) -> Option<(usize, u64)> {
        let (n, rate) = self.path.strip_prefix("/stream/")?.split_once('/')?;
        Some((n.parse().ok()?, rate.parse().ok()?))
    }

    /// The number of `/store/N`.
    fn store(&self) -> Option<usize> {
        self.path.strip_prefix("/store/")?.parse().ok()
    }
}

fn parse(head: &str) -> Option<Request> {
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        keep_alive: words.next()? == "HTTP/1.1",
        ..Request::default()
    };
    for line in lines {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key.eq_ignore_ascii_case("content-length") {
            request.length = value.parse().ok()?;
        } else if key.eq_ignore_ascii_case("connection") {
            request.keep_alive = value.eq_ignore_ascii_case("keep-alive");
        }
    }
    Some(request)
}

async fn serve(
    mut stream: TcpStream,
    name: &str,
    served: &AtomicU64,
    board: &Board,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    while let Some(head) = head(&mut read).await? {
        let Some(request) = parse(&head) else {
            write
                .write_all(
                    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .await?;
            break;
        };
        served.fetch_add(1, Ordering::Relaxed);
        if request.path == "/echo" {
            write
                .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .await?;
            tokio::io::copy_buf(&mut read, &mut write).await?;
            break;
        }
        if let Some((n, rate)) = request.stream() {
            send(n, rate, &mut read, &mut write).await?;
            break;
        }
        if let Some(n) = request.store() {
            receive(n, board, &mut read, &mut write).await?;
            break;
        }
        answer(&request, name, &mut read, &mut write).await?;
        if !request.keep_alive {
            break;
        }
    }
    write.shutdown().await?;
    // Closing with unread bytes in the queue would reset what was just sent.
    tokio::io::copy(&mut read, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads a head up to its empty line; none at the end of the stream.
async fn head<R: tokio::io::AsyncBufRead + Unpin>(read: &mut R) -> io::Result<Option<String>> {
    let mut head = String::new();
    let mut bounded = read.take(MAX_HEAD);
    loop {
        let before = head.len();
        if bounded.read_line(&mut head).await? == 0 {
            return match head.is_empty() {
                true => Ok(None),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        if matches!(&head[before..], "\r\n" | "\n") {
            head.truncate(before);
            return Ok(Some(head));
        }
    }
}

async fn answer<R, W>(request: &Request, name: &str, read: &mut R, write: &mut W) -> io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let body = match request.method.as_str() {
        "POST" => sink(read, request.length).await?,
        _ if request.path.starts_with("/bytes/") => return send_bytes(request, write).await,
        _ => {
            if request.path.starts_with("/slow/") {
                let wait = request.number().unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            format!("{name}\n")
        }
    };
    let text = head_of(request, body.len() as u64) + &body;
    write.write_all(text.as_bytes()).await
}

fn head_of(request: &Request, length: u64) -> String {
    let connection = match request.keep_alive {
        true => "keep-alive",
        false => "close",
    };
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n")
}

/// Counts and sums up a body.
async fn sink<R: tokio::io::AsyncRead + Unpin>(read: &mut R, length: u64) -> io::Result<String> {
    let (mut hash, mut left) = (Xxh3::new(), length);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let most = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let count = read.read(&mut buffer[..most]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(format!("{length} {:016x}\n", hash.digest()))
}

async fn send_bytes<W>(request: &Request, write: &mut W) -> io::Result<()>
where
    W: tokio::io::AsyncWrite + Unpin,
{
    let length = request.number().unwrap_or(0);
    write.write_all(head_of(request, length).as_bytes()).await?;
    let mut sent = 0;
    while sent < length {
        let part: Vec<u8> = chunk(sent, length).collect();
        write.write_all(&part).await?;
        sent += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_what_is_asked_and_whether_the_connection_stays() {
        let request = parse("POST /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n").unwrap();
        assert_eq!((request.length, request.keep_alive), (12, true));
        let request = parse("GET /slow/300 HTTP/1.1\r\nconnection: close\r\n").unwrap();
        assert_eq!((request.number(), request.keep_alive), (Some(300), false));
        assert!(!parse("GET / HTTP/1.0\r\n").unwrap().keep_alive);
        let request = parse("GET /stream/7/250000 HTTP/1.1\r\n").unwrap();
        assert_eq!(
            (request.stream(), request.store()),
            (Some((7, 250_000)), None)
        );
        assert_eq!(
            parse("POST /store/7 HTTP/1.1\r\n").unwrap().store(),
            Some(7)
        );
        assert_eq!(parse("GET\r\n"), None);
        assert_eq!(parse("GET / HTTP/1.1\r\nContent-Length: many\r\n"), None);
    }
}
