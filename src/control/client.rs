//! The operator's end: one request, one response, blocking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::wire::admin::{Request, Response};

/// Time for each step: connecting, sending, each read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest response, in bytes. The status of 4,096 backends takes about 2 MiB.
const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The node is there, but the exchange failed.
    #[error("the node at {path} did not answer: {source}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error(
        "nobody answers on {path}: is tandem running? start it (systemctl start tandem), or name \
         its socket with --control"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket may not be used by this user.
    #[error(
        "{path} may not be used by this user; run as root, or as a member of the socket's group"
    )]
    Permission {
        /// The socket.
        path: PathBuf,
    },
}

/// Asks the node that listens on this socket.
///
/// # Errors
///
/// There is no response. (A refusal is one: [`Response::Error`].)
pub fn call(path: &Path, request: &Request) -> Result<Response, CallError> {
    exchange(path, request).map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                CallError::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => CallError::Permission { path },
            _ => CallError::Broken { path, source },
        }
    })
}

fn exchange(path: &Path, request: &Request) -> io::Result<Response> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before connecting: that waits, too, when the node accepts nobody (unix(7), socket(7)).
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?).map_err(in_time)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    (&socket).write_all(&line).map_err(in_time)?;
    let mut answer = Vec::new();
    BufReader::new(&socket)
        .take(MAX_RESPONSE)
        .read_until(b'\n', &mut answer)
        .map_err(in_time)?;
    if answer.last() != Some(&b'\n') {
        let text = "it closed the connection before its answer was whole";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }
    serde_json::from_slice(&answer).map_err(|error| {
        let text = format!("its answer is not a response, is it another version? {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// The kernel says "try again" when a time limit of the socket is over.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        let text = format!("no answer within {} s", PATIENCE.as_secs());
        return io::Error::new(io::ErrorKind::TimedOut, text);
    }
    error
}
