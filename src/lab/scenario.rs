//! The scenarios: what is done to the pair, and when.
//!
//! Each one finds a settled pair under load, does its harm, and leaves everything plugged in.
//! Nothing is judged here; see `verdict.rs`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::sleep;

use super::config::backend_name;
use super::error::LabError;
use super::pair::Lab;
use super::topology::Lan;
use crate::model::NodeId;
use crate::time::Mono;
use crate::wire::admin::Request;

/// How long a process hangs before it is let go.
const HANG: Duration = Duration::from_millis(1_500);
/// How long a cut lasts.
const CUT: Duration = Duration::from_secs(2);
/// How long the pair is watched after the last change.
const AFTER: Duration = Duration::from_millis(1_500);
/// How long health checks may take to notice. They come every 250 ms, and two decide.
const NOTICE: Duration = Duration::from_secs(3);

/// What happens to the pair.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The master's process is killed.
    Kill9,
    /// The master's process is stopped, and let go later.
    Hang,
    /// The master is gone from both LANs at once, without a word.
    Poweroff,
    /// For two seconds the backup does not hear the master, which hears the backup.
    Cut,
    /// An operator asks for it.
    Switchover,
    /// A backend refuses connections; then it is silent.
    BackendDown,
    /// For two seconds neither node hears the other; clients reach both.
    Partition,
}

impl Scenario {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 7] = [
        Self::Kill9,
        Self::Switchover,
        Self::Hang,
        Self::Poweroff,
        Self::Cut,
        Self::Partition,
        Self::BackendDown,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill9",
            Self::Hang => "hang",
            Self::Poweroff => "poweroff",
            Self::Cut => "cut",
            Self::Switchover => "switchover",
            Self::BackendDown => "backend-down",
            Self::Partition => "partition",
        }
    }

    /// Runs when all scenarios run and nobody gave a number: enough for a median.
    pub(super) const fn default_runs(self) -> u32 {
        match self {
            Self::Kill9 | Self::Switchover => 5,
            _ => 3,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One scenario, or all of them in turn. [`Self::Survive`] and [`Self::Upgrade`] are apart: each has
/// a pair of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScenarioChoice {
    /// All.
    All,
    /// One.
    One(Scenario),
    /// Every fault under all kinds of connections, none of which may be lost.
    Survive,
    /// Both nodes' processes are replaced, one after the other, under load.
    Upgrade,
}

impl FromStr for ScenarioChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::All),
            "survive" => return Ok(Self::Survive),
            "upgrade" => return Ok(Self::Upgrade),
            _ => {}
        }
        let found = Scenario::ALL.into_iter().find(|known| known.name() == text);
        found.map(Self::One).ok_or_else(|| {
            let names = Scenario::ALL.map(Scenario::name).join(", ");
            format!("no such scenario; write one of {names}, upgrade, survive, or all")
        })
    }
}

/// What was done, and when.
#[derive(Clone, Debug)]
pub(super) struct Harm {
    /// When the fault began to work.
    pub at: Mono,
    /// When it was done: what began before may have been caught by it.
    pub done: Mono,
    /// When a hanging process was let go, or a cut healed.
    pub over: Option<Mono>,
    /// Stretches in which there must be at most one owner.
    pub calm: Vec<(Mono, Mono)>,
    /// What did not come about that should have.
    pub complaints: Vec<String>,
}

impl Harm {
    pub(super) const fn new(at: Mono, done: Mono) -> Self {
        Self {
            at,
            done,
            over: None,
            calm: Vec::new(),
            complaints: Vec::new(),
        }
    }
}

impl Lab {
    /// Does the scenario's harm to a settled pair with this master.
    pub(super) async fn harm(
        &mut self,
        scenario: Scenario,
        master: NodeId,
    ) -> Result<Harm, LabError> {
        let at = self.clock().now();
        match scenario {
            Scenario::Kill9 => self.node(master).signal(Signal::SIGKILL)?,
            Scenario::Switchover => {
                self.node(master).call(&Request::Failover).await?;
            }
            Scenario::Poweroff => {
                for lan in Lan::BOTH {
                    let network = self.network();
                    network.detach(network.node(master), lan).await?;
                }
                self.node(master).signal(Signal::SIGKILL)?;
            }
            Scenario::Hang => return self.hang(master, at).await,
            Scenario::Cut => return self.part(&[master.peer()], at).await,
            Scenario::Partition => return self.part(&NodeId::BOTH, at).await,
            Scenario::BackendDown => return self.lose_backends(at).await,
        }
        let mut harm = Harm::new(at, self.clock().now());
        sleep(AFTER).await;
        harm.calm.push((at + self.settling, self.clock().now()));
        if scenario == Scenario::Poweroff {
            for lan in Lan::BOTH {
                let network = self.network();
                network.attach(network.node(master), lan).await?;
            }
        }
        Ok(harm)
    }

    async fn hang(&mut self, master: NodeId, at: Mono) -> Result<Harm, LabError> {
        let node = self.node(master);
        node.signal(Signal::SIGSTOP)?;
        let mut harm = Harm::new(at, self.clock().now());
        sleep(HANG).await;
        let node = self.node(master);
        if node.is_running() {
            let name = node.name();
            let complaint = format!("{name} hung for {HANG:?} and its dead-man timer let it live");
            harm.complaints.push(complaint);
            node.signal(Signal::SIGCONT)?;
        }
        harm.over = Some(self.clock().now());
        sleep(AFTER).await;
        harm.calm.push((at + self.settling, self.clock().now()));
        Ok(harm)
    }

    /// These nodes do not hear the other for a while.
    async fn part(&mut self, deaf: &[NodeId], at: Mono) -> Result<Harm, LabError> {
        for node in deaf {
            self.network().cut(*node).await?;
        }
        let mut harm = Harm::new(at, self.clock().now());
        sleep(CUT).await;
        let healed = self.clock().now();
        for node in deaf {
            self.network().heal(*node).await?;
        }
        harm.over = Some(healed);
        sleep(AFTER).await;
        // Two nodes that are both deaf are two masters (nobody else votes): calm begins with the
        // healing.
        if deaf.len() == 1 {
            harm.calm.push((at + self.settling, healed));
        }
        harm.calm.push((healed + self.settling, self.clock().now()));
        Ok(harm)
    }

    async fn lose_backends(&mut self, at: Mono) -> Result<Harm, LabError> {
        let (refusing, silent) = (0, 1);
        self.stop_backend(refusing).await;
        let mut harm = Harm::new(at, self.clock().now());
        self.expect_backend(refusing, false, &mut harm).await;
        self.start_backend(refusing).await?;
        self.expect_backend(refusing, true, &mut harm).await;

        let network = self.network();
        network.detach(&network.backends[silent], Lan::Back).await?;
        // What was under way to the backend that fell silent is lost with it.
        harm.over = Some(self.clock().now());
        self.expect_backend(silent, false, &mut harm).await;
        let network = self.network();
        network.attach(&network.backends[silent], Lan::Back).await?;
        self.expect_backend(silent, true, &mut harm).await;
        harm.calm.push((at, self.clock().now()));
        Ok(harm)
    }

    async fn expect_backend(&mut self, n: usize, up: bool, harm: &mut Harm) {
        let name = backend_name(n);
        let shows = self.master_shows(NOTICE, |status| {
            let mut backends = status.services.iter().flat_map(|service| &service.backends);
            backends.any(|backend| backend.name == name && backend.up == up)
        });
        if !shows.await {
            let word = if up { "up" } else { "down" };
            let complaint =
                format!("after {NOTICE:?} the master does not say that {name} is {word}");
            harm.complaints.push(complaint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in Scenario::ALL {
            let found = scenario.name().parse();
            assert_eq!(found, Ok(ScenarioChoice::One(scenario)));
        }
        assert_eq!("all".parse(), Ok(ScenarioChoice::All));
        assert_eq!("survive".parse(), Ok(ScenarioChoice::Survive));
        let error = "flood".parse::<ScenarioChoice>().unwrap_err();
        assert!(error.contains("backend-down"), "{error}");
    }
}
