//! The traffic of `tandem lab --scenario survive`: that it finds nothing where nothing is wrong, and
//! what is lost where something is.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use socket2::SockRef;
use tandem::lab::survive::{Crowd, Plan, Run, Step, Window};
use tandem::lab::{BACKENDS, Lab, LabConfig, LabError, Lan, Mode, Rights, backend_address};
use tokio::net::TcpStream;

use super::tools::{FIRST, RIGHTS, SECOND, good, tandem, until, with};
use super::{Test, test};

/// Longest packet towards the backends in the test of it, and the longest segment that fits.
const MTU: u32 = 1_400;
const SEGMENT: u32 = MTU - 40;
/// A stream that carries only what fits into its first packets shows nothing.
const BULK: u64 = 10_000_000;
/// Runs at most until one is not disturbed.
const REPEATED: u32 = 3;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("survive_finds_nothing_lost_where_nothing_happens", calm),
        test("survive_finds_what_a_killed_proxy_loses", killed),
        test("survive_loses_nothing_in_kernel_mode", kernel),
        test("survive_goes_both_ways_with_a_smaller_mtu", smaller_mtu),
        test("survive_gives_kernel_mode_nodes_a_place_for_pins", pins),
    ]
}

/// As many as show it, on a machine that does other things too.
fn plan(mode: Mode, steps: &[Step]) -> Plan {
    let mut plan = Plan::new(mode);
    plan.steps = steps.to_vec();
    plan.crowd = Crowd {
        downloads: 12,
        uploads: 12,
        unpaced: 1,
        requests: 10,
        idle: 100,
        new_rate: 100,
        ..plan.crowd
    };
    plan
}

/// Repeated if the mastership moved by itself, as it must where the machine stands still for long.
async fn undisturbed(lab: &mut Lab, plan: &Plan) -> Result<Run, LabError> {
    for number in 1..=REPEATED {
        let run = lab.survive(plan, number).await?;
        let fault = |step| matches!(step, Step::Kill9 | Step::Failover);
        let stayed = |w: &Window| fault(w.step) || w.masters_after == [w.master_before];
        if number == REPEATED || run.windows.iter().all(stayed) {
            return Ok(run);
        }
    }
    unreachable!("the last one is returned")
}

async fn calm() -> Result<(), LabError> {
    let plan = plan(Mode::Proxy, &[Step::Calm]);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    for _ in 0..2 {
        let run = undisturbed(&mut lab, &plan).await?;
        assert_eq!(run.why_not, [""; 0]);
        let [calm, end] = &run.windows[..] else {
            panic!("a window for the step and one for the end: {run:?}");
        };
        assert_eq!(end.step, Step::End);
        let counts = &calm.counts;
        let standing = [
            &counts.downloads,
            &counts.uploads,
            &counts.requests,
            &counts.idle,
        ];
        assert_eq!(standing.map(|tally| tally.standing), [12, 12, 10, 100]);
        assert_eq!(counts.idle.progress, 100, "each spoke once");
        assert!(counts.new.attempts > 100, "{:?}", counts.new);
        // One is not paced; the others have 250 kB/s each for 2.5 s.
        assert!(counts.downloads.progress > 11 * 400_000, "{counts:?}");
        assert!(counts.uploads.progress > 11 * 400_000, "{counts:?}");
    }
    Ok(())
}

async fn killed() -> Result<(), LabError> {
    let plan = plan(Mode::Proxy, &[Step::Calm, Step::Kill9, Step::Rejoin]);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    let run = lab.survive(&plan, 1).await?;
    assert!(!run.ok);
    let [calm, after @ ..] = &run.windows[..] else {
        panic!("a window for each step: {run:?}");
    };
    assert_eq!(calm.counts.uploads.lost() + calm.counts.requests.lost(), 0);
    // Whoever sends learns at once that the connection is gone, whoever only waits does not.
    let killed = &after[0];
    assert!(killed.counts.uploads.lost() >= 12, "{killed:?}");
    assert!(killed.counts.requests.lost() >= 10, "{killed:?}");
    assert!(killed.counts.idle.lost() >= 100, "{killed:?}");
    let said = |what: &str| run.why_not.iter().any(|why| why.contains(what));
    assert!(said("uploads lost") && said("requests lost") && said("idle lost"));
    for window in &run.windows {
        let counts = &window.counts;
        let wrong = [
            &counts.downloads,
            &counts.uploads,
            &counts.requests,
            &counts.idle,
        ];
        assert_eq!(wrong.map(|tally| tally.wrong_bytes), [0; 4], "{window:?}");
    }
    Ok(())
}

/// The same as above, and nobody notices: the process killed and back, and the other way on purpose.
async fn kernel() -> Result<(), LabError> {
    let steps = [Step::Calm, Step::Kill9, Step::Rejoin, Step::Failover];
    let plan = plan(Mode::Sync, &steps);
    let rights = *RIGHTS.get().expect("the tests run");
    if plan.allowed(rights).is_err() {
        assert_eq!(rights, Rights::UserNamespace);
        return Ok(());
    }
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    let run = undisturbed(&mut lab, &plan).await?;
    assert_eq!(run.why_not, [""; 0]);
    Ok(())
}

/// The backends' LAN has a smaller MTU than the clients': bulk in both directions, and small
/// messages.
async fn smaller_mtu() -> Result<(), LabError> {
    let plan = plan(Mode::Proxy, &[Step::Calm]);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    for n in 0..BACKENDS {
        let network = lab.network();
        let host = &network.backends[n];
        network.set_mtu(host, Lan::Back, MTU).await?;
    }
    for node in [FIRST, SECOND] {
        let network = lab.network();
        network.set_mtu(network.node(node), Lan::Back, MTU).await?;
    }
    let at = SocketAddr::new(backend_address(0).into(), 80);
    let node = lab.network().node(FIRST);
    let connect = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(at));
    let stream = good("connect", node.run(connect).await.expect("in time"));
    let segment = good("ask", SockRef::from(&stream).tcp_mss());
    assert!(segment <= SEGMENT, "{segment}");
    drop(stream);
    let run = undisturbed(&mut lab, &plan).await?;
    assert_eq!(run.why_not, [""; 0]);
    let counts = &run.windows[0].counts;
    for tally in [&counts.downloads, &counts.uploads] {
        assert!(tally.progress > BULK, "{counts:?}");
    }
    Ok(())
}

/// Nodes get a directory each on a bpf file system of the lab's own, which goes with it, where that can
/// be had: every pair relays.
async fn pins() -> Result<(), LabError> {
    let rights = *RIGHTS.get().expect("the tests run");
    let wanted = rights == Rights::Root;
    for mode in [Mode::Proxy, Mode::Sync] {
        let plan = Plan::new(mode);
        if plan.allowed(rights).is_err() {
            assert_eq!((rights, mode), (Rights::UserNamespace, Mode::Sync));
            continue;
        }
        // It writes its arguments to its log, and ends.
        let mut config = LabConfig::new("/bin/echo");
        config.config = plan.lab(tandem()).config;
        let mut lab = Lab::build(&config).await?;
        lab.start_node(FIRST).await?;
        let log = lab.node(FIRST).log();
        let said = until(
            "it says its arguments",
            Duration::from_secs(5),
            async || {
                let text = fs::read_to_string(&log).unwrap_or_default();
                text.ends_with('\n').then_some(text)
            },
        );
        let said = said.await;
        let dir = lab.dir().to_owned();
        let pins = dir.join("pins").join("lb1");
        let option = format!("--pins {}", pins.display());
        assert_eq!(said.contains(&option), wanted, "{said}");
        assert_eq!(said.contains("--pins"), wanted, "{said}");
        let on_bpf = statfs(&pins).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
        assert_eq!(on_bpf, wanted);
        drop(lab);
        assert!(!dir.exists(), "nothing is left");
    }
    Ok(())
}
