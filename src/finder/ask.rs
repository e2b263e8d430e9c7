//! One question to the resolvers of the configuration or of the host.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Dns;
use crate::discover::resolvers;
use crate::wire::dns::{Kind, Records, Reply, question, reply};

/// Where a host says whom it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Questions at once.
const AT_ONCE: usize = 64;
/// Datagrams that are looked at while one answer is awaited: what is not it may be forged.
const ALIENS: usize = 64;

/// Asks.
#[derive(Debug)]
pub(super) struct Asker {
    dns: Dns,
    room: Semaphore,
    random: SystemRandom,
}

impl Asker {
    pub(super) fn new(dns: Dns) -> Self {
        Self {
            dns,
            room: Semaphore::new(AT_ONCE),
            random: SystemRandom::new(),
        }
    }

    /// The records of a name. An error says who did not answer what.
    pub(super) async fn ask(&self, name: &str, kind: Kind) -> Result<Records, String> {
        let _place = self.room.acquire().await.map_err(|_| "stopped")?;
        let servers = match self.dns.servers.is_empty() {
            true => resolvers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()),
            false => self.dns.servers.clone(),
        };
        let mut error = "no resolver".to_owned();
        for attempt in 0..self.dns.attempts {
            // The last time without an extension: some old servers and firewalls know none.
            let extended = attempt == 0 || attempt + 1 < self.dns.attempts;
            for server in &servers {
                match self.ask_one(*server, name, kind, extended).await {
                    Ok(records) => return Ok(records),
                    Err(why) => error = format!("{server}, {name} {kind}: {why}"),
                }
            }
        }
        Err(error)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        name: &str,
        kind: Kind,
        extended: bool,
    ) -> Result<Records, String> {
        let mut id = [0; 2];
        let filled = self.random.fill(&mut id);
        filled.map_err(|_| "no randomness".to_owned())?;
        let id = u16::from_be_bytes(id);
        let bytes = question(id, name, kind, extended).ok_or("no name of DNS")?;
        let parse = |bytes: &[u8]| reply(bytes, id, name, kind);
        let udp = datagrams(server, &bytes, parse);
        let mut answer = within(self.dns.timeout, udp).await?;
        if answer == Reply::Truncated {
            let tcp = stream(server, &bytes, parse);
            answer = within(self.dns.timeout, tcp).await?;
        }
        match answer {
            Reply::Records(records) => Ok(records),
            Reply::Failed(why) => Err(why),
            Reply::Alien => Err("an answer to another question".into()),
            Reply::Truncated => Err("an answer that is cut off".into()),
        }
    }
}

async fn within(
    time: Duration,
    answer: impl Future<Output = io::Result<Reply>>,
) -> Result<Reply, String> {
    match timeout(time, answer).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {}", humantime::format_duration(time))),
    }
}

/// By UDP, from a port of the kernel's choice, which nobody else knows (RFC 5452, 9.2).
async fn datagrams(
    server: SocketAddr,
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Reply,
) -> io::Result<Reply> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4_096];
    for _ in 0..ALIENS {
        let length = socket.recv(&mut buffer).await?;
        let reply = parse(&buffer[..length]);
        if reply != Reply::Alien {
            return Ok(reply);
        }
    }
    Ok(Reply::Alien)
}

/// By TCP (RFC 7766, 8: a length before each message).
async fn stream(
    server: SocketAddr,
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Reply,
) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(parse(&answer))
}
