//! What the pages show is what a pair prints: their commands are run here, one after the other.

use std::time::Duration;

use tandem::lab::{Lab, LabError};
use tandem::status::Status;
use tokio::time::sleep;

use super::balance::keep;
use super::roster::{backend, say, two};
use super::tools::{good, shows, with};
use super::{Test, test};

const OPERATIONS: &str = include_str!("../../docs/operations.md");
const SOON: Duration = Duration::from_secs(5);
/// How long a page's connection stays while somebody waits for its end.
const STAYS: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![test("pages_backends_at_run_time", backends)]
}

/// Commands and what they print, of the first console block below a heading.
fn console(heading: &str) -> Vec<(Vec<&'static str>, String)> {
    let (_, rest) = OPERATIONS
        .split_once(heading)
        .expect("the heading is there");
    let (_, rest) = rest.split_once("```console\n").expect("a block");
    let (block, _) = rest.split_once("```").expect("its end");
    let mut shown: Vec<(Vec<_>, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("# tandem ") {
            Some(words) => shown.push((words.split(' ').collect(), String::new())),
            None => {
                let (_, printed) = shown.last_mut().expect("a command is first");
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    shown
}

async fn backends() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(two())).await?;
    let master = lab.settled().await?;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(good("a page", lab.network().client.run(keep()).await));
    }
    let one = |status: &Status| {
        ["b1", "b2"]
            .iter()
            .all(|name| backend(status, name).is_some_and(|it| it.connections == 1))
    };
    shows(&mut lab, master, "one connection each", SOON, one).await;
    held.retain(|(_, at)| *at == 1);
    let shown = console("## Backends at run time");
    assert!(shown.len() > 4, "{shown:?}");
    for (words, printed) in shown {
        if words.contains(&"--wait") {
            // The connection that is waited for ends while it is.
            let stays = std::mem::take(&mut held);
            lab.network().client.spawn(async move {
                sleep(STAYS).await;
                drop(stays);
            });
        }
        if words == ["backend", "list"] {
            let settled = |status: &Status| {
                backend(status, "b3").is_some_and(|it| it.up) && backend(status, "b1").is_none()
            };
            shows(&mut lab, master, "b3 is up, b1 is gone", SOON, settled).await;
        }
        assert_eq!(say(&mut lab, master, &words).await, printed, "{words:?}");
    }
    Ok(())
}
