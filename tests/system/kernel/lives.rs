//! Nodes that start, end and start again, and those that cannot have the kernel mode.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tandem::lab::{Host, Lab, LabError};
use tandem::model::Role;
use tandem::status::{Event, Mode, Status, What};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, SOON, Service, all_go_on, config, nat, open_all};
use crate::balance::again;
use crate::http::get;
use crate::tools::{FIRST, ask, command, good, output, restart, shows, tandem, until, vip, with};
use crate::{Test, test};

/// From the kill to the first packet of the next life: a start, and a silence of three heartbeats.
const GAP: Duration = Duration::from_secs(3);

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("kernel_a_killed_node_goes_on_with_its_connections", adopted),
        test(
            "kernel_a_node_without_the_right_says_so_or_proxies",
            not_allowed,
        ),
        test("kernel_a_node_without_a_place_for_pins_says_so", no_place),
    ]
}

/// What is pinned there.
fn pinned(dir: &Path) -> Vec<PathBuf> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
}

/// Programs at the interfaces of a host.
async fn attached(host: &Host) -> usize {
    let count = |name| {
        let asked = SchedClassifier::query_tcx(name, TcAttachType::Ingress);
        asked.expect("the kernel tells").1.len()
    };
    host.run(async move { count("eth0") + count("eth1") }).await
}

/// One node, and nobody to take over.
async fn adopted() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(config(&[Service::default()]))).await?;
    let pins = lab.dir().join("pins").join("lb1");
    lab.start_node(FIRST).await?;
    leads(&mut lab).await;
    let held = open_all(&lab.network().client, vip(80), 6).await;
    // One asks all the time; the longest silence is what its user sees.
    let clock = lab.clock();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let (mut streams, mut held) = (held, Vec::new());
    let (mut talker, _) = streams.pop().expect("six");
    held.append(&mut streams);
    let talks = lab.network().client.spawn(async move {
        let mut longest = Duration::ZERO;
        loop {
            let began = clock.now();
            timeout(SOON, again(&mut talker)).await??;
            longest = longest.max(clock.now().since(began));
            if stopped.try_recv() != Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                return Ok::<_, io::Error>(longest);
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    lab.node(FIRST).signal(Signal::SIGKILL)?;
    restart(&mut lab, FIRST).await?;
    leads(&mut lab).await;
    let held = all_go_on(&lab.network().client, held, PATIENCE).await;
    drop(stop);
    let longest = good("it goes on", talks.await.expect("it does not panic"));
    eprintln!("killed and started again: silent for {longest:.1?}");
    assert!(longest < GAP, "{longest:?}");
    let count = ask(&mut lab, FIRST, &["flows", "--count", "--mode", "kernel"]).await;
    let count = String::from_utf8_lossy(&count.stdout)
        .trim()
        .parse::<usize>();
    assert!(
        count.as_ref().is_ok_and(|count| *count >= held.len()),
        "{count:?}"
    );
    assert!(nat(&mut lab, FIRST).await.flows >= held.len() as u64);

    // A clean end leaves nothing.
    let node = lab.network().node(FIRST);
    assert!(attached(node).await == 2 && !pinned(&pins).is_empty());
    lab.node(FIRST).signal(Signal::SIGTERM)?;
    ended(&mut lab).await;
    assert_eq!(pinned(&pins), [] as [PathBuf; 0]);
    assert_eq!(attached(lab.network().node(FIRST)).await, 0);

    // Another one leaves all, and `cleanup` nothing.
    lab.start_node(FIRST).await?;
    leads(&mut lab).await;
    let running = cleanup(&lab, &pins).await;
    assert_eq!(running.status.code(), Some(1), "{running:?}");
    assert!(
        String::from_utf8_lossy(&running.stderr).contains("stop it"),
        "{running:?}"
    );
    lab.node(FIRST).signal(Signal::SIGKILL)?;
    ended(&mut lab).await;
    assert_eq!(
        attached(lab.network().node(FIRST)).await,
        2,
        "it was killed"
    );
    for found in [true, false] {
        let done = cleanup(&lab, &pins).await;
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8_lossy(&done.stdout);
        assert_eq!(text.contains("removed"), found, "{text}");
        assert_eq!(text.contains("nothing to clean up"), !found, "{text}");
        assert_eq!(pinned(&pins), [] as [PathBuf; 0]);
        assert_eq!(attached(lab.network().node(FIRST)).await, 0);
    }
    Ok(())
}

async fn leads(lab: &mut Lab) {
    shows(lab, FIRST, "it leads", SOON, |status| {
        let forwards = status.nat.as_ref().is_some_and(|nat| nat.forwarding);
        status.role == Role::Master && forwards && status.vips.iter().all(|vip| vip.held)
    })
    .await;
}

async fn ended(lab: &mut Lab) {
    until("it ends", SOON, async || lab.node(FIRST).ended()).await;
}

async fn cleanup(lab: &Lab, pins: &Path) -> std::process::Output {
    let pins = pins.to_str().expect("a plain path");
    let host = lab.network().node(FIRST);
    output(host, command(tandem(), &["cleanup", "--pins", pins])).await
}

/// The first node as the lab starts it, with its pins there.
fn node(lab: &mut Lab, pins: &Path) -> Command {
    let socket = lab.node(FIRST).socket();
    let mut node = command(
        tandem(),
        &["run", "--config", "tandem.toml", "--node", "lb1"],
    );
    node.arg("--control").arg(socket).arg("--pins").arg(pins);
    node.current_dir(lab.dir());
    node
}

/// From its start on this program may not load programs into the kernel (capabilities(7)).
fn without_bpf(command: &mut Command) {
    const SYS_ADMIN: libc::c_ulong = 21;
    const PERFMON: libc::c_ulong = 38;
    const BPF: libc::c_ulong = 39;
    let drop = || {
        for capability in [SYS_ADMIN, PERFMON, BPF] {
            // SAFETY: PR_CAPBSET_DROP takes one number.
            Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
        }
        Ok(())
    };
    // SAFETY: prctl(2) is a bare system call, which is all that may happen between fork and exec
    // in a process with threads.
    unsafe { command.pre_exec(drop) };
}

const FALLBACK: &str = "fallback = \"proxy\"\n";

async fn not_allowed() -> Result<(), LabError> {
    let mail = Service {
        name: "mail",
        port: 81,
        keys: FALLBACK,
        ..Service::default()
    };
    let mut lab = Lab::build(&with(config(&[Service::default(), mail]))).await?;
    let pins = lab.dir().join("pins").join("lb1");
    fs::create_dir_all(&pins).expect("a directory");
    // It ends at once, and says for whom, what is missing, and what to do.
    let mut refused = node(&mut lab, &pins);
    without_bpf(&mut refused);
    let refused = output(lab.network().node(FIRST), refused).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    eprintln!("{text}");
    assert_eq!(refused.status.code(), Some(77), "{text}");
    for words in ["web", "CAP_BPF", "CAP_PERFMON", "fallback = \"proxy\""] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("mail"), "mail may be proxied: {text}");
    assert_eq!(pinned(&pins), [] as [PathBuf; 0]);

    // If all may be proxied, they are.
    let proxied = Service {
        keys: FALLBACK,
        ..Service::default()
    };
    let own = config(&[proxied]).replace("@DIR@", &lab.dir().display().to_string());
    fs::write(lab.dir().join("tandem.toml"), own).expect("a file");
    let mut node = node(&mut lab, &pins);
    without_bpf(&mut node);
    let node = crate::tools::serve(lab.network().node(FIRST), node).await;
    let now = shows(&mut lab, FIRST, "it serves", SOON, |status| {
        status.role == Role::Master && status.vips.iter().all(|vip| vip.held)
    });
    let now: Status = now.await;
    let web = &now.services[0];
    assert_eq!(
        (web.mode, web.fallback, &now.nat),
        (Mode::Proxy, true, &None)
    );
    good("a page", get(&lab.network().client, vip(80), "/").await);
    let events = ask(&mut lab, FIRST, &["events", "--json"]).await;
    let events: Vec<Event> = serde_json::from_slice(&events.stdout).expect("a list of events");
    let told = events.iter().any(|event| match &event.what {
        What::Note { text } => text.contains("no kernel mode") && text.contains("CAP_BPF"),
        _ => false,
    });
    assert!(told, "{events:#?}");
    let text = ask(&mut lab, FIRST, &["status"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for words in ["service web on 192.0.2.100:80, proxy, ", "web is proxied"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    drop(node);
    Ok(())
}

/// An ordinary directory holds no pins.
async fn no_place() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(config(&[Service::default()]))).await?;
    let plain = lab.dir().join("plain");
    fs::create_dir(&plain).expect("a directory");
    let refused = node(&mut lab, &plain);
    let refused = output(lab.network().node(FIRST), refused).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    eprintln!("{text}");
    assert_eq!(refused.status.code(), Some(70), "{text}");
    let place = plain.display().to_string();
    for words in ["web", &*place, "bpf", "fallback = \"proxy\""] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(attached(lab.network().node(FIRST)).await, 0);
    Ok(())
}
