//! Affinity: what a connection's client is known by, the tables that all workers share, and what is
//! learnt from a backend's first bytes.
//!
//! A connection takes a lock once before its pick and once after it, each for some table steps, and
//! of a part of the table that few others want at the same time. A service without affinity has none
//! of this.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use super::worker::Worker;
use crate::balance::flow::FlowEvent;
use crate::balance::rules::server_name;
use crate::balance::stick::{Advice, Hasher, Learned, Stick, StickTable, advise};
use crate::balance::{Picks, Route};
use crate::config::{Ech, Service, StickBy, StickFallback, StickHow};
use crate::model::{BackendId, ServiceId};
use crate::status::StickStatus;
use crate::wire::first::{Look, Mark, http, tls};
use crate::wire::replication::StickKey;

/// Parts of a large table.
const SHARDS: usize = 16;
/// A smaller table has one part, so that it forgets in the exact order.
const LARGE: u32 = 4_096;
/// Expired entries of one part that are let go of at once.
const EXPIRE: usize = 64;

/// A service's affinity.
#[derive(Debug)]
pub(super) struct Sticky {
    service: ServiceId,
    by: StickBy,
    ech: Ech,
    hasher: Hasher,
    /// None: the scheduler makes a backend of the key.
    memory: Option<Arc<Memory>>,
    /// What becomes of clients whose backend does not serve.
    fallback: StickFallback,
    /// Bytes of a reply that are looked at.
    limit: usize,
}

#[derive(Debug)]
struct Memory {
    shards: Box<[Mutex<StickTable>]>,
    size: u32,
    ttl: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What affinity says of one connection.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) advice: Advice,
    /// Instead of the client's address, for schedulers that hash.
    number: Option<u64>,
    /// To be remembered with the backend that takes it.
    key: Option<u64>,
}

impl Choice {
    const NONE: Self = Self {
        advice: Advice::Any,
        number: None,
        key: None,
    };

    /// The connection's way through the backends.
    pub(super) fn picks(&self, client: IpAddr) -> Picks {
        let mut picks = Picks::new(client);
        picks.advise(self.advice, self.number);
        picks
    }
}

impl Sticky {
    /// None: the service has no affinity. Both nodes have the same `key`. Clients that `former` knows
    /// are known as long as they are recognised by the same.
    pub(super) fn of(
        service: &Service,
        key: [u8; 16],
        former: Option<&Arc<Self>>,
        now: Duration,
    ) -> Option<Arc<Self>> {
        let affinity = service.proxied.affinity.as_ref()?;
        let former = former.filter(|it| it.by == affinity.by && it.ech == service.proxied.ech);
        let known = former.and_then(|it| it.memory.as_ref());
        let (memory, fallback) = match affinity.how {
            StickHow::Hash => (None, StickFallback::Reassign),
            StickHow::Table {
                size,
                ttl,
                fallback,
            } => {
                let memory = match known {
                    Some(known) if (known.size, known.ttl) == (size, ttl) => Arc::clone(known),
                    known => Arc::new(Memory::new(size, ttl, known.map(|it| &**it), now)),
                };
                (Some(memory), fallback)
            }
        };
        Some(Arc::new(Self {
            service: service.id,
            by: affinity.by.clone(),
            ech: service.proxied.ech,
            hasher: Hasher::new(key, service.id),
            memory,
            fallback,
            limit: service.proxied.inspect_bytes as usize,
        }))
    }

    /// The client's first bytes are needed.
    pub(super) const fn reads_request(&self) -> bool {
        self.by.reads_request()
    }

    /// The client's key, by its address or by what its first bytes tell.
    pub(super) fn key(&self, client: IpAddr, look: &Look<'_>) -> Option<u64> {
        let mark = |mark: Mark| Some(self.hasher.hash(&mark.of(look)?));
        match &self.by {
            StickBy::Source { prefix4, prefix6 } => {
                let client = client.to_canonical();
                let prefix = if client.is_ipv4() { prefix4 } else { prefix6 };
                let network = IpNet::new(client, *prefix).ok()?.network();
                Some(match network {
                    IpAddr::V4(v4) => self.hasher.hash(&v4.octets()),
                    IpAddr::V6(v6) => self.hasher.hash(&v6.octets()),
                })
            }
            StickBy::SessionId => mark(Mark::SessionId),
            StickBy::Sni => {
                let name = server_name(look, self.ech)?;
                let name = name.as_str().to_ascii_lowercase();
                Some(self.hasher.hash(name.as_bytes()))
            }
            StickBy::RdpCookie => mark(Mark::RdpUser).or_else(|| mark(Mark::RdpToken)),
            StickBy::Cookie(name) => mark(Mark::Cookie(name.clone())),
        }
    }

    /// Before the pick.
    pub(super) fn choose(&self, key: Option<u64>, route: &Route, now: Duration) -> Choice {
        let Some(memory) = &self.memory else {
            return Choice {
                number: key,
                ..Choice::NONE
            };
        };
        let had = key.and_then(|key| memory.shard(key).find(key, now));
        let advice = advise(had, route, self.fallback);
        let hit = matches!(advice, Advice::First(_) | Advice::Only(_));
        let count = if hit { &memory.hits } else { &memory.misses };
        count.fetch_add(1, Ordering::Relaxed);
        Choice {
            advice,
            number: None,
            // What only backends give is not learnt from clients: they could fill the table.
            key: key.filter(|_| had.is_some() || !self.by.reads_reply()),
        }
    }

    /// The client is served by this backend from now on.
    pub(super) fn chosen(&self, choice: &Choice, backend: BackendId, worker: &Worker) {
        if let Some(key) = choice.key {
            self.remember(key, backend, worker);
        }
    }

    fn remember(&self, hash: u64, backend: BackendId, worker: &Worker) {
        let Some(memory) = &self.memory else {
            return;
        };
        let now = worker.shared.now();
        let Learned { tell, evicted } = memory.shard(hash).learn(hash, backend, now);
        let service = self.service;
        if let Some(hash) = evicted {
            let key = StickKey { service, hash };
            worker.tell(|report| report.push(FlowEvent::Unstuck { key }));
        }
        if tell {
            let key = StickKey { service, hash };
            worker.tell(|report| report.push(FlowEvent::Stuck { key, backend }));
        }
    }

    /// The master says this of an entry of this service.
    pub(super) fn adopt(&self, stick: &Stick, now: Duration) {
        if let Some(memory) = &self.memory {
            let hash = stick.key.hash;
            memory.shard(hash).adopt(hash, stick.entry, now);
        }
    }

    /// The service that it belongs to.
    pub(super) const fn service(&self) -> ServiceId {
        self.service
    }

    /// Lets go of some of what has expired.
    pub(super) fn expire(&self, now: Duration) {
        for shard in self.memory.iter().flat_map(|memory| &memory.shards) {
            lock(shard).expire(now, EXPIRE);
        }
    }

    /// For the read model; none: there is no table.
    pub(super) fn status(&self) -> Option<StickStatus> {
        let memory = self.memory.as_ref()?;
        Some(StickStatus {
            entries: memory.shards.iter().map(|it| lock(it).len() as u64).sum(),
            hits: memory.hits.load(Ordering::Relaxed),
            misses: memory.misses.load(Ordering::Relaxed),
        })
    }

    /// What a backend's first bytes say.
    fn read(&self, reply: &[u8]) -> Said {
        let value = |value: Option<&[u8]>| match value {
            Some(value) if !value.is_empty() => Said::Key(self.hasher.hash(value)),
            _ => Said::Nothing,
        };
        match &self.by {
            StickBy::Cookie(name) => match http::reply(reply) {
                http::Reply::Head(head) => value(head.set_cookie(name)),
                http::Reply::More => Said::More,
                http::Reply::Unknown => Said::Nothing,
            },
            StickBy::SessionId => match tls::server_hello(reply) {
                tls::Reply::Hello(hello) => value(Some(hello.session_id())),
                tls::Reply::More => Said::More,
                tls::Reply::Unknown => Said::Nothing,
            },
            StickBy::Source { .. } | StickBy::Sni | StickBy::RdpCookie => Said::Nothing,
        }
    }
}

impl Memory {
    fn new(size: u32, ttl: Duration, former: Option<&Self>, now: Duration) -> Self {
        let count = if size < LARGE { 1 } else { SHARDS };
        let table = || Mutex::new(StickTable::new((size as usize).div_ceil(count), ttl));
        let counted = |of: fn(&Self) -> &AtomicU64| {
            let count = former.map_or(0, |it| of(it).load(Ordering::Relaxed));
            AtomicU64::new(count)
        };
        let memory = Self {
            shards: (0..count).map(|_| table()).collect(),
            size,
            ttl,
            hits: counted(|it| &it.hits),
            misses: counted(|it| &it.misses),
        };
        for shard in former.into_iter().flat_map(|it| &it.shards) {
            for (key, backend, age) in lock(shard).entries(now) {
                memory.shard(key).adopt(key, Some((backend, age)), now);
            }
        }
        memory
    }

    /// Keys are hashes, so that any bits will do.
    fn shard(&self, key: u64) -> MutexGuard<'_, StickTable> {
        lock(&self.shards[key as usize % self.shards.len()])
    }
}

/// A table is whole between any two of its steps that could panic.
fn lock(shard: &Mutex<StickTable>) -> MutexGuard<'_, StickTable> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was found in a reply.
enum Said {
    /// It may come yet.
    More,
    Key(u64),
    Nothing,
}

/// Reads a backend's first bytes as they pass, until they have told what they can.
pub(super) struct Tap {
    worker: Rc<Worker>,
    sticky: Arc<Sticky>,
    backend: BackendId,
    seen: Vec<u8>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tap(..)")
    }
}

impl Tap {
    /// None: replies tell nothing.
    pub(super) fn new(
        worker: &Rc<Worker>,
        sticky: Option<&Arc<Sticky>>,
        backend: BackendId,
    ) -> Option<Box<Self>> {
        let sticky = sticky?;
        let learns = sticky.by.reads_reply() && sticky.memory.is_some();
        learns.then(|| {
            Box::new(Self {
                worker: Rc::clone(worker),
                sticky: Arc::clone(sticky),
                backend,
                seen: Vec::new(),
            })
        })
    }

    /// These bytes pass. True: nothing more is to be learnt.
    pub(super) fn see(&mut self, bytes: &[u8]) -> bool {
        let room = self.sticky.limit - self.seen.len();
        let bytes = &bytes[..bytes.len().min(room)];
        let whole = match self.seen.is_empty() {
            true => bytes,
            false => {
                self.seen.extend_from_slice(bytes);
                &self.seen
            }
        };
        match self.sticky.read(whole) {
            // No byte: the end.
            Said::More if !bytes.is_empty() && whole.len() < self.sticky.limit => {
                if self.seen.is_empty() {
                    self.seen = bytes.to_vec();
                }
                return false;
            }
            Said::Key(key) => self.sticky.remember(key, self.backend, &self.worker),
            Said::More | Said::Nothing => {}
        }
        true
    }
}
