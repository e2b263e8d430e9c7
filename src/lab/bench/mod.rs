//! `tandem lab --bench`: a data path beside others, on one machine.
//!
//! `proxy`: one node alone beside HAProxy, as it comes and tuned. `kernel`: a pair with a service of
//! each mode beside a router, a router that translates addresses, and HAProxy. In both the client
//! also reaches the backends directly, to show that neither it nor they are what is measured.
//! `relay`: a pair beside itself without the relay.
//! Everybody has its turn in every round, so that what the machine does meanwhile is everybody's
//! lot: only the ratios mean something.

mod client;
mod kernel;
mod lean;
mod proxy;
mod relay;
mod report;
mod rivals;
mod routers;
mod server;

use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::client::{Clients, Work};
use self::report::{Conditions, Layout, Row};
use self::rivals::{Cost, Haproxy, Kind, Rival, cpus, haproxy_version, machine};
use self::server::{Block, Server};
use super::config::Mode;
use super::error::LabError;
use super::host::Host;
use super::netns::{Rights, allow_descriptors};
use super::pair::{Lab, LabConfig};
use super::report::median;
use super::topology::Network;

pub(super) use self::report::{Report, table};

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BenchChoice {
    /// The proxy mode beside HAProxy.
    Proxy,
    /// The kernel mode beside plain forwarding, nftables and HAProxy.
    Kernel,
    /// A pair beside itself without the relay.
    Relay,
}

impl FromStr for BenchChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "proxy" => Ok(Self::Proxy),
            "kernel" => Ok(Self::Kernel),
            "relay" => Ok(Self::Relay),
            _ => Err("no such benchmark; write proxy, kernel or relay".to_owned()),
        }
    }
}

impl BenchChoice {
    /// Rounds, unless said otherwise: more where the difference is small.
    pub(super) const fn rounds(self) -> u32 {
        match self {
            Self::Proxy | Self::Kernel => 5,
            Self::Relay => 10,
        }
    }
}

/// Time before a window, for connections to stand and buffers to fill.
const WARM: Duration = Duration::from_millis(200);
/// A window of measurement.
const WINDOW: Duration = Duration::from_secs(1);
/// Time after it, for connections to end.
const QUIET: Duration = Duration::from_millis(50);
/// Descriptors that the lab needs: both ends of every connection, and some.
const DESCRIPTORS: u64 = 2 * proxy::IDLE as u64 + 1_000;

/// One window.
#[derive(Clone, Debug)]
struct Sample {
    /// A second.
    rate: f64,
    /// Seconds of CPU for one unit, of those whom the program counts.
    cost: f64,
    /// The same, of the whole machine, whatever else it does.
    machine: f64,
    /// From request (of a new connection: from connect) to answer, in microseconds: half of them,
    /// and 99 of 100, were faster.
    p50: f64,
    p99: f64,
    /// The slowest, in milliseconds.
    longest: f64,
}

/// What is measured on a stage, and how it is shown.
#[derive(Clone, Copy, Debug)]
struct Program {
    name: &'static str,
    works: &'static [Work],
    figures: &'static [Figure],
    layout: Layout,
    cost: Cost,
}

/// One row of the table: what a work shows.
#[derive(Clone, Copy, Debug)]
struct Figure {
    what: &'static str,
    unit: &'static str,
    /// More is better.
    more: bool,
    /// Which of the works.
    work: usize,
    of: fn(&Sample) -> f64,
    /// Nobody balances what goes directly.
    direct: bool,
    /// Without what the direct way had in the same round.
    net: bool,
}

impl Figure {
    const fn rate(
        what: &'static str,
        unit: &'static str,
        work: usize,
        of: fn(&Sample) -> f64,
    ) -> Self {
        Self {
            what,
            unit,
            more: true,
            work,
            of,
            direct: true,
            net: false,
        }
    }

    const fn time(
        what: &'static str,
        unit: &'static str,
        work: usize,
        of: fn(&Sample) -> f64,
    ) -> Self {
        Self {
            more: false,
            ..Self::rate(what, unit, work, of)
        }
    }

    /// How much more than the direct way has: what is the balancer's own.
    const fn share(
        what: &'static str,
        unit: &'static str,
        work: usize,
        of: fn(&Sample) -> f64,
    ) -> Self {
        Self {
            net: true,
            ..Self::own(what, unit, work, of)
        }
    }

    /// CPU of the balancer's process.
    const fn own(
        what: &'static str,
        unit: &'static str,
        work: usize,
        of: fn(&Sample) -> f64,
    ) -> Self {
        Self {
            direct: false,
            ..Self::time(what, unit, work, of)
        }
    }
}

/// Bits a second from bytes, in thousand millions.
const GBIT: fn(&Sample) -> f64 = |sample| sample.rate * 8e-9;
const PER_SECOND: fn(&Sample) -> f64 = |sample| sample.rate;
/// Seconds for a thousand million bytes.
const PER_GB: fn(&Sample) -> f64 = |sample| sample.cost * 1e9;
/// Microseconds for one.
const EACH: fn(&Sample) -> f64 = |sample| sample.cost * 1e6;
/// See [`EACH`].
const MACHINE: fn(&Sample) -> f64 = |sample| sample.machine * 1e6;
const P50: fn(&Sample) -> f64 = |sample| sample.p50;
const P99: fn(&Sample) -> f64 = |sample| sample.p99;
const LONGEST: fn(&Sample) -> f64 = |sample| sample.longest;

/// Everything that is up. The order of the fields is the order of the end.
#[derive(Debug)]
struct Stage {
    rivals: Vec<Rival>,
    _haproxies: Vec<Haproxy>,
    _servers: Vec<Server>,
    _routers: Vec<Host>,
    ground: Ground,
    block: Block,
    /// Everybody's, if it could be chosen.
    congestion_control: Option<&'static str>,
    nftables: Option<String>,
    /// Why the kernel mode is missing.
    no_kernel_mode: Option<String>,
}

/// What the rivals stand on.
#[derive(Debug)]
enum Ground {
    /// One node, alone.
    Alone(Box<proxy::Alone>),
    /// A whole pair.
    Pair(Box<Lab>),
}

impl Ground {
    const fn network(&self) -> &Network {
        match self {
            Self::Alone(alone) => alone.network(),
            Self::Pair(lab) => lab.network(),
        }
    }

    /// Where a pair is what they stand on.
    fn pair(&mut self) -> &mut Lab {
        match self {
            Self::Alone(_) => unreachable!("one node alone is no pair"),
            Self::Pair(lab) => lab,
        }
    }
}

/// One window: of which work, in which round from 1, through whom.
type Taken = (usize, u32, Kind, Sample);

/// What was measured.
struct Measured {
    program: Program,
    samples: Vec<Taken>,
    memory: Option<Vec<(Kind, f64)>>,
    /// Processors that were busy meanwhile, of each round.
    background: Vec<f64>,
    haproxy: Option<String>,
    nftables: Option<String>,
    no_kernel_mode: Option<String>,
    congestion_control: Option<&'static str>,
    pair: Option<relay::Pair>,
}

/// Measures. The `mode` is that of [`BenchChoice::Relay`]. `note` is told what is being done.
pub(super) async fn run(
    config: &LabConfig,
    rights: Rights,
    (choice, mode): (BenchChoice, Mode),
    rounds: u32,
    note: impl Fn(&str),
) -> Result<Report, LabError> {
    let load = Conditions::load_average();
    allow_descriptors(DESCRIPTORS);
    let measured = match choice {
        BenchChoice::Relay => relay::measure(&config.binary, rights, mode, rounds, note).await?,
        BenchChoice::Proxy | BenchChoice::Kernel => {
            beside_others(config, rights, choice, rounds, note).await?
        }
    };
    let Measured {
        program, memory, ..
    } = &measured;
    let mut rows = rows(program, rounds, &measured.samples);
    rows.extend(memory.as_ref().map(|memory| proxy::memory_row(memory)));
    Ok(Report {
        bench: program.name,
        rows,
        layout: program.layout,
        conditions: Conditions {
            version: env!("CARGO_PKG_VERSION"),
            release: !cfg!(debug_assertions),
            kernel: kernel_release(),
            cpus: cpus(),
            rights,
            cpu_of: program.cost,
            haproxy: measured.haproxy,
            nftables: measured.nftables,
            no_kernel_mode: measured.no_kernel_mode,
            pair: measured.pair,
            background_cpus: median(measured.background),
            rounds,
            window_ms: WINDOW.as_millis(),
            congestion_control: measured.congestion_control,
            load: [load, Conditions::load_average()],
        },
    })
}

async fn beside_others(
    config: &LabConfig,
    rights: Rights,
    choice: BenchChoice,
    rounds: u32,
    note: impl Fn(&str),
) -> Result<Measured, LabError> {
    let haproxy = haproxy_version();
    let alone = choice == BenchChoice::Proxy;
    let (program, stage) = match alone {
        true => (
            proxy::PROGRAM,
            proxy::stage(config, haproxy.is_some()).await?,
        ),
        false => (
            kernel::PROGRAM,
            kernel::stage(&config.binary, rights, haproxy.is_some()).await?,
        ),
    };
    if let Some(why) = &stage.no_kernel_mode {
        note(&format!("the kernel mode is missing: {why}"));
    }
    // First, while everybody is fresh: an allocator that was busy before has memory in hand.
    let memory = match alone {
        true => {
            note("memory of idle connections ...");
            Some(stage.memory().await?)
        }
        false => None,
    };
    let (mut samples, mut background) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        note(&format!("round {round} of {rounds} ..."));
        background.push(background_cpus().await?);
        for (nth, work) in program.works.iter().enumerate() {
            // There and back, so that a drift of the machine hits nobody more than others.
            let mut turn: Vec<_> = stage.rivals.iter().collect();
            if round % 2 == 0 {
                turn.reverse();
            }
            for rival in turn {
                let sample = stage.sample(*work, rival, program.cost).await?;
                samples.push((nth, round, rival.kind, sample));
            }
        }
    }
    Ok(Measured {
        program,
        samples,
        memory,
        background,
        haproxy,
        nftables: stage.nftables.clone(),
        no_kernel_mode: stage.no_kernel_mode.clone(),
        congestion_control: stage.congestion_control,
        pair: None,
    })
}

fn rows(program: &Program, rounds: u32, samples: &[Taken]) -> Vec<Row> {
    let row = |figure: &Figure| {
        let whole = |kind, round: usize| {
            let wanted = |(work, r, k, _): &&Taken| {
                (*work, *r as usize, *k) == (figure.work, round + 1, kind)
            };
            let found = samples.iter().find(wanted);
            found.map(|(.., sample)| (figure.of)(sample))
        };
        let value = |kind, round| {
            if kind == Kind::Direct && !figure.direct {
                return None;
            }
            let without = match figure.net {
                true => whole(Kind::Direct, round)?,
                false => 0.0,
            };
            Some(whole(kind, round)? - without)
        };
        let Figure {
            what, unit, more, ..
        } = *figure;
        Row::new(what, unit, more, rounds as usize, program.layout, value)
    };
    program.figures.iter().map(row).collect()
}

impl Stage {
    async fn sample(&self, work: Work, rival: &Rival, cost: Cost) -> Result<Sample, LabError> {
        let client = &self.ground.network().client;
        let clients = Clients::start(client, work, &rival.to, &self.block).await?;
        sleep(WARM).await;
        clients.meter.latencies();
        let (all, cpu) = (machine()?, rival.used(cost)?);
        let (start, amount) = (Instant::now(), clients.meter.amount());
        sleep(WINDOW).await;
        let amount = (clients.meter.amount() - amount) as f64;
        let time = start.elapsed();
        let cpu = rival.used(cost)?.saturating_sub(cpu);
        let all = machine()?.saturating_sub(all);
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
            machine: all.as_secs_f64() / amount,
            p50: quantile(0.5),
            p99: quantile(0.99),
            longest: latencies.last().map_or(f64::NAN, |l| l.as_secs_f64() * 1e3),
        })
    }
}

/// Processors that are busy while nothing is measured.
async fn background_cpus() -> Result<f64, LabError> {
    let (start, cpu) = (Instant::now(), machine()?);
    sleep(WINDOW / 2).await;
    let cpu = machine()?.saturating_sub(cpu);
    Ok(cpu.as_secs_f64() / start.elapsed().as_secs_f64())
}

/// Has everybody use a congestion control that does not pace, if one is permitted: pacing (bbr) has
/// timers set the speed, not the balancers. Which.
async fn unpaced(hosts: impl Iterator<Item = &Host> + Clone) -> Option<&'static str> {
    for name in ["cubic", "reno"] {
        let mut all = true;
        for host in hosts.clone() {
            all &= host.sysctl("ipv4/tcp_congestion_control", name).await;
        }
        if all {
            return Some(name);
        }
    }
    None
}

fn kernel_release() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    kernel.trim().to_owned()
}
