//! The program and its tables outlive a process.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::programs::tc::{TcError, qdisc_detach_program};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tandem::datapath::nat::layout::{Flow, FlowKey};
use tandem::datapath::nat::{
    Adopted, Counter, EventKind, Hook, Lease, Nat, NatError, Sizes, cleanup,
};
use tokio::net::TcpStream;

use crate::line::{Line, NODE_LEFT, NODE_RIGHT};
use crate::rig::{Rig, best_hook, connect, exchange};

type Outcome = Result<(), String>;

const BPF: &str = "/sys/fs/bpf";
const SIZES: Sizes = Sizes {
    flows: 4_096,
    slots: 64,
    backends: 64,
    services: 64,
    turns: 64,
    events: 1 << 20,
};
/// How many maps there are.
const MAPS: usize = 22;
/// A lost packet would be missed for that long (tcp_rto_min).
const GAP: Duration = Duration::from_millis(190);

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

fn expect(what: &str, right: bool) -> Outcome {
    right.then_some(()).ok_or_else(|| what.to_owned())
}

/// A directory of this test, in this process's own file system.
fn dir(test: &str) -> PathBuf {
    Path::new(BPF).join("tests").join(test)
}

/// Gives this process a BPF file system of its own, which the program itself mounts, and tries
/// whether all this is allowed. Before there are threads.
pub(crate) fn prepare() -> Outcome {
    unshare(CloneFlags::CLONE_NEWNS).map_err(text)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(text)?;
    // Not mounted: as well.
    while umount2(BPF, MntFlags::MNT_DETACH).is_ok() {}
    let (nat, adopted) = Nat::open(&dir("first"), &SIZES).map_err(text)?;
    expect("nothing was there", adopted == Adopted::default())?;
    nat.close().map_err(text)
}

/// In the node's namespace.
async fn open(line: &Line, dir: &Path, sizes: Sizes) -> Result<(Nat, Adopted), String> {
    let dir = dir.to_owned();
    let opened = line
        .node()
        .run(async move { Nat::open(&dir, &sizes) })
        .await;
    opened.map_err(text)
}

async fn attach(line: &Line, mut nat: Nat, hook: Hook) -> Result<Nat, String> {
    let work = async move {
        nat.attach_by(NODE_LEFT, hook)?;
        nat.attach_by(NODE_RIGHT, hook)?;
        Ok::<_, NatError>(nat)
    };
    line.node().run(work).await.map_err(text)
}

async fn attach_only(line: &Line, mut nat: Nat, names: &[&'static str]) -> Result<Nat, String> {
    let names: BTreeSet<_> = names.iter().copied().collect();
    let work = async move { nat.attach_only(&names).map(|()| nat) };
    line.node().run(work).await.map_err(text)
}

/// Ids of the programs at an interface of the node, by tcx.
async fn programs(line: &Line, interface: &'static str) -> Result<Vec<u32>, String> {
    if best_hook() != Hook::Tcx {
        return Ok(Vec::new());
    }
    let query = async move { SchedClassifier::query_tcx(interface, TcAttachType::Ingress) };
    let (_, programs) = line.node().run(query).await.map_err(text)?;
    Ok(programs
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect())
}

/// How many programs are at an interface of the node, in either way.
async fn at(line: &Line, interface: &'static str) -> Result<usize, String> {
    Ok(programs(line, interface).await?.len() + line.filters(interface).await?)
}

/// How many places a later life finds pinned, of so many: filters have no pins, and are replaced
/// when it attaches.
fn pinned(places: usize) -> usize {
    if best_hook() == Hook::Tcx { places } else { 0 }
}

/// Whether there was a filter of ours; it is removed.
async fn filter(line: &Line, interface: &'static str) -> Result<bool, String> {
    let remove =
        async move { qdisc_detach_program(interface, TcAttachType::Ingress, "tandem_nat") };
    match line.node().run(remove).await {
        Ok(()) => Ok(true),
        Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(text(error)),
    }
}

async fn nothing_attached(line: &Line) -> Outcome {
    for interface in [NODE_LEFT, NODE_RIGHT] {
        expect("no link", programs(line, interface).await?.is_empty())?;
        expect("no filter", !filter(line, interface).await?)?;
    }
    Ok(())
}

/// Asks and answers until it is told to stop. How long the longest answer took.
#[expect(clippy::disallowed_methods, reason = "it measures the kernel")]
async fn talk(mut stream: TcpStream, stop: Arc<AtomicBool>) -> Result<Duration, String> {
    stream.set_nodelay(true).map_err(text)?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        exchange(&mut stream, 500, 500).await?;
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(longest)
}

/// A process dies and another one comes; connections notice nothing.
pub(crate) async fn adopted(hook: Hook) -> Outcome {
    let dir = dir(&format!("adopted-{}", hook.name()));
    let line = Line::build(&[1_500; 2], 1).await?;
    let (nat, _) = open(&line, &dir, SIZES).await?;
    let nat = attach(&line, nat, hook).await?;
    let mut rig = Rig::with(line, nat, false, 0).await?;
    let vip = rig.vip();
    let stream = rig.line.client().run(connect(vip)).await?;
    rig.until(EventKind::Established, 1).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let talking = rig.line.client().spawn(talk(stream, Arc::clone(&stop)));
    let before = programs(&rig.line, NODE_LEFT).await?;
    let Rig {
        line,
        nat,
        peers,
        six,
    } = rig;
    // As kill -9 does.
    drop(nat);
    // Nobody lives: what is there goes on, and nothing begins. This one will ask again.
    let patient = line.client().spawn(connect(vip));
    tokio::time::sleep(Duration::from_millis(300)).await;
    expect("nobody decides", !patient.is_finished())?;
    let (nat, found) = open(&line, &dir, SIZES).await?;
    let links = if hook == Hook::Tcx { 2 } else { 0 };
    expect(
        &format!("{found:?}"),
        found.tables && found.links == links && found.discarded.is_empty(),
    )?;
    let nat = attach(&line, nat, hook).await?;
    let after = programs(&line, NODE_LEFT).await?;
    let replaced = if hook == Hook::Tcx { 1 } else { 0 };
    expect(
        "one program",
        before.len() == replaced && after.len() == replaced,
    )?;
    expect("another program", hook == Hook::Clsact || before != after)?;
    let mut rig = Rig {
        line,
        nat,
        peers,
        six,
    };
    let entries = rig.nat.tables.flows().count();
    expect(&format!("{entries} entries"), entries == 2)?;
    let patient = patient.await.map_err(text)??;
    rig.until(EventKind::Established, 1).await?;
    let third = rig.line.client().run(connect(vip)).await?;
    rig.until(EventKind::Established, 1).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.store(true, Ordering::Relaxed);
    let longest = talking.await.map_err(text)??;
    println!("longest answer: {longest:?}");
    expect(&format!("an answer took {longest:?}"), longest < GAP)?;
    drop((patient, third));
    rig.until(EventKind::Closed, 3).await?;
    let opened = rig.count(Counter::Opened)?;
    expect("counted by all", opened == 3)?;
    let Rig { line, nat, .. } = rig;
    let closed = line.node().run(async move { nat.close() }).await;
    closed.map_err(text)?;
    expect("no directory", !dir.exists())?;
    nothing_attached(&line).await
}

/// What a dead process left is removed, once.
pub(crate) async fn clean_up(hook: Hook) -> Outcome {
    let dir = dir(&format!("clean-up-{}", hook.name()));
    let line = Line::build(&[1_500; 2], 1).await?;
    let (nat, _) = open(&line, &dir, SIZES).await?;
    drop(attach(&line, nat, hook).await?);
    let path = dir.clone();
    let removed = line
        .node()
        .run(async move { cleanup(&path) })
        .await
        .map_err(text)?;
    let hook = hook.name();
    let expected = [
        format!("program at left ({hook})"),
        format!("program at right ({hook})"),
        format!("{MAPS} tables"),
        format!("directory {}", dir.display()),
    ];
    expect(&format!("removed: {removed:?}"), removed == expected)?;
    expect("no directory", !dir.exists())?;
    nothing_attached(&line).await?;
    let again = line
        .node()
        .run(async move { cleanup(&dir) })
        .await
        .map_err(text)?;
    expect(&format!("again: {again:?}"), again.is_empty())
}

/// Tables of other sizes are not adopted, and the program is replaced all the same.
pub(crate) async fn other_sizes() -> Outcome {
    let dir = dir("sizes");
    let line = Line::build(&[1_500; 2], 1).await?;
    let (mut nat, _) = open(&line, &dir, SIZES).await?;
    nat.tables
        .set_flow(&FlowKey::default(), &Flow::default())
        .map_err(text)?;
    let hook = best_hook();
    drop(attach(&line, nat, hook).await?);
    let before = programs(&line, NODE_LEFT).await?;
    let other = Sizes {
        flows: 8_192,
        ..SIZES
    };
    let (nat, found) = open(&line, &dir, other).await?;
    expect(
        &format!("{found:?}"),
        !found.tables && found.links == pinned(2) && found.discarded.len() == MAPS,
    )?;
    expect("an empty table", nat.tables.flows().count() == 0)?;
    let after = programs(&line, NODE_LEFT).await?;
    expect("one program", at(&line, NODE_LEFT).await? == 1)?;
    expect("another program", hook == Hook::Clsact || before != after)?;
    let pins = fs::read_dir(&dir).map_err(text)?.count();
    expect(&format!("{pins} pins"), pins == MAPS + 2)?;
    // Half of the tables are none.
    drop(nat);
    let entries = fs::read_dir(&dir).map_err(text)?;
    for entry in entries {
        let entry = entry.map_err(text)?;
        if entry.file_name().to_string_lossy().ends_with("-ports") {
            fs::remove_file(entry.path()).map_err(text)?;
        }
    }
    let (nat, found) = open(&line, &dir, other).await?;
    expect(
        &format!("{found:?}"),
        !found.tables && found.discarded.len() == MAPS - 1,
    )?;
    nat.close().map_err(text)
}

/// A second process is told who is in its way; the first is not disturbed.
pub(crate) fn one_process() -> Outcome {
    let dir = dir("one");
    let (nat, _) = Nat::open(&dir, &SIZES).map_err(text)?;
    let second = Nat::open(&dir, &SIZES).map(drop);
    expect(
        "no second one",
        matches!(second, Err(NatError::InUse { .. })),
    )?;
    expect(
        "no cleanup",
        matches!(cleanup(&dir), Err(NatError::InUse { .. })),
    )?;
    expect(
        "the first lives",
        fs::read_dir(&dir).map_err(text)?.count() == MAPS,
    )?;
    // The lease is another thread's, and outlives nothing.
    let mut lease: Lease = nat.lease().map_err(text)?;
    let renewed = std::thread::spawn(move || lease.renew(5).and_then(|()| lease.until()));
    let until = renewed
        .join()
        .map_err(|_| "the thread panicked")?
        .map_err(text)?;
    let seen = nat.lease().and_then(|lease| lease.until()).map_err(text)?;
    expect("one lease", (until, seen) == (5, 5))?;
    nat.close().map_err(text)?;
    // Something of somebody else's is not removed.
    let (nat, _) = Nat::open(&dir, &SIZES).map_err(text)?;
    let foreign = dir.join("foreign");
    fs::create_dir(&foreign).map_err(text)?;
    let closed = nat.close();
    let said = closed.err().map(text).unwrap_or_default();
    expect(&said, said.contains("something else is in it"))?;
    fs::remove_dir(&foreign).map_err(text)?;
    let removed = cleanup(&dir).map_err(text)?;
    expect("only the directory was left", removed.len() == 1)
}

/// What cannot be made leaves nothing behind.
pub(crate) fn too_large() -> Outcome {
    let dir = dir("large");
    let huge = Sizes {
        flows: u32::MAX,
        ..SIZES
    };
    let refused = Nat::open(&dir, &huge).map(drop);
    expect(
        &format!("{refused:?}"),
        matches!(refused, Err(NatError::NoMemory { .. })),
    )?;
    expect("no directory", !dir.exists())
}

/// The program is where it is wanted, also when a device comes again under its name.
pub(crate) async fn interfaces() -> Outcome {
    let dir = dir("interfaces");
    let line = Line::build(&[1_500; 2], 1).await?;
    let (nat, _) = open(&line, &dir, SIZES).await?;
    let nat = attach_only(&line, nat, &[NODE_LEFT, NODE_RIGHT]).await?;
    let nat = attach_only(&line, nat, &[NODE_LEFT]).await?;
    expect("not there any more", at(&line, NODE_RIGHT).await? == 0)?;
    expect("still there", at(&line, NODE_LEFT).await? == 1)?;
    // A later life wants the other one only.
    drop(nat);
    let (nat, found) = open(&line, &dir, SIZES).await?;
    expect("adopted", found.tables && found.links == pinned(1))?;
    let nat = attach_only(&line, nat, &[NODE_RIGHT]).await?;
    expect("moved away", at(&line, NODE_LEFT).await? == 0)?;
    expect("moved here", at(&line, NODE_RIGHT).await? == 1)?;
    line.replug().await?;
    expect("a new device", at(&line, NODE_RIGHT).await? == 0)?;
    let nat = attach_only(&line, nat, &[NODE_RIGHT]).await?;
    expect("there again", at(&line, NODE_RIGHT).await? == 1)?;
    let pins = fs::read_dir(&dir).map_err(text)?.count();
    expect(&format!("{pins} pins"), pins == MAPS + 1)?;
    // Gone while nobody lives.
    drop(nat);
    line.replug().await?;
    let (nat, found) = open(&line, &dir, SIZES).await?;
    expect("a void place", found.tables && found.links == 0)?;
    let nat = attach_only(&line, nat, &[NODE_RIGHT]).await?;
    expect("at the new device", at(&line, NODE_RIGHT).await? == 1)?;
    line.node()
        .run(async move { nat.close() })
        .await
        .map_err(text)
}
