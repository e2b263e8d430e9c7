//! What stands behind the balancers while they are measured: as cheap as it can be, so that the
//! balancer and not this is what the figures show.
//!
//! The first byte of a connection says what its client wants: `D` bytes until it has enough, `U` to
//! send bytes that nobody looks at; anything else is one of the two requests below.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::lab::error::LabError;
use crate::lab::host::Host;

/// Asks for bytes.
pub(super) const DOWN: &[u8] = b"D";
/// Announces bytes.
pub(super) const UP: &[u8] = b"U";
/// Asks for a small page; the connection stays.
pub(super) const KEEP: &[u8] =
    b"GET / HTTP/1.1\r\nHost: tandem.test\r\nConnection: keep-alive\r\n\r\n";
/// Asks for a small page; the server closes after it.
pub(super) const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: tandem.test\r\nConnection: close\r\n\r\n";
/// The page.
pub(super) const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 16\r\n\r\n0123456789abcde\n";

/// Bytes that one call sends.
const BLOCK: usize = 1 << 20;

/// Bytes to send that are never copied: a file in memory.
#[derive(Clone, Debug)]
pub(super) struct Block(Arc<File>);

impl Block {
    pub(super) fn new() -> io::Result<Self> {
        let mut file = File::from(memfd_create("block", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&vec![b'.'; BLOCK])?;
        Ok(Self(Arc::new(file)))
    }

    /// Sends some of it; how much.
    pub(super) async fn send(&self, stream: &TcpStream) -> io::Result<usize> {
        let send = || Ok(sendfile(stream, &*self.0, Some(&mut 0), BLOCK)?);
        stream.async_io(Interest::WRITABLE, send).await
    }
}

/// Takes bytes without looking at them: with `MSG_TRUNC` the kernel throws them away, tcp(7).
#[derive(Debug)]
pub(super) struct Drain(Box<[MaybeUninit<u8>]>);

impl Drain {
    pub(super) fn new() -> Self {
        // Never written to, and so never more than addresses.
        Self(Box::new_uninit_slice(BLOCK))
    }

    /// Takes some; how many, 0 at the end of the stream.
    pub(super) async fn take(&mut self, stream: &TcpStream) -> io::Result<usize> {
        let take = || SockRef::from(stream).recv_with_flags(&mut self.0, libc::MSG_TRUNC);
        stream.async_io(Interest::READABLE, take).await
    }
}

/// A running server. Stops when dropped.
#[derive(Debug)]
pub(super) struct Server(JoinHandle<()>);

impl Server {
    pub(super) async fn start(
        host: &Host,
        address: SocketAddr,
        block: Block,
    ) -> Result<Self, LabError> {
        let listener = host.run(async move { bind(address) }).await;
        let listener = listener.map_err(LabError::io(format!("listen on {address}")))?;
        Ok(Self(host.spawn(accept(listener, block))))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, block: Block) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let block = block.clone();
                // A client that is gone is no concern of a server's.
                tokio::spawn(async move { serve(stream, &block).await });
            }
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, block: &Block) -> io::Result<()> {
    let mut request = [0; 256];
    let mut have = 0;
    loop {
        match stream.read(&mut request[have..]).await? {
            0 => return Ok(()),
            got => have += got,
        }
        match &request[..have] {
            KEEP => stream.write_all(ANSWER).await?,
            CLOSE => return stream.write_all(ANSWER).await,
            DOWN => loop {
                block.send(&stream).await?;
            },
            [first, ..] if *first == UP[0] => {
                let mut drain = Drain::new();
                while drain.take(&stream).await? > 0 {}
                return Ok(());
            }
            _ if have < request.len() => continue,
            _ => return Err(Errno::EBADMSG.into()),
        }
        have = 0;
    }
}
