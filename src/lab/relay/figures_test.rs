//! Figures that cannot be bad, and goals that cannot be missed, are worth nothing: each is once.

use super::super::switches;
use super::*;
use crate::lab::Failure;
use crate::lab::config::Mode;
use crate::lab::survive::{End, NewTally, Tally};
use crate::time::Mono;

const fn at(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

/// The process was killed at 1,000 ms and gone at 1,020 ms.
const DEATH: Death = Death {
    at: at(1_000),
    gone: Some(at(1_020)),
    until: at(2_500),
};

fn window(step: Step) -> Window {
    let tally = || Tally {
        progress: 1_000,
        stall_ms: 5.0,
        ..Tally::default()
    };
    Window {
        step,
        took_ms: 1_000.0,
        master_before: "lb1",
        masters_after: vec![if step.moves() { "lb2" } else { "lb1" }],
        counts: Counts {
            hole_ms: 3.0,
            tool_stalled_ms: 1.0,
            downloads: tally(),
            uploads: tally(),
            requests: tally(),
            idle: tally(),
            new: NewTally {
                attempts: 3_000,
                handshake_ms: 20.0,
                ..NewTally::default()
            },
        },
    }
}

/// A run in which all went well, but for this.
fn run(fault: Fault, mode: Mode, spoil: impl FnOnce(&mut Evidence<'_>)) -> Run {
    let plan = Plan::new(fault, mode, false, 3_000);
    let mut steps = plan.steps();
    steps.push(Step::End);
    let death = matches!(fault, Fault::Kill9 | Fault::Hang).then_some(DEATH);
    let how = How::Reset;
    let resets = match (death, mode) {
        (Some(_), Mode::Proxy) => vec![End { how, at: at(1_008) }; 40],
        _ => Vec::new(),
    };
    let mut evidence = Evidence {
        plan: &plan,
        number: 1,
        windows: steps.into_iter().map(window).collect(),
        death,
        ends: Ends {
            of_staying: resets,
            of_new: Vec::new(),
        },
        wrk: None,
    };
    spoil(&mut evidence);
    Run::of(&evidence)
}

fn missed(run: &Run) -> Vec<&'static str> {
    let missed = run.goals.iter().filter(|goal| !goal.ok);
    missed.map(|goal| goal.what).collect()
}

#[test]
fn where_all_is_well_every_goal_is_met() {
    for fault in Fault::ALL {
        for mode in [Mode::Sync, Mode::Async, Mode::Proxy] {
            let run = run(fault, mode, |_| {});
            assert_eq!(missed(&run), [""; 0], "{fault:?} {mode:?}");
            assert!(run.ok);
        }
    }
}

#[test]
fn each_goal_of_a_kill_is_missed_by_what_it_is_about() {
    type Spoil = fn(&mut Evidence<'_>);
    let cases: [(Spoil, &str); 10] = [
        (
            |e| e.windows[0].counts.new.attempts = 2_000,
            "% below the lab's own rate while calm",
        ),
        (
            |e| e.windows[1].counts.new.skipped = 1,
            "new connections not opened",
        ),
        (
            |e| e.windows[1].masters_after.clear(),
            "steps without the right master",
        ),
        (
            |e| e.windows[1].masters_after = vec!["lb1"],
            "steps without the right master",
        ),
        (
            |e| e.windows[3].counts.uploads.wrong_bytes = 1,
            "wrong bytes",
        ),
        (
            |e| e.windows[1].counts.new.failed = [(Failure::Refused, 1)].into(),
            "new connections lost",
        ),
        (
            |e| e.windows[3].counts.new.lost = [(Failure::Timeout, 1)].into(),
            "new connections lost",
        ),
        (
            |e| e.windows[1].counts.new.late = 1,
            "new connections later than 100 ms",
        ),
        (
            |e| e.windows[2].counts.downloads.lost = [(Failure::Reset, 1)].into(),
            "old connections lost",
        ),
        (
            |e| e.windows[1].counts.requests.stall_ms = 10.5,
            "longest stall of a request, median, ms",
        ),
    ];
    for (spoil, what) in cases {
        assert_eq!(missed(&run(Fault::Kill9, Mode::Sync, spoil)), [what]);
    }
}

#[test]
fn a_run_is_void_if_the_lab_itself_was_too_slow_and_it_failed() {
    let slow = |e: &mut Evidence<'_>| e.windows[0].counts.new.attempts = 2_000;
    assert!(run(Fault::Kill9, Mode::Sync, slow).is_void());
    let late = |e: &mut Evidence<'_>| e.windows[1].counts.new.late = 1;
    assert!(!run(Fault::Kill9, Mode::Sync, late).is_void());
}

#[test]
fn a_stall_counts_over_all_runs_and_not_in_each() {
    let slow = |e: &mut Evidence<'_>| e.windows[1].counts.requests.stall_ms = 50.0;
    let runs = [
        run(Fault::Kill9, Mode::Sync, |_| {}),
        run(Fault::Kill9, Mode::Sync, slow),
        run(Fault::Kill9, Mode::Sync, |_| {}),
    ];
    assert!(runs[1].ok, "one run's is no verdict");
    let plan = Plan::new(Fault::Kill9, Mode::Sync, false, 3_000);
    assert!(judge(&plan, &runs).iter().all(|goal| goal.ok));
    assert!(judge(&plan, &runs[..2]).iter().any(|goal| !goal.ok));
    assert!(
        judge(&plan, &[]).iter().all(|goal| !goal.ok),
        "no run is none"
    );
}

#[test]
fn old_connections_of_a_proxy_are_told_apart_by_their_ends() {
    let run = |spoil: fn(&mut Evidence<'_>)| run(Fault::Kill9, Mode::Proxy, spoil);
    let old = run(|_| {}).old.expect("a process died");
    assert_eq!(
        (old.stood, old.reset, old.fin, old.other, old.alive),
        (40, 40, 0, 0, 0)
    );
    assert_eq!(old.last_us, 8_000);

    let fin = run(|e| e.ends.of_staying[3].how = How::Fin);
    let not_reset = "old connections not reset";
    assert_eq!(missed(&fin), ["old connections ended by FIN"]);
    assert_eq!(
        missed(&run(|e| e.ends.of_staying[3].how = How::Other)),
        [not_reset]
    );
    assert_eq!(
        missed(&run(|e| e.ends.of_staying.truncate(39))),
        [not_reset]
    );
    let late = run(|e| e.ends.of_staying[3].at = at(1_051));
    assert_eq!(missed(&late), ["last reset of an old connection, ms"]);
    // Before the kill, and after the watch: other connections.
    assert_eq!(
        missed(&run(|e| e.ends.of_staying[3].at = at(999))),
        [not_reset]
    );
    assert_eq!(
        missed(&run(|e| e.ends.of_staying[3].at = at(2_501))),
        [not_reset]
    );
}

fn lost_one(began: Mono, ended: Mono) -> Trouble {
    Trouble {
        began,
        ended,
        failure: Some(Failure::Reset),
        port: Some(40_000),
    }
}

#[test]
fn only_what_the_dying_process_had_is_excused() {
    let lost = |began, ended| {
        run(Fault::Kill9, Mode::Proxy, |e| {
            let (began, ended) = (at(began), at(ended));
            e.ends.of_new.push(lost_one(began, ended));
            e.windows[1].counts.new.lost = [(Failure::Reset, 1)].into();
        })
    };
    let counted = |run: &Run| (run.new_in_flight, run.new_while_dying);
    let open = lost(998, 1_003);
    assert_eq!((counted(&open), open.ok), ((1, 0), true));
    let begun = lost(1_004, 1_006);
    assert_eq!((counted(&begun), begun.ok), ((0, 1), true));
    for run in [lost(1_021, 1_022), lost(990, 999)] {
        assert_eq!(counted(&run), (0, 0));
        assert_eq!(
            missed(&run),
            ["new connections lost that were not in flight"]
        );
    }
    // One that nobody saw die excuses nothing.
    let alive = run(Fault::Kill9, Mode::Proxy, |e| {
        let (began, ended) = (at(998), at(1_003));
        e.ends.of_new.push(lost_one(began, ended));
        e.windows[1].counts.new.lost = [(Failure::Reset, 1)].into();
        e.death = Some(Death {
            gone: None,
            ..DEATH
        });
    });
    assert!(!alive.ok);
}

#[test]
fn the_other_faults_have_goals_of_their_own() {
    let slow = |e: &mut Evidence<'_>| e.windows[1].counts.new.handshake_ms = 301.0;
    let what = "slowest new connection, ms";
    assert_eq!(missed(&run(Fault::Hang, Mode::Sync, slow)), [what]);
    let silent = |e: &mut Evidence<'_>| e.windows[2].counts.idle.progress = 999;
    let what = "idle connections that did not answer";
    assert_eq!(missed(&run(Fault::Switchover, Mode::Proxy, silent)), [what]);
    let errors = |e: &mut Evidence<'_>| {
        e.wrk = Some(Wrk {
            requests: 9,
            errors: 1,
        });
    };
    let what = "errors that wrk saw";
    assert_eq!(missed(&run(Fault::Switchover, Mode::Sync, errors)), [what]);
    let reset = |e: &mut Evidence<'_>| {
        e.windows[1].counts.uploads.lost = [(Failure::Reset, 1)].into();
    };
    let what = "old connections lost";
    assert_eq!(missed(&run(Fault::Upgrade, Mode::Proxy, reset)), [what]);
}

#[test]
fn each_switchover_shows_what_went_wrong_in_it() {
    let ten = |spoil: fn(&mut Evidence<'_>)| {
        run(Fault::Switchover, Mode::Proxy, |e| {
            e.windows = [Step::Calm, Step::End].map(window).to_vec();
            let switch = || (0..10).map(|_| window(Step::Failover));
            e.windows.splice(1..1, switch());
            spoil(e);
        })
    };
    let well = ten(|_| {});
    assert!(well.ok);
    assert_eq!(well.switches.len(), 12, "the time before, and the end");
    assert!(well.switches.iter().all(|switch| switch.errors == 0));
    let text = switches::text(std::slice::from_ref(&well));
    for words in [
        "10 switchovers: no error of any kind, no wrong byte.",
        "0 of 36000 new connections lost, 0 old ones; wrk did not run.",
        "handshake 20 ms (number 10; calm 20)",
        "lb1 to lb2",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }

    let ill = ten(|e| {
        let counts = &mut e.windows[4].counts;
        counts.new.failed = [(Failure::Refused, 2)].into();
        counts.uploads.lost = [(Failure::Reset, 1)].into();
        counts.idle.progress = 990;
        counts.requests.stall_ms = 77.0;
        e.windows[7].counts.downloads.wrong_bytes = 3;
        e.windows[9].masters_after.clear();
        e.wrk = Some(Wrk {
            requests: 9,
            errors: 5,
        });
    });
    assert!(!ill.ok);
    let fourth = &ill.switches[4];
    assert_eq!((fourth.number, fourth.errors), (Some(4), 13));
    let wrong = [
        "2 new failed (Refused)",
        "1 uploads lost (Reset)",
        "10 idle did not answer",
    ];
    assert_eq!(fourth.why, wrong);
    assert_eq!(ill.switches[7].why, ["3 wrong bytes in downloads"]);
    assert_eq!(ill.switches[9].what, "lb1 to nobody");
    let text = switches::text(&[ill]);
    for words in [
        "10 switchovers: 22 ERRORS.",
        "2 of 36000 new connections lost, 1 old ones; wrk saw 5 errors in 9 requests.",
        "request 77 ms (number 4; calm 5)",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(switches::text(&[run(Fault::Kill9, Mode::Sync, |_| {})]), "");
}
