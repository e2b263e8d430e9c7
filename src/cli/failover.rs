//! `tandem failover`: asks for a switchover and waits for it, and with `--wait` for the connections
//! that stay with the old master.
//!
//! Waiting is watching: the nodes do what they do, whoever looks.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::Failover;
use super::ask::{ask_done, ask_status, say, to_json};
use super::render;
use super::{Exit, Failure, complain};
use crate::model::Role;
use crate::net::clock::Clock;
use crate::status::{DrainStatus, Status};
use crate::wire::admin::Request;

/// How long the switchover itself may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks for the switchover, and for the connections.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_LONGER: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const LINE_GAP: Duration = Duration::from_secs(10);

/// What `--json` prints at the end.
#[derive(Debug, Serialize)]
struct Outcome<'s> {
    result: Ending,
    master: Option<&'s str>,
    backup: Option<&'s str>,
    epoch: u64,
    /// From the question to the new roles, in milliseconds.
    switched_ms: Option<u64>,
    /// Of the old master; without `--wait` as far as it was then.
    drain: Option<&'s DrainStatus>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    /// As it was asked for.
    Done,
    /// The roles have changed; connections were reset.
    Cut,
    /// The roles have not changed, or not for long.
    NotSwitched,
}

pub(super) fn failover(args: &Failover) -> Result<(), Failure> {
    let control = &args.control.path;
    let before = ask_status(control)?;
    let clock = Clock::start();
    let began = ask_done(control, &Request::Failover)?;
    if !args.json {
        say(&began)?;
    }
    if args.no_wait {
        return Ok(());
    }
    let elapsed = || Duration::from_millis(clock.now().as_millis());
    let mut now = loop {
        let now = ask_status(control)?;
        if switched(&before, &now) {
            break now;
        }
        if elapsed() >= PATIENCE {
            let message = format!(
                "no switchover within {}: {} is {}, {} is {}; see `tandem events` on both",
                span(elapsed()),
                now.node,
                now.role,
                now.peer.name,
                now.peer.role.map_or("unknown", Role::as_str),
            );
            return end(args, &before, &now, None, Err((Exit::Refused, message)));
        }
        std::thread::sleep(LOOK);
    };
    let took = elapsed();
    if !args.json {
        let (master, backup) = nodes(&now);
        say(&format!(
            "{master} is master now, {backup} is backup (epoch {}, {})",
            now.epoch,
            span(took)
        ))?;
    }
    if !args.wait {
        return end(args, &before, &now, Some(took), Ok(None));
    }
    let mut progress = Progress::new();
    let verdict = loop {
        if let Some(verdict) = verdict(&before, &now) {
            break verdict;
        }
        if let Some(drain) = drain(&before, &now) {
            progress.show(&line(old(&before, &now), drain), drain, elapsed());
        }
        std::thread::sleep(LOOK_LONGER);
        now = ask_status(control)?;
    };
    progress.end();
    end(args, &before, &now, Some(took), verdict)
}

/// What to say in the end (if anything), or the exit code and why.
type Verdict = Result<Option<String>, (Exit, String)>;

fn end(
    args: &Failover,
    before: &Status,
    now: &Status,
    took: Option<Duration>,
    verdict: Verdict,
) -> Result<(), Failure> {
    if args.json {
        let (master, backup) = nodes(now);
        let known = matches!(now.role, Role::Master | Role::Backup);
        let outcome = Outcome {
            result: match &verdict {
                Ok(_) => Ending::Done,
                Err((Exit::Cut, _)) => Ending::Cut,
                Err(_) => Ending::NotSwitched,
            },
            master: known.then_some(master),
            backup: known.then_some(backup),
            epoch: now.epoch,
            switched_ms: took.map(|took| took.as_millis() as u64),
            drain: took.and_then(|_| drain(before, now)),
        };
        say(&to_json(&outcome)?)?;
    }
    match verdict {
        Ok(Some(text)) if !args.json => say(&text),
        Ok(_) => Ok(()),
        Err((exit, message)) => Err(Failure::new(exit, message)),
    }
}

/// The roles of both nodes have changed, and the addresses with them.
fn switched(before: &Status, now: &Status) -> bool {
    match (before.role, now.role) {
        (Role::Master, Role::Backup) => now.peer.role == Some(Role::Master),
        (Role::Backup, Role::Master) => now.vips.iter().all(|vip| vip.held),
        _ => false,
    }
}

/// Master and backup.
fn nodes(now: &Status) -> (&str, &str) {
    match now.role {
        Role::Master => (&now.node, &now.peer.name),
        _ => (&now.peer.name, &now.node),
    }
}

/// The old master's name.
fn old<'s>(before: &Status, now: &'s Status) -> &'s str {
    match before.role {
        Role::Master => &now.node,
        _ => &now.peer.name,
    }
}

/// What the old master has left, as the node that is asked knows it.
const fn drain<'s>(before: &Status, now: &'s Status) -> Option<&'s DrainStatus> {
    match before.role {
        Role::Master => now.drain.as_ref(),
        _ => now.peer.drain.as_ref(),
    }
}

/// How it ended, once it has.
fn verdict(before: &Status, now: &Status) -> Option<Verdict> {
    let old = old(before, now);
    if now.role == before.role {
        let text = format!("the switchover was taken back: {} is master", nodes(now).0);
        return Some(Err((Exit::Refused, text)));
    }
    let Some(drain) = drain(before, now) else {
        let text = format!("{old} keeps no connections");
        return Some(Ok(Some(text)));
    };
    if drain.cut_in_ms.is_some() {
        return None;
    }
    let (cut, of) = (
        render::count(drain.cut),
        render::plural(drain.of, "connection"),
    );
    let took = render::span(drain.took_ms);
    Some(match (drain.cut, drain.of) {
        (0, 0) => Ok(Some(format!("{old} had no connections to keep"))),
        (0, _) => Ok(Some(format!("{old} had {of} left; all ended, in {took}"))),
        _ => {
            let text = format!("reset {cut} of {of} on {old}: they had not ended in {took}");
            Err((Exit::Cut, text))
        }
    })
}

/// `connections left on lb1: 37 of 112, at most 4 min 32 s more`
fn line(old: &str, drain: &DrainStatus) -> String {
    let (left, of) = (render::count(drain.left), render::count(drain.of));
    let limit = render::span(drain.cut_in_ms.unwrap_or(0) / 1_000 * 1_000);
    format!("connections left on {old}: {left} of {of}, at most {limit} more")
}

fn span(time: Duration) -> String {
    render::span(time.as_millis() as u64)
}

/// A bar on a terminal; elsewhere lines, one when something has changed. On standard error, since
/// standard output is for the result.
struct Progress {
    bar: ProgressBar,
    said: Option<(u64, Duration)>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:16} {msg}") {
            bar.set_style(style);
        }
        Self { bar, said: None }
    }

    fn show(&mut self, text: &str, drain: &DrainStatus, at: Duration) {
        if !self.bar.is_hidden() {
            self.bar.set_length(drain.of);
            self.bar.set_position(drain.of - drain.left.min(drain.of));
            self.bar.set_message(text.to_owned());
            return;
        }
        let news = |(left, then)| left != drain.left && at >= then + LINE_GAP;
        if drain.left > 0 && self.said.is_none_or(news) {
            self.said = Some((drain.left, at));
            complain(text);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PeerStatus, VipStatus};

    fn node(role: Role, peer: Role, held: bool) -> Status {
        Status {
            node: "lb1".into(),
            role,
            peer: PeerStatus {
                name: "lb2".into(),
                role: Some(peer),
                ..PeerStatus::default()
            },
            vips: vec![VipStatus {
                held,
                ..VipStatus::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_switchover_is_done_when_both_roles_changed_and_the_addresses_moved() {
        let master = node(Role::Master, Role::Backup, true);
        let backup = node(Role::Backup, Role::Master, false);
        assert!(switched(&master, &backup));
        assert!(switched(&backup, &master));

        assert!(!switched(&master, &master), "nothing happened yet");
        assert!(!switched(&backup, &backup), "nothing happened yet");
        let nobody = node(Role::Backup, Role::Backup, false);
        assert!(!switched(&master, &nobody), "the peer has not taken over");
        let empty = node(Role::Master, Role::Master, false);
        assert!(!switched(&backup, &empty), "the address is not here yet");
    }

    #[test]
    fn the_end_of_the_waiting() {
        let drain = |of, cut_in_ms, cut| DrainStatus {
            left: 0,
            of,
            cut_in_ms,
            took_ms: 12_300,
            cut,
        };
        let rows = [
            (None, Some(Ok("{} keeps no connections"))),
            (Some(drain(7, Some(5), 0)), None),
            (
                Some(drain(0, None, 0)),
                Some(Ok("{} had no connections to keep")),
            ),
            (
                Some(drain(1, None, 0)),
                Some(Ok("{} had 1 connection left; all ended, in 12 s")),
            ),
            (
                Some(drain(1_112, None, 37)),
                Some(Err(
                    "reset 37 of 1,112 connections on {}: they had not ended in 12 s",
                )),
            ),
        ];
        let master = node(Role::Master, Role::Backup, true);
        let backup = node(Role::Backup, Role::Master, false);
        for (drain, expected) in rows {
            for (before, now, old) in [(&master, &backup, "lb1"), (&backup, &master, "lb2")] {
                let mut now = now.clone();
                match before.role {
                    Role::Master => now.drain.clone_from(&drain),
                    _ => now.peer.drain.clone_from(&drain),
                }
                let said = |text: &str| text.replace("{}", old);
                let expected = expected.map(|verdict| match verdict {
                    Ok(text) => Ok(Some(said(text))),
                    Err(text) => Err((Exit::Cut, said(text))),
                });
                assert_eq!(verdict(before, &now), expected);
            }
        }
        let back = verdict(&master, &master);
        let text = "the switchover was taken back: lb1 is master".to_owned();
        assert_eq!(back, Some(Err((Exit::Refused, text))));
    }

    #[test]
    fn progress_is_one_line() {
        let drain = DrainStatus {
            left: 37,
            of: 112,
            cut_in_ms: Some(272_800),
            ..DrainStatus::default()
        };
        assert_eq!(
            line("lb1", &drain),
            "connections left on lb1: 37 of 112, at most 4 min 32 s more"
        );
    }
}
