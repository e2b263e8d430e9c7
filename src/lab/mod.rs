//! The lab: the whole pair on one machine, in network namespaces.
//!
//! People use it as a demonstration (`tandem lab`), the system tests and the benchmarks use it to
//! run the real program. Owns: namespaces, links, addresses, backends, the nodes' processes, load
//! and watch. Never: touches the host's network, or looks into a node other than through its
//! control socket, as any operator would.
//!
//! Invariants: processes and namespaces end with the lab, also when it is killed (only its directory
//! is left then); addresses come only from the ranges for documentation (RFC 5737, RFC 3849).

mod backend;
mod bench;
mod config;
mod cut;
mod demo;
mod error;
mod held;
mod host;
mod keep;
mod load;
mod netns;
mod node;
mod owners;
mod packet;
mod pair;
mod pins;
pub mod relay;
mod report;
mod run;
mod scenario;
mod scratch;
mod shares;
mod stale;
pub mod survive;
mod tamper;
mod tap;
mod topology;
mod verdict;

use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, Election};

pub use backend::{Server, pattern, pattern_checksum};
pub use bench::BenchChoice;
pub use config::{Mode, PORT, SERVICE, backend_name, default_config};
pub use error::LabError;
pub use held::{Breaks, Held};
pub use host::Host;
pub use load::{Attempt, Failure, Load, Record};
pub use netns::{Rights, enter};
pub use node::NodeProcess;
pub use owners::{Family, Sighting, Sightings, Watch};
pub use pair::{Lab, LabConfig};
pub use report::{Conditions, Report, Series};
pub use scenario::{Scenario, ScenarioChoice};

pub use tap::{Carries, Count, Counts, Tap};
pub use topology::{
    BACKENDS, Lan, Network, SOURCE4, SOURCE6, VIP4, VIP6, backend_address, backend_address6,
    node_addresses, node_mac,
};
pub use verdict::Run;

/// What `tandem lab` shall do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Run these scenarios; none: the demonstration.
    pub scenario: Option<ScenarioChoice>,
    /// How the services run; none: as each scenario or benchmark has them by itself.
    pub mode: Option<Mode>,
    /// Nobody hears where the addresses are. Where a mode is given.
    pub stale: bool,
    /// New connections a second. Where a mode is given; none: 3,000.
    pub rate: Option<u32>,
    /// Switchovers in each run of that scenario. Where a mode is given; none: there and back.
    pub switchovers: Option<u32>,
    /// Measure a data path beside others.
    pub bench: Option<BenchChoice>,
    /// Show what share of connections each scheduler gives each backend.
    pub balance: bool,
    /// Runs of each scenario; none: 5 of `kill9` and `switchover`, 3 of the others. Rounds of a
    /// benchmark; none: 5, of `relay` 10.
    pub runs: Option<u32>,
    /// Print one JSON document and nothing else on standard output; without a scenario: all.
    pub json: bool,
    /// Build, say how to look inside, and stay until interrupted.
    pub keep: bool,
    /// The program that the nodes run.
    pub binary: PathBuf,
}

impl Options {
    /// Whether the scenario is one of those that are measured under much load. Without a mode only
    /// that which exists no other way.
    fn is_relay(&self) -> bool {
        self.mode.is_some() || self.scenario == Some(ScenarioChoice::Upgrade)
    }

    /// Whether what is asked for fits together: what has no mode takes none.
    pub fn fits(&self) -> bool {
        let of_load = self.stale || self.rate.is_some() || self.switchovers.is_some();
        match (self.scenario, self.bench) {
            (_, Some(BenchChoice::Relay)) => !of_load,
            (None, _) => self.mode.is_none() && !of_load,
            (Some(ScenarioChoice::Survive), _) => !of_load,
            (Some(choice), _) if of_load || self.mode.is_some() => {
                let faults = relay::Fault::of(choice).unwrap_or_default();
                let switched = faults.contains(&relay::Fault::Switchover);
                self.is_relay() && !faults.is_empty() && (self.switchovers.is_none() || switched)
            }
            _ => true,
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All is as it should be.
    Good,
    /// The pair did not do what it should have.
    Bad,
    /// The operator ended it.
    Interrupted,
}

impl Outcome {
    const fn of(ok: bool) -> Self {
        if ok { Self::Good } else { Self::Bad }
    }

    /// For the shell: 130 is what it expects of a program that was interrupted.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Interrupted => 130,
        }
    }
}

/// Runs the lab. Call it before the process has any other thread.
///
/// # Errors
///
/// If the lab cannot be built or the pair does not come up.
pub fn main(options: &Options) -> Result<Outcome, LabError> {
    let rights = enter()?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start a runtime"))?;
    runtime.block_on(async {
        let catch = |kind| signal(kind).map_err(LabError::io("catch signals"));
        let mut interrupt = catch(SignalKind::interrupt())?;
        let mut terminate = catch(SignalKind::terminate())?;
        // Whichever comes first drops the other, and the lab with it.
        tokio::select! {
            done = work(options, rights) => done,
            _ = interrupt.recv() => Ok(Outcome::Interrupted),
            _ = terminate.recv() => Ok(Outcome::Interrupted),
        }
    })
}

async fn work(options: &Options, rights: Rights) -> Result<Outcome, LabError> {
    let config = LabConfig::new(&options.binary);
    if let Some(choice) = options.bench {
        return bench(&config, rights, choice, options).await;
    }
    if options.balance {
        let report = shares::run(&options.binary, |what| anstream::eprintln!("{what}")).await?;
        print(options, &report, shares::table);
        return Ok(Outcome::of(report.ok()));
    }
    match options.scenario {
        _ if options.keep => keep::stay(&config, rights).await,
        Some(ScenarioChoice::Survive) => survive(rights, options).await,
        Some(choice) if options.is_relay() => relay(rights, choice, options).await,
        Some(choice) => scenarios(&config, rights, choice, options).await,
        None if options.json => scenarios(&config, rights, ScenarioChoice::All, options).await,
        None => demo::show(&config).await,
    }
}

async fn bench(
    config: &LabConfig,
    rights: Rights,
    choice: BenchChoice,
    options: &Options,
) -> Result<Outcome, LabError> {
    let rounds = options.runs.unwrap_or_else(|| choice.rounds());
    let note = |what: &str| anstream::eprintln!("{what}");
    let what = (choice, options.mode.unwrap_or(Mode::Sync));
    let report = bench::run(config, rights, what, rounds, note).await?;
    print(options, &report, bench::table);
    Ok(Outcome::of(report.is_complete()))
}

/// Runs of `survive`, unless said otherwise.
const SURVIVE_RUNS: u32 = 3;

async fn survive(rights: Rights, options: &Options) -> Result<Outcome, LabError> {
    let plan = survive::Plan::new(options.mode.unwrap_or(Mode::Sync));
    plan.allowed(rights)?;
    let config = plan.lab(&options.binary);
    let election = election(&LabConfig::new(&options.binary));
    let mut lab = Lab::build(&config).await?;
    let mut runs = Vec::new();
    for number in 1..=options.runs.unwrap_or(SURVIVE_RUNS) {
        let run = lab.survive(&plan, number).await?;
        note(options, &survive::line(&run));
        runs.push(run);
    }
    let report = survive::Report::new(Conditions::here(rights, &election), &plan, runs);
    print(options, &report, survive::table);
    Ok(Outcome::of(report.ok))
}

/// Runs of each fault under much load, unless said otherwise.
const RELAY_RUNS: u32 = 3;

async fn relay(
    rights: Rights,
    choice: ScenarioChoice,
    options: &Options,
) -> Result<Outcome, LabError> {
    let mode = options.mode.unwrap_or(Mode::Sync);
    mode.allowed(rights)?;
    let rate = options.rate.unwrap_or(relay::RATE);
    let mut series = Vec::new();
    let mut lab = None;
    for fault in relay::Fault::of(choice).unwrap_or_default() {
        let mut plan = relay::Plan::new(fault, mode, options.stale, rate);
        plan.switchovers = options.switchovers.unwrap_or(plan.switchovers);
        let lab = match &mut lab {
            Some(lab) => lab,
            none => none.insert(Lab::build(&plan.lab(&options.binary)).await?),
        };
        let runs = options.runs.unwrap_or(RELAY_RUNS);
        let note = |what: &str| note(options, what);
        series.push(lab.relay_series(&plan, runs, note).await?);
    }
    let election = election(&LabConfig::new(&options.binary));
    let lab = Conditions::here(rights, &election);
    let report = relay::Report { lab, series };
    print(options, &report, relay::table);
    Ok(Outcome::of(report.ok()))
}

/// Says how it goes. Standard output is the document's alone, if there shall be one.
fn note(options: &Options, what: &str) {
    match options.json {
        true => anstream::eprintln!("{what}"),
        false => anstream::println!("{what}"),
    }
}

fn print<R: Serialize>(options: &Options, report: &R, table: impl FnOnce(&R) -> String) {
    if options.json {
        let text = serde_json::to_string_pretty(report).expect("a report has only string keys");
        anstream::println!("{text}");
    } else {
        anstream::println!("\n{}", table(report));
    }
}

fn election(config: &LabConfig) -> Election {
    Config::parse(&config.text(Path::new("/")))
        .map(|config| config.election)
        .unwrap_or_else(|errors| panic!("the lab's own configuration is valid: {errors}"))
}

async fn scenarios(
    config: &LabConfig,
    rights: Rights,
    choice: ScenarioChoice,
    options: &Options,
) -> Result<Outcome, LabError> {
    let mut report = Report {
        lab: Conditions::here(rights, &election(config)),
        scenarios: Vec::new(),
    };
    let mut lab = Lab::build(config).await?;
    for scenario in Scenario::ALL {
        if choice != ScenarioChoice::All && choice != ScenarioChoice::One(scenario) {
            continue;
        }
        let runs = options.runs.unwrap_or_else(|| scenario.default_runs());
        let note = |run: &Run| note(options, &report::line(run));
        report
            .scenarios
            .push(lab.series(scenario, runs, note).await?);
    }
    print(options, &report, |report| report::table(report).to_string());
    Ok(Outcome::of(report.ok()))
}
