//! The traffic of `tandem lab --scenario survive`: that it finds nothing where nothing is wrong, and
//! what is lost where something is.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tandem::lab::survive::{Crowd, Plan, Run, Step};
use tandem::lab::{BACKENDS, Lab, LabError, Lan, Mode, backend_address};
use tokio::net::TcpStream;

use super::tools::{FIRST, SECOND, good, tandem, with};
use super::{Test, test};

/// Longest packet towards the backends in the test of it, and the longest segment that fits.
const MTU: u32 = 1_400;
const SEGMENT: u32 = MTU - 40;
/// A stream that carries only what fits into its first packets shows nothing.
const BULK: u64 = 10_000_000;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("survive_finds_nothing_lost_where_nothing_happens", calm),
        test("survive_finds_what_a_killed_proxy_loses", killed),
        test("survive_needs_both_ways_of_a_smaller_mtu", smaller_mtu),
    ]
}

/// As many as show it, on a machine that does other things too.
fn plan(steps: &[Step]) -> Plan {
    let mut plan = Plan::new(Mode::Proxy);
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

async fn run(lab: &mut Lab, plan: &Plan) -> Result<Run, LabError> {
    lab.survive(plan, 1).await
}

async fn calm() -> Result<(), LabError> {
    let plan = plan(&[Step::Calm]);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    for _ in 0..2 {
        let run = run(&mut lab, &plan).await?;
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
    let plan = plan(&[Step::Calm, Step::Kill9, Step::Rejoin]);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    let run = run(&mut lab, &plan).await?;
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

/// The backends' LAN has a smaller MTU than the clients': bulk in both directions, and small
/// messages.
async fn smaller_mtu() -> Result<(), LabError> {
    let plan = plan(&[Step::Calm]);
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
    let run = run(&mut lab, &plan).await?;
    assert_eq!(run.why_not, [""; 0]);
    let counts = &run.windows[0].counts;
    for tally in [&counts.downloads, &counts.uploads] {
        assert!(tally.progress > BULK, "{counts:?}");
    }
    Ok(())
}
