//! The file as written: each section's keys, defaults and ranges; every value with its place.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;
use super::report::{At, Field, List, Located, Reported};
use super::units::{
    boolean, duration, interface, name, node_address, number, path, port_range, vip_address,
};
use ipnet::IpNet;

mod affinity;
mod balance;
mod discover;
mod health;
mod kinds;
mod limits;
mod proxied;
mod rules;
mod service;
mod sockets;
mod telling;

pub(super) use self::affinity::{Affinity, By, TTL};
pub(super) use self::balance::Balance;
pub(super) use self::discover::{Discover, Dns};
pub(super) use self::health::{Agent, Checks, Health};
pub(super) use self::limits::Limits;
pub(super) use self::proxied::{Proxied, Tlv};
pub(super) use self::rules::{Pool, Rule};
pub(super) use self::service::{Backend, KernelMode, Mode, Service};
pub(super) use self::sockets::Sockets;
pub(super) use self::telling::{Metrics, Notify};

/// Most heartbeat paths.
const MAX_PATHS: usize = 8;
/// Most VIPs.
const MAX_VIPS: usize = 256;
/// Most services.
const MAX_SERVICES: usize = 1_024;
/// Most connections in the kernel's table.
const MAX_FLOWS: u32 = 2_000_000;
/// Fewest ports towards the backends; each node has half of them.
const MIN_PORTS: u16 = 1_024;
/// Most connections.
const MAX_CONNECTIONS: u32 = 10_000_000;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MINUTE: Duration = s(60);
const HOUR: Duration = s(60 * 60);
const DAY: Duration = s(24 * 60 * 60);
const WEEK: Duration = s(7 * 24 * 60 * 60);

/// The whole file.
pub(in crate::config) struct File {
    pub(in crate::config) cluster: Result<Cluster, Reported>,
    pub(in crate::config) nodes: List<Node>,
    pub(in crate::config) dns: Result<Dns, Reported>,
    pub(in crate::config) election: Result<Election, Reported>,
    pub(in crate::config) health: Result<Checks, Reported>,
    pub(in crate::config) kernel: Result<Kernel, Reported>,
    pub(in crate::config) metrics: Result<Metrics, Reported>,
    pub(in crate::config) notify: Option<Result<Notify, Reported>>,
    pub(in crate::config) proxy: Result<Proxy, Reported>,
    pub(in crate::config) vips: List<Vip>,
    pub(in crate::config) services: List<Service>,
}

/// `[cluster]`
pub(in crate::config) struct Cluster {
    pub(in crate::config) name: Field<String>,
    pub(in crate::config) key_file: Field<PathBuf>,
    pub(in crate::config) port: Field<u16>,
    pub(in crate::config) device: Field<String>,
    pub(in crate::config) relay: Field<bool>,
}

/// `[[node]]`
pub(in crate::config) struct Node {
    pub(in crate::config) name: Field<String>,
    pub(in crate::config) priority: Field<u8>,
    pub(in crate::config) addresses: List<Located<IpAddr>>,
    pub(in crate::config) at: At,
}

/// `[election]`
pub(in crate::config) struct Election {
    pub(in crate::config) heartbeat: Field<Duration>,
    pub(in crate::config) misses: Field<u8>,
    pub(in crate::config) preempt: Field<bool>,
    pub(in crate::config) preempt_delay: Field<Duration>,
    pub(in crate::config) dead_man: Option<Field<Duration>>,
}

/// `[kernel]`
pub(in crate::config) struct Kernel {
    pub(in crate::config) max_flows: Field<u32>,
    pub(in crate::config) ports: Field<RangeInclusive<u16>>,
    pub(in crate::config) sync_timeout: Field<Duration>,
    pub(in crate::config) opening_timeout: Field<Duration>,
    pub(in crate::config) closing_timeout: Field<Duration>,
    pub(in crate::config) closed_timeout: Field<Duration>,
}

/// `[proxy]`
pub(in crate::config) struct Proxy {
    pub(in crate::config) workers: Field<u16>,
    pub(in crate::config) max_connections: Field<u32>,
    pub(in crate::config) drain_timeout: Field<Duration>,
}

/// `[[vip]]`
pub(in crate::config) struct Vip {
    pub(in crate::config) address: Field<IpNet>,
    pub(in crate::config) interface: Field<String>,
}

impl File {
    /// The whole file.
    pub(in crate::config) fn read(file: &mut Section<'_, '_>) -> Self {
        Self {
            cluster: file.required_table("cluster", Cluster::read),
            nodes: file.tables("node", 2..=2, Node::read),
            dns: file.default_table("dns", Dns::read),
            election: file.default_table("election", Election::read),
            health: file.default_table("health", Checks::read),
            kernel: file.default_table("kernel", Kernel::read),
            metrics: file.default_table("metrics", Metrics::read),
            notify: file.table("notify", Notify::read),
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
