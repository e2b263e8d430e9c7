//! The timeline: what happened, numbered, with the time of day.

use std::collections::VecDeque;
use std::time::Duration;

use crate::election::Change;
use crate::status::{Event, Histogram, Transitions, What};
use crate::time::Mono;

/// Events that are kept.
const KEPT: usize = 1_000;

/// The last events.
#[derive(Debug)]
pub(super) struct Journal {
    started_unix_ms: u64,
    next: u64,
    events: VecDeque<Event>,
    last_transition: Option<Event>,
    transitions: Vec<Transitions>,
    detection: Histogram,
    takeover: Histogram,
}

impl Journal {
    pub(super) fn new(started_unix_ms: u64) -> Self {
        Self {
            started_unix_ms,
            next: 1,
            events: VecDeque::new(),
            last_transition: None,
            transitions: Vec::new(),
            detection: Histogram::default(),
            takeover: Histogram::default(),
        }
    }

    pub(super) const fn unix_ms(&self, now: Mono) -> u64 {
        self.started_unix_ms + now.as_millis()
    }

    pub(super) fn write(&mut self, what: What, now: Mono) -> Event {
        let event = Event {
            number: self.next,
            unix_ms: self.unix_ms(now),
            what,
        };
        self.next += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        if matches!(event.what, What::Transition { .. }) {
            self.last_transition = Some(event.clone());
        }
        event
    }

    pub(super) fn transition(&mut self, change: Change, now: Mono) -> Event {
        let (to, cause) = (change.to, change.cause);
        let mut known = self.transitions.iter_mut();
        match known.find(|it| (it.to, it.cause) == (to, cause)) {
            Some(known) => known.count += 1,
            None => self.transitions.push(Transitions {
                to,
                cause,
                count: 1,
            }),
        }
        if let Some(detection) = change.detection {
            self.detection.add(detection);
        }
        let what = What::Transition {
            from: change.from,
            to: change.to,
            epoch: change.epoch.0,
            cause: change.cause,
            text: change.text,
            detection_ms: change.detection.map(millis),
            takeover_ms: None,
        };
        self.write(what, now)
    }

    /// The takeover that was written last is complete.
    pub(super) fn complete_takeover(&mut self, took: Duration) -> Option<Event> {
        let event = self.last_transition.as_mut()?;
        let What::Transition { takeover_ms, .. } = &mut event.what else {
            return None;
        };
        *takeover_ms = Some(millis(took));
        self.takeover.add(took);
        let number = event.number;
        let place = self.events.iter_mut().find(|event| event.number == number);
        if let Some(place) = place {
            place.clone_from(event);
        }
        Some(event.clone())
    }

    pub(super) const fn last_transition(&self) -> Option<&Event> {
        self.last_transition.as_ref()
    }

    /// Changes of role by cause, what it took to see them, and to take over.
    pub(super) fn figures(&self) -> (&[Transitions], &Histogram, &Histogram) {
        (&self.transitions, &self.detection, &self.takeover)
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.iter().cloned().collect()
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
