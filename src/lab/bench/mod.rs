//! `tandem lab --bench proxy`: the data path beside HAProxy's, on one machine.
//!
//! One node runs alone on lb1, as master; HAProxy runs on lb2, as it comes and tuned; and the client
//! reaches the backends directly, to show that neither it nor they are what is measured. Everybody
//! has its turn in every round, so that what the machine does meanwhile is everybody's lot: only
//! the ratios mean something.

mod client;
mod report;
mod rivals;
mod server;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::client::{Clients, Kind as Work, idle};
use self::report::{Conditions, Row};
use self::rivals::{Haproxy, Kind, Rival, cpus, haproxy_version};
use self::server::{Block, Server};
use super::config::{CONFIG_FILE, KEY_FILE, PORT};
use super::error::LabError;
use super::netns::{Rights, allow_descriptors};
use super::node::NodeProcess;
use super::pair::LabConfig;
use super::scratch::Scratch;
use super::topology::{BACKENDS, Network, VIP4, backend_address, node_addresses};
use crate::model::{NodeId, Role};
use crate::net::key;

pub(super) use self::report::{Report, table};

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BenchChoice {
    /// The proxy mode beside HAProxy.
    Proxy,
    /// The kernel mode beside plain forwarding, nftables and HAProxy.
    Kernel,
}

impl FromStr for BenchChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "proxy" => Ok(Self::Proxy),
            "kernel" => Ok(Self::Kernel),
            _ => Err("no such benchmark; write proxy or kernel".to_owned()),
        }
    }
}

/// Rounds, unless said otherwise.
pub(super) const ROUNDS: u32 = 5;
/// Time before a window, for connections to stand and buffers to fill.
const WARM: Duration = Duration::from_millis(200);
/// A window of measurement.
const WINDOW: Duration = Duration::from_secs(1);
/// Time after it, for connections to end.
const QUIET: Duration = Duration::from_millis(50);
/// Connections whose memory is measured.
const IDLE: usize = 2_000;
/// Descriptors that the lab needs for them: client's and backend's, and some.
const DESCRIPTORS: u64 = 2 * IDLE as u64 + 1_000;
/// Time for the node to become master and to see its backends up.
const SETTLE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);
/// Port of the tuned HAProxy, which shares its host with the other one.
const TUNED_PORT: u16 = 81;

/// One window.
#[derive(Clone, Debug)]
struct Sample {
    /// A second.
    rate: f64,
    /// Seconds of CPU of the balancer for one unit.
    cost: f64,
    /// From request to answer, in microseconds: half of them, and 99 of 100, were faster.
    p50: f64,
    p99: f64,
}

/// Everything that is up. The order of the fields is the order of the end.
#[derive(Debug)]
struct Bench {
    rivals: Vec<Rival>,
    _haproxies: Vec<Haproxy>,
    _node: NodeProcess,
    _servers: Vec<Server>,
    network: Network,
    block: Block,
    /// Everybody's, if it could be chosen.
    congestion_control: Option<&'static str>,
    scratch: Scratch,
}

/// Measures. `note` is told what is being done.
pub(super) async fn run(
    config: &LabConfig,
    rights: Rights,
    rounds: u32,
    note: impl Fn(&str),
) -> Result<Report, LabError> {
    let load = Conditions::load_average();
    allow_descriptors(DESCRIPTORS);
    let haproxy = haproxy_version();
    let bench = Bench::build(config, haproxy.is_some()).await?;
    note("memory of idle connections ...");
    // First, while everybody is fresh: an allocator that was busy before has memory in hand.
    let mut memory = Vec::new();
    for rival in &bench.rivals {
        memory.push((rival.kind, bench.memory(rival).await?));
    }
    let mut samples = Vec::new();
    for round in 1..=rounds {
        note(&format!("round {round} of {rounds} ..."));
        for work in Work::ALL {
            // There and back, so that a drift of the machine hits nobody more than others.
            let mut turn: Vec<_> = bench.rivals.iter().collect();
            if round % 2 == 0 {
                turn.reverse();
            }
            for rival in turn {
                samples.push((work, round, rival.kind, bench.sample(work, rival).await?));
            }
        }
    }
    let find = |work: Work, kind: Kind, round: usize| {
        let wanted = |(w, r, k, _): &&(Work, u32, Kind, Sample)| {
            (*w, *r as usize, *k) == (work, round + 1, kind)
        };
        samples.iter().find(wanted).map(|(.., sample)| sample)
    };
    Ok(Report {
        bench: "proxy",
        rows: rows(rounds as usize, find, &memory),
        conditions: Conditions {
            version: env!("CARGO_PKG_VERSION"),
            release: !cfg!(debug_assertions),
            kernel: kernel(),
            cpus: cpus(),
            rights,
            haproxy,
            rounds,
            window_ms: WINDOW.as_millis(),
            congestion_control: bench.congestion_control,
            load: [load, Conditions::load_average()],
        },
    })
}

fn rows<'a>(
    rounds: usize,
    find: impl Fn(Work, Kind, usize) -> Option<&'a Sample>,
    memory: &[(Kind, f64)],
) -> Vec<Row> {
    let rate = |what, unit, work, scale: f64| {
        let value = |kind, round| Some(find(work, kind, round)?.rate * scale);
        Row::new(what, unit, true, rounds, value)
    };
    let less = |what, unit, work, of: &dyn Fn(&Sample) -> f64| {
        let value = |kind, round| Some(of(find(work, kind, round)?));
        Row::new(what, unit, false, rounds, value)
    };
    // Nobody balances what goes directly.
    let cost = |what, unit, work, scale: f64| {
        let value = |kind, round| {
            let sample = (kind != Kind::Direct).then(|| find(work, kind, round))??;
            Some(sample.cost * scale)
        };
        Row::new(what, unit, false, rounds, value)
    };
    let idle = |kind, _| {
        let found = memory
            .iter()
            .find(|(k, _)| *k == kind && kind != Kind::Direct)?;
        Some(found.1 / 1024.0)
    };
    vec![
        rate("bulk down, 8 streams", "Gbit/s", Work::Down, 8e-9),
        cost("bulk down, CPU", "s/GB", Work::Down, 1e9),
        rate("bulk up, 8 streams", "Gbit/s", Work::Up, 8e-9),
        cost("bulk up, CPU", "s/GB", Work::Up, 1e9),
        rate("requests, 32 connections", "1/s", Work::Requests, 1.0),
        cost("requests, CPU", "us each", Work::Requests, 1e6),
        rate("new connections, 16 at once", "1/s", Work::Connections, 1.0),
        cost("new connections, CPU", "us each", Work::Connections, 1e6),
        less("2,000 requests/s, p50", "us", Work::Paced, &|s| s.p50),
        less("2,000 requests/s, p99", "us", Work::Paced, &|s| s.p99),
        cost("2,000 requests/s, CPU", "us each", Work::Paced, 1e6),
        Row::new("memory of an idle connection", "KiB", false, 1, idle),
    ]
}

impl Bench {
    async fn build(config: &LabConfig, haproxy: bool) -> Result<Self, LabError> {
        let scratch = Scratch::new().map_err(LabError::io("make the lab's directory"))?;
        key::generate(&scratch.path().join(KEY_FILE))?;
        let written = scratch.write(CONFIG_FILE, &config.text(scratch.path()));
        written.map_err(LabError::io(format!("write {CONFIG_FILE}")))?;
        let network = Network::build().await?;
        network.plug_client_into_back().await?;
        let congestion_control = unpaced(&network).await;
        let block = Block::new().map_err(LabError::io("make a file in memory"))?;
        let mut servers = Vec::new();
        let mut backends = Vec::new();
        for n in 0..BACKENDS {
            let address = SocketAddr::new(backend_address(n).into(), PORT);
            let server = Server::start(&network.backends[n], address, block.clone());
            servers.push(server.await?);
            backends.push(address);
        }
        let (lb1, lb2) = (NodeId::BOTH[0], NodeId::BOTH[1]);
        let mut node = NodeProcess::new(lb1, scratch.path(), &config.binary);
        node.start(network.node(lb1)).await?;
        alone(&mut node).await?;
        let direct = Rival {
            kind: Kind::Direct,
            to: backends,
            pid: None,
        };
        let tandem = Rival {
            kind: Kind::Tandem,
            to: vec![SocketAddr::new(VIP4.into(), PORT)],
            pid: node.pid(),
        };
        let mut bench = Self {
            rivals: vec![direct, tandem],
            _haproxies: Vec::new(),
            _node: node,
            _servers: servers,
            network,
            block,
            congestion_control,
            scratch,
        };
        if haproxy {
            let address = node_addresses(lb2)[0];
            for (kind, port) in [(Kind::Haproxy, PORT), (Kind::Tuned, TUNED_PORT)] {
                let (haproxy, rival) = Haproxy::start(
                    kind,
                    bench.scratch.path(),
                    bench.network.node(lb2),
                    &bench.network.client,
                    SocketAddr::new(address.into(), port),
                )
                .await?;
                bench._haproxies.push(haproxy);
                bench.rivals.push(rival);
            }
        }
        Ok(bench)
    }

    async fn sample(&self, work: Work, rival: &Rival) -> Result<Sample, LabError> {
        let clients = Clients::start(&self.network.client, work, &rival.to, &self.block);
        sleep(WARM).await;
        clients.meter.latencies();
        let (start, amount, cpu) = (Instant::now(), clients.meter.amount(), rival.cpu()?);
        sleep(WINDOW).await;
        let amount = (clients.meter.amount() - amount) as f64;
        let (time, cpu) = (start.elapsed(), rival.cpu()?.saturating_sub(cpu));
        let mut latencies = clients.meter.latencies();
        let trouble = clients.meter.trouble();
        clients.stop().await;
        sleep(QUIET).await;
        if let Some(error) = trouble {
            let what = format!("measure {work:?} through {}", rival.kind.name());
            return Err(LabError::io(what)(error));
        }
        latencies.sort_unstable();
        let quantile = |q: f64| {
            let at = (latencies.len() as f64 * q) as usize;
            latencies
                .get(at)
                .map_or(f64::NAN, |l| l.as_secs_f64() * 1e6)
        };
        Ok(Sample {
            rate: amount / time.as_secs_f64(),
            cost: cpu.as_secs_f64() / amount,
            p50: quantile(0.5),
            p99: quantile(0.99),
        })
    }

    /// Bytes for one idle connection.
    async fn memory(&self, rival: &Rival) -> Result<f64, LabError> {
        let before = rival.memory()?;
        let opened = idle(&self.network.client, rival.to.clone(), IDLE).await;
        let what = format!("open {IDLE} connections to {}", rival.kind.name());
        let streams = opened.map_err(LabError::io(what))?;
        // What the connections left to be done is done by then.
        sleep(WINDOW / 2).await;
        let after = rival.memory()?;
        drop(streams);
        sleep(WINDOW / 2).await;
        Ok(after.saturating_sub(before) as f64 / IDLE as f64)
    }
}

/// Has everybody use a congestion control that does not pace, if one is permitted: pacing (bbr) has
/// timers set the speed, not the balancers. Which.
async fn unpaced(network: &Network) -> Option<&'static str> {
    for name in ["cubic", "reno"] {
        let mut all = true;
        for host in network.hosts() {
            all &= host.sysctl("ipv4/tcp_congestion_control", name).await;
        }
        if all {
            return Some(name);
        }
    }
    None
}

/// Waits until the node is master, holds the addresses and has its backends.
async fn alone(node: &mut NodeProcess) -> Result<(), LabError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        node.check()?;
        let status = node.status().await;
        if let Ok(status) = &status
            && status.role == Role::Master
            && status.vips.iter().all(|vip| vip.held)
            && status
                .services
                .iter()
                .flat_map(|service| &service.backends)
                .all(|backend| backend.up)
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(LabError::TooLate {
                what: "mastership".to_owned(),
                seconds: SETTLE.as_secs(),
                state: status.map_or_else(|error| error.to_string(), |s| s.role.to_string()),
            });
        }
        sleep(LOOK).await;
    }
}

fn kernel() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    kernel.trim().to_owned()
}
