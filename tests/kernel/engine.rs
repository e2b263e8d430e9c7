//! The engine on the kernel's own tables: what its tests say of the reference holds there too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tandem::balance::nat::{NatCommand, NatEvent};
use tandem::config::Config;
use tandem::datapath::nat::engine::{Engine, Link, Links};
use tandem::datapath::nat::layout::FLOW_CLIENT;
use tandem::datapath::nat::{Nat, NatError};
use tandem::model::{BackendId, NodeId};
use tandem::wire::replication::{Item, NatKey, NatRecord};

use crate::frames::{ACK, RST, SYN, Tcp};
use crate::limits::is;

/// Their sequence is longer than a thousand slots, and exact.
const WEIGHTS: [u16; 5] = [256, 255, 253, 251, 249];
const CONFIG: &str = r#"
[cluster]
name = "edge"
key_file = "/k"
[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]
[[vip]]
address = "192.0.2.100/24"
interface = "lo"
[[service]]
name = "web"
mode = "kernel"
listen = ["192.0.2.100:80"]
replication = "sync"
balance = "weighted_round_robin"
[service.health]
kind = "tcp"
"#;

fn config() -> Result<Config, String> {
    use std::fmt::Write as _;
    let mut text = CONFIG.to_owned();
    for (n, weight) in (0..).zip(WEIGHTS) {
        let at = 21 + n;
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"b{n}\"\naddress = \"192.0.2.{at}:8080\"\nweight = {weight}\n"
        );
    }
    Config::parse(&text).map_err(|error| error.to_string())
}

/// The program's clock.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| now.as_nanos() as u64)
}

fn vip() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 100], 80))
}

fn client(n: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 20_000 + n))
}

struct Side {
    nat: Nat,
    engine: Engine,
    opened: BTreeMap<NatKey, NatRecord>,
    ticket: u64,
}

impl Side {
    fn new(config: &Config, node: NodeId) -> Result<Self, NatError> {
        let link = Link {
            ifindex: 1,
            mtu: 1_500,
        };
        let links = Links {
            interfaces: [("lo".to_owned(), link)].into(),
            unix_ms_at_zero: 0,
        };
        let mut engine = Engine::new(config, node, &links, 1);
        let mut nat = Nat::load(&engine.sizes())?;
        engine.begin(&mut nat.tables, now())?;
        nat.lease()?.renew(u64::MAX)?;
        Ok(Self {
            nat,
            engine,
            opened: BTreeMap::new(),
            ticket: 0,
        })
    }

    fn command(&mut self, command: NatCommand) -> Result<(), NatError> {
        self.engine.command(command, &mut self.nat.tables, now())
    }

    /// A packet through the program, and what it tells through the engine.
    fn send(&mut self, packet: &Tcp) -> Result<(), NatError> {
        self.nat.try_frame(&packet.frame())?;
        while let Some(told) = self.nat.tables.next_event() {
            self.engine.told(told, &mut self.nat.tables, now())?;
        }
        while let Some(report) = self.engine.poll_report() {
            self.ticket = report.ticket;
            for event in report.events {
                if let NatEvent::Opened { key, record, .. } = event {
                    self.opened.insert(key, record);
                }
            }
        }
        Ok(())
    }

    fn packets(&mut self) -> usize {
        std::iter::from_fn(|| self.engine.poll_packet()).count()
    }

    fn record(&self, n: u16) -> Option<NatRecord> {
        let key = NatKey {
            client: client(n),
            service: vip(),
        };
        self.opened.get(&key).copied()
    }

    /// Entries of clients, and all.
    fn entries(&self) -> Result<(usize, usize), NatError> {
        let (mut place, mut fronts, mut all) = (None, 0, 0);
        loop {
            let (found, next) = self.nat.tables.walk_flows(place, 4_096)?;
            all += found.len();
            let front =
                |flow: &&(_, tandem::datapath::nat::layout::Flow)| flow.1.flags & FLOW_CLIENT != 0;
            fronts += found.iter().filter(front).count();
            place = next;
            if next.is_none() {
                return Ok((fronts, all));
            }
        }
    }
}

/// From publication to forgetting, and what a standby makes of it.
pub(crate) fn on_the_kernels_tables() -> Result<(), String> {
    let config = config()?;
    run(&config).map_err(|error| error.to_string())?
}

fn run(config: &Config) -> Result<Result<(), String>, NatError> {
    let ids = config.services[0].backends.iter().map(|backend| backend.id);
    let ids: Vec<BackendId> = ids.collect();
    let mut master = Side::new(config, NodeId::First)?;
    master.command(NatCommand::Publish {
        eligible: ids.iter().copied().collect(),
        down: [].into(),
    })?;
    master.command(NatCommand::Lead)?;
    let count: u16 = WEIGHTS.iter().sum();
    for n in 0..count {
        master.send(&Tcp::new(client(n), vip(), SYN))?;
    }
    let shares = ids.iter().map(|id| {
        let records = master.opened.values();
        records.filter(|record| record.backend == *id).count() as u16
    });
    let mut told = vec![is("shares", &shares.collect::<Vec<_>>(), &WEIGHTS.to_vec())];
    let flows = usize::from(count);
    told.push(is("entries", &master.entries()?, &(flows, 2 * flows)));
    // One backend answers, and its client waits; another refuses, and a third one is asked.
    let (Some(answers), Some(refuses)) = (master.record(0), master.record(1)) else {
        return Ok(Err("no reports".to_owned()));
    };
    let back = |record: &NatRecord, flags| Tcp {
        ack: 1_001,
        ..Tcp::new(record.target, record.source, flags)
    };
    master.send(&back(&answers, SYN | ACK))?;
    told.push(is("held", &master.packets(), &0));
    let ticket = master.ticket;
    master.command(NatCommand::Acknowledged {
        ticket,
        by_standby: true,
    })?;
    told.push(is("let go", &master.packets(), &1));
    master.send(&back(&refuses, RST | ACK))?;
    told.push(is("sent elsewhere", &master.packets(), &1));
    let moved = master.record(1).map(|record| record.target);
    told.push(is("moved", &(moved == Some(refuses.target)), &false));
    told.push(is("no half", &master.entries()?, &(flows, 2 * flows)));
    let mut standby = Side::new(config, NodeId::Second)?;
    let items = master.opened.iter().map(|(key, record)| Item::NatOpen {
        key: *key,
        record: *record,
    });
    let items: Vec<Item> = items.collect();
    standby.command(NatCommand::Learn(items.clone()))?;
    told.push(is("learned", &standby.entries()?, &(flows, 2 * flows)));
    standby.command(NatCommand::SnapshotBegin)?;
    standby.command(NatCommand::Learn(items[..100].to_vec()))?;
    standby.command(NatCommand::SnapshotEnd)?;
    let later = now() + 60_000_000_000;
    for _ in 0..2 {
        standby.engine.tick(&mut standby.nat.tables, later)?;
    }
    told.push(is("replaced", &standby.entries()?, &(100, 200)));
    // Nobody went on: after half a minute all are forgotten.
    for step in 0..10 {
        let later = later + step * 3_000_000_000;
        master.engine.tick(&mut master.nat.tables, later)?;
    }
    told.push(is("forgotten", &master.entries()?, &(0, 0)));
    Ok(told.into_iter().collect())
}
