//! The node's end: the socket file, and the clients on it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::Asked;
use crate::wire::admin::{MAX_LINE, Request, Response};

/// Clients at once.
pub(super) const CLIENTS: usize = 64;
/// Owner and group may connect: connecting needs write permission (unix(7)).
const MODE: u32 = 0o660;
/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 64;
/// Pause after an error that should not come in a row, so that it cannot spin.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Longest explanation of a bad line, in characters: it may quote what the client sent.
const MAX_COMPLAINT: usize = 300;

/// Times that a client or the node may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a whole line to come, or an answer to be read.
    pub(super) client: Duration,
    /// For the node to answer.
    pub(super) node: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            client: Duration::from_secs(10),
            node: Duration::from_secs(5),
        }
    }
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another process answers on it.
    #[error(
        "another tandem runs (pid {}): it answers on {path}; stop it, or give this one another \
         socket with --control", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
    )]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
        /// The process that listens, unless it is too busy to say.
        pid: Option<i32>,
    },
    /// The directory does not exist.
    #[error(
        "the directory of the control socket {path} does not exist; create it with mkdir, or set \
         RuntimeDirectory= in the systemd unit"
    )]
    NoDirectory {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error(
        "{path} exists and is not a socket; remove it, or name another control socket with \
         --control"
    )]
    NotASocket {
        /// What should be the socket.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {action} the control socket {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The listening control socket. Dropping it removes the socket file.
#[derive(Debug)]
pub struct Server {
    listener: StdUnixListener,
    path: PathBuf,
    /// The file that is ours: device and inode.
    file: (u64, u64),
    pub(super) patience: Patience,
}

impl Server {
    /// Makes the socket, mode 0660. A socket that a dead process left behind is replaced.
    ///
    /// # Errors
    ///
    /// Another process listens there, or the file cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |action| {
            move |source| ControlError::System {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let address = SockAddr::unix(path).map_err(failed("name"))?;
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        let directory = File::open(directory).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ControlError::NoDirectory {
                path: path.to_owned(),
            },
            _ => failed("open the directory of")(source),
        })?;
        // Until the end of this function: two that start at once must not both find a dead socket,
        // and one of them remove the other's.
        directory.lock().map_err(failed("lock the directory of"))?;
        remove_dead(path, &address)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("open"))?;
        socket.set_nonblocking(true).map_err(failed("open"))?;
        socket.bind(&address).map_err(failed("make"))?;
        // Nobody can connect before `listen`.
        let file = fs::set_permissions(path, Permissions::from_mode(MODE))
            .and_then(|()| fs::symlink_metadata(path))
            .map_err(failed("set the mode of"))?;
        let server = Self {
            listener: StdUnixListener::from(std::os::fd::OwnedFd::from(socket)),
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
            patience: Patience::default(),
        };
        socket2::SockRef::from(&server.listener)
            .listen(BACKLOG)
            .map_err(failed("listen on"))?;
        Ok(server)
    }

    /// Serves clients on the current tokio runtime, for ever. Bad lines are counted in `rejected`.
    pub async fn serve(self, asks: mpsc::Sender<Asked>, rejected: Arc<AtomicU64>) {
        let listener = match self.listener.try_clone().and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "no control socket");
                return;
            }
        };
        let room = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::debug!(%error, "control socket");
                        tokio::time::sleep(AFTER_ERROR).await;
                        continue;
                    }
                },
                // Frees what ended.
                Some(_) = clients.join_next() => continue,
            };
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                refuse(&stream);
                continue;
            };
            let client = Client::new(stream, asks.clone(), Arc::clone(&rejected), self.patience);
            clients.spawn(async move {
                client.serve().await;
                drop(permit);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours {
            // Nothing more can be done about it; the next start finds it dead and replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket on which nobody listens.
fn remove_dead(path: &Path, address: &SockAddr) -> Result<(), ControlError> {
    let failed = |action, source| ControlError::System {
        action,
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ControlError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|error| failed("open", error))?;
    match probe.connect(address) {
        // Would block: so many wait there that its owner must be busy, but it has one.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| failed("remove", error))
            }
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(failed("try", error)),
        },
        connected => {
            let owner = connected.and_then(|()| Ok(getsockopt(&probe, PeerCredentials)?));
            Err(ControlError::AlreadyRunning {
                path: path.to_owned(),
                pid: owner.ok().map(|owner| owner.pid()),
            })
        }
    }
}

/// One client too many: told so if that needs no waiting, and closed.
fn refuse(stream: &UnixStream) {
    let line = line(&error(format!(
        "{CLIENTS} clients are connected already; try again when one has left"
    )));
    // A fresh socket takes a line; if not, the client sees the end.
    let _ = socket2::SockRef::from(stream).send(&line);
}

fn error(message: String) -> Response {
    Response::Error { message }
}

fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).unwrap_or_else(|error| {
        // Shapes of plain structs, numbers and strings: there is nothing that could fail.
        tracing::error!(%error, "response cannot be written");
        br#"{"response":"error","message":"the response cannot be written; see the log"}"#.to_vec()
    });
    line.push(b'\n');
    line
}

/// One connected client.
struct Client {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    asks: mpsc::Sender<Asked>,
    rejected: Arc<AtomicU64>,
    patience: Patience,
}

/// What became of waiting for a line.
enum Heard {
    Line,
    TooLong,
    TooLate,
    End,
}

impl Client {
    fn new(
        stream: UnixStream,
        asks: mpsc::Sender<Asked>,
        rejected: Arc<AtomicU64>,
        patience: Patience,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            asks,
            rejected,
            patience,
        }
    }

    async fn serve(mut self) {
        let mut bytes = Vec::new();
        loop {
            let (response, last) = match self.hear(&mut bytes).await {
                Heard::End => return,
                Heard::Line => (self.answer(&bytes).await, false),
                Heard::TooLong => {
                    self.reject();
                    let text = format!("the line is longer than {MAX_LINE} bytes; closing");
                    (error(text), true)
                }
                Heard::TooLate => {
                    let seconds = self.patience.client.as_secs();
                    let text = format!("no whole line within {seconds} s; closing");
                    (error(text), true)
                }
            };
            if !self.say(&line(&response)).await || last {
                return;
            }
        }
    }

    /// Reads the next line. The last one may end with the stream.
    async fn hear(&mut self, bytes: &mut Vec<u8>) -> Heard {
        bytes.clear();
        // One more than a line may have: its end.
        let mut bounded = (&mut self.reader).take(MAX_LINE as u64 + 1);
        let read = bounded.read_until(b'\n', bytes);
        match tokio::time::timeout(self.patience.client, read).await {
            Err(_elapsed) => Heard::TooLate,
            Ok(Err(_) | Ok(0)) => Heard::End,
            Ok(Ok(_)) if bytes.last() == Some(&b'\n') => {
                bytes.pop();
                Heard::Line
            }
            Ok(Ok(_)) if bytes.len() > MAX_LINE => Heard::TooLong,
            Ok(Ok(_)) => Heard::Line,
        }
    }

    async fn answer(&self, bytes: &[u8]) -> Response {
        let request = match serde_json::from_slice::<Request>(bytes) {
            Ok(request) => request,
            Err(wrong) => {
                self.reject();
                return error(complaint(&wrong));
            }
        };
        let seconds = self.patience.node.as_secs();
        let asked = tokio::time::timeout(self.patience.node, async {
            let (reply, answer) = oneshot::channel();
            let asked = Asked { request, reply };
            self.asks.send(asked).await.ok()?;
            answer.await.ok()
        });
        match asked.await {
            Ok(Some(response)) => response,
            Ok(None) => error("the node is stopping and answers no more".into()),
            Err(_elapsed) => error(format!(
                "the node did not answer within {seconds} s; it is overloaded or hangs, see its log"
            )),
        }
    }

    async fn say(&mut self, line: &[u8]) -> bool {
        let written = tokio::time::timeout(self.patience.client, self.writer.write_all(line));
        matches!(written.await, Ok(Ok(())))
    }

    fn reject(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is wrong with a line, without control characters and not too long.
fn complaint(wrong: &serde_json::Error) -> String {
    let text: String = wrong
        .to_string()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(MAX_COMPLAINT)
        .collect();
    format!(r#"not a request: {text}; send one JSON object a line, such as {{"request":"status"}}"#)
}
