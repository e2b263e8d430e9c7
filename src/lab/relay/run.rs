//! One run: settle, load, the fault's steps, and what was seen.

use tokio::time::Instant;

use super::faults::Death;
use super::figures::{Evidence, Run};
use super::plan::Plan;
use super::report::{Series, line};
use super::wrk::Running;
use crate::lab::config::Mode;
use crate::lab::error::LabError;
use crate::lab::pair::Lab;
use crate::lab::survive::{Origins, Step, Window, window};

/// Runs that are repeated at most because they say nothing of the pair.
const MAX_VOID: usize = 2;

impl Lab {
    /// So many runs. Each is told to `note` as it ends. One that failed where the machine was too
    /// busy to open its connections, or in which a node's dead-man timer ended it unprovoked, is
    /// repeated, and told too.
    ///
    /// # Errors
    ///
    /// As [`Self::relay`], if that happens too often.
    pub async fn relay_series(
        &mut self,
        plan: &Plan,
        runs: u32,
        mut note: impl FnMut(&str),
    ) -> Result<Series, LabError> {
        let (mut counted, mut void) = (Vec::new(), Vec::new());
        let mut number = 1;
        while number <= runs {
            let why = match self.relay(plan, number).await {
                Ok(run) if run.is_void() && void.len() < MAX_VOID => line(plan, &run),
                Ok(run) => {
                    note(&line(plan, &run));
                    counted.push(run);
                    number += 1;
                    continue;
                }
                Err(error) if void.len() < MAX_VOID && is_dead_man(&error) => error.to_string(),
                Err(error) => return Err(error),
            };
            note(&format!("void, and repeated: {why}"));
            void.push(why);
        }
        Ok(Series::new(plan, counted, void))
    }

    /// One run. Build the lab from [`Plan::lab`].
    ///
    /// # Errors
    ///
    /// If the pair does not settle, or the connections do not stand. Whatever clients notice is no
    /// error but in the [`Run`].
    pub async fn relay(&mut self, plan: &Plan, number: u32) -> Result<Run, LabError> {
        self.start().await?;
        let first = self.settled().await?;
        match plan.stale {
            true => self.network().freeze(first).await?,
            false => self.network().thaw().await?,
        }
        if plan.mode == Mode::Proxy {
            // A proxy's connections to its backends leave more ports in TIME_WAIT than there are.
            for node in &self.network().nodes {
                node.sysctl("ipv4/tcp_tw_reuse", "1").await;
            }
        }
        let network = self.network();
        let from = Origins {
            staying: &network.watch,
            unpaced: &network.watch,
            new: &network.client,
        };
        let traffic = self.traffic(&plan.crowd, from).await?;
        let wrk = match plan.wrk {
            true => Running::start(&self.network().client).await?,
            false => None,
        };
        let board = self.board().clone();
        // What was lost while all was opened is no fault's.
        board.take();
        board.take_ends();
        let mut windows: Vec<Window> = Vec::new();
        let mut death: Option<Death> = None;
        let mut master = first;
        for step in plan.steps() {
            let began = Instant::now();
            let died = self
                .inflict(step, master, &traffic, plan.crowd.idle)
                .await?;
            let (counts, took) = (board.take(), began.elapsed());
            death = death.or(died);
            let masters = self.masters().await;
            windows.push(window(step, took, master, &masters, counts));
            master = masters.first().copied().unwrap_or(master);
        }
        let began = Instant::now();
        let wrk = match wrk {
            Some(wrk) => Some(wrk.stop(&self.network().client).await?),
            None => None,
        };
        traffic.stop().await;
        let (counts, took) = (board.take(), began.elapsed());
        let masters = self.masters().await;
        windows.push(window(Step::End, took, master, &masters, counts));
        let ends = board.take_ends();
        Ok(Run::of(&Evidence {
            plan,
            number,
            windows,
            death,
            ends,
            wrk,
        }))
    }
}

/// A node stood still for so long that its timer killed it. Any other end is a fault of the node.
fn is_dead_man(error: &LabError) -> bool {
    matches!(error, LabError::NodeEnded { status, .. } if status == "signal 9")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_fails_is_no_busy_machine() {
        let ended = |status: &str| LabError::NodeEnded {
            node: "lb1".to_owned(),
            status: status.to_owned(),
            log: String::new(),
        };
        assert!(is_dead_man(&ended("signal 9")));
        assert!(!is_dead_man(&ended("signal 6")) && !is_dead_man(&ended("exit status: 1")));
    }
}
