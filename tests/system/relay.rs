//! What clients notice of a fault, by the lab's own measure: short runs of
//! `tandem lab --scenario kill9 --mode kernel` and its like.
//!
//! The goals in milliseconds are for a machine that does nothing else; here only that counts which
//! no machine's speed excuses.

use tandem::lab::relay::{Fault, Plan, Run};
use tandem::lab::survive::Crowd;
use tandem::lab::{Lab, LabError, Mode, Rights};

use super::tools::{REAL_ROOT, RIGHTS, tandem, with};
use super::{Test, test};

/// New connections a second.
const RATE: u32 = 150;
/// Runs at most until one is not disturbed.
const REPEATED: u32 = 3;

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (test("relay_runs_tell_resets_from_what_goes_on", ends), &[]),
        (
            test(
                "relay_a_killed_kernel_mode_master_is_not_noticed_unheard",
                || unnoticed(Fault::Kill9, Mode::Sync, true),
            ),
            &[REAL_ROOT],
        ),
        (
            test("relay_a_killed_proxy_loses_what_it_had_unheard", || {
                unnoticed(Fault::Kill9, Mode::Proxy, true)
            }),
            &[REAL_ROOT],
        ),
        (
            test("relay_a_hanging_kernel_mode_master_stalls_nobody", || {
                unnoticed(Fault::Hang, Mode::Sync, true)
            }),
            &[REAL_ROOT],
        ),
        (
            test(
                "relay_a_switchover_of_proxies_breaks_nothing_unheard",
                || unnoticed(Fault::Switchover, Mode::Proxy, true),
            ),
            &[REAL_ROOT],
        ),
        (
            test("relay_an_upgrade_of_proxies_breaks_nothing", || {
                unnoticed(Fault::Upgrade, Mode::Proxy, false)
            }),
            &[REAL_ROOT],
        ),
    ]
}

/// As many as show it, on a machine that does other things too.
fn plan(fault: Fault, mode: Mode, stale: bool) -> Plan {
    let mut plan = Plan::new(fault, mode, stale, RATE);
    plan.crowd = Crowd {
        downloads: plan.crowd.downloads.min(10),
        uploads: plan.crowd.uploads.min(10),
        pace: 200_000,
        idle: plan.crowd.idle.min(100),
        ..plan.crowd
    };
    plan.wrk = false;
    plan
}

/// Repeated if the mastership moved by itself, as it must where the machine stands still for long.
async fn undisturbed(plan: &Plan) -> Result<Option<Run>, LabError> {
    let rights = *RIGHTS.get().expect("the tests run");
    if plan.allowed(rights).is_err() {
        assert_eq!(rights, Rights::UserNamespace);
        return Ok(None);
    }
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    for number in 1..=REPEATED {
        let run = lab.relay(plan, number).await?;
        if run.wrong_masters == 0 {
            return Ok(Some(run));
        }
        eprintln!("disturbed: {run:#?}");
    }
    panic!("the mastership moved by itself {REPEATED} times");
}

/// What was measured in numbers and not in time, and is over its goal. A lost segment shows as a
/// handshake of more than half a second.
fn missed(run: &Run) -> Vec<String> {
    let of_time = |what: &str| ["ms", "%"].iter().any(|word| what.contains(word));
    let goals = run
        .goals
        .iter()
        .filter(|goal| !goal.ok && !of_time(goal.what));
    let mut missed: Vec<_> = goals
        .map(|goal| format!("{} {}", goal.is, goal.what))
        .collect();
    let delayed: u64 = run.windows.iter().map(|w| w.counts.new.delayed).sum();
    if delayed > 0 {
        missed.push(format!(
            "{delayed} new connections whose segments were lost"
        ));
    }
    missed
}

async fn unnoticed(fault: Fault, mode: Mode, stale: bool) -> Result<(), LabError> {
    let plan = plan(fault, mode, stale);
    if let Some(run) = undisturbed(&plan).await? {
        assert_eq!(missed(&run), [""; 0], "{run:#?}");
        assert!(run.new_total > 200, "{run:#?}");
    }
    Ok(())
}

/// The measure itself, where much ends: a proxy that dies resets what it had and nothing goes on.
async fn ends() -> Result<(), LabError> {
    let plan = plan(Fault::Kill9, Mode::Proxy, false);
    let Some(run) = undisturbed(&plan).await? else {
        return Ok(());
    };
    let old = run.old.expect("a process died");
    assert_eq!((old.stood, old.reset, old.alive), (40, 40, 0), "{run:#?}");
    assert!(run.died_ms.is_some(), "{run:#?}");
    assert!(run.lost >= 40, "{run:#?}");
    assert_eq!(run.wrong_bytes, 0, "{run:#?}");
    assert_eq!(run.windows[0].counts.new.lost(), 0, "before the fault");
    Ok(())
}
