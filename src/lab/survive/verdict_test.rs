//! A verdict that cannot fail is worth nothing: each rule is broken once.

use super::super::gauge::{NewTally, Tally};
use super::*;
use crate::lab::load::Failure;

const CROWD: Crowd = Crowd {
    downloads: 1,
    uploads: 1,
    unpaced: 0,
    pace: 1,
    requests: 1,
    idle: 1,
    new_rate: 1,
};

fn tally() -> Tally {
    Tally {
        standing: 1,
        progress: 1,
        stall_ms: 5_000.0,
        ..Tally::default()
    }
}

/// Nothing is wrong with it, however long it stalled.
fn good(step: Step) -> Window {
    Window {
        step,
        took_ms: 1.0,
        master_before: "lb1",
        masters_after: vec![if step.moves() { "lb2" } else { "lb1" }],
        counts: Counts {
            hole_ms: 300.0,
            tool_stalled_ms: 0.0,
            downloads: tally(),
            uploads: tally(),
            requests: tally(),
            idle: tally(),
            new: NewTally {
                attempts: 3,
                failed: [(Failure::Timeout, 2)].into(),
                ..NewTally::default()
            },
        },
    }
}

fn judged(mode: Mode, step: Step, change: impl Fn(&mut Window)) -> String {
    let mut window = good(step);
    change(&mut window);
    let run = Run::of(1, mode, &CROWD, vec![good(Step::Calm), window]);
    assert_eq!(run.ok, run.why_not.is_empty());
    run.why_not.join("; ")
}

#[test]
fn stalls_and_failed_handshakes_are_told_and_not_judged() {
    for step in [Step::Calm, Step::Kill9, Step::Rejoin, Step::Failover] {
        assert_eq!(judged(Mode::Sync, step, |_| {}), "");
    }
}

#[test]
fn no_connection_may_be_lost_except_with_async() {
    type Of = fn(&mut Counts) -> &mut Tally;
    let kinds: [(Of, &str); 4] = [
        (|c| &mut c.downloads, "kill9: 2 downloads lost"),
        (|c| &mut c.uploads, "kill9: 2 uploads lost"),
        (|c| &mut c.requests, "kill9: 2 requests lost"),
        (|c| &mut c.idle, "kill9: 2 idle lost"),
    ];
    for (of, complaint) in kinds {
        let lose = |window: &mut Window| {
            of(&mut window.counts).lost = [(Failure::Reset, 1), (Failure::Timeout, 1)].into();
        };
        assert_eq!(judged(Mode::Sync, Step::Kill9, lose), complaint);
        assert_eq!(judged(Mode::Proxy, Step::Kill9, lose), complaint);
        assert_eq!(judged(Mode::Async, Step::Kill9, lose), "");
    }
    let lose = |window: &mut Window| window.counts.new.lost = [(Failure::Eof, 1)].into();
    let complaint = "hang: 1 new connections lost after their handshake";
    assert!(judged(Mode::Sync, Step::Hang, lose).starts_with(complaint));
}

#[test]
fn a_wrong_byte_is_wrong_in_every_mode() {
    for mode in [Mode::Sync, Mode::Async, Mode::Proxy] {
        let complaint = judged(mode, Step::Calm, |w| w.counts.uploads.wrong_bytes = 3);
        assert_eq!(complaint, "calm: 3 wrong bytes in uploads");
    }
}

#[test]
fn connections_that_did_nothing_prove_nothing() {
    let silent = |w: &mut Window| w.counts.idle.progress = 0;
    let complaint = judged(Mode::Async, Step::Poweroff, silent);
    assert_eq!(complaint, "poweroff: nothing came of idle");
    assert_eq!(judged(Mode::Async, Step::End, silent), "");
    let mute = |w: &mut Window| w.counts.requests.progress = 0;
    assert_eq!(judged(Mode::Sync, Step::End, mute), "");
    let none = |w: &mut Window| w.counts.new.attempts = 2;
    let complaint = judged(Mode::Sync, Step::Rejoin, none);
    assert_eq!(complaint, "rejoin: no new connection was answered");
}

#[test]
fn the_mastership_moves_with_a_fault_and_only_then() {
    let back = |w: &mut Window| w.masters_after = vec![w.master_before];
    let complaint = judged(Mode::Sync, Step::Failover, back);
    assert_eq!(complaint, "failover: lb1 is master as before");
    let other = |w: &mut Window| w.masters_after = vec!["lb2"];
    let complaint = judged(Mode::Sync, Step::Rejoin, other);
    assert_eq!(complaint, "rejoin: lb1 is master no more");
    let both = |w: &mut Window| w.masters_after = vec!["lb1", "lb2"];
    assert_eq!(judged(Mode::Sync, Step::Kill9, both), "kill9: 2 masters");
}
