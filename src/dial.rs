//! Sockets towards backends, as their service wants them: for clients' connections and for checks.
//!
//! Owns: how such a socket is made, bound and told to connect. Never: waits for it, or uses it.
//! It stands below the adapters because two of them, the proxy and the prober, must agree on it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use crate::config::{Config, Keepalive, Service};
use crate::model::{BackendAddress, NodeId};

/// `IP_LOCAL_PORT_RANGE` (Linux 6.3), which libc does not name yet.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
/// Where the kernel says from which ports it connects (ip-sysctl).
const PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A service's sockets cannot be as it wants them.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// A right is missing.
    #[error(
        "service {service} cannot have `{key}`: {source}; run as root, or with CAP_NET_ADMIN as the \
         systemd unit has it"
    )]
    Forbidden {
        /// Name of the service.
        service: String,
        /// The key.
        key: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has none of the addresses.
    #[error(
        "service {service} has no `source` that is on this host: {addresses}; add an address of \
         this node, or write a VIP"
    )]
    NoSource {
        /// Name of the service.
        service: String,
        /// Those of one IP version.
        addresses: String,
    },
    /// The kernel refuses something.
    #[error("service {service} cannot have `{key}`: {source}; remove the key")]
    Refused {
        /// Name of the service.
        service: String,
        /// The key.
        key: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes a service's sockets. The default is an ordinary one.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    /// One an IP version.
    sources: Vec<Source>,
    transparent: bool,
    mark: Option<u32>,
    keepalive: Option<TcpKeepalive>,
    user_timeout: Option<Duration>,
    mptcp: bool,
    fast_open: bool,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    address: IpAddr,
    /// The first and the last; none: any.
    ports: Option<(u16, u16)>,
}

impl Dialer {
    /// For the connections of a service's clients.
    ///
    /// # Errors
    ///
    /// This host, or this process, cannot have such sockets.
    pub fn for_clients(config: &Config, service: &Service, me: NodeId) -> Result<Self, DialError> {
        let sockets = &service.proxied.sockets;
        let dialer = Self {
            // Whoever sees the client's address does not see ours.
            sources: match sockets.transparent {
                true => Vec::new(),
                false => sources(config, service, Some(me))?,
            },
            transparent: sockets.transparent,
            mark: sockets.mark,
            keepalive: sockets.keepalive.as_ref().map(keepalive),
            user_timeout: sockets.user_timeout,
            mptcp: sockets.mptcp.to_backends() && mptcp_here().is_ok(),
            fast_open: sockets.fast_open_backends,
        };
        dialer.rehearse(service)?;
        Ok(dialer)
    }

    /// For the checks of a service. They have its `source` unless that is a VIP: both nodes check, and
    /// the answers to a VIP go to the master.
    ///
    /// # Errors
    ///
    /// As [`Dialer::for_clients`].
    pub fn for_checks(config: &Config, service: &Service) -> Result<Self, DialError> {
        let dialer = Self {
            sources: sources(config, service, None)?,
            mark: service.proxied.sockets.mark,
            ..Self::default()
        };
        dialer.rehearse(service)?;
        Ok(dialer)
    }

    /// A client's first bytes may travel in the SYN. Only for a socket that has bytes at once: one that
    /// waits for its first write would never connect.
    pub const fn opens_fast(&self) -> bool {
        self.fast_open
    }

    /// A socket for this backend, which does not block, and where it is to connect.
    ///
    /// # Errors
    ///
    /// The kernel's. None says anything of the backend.
    pub fn open(
        &self,
        to: &BackendAddress,
        client: Option<IpAddr>,
    ) -> io::Result<(Socket, SockAddr)> {
        let kind = Type::STREAM.nonblocking();
        let to = match to {
            BackendAddress::Tcp(to) => *to,
            BackendAddress::Unix(path) => {
                return Ok((
                    Socket::new(Domain::UNIX, kind, None)?,
                    SockAddr::unix(&**path)?,
                ));
            }
        };
        let domain = Domain::for_address(to);
        let socket = match self.mptcp {
            // Whether the kernel takes it can change at any time (net.mptcp.enabled).
            true => Socket::new(domain, kind, Some(Protocol::MPTCP))
                .or_else(|_| Socket::new(domain, kind, Some(Protocol::TCP)))?,
            false => Socket::new(domain, kind, Some(Protocol::TCP))?,
        };
        for (_, option) in OPTIONS {
            option(self, &socket, to.ip())?;
        }
        let source = match client.filter(|_| self.transparent) {
            Some(address) => Some(Source {
                address: address.to_canonical(),
                ports: None,
            }),
            None => self.source(to.ip()),
        };
        if let Some(source) = source {
            source.bind(&socket)?;
        }
        Ok((socket, to.into()))
    }

    fn source(&self, to: IpAddr) -> Option<Source> {
        let mut sources = self.sources.iter();
        sources
            .find(|source| source.address.is_ipv4() == to.is_ipv4())
            .copied()
    }

    /// Finds out now what would fail with every connection.
    fn rehearse(&self, service: &Service) -> Result<(), DialError> {
        let named = |key: &'static str| {
            move |source: io::Error| {
                let service = service.name.clone();
                match source.kind() {
                    io::ErrorKind::PermissionDenied => DialError::Forbidden {
                        service,
                        key,
                        source,
                    },
                    _ => DialError::Refused {
                        service,
                        key,
                        source,
                    },
                }
            }
        };
        for version in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            if !serves(service, version) {
                continue;
            }
            let kind = Type::STREAM.nonblocking();
            let domain = Domain::for_address(SocketAddr::new(version, 0));
            // Whether the host has this IP version is another matter.
            let Ok(socket) = Socket::new(domain, kind, Some(Protocol::TCP)) else {
                continue;
            };
            for (key, option) in OPTIONS {
                option(self, &socket, version).map_err(named(key))?;
            }
        }
        Ok(())
    }
}

type Set = fn(&Dialer, &Socket, IpAddr) -> io::Result<()>;

/// What is set on a socket that is not bound yet, by its key.
const OPTIONS: &[(&str, Set)] = &[
    ("transparent", |dialer, socket, to| match to {
        _ if !dialer.transparent => Ok(()),
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }),
    ("mark", |dialer, socket, _| {
        dialer.mark.map_or(Ok(()), |mark| socket.set_mark(mark))
    }),
    ("keepalive", |dialer, socket, _| {
        let wanted = dialer.keepalive.as_ref();
        wanted.map_or(Ok(()), |keepalive| socket.set_tcp_keepalive(keepalive))
    }),
    ("user_timeout", |dialer, socket, _| {
        let wanted = dialer.user_timeout;
        wanted.map_or(Ok(()), |time| socket.set_tcp_user_timeout(Some(time)))
    }),
];

impl Source {
    fn bind(&self, socket: &Socket) -> io::Result<()> {
        // The port is chosen when the destination is known: so there are as many for each destination,
        // and not as many in all (ip(7)). Where the kernel refuses, there are fewer.
        let _ = setsockopt(socket, sockopt::IpBindAddressNoPort, &true);
        if let Some((first, last)) = self.ports {
            let range = u32::from(last) << 16 | u32::from(first);
            // Older kernels have any port: then two nodes may meet on one.
            let _ = set(
                socket,
                libc::IPPROTO_IP,
                IP_LOCAL_PORT_RANGE,
                range.cast_signed(),
            );
        }
        socket.bind(&SocketAddr::new(self.address, 0).into())
    }
}

/// Has the socket connect. True: it is under way; false: it is there.
///
/// # Errors
///
/// What the backend, or the way there, has against it. That nobody is at a path, or does not take what
/// waits there, is said as a host would say it.
pub fn begin(socket: &Socket, to: &SockAddr) -> io::Result<bool> {
    match socket.connect(to) {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(true),
        Err(error) if to.is_unix() => Err(match error.raw_os_error() {
            // unix(7): its queue is full; connect(2) would wait.
            Some(libc::EAGAIN) => io::ErrorKind::TimedOut.into(),
            Some(libc::ENOENT) => io::ErrorKind::ConnectionRefused.into(),
            _ => error,
        }),
        Err(error) => Err(error),
    }
}

/// Says that this socket's first bytes shall travel in its SYN if the peer permitted that before.
///
/// # Errors
///
/// The kernel's.
pub fn connect_fast(socket: &Socket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::TcpFastOpenConnect, &true)?)
}

/// So many clients of this listener may be in a handshake whose SYN had bytes.
///
/// # Errors
///
/// The kernel's.
pub fn accept_fast(socket: &Socket, most: u16) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, most.into())
}

/// What the kernel is told of silent peers.
pub fn keepalive(keepalive: &Keepalive) -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.count.into())
}

/// Whether this kernel has Multipath TCP now.
///
/// # Errors
///
/// It does not.
pub fn mptcp_here() -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).map(drop)
}

fn set(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` lives over the call, and its size is the one that is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A backend has this IP version.
fn serves(service: &Service, version: IpAddr) -> bool {
    let hosts = service.backends.iter().filter_map(|it| it.address.tcp());
    hosts
        .into_iter()
        .any(|host| host.is_ipv4() == version.is_ipv4())
}

/// This node's addresses towards the backends. `me`: VIPs, too, each with the half of the ports that is
/// this node's, so that connections which stay with an old master and those of the new one never meet.
fn sources(
    config: &Config,
    service: &Service,
    me: Option<NodeId>,
) -> Result<Vec<Source>, DialError> {
    let written = &service.proxied.sockets.sources;
    let mut sources = Vec::new();
    for v4 in [true, false] {
        let candidates = || written.iter().filter(move |it| it.is_ipv4() == v4);
        let is_vip = |address: &&IpAddr| config.vips.iter().any(|vip| vip.ip() == **address);
        if let Some(vip) = candidates().find(is_vip) {
            sources.extend(me.map(|me| Source {
                address: *vip,
                ports: half(me),
            }));
        } else if let Some(own) = candidates().find(|address| is_here(**address)) {
            sources.push(Source {
                address: *own,
                ports: None,
            });
        } else if candidates().next().is_some() {
            let all: Vec<_> = candidates().map(IpAddr::to_string).collect();
            return Err(DialError::NoSource {
                service: service.name.clone(),
                addresses: all.join(", "),
            });
        }
    }
    Ok(sources)
}

/// This host has the address.
fn is_here(address: IpAddr) -> bool {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
    socket.is_ok_and(|socket| socket.bind(&address.into()).is_ok())
}

/// A node's half of the ports from which the kernel connects.
fn half(me: NodeId) -> Option<(u16, u16)> {
    let text = fs::read_to_string(PORTS).ok()?;
    let mut ports = text.split_whitespace().map(|port| port.parse().ok());
    halved(ports.next()??, ports.next()??, me)
}

fn halved(first: u16, last: u16, me: NodeId) -> Option<(u16, u16)> {
    let middle = first + last.checked_sub(first)?.checked_sub(1)? / 2;
    Some(match me {
        NodeId::First => (first, middle),
        NodeId::Second => (middle + 1, last),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_half_of_the_ports() {
        let both = |first, last| NodeId::BOTH.map(|me| halved(first, last, me));
        let rows = [
            ((32_768, 60_999), [(32_768, 46_883), (46_884, 60_999)]),
            ((1, 2), [(1, 1), (2, 2)]),
            ((1, 3), [(1, 1), (2, 3)]),
            ((0, u16::MAX), [(0, 32_767), (32_768, u16::MAX)]),
        ];
        for ((first, last), expected) in rows {
            assert_eq!(both(first, last), expected.map(Some), "{first}-{last}");
        }
        assert_eq!(both(7, 7), [None, None]);
        assert_eq!(both(7, 6), [None, None]);
    }

    #[test]
    fn nobody_at_a_path_is_a_refusal() {
        let dialer = Dialer::default();
        let nowhere = BackendAddress::Unix("/nowhere/tandem-test.sock".into());
        let (socket, to) = dialer.open(&nowhere, None).unwrap();
        let error = begin(&socket, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
