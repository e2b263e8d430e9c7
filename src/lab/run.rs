//! Running scenarios: settle, load, harm, look, judge; again if the machine was too busy.

use std::time::Duration;

use tokio::time::sleep;

use super::error::LabError;
use super::pair::Lab;
use super::report::Series;
use super::scenario::Scenario;
use super::verdict::{Evidence, Run};
use crate::model::NodeId;
use crate::status::{Event, What};
use crate::time::Mono;

/// Load before the fault, so that there is something to interrupt.
const WARM: Duration = Duration::from_millis(400);
/// Runs repeated at most because the prober was held up.
const MAX_VOID: usize = 2;

impl Lab {
    /// One run of a scenario: starts what does not run, waits until the pair is settled, and goes.
    ///
    /// # Errors
    ///
    /// If the pair does not settle, or the lab itself fails. A pair that behaves badly is no error
    /// but a [`Run`] that is not ok.
    pub async fn run(&mut self, scenario: Scenario, number: u32) -> Result<Run, LabError> {
        let mut unprovoked = self.ended_by_themselves();
        self.start().await?;
        let master_before = self.settled().await?;
        unprovoked.extend(self.unasked_move(master_before).await?);
        let watch = self.watch().await?;
        let load = self.load();
        sleep(WARM).await;
        let harm = self.harm(scenario, master_before).await?;
        let record = load.stop().await;
        let seen = watch.stop();
        unprovoked.extend(self.ended_by_themselves());
        let masters = self.masters().await;
        self.last_master = masters.first().copied();
        let events = match masters.first() {
            Some(master) => self.events_since(*master, harm.at).await?,
            None => Vec::new(),
        };
        let evidence = Evidence {
            scenario,
            harm,
            record: &record,
            seen: &seen,
            master_before,
            masters: &masters,
            events: &events,
            unprovoked,
        };
        Ok(Run::of(&evidence, number))
    }

    /// What the master says of its takeover, if it took over since the last run ended.
    async fn unasked_move(&mut self, master: NodeId) -> Result<Option<String>, LabError> {
        if self.last_master.is_none_or(|last| last == master) {
            return Ok(None);
        }
        let status = self.node(master).status().await?;
        let why = match status.last_transition.map(|event| event.what) {
            Some(What::Transition { text, .. }) => text,
            _ => "it does not say why".to_owned(),
        };
        let name = self.node(master).name();
        Ok(Some(format!("{name} took over between the runs: {why}")))
    }

    /// A node's timeline from a moment on.
    ///
    /// # Errors
    ///
    /// If the node cannot be reached.
    pub async fn events_since(&mut self, node: NodeId, from: Mono) -> Result<Vec<Event>, LabError> {
        let from = self.clock().started_unix_ms() + from.as_millis();
        let mut events = self.node(node).events().await?;
        // The node's clock and this one are read at different moments: one millisecond of grace.
        events.retain(|event| event.unix_ms + 1 >= from);
        Ok(events)
    }

    /// So many runs of a scenario. Each is told to `note` as it ends.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub async fn series(
        &mut self,
        scenario: Scenario,
        runs: u32,
        mut note: impl FnMut(&Run),
    ) -> Result<Series, LabError> {
        let (mut counted, mut void) = (Vec::new(), 0);
        for number in 1..=runs {
            let mut run = self.run(scenario, number).await?;
            while run.is_void() && void < MAX_VOID {
                void += 1;
                run = self.run(scenario, number).await?;
            }
            note(&run);
            counted.push(run);
        }
        Ok(Series::new(scenario, counted, void))
    }
}
