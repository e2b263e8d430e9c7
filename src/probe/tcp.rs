//! The way to a backend: a TCP connect, which is also the simplest check.

use std::io::{self, ErrorKind};

use nix::errno::Errno;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use super::progress::Fail;
use crate::dial::{self, Dialer};
use crate::model::{BackendAddress, ConnectFailure};
use crate::wire::proxy_header::{Addresses, Outgoing, Version, encode};

/// Where a check goes, and what must come first there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) address: &'a BackendAddress,
    /// Makes the socket.
    pub(super) dialer: &'a Dialer,
    /// A header of the PROXY protocol.
    pub(super) header: Option<Version>,
}

/// Connects. Every kind of check gets its stream here.
pub(super) async fn dial(way: Way<'_>) -> Result<TcpStream, Fail> {
    let stream = connect(way).await;
    let why = |error: io::Error| failure(&error).map_or(Fail::NoSocket, Fail::Connect);
    let mut stream = stream.map_err(why)?;
    // What is sent is one message; without it nothing changes but the time.
    let _ = stream.set_nodelay(true);
    if let Some(version) = way.header {
        let header = own_header(version, &stream, way).map_err(|_| Fail::NoSocket)?;
        // An empty buffer takes it at once; who resets now is wrong, not unreachable.
        let sent = stream.write_all(&header).await;
        sent.map_err(|error| Fail::Wrong(format!("took no PROXY header: {error}")))?;
    }
    Ok(stream)
}

/// A socket in the file system is used like one of TCP: nothing here asks for its addresses.
async fn connect(way: Way<'_>) -> io::Result<TcpStream> {
    let (socket, to) = way.dialer.open(way.address, None)?;
    let connecting = dial::begin(&socket, &to)?;
    let stream = TcpStream::from_std(socket.into())?;
    if connecting {
        let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
        if ready.is_error()
            && let Some(error) = stream.take_error()?
        {
            return Err(error);
        }
    }
    Ok(stream)
}

/// That of a connection of our own: LOCAL in version 2; version 1 has no word for that, and gets the
/// connection's ends, if it has any.
fn own_header(version: Version, stream: &TcpStream, way: Way<'_>) -> io::Result<Vec<u8>> {
    let addresses = match version {
        Version::V1 if way.address.tcp().is_some() => Some(Addresses {
            source: stream.local_addr()?,
            destination: stream.peer_addr()?,
        }),
        _ => None,
    };
    Ok(encode(&Outgoing {
        version,
        addresses,
        authority: None,
        unique_id: None,
        crc32c: false,
    }))
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
