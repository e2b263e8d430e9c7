//! What the tests of the main job share: programs on a host, a pair's standing, waiting.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use tandem::lab::{Host, Lab, LabConfig, LabError, Rights, VIP4, VIP6, default_config};
use tandem::model::{NodeId, Role};
use tandem::status::{Event, Status, What};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

pub(crate) const FIRST: NodeId = NodeId::First;
pub(crate) const SECOND: NodeId = NodeId::Second;
/// Longest run of a program that ends by itself.
const PROGRAM: Duration = Duration::from_secs(30);
/// Where programs are that an ordinary user's path leaves out.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The program under test.
pub(crate) fn tandem() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_tandem"))
}

/// A pair with this configuration.
pub(crate) fn with(config: String) -> LabConfig {
    let mut lab = LabConfig::new(tandem());
    lab.config = match RIGHTS.get() {
        Some(Rights::UserNamespace) => config.replace("misses = 3", "misses = 6"),
        _ => config,
    };
    lab
}

/// How the tests came by their rights. Without root there is no real-time priority, and on a busy
/// machine a node may stand still for longer than its dead-man timer allows with the lab's 300 ms.
pub(crate) static RIGHTS: OnceLock<Rights> = OnceLock::new();

/// The lab's configuration with this replaced, which must be there.
pub(crate) fn default_but(old: &str, new: &str) -> String {
    let text = default_config();
    assert!(text.contains(old), "{old:?} is not in the lab's file");
    text.replace(old, new)
}

/// A service of this name on this port of the VIP, on the n-th backend's address.
pub(crate) fn service(name: &str, port: u16, backend: IpAddr) -> String {
    format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = [\"{VIP4}:{port}\"]\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n\
         [[service.backend]]\nname = \"{name}1\"\naddress = \"{backend}:{port}\"\n"
    )
}

/// A port of the VIP.
pub(crate) fn vip(port: u16) -> SocketAddr {
    SocketAddr::new(VIP4.into(), port)
}

/// A port of the VIP of the other family.
pub(crate) fn vip6(port: u16) -> SocketAddr {
    SocketAddr::new(VIP6.into(), port)
}

/// Where a program is.
pub(crate) fn find(program: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    all.map(|dir| dir.join(&program))
        .find(|file| file.is_file())
}

/// What a test of the kernel mode needs, beside programs.
pub(crate) const REAL_ROOT: &str = "root outside of any user namespace";

/// Why a test that needs these programs, or real root, cannot run here.
pub(crate) fn missing(needed: &[&str]) -> Option<String> {
    if needed.contains(&REAL_ROOT) && RIGHTS.get() != Some(&Rights::Root) {
        return Some(format!("the kernel takes programs only from {REAL_ROOT}"));
    }
    let programs = needed.iter().filter(|word| **word != REAL_ROOT);
    let absent = programs.clone().find(|program| find(program).is_none());
    if let Some(program) = absent {
        return Some(format!("{program} is not installed"));
    }
    // It changes to a user of its own, and a user namespace of ours has only one.
    let alone = || fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.ends_with(" 1\n"));
    let refused = needed.contains(&"sshd") && alone();
    refused.then(|| "sshd needs more users than an unprivileged user namespace has".to_owned())
}

/// A program, to be started by [`serve`] or [`output`].
pub(crate) fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let program = program.as_ref();
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // SAFETY: prctl(2) is a bare system call, which is all that may happen between fork and exec
    // in a process with threads.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
    command
}

/// Starts a program on a host. It ends when the result is dropped, or the host.
pub(crate) async fn serve(host: &Host, mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    host.run(async move { command.spawn() })
        .await
        .expect("the program starts")
}

/// Runs a program on a host to its end.
pub(crate) async fn output(host: &Host, mut command: Command) -> Output {
    let run = host.run(async move { timeout(PROGRAM, command.output()).await });
    let done = run.await.expect("the program ends in time");
    done.expect("the program starts")
}

/// What a program printed, which must have succeeded.
pub(crate) async fn printed(host: &Host, command: Command) -> String {
    let what = format!("{:?}", command.as_std());
    let output = output(host, command).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {text}{complaint}");
    text
}

/// Runs the program's command line against a node.
pub(crate) async fn ask(lab: &mut Lab, node: NodeId, arguments: &[&str]) -> Output {
    let socket = lab.node(node).socket();
    let mut command = command(tandem(), arguments);
    command.arg("--control").arg(socket);
    output(&lab.network().client, command).await
}

/// `tandem status --json` of a node.
pub(crate) async fn status(lab: &mut Lab, node: NodeId) -> Status {
    let output = ask(lab, node, &["status", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("status --json prints a status")
}

/// What must not change while nothing happens to a node: life, role, epoch, the last change of
/// role, and which addresses it holds.
pub(crate) type Standing = (String, Role, u64, Option<Event>, Vec<bool>);

/// The standing of both nodes.
pub(crate) async fn standing(lab: &mut Lab) -> [Standing; 2] {
    let [first, second] = [status(lab, FIRST).await, status(lab, SECOND).await];
    [first, second].map(|s| {
        let held = s.vips.iter().map(|vip| vip.held).collect();
        (s.incarnation, s.role, s.epoch, s.last_transition, held)
    })
}

/// The notes in a node's timeline.
pub(crate) async fn notes(lab: &mut Lab, node: NodeId) -> Result<Vec<String>, LabError> {
    let events = lab.node(node).events().await?;
    let notes = events.into_iter().filter_map(|event| match event.what {
        What::Note { text } => Some(text),
        _ => None,
    });
    Ok(notes.collect())
}

/// The answers of a load must all be there.
pub(crate) fn all_answered(record: &tandem::lab::Record) -> &tandem::lab::Record {
    assert_eq!(record.failures(), BTreeMap::new(), "no request fails");
    assert!(!record.answers().is_empty(), "requests were answered");
    record
}

/// Waits until this gives something; panics with what it was.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Whether each node still runs, and its log: both are gone once a test has failed.
fn tell(lab: &mut Lab) {
    for node in NodeId::BOTH {
        let node = lab.node(node);
        let fate = match node.ended() {
            Some(status) => status.to_string(),
            None if node.is_running() => "runs".to_owned(),
            None => "was not started".to_owned(),
        };
        let log = fs::read_to_string(node.log()).unwrap_or_default();
        eprintln!("{}: {fate}\n{log}", node.name());
    }
}

/// Waits until a node's status shows this.
pub(crate) async fn shows(
    lab: &mut Lab,
    node: NodeId,
    what: &str,
    within: Duration,
    shown: impl Fn(&Status) -> bool,
) -> Status {
    let deadline = Instant::now() + within;
    loop {
        let now = lab.node(node).status().await.ok();
        match now {
            Some(status) if shown(&status) => return status,
            other if Instant::now() >= deadline => {
                tell(lab);
                panic!("{what}: {other:#?}");
            }
            _ => {}
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a node again that was told to end, once it is gone: that takes the kernel a while.
pub(crate) async fn restart(lab: &mut Lab, node: NodeId) -> Result<(), LabError> {
    let patience = Duration::from_secs(10);
    until("it is gone", patience, async || lab.node(node).ended()).await;
    lab.start_node(node).await
}

/// The result of a task on a host that does IO.
pub(crate) fn good<T>(what: &str, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}
