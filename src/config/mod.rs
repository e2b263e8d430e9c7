//! The configuration: only valid ones exist.
//!
//! One TOML file, the same on both nodes. `Config::parse` either gives a `Config` in which every
//! cross-reference holds, or *all* the mistakes at once, each with its place and a remedy.
//! Owns: defaults, ranges, cross-checks. Never: reads files, looks at the host.
//!
//! Three steps: `file` reads the text into sections whose every value has a place or the proof that
//! its mistake is reported (with `read` for shapes and `units` for single values); `check`,
//! `kernel` and `rules` compare values with each other; `build` makes the `Config`, which `difference`
//! fingerprints by its `listing`.

mod affinity;
mod balance;
mod build;
mod check;
mod difference;
mod discover;
mod error;
mod file;
mod health;
mod kernel;
mod limits;
mod listing;
mod pattern;
mod presets;
mod proxied;
mod read;
mod render;
mod report;
mod rules;
mod runtime;
mod schedulers;
mod service;
mod sockets;
mod sources;
mod stick;
mod telling;
mod units;
mod values;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{ConfigHash, NodeId, PathId, Priority, Vip};

pub use affinity::{Affinity, StickBy, StickFallback, StickHow};
pub use balance::Balance;
pub use difference::{Change, MAX_MARKS, Mark, differing};
pub use discover::{Discover, Dns, Family, Origin};
pub use error::{ConfigError, ConfigErrors, Place};
pub use health::{
    Agent, Checks, Command, Expected, Flap, Grpc, Health, HealthKind, Http, Observe, Script, Start,
    Step, Tls,
};
pub use limits::{Limits, Logged};
pub use pattern::Pattern;
pub use proxied::{DEFAULT_POOL, Ech, Pool, Proxied, ProxyVersion, Rule, SendProxy};
pub use runtime::MAX_BACKENDS;
pub use service::{Acknowledge, Backend, Fallback, Forward, KernelMode, OnDown, Service, Stray};
pub use sockets::{Keepalive, Mptcp, Sockets};
pub use telling::{Metrics, Notify};
pub use units::unusable;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[[node]]`: exactly two.
    pub nodes: [Node; 2],
    /// `[dns]`
    pub dns: Dns,
    /// `[election]`
    pub election: Election,
    /// `[health]`
    pub health: Checks,
    /// `[kernel]`
    pub kernel: Kernel,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[notify]`; none: nobody is told.
    pub notify: Option<Notify>,
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[[vip]]`: 1 to 256.
    pub vips: Vec<Vip>,
    /// `[[service]]`: 1 to 1,024.
    pub services: Vec<Service>,
    /// Fingerprint of the meaning of the file (not of its comments or spacing).
    pub hash: ConfigHash,
    /// The same of each setting, to name what two nodes differ in.
    pub marks: Arc<[Mark]>,
}

/// What the pair is, and how its nodes reach and trust each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name of the pair; bound into every key, so that two pairs cannot talk to each other.
    pub name: String,
    /// File with the shared key, mode 0600 (or 0400).
    pub key_file: PathBuf,
    /// Where `key_file` stands in the file, for errors found when the key itself is read.
    pub key_file_place: Place,
    /// UDP port of the heartbeats and TCP port of the replication session. Default 7373.
    pub port: u16,
    /// Name of the private device that carries the VIPs. Default `tandem0`.
    pub device: String,
    /// Whether each node hands to the other what belongs there. Default true.
    pub relay: bool,
}

/// One of the two nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique name; a node finds itself by `--node` or its host name.
    pub name: String,
    /// 1 to 254; the higher is preferred.
    pub priority: Priority,
    /// One address for each heartbeat path, in the same order on both nodes. 1 to 8.
    pub addresses: Vec<IpAddr>,
}

/// Timers and rules of the election.
#[derive(Clone, Debug, PartialEq)]
pub struct Election {
    /// Time between heartbeats. Default 100 ms, 10 ms to 10 s.
    pub heartbeat: Duration,
    /// Heartbeats that may be missed before the peer is dead. Default 3, 2 to 100.
    pub misses: u8,
    /// Whether a higher priority takes the mastership back. Default false.
    pub preempt: bool,
    /// How long a node must have been in sync before it preempts. Default 0 s, up to 1 h.
    pub preempt_delay: Duration,
    /// After this long without a turn of its loop, the kernel kills the node. Default 0.8 x
    /// heartbeat x misses; must stay below heartbeat x misses.
    pub dead_man: Duration,
}

impl Election {
    /// A process that has not turned for so long hangs, or is dead: it sends a heartbeat at each
    /// `heartbeat` at the latest, and half of one is left to a busy host.
    pub fn stall(&self) -> Duration {
        (self.heartbeat * 3 / 2).min(self.dead_man)
    }

    /// Skew time: the lower the priority, the later a node gives up waiting (RFC 9568, 6.1).
    pub fn skew(&self, priority: Priority, interval: Duration) -> Duration {
        interval * (256 - u32::from(priority.0)) / 256
    }

    /// Master-down interval for a master that sends every `interval` (RFC 9568, 6.1, with
    /// `misses` in the place of the fixed 3).
    pub fn master_down(&self, priority: Priority, interval: Duration) -> Duration {
        interval * u32::from(self.misses) + self.skew(priority, interval)
    }
}

/// The user-space data path.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxy {
    /// Worker threads. Default: one a CPU. 1 to 256 (0 in the file means the default).
    pub workers: Option<u16>,
    /// Connections at once over all services. Default 100,000; 1 to 10,000,000.
    pub max_connections: u32,
    /// How long connections stay with a node that gave up the mastership in order, where both
    /// nodes relay; then they are reset. Zero: at once. Default 5 min, up to 7 days.
    pub drain_timeout: Duration,
}

/// Limits and timers of the data path in the kernel, for all services of that mode together.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Connections at once; each takes two entries of the kernel's table, allocated at the start.
    /// Default 131,072; 1,024 to 2,000,000.
    pub max_flows: u32,
    /// First port towards the backends. Half of the range belongs to each node. Default 16,384.
    pub first_port: u16,
    /// Last of them. Default 65,535.
    pub last_port: u16,
    /// How long the answer to a client waits for the standby's word with `replication = "sync"`.
    /// Default 20 ms, 1 ms to 1 s.
    pub sync_timeout: Duration,
    /// A connection whose backend has not answered, or whose client has not completed the
    /// handshake, is forgotten after this long without a packet. Default 30 s, 1 s to 10 min.
    pub opening_timeout: Duration,
    /// The same, after one side has ended. Default 4 min (RFC 5382, REQ-5), 1 s to 1 h.
    pub closing_timeout: Duration,
    /// How long an ended connection is kept, for late packets. Default 2 s, 1 s to 10 min. Its
    /// port towards the backend is taken for so long.
    pub closed_timeout: Duration,
}

impl Config {
    /// Parses and checks a file's text.
    ///
    /// # Errors
    ///
    /// Every mistake that can be seen in the text, in the order of the file.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let report = report::Report::new(text);
        let config = read::root(&report, file::File::read).and_then(|file| {
            check::check(&file, &report);
            build::build(file)
        });
        report.finish(config)
    }

    /// The node with this name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        NodeId::BOTH
            .into_iter()
            .find(|id| self.node(*id).name == name)
    }

    /// This node's section.
    pub const fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The heartbeat paths.
    pub fn paths(&self) -> impl Iterator<Item = PathId> + use<> {
        (0..self.nodes[0].addresses.len()).map(|n| PathId(n as u8))
    }

    /// Every interface that carries a VIP.
    pub fn interfaces(&self) -> BTreeSet<&str> {
        self.vips.iter().map(|vip| vip.interface.as_str()).collect()
    }
}

#[cfg(test)]
mod affinity_test;
#[cfg(test)]
mod discover_test;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod health_test;
#[cfg(test)]
mod kernel_test;
#[cfg(test)]
mod mistakes_test;
#[cfg(test)]
mod proxied_test;
#[cfg(test)]
mod sockets_test;
#[cfg(test)]
mod tests;
