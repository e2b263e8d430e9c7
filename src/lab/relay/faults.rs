//! The harm, with what must be known of its moment.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::plan::watched;
use crate::lab::error::LabError;
use crate::lab::pair::Lab;
use crate::lab::survive::{Kind, Step, Traffic};
use crate::model::NodeId;
use crate::time::Mono;

/// For a switchover to be done, and then for idle connections to answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// Time between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// When a process was harmed, when it was gone with everything that it held, and how long what
/// became of its connections was watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) at: Mono,
    pub(super) gone: Option<Mono>,
    pub(super) until: Mono,
}

impl Lab {
    /// One step, until it is done and was watched for a while; the death, if it was one. So many
    /// idle connections are asked after a switchover.
    pub(super) async fn inflict(
        &mut self,
        step: Step,
        master: NodeId,
        traffic: &Traffic,
        idle: usize,
    ) -> Result<Option<Death>, LabError> {
        let kills = matches!(step, Step::Kill9 | Step::Hang);
        let clock = self.clock();
        let death = kills.then(|| Watcher(tokio::spawn(self.node(master).death(clock))));
        let at = clock.now();
        self.act(step, master, &mut None, traffic).await?;
        if step == Step::Failover {
            // The old master says that it is settled until it hands over.
            let deadline = Instant::now() + PATIENCE;
            while self.settled().await? == master && Instant::now() < deadline {
                sleep(LOOK).await;
            }
            traffic.speak();
        }
        sleep(watched(step)).await;
        if step == Step::Failover {
            // Who answers later than that is lost, and counted.
            let deadline = Instant::now() + PATIENCE;
            let silent = || self.board().answers(Kind::Idle) < idle as u64;
            while silent() && Instant::now() < deadline {
                sleep(LOOK).await;
            }
        }
        Ok(match death {
            None => None,
            Some(watcher) => Some(Death {
                at,
                gone: watcher.seen().await,
                until: clock.now(),
            }),
        })
    }
}

/// Who waits for a process's end. Ends when dropped.
struct Watcher(JoinHandle<Mono>);

impl Watcher {
    /// When it was, if it has been.
    async fn seen(mut self) -> Option<Mono> {
        match self.0.is_finished() {
            true => (&mut self.0).await.ok(),
            false => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}
