//! What the pages show is what a pair prints: their commands are run here, one after the other.

use std::time::Duration;

use tandem::lab::{Lab, LabError};
use tandem::model::NodeId;
use tandem::status::Status;
use tokio::time::sleep;

use super::balance::keep;
use super::roster::{backend, say, two};
use super::tools::{ask, good, shows, with};
use super::{Test, test};

const OPERATIONS: &str = include_str!("../../docs/operations.md");
const SOON: Duration = Duration::from_secs(5);
/// How long a page's connection stays while somebody waits for its end.
const STAYS: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("pages_backends_at_run_time", backends),
        test("pages_another_configuration", configuration),
    ]
}

/// A command's words, and what it prints.
type Shown = (Vec<&'static str>, String);

/// The console blocks below a heading.
fn consoles(heading: &str) -> Vec<Vec<Shown>> {
    let (_, rest) = OPERATIONS
        .split_once(heading)
        .expect("the heading is there");
    let (section, _) = rest.split_once("\n## ").expect("another one follows");
    let blocks = section.split("```console\n").skip(1);
    blocks.map(commands).collect()
}

fn commands(block: &'static str) -> Vec<Shown> {
    let (block, _) = block.split_once("```").expect("its end");
    let mut shown: Vec<Shown> = Vec::new();
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
    let shown = consoles("## Backends at run time").remove(0);
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

async fn configuration() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(two())).await?;
    let before = two();
    for node in NodeId::BOTH {
        // A file of its own.
        lab.configure(node, &before)?;
    }
    lab.start().await?;
    let node = lab.settled().await?;
    let heavy = format!("{}\nweight = 7\n", before.trim_end());
    let strict = heavy.replace("round_robin\"", "round_robin\"\ndeny = [\"0.0.0.0/0\"]");
    let elsewhere = before.replace("[cluster]", "[cluster]\nport = 7999");
    let patient = elsewhere.replace("rise = 2", "rise = 3");
    let files = [&strict, &patient, &heavy, &heavy];
    let blocks = consoles("## Another configuration while it runs");
    assert_eq!(blocks.len(), files.len());
    for (block, file) in blocks.into_iter().zip(files) {
        lab.configure(node, &before)?;
        say(&mut lab, node, &["reload"]).await;
        lab.configure(node, file)?;
        for (words, printed) in block {
            let done = ask(&mut lab, node, &words).await;
            let said = [done.stdout, done.stderr].concat();
            assert_eq!(String::from_utf8_lossy(&said), printed, "{words:?}");
        }
    }
    Ok(())
}
