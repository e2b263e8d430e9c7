//! The steps of a run: what is done to the pair while its connections are at work.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::clients::Crowd;
use super::traffic::{Origins, Traffic};
use super::verdict::{Run, Window};
use crate::lab::config::{Mode, NODES, PORT, SERVICE, mode_config};
use crate::lab::error::LabError;
use crate::lab::netns::Rights;
use crate::lab::pair::{Lab, LabConfig};
use crate::lab::topology::Lan;
use crate::lab::verdict::ms;
use crate::model::NodeId;
use crate::wire::admin::Request;

/// Traffic before the first step.
const WARM: Duration = Duration::from_millis(500);
/// From a fault to the moment in which idle connections speak: the pair has settled by then.
const SILENT: Duration = Duration::from_secs(1);
/// From there to the end of the step, which is long enough for a sender that lost a segment twice:
/// 200 ms, then 400 more.
const AFTER: Duration = Duration::from_millis(1_500);
/// Time for a node to stop.
const STOP: Duration = Duration::from_secs(30);
/// Time between two looks at one that stops.
const LOOK: Duration = Duration::from_millis(20);
/// Connections that stay are renewed so long after a node was told to stop.
const RENEW: Duration = Duration::from_millis(500);
/// How long a process hangs before it is let go.
const HANG: Duration = Duration::from_millis(1_500);

/// What is done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nothing, to know what the machine does by itself.
    Calm,
    /// The master's process is killed.
    Kill9,
    /// The master's process is stopped, and let go 1.5 s later if it still lives.
    Hang,
    /// The master is gone from both LANs at once, and so is everything that its machine knew.
    Poweroff,
    /// An operator asks for it.
    Failover,
    /// Both nodes are stopped in order and started again, first the backup, then the master.
    Upgrade,
    /// The node that a fault took away is started, and becomes backup in sync.
    Rejoin,
    /// All connections come to a good end.
    End,
}

impl Step {
    pub(in crate::lab) const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Kill9 => "kill9",
            Self::Hang => "hang",
            Self::Poweroff => "poweroff",
            Self::Failover => "failover",
            Self::Upgrade => "upgrade",
            Self::Rejoin => "rejoin",
            Self::End => "end",
        }
    }

    /// Whether the other node must be master afterwards.
    pub(in crate::lab) const fn moves(self) -> bool {
        matches!(
            self,
            Self::Kill9 | Self::Hang | Self::Poweroff | Self::Failover | Self::Upgrade
        )
    }
}

/// What shall be done, to what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How the services run.
    pub mode: Mode,
    /// In turn; the end follows by itself.
    pub steps: Vec<Step>,
    /// The connections.
    pub crowd: Crowd,
}

impl Plan {
    /// Every fault once, back to the node that was master first.
    pub fn new(mode: Mode) -> Self {
        use Step::{Calm, Failover, Hang, Kill9, Poweroff, Rejoin};
        Self {
            mode,
            steps: vec![
                Calm, Kill9, Rejoin, Hang, Rejoin, Poweroff, Rejoin, Failover,
            ],
            crowd: Crowd {
                downloads: 100,
                uploads: 100,
                unpaced: 2,
                pace: 250_000,
                requests: 100,
                idle: 1_000,
                new_rate: 2_000,
            },
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

impl Lab {
    /// One run. Build the lab from [`Plan::lab`].
    ///
    /// # Errors
    ///
    /// If the pair does not settle, or the connections do not stand. Connections that are lost are
    /// no error but a [`Run`] that is not ok.
    pub async fn survive(&mut self, plan: &Plan, number: u32) -> Result<Run, LabError> {
        self.start().await?;
        let mut master = self.settled().await?;
        let network = self.network();
        let from = Origins {
            staying: &network.client,
            unpaced: &network.watch,
            new: &network.client,
        };
        let traffic = self.traffic(&plan.crowd, from).await?;
        let board = self.board().clone();
        sleep(WARM).await;
        board.take();
        let mut windows = Vec::new();
        let mut off = None;
        for step in plan.steps.iter().copied() {
            let began = Instant::now();
            self.act(step, master, &mut off, &traffic).await?;
            sleep(SILENT).await;
            traffic.speak();
            sleep(AFTER).await;
            let (counts, took) = (board.take(), began.elapsed());
            let masters = self.masters().await;
            windows.push(window(step, took, master, &masters, counts));
            master = masters.first().copied().unwrap_or(master);
        }
        let began = Instant::now();
        traffic.stop().await;
        let (counts, took) = (board.take(), began.elapsed());
        let masters = self.masters().await;
        windows.push(window(Step::End, took, master, &masters, counts));
        Ok(Run::of(number, plan.mode, &plan.crowd, windows))
    }

    /// Does it. `off`: the node that has no power.
    pub(in crate::lab) async fn act(
        &mut self,
        step: Step,
        master: NodeId,
        off: &mut Option<NodeId>,
        traffic: &Traffic,
    ) -> Result<(), LabError> {
        match step {
            Step::Calm | Step::End => {}
            Step::Kill9 => self.node(master).signal(Signal::SIGKILL)?,
            Step::Hang => {
                self.node(master).signal(Signal::SIGSTOP)?;
                sleep(HANG).await;
                // Its dead-man timer has killed it by now, if it has one.
                if self.node(master).is_running() {
                    self.node(master).signal(Signal::SIGCONT)?;
                }
            }
            Step::Poweroff => {
                for lan in Lan::BOTH {
                    let network = self.network();
                    network.detach(network.node(master), lan).await?;
                }
                self.node(master).signal(Signal::SIGKILL)?;
                *off = Some(master);
            }
            Step::Failover => {
                self.node(master).call(&Request::Failover).await?;
            }
            Step::Rejoin => {
                if let Some(node) = off.take() {
                    // A machine that starts has no programs in its kernel, and only then a LAN.
                    self.forget_pins(node)?;
                    for lan in Lan::BOTH {
                        let network = self.network();
                        network.attach(network.node(node), lan).await?;
                    }
                }
                self.start().await?;
                self.settled().await?;
            }
            Step::Upgrade => {
                for node in [master.peer(), master] {
                    self.upgrade(node, traffic).await?;
                }
            }
        }
        Ok(())
    }

    /// Stops a node in order, and starts it again. It may stay for those of its connections that
    /// stay, so these are renewed meanwhile, as those of any client would be some day.
    async fn upgrade(&mut self, node: NodeId, traffic: &Traffic) -> Result<(), LabError> {
        self.node(node).signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP;
        let mut renewed = false;
        sleep(RENEW).await;
        while self.node(node).is_running() {
            if !renewed {
                traffic.renew();
                renewed = true;
            }
            if Instant::now() >= deadline {
                return Err(LabError::TooLate {
                    what: format!("the stop of {}", self.node(node).name()),
                    seconds: STOP.as_secs(),
                    state: "it still runs".to_owned(),
                });
            }
            sleep(LOOK).await;
        }
        self.start().await?;
        self.settled().await?;
        Ok(())
    }
}

pub(in crate::lab) fn window(
    step: Step,
    took: Duration,
    before: NodeId,
    after: &[NodeId],
    counts: super::gauge::Counts,
) -> Window {
    Window {
        step,
        took_ms: ms(took),
        master_before: NODES[before.index()],
        masters_after: after.iter().map(|id| NODES[id.index()]).collect(),
        counts,
    }
}
