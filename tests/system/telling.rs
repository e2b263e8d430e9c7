//! What a node tells while it runs: a program of the operator's, and its log.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem::lab::{Lab, LabError, default_config};
use tandem::model::{NodeId, Role};
use tandem::status::{Status, What};
use tokio::process::Command;
use tokio::time::timeout;

use super::tools::{FIRST, ask, command, good, shows, status, tandem, until, with};
use super::{Test, test};

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("telling_a_program_that_hangs_delays_nothing", told),
        test("telling_the_log_more_or_less_and_journald_how_much", logged),
        test("telling_a_log_that_nobody_reads_holds_nothing_up", unread),
    ]
}

/// The file once it shows this.
async fn read(file: &Path, what: &str, shown: impl Fn(&str) -> bool) -> String {
    until(what, SOON, async || {
        let text = fs::read_to_string(file).unwrap_or_default();
        shown(&text).then_some(text)
    })
    .await
}

async fn told() -> Result<(), LabError> {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = |node: &str| -> PathBuf { dir.path().join(node) };
    // The program never ends by itself.
    let script = format!(
        "echo $TANDEM_FROM $TANDEM_TO $TANDEM_CAUSE $TANDEM_EPOCH $TANDEM_VIPS >> {}/$TANDEM_NODE; \
         exec sleep 3600",
        dir.path().display()
    );
    let notify =
        format!("\n[notify]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\ntimeout = \"2s\"\n");
    let mut lab = Lab::up(&with(default_config() + &notify)).await?;
    let master = lab.settled().await?;
    let [old, new] = [master, master.peer()].map(|node| file(lab.node(node).name()));
    let begun = read(&old, "the first master is told of", |text| {
        text.contains(" master ")
    })
    .await;
    assert!(begun.contains("192.0.2.100"), "{begun}");
    // Twice, so that the second takeover comes while the program of the first one hangs.
    for (from, to) in [(master, master.peer()), (master.peer(), master)] {
        let done = ask(&mut lab, from, &["failover"]).await;
        assert!(done.status.success(), "{done:?}");
        let now = lab.settled().await?;
        assert_eq!(now, to);
    }
    let status = lab.node(master).status().await?;
    let epoch = status.epoch;
    let last = status.last_transition.map(|event| event.what);
    let Some(What::Transition {
        takeover_ms: Some(ms),
        ..
    }) = last
    else {
        panic!("no takeover: {last:?}");
    };
    assert!(ms < 1_000.0, "it waited for the program: {ms} ms");
    // The newest is told once the program was killed.
    let last = format!("backup master handover {epoch} ");
    read(&old, "the newest change of the old master", |text| {
        text.lines().last().is_some_and(|it| it.starts_with(&last))
    })
    .await;
    read(&new, "the newest change of its peer", |text| {
        let last = text.lines().last();
        last.is_some_and(|it| it.starts_with("master backup "))
    })
    .await;
    let log = lab.node(master).log();
    read(&log, "the log says so", |text| {
        text.contains("notify: /bin/sh did not end within 2s and was killed")
    })
    .await;
    Ok(())
}

async fn logged() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    levels(&mut lab, master).await;
    journal(&mut lab, master.peer()).await
}

/// What a command says, which must have succeeded.
async fn said(lab: &mut Lab, node: NodeId, words: &[&str]) -> String {
    let ended = ask(lab, node, words).await;
    assert!(ended.status.success(), "{words:?}: {ended:?}");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// `tandem log` up and down, and something that is no level.
async fn levels(lab: &mut Lab, master: NodeId) {
    let log = lab.node(master).log();
    let done = said(lab, master, &["log", "error"]).await;
    assert_eq!(done, "the log's level is error until the node ends\n");
    said(lab, master, &["drain", "web/b1"]).await;
    let bad = ask(lab, master, &["log", "tandem=loud"]).await;
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let complaint = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(complaint.contains("write a level"), "{complaint}");
    said(lab, master, &["log", "info"]).await;
    said(lab, master, &["enable", "web/b1"]).await;
    let enabled = "INFO operator: web/b1 takes new connections";
    let text = read(&log, enabled, |text| text.contains(enabled)).await;
    assert!(!text.contains("takes no new connections"), "{text}");
}

/// What starts this node where the lab does not.
fn by_hand(lab: &mut Lab, node: NodeId) -> Command {
    let (name, socket) = (lab.node(node).name(), lab.node(node).socket());
    let mut run = command(
        tandem(),
        &["run", "--config", "tandem.toml", "--node", name],
    );
    run.arg("--control")
        .arg(socket)
        .args(["--state", &format!("{name}.state")])
        .current_dir(lab.dir());
    run
}

/// Whoever should read the log does not: a journald that hangs, a pipe into a program that is stopped.
async fn unread() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    let mut run = by_hand(&mut lab, FIRST);
    run.env("TANDEM_LOG", "trace").stdout(Stdio::null());
    let host = lab.network().node(FIRST);
    let running = host.run(async move { run.stderr(Stdio::piped()).spawn() });
    let mut running = good("start a node", running.await);
    let pipe = running.stderr.take().expect("it is piped");
    // The smallest there is.
    let room = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4_096)).expect("a pipe has a size");
    let leads = |status: &Status| status.role == Role::Master;
    let began = shows(&mut lab, FIRST, "it is master", SOON, leads).await;
    for _ in 0..room / 80 {
        said(&mut lab, FIRST, &["drain", "web/b1"]).await;
        said(&mut lab, FIRST, &["enable", "web/b1"]).await;
    }
    let now = status(&mut lab, FIRST).await;
    assert_eq!(now.incarnation, began.incarnation, "it lives");
    assert_eq!(running.try_wait().expect("its fate"), None);
    // And ends in order, within a moment more.
    let pid = running.id().and_then(|pid| pid.try_into().ok());
    kill(Pid::from_raw(pid.expect("it runs")), Signal::SIGTERM).expect("it can be told to end");
    let ended = timeout(SOON, running.wait()).await.expect("it ends");
    assert!(ended.expect("its fate").success());
    drop(pipe);
    Ok(())
}

/// A node whose standard error is the journal's stream, as far as it can see.
async fn journal(lab: &mut Lab, node: NodeId) -> Result<(), LabError> {
    lab.node(node).signal(Signal::SIGKILL)?;
    until("it is gone", SOON, async || lab.node(node).ended()).await;
    let file = lab.dir().join("journal");
    let errors = File::create(&file).expect("a file can be made");
    let stream = errors.metadata().expect("it is open");
    let mut run = by_hand(lab, node);
    run.env(
        "JOURNAL_STREAM",
        format!("{}:{}", stream.dev(), stream.ino()),
    );
    let host = lab.network().node(node);
    let running = host.run(async move { run.stdout(Stdio::null()).stderr(errors).spawn() });
    let _running = good("start a node", running.await);
    let text = read(&file, "it became a backup", |text| {
        text.contains("-> backup")
    })
    .await;
    for line in text.lines() {
        let known = ["<3>ERROR ", "<4> WARN ", "<6> INFO "];
        assert!(known.iter().any(|it| line.starts_with(it)), "{line:?}");
    }
    assert!(text.contains("<6> INFO "), "{text}");
    Ok(())
}
