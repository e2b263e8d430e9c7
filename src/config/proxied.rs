//! What only a proxied service can have: it needs the bytes, and the kernel mode sees packets.

use std::time::Duration;

use ipnet::IpNet;

use super::affinity::Affinity;
use super::balance::Balance;
use super::health::Health;
use super::limits::Limits;
use super::sockets::Sockets;

/// How a proxied service treats its connections, beyond what every service has.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxied {
    /// From these networks only are connections accepted, and each begins with a header of the
    /// PROXY protocol. Empty: no connection does. Up to 64.
    pub accept_proxy: Vec<IpNet>,
    /// Time for that header to arrive. Default 3 s (proxy-protocol.txt, 2: long enough for one
    /// retransmission), 10 ms to 1 min.
    pub accept_proxy_timeout: Duration,
    /// What is sent to a backend before the client's bytes; none: nothing.
    pub send_proxy: Option<SendProxy>,
    /// How long the first bytes may take until they tell what a rule asks. Default 5 s, 10 ms to
    /// 1 min.
    pub inspect_timeout: Duration,
    /// How many of them are looked at. Default 16,384; 512 to 65,536.
    pub inspect_bytes: u32,
    /// What a client's name is if it seems to be hidden. Default `unknown`.
    pub ech: Ech,
    /// Who may connect, how often backends are tried, and who waits.
    pub limits: Limits,
    /// How its sockets are made.
    pub sockets: Sockets,
    /// `[service.affinity]`; none: each connection is chosen for by itself.
    pub affinity: Option<Affinity>,
    /// `[[service.pool]]`: up to 64, beside the service's own backends.
    pub pools: Vec<Pool>,
    /// `[[service.rule]]`: up to 256; the first that matches says the pool.
    pub rules: Vec<Rule>,
}

/// The name of the service's own backends, as a pool.
pub const DEFAULT_POOL: &str = "default";

/// Backends that some of a service's connections go to. They are in [`super::Service::backends`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique within its service.
    pub name: String,
    /// Scheduler. Default: the service's.
    pub balance: Balance,
    /// `[service.pool.health]`. Default: the service's.
    pub health: Option<Health>,
}

/// A way to a pool. Each list that is not empty must have one entry that fits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Names that a TLS client asks for, in lower case; `*.` stands for all names below.
    pub sni: Vec<String>,
    /// Application protocols that it offers.
    pub alpn: Vec<String>,
    /// Hosts that an HTTP/1 request asks, in lower case.
    pub host: Vec<String>,
    /// Where the client is; by the PROXY protocol, if its header says so.
    pub source: Vec<IpNet>,
    /// The pool's place in [`Proxied::pools`]; none: the service's own backends.
    pub pool: Option<u16>,
}

/// What a TLS client's name is if it uses Encrypted Client Hello, or seems to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ech {
    /// The name in the clear, although it may be its provider's.
    Outer,
    /// Unknown.
    Unknown,
}

/// The header of the PROXY protocol that backends get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SendProxy {
    /// Its form.
    pub version: ProxyVersion,
    /// With the name that the client asked for (version 2).
    pub authority: bool,
    /// With a name for the connection that no other one has (version 2).
    pub unique_id: bool,
    /// With a checksum (version 2).
    pub crc32c: bool,
}

/// The two forms of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with room for more than the addresses.
    V2,
}

impl Default for Proxied {
    fn default() -> Self {
        Self {
            accept_proxy: Vec::new(),
            accept_proxy_timeout: Duration::from_secs(3),
            send_proxy: None,
            inspect_timeout: Duration::from_secs(5),
            inspect_bytes: 16 << 10,
            ech: Ech::Outer,
            limits: Limits::default(),
            sockets: Sockets::default(),
            affinity: None,
            pools: Vec::new(),
            rules: Vec::new(),
        }
    }
}
