//! One run: settle, load, the fault's steps, and what was seen.

use tokio::time::Instant;

use super::faults::Death;
use super::figures::{Evidence, Run};
use super::plan::Plan;
use super::wrk::Running;
use crate::lab::config::Mode;
use crate::lab::error::LabError;
use crate::lab::pair::Lab;
use crate::lab::survive::{Origins, Step, Window, window};

impl Lab {
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
        for step in plan.fault.steps().iter().copied() {
            let began = Instant::now();
            let died = self.inflict(step, master, &traffic).await?;
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
