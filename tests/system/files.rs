//! Files that cross between the nodes: a configuration that is pushed, a key that takes another's place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, Lan, default_config};
use tandem::model::{NodeId, Role};
use tandem::status::Status;
use tokio::time::sleep;

use super::roster::backend;
use super::tools::{
    all_answered, ask, command, output, restart, shows, standing, status, tandem, until, with,
};
use super::{Test, test};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(5);
/// For a restart, and a session.
const LATER: Duration = Duration::from_secs(10);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("push_brings_the_file_to_both_nodes_or_to_none", push),
        test("push_whose_peer_dies_is_told", push_and_die),
        test("rotate_the_key_under_load_is_not_noticed", rotate),
        test("rotate_and_reload_while_the_power_goes", power),
    ]
}

/// A pair whose nodes have files of their own.
async fn pair() -> Result<Lab, LabError> {
    let config = with(default_config());
    let mut lab = Lab::build(&config).await?;
    for node in NodeId::BOTH {
        let name = lab.node(node).name();
        let text = config
            .config
            .replace("@DIR@/key", &format!("@DIR@/{name}.key"));
        lab.configure(node, &text)?;
        fs::copy(lab.dir().join("key"), file(&mut lab, node, "key")).expect("it is ours");
    }
    // Each has its own path for the key, which is its own affair.
    lab.start().await?;
    lab.settled().await?;
    for node in NodeId::BOTH {
        stands(&mut lab, node).await;
    }
    Ok(lab)
}

fn file(lab: &mut Lab, node: NodeId, end: &str) -> PathBuf {
    let name = lab.node(node).name();
    lab.dir().join(format!("{name}.{end}"))
}

fn text(lab: &mut Lab, node: NodeId, end: &str) -> String {
    fs::read_to_string(file(lab, node, end)).expect("it is there")
}

async fn stands(lab: &mut Lab, node: NodeId) {
    let there = |status: &Status| status.replication.connected;
    shows(lab, node, "a session", LATER, there).await;
}

async fn said(lab: &mut Lab, node: NodeId, arguments: &[&str]) -> (Option<i32>, String) {
    let done = ask(lab, node, arguments).await;
    let text = [done.stdout, done.stderr].concat();
    (done.status.code(), String::from_utf8(text).expect("text"))
}

/// The same file for both, with the key in the same place: what a push is for.
async fn alike() -> Result<Lab, LabError> {
    let config = with(default_config());
    let mut lab = Lab::build(&config).await?;
    for node in NodeId::BOTH {
        lab.configure(node, &config.config)?;
    }
    lab.start().await?;
    lab.settled().await?;
    for node in NodeId::BOTH {
        stands(&mut lab, node).await;
    }
    Ok(lab)
}

fn weighed(plain: &str, weight: u16) -> String {
    assert!(plain.contains("name = \"b2\""));
    plain.replacen(
        "name = \"b2\"",
        &format!("weight = {weight}\nname = \"b2\""),
        1,
    )
}

fn weight(status: &Status) -> Option<u16> {
    backend(status, "b2").map(|it| it.weight)
}

async fn push() -> Result<(), LabError> {
    let mut lab = alike().await?;
    let (here, there) = (NodeId::First, NodeId::Second);
    let plain = text(&mut lab, here, "toml");
    let before = standing(&mut lab).await;
    let load = lab.load();
    fs::write(file(&mut lab, here, "toml"), weighed(&plain, 7)).expect("it is ours");
    let (code, words) = said(&mut lab, here, &["config", "push", "--dry-run"]).await;
    assert_eq!(
        (code, words.ends_with("\nthe peer could take it\n")),
        (Some(0), true),
        "{words}"
    );
    assert_eq!(text(&mut lab, there, "toml"), plain);
    let (code, words) = said(&mut lab, here, &["config", "push"]).await;
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(
        words,
        "service web\n  backend b2.weight: 1 -> 7\nreloaded\nthe peer has taken it\n"
    );
    assert_eq!(text(&mut lab, there, "toml"), weighed(&plain, 7));
    assert_eq!(text(&mut lab, there, "toml.before"), plain);
    assert!(!file(&mut lab, there, "toml.new").exists());
    for node in NodeId::BOTH {
        let alike = |it: &Status| weight(it) == Some(7) && it.peer.same_config == Some(true);
        shows(&mut lab, node, "both have it", SOON, alike).await;
    }

    // From the other side; a file with mistakes, and one that needs a restart.
    let wrong = plain.replacen("rise = 2", "rise = 0", 1);
    fs::write(file(&mut lab, there, "toml"), wrong).expect("it is ours");
    let (code, words) = said(&mut lab, there, &["config", "push"]).await;
    assert_eq!(
        (code, words.contains("rise = 0")),
        (Some(64), true),
        "{words}"
    );
    let other = plain.replacen("name = \"lab\"", "name = \"bal\"", 1);
    fs::write(file(&mut lab, there, "toml"), other).expect("it is ours");
    let (code, words) = said(&mut lab, there, &["config", "push"]).await;
    assert_eq!(
        (code, words.contains("NEEDS A RESTART")),
        (Some(1), true),
        "{words}"
    );

    // The peer has something that it cannot give up without a restart: what it says is told.
    let telling = format!(
        "{}\n[metrics]\nlisten = [\"127.0.0.1:9700\"]\n",
        weighed(&plain, 7)
    );
    fs::write(file(&mut lab, there, "toml"), &telling).expect("it is ours");
    lab.node(there).signal(Signal::SIGKILL)?;
    restart(&mut lab, there).await?;
    stands(&mut lab, there).await;
    stands(&mut lab, here).await;
    fs::write(file(&mut lab, here, "toml"), weighed(&plain, 3)).expect("it is ours");
    let (code, words) = said(&mut lab, here, &["config", "push"]).await;
    assert_eq!(code, Some(1), "{words}");
    assert!(
        words.contains("[metrics] listen needs a restart"),
        "{words}"
    );
    assert_eq!(
        weight(&status(&mut lab, here).await),
        Some(7),
        "all or nothing"
    );
    assert_eq!(text(&mut lab, there, "toml"), telling);
    let now = standing(&mut lab).await;
    assert_eq!(now[0].2, before[0].2, "the epoch is the same");
    drop(load.stop().await);
    Ok(())
}

async fn push_and_die() -> Result<(), LabError> {
    let mut lab = alike().await?;
    let (here, there) = (NodeId::First, NodeId::Second);
    let plain = text(&mut lab, here, "toml");
    fs::write(file(&mut lab, here, "toml"), weighed(&plain, 7)).expect("it is ours");
    // It hears, and does not answer.
    lab.node(there).signal(Signal::SIGSTOP)?;
    let (code, words) = said(&mut lab, here, &["config", "push"]).await;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nothing was changed"), "{words}");
    lab.node(there).signal(Signal::SIGKILL)?;
    let (code, words) = said(&mut lab, here, &["config", "push"]).await;
    assert_eq!(code, Some(1), "{words}");
    assert_eq!(weight(&status(&mut lab, here).await), Some(1));
    restart(&mut lab, there).await?;
    stands(&mut lab, there).await;
    stands(&mut lab, here).await;
    // Dies at any moment of it: each node has a whole file, and what differs is named.
    for n in 0..4_u64 {
        let new = weighed(&plain, 10 + n as u16);
        fs::write(file(&mut lab, here, "toml"), &new).expect("it is ours");
        let pid = lab.node(there).pid().expect("it runs");
        let killer = async {
            sleep(Duration::from_millis(8 * n)).await;
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it is ours");
        };
        let socket = lab.node(here).socket();
        let mut command = command(tandem(), &["config", "push"]);
        command.arg("--control").arg(socket);
        let client = &lab.network().client;
        let (done, ()) = tokio::join!(output(client, command), killer);
        restart(&mut lab, there).await?;
        stands(&mut lab, there).await;
        stands(&mut lab, here).await;
        let taken = text(&mut lab, there, "toml");
        assert!(
            taken == new || taken == plain || taken.contains("weight = 1"),
            "{taken}"
        );
        let same = weight(&status(&mut lab, here).await) == weight(&status(&mut lab, there).await);
        let differs =
            |it: &Status| same || it.peer.differs.iter().any(|it| it.contains("b2.weight"));
        shows(&mut lab, here, &format!("{done:?}"), SOON, differs).await;
        let (code, words) = said(&mut lab, here, &["config", "push"]).await;
        assert_eq!(code, Some(0), "{words}");
    }
    Ok(())
}

fn heard(status: &Status) -> bool {
    status.peer.alive && status.peer.hears_us
}

async fn rotate() -> Result<(), LabError> {
    let mut lab = pair().await?;
    let before = standing(&mut lab).await;
    let old = text(&mut lab, NodeId::First, "key");
    let load = lab.load();
    for node in [NodeId::First, NodeId::Second, NodeId::First] {
        let lost = status(&mut lab, node).await.counters.heartbeats_rejected;
        let (code, words) = said(&mut lab, node, &["key", "rotate"]).await;
        assert_eq!(code, Some(0), "{words}");
        assert_eq!(words, "both nodes have the new key and no other\n");
        let now = status(&mut lab, node).await;
        assert_eq!(now.counters.heartbeats_rejected, lost, "none is lost");
    }
    let new = text(&mut lab, NodeId::First, "key");
    assert_eq!(new, text(&mut lab, NodeId::Second, "key"));
    assert!(
        new != old && new.lines().count() == 3 && new.contains("\naffinity "),
        "{new}"
    );
    let mode = fs::metadata(file(&mut lab, NodeId::Second, "key")).expect("it is there");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    all_answered(&load.stop().await);
    assert_eq!(standing(&mut lab).await, before, "nobody has moved");
    // Who starts anew, and makes a new session, knows the others.
    for node in NodeId::BOTH {
        lab.node(node).signal(Signal::SIGKILL)?;
        restart(&mut lab, node).await?;
        stands(&mut lab, node).await;
        stands(&mut lab, node.peer()).await;
    }
    Ok(())
}

/// The node is gone from both networks, and its process from the host.
async fn power_off(lab: &mut Lab, node: NodeId) -> Result<(), LabError> {
    for lan in Lan::BOTH {
        let network = lab.network();
        network.detach(network.node(node), lan).await?;
    }
    lab.node(node).signal(Signal::SIGKILL)
}

async fn power_on(lab: &mut Lab, node: NodeId) -> Result<(), LabError> {
    for lan in Lan::BOTH {
        let network = lab.network();
        network.attach(network.node(node), lan).await?;
    }
    restart(lab, node).await
}

/// The file says this word at the beginning of a line.
async fn says(file: PathBuf, word: &str) {
    let line = format!("\n{word} ");
    until(word, LATER, async || {
        let text = fs::read_to_string(&file).ok()?;
        text.contains(&line).then_some(())
    })
    .await;
}

async fn power() -> Result<(), LabError> {
    let mut lab = pair().await?;
    // A rotation waits a second after each of its first two steps: it is in its middle then.
    for (peers, word) in [
        (true, "next"),
        (false, "next"),
        (true, "old"),
        (false, "old"),
    ] {
        let master = lab.settled().await?;
        let socket = lab.node(master).socket();
        let node = if peers { master.peer() } else { master };
        let reached = says(file(&mut lab, node, "key"), word);
        let mut command = command(tandem(), &["key", "rotate"]);
        command.arg("--control").arg(socket);
        let rotated = output(&lab.network().client, command);
        tokio::select! {
            done = rotated => panic!("{done:?}"),
            () = reached => {}
        }
        off_and_on(&mut lab, master).await?;
        let keys = NodeId::BOTH.map(|node| text(&mut lab, node, "key"));
        let half = |key: &String| key.contains("next ") || key.contains("old ");
        assert!(keys.iter().any(half), "it was in the middle: {keys:?}");
        // Whatever was left half done is ended.
        let (code, words) = said(&mut lab, NodeId::First, &["key", "rotate"]).await;
        assert_eq!(code, Some(0), "{words}");
        let keys = NodeId::BOTH.map(|node| text(&mut lab, node, "key"));
        assert_eq!(keys[0], keys[1]);
        assert!(
            !keys[0].contains("old") && !keys[0].contains("next"),
            "{keys:?}"
        );
    }
    // A reload, and what is left of it.
    for n in 0..3_u16 {
        let master = lab.settled().await?;
        let plain = text(&mut lab, master, "toml");
        let new = weighed(&plain.replace("weight = 10\n", ""), 10);
        fs::write(file(&mut lab, master, "toml"), new).expect("it is ours");
        lab.node(master).signal(Signal::SIGHUP)?;
        sleep(Duration::from_millis(2 * u64::from(n))).await;
        off_and_on(&mut lab, master).await?;
        let differs = |it: &Status| it.peer.differs.iter().any(|it| it.contains("b2.weight"));
        let same = |it: &Status| it.peer.same_config == Some(true);
        let known = |it: &Status| differs(it) || same(it);
        shows(&mut lab, master, "what differs is named", SOON, known).await;
        assert_eq!(
            weight(&status(&mut lab, master).await),
            Some(10),
            "a whole file"
        );
    }
    Ok(())
}

/// The power of the master goes, its peer serves on and says that it is alone, and the power comes back.
async fn off_and_on(lab: &mut Lab, master: NodeId) -> Result<(), LabError> {
    power_off(lab, master).await?;
    let alone = |it: &Status| it.role == Role::Master && !it.peer.alive;
    shows(lab, master.peer(), "it serves on", SOON, alone).await;
    let load = lab.load();
    sleep(Duration::from_millis(200)).await;
    all_answered(&load.stop().await);
    power_on(lab, master).await?;
    for node in NodeId::BOTH {
        shows(lab, node, "each hears the other", LATER, heard).await;
        stands(lab, node).await;
    }
    Ok(())
}
