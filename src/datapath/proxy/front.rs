//! What happens to a client before a backend is looked for: the header of the PROXY protocol that it
//! may have to send, its first bytes where they decide on the pool, and the header for the backend.
//!
//! Only services that ask for one of these have a [`Front`]; the others pay nothing. What is read
//! here is kept and sent on, except the header that came in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::connect::uncut;
use super::flows::Flow;
use super::gate::Gate;
use super::sticky::Sticky;
use super::worker::Worker;
use crate::balance::flow::Unserved;
use crate::balance::rules::server_name;
use crate::balance::{Chosen, Rules};
use crate::config::{Ech, ProxyVersion, SendProxy, Service};
use crate::wire::first::{Look, look};
use crate::wire::proxy_header::{
    Addresses, Decoded, MAX_HEADER, Outgoing, Version, decode, encode,
};

/// What a service asks of a connection's beginning.
#[derive(Debug)]
pub(super) struct Front {
    accept: Option<Accept>,
    rules: Option<Rules>,
    send: Option<SendProxy>,
    sticky: Option<Arc<Sticky>>,
    ech: Ech,
    timeout: Duration,
    limit: usize,
}

/// Who must send a header.
#[derive(Debug)]
struct Accept {
    networks: Vec<IpNet>,
    timeout: Duration,
    /// What is asked of the address that the header names.
    gate: Option<Arc<Gate>>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Intro {
    /// The pool; none: the service's own backends.
    pub(super) pool: Option<u16>,
    /// The client's key, if the service knows its clients again and can tell this one.
    pub(super) stick: Option<u64>,
    /// What the backend gets before the client's bytes; mostly empty.
    pub(super) header: Vec<u8>,
}

/// The connection goes no further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// The header is missing, malformed or late, or comes from elsewhere.
    Header,
    /// Whom the header names may not come in.
    Refused(Unserved),
    /// The client reset it, or it was cut.
    Gone,
}

/// The client's bytes so far.
#[derive(Debug)]
pub(super) struct First {
    pub(super) bytes: Vec<u8>,
    /// That was all.
    pub(super) ended: bool,
}

/// What the header that came in said, as far as the one for the backend repeats it.
#[derive(Default)]
struct Said {
    addresses: Option<Addresses>,
    authority: Option<String>,
    unique_id: Option<Vec<u8>>,
}

/// What the client's first bytes tell.
#[derive(Default)]
struct Found {
    pool: Option<u16>,
    /// That the client asks for, if that is wanted.
    name: Option<String>,
    stick: Option<u64>,
}

impl Front {
    /// None: the service asks nothing.
    pub(super) fn of(
        service: &Service,
        gate: Option<Arc<Gate>>,
        sticky: Option<Arc<Sticky>>,
    ) -> Option<Box<Self>> {
        let proxied = &service.proxied;
        let accept = (!proxied.accept_proxy.is_empty()).then(|| Accept {
            networks: proxied.accept_proxy.clone(),
            timeout: proxied.accept_proxy_timeout,
            gate,
        });
        let rules = Rules::of(service);
        let asks = accept.is_some() || rules.is_some() || proxied.send_proxy.is_some();
        let asks = asks || sticky.is_some();
        asks.then(|| {
            Box::new(Self {
                accept,
                rules,
                send: proxied.send_proxy,
                sticky,
                ech: proxied.ech,
                timeout: proxied.inspect_timeout,
                limit: proxied.inspect_bytes as usize,
            })
        })
    }

    /// Receives what the service asks for.
    pub(super) async fn receive(
        &self,
        worker: &Worker,
        flow: &Flow,
        client: &TcpStream,
        first: &mut First,
    ) -> Result<Intro, Stop> {
        let mut said = Said::default();
        let reader = Reader {
            worker,
            flow,
            client,
        };
        if let Some(accept) = &self.accept {
            said = accept.receive(&reader, first).await?;
            if let Some(addresses) = said.addresses {
                flow.client.set(addresses.source);
                if let Some(gate) = &accept.gate {
                    let judged = gate.judge(addresses.source.ip(), worker.shared.now());
                    judged.map_err(Stop::Refused)?;
                }
            }
        }
        let Found { pool, name, stick } = self.inspect(&reader, first).await?;
        let header = match &self.send {
            Some(send) => header(*send, &reader, &said, name.as_deref())?,
            None => Vec::new(),
        };
        Ok(Intro {
            pool,
            stick,
            header,
        })
    }

    /// What the client's address and first bytes tell, as far as anybody wants to know.
    async fn inspect(&self, reader: &Reader<'_>, first: &mut First) -> Result<Found, Stop> {
        let named = self.send.is_some_and(|send| send.authority);
        let keyed = self.sticky.as_ref().is_some_and(|it| it.reads_request());
        let client = reader.flow.client.get().ip();
        let stick = |found: &Look<'_>| self.sticky.as_ref()?.key(client, found);
        if self.rules.is_none() && !named && !keyed {
            return Ok(Found {
                stick: stick(&Look::Unknown),
                ..Found::default()
            });
        }
        let deadline = Instant::now() + self.timeout;
        let mut last = false;
        loop {
            let seen = &first.bytes[..first.bytes.len().min(self.limit)];
            let mut found = look(seen);
            last |= first.ended || seen.len() == self.limit;
            if last && found.wants_more() {
                found = Look::Unknown;
            }
            let chosen = match &self.rules {
                Some(rules) => rules.choose(client, &found),
                None => Chosen::Pool(None),
            };
            if let Chosen::Pool(pool) = chosen
                && !((named || keyed) && found.wants_more())
            {
                let name = server_name(&found, self.ech).filter(|_| named);
                return Ok(Found {
                    pool,
                    name: name.map(|name| name.as_str().to_owned()),
                    stick: stick(&found),
                });
            }
            let room = self.limit - seen.len();
            match reader.more(first, room, deadline).await? {
                true => {}
                false => last = true,
            }
        }
    }
}

impl Accept {
    fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.networks.iter().any(|net| net.contains(&peer))
    }

    /// Takes the header off the first bytes.
    async fn receive(&self, reader: &Reader<'_>, first: &mut First) -> Result<Said, Stop> {
        if !self.trusts(reader.flow.client.get().ip()) {
            return Err(Stop::Header);
        }
        let deadline = Instant::now() + self.timeout;
        loop {
            match decode(&first.bytes) {
                Ok(Decoded::Header(header)) => {
                    let said = Said {
                        addresses: header.addresses,
                        authority: header.authority.map(str::to_owned),
                        unique_id: header.unique_id.map(<[u8]>::to_vec),
                    };
                    let length = header.length;
                    first.bytes.drain(..length);
                    return Ok(said);
                }
                Ok(Decoded::More) if !first.ended => {
                    let room = MAX_HEADER.saturating_sub(first.bytes.len()).max(1);
                    if !reader.more(first, room, deadline).await? {
                        return Err(Stop::Header);
                    }
                }
                Ok(Decoded::More) | Err(_) => return Err(Stop::Header),
            }
        }
    }
}

/// The client's socket.
struct Reader<'a> {
    worker: &'a Worker,
    flow: &'a Flow,
    client: &'a TcpStream,
}

impl Reader<'_> {
    /// Waits for more bytes, at most so many. False: none came in time.
    async fn more(&self, first: &mut First, room: usize, deadline: Instant) -> Result<bool, Stop> {
        loop {
            let readable = uncut(self.flow, self.client.readable());
            match timeout_at(deadline, readable).await {
                Err(_) => return Ok(false),
                Ok(None | Some(Err(_))) => return Err(Stop::Gone),
                Ok(Some(Ok(()))) => {}
            }
            let mut scratch = self.worker.buffers.scratch.borrow_mut();
            let room = room.min(scratch.len());
            match self.client.try_read(&mut scratch[..room]) {
                Ok(got) => {
                    first.ended = got == 0;
                    first.bytes.extend_from_slice(&scratch[..got]);
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Stop::Gone),
            }
        }
    }
}

/// What the backend gets before the client's bytes.
fn header(
    send: SendProxy,
    reader: &Reader<'_>,
    said: &Said,
    name: Option<&str>,
) -> Result<Vec<u8>, Stop> {
    let addresses = match said.addresses {
        Some(addresses) => addresses,
        None => Addresses {
            source: reader.flow.client.get(),
            destination: own_address(reader.client)?,
        },
    };
    let made = (send.unique_id && said.unique_id.is_none())
        .then(|| format!("{:032x}", reader.worker.rng.borrow_mut().u128(..)));
    let unique_id = said
        .unique_id
        .as_deref()
        .or_else(|| made.as_deref().map(str::as_bytes));
    let authority = name.or(said.authority.as_deref());
    Ok(encode(&Outgoing {
        version: match send.version {
            ProxyVersion::V1 => Version::V1,
            ProxyVersion::V2 => Version::V2,
        },
        addresses: Some(addresses),
        authority: authority.filter(|_| send.authority),
        unique_id: unique_id.filter(|_| send.unique_id),
        crc32c: send.crc32c,
    }))
}

fn own_address(client: &TcpStream) -> Result<SocketAddr, Stop> {
    client.local_addr().map_err(|_| Stop::Gone)
}
