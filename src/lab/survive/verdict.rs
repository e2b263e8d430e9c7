//! What a run must have shown. Pure.

use serde::Serialize;

use super::clients::Crowd;
use super::gauge::{Counts, Kind};
use super::run::Step;
use crate::lab::config::Mode;

/// What one step did to the connections.
#[derive(Clone, Debug, Serialize)]
pub struct Window {
    /// What was done.
    pub step: Step,
    /// How long it and what followed was watched.
    pub took_ms: f64,
    /// Who was master.
    pub master_before: &'static str,
    /// Who says that it is.
    pub masters_after: Vec<&'static str>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
}

/// One run: all steps in turn, with the same connections.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// From 1.
    pub run: u32,
    /// In the order in which they ran.
    pub windows: Vec<Window>,
    /// Nothing is wrong.
    pub ok: bool,
    /// What is.
    pub why_not: Vec<String>,
}

impl Run {
    pub(super) fn of(run: u32, mode: Mode, crowd: &Crowd, windows: Vec<Window>) -> Self {
        let all = windows.iter();
        let why_not: Vec<_> = all.flat_map(|w| complaints(mode, crowd, w)).collect();
        Self {
            run,
            windows,
            ok: why_not.is_empty(),
            why_not,
        }
    }
}

/// What is wrong with a window. Nothing is asked of `async`, other than that no byte is wrong and
/// that the pair is a pair; proxy mode is held to what it does not promise, to show the difference.
fn complaints(mode: Mode, crowd: &Crowd, window: &Window) -> Vec<String> {
    let Window { step, counts, .. } = window;
    let mut found = Vec::new();
    let mut claim = |good: bool, what: String| {
        if !good {
            found.push(format!("{}: {what}", step.name()));
        }
    };
    let masters = &window.masters_after;
    claim(masters.len() == 1, format!("{} masters", masters.len()));
    let before = window.master_before;
    let moved = masters.first().is_some_and(|after| *after != before);
    let is = if moved { "no more" } else { "as before" };
    claim(
        masters.len() != 1 || moved == step.moves(),
        format!("{before} is master {is}"),
    );
    let strict = mode != Mode::Async;
    for (kind, tally) in counts.kinds() {
        let name = kind.name();
        let lost = tally.lost();
        claim(!strict || lost == 0, format!("{lost} {name} lost"));
        let wrong = tally.wrong_bytes;
        claim(wrong == 0, format!("{wrong} wrong bytes in {name}"));
        let worked = tally.progress > 0 || crowd.of(kind) == 0;
        // At the end streams run out; it may be over before anybody asks once more.
        let due = *step != Step::End || !matches!(kind, Kind::Idle | Kind::Requests);
        claim(worked || !due, format!("nothing came of {name}"));
    }
    let lost = counts.new.lost();
    let what = format!("{lost} new connections lost after their handshake");
    claim(!strict || lost == 0, what);
    let worked = counts.new.attempts > counts.new.failed() + lost;
    let due = crowd.new_rate > 0 && *step != Step::End;
    claim(worked || !due, "no new connection was answered".to_owned());
    found
}

#[cfg(test)]
#[path = "verdict_test.rs"]
mod tests;
