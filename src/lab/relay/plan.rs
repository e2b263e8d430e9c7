//! What is done, to how many connections, and how they are served.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::lab::config::{Mode, PORT, SERVICE, mode_config};
use crate::lab::error::LabError;
use crate::lab::netns::Rights;
use crate::lab::pair::LabConfig;
use crate::lab::scenario::{Scenario, ScenarioChoice};
use crate::lab::survive::{Crowd, Step};

/// New connections a second, unless said otherwise.
pub const RATE: u32 = 3_000;
/// Bytes a second of a stream: enough to stall visibly, and little work for a machine that has to
/// open thousands of connections.
const PACE: u64 = 500_000;

/// What happens to the pair.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The master's process is killed, and started again after 1.5 s.
    Kill9,
    /// The master's process is stopped, let go after 1.5 s if it lives, and started again if not.
    Hang,
    /// An operator asks for it, then for the way back, and again as often as planned.
    Switchover,
    /// Both nodes' processes are stopped in order and started again, one after the other.
    Upgrade,
}

impl Fault {
    /// In the order in which they run.
    pub const ALL: [Self; 4] = [Self::Kill9, Self::Hang, Self::Switchover, Self::Upgrade];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill9 => "kill9",
            Self::Hang => "hang",
            Self::Switchover => "switchover",
            Self::Upgrade => "upgrade",
        }
    }

    /// Those that a choice means where a mode is given; none: it has nothing to do with modes.
    pub(in crate::lab) fn of(choice: ScenarioChoice) -> Option<Vec<Self>> {
        Some(match choice {
            ScenarioChoice::All => Self::ALL.to_vec(),
            ScenarioChoice::One(Scenario::Kill9) => vec![Self::Kill9],
            ScenarioChoice::One(Scenario::Hang) => vec![Self::Hang],
            ScenarioChoice::One(Scenario::Switchover) => vec![Self::Switchover],
            ScenarioChoice::Upgrade => vec![Self::Upgrade],
            ScenarioChoice::One(_) | ScenarioChoice::Survive => return None,
        })
    }
}

/// Switchovers in a run, unless said otherwise: there and back.
const SWITCHOVERS: u32 = 2;

/// How long a step is watched once it is done.
pub(super) const fn watched(step: Step) -> Duration {
    Duration::from_millis(match step {
        Step::Kill9 => 1_500,
        Step::Calm | Step::Failover => 1_000,
        // A hanging process was watched while it hung.
        _ => 500,
    })
}

/// One series.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub fault: Fault,
    /// How the services run.
    pub mode: Mode,
    /// Clients and backends never hear where the addresses are.
    pub stale: bool,
    /// The connections.
    pub crowd: Crowd,
    /// Have `wrk` ask on its own connections meanwhile, if it is installed.
    pub wrk: bool,
    /// How many switchovers a run of [`Fault::Switchover`] is.
    pub switchovers: u32,
}

impl Plan {
    /// With as many connections as the goals are for, and so many new ones a second.
    pub const fn new(fault: Fault, mode: Mode, stale: bool, rate: u32) -> Self {
        let many = matches!(fault, Fault::Switchover);
        let streams = if many { 100 } else { 10 };
        Self {
            fault,
            mode,
            stale,
            crowd: Crowd {
                downloads: streams,
                uploads: streams,
                unpaced: 0,
                pace: if many { PACE / 5 } else { PACE },
                requests: 20,
                idle: if many { 1_000 } else { 0 },
                new_rate: rate,
            },
            wrk: many,
            switchovers: SWITCHOVERS,
        }
    }

    /// In turn. The first says what the machine does by itself.
    pub(super) fn steps(&self) -> Vec<Step> {
        use Step::{Calm, Failover, Hang, Kill9, Rejoin, Upgrade};
        match self.fault {
            Fault::Kill9 => vec![Calm, Kill9, Rejoin],
            Fault::Hang => vec![Calm, Hang, Rejoin],
            Fault::Switchover => {
                let mut steps = vec![Failover; self.switchovers as usize];
                steps.insert(0, Calm);
                steps
            }
            Fault::Upgrade => vec![Calm, Upgrade],
        }
    }

    /// The pair for it.
    pub fn lab(&self, binary: &Path) -> LabConfig {
        let mut lab = LabConfig::new(binary);
        lab.config = mode_config(&[(SERVICE, self.mode, PORT)], PORT);
        lab
    }

    /// Whether it can be done with these rights.
    ///
    /// # Errors
    ///
    /// The kernel mode's programs cannot be loaded in a user namespace.
    pub fn allowed(&self, rights: Rights) -> Result<(), LabError> {
        self.mode.allowed(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_the_name_of_its_scenario() {
        for fault in Fault::ALL {
            let choice = fault.name().parse().expect("it is a scenario");
            assert_eq!(Fault::of(choice), Some(vec![fault]));
        }
        assert_eq!(Fault::of(ScenarioChoice::All), Some(Fault::ALL.to_vec()));
        assert_eq!(Fault::of(ScenarioChoice::Survive), None);
        assert_eq!(Fault::of(ScenarioChoice::One(Scenario::Cut)), None);
    }
}
