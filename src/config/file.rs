//! The file as written: each section's keys, defaults and ranges; every value with its place.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::HealthKind;
use super::read::Section;
use super::report::{At, Field, List, Located, Reported};
use super::units::{
    backend_address, boolean, duration, interface, listen_address, name, node_address, number,
    path, vip_address, word,
};
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
/// Most connections.
const MAX_CONNECTIONS: u32 = 10_000_000;

const SCHEDULERS: &[(&str, Scheduler)] = &[
    ("round_robin", Scheduler::RoundRobin),
    ("weighted_round_robin", Scheduler::WeightedRoundRobin),
    ("least_connections", Scheduler::LeastConnections),
    ("random", Scheduler::Random),
];
const HEALTH_KINDS: &[(&str, HealthKind)] = &[("tcp", HealthKind::Tcp)];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const HOUR: Duration = s(60 * 60);
const WEEK: Duration = s(7 * 24 * 60 * 60);

/// The whole file.
pub(super) struct File {
    pub(super) cluster: Result<Cluster, Reported>,
    pub(super) nodes: List<Node>,
    pub(super) election: Result<Election, Reported>,
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

/// `[proxy]`
pub(super) struct Proxy {
    pub(super) workers: Field<u16>,
    pub(super) max_connections: Field<u32>,
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
    pub(super) balance: Field<Scheduler>,
    pub(super) connect_timeout: Field<Duration>,
    pub(super) idle_timeout: Field<Duration>,
    pub(super) max_connections: Field<u32>,
    pub(super) health: Option<Result<Health, Reported>>,
    pub(super) backends: List<Backend>,
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

impl Proxy {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            workers: section.or("workers", 0, number(0..=256)),
            max_connections: section.or("max_connections", 100_000, number(1..=MAX_CONNECTIONS)),
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
        Self {
            name: section.required("name", r#""web""#, name),
            listen: section.list(
                "listen",
                r#"["192.0.2.100:80"]"#,
                1..=MAX_LISTEN,
                listen_address,
            ),
            balance: section.or("balance", Scheduler::default(), word(SCHEDULERS)),
            connect_timeout: section.or("connect_timeout", s(2), duration(ms(1)..=HOUR)),
            idle_timeout: section.or("idle_timeout", s(5 * 60), duration(s(1)..=WEEK)),
            max_connections: section.or("max_connections", 50_000, number(1..=MAX_CONNECTIONS)),
            health: section.table("health", Health::read),
            backends: section.tables("backend", 1..=MAX_BACKENDS, Backend::read),
        }
    }
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
