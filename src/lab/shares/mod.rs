//! `tandem lab --balance`: what share of real connections each backend gets under each scheduler.
//!
//! One pair has a service for each scheduler; the backends have the weights 3, 2 and 1. Clients with
//! many addresses connect, ask, and are told who answered. Twelve are at it at a time, each with
//! one connection after the other. On the port of the even backends all answer after 2 ms, on the
//! other one the third takes 20 ms.

mod report;
mod server;

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

pub(super) use self::report::{Report, Row, table};
use super::config::{backend_name, balance_config};
use super::error::LabError;
use super::pair::{Lab, LabConfig};
use super::topology::{BACKENDS, Lan, VIP6, add_address, backend_address6};
use crate::model::Scheduler;

/// Weights of the backends.
pub(super) const WEIGHTS: [u16; BACKENDS] = [3, 2, 1];
/// Milliseconds after which they answer: on the even port, and on the other.
const EVEN: [u64; BACKENDS] = [2, 2, 2];
const UNEVEN: [u64; BACKENDS] = [2, 2, 20];
pub(super) const EVEN_PORT: u16 = 81;
pub(super) const UNEVEN_PORT: u16 = 82;
/// Port of the first case's service.
pub(super) const FIRST_PORT: u16 = 9_000;
/// Connections of one case.
const CONNECTIONS: usize = 1_800;
/// At a time.
const CLIENTS: usize = 12;
/// Addresses of clients.
const ADDRESSES: u16 = 900;
/// Longest one connection.
const LONG: Duration = Duration::from_secs(10);

/// One service.
pub(super) struct Case {
    pub(super) scheduler: Scheduler,
    /// What is written for `balance`.
    pub(super) balance: &'static str,
    /// The third backend is slow.
    pub(super) uneven: bool,
    /// Load before the count, for those that learn.
    warm: Duration,
    /// The shares that the formula gives, not normalised.
    expected: [f64; BACKENDS],
    /// How far off an observed share may be.
    within: f64,
}

/// All cases; their ports follow each other from `FIRST_PORT`.
pub(super) fn cases() -> Vec<Case> {
    let weights = WEIGHTS.map(f64::from);
    let case = |scheduler, balance, uneven, expected, within| Case {
        scheduler,
        balance,
        uneven,
        warm: Duration::ZERO,
        expected,
        within,
    };
    let learns = |seconds, case| Case {
        warm: Duration::from_secs(seconds),
        ..case
    };
    let even = |scheduler: Scheduler, balance, expected, within| {
        case(scheduler, balance, false, expected, within)
    };
    let bounded = r#"{ scheduler = "maglev", bounded_load = 1.25 }"#;
    let adaptive = r#"{ scheduler = "adaptive", decay = "1s" }"#;
    // Closed loops: each backend's connections are as many as its weight, and last as long as its
    // answer takes.
    let by_rate = std::array::from_fn(|n| weights[n] / UNEVEN[n] as f64);
    // 1.25 / ((20 + 1) / (2 + 1)) of its weight is left to the third.
    let adapted = [3.0, 2.0, 1.25 * 3.0 / 21.0];
    use Scheduler as S;
    vec![
        even(S::RoundRobin, r#""round_robin""#, [1.0; 3], 0.0),
        even(
            S::WeightedRoundRobin,
            r#""weighted_round_robin""#,
            weights,
            0.0,
        ),
        even(S::Random, r#""random""#, weights, 0.05),
        even(S::PowerOfTwo, r#""power_of_two""#, weights, 0.08),
        even(S::LeastConnections, r#""least_connections""#, weights, 0.08),
        even(S::SourceHash, r#""source_hash""#, weights, 0.06),
        even(S::Maglev, r#""maglev""#, weights, 0.06),
        even(S::Maglev, bounded, weights, 0.08),
        even(S::First, r#""first""#, [1.0, 0.0, 0.0], 0.0),
        case(
            S::LeastConnections,
            r#""least_connections""#,
            true,
            by_rate,
            0.10,
        ),
        learns(
            1,
            case(
                S::LeastResponseTime,
                r#""least_response_time""#,
                true,
                [3.0, 2.0, 0.0],
                0.10,
            ),
        ),
        learns(15, case(S::Adaptive, adaptive, true, adapted, 0.05)),
    ]
}

/// Builds the pair and measures all cases.
pub(super) async fn run(binary: &Path, note: impl Fn(&str)) -> Result<Report, LabError> {
    let config = LabConfig {
        binary: binary.into(),
        config: balance_config(&cases()),
    };
    let mut lab = Lab::up(&config).await?;
    lab.settled().await?;
    let network = lab.network();
    let index = network.interface(&network.client, Lan::Front);
    for n in 0..ADDRESSES {
        add_address(&network.client, index, client(n).into(), 64).await?;
    }
    let mut servers = Vec::new();
    for (n, host) in network.backends.iter().enumerate() {
        for (port, delays) in [(EVEN_PORT, EVEN), (UNEVEN_PORT, UNEVEN)] {
            let address = SocketAddr::new(backend_address6(n).into(), port);
            let delay = Duration::from_millis(delays[n]);
            servers.push(server::start(host, n as u8, address, delay).await?);
        }
    }
    let mut rows = Vec::new();
    for (n, case) in cases().iter().enumerate() {
        note(&format!("{}: {}", case.scheduler, case.balance));
        let to = SocketAddr::new(VIP6.into(), FIRST_PORT + n as u16);
        let until = Instant::now() + case.warm;
        while Instant::now() < until {
            load(&lab, to, CONNECTIONS / 6).await?;
        }
        let counts = load(&lab, to, CONNECTIONS).await?;
        rows.push(Row::new(case, counts));
    }
    drop(servers);
    Ok(Report {
        weights: WEIGHTS,
        even_ms: EVEN,
        uneven_ms: UNEVEN,
        connections: CONNECTIONS,
        clients: CLIENTS,
        addresses: ADDRESSES,
        backends: std::array::from_fn(backend_name),
        rows,
    })
}

fn client(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0xc, n)
}

/// Who answered so many connections.
async fn load(lab: &Lab, to: SocketAddr, connections: usize) -> Result<[u64; BACKENDS], LabError> {
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|first| {
            lab.network().client.spawn(async move {
                let mut counts = [0; BACKENDS];
                for n in (first..connections).step_by(CLIENTS) {
                    let from = client((n % usize::from(ADDRESSES)) as u16);
                    let who = timeout(LONG, ask(from, to)).await??;
                    let known = counts.get_mut(usize::from(who));
                    *known.ok_or_else(|| io::Error::other("nobody's name"))? += 1;
                }
                Ok::<_, io::Error>(counts)
            })
        })
        .collect();
    let mut counts = [0; BACKENDS];
    for task in tasks {
        let done = task.await.map_err(io::Error::other).flatten();
        let part = done.map_err(LabError::io(format!("ask {to}")))?;
        for (sum, count) in counts.iter_mut().zip(part) {
            *sum += count;
        }
    }
    Ok(counts)
}

async fn ask(from: Ipv6Addr, to: SocketAddr) -> io::Result<u8> {
    let socket = TcpSocket::new_v6()?;
    socket.bind(SocketAddr::new(from.into(), 0))?;
    let mut stream = socket.connect(to).await?;
    stream.write_all(b"?").await?;
    let who = stream.read_u8().await?;
    let _ = stream.shutdown().await;
    Ok(who)
}
