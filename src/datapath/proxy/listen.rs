//! Listening sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::datapath::DatapathError;

/// Connections that wait to be accepted. The kernel takes the lower of this and
/// `net.core.somaxconn` (4,096 by default), listen(2).
const BACKLOG: i32 = 65_535;

/// Opens one listener for each worker, all on one address. With port 0 the kernel chooses a port,
/// the same for all.
///
/// The address need not be on this host (yet): the standby listens before it owns the VIP.
pub(super) fn open(
    service: &str,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<TcpListener>, DatapathError> {
    all(address, workers).map_err(|source| DatapathError::Listen {
        service: service.to_owned(),
        address,
        remedy: remedy(&source),
        source,
    })
}

fn all(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // A port that is shared among our workers could be shared by another process of the same user
    // as well, and each would get half of the clients. One that will not share finds that out.
    drop(bound(address, Sharing::Refused)?);
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bound(address, Sharing::Allowed)?;
        // Accepted sockets inherit both: no small answer waits for an acknowledgement, and only an
        // orderly end is no reset (`serve`).
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Sharing {
    Allowed,
    Refused,
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    // socket2 opens with close-on-exec.
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(true)?;
        }
    }
    // Connections in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Allowed)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there (see `ss -ltnp`): stop it, or change service.listen"
        }
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE: run as root or by the systemd unit"
        }
        _ => "check service.listen, and the limit of open files (LimitNOFILE)",
    }
}
