//! Packets made in user space.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tandem::datapath::nat::engine::Packet;
use tandem::datapath::nat::inject::{Injector, Sent};
use tokio::net::TcpListener;

use crate::frames::{SYN, Tcp};
use crate::line::Line;

/// Ethernet's header.
const LINK: usize = 14;

fn packet(from: SocketAddr, to: SocketAddr) -> Packet {
    Packet {
        bytes: Tcp::new(from, to, SYN).frame()[LINK..].to_vec(),
        to: to.ip(),
    }
}

/// The ports to which SYN-ACKs come, until there are so many or the socket's timeout is over.
fn answered(socket: &Socket, six: bool, count: usize) -> io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 256];
    while ports.len() < count {
        let length = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            length => length?,
        };
        let bytes: Vec<u8> = buffer[..length]
            .iter()
            // SAFETY: the kernel wrote so many.
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        let tcp = if six { &bytes[..] } else { &bytes[20..] };
        if tcp[13] == 0x12 {
            ports.push(u16::from_be_bytes([tcp[2], tcp[3]]));
        }
    }
    Ok(ports)
}

/// The backend's kernel, which checks all sums, answers each of them: also the first ones, whose
/// neighbour had to be found.
pub(crate) async fn arrives(six: bool) -> Result<(), String> {
    const COUNT: u16 = 100;
    let line = Line::build(&[1_500; 2], 1).await?;
    let (source, backend) = (line.source(six), line.backend_at(six, 0));
    let listening = line.backend().run(TcpListener::bind(backend)).await;
    let _listener = listening.map_err(|error| error.to_string())?;
    let work = move || -> io::Result<(Vec<u16>, u64)> {
        let domain = if six { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut injector = Injector::open().map_err(io::Error::other)?;
        let mut ports = Vec::new();
        // One batch to an unknown neighbour (its queue holds a hundred of these), one to a known.
        for first in [1_000, 2_000] {
            let packets: Vec<_> = (first..first + COUNT)
                .map(|port| packet(SocketAddr::new(source, port), backend))
                .collect();
            if injector.send(&packets) != packets.len() {
                return Err(io::Error::other(format!("{:?}", injector.sent())));
            }
            ports.extend(answered(&socket, six, COUNT.into())?);
        }
        Ok((ports, injector.sent().sent))
    };
    let (mut ports, sent) = line
        .node()
        .run(async move { work() })
        .await
        .map_err(|error| error.to_string())?;
    ports.sort_unstable();
    ports.dedup();
    let all: Vec<_> = (1_000..1_000 + COUNT).chain(2_000..2_000 + COUNT).collect();
    if ports != all || sent != 200 {
        return Err(format!("{sent} sent, {} answered: {ports:?}", ports.len()));
    }
    Ok(())
}

/// A route that only packets of one sender have is found for them, also if the sender's address is
/// not on this host; others have none.
pub(crate) async fn by_policy(six: bool) -> Result<(), String> {
    const TABLE: u32 = 100;
    let line = Line::build(&[1_500; 2], 1).await?;
    let backend = line.backend_at(six, 0);
    let (sender, strange, far): (IpAddr, IpAddr, IpAddr) = if six {
        (line.source(six), ip("2001:db8:77::1"), ip("2001:db8:99::9"))
    } else {
        (line.source(six), ip("198.51.100.77"), ip("203.0.113.9"))
    };
    let far = SocketAddr::new(far, 8_080);
    line.add_far(far.ip()).await?;
    line.route_by_policy(&[sender, strange], far.ip(), backend.ip(), TABLE)
        .await?;
    let listening = line.backend().run(TcpListener::bind(far)).await;
    let _listener = listening.map_err(|error| error.to_string())?;
    let work = move || -> io::Result<(Vec<u16>, Sent)> {
        let domain = if six { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut injector = Injector::open().map_err(io::Error::other)?;
        let packets = [
            packet(SocketAddr::new(sender, 1_001), far),
            packet(SocketAddr::new(strange, 1_002), far),
            // Of no rule.
            packet(SocketAddr::new(vip_of(six), 1_003), far),
        ];
        injector.send(&packets);
        Ok((answered(&socket, six, 1)?, *injector.sent()))
    };
    let work = line.node().run(async move { work() }).await;
    let (ports, sent) = work.map_err(|error| error.to_string())?;
    let right = ports == [1_001] && (sent.sent, sent.unreachable) == (2, 1);
    right
        .then_some(())
        .ok_or_else(|| format!("{sent:?}, answered: {ports:?}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address that no rule is for.
fn vip_of(six: bool) -> IpAddr {
    ip(if six {
        "2001:db8:77::2"
    } else {
        "198.51.100.78"
    })
}

/// What cannot be sent is counted, and those behind it are sent.
pub(crate) fn fails() -> Result<(), String> {
    let work = || -> io::Result<()> {
        let mut injector = Injector::open().map_err(io::Error::other)?;
        // This thread's namespace has a loopback device that is down, and no route.
        let four = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let six = SocketAddr::new("2001:db8::1".parse().expect("an address"), 1);
        let taken = injector.send(&[
            packet(four(1), four(2)),
            packet(four(3), four(4)),
            packet(six, six),
        ]);
        let sent = *injector.sent();
        (taken == 0 && sent.sent == 0 && sent.unreachable == 3)
            .then_some(())
            .ok_or_else(|| io::Error::other(format!("{taken}: {sent:?}")))
    };
    work().map_err(|error| error.to_string())
}
