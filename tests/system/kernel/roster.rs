//! Backends that come and go under the kernel mode.

use nix::sys::signal::Signal;
use tandem::lab::{LabError, backend_address};
use tandem::model::NodeId;
use tandem::status::Status;

use super::super::balance::{shares_of, taken_over};
use super::super::roster::{backend, say};
use super::super::tools::{ask, restart, shows, vip};
use super::super::{Test, test};
use super::{PATIENCE, SOON, Service, all_go_on, ask_all, open_all, up};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "kernel_roster_add_and_remove_keep_connections_over_a_death",
            changes,
        ),
        test(
            "kernel_roster_remove_resets_what_is_left_at_the_deadline",
            deadline,
        ),
    ]
}

async fn changes() -> Result<(), LabError> {
    let mut lab = up(&[Service::default()]).await?;
    let master = lab.settled().await?;
    let all = open_all(&lab.network().client, vip(80), 6).await;
    for (address, words) in [
        ("192.0.2.1:0", "no port"),
        ("[2001:db8::9]:80", "needs mode"),
    ] {
        let refused = ask(&mut lab, master, &["backend", "add", "web/x", address]).await;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(1) && text.contains(words),
            "{text}"
        );
    }

    // The first one goes and comes back under another name.
    let first = format!("{}:80", backend_address(0));
    say(&mut lab, master, &["backend", "remove", "web/b1"]).await;
    shares_of(&lab, [0, 5, 5]).await;
    let all = all_go_on(&lab.network().client, all, PATIENCE).await;
    say(&mut lab, master, &["backend", "add", "web/new", &first]).await;
    let there = |status: &Status| {
        backend(status, "new").is_some_and(|it| it.up)
            && backend(status, "b1").is_some_and(|it| it.leaving && it.connections > 0)
    };
    for node in NodeId::BOTH {
        shows(&mut lab, node, "it is there", SOON, there).await;
    }
    shares_of(&lab, [5, 5, 5]).await;
    say(&mut lab, master, &["backend", "drain", "web/b2"]).await;

    lab.node(master).signal(Signal::SIGKILL)?;
    taken_over(&mut lab, master.peer()).await;
    let all = all_go_on(&lab.network().client, all, SOON).await;
    shares_of(&lab, [5, 0, 5]).await;
    restart(&mut lab, master).await?;
    lab.settled().await?;
    shows(&mut lab, master, "the restarted one knows", SOON, there).await;
    drop(all);
    let gone = |status: &Status| backend(status, "b1").is_none();
    shows(&mut lab, master.peer(), "it is gone", SOON * 3, gone).await;
    Ok(())
}

async fn deadline() -> Result<(), LabError> {
    let mut lab = up(&[Service::default()]).await?;
    let master = lab.settled().await?;
    let all = open_all(&lab.network().client, vip(80), 6).await;
    let remove = ["backend", "remove", "web/b1", "--deadline", "1s", "--wait"];
    let text = say(&mut lab, master, &remove).await;
    assert!(text.ends_with("it has no connections\n"), "{text}");
    for (_, at, answer) in ask_all(&lab.network().client, all, PATIENCE).await {
        assert_eq!(answer.is_err(), at == 1, "b{at}: {answer:?}");
    }
    Ok(())
}
