//! One direction of a connection: bytes from a source socket to a target socket.
//!
//! Bytes are copied through the worker's one buffer while they come in small portions, and go
//! through a pipe (splice(2)) once the buffer was full twice in a row. What the target does not take
//! is kept, and until it is gone the source is not read: that is the back-pressure, and it bounds
//! what one direction holds to one buffer or one pipe.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem::take;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::pipes::{Pipe, Pipes};
use super::sticky::Tap;

/// The worker's buffer.
pub(super) const SCRATCH: usize = 64 << 10;
/// Full buffers in a row after which bytes are spliced.
const FULL_IN_A_ROW: u8 = 2;
/// A splice of less is a small one.
const SMALL: usize = 16 << 10;
/// Small splices in a row after which bytes are copied again.
const SMALL_IN_A_ROW: u8 = 4;
/// Portions that one direction may move before other connections have their turn.
const PORTIONS: u32 = 16;
/// Bytes that are thrown away for a client that still sends although its backend has closed.
const DISCARDED: usize = 1 << 20;

/// What the directions of one worker share, since only one of them runs at a time.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) scratch: RefCell<Box<[u8]>>,
    pub(super) pipes: RefCell<Pipes>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            pipes: RefCell::new(Pipes::new()),
        }
    }
}

/// Which socket failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// The one that is read.
    Source,
    /// The one that is written.
    Target,
    /// The one that is written had sent its last byte in order before it refused ours: what it
    /// said is complete and must not be lost.
    TargetClosed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    Copy,
    Splice,
    /// The target is gone; what comes is thrown away.
    Discard,
}

/// The state of one direction.
#[derive(Debug)]
pub(super) struct Direction {
    how: How,
    /// The source said that no more comes.
    ended: bool,
    /// Everything was passed on, the end included.
    done: bool,
    /// Full buffers, or small splices, in a row.
    streak: u8,
    /// What the target did not take: the bytes from `at` on.
    left: Vec<u8>,
    at: usize,
    /// Lent while it has bytes in it.
    pipe: Option<Pipe>,
    /// Bytes thrown away.
    discarded: usize,
    /// The next read does not ask whether the source is ready.
    look: bool,
    /// Sees what is copied, as long as it wants to.
    tap: Option<Box<Tap>>,
}

impl Direction {
    /// Begins with bytes that were already read from the source, the first `sent` of which the
    /// target already has; `ended` if the source's end was seen, too.
    pub(super) const fn new(first: Vec<u8>, sent: usize, ended: bool) -> Self {
        Self {
            how: How::Copy,
            ended,
            done: false,
            streak: 0,
            left: first,
            at: sent,
            pipe: None,
            discarded: 0,
            look: false,
            tap: None,
        }
    }

    /// The same with a tap. It is done before two buffers were full, and splicing begins.
    pub(super) fn tapped(self, tap: Option<Box<Tap>>) -> Self {
        Self { tap, ..self }
    }

    /// Nothing more will be moved.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// The target is gone: keeps reading to let the source finish, and throws away.
    pub(super) fn discard(&mut self, buffers: &Buffers) {
        self.how = How::Discard;
        self.release(buffers);
    }

    /// Reads once more even if the source does not seem to have anything.
    pub(super) fn look(&mut self) {
        self.look = true;
        if self.how == How::Splice {
            self.how = How::Copy;
            self.streak = 0;
        }
    }

    /// Lets go of the buffers.
    pub(super) fn release(&mut self, buffers: &Buffers) {
        self.left = Vec::new();
        self.at = 0;
        if let Some(pipe) = self.pipe.take() {
            buffers.pipes.borrow_mut().give_back(pipe);
        }
    }

    /// Moves what can be moved. `moved` counts what the target took. With `closing`, the caller
    /// closes the target once this is done, so that needs no shutdown.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        target: &TcpStream,
        moved: &Cell<u64>,
        closing: bool,
        buffers: &Buffers,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..PORTIONS {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            ready!(self.flush(cx, target, moved, buffers))?;
            if self.ended {
                self.done = true;
                // It fails only if the target is gone, and then its own direction says so.
                if !closing && self.how != How::Discard {
                    let _ = SockRef::from(target).shutdown(Shutdown::Write);
                }
                continue;
            }
            match self.how {
                How::Copy => ready!(self.copy(cx, source, target, moved, buffers))?,
                How::Splice => ready!(self.splice(cx, source.as_ref(), buffers))?,
                How::Discard => ready!(self.throw_away(cx, source, buffers))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes on what is kept.
    fn flush(
        &mut self,
        cx: &mut Context<'_>,
        target: &TcpStream,
        moved: &Cell<u64>,
        buffers: &Buffers,
    ) -> Poll<Result<(), Fault>> {
        while self.at < self.left.len() {
            let sent = ready!(poll_send(cx, target, &self.left[self.at..], self.ended));
            let sent = sent.map_err(|error| target_fault(&error))?;
            moved.set(moved.get() + sent as u64);
            self.at += sent;
        }
        if self.at > 0 {
            self.left = Vec::new();
            self.at = 0;
        }
        if let Some(pipe) = &mut self.pipe {
            while !pipe.is_empty() {
                match target.try_io(Interest::WRITABLE, || pipe.drain(target)) {
                    Ok(gave) => moved.set(moved.get() + gave as u64),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(target.poll_write_ready(cx)).map_err(|_| Fault::Target)?;
                    }
                    Err(error) => return Poll::Ready(Err(target_fault(&error))),
                }
            }
            // Only a blocked direction holds a pipe.
            self.release(buffers);
        }
        Poll::Ready(Ok(()))
    }

    fn copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        target: &TcpStream,
        moved: &Cell<u64>,
        buffers: &Buffers,
    ) -> Poll<Result<(), Fault>> {
        let mut scratch = buffers.scratch.borrow_mut();
        let got = ready!(self.read(cx, source, &mut scratch))?;
        if let Some(tap) = &mut self.tap
            && tap.see(&scratch[..got])
        {
            self.tap = None;
        }
        let sent = match try_send(target, &scratch[..got], self.ended) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(target_fault(&error))),
        };
        moved.set(moved.get() + sent as u64);
        if sent < got {
            self.left = scratch[sent..got].to_vec();
        }
        self.streak = if got == SCRATCH { self.streak + 1 } else { 0 };
        if self.streak == FULL_IN_A_ROW {
            self.how = How::Splice;
            self.streak = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and once more if the end is known to be near: then the last bytes and the end
    /// travel in one segment. (A short read alone does not prove the end: urgent data cuts reads.)
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        scratch: &mut [u8],
    ) -> Poll<Result<usize, Fault>> {
        if take(&mut self.look) {
            match io::Read::read(&mut &*SockRef::from(source.as_ref()), scratch) {
                Ok(got) => {
                    self.ended = got == 0;
                    self.look = got == scratch.len();
                    return Poll::Ready(Ok(got));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Fault::Source)),
            }
        }
        let mut got = ready!(poll_recv(cx, source, scratch))?;
        if got == 0 {
            self.ended = true;
        } else if got < scratch.len() && end_is_near(source.as_ref()) {
            match poll_recv(cx, source, &mut scratch[got..])? {
                Poll::Ready(0) => self.ended = true,
                Poll::Ready(more) => got += more,
                Poll::Pending => {}
            }
        }
        Poll::Ready(Ok(got))
    }

    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        buffers: &Buffers,
    ) -> Poll<Result<(), Fault>> {
        let Some(mut pipe) = buffers.pipes.borrow_mut().lend() else {
            self.how = How::Copy;
            return Poll::Ready(Ok(()));
        };
        let result = source.try_io(Interest::READABLE, || pipe.fill(source));
        if let Ok(got) = result
            && got > 0
        {
            self.pipe = Some(pipe);
            self.streak = if got < SMALL { self.streak + 1 } else { 0 };
            if self.streak == SMALL_IN_A_ROW {
                self.how = How::Copy;
                self.streak = 0;
            }
            return Poll::Ready(Ok(()));
        }
        buffers.pipes.borrow_mut().give_back(pipe);
        match result {
            // The end, or urgent data, at which a splice stops for good: a read can tell.
            Ok(_) => {
                self.look();
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                source.poll_read_ready(cx).map_err(|_| Fault::Source)
            }
            Err(_) => Poll::Ready(Err(Fault::Source)),
        }
    }

    fn throw_away(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut ReadHalf<'_>,
        buffers: &Buffers,
    ) -> Poll<Result<(), Fault>> {
        let got = ready!(poll_recv(cx, source, &mut buffers.scratch.borrow_mut()))?;
        self.ended = got == 0;
        self.discarded += got;
        if self.discarded > DISCARDED {
            return Poll::Ready(Err(Fault::Target));
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads; a short read tells tokio that the socket is empty, which saves the call that would find
/// nothing.
fn poll_recv(
    cx: &mut Context<'_>,
    source: &mut ReadHalf<'_>,
    buffer: &mut [u8],
) -> Poll<Result<usize, Fault>> {
    let mut buffer = ReadBuf::new(buffer);
    match ready!(Pin::new(source).poll_read(cx, &mut buffer)) {
        Ok(()) => Poll::Ready(Ok(buffer.filled().len())),
        Err(_) => Poll::Ready(Err(Fault::Source)),
    }
}

/// With the `last` bytes the kernel waits for the end that follows at once.
fn try_send(target: &TcpStream, bytes: &[u8], last: bool) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let flags = libc::MSG_NOSIGNAL | if last { libc::MSG_MORE } else { 0 };
    target.try_io(Interest::WRITABLE, || {
        SockRef::from(target).send_with_flags(bytes, flags)
    })
}

fn poll_send(
    cx: &mut Context<'_>,
    target: &TcpStream,
    bytes: &[u8],
    last: bool,
) -> Poll<io::Result<usize>> {
    loop {
        match try_send(target, bytes, last) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(target.poll_write_ready(cx))?;
            }
            result => return Poll::Ready(result),
        }
    }
}

/// The source has sent its end, which may lie behind bytes that were not read yet (`EPOLLRDHUP`).
fn end_is_near(source: &TcpStream) -> bool {
    // Together with "writable", which is nearly always true, this answers without registering.
    let ready = pin!(source.ready(Interest::READABLE | Interest::WRITABLE));
    let mut nobody = Context::from_waker(Waker::noop());
    matches!(ready.poll(&mut nobody), Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// A write that met a reset says `EPIPE` if the reset came after the end of the stream, and
/// `ECONNRESET` if it cut the stream (`tcp_reset` in Linux). It says so once: afterwards a read
/// would find an end that looks like an ordinary one, so the difference must be seen here.
fn target_fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Fault::TargetClosed,
        _ => Fault::Target,
    }
}
