//! A service: where clients connect, and who serves them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::balance::Balance;
use super::discover::Discover;
use super::health::{Agent, Health};
use super::proxied::{DEFAULT_POOL, Pool, Proxied};
use crate::model::{BackendAddress, BackendId, ServiceId, Weight};

/// How a service in kernel mode forwards.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelMode {
    /// Our addresses towards the backends, at most one a family, each a VIP. None for a family:
    /// the address that the client connected to.
    pub sources: Vec<IpAddr>,
    /// What the backend sees. Default `nat`.
    pub forward: Forward,
    /// Whether a client waits until the standby knows its connection. Default `sync`.
    pub replication: Acknowledge,
    /// What happens on a host that cannot forward in the kernel. Default `refuse`.
    pub fallback: Fallback,
    /// What becomes of the connections of a backend that is judged down. Default `keep`.
    pub on_down: OnDown,
    /// The answer to packets of no connection. Default `reset`.
    pub stray: Stray,
    /// New connections a second from one IPv4 address or one IPv6 /64; 0: any number. Default 0,
    /// up to 1,000,000.
    pub source_rate: u32,
}

/// What a backend sees as its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Forward {
    /// One of our addresses.
    Nat,
    /// The client's; the backend's answers must be routed through the VIP.
    Dnat,
}

/// When a client's handshake may complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acknowledge {
    /// Once the standby knows the connection.
    Sync,
    /// At once.
    Async,
}

/// What a service does where the kernel mode cannot run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// The program does not start.
    Refuse,
    /// The service is proxied.
    Proxy,
}

/// What becomes of connections when their backend is judged down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnDown {
    /// They go on, if they can.
    Keep,
    /// Both ends get a reset.
    Reset,
}

/// The answer to packets that belong to no connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stray {
    /// None.
    Drop,
    /// A reset.
    Reset,
}

/// A listener with its algorithm and its backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Hash of the name.
    pub id: ServiceId,
    /// Unique name.
    pub name: String,
    /// Where clients connect; each address is a VIP. 1 to 64.
    pub listen: Vec<SocketAddr>,
    /// Scheduler and its settings.
    pub balance: Balance,
    /// Time for one connect to one backend. Default 2 s, 1 ms to 1 h; in kernel mode 250 ms, and
    /// below 1 s, when a client's kernel sends its SYN again (RFC 6298, 2.1).
    pub connect_timeout: Duration,
    /// A connection without a byte in either direction for this long is closed. Default 5 min,
    /// 1 s to 7 days. In kernel mode 2 h 4 min (RFC 5382, REQ-5).
    pub idle_timeout: Duration,
    /// Connections at once. Default 50,000; 1 to 10,000,000.
    pub max_connections: u32,
    /// The kernel mode's settings; none: the service is proxied.
    pub kernel: Option<KernelMode>,
    /// What only a proxied service has; defaults in kernel mode.
    pub proxied: Proxied,
    /// `[service.agent]`; none: no agent is asked.
    pub agent: Option<Agent>,
    /// `[service.health]`; none: backends count as up until connects fail.
    pub health: Option<Health>,
    /// `[[service.backend]]`: 1 to 1,024, or none where there is a source; then those of each pool.
    pub backends: Vec<Backend>,
    /// `[[service.discover]]`: up to 8; then those of each pool.
    pub discover: Vec<Discover>,
}

/// A server behind a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Hash of `service/backend`.
    pub id: BackendId,
    /// Unique within its service.
    pub name: String,
    /// Where it listens.
    pub address: BackendAddress,
    /// Its share. Default 1; 1 to 256.
    pub weight: Weight,
    /// Connections at once, in proxy mode. None: as many as the service may have. 1 to 10,000,000.
    pub max_connections: Option<u32>,
    /// It gets connections only while no other backend of its pool serves. Default false.
    pub backup: bool,
    /// The place of its pool in [`Proxied::pools`]; none: the service's own.
    pub pool: Option<u16>,
    /// Where it is checked, instead of where the section `[service.health]` says.
    pub check_address: Option<IpAddr>,
    /// The same, the port.
    pub check_port: Option<u16>,
    /// Where its agent is asked, instead of where the section `[service.agent]` says.
    pub agent_address: Option<IpAddr>,
    /// The same, the port.
    pub agent_port: Option<u16>,
}

impl Service {
    /// How a backend is checked.
    pub fn health_of(&self, backend: &Backend) -> Option<&Health> {
        self.health_of_pool(backend.pool)
    }

    /// How the backends of a pool are checked.
    pub fn health_of_pool(&self, pool: Option<u16>) -> Option<&Health> {
        match self.pool(pool) {
            Some(pool) => pool.health.as_ref(),
            None => self.health.as_ref(),
        }
    }

    /// How the backends of a pool are chosen from.
    pub fn balance_of(&self, pool: Option<u16>) -> &Balance {
        self.pool(pool).map_or(&self.balance, |pool| &pool.balance)
    }

    /// The pool that a backend is in; none: the service's own.
    pub fn pool_of(&self, backend: &Backend) -> Option<&Pool> {
        self.pool(backend.pool)
    }

    /// The name of a pool.
    pub fn pool_name(&self, pool: Option<u16>) -> &str {
        self.pool(pool).map_or(DEFAULT_POOL, |pool| &pool.name)
    }

    fn pool(&self, pool: Option<u16>) -> Option<&Pool> {
        self.proxied.pools.get(usize::from(pool?))
    }
}
