//! Listening sockets.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{Config, Mptcp, Service, Sockets};
use crate::datapath::DatapathError;
use crate::dial;

/// Connections that wait to be accepted. The kernel takes the lower of this and
/// `net.core.somaxconn` (4,096 by default), listen(2).
const BACKLOG: i32 = 65_535;

/// Opens one listener for each worker, all on one address. With port 0 the kernel chooses a port,
/// the same for all.
///
/// The address need not be on this host (yet): the standby listens before it owns the VIP.
pub(super) fn open(
    service: &Service,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<TcpListener>, DatapathError> {
    let sockets = &service.proxied.sockets;
    all(sockets, address, workers).map_err(|source| DatapathError::Listen {
        service: service.name.clone(),
        address,
        remedy: remedy(&source),
        source,
    })
}

fn all(wanted: &Sockets, address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // A port that is shared among our workers could be shared by another process of the same user
    // as well, and each would get half of the clients. One that will not share finds that out.
    drop(bound(address, Protocol::TCP, Sharing::Refused)?);
    let protocol = match wanted.mptcp.to_clients() && dial::mptcp_here().is_ok() {
        true => Protocol::MPTCP,
        false => Protocol::TCP,
    };
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = bound(address, protocol, Sharing::Allowed)?;
        // Accepted sockets inherit all of these: no small answer waits for an acknowledgement, and only
        // an orderly end is no reset (`serve`).
        socket.set_tcp_nodelay(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some(keepalive) = &wanted.keepalive {
            socket.set_tcp_keepalive(&dial::keepalive(keepalive))?;
        }
        if let Some(time) = wanted.user_timeout {
            socket.set_tcp_user_timeout(Some(time))?;
        }
        if wanted.fast_open > 0 {
            dial::accept_fast(&socket, wanted.fast_open)?;
        }
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

fn bound(address: SocketAddr, protocol: Protocol, sharing: Sharing) -> io::Result<Socket> {
    // socket2 opens with close-on-exec.
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
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

/// What services ask for and this host does not have now, so that they do without.
pub(super) fn shortfalls(config: &Config) -> Vec<String> {
    let names = |wants: fn(&Sockets) -> bool| {
        let services = config.services.iter();
        let names = services.filter(|service| wants(&service.proxied.sockets));
        names
            .map(|it| it.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut all = Vec::new();
    let multipath = names(|wanted| wanted.mptcp != Mptcp::Off);
    if !multipath.is_empty()
        && let Err(error) = dial::mptcp_here()
    {
        all.push(format!(
            "no Multipath TCP ({error}): {multipath} has ordinary TCP; see net.mptcp.enabled"
        ));
    }
    for (bit, names, which) in [
        (1, names(|wanted| wanted.fast_open_backends), "to backends"),
        (2, names(|wanted| wanted.fast_open > 0), "from clients"),
    ] {
        // What cannot be read says nothing.
        let lacks = |mask: i64| mask & bit == 0;
        if !names.is_empty() && fast_open().is_some_and(lacks) {
            all.push(format!(
                "no TCP fast open {which} in {names}: net.ipv4.tcp_fastopen lacks the bit {bit}"
            ));
        }
    }
    all
}

/// What the kernel permits (ip-sysctl).
fn fast_open() -> Option<i64> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/tcp_fastopen").ok()?;
    text.trim().parse().ok()
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
