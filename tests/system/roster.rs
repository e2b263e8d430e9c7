//! Backends that come and go while a real pair runs: on both nodes, over deaths and restarts.

use std::io::ErrorKind;
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, backend_address, default_config};
use tandem::model::{AdminState, NodeId};
use tandem::status::{BackendStatus, Status};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::balance::{again, keep, shares_of, taken_over};
use super::tools::{all_answered, ask, good, notes, shows, status, with};
use super::{Test, test};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(5);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "roster_add_weight_and_remove_under_traffic_hold_over_deaths",
            changes,
        ),
        test(
            "roster_remove_resets_what_is_left_at_the_deadline",
            deadline,
        ),
        test("roster_a_damaged_state_file_is_said_and_put_aside", damaged),
    ]
}

/// The lab's service by weight, without its third backend.
pub(crate) fn two() -> String {
    let whole = default_config().replace("round_robin", "weighted_round_robin");
    let (rest, _) = whole
        .split_once("\n[[service.backend]]\nname = \"b3\"")
        .expect("it has three");
    rest.to_owned()
}

/// What the command printed; it must have succeeded.
pub(crate) async fn say(lab: &mut Lab, node: NodeId, arguments: &[&str]) -> String {
    let done = ask(lab, node, arguments).await;
    assert!(done.status.success(), "{arguments:?}: {done:?}");
    String::from_utf8(done.stdout).expect("text")
}

pub(crate) fn backend<'s>(status: &'s Status, name: &str) -> Option<&'s BackendStatus> {
    let mut all = status.services[0].backends.iter();
    all.find(|backend| backend.name == name)
}

async fn changes() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(two())).await?;
    let master = lab.settled().await?;
    shares_of(&lab, [6, 6, 0]).await;
    let load = lab.load();
    let third = format!("{}:80", backend_address(2));
    let refused = ask(
        &mut lab,
        master.peer(),
        &["backend", "add", "web/b3", &third],
    )
    .await;
    assert_eq!(
        refused.status.code(),
        Some(1),
        "the backup refuses: {refused:?}"
    );
    let text = say(&mut lab, master, &["backend", "add", "web/b3", &third]).await;
    assert_eq!(text, format!("web/b3 is at {third}\n"));
    for node in NodeId::BOTH {
        let up = |status: &Status| {
            backend(status, "b3").is_some_and(|it| it.up && it.origin == "runtime")
        };
        shows(&mut lab, node, "it is there and up", SOON, up).await;
    }
    all_answered(&load.stop().await);
    shares_of(&lab, [5, 5, 5]).await;

    let load = lab.load();
    say(&mut lab, master, &["backend", "weight", "web/b3", "2"]).await;
    say(&mut lab, master, &["backend", "remove", "web/b1"]).await;
    let gone = |status: &Status| backend(status, "b1").is_none();
    shows(&mut lab, master, "it is gone", SOON, gone).await;
    all_answered(&load.stop().await);
    shares_of(&lab, [0, 5, 10]).await;
    say(&mut lab, master, &["backend", "maintenance", "web/b2"]).await;
    shares_of(&lab, [0, 0, 6]).await;

    let holds = |status: &Status| {
        let told = (backend(status, "b2"), backend(status, "b3"));
        let (Some(second), Some(third)) = told else {
            return false;
        };
        backend(status, "b1").is_none()
            && status.services[0].removed == ["b1"]
            && second.admin == AdminState::Maintenance
            && (third.weight, third.up) == (2, true)
    };
    shows(&mut lab, master.peer(), "the standby knows", SOON, holds).await;
    lab.node(master).signal(Signal::SIGKILL)?;
    taken_over(&mut lab, master.peer()).await;
    shows(&mut lab, master.peer(), "the new master knows", SOON, holds).await;
    shares_of(&lab, [0, 0, 6]).await;

    // Both die; each has it on its disk.
    lab.node(master.peer()).signal(Signal::SIGKILL)?;
    for node in NodeId::BOTH {
        super::tools::restart(&mut lab, node).await?;
    }
    let master = lab.settled().await?;
    for node in NodeId::BOTH {
        shows(&mut lab, node, "it was kept", SOON, holds).await;
    }
    shares_of(&lab, [0, 0, 6]).await;

    let list = say(&mut lab, master, &["backend", "list"]).await;
    eprintln!("{list}");
    assert!(
        list.contains("removed at run time, and in the file: b1"),
        "{list}"
    );
    for name in ["web/b1", "web/b2", "web/b3"] {
        say(&mut lab, master, &["backend", "reset", name]).await;
    }
    let file = |status: &Status| {
        let up = |name| backend(status, name).is_some_and(|it| it.up);
        up("b1") && up("b2") && backend(status, "b3").is_none()
    };
    for node in NodeId::BOTH {
        shows(&mut lab, node, "as the file says", SOON, file).await;
    }
    shares_of(&lab, [6, 6, 0]).await;
    Ok(())
}

async fn deadline() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(two())).await?;
    let master = lab.settled().await?;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(good("a page", lab.network().client.run(keep()).await));
    }
    held.sort_by_key(|(_, backend)| *backend);
    assert_eq!(held.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [1, 2]);
    let mut streams = held.into_iter().map(|(stream, _)| stream);
    let (mut first, mut second) = (streams.next().unwrap(), streams.next().unwrap());
    let counted = |status: &Status| backend(status, "b1").is_some_and(|it| it.connections == 1);
    shows(&mut lab, master, "it is counted", SOON, counted).await;
    let remove = ["backend", "remove", "web/b1", "--deadline", "1s", "--wait"];
    let text = say(&mut lab, master, &remove).await;
    assert!(
        text.contains("its 1 connection") && text.ends_with("it has no connections\n"),
        "{text}"
    );
    let ended = lab
        .network()
        .client
        .run(async move { timeout(SOON, first.read_u8()).await });
    let error = ended.await.expect("in time").expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let goes_on = lab
        .network()
        .client
        .run(async move { again(&mut second).await });
    assert_eq!(good("the other goes on", goes_on.await), 2);
    let said = notes(&mut lab, master).await?;
    assert!(
        said.iter()
            .any(|note| note.contains("web/b1: its time is up, reset 1")),
        "{said:?}"
    );
    Ok(())
}

async fn damaged() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(two())).await?;
    let master = lab.settled().await?;
    say(&mut lab, master, &["backend", "drain", "web/b1"]).await;
    let drained =
        |status: &Status| backend(status, "b1").is_some_and(|it| it.admin == AdminState::Drain);
    let backup = master.peer();
    shows(&mut lab, backup, "the standby knows", SOON, drained).await;
    let name = lab.node(backup).name();
    let dir = lab.dir().join(format!("{name}.state"));
    super::tools::until("it is on the disk", SOON, async || {
        dir.join("backends.json").exists().then_some(())
    })
    .await;
    lab.node(backup).signal(Signal::SIGKILL)?;
    super::tools::until("it has ended", SOON, async || lab.node(backup).ended()).await;
    std::fs::write(dir.join("backends.json"), "{\"form\":1,").expect("it is ours");
    super::tools::restart(&mut lab, backup).await?;
    lab.settled().await?;
    let said = notes(&mut lab, backup).await?;
    assert!(
        said.iter().any(|note| note.contains("cannot be read")),
        "{said:?}"
    );
    assert!(dir.join("backends.damaged-1").exists());
    shows(&mut lab, backup, "the master has told it", SOON, drained).await;
    assert!(backend(&status(&mut lab, master).await, "b1").is_some());
    Ok(())
}
