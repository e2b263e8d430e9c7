//! The file as written: each section's keys, defaults and ranges; every value with its place.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::read::Section;
use super::report::{At, Field, List, Located, Reported};
use super::units::{
    Fault, Read, backend_address, boolean, duration, interface, listen_address, name, node_address,
    number, path, port_range, source_address, vip_address, word,
};
use super::{Acknowledge, Fallback, Forward, HealthKind, OnDown, Stray};
use crate::model::Scheduler;

/// Most heartbeat paths.
const MAX_PATHS: usize = 8;
/// Most VIPs.
const MAX_VIPS: usize = 256;
/// Most services.
const MAX_SERVICES: usize = 1_024;
/// Most addresses of one service.
const MAX_LISTEN: usize = 64;
/// Most backends of one service.
const MAX_BACKENDS: usize = 1_024;
/// Most addresses towards the backends of one service: one a family.
const MAX_SOURCES: usize = 2;
/// Most connections in the kernel's table.
const MAX_FLOWS: u32 = 2_000_000;
/// Fewest ports towards the backends; each node has half of them.
const MIN_PORTS: u16 = 1_024;
/// Most new connections a second from one address.
const MAX_RATE: u32 = 1_000_000;
/// Most connections.
const MAX_CONNECTIONS: u32 = 10_000_000;

const SCHEDULERS: &[(&str, Scheduler)] = &[
    ("round_robin", Scheduler::RoundRobin),
    ("weighted_round_robin", Scheduler::WeightedRoundRobin),
    ("least_connections", Scheduler::LeastConnections),
    ("random", Scheduler::Random),
];
const HEALTH_KINDS: &[(&str, HealthKind)] = &[("tcp", HealthKind::Tcp)];
const MODES: &[(&str, Mode)] = &[("proxy", Mode::Proxy), ("kernel", Mode::Kernel)];
const FORWARDS: &[(&str, Forward)] = &[("nat", Forward::Nat), ("dnat", Forward::Dnat)];
const REPLICATIONS: &[(&str, Acknowledge)] =
    &[("sync", Acknowledge::Sync), ("async", Acknowledge::Async)];
const FALLBACKS: &[(&str, Fallback)] = &[("refuse", Fallback::Refuse), ("proxy", Fallback::Proxy)];
const ON_DOWN: &[(&str, OnDown)] = &[("keep", OnDown::Keep), ("reset", OnDown::Reset)];
const STRAYS: &[(&str, Stray)] = &[("reset", Stray::Reset), ("drop", Stray::Drop)];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MINUTE: Duration = s(60);
const HOUR: Duration = s(60 * 60);
const WEEK: Duration = s(7 * 24 * 60 * 60);

/// The whole file.
pub(super) struct File {
    pub(super) cluster: Result<Cluster, Reported>,
    pub(super) nodes: List<Node>,
    pub(super) election: Result<Election, Reported>,
    pub(super) kernel: Result<Kernel, Reported>,
    pub(super) proxy: Result<Proxy, Reported>,
    pub(super) vips: List<Vip>,
    pub(super) services: List<Service>,
}

/// `[cluster]`
pub(super) struct Cluster {
    pub(super) name: Field<String>,
    pub(super) key_file: Field<PathBuf>,
    pub(super) port: Field<u16>,
    pub(super) device: Field<String>,
    pub(super) relay: Field<bool>,
}

/// `[[node]]`
pub(super) struct Node {
    pub(super) name: Field<String>,
    pub(super) priority: Field<u8>,
    pub(super) addresses: List<Located<IpAddr>>,
    pub(super) at: At,
}

/// `[election]`
pub(super) struct Election {
    pub(super) heartbeat: Field<Duration>,
    pub(super) misses: Field<u8>,
    pub(super) preempt: Field<bool>,
    pub(super) preempt_delay: Field<Duration>,
    pub(super) dead_man: Option<Field<Duration>>,
}

/// `[kernel]`
pub(super) struct Kernel {
    pub(super) max_flows: Field<u32>,
    pub(super) ports: Field<RangeInclusive<u16>>,
    pub(super) sync_timeout: Field<Duration>,
    pub(super) opening_timeout: Field<Duration>,
    pub(super) closing_timeout: Field<Duration>,
    pub(super) closed_timeout: Field<Duration>,
}

/// `[proxy]`
pub(super) struct Proxy {
    pub(super) workers: Field<u16>,
    pub(super) max_connections: Field<u32>,
    pub(super) drain_timeout: Field<Duration>,
}

/// `[[vip]]`
pub(super) struct Vip {
    pub(super) address: Field<IpNet>,
    pub(super) interface: Field<String>,
}

/// `[[service]]`
pub(super) struct Service {
    pub(super) name: Field<String>,
    pub(super) listen: List<Located<SocketAddr>>,
    pub(super) mode: Field<Mode>,
    pub(super) balance: Field<Scheduler>,
    pub(super) connect_timeout: Field<Duration>,
    pub(super) idle_timeout: Field<Duration>,
    pub(super) max_connections: Field<u32>,
    pub(super) kernel: KernelMode,
    pub(super) health: Option<Result<Health, Reported>>,
    pub(super) backends: List<Backend>,
}

/// Where the connections of a service are forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    Kernel,
    Proxy,
}

/// Those keys of `[[service]]` that only the kernel mode has. None: not written.
pub(super) struct KernelMode {
    pub(super) source: Option<List<Located<IpAddr>>>,
    pub(super) forward: Option<Field<Forward>>,
    pub(super) replication: Option<Field<Acknowledge>>,
    pub(super) fallback: Option<Field<Fallback>>,
    pub(super) on_down: Option<Field<OnDown>>,
    pub(super) stray: Option<Field<Stray>>,
    pub(super) source_rate: Option<Field<u32>>,
}

/// `[service.health]`
pub(super) struct Health {
    pub(super) kind: Field<HealthKind>,
    pub(super) interval: Field<Duration>,
    pub(super) timeout: Field<Duration>,
    pub(super) rise: Field<u8>,
    pub(super) fall: Field<u8>,
}

/// `[[service.backend]]`
pub(super) struct Backend {
    pub(super) name: Field<String>,
    pub(super) address: Field<SocketAddr>,
    pub(super) weight: Field<u16>,
}

impl File {
    /// The whole file.
    pub(super) fn read(file: &mut Section<'_, '_>) -> Self {
        Self {
            cluster: file.required_table("cluster", Cluster::read),
            nodes: file.tables("node", 2..=2, Node::read),
            election: file.default_table("election", Election::read),
            kernel: file.default_table("kernel", Kernel::read),
            proxy: file.default_table("proxy", Proxy::read),
            vips: file.tables("vip", 1..=MAX_VIPS, Vip::read),
            services: file.tables("service", 1..=MAX_SERVICES, Service::read),
        }
    }
}

impl Cluster {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.required("name", r#""edge""#, name),
            key_file: section.required("key_file", r#""/etc/tandem/cluster.key""#, path),
            port: section.or("port", 7373, number(1..=u16::MAX)),
            device: section.or("device", "tandem0".to_owned(), interface),
            relay: section.or("relay", true, boolean),
        }
    }
}

impl Node {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.required("name", r#""lb1""#, name),
            priority: section.required("priority", "100", number(1..=254)),
            addresses: section.list(
                "addresses",
                r#"["192.0.2.11"]"#,
                1..=MAX_PATHS,
                node_address,
            ),
            at: section.at(),
        }
    }
}

impl Election {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            heartbeat: section.or("heartbeat", ms(100), duration(ms(10)..=s(10))),
            misses: section.or("misses", 3, number(2..=100)),
            preempt: section.or("preempt", false, boolean),
            preempt_delay: section.or("preempt_delay", s(0), duration(s(0)..=HOUR)),
            dead_man: section.optional("dead_man", duration(ms(10)..=s(1_000))),
        }
    }
}

impl Kernel {
    fn read(section: &mut Section<'_, '_>) -> Self {
        let ports = 16_384..=u16::MAX;
        Self {
            max_flows: section.or("max_flows", 131_072, number(1_024..=MAX_FLOWS)),
            ports: section.or("ports", ports, port_range(1_024, MIN_PORTS)),
            sync_timeout: section.or("sync_timeout", ms(20), duration(ms(1)..=s(1))),
            opening_timeout: section.or("opening_timeout", s(30), duration(s(1)..=10 * MINUTE)),
            closing_timeout: section.or("closing_timeout", 4 * MINUTE, duration(s(1)..=HOUR)),
            closed_timeout: section.or("closed_timeout", s(2), duration(s(1)..=10 * MINUTE)),
        }
    }
}

impl Proxy {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            workers: section.or("workers", 0, number(0..=256)),
            max_connections: section.or("max_connections", 100_000, number(1..=MAX_CONNECTIONS)),
            drain_timeout: section.or("drain_timeout", 5 * MINUTE, duration(s(0)..=WEEK)),
        }
    }
}

impl Vip {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            address: section.required("address", r#""192.0.2.100/24""#, vip_address),
            interface: section.required("interface", r#""eth0""#, interface),
        }
    }
}

impl Service {
    fn read(section: &mut Section<'_, '_>) -> Self {
        let name = section.required("name", r#""web""#, name);
        let listen = r#"["192.0.2.100:80"]"#;
        let listen = section.list("listen", listen, 1..=MAX_LISTEN, listen_address);
        let mode = section.or("mode", Mode::Proxy, word(MODES));
        let balance = section.or("balance", Scheduler::default(), word(SCHEDULERS));
        let (connect, idle) = match &mode {
            // RFC 5382, REQ-5: a translator keeps an idle connection for 2 h 4 min at least.
            Ok(mode) if mode.value == Mode::Kernel => (ms(250), 124 * MINUTE),
            _ => (s(2), 5 * MINUTE),
        };
        Self {
            name,
            listen,
            mode,
            balance,
            connect_timeout: section.or("connect_timeout", connect, duration(ms(1)..=HOUR)),
            idle_timeout: section.or("idle_timeout", idle, duration(s(1)..=WEEK)),
            max_connections: section.or("max_connections", 50_000, number(1..=MAX_CONNECTIONS)),
            kernel: KernelMode::read(section),
            health: section.table("health", Health::read),
            backends: section.tables("backend", 1..=MAX_BACKENDS, Backend::read),
        }
    }
}

impl KernelMode {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            source: section.one_or_more("source", 1..=MAX_SOURCES, source_address),
            forward: section.optional("forward", forward),
            replication: section.optional("replication", word(REPLICATIONS)),
            fallback: section.optional("fallback", word(FALLBACKS)),
            on_down: section.optional("on_down", word(ON_DOWN)),
            stray: section.optional("stray", word(STRAYS)),
            source_rate: section.optional("source_rate", number(0..=MAX_RATE)),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(super) fn written(&self) -> Vec<(&'static str, At)> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            source,
            forward,
            replication,
            fallback,
            on_down,
            stray,
            source_rate,
        } = self;
        let source = source.iter().flatten().flatten().next();
        [
            (
                "source",
                source.map(|address| At {
                    place: address.at.place,
                    key: address.at.key.trim_end_matches("[0]").to_owned(),
                }),
            ),
            ("forward", at(forward)),
            ("replication", at(replication)),
            ("fallback", at(fallback)),
            ("on_down", at(on_down)),
            ("stray", at(stray)),
            ("source_rate", at(source_rate)),
        ]
        .into_iter()
        .filter_map(|(key, at)| Some((key, at?)))
        .collect()
    }
}

/// The place of a good value that is written.
fn at<T>(field: &Option<Field<T>>) -> Option<At> {
    Some(field.as_ref()?.as_ref().ok()?.at.clone())
}

/// What the backend sees. LVS and others also have "direct server return", which is worth its own
/// words.
fn forward(value: &DeValue<'_>) -> Read<Forward> {
    if value.as_str() == Some("dsr") {
        let what = "this version has no `dsr` (direct server return)";
        let remedy = "write \"nat\", or \"dnat\" if the backends must see the clients' addresses";
        return Err(Fault::new(what, remedy));
    }
    word(FORWARDS)(value)
}

impl Health {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            kind: section.required("kind", r#""tcp""#, word(HEALTH_KINDS)),
            interval: section.or("interval", s(2), duration(ms(10)..=HOUR)),
            timeout: section.or("timeout", s(1), duration(ms(1)..=HOUR)),
            rise: section.or("rise", 2, number(1..=100)),
            fall: section.or("fall", 3, number(1..=100)),
        }
    }
}

impl Backend {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.required("name", r#""b1""#, name),
            address: section.required("address", r#""198.51.100.21:8080""#, backend_address),
            weight: section.or("weight", 1, number(1..=256)),
        }
    }
}
