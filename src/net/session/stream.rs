//! One stream: the handshake, then reading and writing until it ends.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::yield_now;

use super::framing::{self, Frames, Inbox, MESSAGE_LENGTH};
use super::noise::{self, Cipher, HANDSHAKE_MESSAGE, Keys, REKEY_EVERY, TAG};
use super::{HANDSHAKE_TIME, SessionError, SessionEvent};
use crate::model::NodeId;
use crate::net::{CloseOrder, clock, move_high};
use crate::node::SESSION_CREDIT;
use crate::wire::replication::{Frame, Hello, PROTOCOL};

/// Frames are gathered into one write until it has this many bytes.
const BATCH: usize = 64 * 1024;
/// Bytes of frames that are read before the thread's other tasks have their turn: a snapshot's frame
/// has more. Decoding costs more than anything else here, and the thread is the turn loop's: without
/// this all that the socket has is decoded in one go, however long that takes.
const PORTION: usize = 8 * 1024;
/// Longest message with a `Hello` in it. The longest possible one has 4 + 38 + 16 bytes.
const MAX_HELLO: usize = 128;
/// After a failed write, time to read what came before the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What streams have cost so far.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Nanoseconds that were spent on frames.
    pub(super) busy: AtomicU64,
    /// Bytes.
    pub(super) sent: AtomicU64,
    /// Bytes.
    pub(super) received: AtomicU64,
}

/// A stream whose other end is the peer for certain.
pub(super) struct Established {
    pub(super) hello: Hello,
    pub(super) remote: SocketAddr,
    stream: TcpStream,
    /// Locked for one message at a time, by the two halves of one task.
    cipher: Mutex<Cipher>,
}

impl Established {
    /// Carries frames until the end. Adds to `load` what that costs.
    pub(super) async fn run(
        &mut self,
        outgoing: mpsc::Receiver<Frame>,
        events: &mpsc::Sender<SessionEvent>,
        load: &Load,
    ) -> SessionError {
        let (reader, writer) = self.stream.split();
        let end = tokio::select! {
            end = reading(reader, &self.cipher, events, load) => end,
            end = writing(writer, &self.cipher, outgoing, events, load) => end,
        };
        let Err(error) = end;
        error
    }
}

/// What only ends by an error.
type Endless = Result<std::convert::Infallible, SessionError>;

/// Nobody takes the events any more; what is said about it is not heard.
fn unheard<T>(_: mpsc::error::SendError<T>) -> SessionError {
    SessionError::ClosedHere("the node has stopped".into())
}

fn lock(cipher: &Mutex<Cipher>) -> MutexGuard<'_, Cipher> {
    cipher.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does this, and adds how long it took, in nanoseconds.
fn measured<T>(busy: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let began = clock::monotonic();
    let done = work();
    let took = clock::monotonic().saturating_sub(began);
    busy.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    done
}

async fn reading(
    mut stream: ReadHalf<'_>,
    cipher: &Mutex<Cipher>,
    events: &mpsc::Sender<SessionEvent>,
    load: &Load,
) -> Endless {
    let mut inbox = Inbox::new();
    let mut frames = Frames::default();
    let mut portion = 0;
    loop {
        match stream.read(inbox.room()).await? {
            0 => return Err(SessionError::Ended),
            bytes => {
                load.received.fetch_add(bytes as u64, Ordering::Relaxed);
                inbox.filled(bytes);
            }
        }
        while let Some(message) = inbox.next() {
            measured(&load.busy, || lock(cipher).open(message, frames.contents()))?;
            // Decoded once there is room for it: what nobody takes costs no time.
            while frames.is_due() {
                let room = events.reserve().await.map_err(unheard)?;
                let before = frames.waiting();
                if let Some(frame) = measured(&load.busy, || frames.next())? {
                    room.send(SessionEvent::Frame(frame));
                }
                portion += before - frames.waiting();
                if portion >= PORTION {
                    portion = 0;
                    yield_now().await;
                }
            }
        }
    }
}

async fn writing(
    mut stream: WriteHalf<'_>,
    cipher: &Mutex<Cipher>,
    mut outgoing: mpsc::Receiver<Frame>,
    events: &mpsc::Sender<SessionEvent>,
    load: &Load,
) -> Endless {
    let mut contents = Vec::with_capacity(BATCH);
    let mut wire = Vec::with_capacity(BATCH);
    let mut written = 0;
    loop {
        let Some(frame) = outgoing.recv().await else {
            // `Session::close` dropped the queue, and now says why.
            return std::future::pending().await;
        };
        contents.clear();
        wire.clear();
        written += measured(&load.busy, || {
            framing::put(&frame, &mut contents)?;
            let mut frames = 1;
            while contents.len() < BATCH
                && let Ok(frame) = outgoing.try_recv()
            {
                framing::put(&frame, &mut contents)?;
                frames += 1;
            }
            framing::seal(&mut lock(cipher), &contents, &mut wire)?;
            Ok::<_, SessionError>(frames)
        })?;
        if let Err(error) = stream.write_all(&wire).await {
            // The peer's last words may be a handover: the reader comes to the end by itself.
            tokio::time::sleep(LAST_WORDS).await;
            return Err(error.into());
        }
        load.sent.fetch_add(wire.len() as u64, Ordering::Relaxed);
        if written >= SESSION_CREDIT {
            let sent = SessionEvent::Sent { frames: written };
            events.send(sent).await.map_err(unheard)?;
            written = 0;
        }
        // The thread's other tasks have their turn before the next batch.
        if contents.len() >= BATCH {
            yield_now().await;
        }
    }
}

/// Handshake and `Hello`s as the side that dialled.
pub(super) async fn as_dialler(
    stream: TcpStream,
    remote: SocketAddr,
    keys: &Keys,
) -> Result<Established, SessionError> {
    within_time(async {
        let mut link = Handshake { stream };
        let mut state = keys.dialler();
        link.write(&noise::write(&mut state)).await?;
        noise::read(&mut state, &link.read_exactly().await?)?;
        let mut cipher = Cipher::new(state, REKEY_EVERY);
        link.say(&keys.hello, &mut cipher).await?;
        let hello = link.hear(&mut cipher, keys.hello.node).await?;
        link.established(hello, remote, cipher)
    })
    .await
}

/// Handshake and `Hello`s as the side that listened. It answers `Hello` only to the peer's, so
/// that a session which the dialler believes in is one here, too.
pub(super) async fn as_listener(
    stream: TcpStream,
    remote: SocketAddr,
    all: &[Keys],
) -> Result<Established, SessionError> {
    within_time(async {
        let mut link = Handshake { stream };
        let first = link.read_exactly().await?;
        let (keys, mut state) = answering(all, &first)?;
        link.write(&noise::write(&mut state)).await?;
        let mut cipher = Cipher::new(state, REKEY_EVERY);
        let hello = link.hear(&mut cipher, keys.hello.node).await?;
        link.say(&keys.hello, &mut cipher).await?;
        link.established(hello, remote, cipher)
    })
    .await
}

/// With the keys that open the first message.
fn answering<'a>(
    all: &'a [Keys],
    first: &[u8; HANDSHAKE_MESSAGE],
) -> Result<(&'a Keys, snow::HandshakeState), SessionError> {
    let mut error = SessionError::EndedEarly;
    for keys in all {
        let mut state = keys.listener();
        match noise::read(&mut state, first) {
            Ok(()) => return Ok((keys, state)),
            Err(unopened) => error = unopened,
        }
    }
    Err(error)
}

async fn within_time(
    handshake: impl Future<Output = Result<Established, SessionError>>,
) -> Result<Established, SessionError> {
    tokio::time::timeout(HANDSHAKE_TIME, handshake)
        .await
        .unwrap_or(Err(SessionError::HandshakeTimeout))
}

/// A stream that has not proved anything yet. Reads not one byte more than it needs.
struct Handshake {
    stream: TcpStream,
}

impl Handshake {
    /// One message with its length in front.
    async fn write(&mut self, message: &[u8]) -> Result<(), SessionError> {
        let mut wire = Vec::with_capacity(MESSAGE_LENGTH + message.len());
        wire.extend_from_slice(&(message.len() as u16).to_le_bytes());
        wire.extend_from_slice(message);
        Ok(self.stream.write_all(&wire).await?)
    }

    async fn read_length(&mut self) -> Result<usize, SessionError> {
        let mut length = [0; MESSAGE_LENGTH];
        self.fill(&mut length).await?;
        Ok(usize::from(u16::from_le_bytes(length)))
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), SessionError> {
        match self.stream.read_exact(buffer).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(SessionError::EndedEarly)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A message of the handshake.
    async fn read_exactly(&mut self) -> Result<[u8; HANDSHAKE_MESSAGE], SessionError> {
        let length = self.read_length().await?;
        if length != HANDSHAKE_MESSAGE {
            return Err(SessionError::MessageLength(length));
        }
        let mut message = [0; HANDSHAKE_MESSAGE];
        self.fill(&mut message).await?;
        Ok(message)
    }

    async fn say(&mut self, hello: &Hello, cipher: &mut Cipher) -> Result<(), SessionError> {
        let (mut contents, mut wire) = (Vec::new(), Vec::new());
        framing::put(&Frame::Hello(hello.clone()), &mut contents)?;
        framing::seal(cipher, &contents, &mut wire)?;
        Ok(self.stream.write_all(&wire).await?)
    }

    /// The peer's first message: exactly one frame, its `Hello`.
    async fn hear(&mut self, cipher: &mut Cipher, me: NodeId) -> Result<Hello, SessionError> {
        let length = self.read_length().await?;
        if !(TAG..=MAX_HELLO).contains(&length) {
            return Err(SessionError::MessageLength(length));
        }
        let mut message = [0; MAX_HELLO];
        let message = &mut message[..length];
        self.fill(message).await?;
        let mut frames = Frames::default();
        cipher.open(message, frames.contents())?;
        match frames.next()? {
            Some(Frame::Hello(hello)) => {
                if hello.protocol != PROTOCOL {
                    Err(SessionError::Hello("another protocol version"))
                } else if hello.node != me.peer() {
                    Err(SessionError::Hello("it names another node"))
                } else if !frames.is_empty() {
                    Err(SessionError::Hello("something follows it"))
                } else {
                    Ok(hello)
                }
            }
            Some(_) => Err(SessionError::Hello("another frame")),
            None => Err(SessionError::Hello("an incomplete frame")),
        }
    }

    fn established(
        self,
        hello: Hello,
        remote: SocketAddr,
        cipher: Cipher,
    ) -> Result<Established, SessionError> {
        let high = move_high(OwnedFd::from(self.stream.into_std()?), CloseOrder::Third);
        Ok(Established {
            hello,
            remote,
            stream: TcpStream::from_std(high.into())?,
            cipher: Mutex::new(cipher),
        })
    }
}

#[cfg(test)]
impl Established {
    /// For a peer that breaks the rules.
    pub(super) fn parts(&mut self) -> (&mut TcpStream, &mut Cipher) {
        let cipher = self.cipher.get_mut();
        (
            &mut self.stream,
            cipher.unwrap_or_else(PoisonError::into_inner),
        )
    }
}
