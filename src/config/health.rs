//! Health checks: what is asked, how often, and what counts as an answer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::pattern::Pattern;
use super::service::Backend;
use crate::model::BackendAddress;

/// Health check of a service's backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is asked.
    pub kind: HealthKind,
    /// Time between checks of one backend, jittered by 10 %. Default 2 s, 10 ms to 1 h.
    pub interval: Duration,
    /// The same, while evidence speaks against the verdict. Default `interval`.
    pub fast_interval: Duration,
    /// The same, while the backend is down and nothing speaks against that. Default `interval`.
    pub down_interval: Duration,
    /// Time for one check. Default 1 s, 1 ms to 1 h; at most `interval`.
    pub timeout: Duration,
    /// Good checks in a row that bring a backend up. Default 2, 1 to 100.
    pub rise: u8,
    /// Bad checks in a row that take a backend down. Default 3, 1 to 100.
    pub fall: u8,
    /// The verdict before the first check. Default `check`.
    pub start: Start,
    /// What of the clients' traffic is evidence. Default `connects`.
    pub observe: Observe,
    /// Where checks go instead of the backend's own address.
    pub address: Option<IpAddr>,
    /// Where checks go instead of the backend's own port.
    pub port: Option<u16>,
    /// Flap damping; none: none.
    pub flap: Option<Flap>,
}

impl Health {
    /// Where this backend is checked.
    pub fn target(&self, backend: &Backend) -> BackendAddress {
        let address = backend.check_address.or(self.address);
        let port = backend.check_port.or(self.port);
        backend.address.elsewhere(address, port)
    }
}

/// The verdict on a backend that no check has met yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// Up, and the first check decides alone.
    Check,
    /// Down, until `rise` good checks came.
    Down,
    /// Up, until `fall` bad checks came.
    Up,
}

/// Which of the clients' troubles are evidence against a backend.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Observe {
    /// None.
    Nothing,
    /// Connects that fail.
    Connects,
    /// Connects that fail, and resets by the backend before its first byte.
    FirstByte,
}

/// A backend that changes too often stays down for a growing, bounded time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flap {
    /// Flaps in a row that are free. 1 to 100.
    pub limit: u8,
    /// A fall after a shorter time up than this is a flap. Default 1 min, 1 s to 1 h.
    pub window: Duration,
    /// Least time down after the first flap that is not free; doubled with each further one.
    /// Default 10 s, 1 s to 1 h.
    pub hold: Duration,
    /// Longest such time. Default 5 min, `hold` to 24 h.
    pub hold_max: Duration,
}

/// What a health check does.
#[derive(Clone, Debug, PartialEq)]
pub enum HealthKind {
    /// A program says it by its exit code.
    Command(Command),
    /// grpc.health.v1.Health/Check.
    Grpc(Grpc),
    /// An HTTP request.
    Http(Http),
    /// A dialogue on a TCP connection.
    Script(Script),
    /// A TCP connect.
    Tcp,
    /// A TLS handshake.
    Tls(Tls),
}

/// A TLS client.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// The name that is asked for and verified; none: no name is asked for, the address is verified.
    pub sni: Option<String>,
    /// Protocols that are offered; with any, the server must choose one.
    pub alpn: Vec<String>,
    /// Whether the certificate must be valid. Default true.
    pub verify: bool,
    /// Who may have signed it; none: the host's usual authorities.
    pub ca_file: Option<PathBuf>,
    /// A certificate with fewer days left is a warning. Default 14, 0 to 3,650.
    pub min_days: u32,
}

/// An HTTP request and the answer that it should get.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Over TLS.
    pub tls: Option<Tls>,
    /// HTTP/2 (in clear by prior knowledge: RFC 9113, 3.3) instead of HTTP/1.1.
    pub http2: bool,
    /// HEAD instead of GET.
    pub head: bool,
    /// Path and query. Default `/`.
    pub path: String,
    /// The authority; none: SNI, or the address with its port.
    pub host: Option<String>,
    /// Fields that are sent.
    pub request_headers: Vec<(String, String)>,
    /// Statuses that are good, sorted. Default 200 to 399.
    pub status: Vec<(u16, u16)>,
    /// A field that must be there, with this text in its value.
    pub header: Option<(String, String)>,
    /// What the body must have within its first bytes.
    pub body: Option<Expected>,
    /// How many of them are read. Default 64 KiB, 1 to 1 MiB.
    pub body_limit: u32,
}

/// Bytes that are waited for.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Exactly these.
    Bytes(Vec<u8>),
    /// What this matches.
    Matching(Pattern),
}

/// A dialogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// In order. 1 to 32.
    pub steps: Vec<Step>,
    /// Bytes that are read in all. Default 16 KiB, 1 to 1 MiB.
    pub read_limit: u32,
}

/// One step of a dialogue.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Wait for this. Bytes must be the next that come; a pattern may match anywhere in what came
    /// since the step before.
    Expect(Expected),
    /// Send this.
    Send(Vec<u8>),
}

/// A question of grpc.health.v1.
#[derive(Clone, Debug, PartialEq)]
pub struct Grpc {
    /// Over TLS.
    pub tls: Option<Tls>,
    /// The authority; none: SNI, or the address with its port.
    pub host: Option<String>,
    /// The service that is asked for; empty: the server as a whole.
    pub service: String,
}

/// A program.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The program's path and its arguments. 1 to 64.
    pub argv: Vec<String>,
    /// Bytes that it may write. Default 16 KiB, 1 to 1 MiB.
    pub output_limit: u32,
}

/// A question to a program beside each backend, which knows best: HAProxy's agent protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Where agents listen instead of the backends' own addresses.
    pub address: Option<IpAddr>,
    /// Their port.
    pub port: u16,
    /// Time between two questions, jittered by 10 %. Default 2 s, 10 ms to 1 h.
    pub interval: Duration,
    /// Time for an answer. Default 1 s, 1 ms to `interval`.
    pub timeout: Duration,
    /// Bytes that are sent first.
    pub send: Vec<u8>,
}

impl Agent {
    /// Where the agent of this backend listens.
    pub fn target(&self, backend: &Backend) -> BackendAddress {
        let address = backend.agent_address.or(self.address);
        let port = backend.agent_port.unwrap_or(self.port);
        backend.address.elsewhere(address, Some(port))
    }
}

/// What all checks of a node share.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    /// Checks at once. Default 256, 1 to 4,096.
    pub concurrency: u16,
}

impl Checks {
    /// Default limit.
    pub(super) const CONCURRENCY: u16 = 256;
}
