//! The replication session: one encrypted, mutually authenticated TCP stream between the nodes.
//!
//! The first node dials, the second listens, on every path. A stream counts as the peer's only
//! once both its handshake and its `Hello` opened (`docs/protocol.md`): a recorded first message
//! of a handshake can be sent again, a `Hello` cannot. Until then it touches nothing; then it
//! takes the place of the session before it, since the peer may have restarted without its end
//! having been seen here.
//!
//! Owns: dialling and listening, the handshake, framing, the stream. Never: looks into a frame
//! (except the first `Hello`), decides what the end of a session means.
//!
//! Invariants: each session is one `Up`, then its frames in order, then one `Closed`, and the
//! next `Up` is sent only after that `Closed` was taken. So a frame that was meant for one session
//! never goes out on another, provided that the receiver acts on an event before it awaits the
//! next. What a stranger does costs at most [`HANDSHAKES`] small tasks.
//!
//! ```text
//!   first node     dial ---------> handshake, Hello --+
//!                  (pause)                            +--> keep: Up, stream, Closed --> events
//!   second node    accept (4) ---> handshake, Hello --+           ^
//!                  (a task each)                            frames, close
//! ```

mod dial;
mod framing;
mod listen;
mod noise;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::{NodeId, Secret};
use crate::node::SESSION_QUEUE;
use crate::wire::codec::DecodeError;
use crate::wire::replication::{Frame, Hello};

use dial::Dialler;
use listen::Listener;
use noise::Keys;
use stream::Established;

/// Time for a handshake with its `Hello`s.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(2);
/// Handshakes in progress at most; one more ends the oldest.
pub const HANDSHAKES: usize = 4;
/// After this long without an answer the path is cut (`TCP_USER_TIMEOUT`, tcp(7)). Also for a peer
/// whose kernel answers but that reads nothing.
pub const CUT_AFTER: Duration = Duration::from_secs(3);
/// Bytes that the kernel takes before it can send them (`TCP_NOTSENT_LOWAT`). More would only wait
/// where the node does not see it.
const UNSENT: u32 = 128 * 1024;
/// Bytes that the kernel takes before they are read. More would only wait there, and the peer would
/// believe that it is on its way to be acknowledged.
const UNREAD: usize = 256 * 1024;
/// An idle stream is probed this often, so that a cut is noticed.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Probes without an answer that end the stream.
const PROBES: u32 = 3;
/// Between two log lines about what did not become a session.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);
/// The same, if they say the same.
const REPEAT_EVERY: Duration = Duration::from_secs(60);

/// Who meets whom, where, and with which key.
#[derive(Debug)]
pub struct Settings {
    /// This node.
    pub me: NodeId,
    /// `(local, remote)` of each path, in the order of preference. The second node listens on the
    /// local ones; the first dials from the local addresses (any port) to the remote ones.
    pub paths: Vec<(SocketAddr, SocketAddr)>,
    /// Name of the pair.
    pub cluster: String,
    /// The shared key.
    pub secret: Secret,
    /// What this node says first.
    pub hello: Hello,
}

/// What became of the session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SessionEvent {
    /// It stands; this is what the peer said first.
    Up(Hello),
    /// A frame came.
    Frame(Frame),
    /// So many frames were written to the stream since the last such event: `SESSION_CREDIT` or
    /// more.
    Sent {
        /// How many.
        frames: u32,
    },
    /// It ended.
    Closed {
        /// The peer sent something that it must not.
        fault: bool,
        /// Why, for the log.
        reason: String,
    },
}

/// Keeps a session with the peer. Dropping it ends the session and closes the sockets.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    cluster: String,
    hello: Hello,
    keys: AllKeys,
    /// Ends the tasks when dropped.
    _tasks: JoinSet<()>,
}

impl Session {
    /// Starts on the current tokio runtime, and never gives up.
    ///
    /// The receiver of `events` must act on each event before it awaits the next; a receiver that
    /// does not take them stops the stream, and so the peer.
    pub fn start(settings: Settings, events: mpsc::Sender<SessionEvent>) -> Self {
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        let (cluster, hello) = (settings.cluster.clone(), settings.hello.clone());
        let keys = Keys::new(&settings.secret, &cluster, hello.clone());
        let keys = Arc::new(ArcSwap::from_pointee(vec![keys]));
        let source = Source::new(settings, Arc::clone(&keys), &shared);
        tasks.spawn(keep(source, Arc::clone(&shared), events));
        Self {
            shared,
            cluster,
            hello,
            keys,
            _tasks: tasks,
        }
    }

    /// Handshakes from now on are made with the first of these keys, and taken with any. The session
    /// that stands goes on: its keys are its own.
    pub fn rekey(&self, secrets: &[Secret]) {
        let keys = |secret| Keys::new(secret, &self.cluster, self.hello.clone());
        self.keys
            .store(Arc::new(secrets.iter().map(keys).collect()));
    }

    /// Puts a frame in the session's queue. Never waits; false: there is no session, or
    /// `SESSION_QUEUE` frames wait, and the frame was dropped.
    pub fn send(&self, frame: Frame) -> bool {
        let link = self.shared.link();
        link.as_ref()
            .is_some_and(|link| link.frames.try_send(frame).is_ok())
    }

    /// Closes the present session, if there is one; frames that wait are dropped. A new one is
    /// dialled.
    pub fn close(&self, reason: &str) {
        let link = self.shared.link().take();
        if let Some(link) = link {
            // The stream may have ended by itself in this moment.
            let _ = link.close.send(reason.to_owned());
        }
    }

    /// Connections from strangers, and handshakes and streams that failed by the other side's
    /// fault: wrong key, garbage, silence.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// How long the sessions have coded and decoded frames so far, on the thread that started this.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.shared.load.busy.load(Ordering::Relaxed))
    }

    /// Bytes sent and received by all sessions so far, as they are on the wire; handshakes not.
    pub fn bytes(&self) -> (u64, u64) {
        let load = &self.shared.load;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&load.sent), read(&load.received))
    }
}

/// The first one is dialled with. There are two while a key takes another's place.
type AllKeys = Arc<ArcSwap<Vec<Keys>>>;

/// Between the handle and the tasks.
#[derive(Debug, Default)]
struct Shared {
    link: Mutex<Option<Link>>,
    faults: AtomicU64,
    load: stream::Load,
    complaint: Mutex<Option<(Instant, String)>>,
}

/// The way into the present session.
#[derive(Debug)]
struct Link {
    frames: mpsc::Sender<Frame>,
    close: oneshot::Sender<String>,
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Something did not become a session: counts it if that is the other side's fault, and says
    /// so, but seldom.
    fn no_session(&self, remote: SocketAddr, error: &SessionError) {
        if error.is_fault() {
            self.fault();
        }
        let (now, text) = (Instant::now(), error.to_string());
        let mut last = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = last.as_ref().is_none_or(|(at, said)| {
            let wait = if *said == text {
                REPEAT_EVERY
            } else {
                COMPLAIN_EVERY
            };
            now.duration_since(*at) >= wait
        });
        if due {
            tracing::warn!(%remote, "a connection did not become a replication session: {text}");
            *last = Some((now, text));
        }
    }
}

/// Why a stream ended, or did not begin.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("closed here: {0}")]
    ClosedHere(String),
    #[error("no answer to the connect")]
    ConnectTimeout,
    #[error("a frame does not decode: {0}")]
    Decode(#[from] DecodeError),
    #[error("the peer closed the connection")]
    Ended,
    #[error(
        "the peer closed the connection during the handshake; its log says why (both nodes need \
         the same key file and cluster name)"
    )]
    EndedEarly,
    #[error("a frame of {0} bytes")]
    FrameLength(usize),
    #[error("the handshake was pushed out by newer connections")]
    HandshakePushedOut,
    #[error("no whole handshake within {} s", HANDSHAKE_TIME.as_secs())]
    HandshakeTimeout,
    #[error("its first frame is not the peer's Hello: {0}")]
    Hello(&'static str),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a message of {0} bytes")]
    MessageLength(usize),
    #[error("replaced by a newer session")]
    Replaced,
    #[error("not an address of the peer")]
    Stranger,
    #[error(
        "a message does not open: damaged, or the nodes differ in key file, cluster name or \
         protocol version"
    )]
    Unopened(#[source] snow::Error),
}

impl SessionError {
    /// The other side did what it must not.
    const fn is_fault(&self) -> bool {
        match self {
            Self::ClosedHere(_)
            | Self::ConnectTimeout
            | Self::Ended
            | Self::EndedEarly
            | Self::Io(_)
            | Self::Replaced => false,
            Self::Decode(_)
            | Self::FrameLength(_)
            | Self::HandshakePushedOut
            | Self::HandshakeTimeout
            | Self::Hello(_)
            | Self::MessageLength(_)
            | Self::Stranger
            | Self::Unopened(_) => true,
        }
    }
}

/// Where sessions come from.
enum Source {
    Dial(Dialler),
    Listen(Listener),
}

impl Source {
    fn new(settings: Settings, keys: AllKeys, shared: &Arc<Shared>) -> Self {
        match settings.me {
            NodeId::First => Self::Dial(Dialler::new(settings.paths, keys, Arc::clone(shared))),
            NodeId::Second => {
                Self::Listen(Listener::open(&settings.paths, keys, Arc::clone(shared)))
            }
        }
    }

    /// The next session, when there is none.
    async fn next(&mut self) -> Established {
        match self {
            Self::Dial(dialler) => dialler.next().await,
            Self::Listen(listener) => listener.next().await,
        }
    }

    /// A session that comes although there is one. Nothing is lost when this is dropped.
    async fn newer(&mut self) -> Established {
        match self {
            Self::Dial(_) => std::future::pending().await,
            Self::Listen(listener) => listener.next().await,
        }
    }
}

async fn keep(mut source: Source, shared: Arc<Shared>, events: mpsc::Sender<SessionEvent>) {
    let mut newer = None;
    loop {
        let mut session = match newer.take() {
            Some(session) => session,
            None => source.next().await,
        };
        // All the room there is: nobody has a `Closed` still before him.
        let Ok(mut room) = events.reserve_many(events.max_capacity()).await else {
            return;
        };
        let (frames, outgoing) = mpsc::channel(SESSION_QUEUE as usize);
        let (close, closed) = oneshot::channel();
        *shared.link() = Some(Link { frames, close });
        tracing::info!(remote = %session.remote, "replication session stands");
        if let Some(permit) = room.next() {
            permit.send(SessionEvent::Up(session.hello.clone()));
        }
        drop(room);
        let end = tokio::select! {
            // In this order, so that a flood of connections cannot use up the task's turn.
            biased;
            Ok(reason) = closed => SessionError::ClosedHere(reason),
            end = session.run(outgoing, &events, &shared.load) => end,
            session = source.newer() => {
                newer = Some(session);
                SessionError::Replaced
            }
        };
        *shared.link() = None;
        if end.is_fault() {
            shared.fault();
        }
        tracing::info!(remote = %session.remote, %end, "replication session ended");
        // Before the event: whoever hears of it finds the stream gone.
        drop(session);
        let event = SessionEvent::Closed {
            fault: end.is_fault(),
            reason: end.to_string(),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Makes a stream quick, and its death noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_recv_buffer_size(UNREAD)?;
    socket.set_tcp_user_timeout(Some(CUT_AFTER))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(PROBE_EVERY)
            .with_interval(PROBE_EVERY)
            .with_retries(PROBES),
    )
}

#[cfg(test)]
mod tests;
