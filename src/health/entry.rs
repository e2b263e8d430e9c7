//! What is known of one backend, and what evidence does to it.

mod clients;
mod succeed;

use std::fmt::Write as _;
use std::time::Duration;

use super::agent::Agent;
use super::flap::Damper;
use super::probe::{ANSWER_SLACK, ProbeOutcome, ProbeRequest, ProbeResult, Whom};
use super::rhythm::Rhythm;
use super::verdict::Verdict;
use crate::config::{Backend, Observe, Service};
use crate::model::{BackendAddress, BackendId, ConnectFailure, ServiceId};
use crate::time::Mono;
use crate::wire::replication::HealthRecord;

/// Failed connects in a row that take down a backend without checks.
pub const PASSIVE_FALL: u8 = 3;
/// After this long a backend without checks that is down is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Moved counters of one backend are told at most this often.
pub const TELL_GAP: Duration = Duration::from_secs(1);
/// The first checks are spread over this moment (or over one interval, if that is shorter).
pub(super) const FIRST_SPREAD: Duration = Duration::from_millis(100);

/// What went wrong with a client's connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Blame {
    Connect(ConnectFailure),
    Reset,
}

/// News of one backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthChange {
    /// Which.
    pub backend: BackendId,
    /// What holds now.
    pub record: HealthRecord,
    /// The verdict differs from the last one told. If not, only counters moved; that is told at
    /// most once a second and backend.
    pub verdict_changed: bool,
    /// Why, in a few words.
    pub reason: String,
}

/// What is known of one backend.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    address: BackendAddress,
    checks: Option<Checks>,
    agent: Option<Agent>,
    damper: Option<Damper>,
    observe: Observe,
    configured_weight: u16,
    /// Its service and pool.
    pub(super) group: (ServiceId, Option<u16>),
    pub(super) verdict: Verdict,
    good: u64,
    bad: u64,
    /// There is evidence of our own, so that the peer's opinion counts no more.
    own_evidence: bool,
    /// Clients' failed connects in a row since the last check.
    client_failures: u32,
    /// What the evidence said last.
    evidence: String,
    /// What the last good check warned of.
    warning: String,
    pub(super) reason: String,
    /// For the timeline.
    pub(super) note: Option<String>,
    flight: Option<Flight>,
    /// When the first check is due; without checks, when a backend that is down is tried again.
    due: Option<Mono>,
    /// In maintenance.
    rests: bool,
    told: HealthRecord,
    told_at: Option<Mono>,
    /// Its place in the book's agenda.
    pub(super) deadline: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct Checks {
    rhythm: Rhythm,
    /// The first checks are spread over so much.
    spread: Duration,
    timeout: Duration,
}

/// A check under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    token: u64,
    lost_at: Mono,
}

impl Entry {
    pub(super) fn new(service: &Service, backend: &Backend, now: Mono) -> Self {
        let health = service.health_of(backend);
        let (verdict, reason) = match health {
            Some(health) => (Verdict::first(health), "not checked yet"),
            None => (Verdict::new(1, PASSIVE_FALL), "no health check"),
        };
        let agent = service.agent.as_ref();
        let mut entry = Self {
            address: health
                .map_or_else(|| backend.address.clone(), |health| health.target(backend)),
            checks: health.map(|health| Checks {
                rhythm: Rhythm::new(health),
                spread: FIRST_SPREAD.min(health.interval),
                timeout: health.timeout,
            }),
            agent: agent.map(|agent| Agent::new(agent.target(backend), agent, now)),
            damper: health.and_then(|health| health.flap.map(Damper::new)),
            observe: health.map_or(Observe::Connects, |health| health.observe),
            configured_weight: backend.weight.0,
            group: (service.id, backend.pool),
            verdict,
            good: 0,
            bad: 0,
            own_evidence: false,
            client_failures: 0,
            evidence: reason.into(),
            warning: String::new(),
            reason: reason.into(),
            note: None,
            flight: None,
            due: None,
            rests: false,
            told: HealthRecord::default(),
            told_at: None,
            deadline: None,
        };
        entry.told = entry.record();
        entry
    }

    /// Spreads the first check over a moment.
    pub(super) fn begin(&mut self, random: &mut fastrand::Rng, now: Mono) {
        self.due = self.checks.map(|checks| {
            let spread = checks.spread.as_nanos() as u64;
            now + Duration::from_nanos(random.u64(1..=spread))
        });
    }

    /// Begins or ends a maintenance; true when that changed anything.
    pub(super) fn rest(&mut self, rests: bool, random: &mut fastrand::Rng, now: Mono) -> bool {
        if std::mem::replace(&mut self.rests, rests) == rests {
            return false;
        }
        self.flight = None;
        match rests {
            true => self.due = None,
            false => {
                self.begin(random, now);
                let tried = self.checks.is_none() && !self.verdict.up();
                self.due = self.due.or_else(|| tried.then(|| now + RETRY_AFTER));
            }
        }
        true
    }

    /// It is another one of its service's backends from now on, in weight or in pool.
    pub(super) const fn place(&mut self, service: &Service, backend: &Backend) {
        self.configured_weight = backend.weight.0;
        self.group = (service.id, backend.pool);
    }

    /// The verdict, unless the agent knows better.
    pub(super) fn up(&self) -> bool {
        self.verdict.up() && !self.agent.as_ref().is_some_and(Agent::downs)
    }

    /// It may get new connections.
    pub(super) fn serves(&self) -> bool {
        self.up() && !self.agent.as_ref().is_some_and(Agent::drains)
    }

    /// The configured weight with the agent's share of it, rounded up; 0: no new connections.
    pub(super) fn weight(&self) -> u16 {
        let percent = self.agent.as_ref().map_or(100, Agent::percent);
        let weight = u32::from(self.configured_weight) * u32::from(percent);
        weight.div_ceil(100).min(256) as u16
    }

    /// The weight, if the agent has changed it.
    pub(super) fn changed_weight(&self) -> Option<u16> {
        let weight = self.weight();
        (weight != self.configured_weight && weight > 0).then_some(weight)
    }

    pub(super) fn record(&self) -> HealthRecord {
        HealthRecord {
            up: self.up(),
            streak: self.verdict.streak(),
            good: self.good,
            bad: self.bad,
        }
    }

    /// True when this is the check in flight, or the question to the agent.
    pub(super) fn answered(&mut self, result: &ProbeResult, now: Mono) -> bool {
        if let Some(agent) = &mut self.agent {
            let before = agent.text();
            if agent.answered(result.token, &result.outcome) {
                let text = agent.text();
                if text != before {
                    self.note = Some(text.unwrap_or_else(|| "agent: all is as usual".into()));
                    self.compose();
                }
                return true;
            }
        }
        let awaited = |flight: &mut Flight| flight.token == result.token;
        let counts = self.flight.take_if(awaited).is_some();
        if counts {
            self.take(&result.outcome, now);
        }
        counts
    }

    fn take(&mut self, outcome: &ProbeOutcome, now: Mono) {
        self.own_evidence = true;
        self.client_failures = 0;
        let text = match outcome {
            ProbeOutcome::Good { took } => self.passed(*took, "", now),
            ProbeOutcome::Warned { took, what } => self.passed(*took, what, now),
            ProbeOutcome::Bad { failure } => {
                self.failed(now);
                let timeout = self.checks.map(|checks| checks.timeout).unwrap_or_default();
                match failure {
                    ConnectFailure::Refused => "connect refused".into(),
                    ConnectFailure::Timeout => format!("no answer in {} ms", timeout.as_millis()),
                    ConnectFailure::Unreachable => "host unreachable".into(),
                    ConnectFailure::Other => "connect failed".into(),
                }
            }
            ProbeOutcome::Wrong { what } => {
                self.failed(now);
                what.clone()
            }
            // Nobody asks a backend as an agent.
            ProbeOutcome::Agent(_) => return,
        };
        self.explain(text, now);
        if let Some(checks) = &self.checks {
            self.due = checks.rhythm.due(self.verdict, self.held(now).is_some());
        }
    }

    fn passed(&mut self, took: Duration, warning: &str, now: Mono) -> String {
        self.good = self.good.saturating_add(1);
        if self.held(now).is_some() && !self.verdict.up() {
            self.verdict.weigh_good_in_vain();
        } else {
            self.change(now, |verdict| verdict.check(true));
        }
        if self.warning != warning {
            warning.clone_into(&mut self.warning);
            self.note = (!warning.is_empty()).then(|| warning.to_owned());
        }
        let text = format!("check ok in {:.1} ms", took.as_secs_f64() * 1e3);
        match warning {
            "" => text,
            warning => format!("{text}; {warning}"),
        }
    }

    fn failed(&mut self, now: Mono) {
        self.bad = self.bad.saturating_add(1);
        self.change(now, |verdict| verdict.check(false));
    }

    /// Every piece of evidence comes this way, so that the damper sees every change.
    fn change(&mut self, now: Mono, weigh: impl FnOnce(&mut Verdict)) {
        let before = self.verdict.up();
        weigh(&mut self.verdict);
        match (&mut self.damper, before, self.verdict.up()) {
            (Some(damper), false, true) => damper.rose(now),
            (Some(damper), true, false) => damper.fell(now),
            _ => {}
        }
    }

    fn held(&self, now: Mono) -> Option<Duration> {
        self.damper.as_ref()?.held(now)
    }

    /// Does what is due: gives up a lost check, asks for the next one, or begins a trial.
    pub(super) fn act(
        &mut self,
        backend: BackendId,
        last_token: &mut u64,
        random: &mut fastrand::Rng,
        now: Mono,
    ) -> Option<ProbeRequest> {
        if self.rests {
            return None;
        }
        self.flight.take_if(|flight| flight.lost_at <= now);
        if self.flight.is_some() || self.due.is_none_or(|due| due > now) {
            return None;
        }
        let held = self.held(now).is_some();
        let Some(checks) = &mut self.checks else {
            self.try_again(now);
            return None;
        };
        *last_token += 1;
        let (token, timeout) = (*last_token, checks.timeout);
        checks.rhythm.asked(random, now);
        self.due = checks.rhythm.due(self.verdict, held);
        self.flight = Some(Flight {
            token,
            lost_at: now + (timeout + ANSWER_SLACK),
        });
        Some(ProbeRequest {
            backend,
            whom: Whom::Backend,
            address: self.address.clone(),
            timeout,
            token,
        })
    }

    /// The question to the agent that is due.
    pub(super) fn ask(
        &mut self,
        backend: BackendId,
        last_token: &mut u64,
        random: &mut fastrand::Rng,
        now: Mono,
    ) -> Option<ProbeRequest> {
        let agent = self.agent.as_mut().filter(|_| !self.rests)?;
        let token = agent.ask(last_token, random, now)?;
        Some(ProbeRequest {
            backend,
            whom: Whom::Agent,
            address: agent.address.clone(),
            timeout: agent.timeout,
            token,
        })
    }

    fn try_again(&mut self, now: Mono) {
        self.due = None;
        self.client_failures = 0;
        self.verdict.try_again();
        self.explain(
            format!("tried again after {} s", RETRY_AFTER.as_secs()),
            now,
        );
    }

    /// True when there is no evidence of our own, which would win.
    pub(super) fn adopt(&mut self, record: HealthRecord, now: Mono) -> bool {
        if self.own_evidence {
            return false;
        }
        self.verdict.adopt(record.up, record.streak);
        (self.good, self.bad) = (record.good, record.bad);
        self.client_failures = 0;
        self.explain("the peer's verdict".into(), now);
        if self.checks.is_none() {
            self.due = (!record.up).then(|| now + RETRY_AFTER);
        }
        // Whoever is told knows the counters already: they came from there.
        self.told = HealthRecord {
            up: self.told.up,
            ..self.record()
        };
        true
    }

    /// The reason, and how far it has come if it speaks against the verdict.
    fn explain(&mut self, mut text: String, now: Mono) {
        if self.verdict.streak() > 0 {
            let _ = write!(
                text,
                " ({} of {})",
                self.verdict.streak(),
                self.verdict.needed()
            );
        }
        if let (Some(damper), Some(held)) = (&self.damper, self.held(now)) {
            let seconds = held.as_secs_f64().ceil();
            let _ = write!(
                text,
                " (held down for {seconds} s after {} flaps)",
                damper.row()
            );
        }
        self.evidence = text;
        self.compose();
    }

    fn compose(&mut self) {
        let said = self.agent.as_ref().and_then(Agent::text);
        self.reason = match said {
            Some(said) => format!("{said}; {}", self.evidence),
            None => self.evidence.clone(),
        };
    }

    /// What is to be told now.
    pub(super) fn news(&mut self, backend: BackendId, now: Mono) -> Option<HealthChange> {
        let record = self.record();
        let verdict_changed = record.up != self.told.up;
        let due = self.told_at.is_none_or(|at| at + TELL_GAP <= now);
        if !verdict_changed && (record == self.told || !due) {
            return None;
        }
        self.told = record;
        self.told_at = Some(now);
        Some(HealthChange {
            backend,
            record,
            verdict_changed,
            reason: self.reason.clone(),
        })
    }

    pub(super) fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let act = self.flight.map(|flight| flight.lost_at).or(self.due);
        let act = act.filter(|_| !self.rests);
        let tell = self
            .told_at
            .filter(|_| self.record() != self.told)
            .map(|at| at + TELL_GAP);
        let ask = self.agent.as_ref().filter(|_| !self.rests);
        let ask = ask.map(Agent::deadline);
        let next = act.into_iter().chain(tell).chain(ask).min();
        debug_assert!(next.is_none_or(|next| next > now), "a deadline lies ahead");
        next
    }
}
