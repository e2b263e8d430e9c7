//! The agent beside a backend.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::progress::{Fail, Progress, broken};
use super::tcp::{self, Way};
use crate::config;
use crate::wire::agent::{self, Answer, MAX_LINE};

/// Asks it. The answer is over with the line, with the connection, or with what is read of it.
pub(super) async fn ask(
    plan: &config::Agent,
    way: Way<'_>,
    progress: &mut Progress,
) -> Result<Answer, Fail> {
    let mut stream = tcp::dial(way).await?;
    progress.waits("no answer of the agent");
    if !plan.send.is_empty() {
        let sent = stream.write_all(&plan.send).await;
        sent.map_err(|error| broken("asking the agent", &error))?;
    }
    let mut line = Vec::with_capacity(MAX_LINE);
    let mut stream = stream.take(MAX_LINE as u64);
    while !line.contains(&b'\n') {
        let read = stream.read_buf(&mut line).await;
        if read.map_err(|error| broken("asking the agent", &error))? == 0 {
            break;
        }
    }
    agent::parse(&line).map_err(Fail::Wrong)
}
