//! The timeline: one line an event, oldest first.

use super::words::{millis, utc};
use super::{Page, Tone};
use crate::model::Role;
use crate::status::{Cause, Event, What};

/// The timeline.
pub fn events(events: &[Event]) -> Page {
    let mut page = Page::default();
    for event in events {
        let (tone, kind, text) = one(&event.what);
        page.line(tone, format!("{}  {kind:<8}{text}", utc(event.unix_ms)));
    }
    page
}

fn one(what: &What) -> (Tone, &'static str, String) {
    match what {
        What::Backend {
            backend,
            up,
            reason,
        } => {
            let (tone, state) = if *up {
                (Tone::Good, "up")
            } else {
                (Tone::Bad, "DOWN")
            };
            (tone, "backend", format!("{backend} {state}: {reason}"))
        }
        What::Note { text } => (Tone::Plain, "note", text.clone()),
        What::Transition {
            from, to, epoch, ..
        } => {
            let tone = match to {
                Role::Fault => Tone::Bad,
                Role::Backup | Role::Initialize | Role::Master => Tone::Heading,
            };
            let why = why(what).unwrap_or_default();
            (
                tone,
                "role",
                format!("{from} -> {to}, epoch {epoch}: {why}"),
            )
        }
    }
}

/// Why the role changed, and how long that took; of a transition only.
pub(super) fn why(what: &What) -> Option<String> {
    let What::Transition {
        cause,
        text,
        detection_ms,
        takeover_ms,
        ..
    } = what
    else {
        return None;
    };
    let times = [
        detection_ms.map(|ms| format!("detection {}", millis(ms))),
        takeover_ms.map(|ms| format!("takeover {}", millis(ms))),
    ];
    let times: Vec<String> = times.into_iter().flatten().collect();
    let times = match times.is_empty() {
        true => String::new(),
        false => format!(" ({})", times.join(", ")),
    };
    Some(format!("{}: {text}{times}", word(*cause)))
}

const fn word(cause: Cause) -> &'static str {
    match cause {
        Cause::Alone => "alone",
        Cause::HeartbeatsLost => "heartbeats lost",
        Cause::ProcessDied => "process died",
        Cause::Resigned => "resigned",
        Cause::Handover => "handover",
        Cause::Preempt => "preempt",
        Cause::EpochRaised => "epoch raised",
        Cause::MasterHeard => "master heard",
        Cause::Rival => "rival",
        Cause::Unheard => "unheard",
        Cause::Paused => "paused",
        Cause::Fault => "fault",
        Cause::Recovered => "recovered",
        Cause::Stop => "stop",
    }
}
