//! What the agent beside a backend said, and when it is asked again.
//!
//! An agent that cannot be reached changes nothing: whether the backend can be reached is the check's
//! business, and what the agent said last stays true until it says something else.

use std::time::Duration;

use super::probe::{ANSWER_SLACK, ProbeOutcome};
use super::rhythm::jittered;
use crate::model::BackendAddress;
use crate::time::Mono;
use crate::wire::agent::{Admin, Answer};

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) address: BackendAddress,
    interval: Duration,
    pub(super) timeout: Duration,
    due: Mono,
    /// The question under way, and when it is lost.
    flight: Option<(u64, Mono)>,
    percent: u16,
    admin: Admin,
    works: bool,
    words: String,
    /// The last question had no answer that means anything.
    trouble: Option<String>,
}

impl Agent {
    pub(super) fn new(address: BackendAddress, config: &crate::config::Agent, first: Mono) -> Self {
        Self {
            address,
            interval: config.interval,
            timeout: config.timeout,
            due: first,
            flight: None,
            percent: 100,
            admin: Admin::Ready,
            works: true,
            words: String::new(),
            trouble: None,
        }
    }

    /// It keeps the backend from being up.
    pub(super) const fn downs(&self) -> bool {
        !self.works || matches!(self.admin, Admin::Maint)
    }

    /// It keeps new connections away.
    pub(super) const fn drains(&self) -> bool {
        matches!(self.admin, Admin::Drain) || self.percent == 0
    }

    pub(super) const fn percent(&self) -> u16 {
        self.percent
    }

    /// What to tell an operator beside the check's reason; none: nothing out of the ordinary.
    pub(super) fn text(&self) -> Option<String> {
        let usual = self.works && self.admin == Admin::Ready && self.percent == 100;
        match (usual, &self.trouble) {
            (true, None) => None,
            (true, Some(trouble)) => Some(trouble.clone()),
            (false, None) => Some(format!("agent: {}", self.words)),
            (false, Some(trouble)) => Some(format!("agent: {}, before {trouble}", self.words)),
        }
    }

    /// True when this is the question under way.
    pub(super) fn answered(&mut self, token: u64, outcome: &ProbeOutcome) -> bool {
        let awaited = self.flight.take_if(|(flight, _)| *flight == token);
        if awaited.is_none() {
            return false;
        }
        match outcome {
            ProbeOutcome::Agent(answer) => self.take(answer),
            ProbeOutcome::Wrong { what } => self.trouble = Some(what.clone()),
            _ => self.trouble = Some("the agent cannot be reached".into()),
        }
        true
    }

    fn take(&mut self, answer: &Answer) {
        self.trouble = None;
        self.percent = answer.percent.unwrap_or(self.percent);
        self.admin = answer.admin.unwrap_or(self.admin);
        self.works = answer.works.unwrap_or(self.works);
        self.words.clone_from(&answer.words);
    }

    /// The question that is due now.
    pub(super) fn ask(
        &mut self,
        last_token: &mut u64,
        random: &mut fastrand::Rng,
        now: Mono,
    ) -> Option<u64> {
        self.flight.take_if(|(_, lost_at)| *lost_at <= now);
        if self.flight.is_some() || self.due > now {
            return None;
        }
        *last_token += 1;
        self.due = now + jittered(self.interval, random);
        self.flight = Some((*last_token, now + (self.timeout + ANSWER_SLACK)));
        Some(*last_token)
    }

    pub(super) fn deadline(&self) -> Mono {
        self.flight.map_or(self.due, |(_, lost_at)| lost_at)
    }
}
