//! The words of the domain: ids, roles and small values that every floor speaks.
//!
//! Each word means one thing; `docs/lexicon.md` lists them.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A node's place in the configuration: 0 for the first `[[node]]`, 1 for the second.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum NodeId {
    /// The first `[[node]]` of the file.
    First,
    /// The second `[[node]]` of the file.
    Second,
}

impl NodeId {
    /// Both, in the file's order.
    pub const BOTH: [Self; 2] = [Self::First, Self::Second];

    /// The other node of the pair.
    pub const fn peer(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The place in `Config::nodes`.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Counter raised at every takeover. Orders masterships; every side effect carries it.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next takeover.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random id of one process lifetime, from the operating system's entropy.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// A node's role, as keepalived and RFC 5798 name it (RFC 9568 says active and backup).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Started, listening; has not yet heard who is master.
    #[default]
    Initialize,
    /// Stands by and replicates from the master.
    Backup,
    /// Owns the VIPs.
    Master,
    /// Must not take over (an interface is down, the kernel refuses the address).
    Fault,
}

impl Role {
    /// Lower-case name, as status prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Election priority, 1 to 254; the higher is preferred (RFC 9568, 5.2.4; 0 and 255 are special
/// there and are not configurable here).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Priority(pub u8);

/// One heartbeat link: the n-th address of both nodes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct PathId(pub u8);

/// A floating address and the interface on which it is announced.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Vip {
    /// The address; the prefix names the subnet it lives in and is not put on the interface.
    pub address: IpNet,
    /// The interface whose neighbours are told who owns the address.
    pub interface: String,
}

impl Vip {
    /// The bare address.
    pub fn ip(&self) -> IpAddr {
        self.address.addr()
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip())
    }
}

/// Ethernet address.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Where the two nodes are on an interface that they share.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Neighbour {
    /// Index of the interface.
    pub index: u32,
    /// This node's address on it.
    pub own: Mac,
    /// The peer's; none: it is not known to be on this link.
    pub peer: Option<Mac>,
}

/// A neighbour that has not heard where an address lives now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stale {
    /// Index of the interface by which its packet came.
    pub index: u32,
    /// The floating address to which it was sent.
    pub vip: IpAddr,
    /// The packet's sender; behind a router it is not the neighbour's own address.
    pub sender: IpAddr,
    /// The neighbour.
    pub mac: Mac,
}

/// Stable id of a service: a hash of its name, so that both nodes agree without agreeing on the
/// order of the file. The configuration refuses two names with one id.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// The id of the service with this name.
    pub fn of(service: &str) -> Self {
        Self(hash32(service.as_bytes()))
    }
}

/// Stable id of a backend: a hash of `service/backend`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct BackendId(pub u32);

impl BackendId {
    /// The id of this backend of this service.
    pub fn of(service: &str, backend: &str) -> Self {
        Self(hash32(format!("{service}/{backend}").as_bytes()))
    }
}

fn hash32(bytes: &[u8]) -> u32 {
    let wide = xxhash_rust::xxh3::xxh3_64(bytes);
    (wide ^ (wide >> 32)) as u32
}

/// Where a backend listens.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub enum BackendAddress {
    /// A port of a host.
    Tcp(SocketAddr),
    /// A socket in the file system of this host, by its whole path. At most 107 bytes (unix(7)).
    Unix(Arc<str>),
}

impl BackendAddress {
    /// How the path of a socket begins in a text.
    pub const UNIX: &'static str = "unix:";

    /// The port of a host, if it is one.
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// With another address or port. A socket in the file system is left for a host only if both are
    /// given.
    #[must_use]
    pub fn elsewhere(&self, ip: Option<IpAddr>, port: Option<u16>) -> Self {
        let own = self.tcp();
        let ip = ip.or_else(|| own.map(|own| own.ip()));
        let port = port.or_else(|| own.map(|own| own.port()));
        match ip.zip(port) {
            Some(address) => Self::Tcp(address.into()),
            None => self.clone(),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{}{path}", Self::UNIX),
        }
    }
}

impl From<SocketAddr> for BackendAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<BackendAddress> for String {
    fn from(address: BackendAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for BackendAddress {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

impl FromStr for BackendAddress {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_prefix(Self::UNIX) {
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp),
        }
    }
}

/// A backend's share, 1 to 256.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Weight(pub u16);

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// Id of one proxied connection within one incarnation of its node. The top 16 bits name the
/// worker, so that workers never share a counter.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FlowId(pub u64);

/// Fingerprint of a configuration; equal on both nodes when they run the same file.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ConfigHash(pub u64);

impl ConfigHash {
    /// The fingerprint of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(bytes))
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The cluster key: 32 bytes that both nodes share. Wiped from memory when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Scheduling algorithm (LVS's word for it).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// By a weight that falls while the backend is slow or fails.
    Adaptive,
    /// The first one in the file that has room.
    First,
    /// The backend with the fewest connections per weight.
    LeastConnections,
    /// The shortest response time times connections per weight.
    LeastResponseTime,
    /// By the client's address, from a table (Eisenbud et al., NSDI 2016).
    Maglev,
    /// The better of two random ones.
    PowerOfTwo,
    /// By weight.
    Random,
    /// One after another, each the same share: P = 1/N.
    #[default]
    RoundRobin,
    /// By the client's address, the highest of all backends' scores.
    SourceHash,
    /// Smooth weighted rotation: P = W/sum W.
    WeightedRoundRobin,
}

impl Scheduler {
    /// All, as the configuration writes them.
    pub const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("weighted_round_robin", Self::WeightedRoundRobin),
        ("least_connections", Self::LeastConnections),
        ("least_response_time", Self::LeastResponseTime),
        ("random", Self::Random),
        ("power_of_two", Self::PowerOfTwo),
        ("source_hash", Self::SourceHash),
        ("maglev", Self::Maglev),
        ("first", Self::First),
        ("adaptive", Self::Adaptive),
    ];

    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        let known = Self::WORDS.iter().find(|(_, scheduler)| *scheduler == self);
        known.map_or("", |(word, _)| word)
    }

    /// The kernel mode has it, too.
    pub const fn in_kernel(self) -> bool {
        matches!(
            self,
            Self::RoundRobin | Self::WeightedRoundRobin | Self::LeastConnections | Self::Random
        )
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an operator said of a backend.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Takes new connections if it is healthy.
    #[default]
    Enabled,
    /// Keeps its connections, takes no new ones.
    Drain,
    /// The same, and is not checked.
    Maintenance,
}

impl AdminState {
    /// Lower-case name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

/// How a connect failed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectFailure {
    /// The backend's host said that nobody listens.
    Refused,
    /// No answer in time.
    Timeout,
    /// No route, or host unreachable.
    Unreachable,
    /// Anything else.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_names_only() {
        assert_eq!(ServiceId::of("web"), ServiceId::of("web"));
        assert_ne!(BackendId::of("web", "b1"), BackendId::of("web", "b2"));
        assert_ne!(BackendId::of("web", "b1"), BackendId::of("api", "b1"));
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret([7; 32])), "Secret(..)");
    }
}
