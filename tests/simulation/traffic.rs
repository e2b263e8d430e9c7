//! Clients and backends of the services in kernel mode: each client
//! asks a few questions, each backend answers, then the client ends the connection.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tandem::config::Config;
use tandem::health::probe::ProbeOutcome;
use tandem::model::{BackendId, ConnectFailure, Incarnation};

use super::ends::{End, State};
use super::faults::{Faults, Kind};
use super::rng::Rng;
use super::segment::{ACK, FIN, SYN, Segment};
use super::world::{Event, MS, SECOND, World};

/// Clients come about so often.
const COMING: u64 = 550 * MS;
/// Connections at once.
const MOST: usize = 16;
/// Nobody comes in this time before the end, so that what is to be told can be.
const LAST: u64 = 4 * SECOND;
/// A SYN is sent so often again.
const SYNS: u32 = 6;
/// The floating address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// The clients' network.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
const FIRST_PORT: u16 = 2_000;

/// What the network and its hosts do next.
pub enum Step {
    /// A timer of an end: it sends again what this flight was about.
    Again {
        whose: Whose,
        flight: u64,
    },
    Ask(u64),
    Come,
    Frame {
        to: Option<usize>,
        frame: Vec<u8>,
        /// How often it was handed from one machine to the other.
        hops: u8,
    },
    Kick {
        machine: usize,
        life: Incarnation,
    },
    Mood(usize, Mood),
    Round {
        machine: usize,
        life: Incarnation,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Whose {
    Client(u64),
    Server {
        host: SocketAddrV4,
        peer: SocketAddrV4,
    },
}

/// What a backend does with new connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mood {
    Serves,
    Refuses,
    Silent,
}

pub struct Client {
    pub end: End,
    /// Questions to ask.
    left: u32,
    pub asked: u32,
    pub answered: u32,
    pub backend: Option<u32>,
    /// When its SYN went, and how long the answer took.
    pub began: u64,
    pub took: Option<u64>,
    /// Since when it waits for an answer, or for its end.
    pub waits_since: u64,
}

pub struct Host {
    pub id: BackendId,
    pub mood: Mood,
    pub servers: BTreeMap<SocketAddrV4, Server>,
}

pub struct Server {
    pub end: End,
    /// The client's number, as it said, and how many questions it asked.
    pub number: Option<(u64, u32)>,
}

pub struct Traffic {
    pub rng: Rng,
    pub clients: BTreeMap<u64, Client>,
    by_address: BTreeMap<SocketAddrV4, u64>,
    pub hosts: BTreeMap<SocketAddrV4, Host>,
    pub services: Vec<SocketAddrV4>,
    /// Those that have ended, whose addresses may be used again.
    pub free: Vec<SocketAddrV4>,
    next: u64,
}

fn v4(at: SocketAddr) -> SocketAddrV4 {
    match at {
        SocketAddr::V4(at) => at,
        SocketAddr::V6(_) => unreachable!("the simulated configuration has IPv4 only"),
    }
}

impl Traffic {
    pub fn new(config: &Config, seed: u64) -> Self {
        let (mut hosts, mut services) = (BTreeMap::new(), Vec::new());
        for service in &config.services {
            if service.kernel.is_none() {
                continue;
            }
            services.push(v4(service.listen[0]));
            for backend in &service.backends {
                let host = Host {
                    id: backend.id,
                    mood: Mood::Serves,
                    servers: BTreeMap::new(),
                };
                hosts.insert(v4(backend.address.tcp().expect("a host")), host);
            }
        }
        Self {
            rng: Rng::new(seed ^ 0x7a_f1_c0),
            clients: BTreeMap::new(),
            by_address: BTreeMap::new(),
            hosts,
            services,
            free: Vec::new(),
            next: 0,
        }
    }

    /// The client with this address.
    pub fn client_at(&self, at: SocketAddrV4) -> Option<u64> {
        self.by_address.get(&at).copied()
    }

    pub fn is_client(&self, at: SocketAddrV4) -> bool {
        *at.ip() == CLIENTS
    }

    pub fn is_service(&self, at: SocketAddrV4) -> bool {
        self.services.iter().any(|service| service.ip() == at.ip())
    }

    fn host_of(&self, id: BackendId) -> Option<&Host> {
        self.hosts.values().find(|host| host.id == id)
    }

    /// Backends are moody.
    pub fn plan(&mut self, faults: Faults, end: u64) -> Vec<(u64, Step)> {
        let (mut steps, mut at) = (Vec::new(), 2 * SECOND);
        while faults.has(Kind::Backends) && !self.hosts.is_empty() {
            at += self.rng.below(8 * SECOND) + SECOND;
            if at >= end {
                break;
            }
            let host = self.rng.below(self.hosts.len() as u64) as usize;
            let mood = [Mood::Refuses, Mood::Silent][self.rng.below(2) as usize];
            let length = (50 + self.rng.below(4_000)) * MS;
            steps.push((at, Step::Mood(host, mood)));
            steps.push((at + length, Step::Mood(host, Mood::Serves)));
        }
        steps
    }

    /// What a check of this backend finds, and when; none: it is not one of ours.
    pub fn probed(&mut self, id: BackendId) -> Option<(ProbeOutcome, u64)> {
        let mood = self.host_of(id)?.mood;
        let failed = |failure| ProbeOutcome::Bad { failure };
        Some(match mood {
            Mood::Serves => {
                let took = self
                    .rng
                    .between(Duration::from_micros(300), Duration::from_millis(2));
                (ProbeOutcome::Good { took }, took.as_nanos() as u64)
            }
            Mood::Refuses => (failed(ConnectFailure::Refused), MS),
            Mood::Silent => (failed(ConnectFailure::Timeout), 500 * MS),
        })
    }

    pub fn heal(&mut self) {
        for host in self.hosts.values_mut() {
            host.mood = Mood::Serves;
        }
    }
}

fn question(number: u64, index: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

pub fn answer(backend: u32, number: u64, index: u32) -> Vec<u8> {
    let filler = [index as u8; 7];
    [
        &backend.to_be_bytes()[..],
        &question(number, index),
        &filler,
    ]
    .concat()
}

impl World {
    pub fn traffic(&mut self, step: Step) {
        match step {
            Step::Again { whose, flight } => self.again(whose, flight),
            Step::Ask(number) => self.asks(number),
            Step::Come => self.client_comes(),
            Step::Frame {
                to: None, frame, ..
            } => self.host_gets(&frame),
            Step::Frame {
                to: Some(machine),
                frame,
                hops,
            } => self.machine_gets(machine, &frame, hops),
            Step::Kick { machine, life } => self.kicks(machine, life),
            Step::Mood(host, mood) => {
                let host = self.traffic.hosts.values_mut().nth(host);
                if let (Some(host), false) = (host, self.calm) {
                    host.mood = mood;
                    let text = format!("backend {} {mood:?}", host.id.0);
                    self.log("-", &text);
                }
            }
            Step::Round { machine, life } => self.thread_round(machine, life),
        }
    }

    fn client_comes(&mut self) {
        let next = self.now + self.traffic.rng.below(2 * COMING) + MS;
        self.at(next, Event::Traffic(Step::Come));
        let traffic = &mut self.traffic;
        let live = traffic.clients.values().filter(|it| it.end.is_live());
        if live.count() >= MOST || self.ends_at.is_some_and(|at| self.now + LAST > at) {
            return;
        }
        // Some use an address again.
        let used = traffic.free.len() > 20 && traffic.rng.chance(10);
        let local = used.then(|| {
            let at = traffic.rng.below(10) as usize;
            traffic.free.remove(at)
        });
        let service = traffic.rng.below(traffic.services.len() as u64) as usize;
        let service = traffic.services[service];
        // One in eight stays.
        let left = if traffic.rng.chance(12) {
            u32::MAX
        } else {
            traffic.rng.below(8) as u32
        };
        self.connects(local, service, left);
    }

    /// A client, which has so many questions, opens a connection. Its number.
    pub fn connects(
        &mut self,
        local: Option<SocketAddrV4>,
        service: SocketAddrV4,
        left: u32,
    ) -> u64 {
        let traffic = &mut self.traffic;
        traffic.next += 1;
        let number = traffic.next;
        let port = FIRST_PORT + number as u16;
        let local = local.unwrap_or_else(|| SocketAddrV4::new(CLIENTS, port));
        let isn = traffic.rng.next() as u32;
        let (end, syn) = End::connect(local, service, isn);
        traffic.by_address.insert(local, number);
        let client = Client {
            end,
            left,
            asked: 0,
            answered: 0,
            backend: None,
            began: self.now,
            took: None,
            waits_since: self.now,
        };
        traffic.clients.insert(number, client);
        self.flies(Whose::Client(number), &syn);
        number
    }

    /// An end sends something that is to be acknowledged.
    pub fn flies(&mut self, whose: Whose, segment: &Segment) {
        if let Some(end) = self.end(whose) {
            let flight = end.flight;
            let wait = if segment.has(SYN) {
                SECOND << end.tries.min(3)
            } else {
                (200 * MS) << end.tries.min(3)
            };
            self.at(
                self.now + wait,
                Event::Traffic(Step::Again { whose, flight }),
            );
        }
        self.sends(segment);
    }

    fn end(&mut self, whose: Whose) -> Option<&mut End> {
        match whose {
            Whose::Client(number) => Some(&mut self.traffic.clients.get_mut(&number)?.end),
            Whose::Server { host, peer } => {
                let servers = &mut self.traffic.hosts.get_mut(&host)?.servers;
                Some(&mut servers.get_mut(&peer)?.end)
            }
        }
    }

    fn again(&mut self, whose: Whose, flight: u64) {
        let Some(end) = self.end(whose) else { return };
        if end.flight != flight || !end.is_live() {
            return;
        }
        let gives_up = end.state == State::Opening && end.tries >= SYNS;
        if !gives_up {
            if let Some(segment) = end.again() {
                self.flies(whose, &segment);
            }
            return;
        }
        end.state = State::Reset;
        if let Whose::Server { host, peer } = whose
            && let Some(host) = self.traffic.hosts.get_mut(&host)
        {
            host.servers.remove(&peer);
        }
    }

    fn asks(&mut self, number: u64) {
        let Some(client) = self.traffic.clients.get_mut(&number) else {
            return;
        };
        if client.end.state != State::Open || client.end.is_waiting() {
            return;
        }
        client.waits_since = self.now;
        let segment = if client.left == 0 {
            client.end.send(ACK | FIN, Vec::new())
        } else {
            client.left -= 1;
            client.asked += 1;
            let asked = client.asked;
            client.end.send(ACK, question(number, asked))
        };
        self.flies(Whose::Client(number), &segment);
    }
}

impl Server {
    /// The answer to a question, if it is the next one of this client.
    pub fn answer(&mut self, backend: BackendId, bytes: &[u8]) -> Option<Segment> {
        let (number, index) = bytes.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let index = u32::from_be_bytes(index.try_into().ok()?);
        let (known, asked) = self.number.unwrap_or((number, 0));
        if known != number || index != asked + 1 {
            return None;
        }
        self.number = Some((number, index));
        Some(self.end.send(ACK, answer(backend.0, number, index)))
    }
}
