//! The engine on the reference: frames go in by the data path, and what it does is looked at.

mod collect;
mod early;
mod events;
mod frames;
mod gate;
mod learn;
mod property;
mod publish;
mod replan;
mod retry;
mod takeover;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::super::layout::{FLOW_CLIENT, Flow, FlowKey};
use super::super::reference::{Arrival, Reference, Verdict};
use super::*;
use crate::balance::nat::NatEvent;
use crate::config::fixture::pair;
use crate::config::{Acknowledge, Fallback, Forward, KernelMode, OnDown, Stray};
use crate::model::{BackendId, Vip};
use crate::wire::replication::{Item, NatKey};
use frames::{Seen, frame, seen};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const VIP: &str = "192.0.2.100:80";
const CLIENT: &str = "203.0.113.1:40000";
const START: u64 = 1_000_000 * MS;
/// Devices of the clients' side and of the backends'.
const FRONT: u32 = 4;
const BACK: u32 = 5;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The n-th client.
fn client(n: u32) -> SocketAddr {
    SocketAddr::new(
        [203, 0, 113, (n % 200) as u8 + 1].into(),
        40_000 + (n / 200) as u16,
    )
}

/// The n-th backend.
fn backend(n: usize) -> SocketAddr {
    at(&format!("198.51.100.{}:8080", 21 + n))
}

fn id(n: usize) -> BackendId {
    BackendId::of("web", &format!("b{n}"))
}

/// A service in kernel mode with these weights; `how` changes it.
fn config(balance: &str, weights: &[u16], how: impl FnOnce(&mut Config)) -> Config {
    use std::fmt::Write as _;
    let mut text = format!(
        r#"
        [[service]]
        name = "web"
        listen = ["192.0.2.100:80"]
        balance = "{balance}"
        connect_timeout = "250ms"
        [service.health]
        kind = "tcp"
        "#
    );
    for (n, weight) in weights.iter().enumerate() {
        let at = backend(n);
        writeln!(
            text,
            "[[service.backend]]\nname = \"b{n}\"\naddress = \"{at}\"\nweight = {weight}"
        )
        .unwrap();
    }
    let mut config = pair(&text);
    config.vips[0].interface = "front".to_owned();
    let vip = |address: &str, interface: &str| Vip {
        address: address.parse().unwrap(),
        interface: interface.to_owned(),
    };
    config.vips.push(vip("198.51.100.100/24", "back"));
    config.vips.push(vip("2001:db8::100/64", "front"));
    config.services[0].kernel = Some(KernelMode {
        sources: vec!["198.51.100.100".parse().unwrap()],
        forward: Forward::Nat,
        replication: Acknowledge::Async,
        fallback: Fallback::Refuse,
        on_down: OnDown::Keep,
        stray: Stray::Reset,
        source_rate: 0,
    });
    how(&mut config);
    config
}

fn mode(config: &mut Config) -> &mut KernelMode {
    config.services[0].kernel.as_mut().unwrap()
}

fn links() -> Links {
    let link = |ifindex| Link {
        ifindex,
        mtu: 1_500,
    };
    Links {
        interfaces: [("front".into(), link(FRONT)), ("back".into(), link(BACK))].into(),
        unix_ms_at_zero: 1_000,
    }
}

/// One node.
struct Host {
    engine: Engine,
    maps: Reference,
    now: u64,
    /// Events of reports that were taken.
    events: Vec<NatEvent>,
    /// The last ticket.
    ticket: u64,
}

impl Host {
    fn new(config: &Config, node: NodeId) -> Self {
        let mut host = Self::begin(config, node, Reference::default(), START);
        // It has seen that there is nothing.
        host.engine.tick(&mut host.maps, START).unwrap();
        host
    }

    /// With what is in these maps already.
    fn begin(config: &Config, node: NodeId, maps: Reference, now: u64) -> Self {
        let mut engine = Engine::new(config, node, &links(), 7);
        let sizes = engine.sizes();
        let mut maps = Reference {
            capacity: 2 * sizes.flows as usize,
            lease: u64::MAX,
            waits: u64::MAX,
            ..maps
        };
        engine.begin(&mut maps, now).unwrap();
        assert!(maps.slots.len() <= sizes.slots as usize);
        assert!(maps.backends.len() <= sizes.backends as usize);
        Self {
            engine,
            maps,
            now,
            events: Vec::new(),
            ticket: 0,
        }
    }

    /// A master with these backends eligible, long enough for its refusals to be answered.
    fn master(config: &Config) -> Self {
        let mut host = Self::new(config, NodeId::First);
        let count = config.services[0].backends.len();
        host.publish(&(0..count).collect::<Vec<_>>());
        host.command(NatCommand::Lead);
        host.now += 2 * super::events::GRACE;
        host
    }

    fn command(&mut self, command: NatCommand) {
        self.engine
            .command(command, &mut self.maps, self.now)
            .unwrap();
    }

    fn publish(&mut self, eligible: &[usize]) {
        self.down(eligible, &[]);
    }

    fn down(&mut self, eligible: &[usize], down: &[usize]) {
        self.command(NatCommand::Publish {
            eligible: eligible.iter().map(|n| id(*n)).collect(),
            down: down.iter().map(|n| id(*n)).collect(),
        });
    }

    /// Sends a segment through the data path, and tells the engine of it. How it went on.
    fn send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        flags: u8,
        numbers: (u32, u32),
    ) -> Option<Seen> {
        let verdict = self.pass(&frame(from, to, flags, numbers));
        self.tell();
        verdict
    }

    /// Sends a frame through the data path, of which the engine does not know yet.
    fn pass(&mut self, frame: &[u8]) -> Option<Seen> {
        let arrival = Arrival {
            ifindex: FRONT,
            now: self.now,
            ..Arrival::default()
        };
        match self.maps.process(frame, &arrival) {
            Verdict::Redirect { frame, .. } => Some(seen(&frame[14..])),
            Verdict::Drop(_) | Verdict::Pass | Verdict::Relay(_) => None,
        }
    }

    fn tell(&mut self) {
        for told in std::mem::take(&mut self.maps.events) {
            self.engine.told(told, &mut self.maps, self.now).unwrap();
        }
        for refusal in std::mem::take(&mut self.maps.refusals) {
            self.engine.refused(&refusal, self.now);
        }
        self.take_reports();
    }

    fn take_reports(&mut self) {
        while let Some(report) = self.engine.poll_report() {
            assert_eq!(report.ticket, self.ticket + 1);
            self.ticket = report.ticket;
            self.events.extend(report.events);
        }
    }

    /// So many milliseconds pass, with a tick whenever one is due.
    fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        loop {
            let next = self.engine.poll_timeout().unwrap_or(end).max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            self.engine.tick(&mut self.maps, self.now).unwrap();
            // Whoever is due now was served, or is again a little later.
            self.now += MS / 10;
        }
        self.now = self.now.max(end);
        self.engine.tick(&mut self.maps, self.now).unwrap();
        self.take_reports();
    }

    fn packets(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.engine.poll_packet())
            .map(|packet| {
                let seen = seen(&packet.bytes);
                assert_eq!(packet.to, seen.to.ip());
                seen
            })
            .collect()
    }

    fn events(&mut self) -> Vec<NatEvent> {
        std::mem::take(&mut self.events)
    }

    fn flow(&self, client: SocketAddr) -> Option<Flow> {
        self.maps.flows.get(&FlowKey::new(client, at(VIP))).copied()
    }

    /// A SYN; where the backend sees it from, and which backend.
    fn open(&mut self, client: SocketAddr, isn: u32) -> Option<(SocketAddr, SocketAddr)> {
        let seen = self.send(client, at(VIP), SYN, (isn, 0))?;
        Some((seen.from, seen.to))
    }

    /// A connection up to its handshake's end (without sync).
    fn establish(&mut self, client: SocketAddr) -> (SocketAddr, SocketAddr) {
        let (ours, theirs) = self.open(client, 100).unwrap();
        self.send(theirs, ours, SYN | ACK, (900, 101)).unwrap();
        self.send(client, at(VIP), ACK, (101, 901)).unwrap();
        (ours, theirs)
    }

    fn acknowledge(&mut self, by_standby: bool) {
        let ticket = self.ticket;
        self.command(NatCommand::Acknowledged { ticket, by_standby });
    }

    fn status(&self) -> NatStatus {
        self.engine.status(&self.maps)
    }
}

fn key(client: SocketAddr) -> NatKey {
    NatKey {
        client,
        service: at(VIP),
    }
}

/// What the node makes of events for its standby.
fn items(events: &[NatEvent], unix_ms: u64) -> Vec<Item> {
    let item = |event: &NatEvent| match event {
        NatEvent::Opened {
            key,
            record,
            age_ms,
        } => {
            let mut record = *record;
            record.since_unix_ms = unix_ms - age_ms;
            Some(Item::NatOpen { key: *key, record })
        }
        NatEvent::Marks {
            key,
            client,
            backend_mark,
            ..
        } => Some(Item::NatMarks {
            key: *key,
            client: *client,
            backend: *backend_mark,
        }),
        NatEvent::Closed { key, .. } => Some(Item::NatClose { key: *key }),
        NatEvent::ConnectFailed { .. }
        | NatEvent::Inherited { .. }
        | NatEvent::Stale(_)
        | NatEvent::Unserved { .. } => None,
    };
    events.iter().filter_map(item).collect()
}

/// Names of events, for stories.
fn names(events: &[NatEvent]) -> Vec<&'static str> {
    let name = |event: &NatEvent| match event {
        NatEvent::Closed { .. } => "closed",
        NatEvent::ConnectFailed { .. } => "failed",
        NatEvent::Marks { answered: true, .. } => "answered",
        NatEvent::Marks { .. } => "marks",
        NatEvent::Opened { .. } => "opened",
        NatEvent::Inherited { .. } => "inherited",
        NatEvent::Stale(_) => "stale",
        NatEvent::Unserved { .. } => "unserved",
    };
    events.iter().map(name).collect()
}

/// How many of each.
fn tally<T: Ord>(all: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    all.into_iter().fold(BTreeMap::new(), |mut tally, it| {
        *tally.entry(it).or_default() += 1;
        tally
    })
}
