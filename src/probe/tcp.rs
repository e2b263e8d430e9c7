//! The way to a backend: a TCP connect, which is also the simplest check.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use nix::errno::Errno;
use tokio::net::TcpStream;

use super::progress::Fail;
use crate::model::ConnectFailure;

/// Connects. Every kind of check that speaks to a backend gets its stream here: a header that the
/// backend wants before anything else (PROXY protocol) is to be sent here.
pub(super) async fn dial(address: SocketAddr) -> Result<TcpStream, Fail> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| failure(&error).map_or(Fail::NoSocket, Fail::Connect))?;
    // What is sent is one message; without it nothing changes but the time.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What an error of `connect(2)` says of the backend; none if it only says something of this host.
pub(super) fn failure(error: &io::Error) -> Option<ConnectFailure> {
    let errno = error.raw_os_error().map(Errno::from_raw);
    if matches!(
        errno,
        Some(
            Errno::EADDRNOTAVAIL
                | Errno::EAGAIN
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
        )
    ) {
        return None;
    }
    Some(match error.kind() {
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::TimedOut => ConnectFailure::Timeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    })
}
