//! What stands behind the balancers while they are measured: as cheap as it can be, so that the
//! balancer and not this is what the figures show.
//!
//! The first byte of a connection says what its client wants: `D` bytes until it has enough, `U` to
//! send bytes that nobody looks at; anything else is the request below.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{SockFlag, accept4};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::lean::{BATCH, STOP, Work, Worker, wait};
use crate::lab::error::LabError;
use crate::lab::host::Host;

/// Asks for bytes.
pub(super) const DOWN: &[u8] = b"D";
/// Announces bytes.
pub(super) const UP: &[u8] = b"U";
/// Asks for a small page; the connection stays until the client ends it.
pub(super) const KEEP: &[u8] =
    b"GET / HTTP/1.1\r\nHost: tandem.test\r\nConnection: keep-alive\r\n\r\n";
/// How such a request ends.
const END: &[u8] = b"\r\n\r\n";
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

/// A running server: one thread. Stops when dropped.
#[derive(Debug)]
pub(super) struct Server {
    _worker: Worker,
}

impl Server {
    /// Listens on all of these addresses of the host.
    pub(super) async fn start(
        host: &Host,
        addresses: Vec<SocketAddr>,
        block: Block,
    ) -> Result<Self, LabError> {
        let what = LabError::io(format!("listen on {addresses:?}"));
        let bulk = host.runtime().clone();
        let prepare = move |epoll: &Epoll| serving(epoll, addresses, block, bulk);
        let worker = Worker::start(host, "serve", prepare).await.map_err(what)?;
        Ok(Self { _worker: worker })
    }
}

/// Binds these addresses; then what the server's thread does.
pub(super) fn serving(
    epoll: &Epoll,
    addresses: Vec<SocketAddr>,
    block: Block,
    bulk: Handle,
) -> io::Result<Work> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = bind(address)?;
        let number = listener.as_raw_fd() as u64 | LISTENER;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        listeners.push(listener);
    }
    Ok(Box::new(move |epoll| {
        let mut serving = Serving {
            epoll,
            streams: Vec::new(),
            block,
            bulk,
        };
        // Only what is broken for good ends it, and then clients find nobody.
        let _ = serving.run();
        drop(listeners);
    }))
}

/// Marks a listener among the events.
const LISTENER: u64 = 1 << 32;
/// Connections that are taken before anything else is done.
const ACCEPTS: usize = 64;

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket)
}

/// Answers requests itself; bulk goes to the host's runtime.
struct Serving {
    epoll: Epoll,
    /// By descriptor.
    streams: Vec<Option<Socket>>,
    block: Block,
    bulk: Handle,
}

/// What becomes of a connection.
enum Next {
    Stay,
    Close,
    Down,
    Up,
}

impl Serving {
    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            for event in wait(&self.epoll, &mut events, None)? {
                match event.data() {
                    STOP => return Ok(()),
                    listener if listener & LISTENER != 0 => {
                        self.accept((listener ^ LISTENER) as RawFd)?;
                    }
                    stream => self.serve(stream as usize, event.events())?,
                }
            }
        }
    }

    fn accept(&mut self, listener: RawFd) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            let stream = match accept4(listener, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC) {
                // SAFETY: accept4(2) made this descriptor, and nobody else has it.
                Ok(stream) => unsafe { Socket::from_raw_fd(stream) },
                Err(Errno::EAGAIN) => return Ok(()),
                Err(_) => {
                    // Gone already, or too many are open.
                    thread::sleep(Duration::from_millis(1));
                    return Ok(());
                }
            };
            // Most often the request came with the end of the handshake.
            match look(&stream) {
                Next::Stay => self.keep(stream)?,
                Next::Close => {}
                next => self.hand_over(stream, next),
            }
        }
        Ok(())
    }

    fn keep(&mut self, stream: Socket) -> io::Result<()> {
        let at = stream.as_raw_fd() as usize;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
        self.epoll.add(&stream, event)?;
        if self.streams.len() <= at {
            self.streams.resize_with(at + 1, || None);
        }
        self.streams[at] = Some(stream);
        Ok(())
    }

    fn serve(&mut self, at: usize, events: EpollFlags) -> io::Result<()> {
        let Some(place) = self.streams.get_mut(at) else {
            return Ok(());
        };
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            *place = None;
            return Ok(());
        }
        match place.as_ref().map_or(Next::Close, look) {
            Next::Stay => {}
            Next::Close => *place = None,
            next => {
                if let Some(stream) = place.take() {
                    self.epoll.delete(&stream)?;
                    self.hand_over(stream, next);
                }
            }
        }
        Ok(())
    }

    fn hand_over(&self, stream: Socket, next: Next) {
        let block = self.block.clone();
        self.bulk.spawn(async move {
            let stream = TcpStream::from_std(stream.into())?;
            match next {
                Next::Down => loop {
                    block.send(&stream).await?;
                },
                _ => {
                    let mut drain = Drain::new();
                    while drain.take(&stream).await? > 0 {}
                    io::Result::Ok(())
                }
            }
        });
    }
}

/// Answers a request, if one is there.
fn look(mut stream: &Socket) -> Next {
    let mut request = [0; 256];
    match stream.read(&mut request) {
        Ok(0) => Next::Close,
        Ok(got) => match &request[..got] {
            DOWN => Next::Down,
            [first, ..] if *first == UP[0] => Next::Up,
            text if text.ends_with(END) => match stream.write(ANSWER) {
                Ok(sent) if sent == ANSWER.len() => Next::Stay,
                // A client that is gone, or does not read, is no concern of a server's.
                _ => Next::Close,
            },
            // The rest of it comes later.
            _ => Next::Stay,
        },
        Err(error) if error.kind() == ErrorKind::WouldBlock => Next::Stay,
        Err(_) => Next::Close,
    }
}
