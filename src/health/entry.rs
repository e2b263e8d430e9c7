//! What is known of one backend, and what evidence does to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::probe::{ANSWER_SLACK, ProbeOutcome, ProbeRequest, ProbeResult};
use super::verdict::Verdict;
use crate::config;
use crate::model::{BackendId, ConnectFailure};
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
/// A check that evidence hastens still keeps this share of the interval from the one before.
const HASTE: u32 = 10;

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
    address: SocketAddr,
    checks: Option<Checks>,
    pub(super) verdict: Verdict,
    good: u64,
    bad: u64,
    /// There is evidence of our own, so that the peer's opinion counts no more.
    own_evidence: bool,
    /// Clients' failed connects in a row since the last check.
    client_failures: u32,
    pub(super) reason: String,
    flight: Option<Flight>,
    asked: Option<Mono>,
    /// When the next check is due; without checks, when a backend that is down is tried again.
    due: Option<Mono>,
    told: HealthRecord,
    told_at: Option<Mono>,
    /// Its place in the book's agenda.
    pub(super) deadline: Option<Mono>,
}

#[derive(Clone, Copy, Debug)]
struct Checks {
    interval: Duration,
    timeout: Duration,
}

/// A check under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    token: u64,
    lost_at: Mono,
}

impl Entry {
    pub(super) fn new(address: SocketAddr, health: Option<&config::Health>) -> Self {
        let (verdict, reason) = match health {
            Some(health) => (Verdict::new(health.rise, health.fall), "not checked yet"),
            None => (Verdict::new(1, PASSIVE_FALL), "no health check"),
        };
        let mut entry = Self {
            address,
            checks: health.map(|health| Checks {
                interval: health.interval,
                timeout: health.timeout,
            }),
            verdict,
            good: 0,
            bad: 0,
            own_evidence: false,
            client_failures: 0,
            reason: reason.into(),
            flight: None,
            asked: None,
            due: None,
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
            let spread = FIRST_SPREAD.min(checks.interval).as_nanos() as u64;
            now + Duration::from_nanos(random.u64(1..=spread))
        });
    }

    pub(super) const fn record(&self) -> HealthRecord {
        HealthRecord {
            up: self.verdict.up(),
            streak: self.verdict.streak(),
            good: self.good,
            bad: self.bad,
        }
    }

    /// True when this is the check in flight.
    pub(super) fn answered(&mut self, result: &ProbeResult) -> bool {
        let awaited = |flight: &mut Flight| flight.token == result.token;
        let counts = self.flight.take_if(awaited).is_some();
        if counts {
            self.take(result.outcome);
        }
        counts
    }

    fn take(&mut self, outcome: ProbeOutcome) {
        self.own_evidence = true;
        self.client_failures = 0;
        let text = match outcome {
            ProbeOutcome::Good { took } => {
                self.good = self.good.saturating_add(1);
                self.verdict.check(true);
                format!("check ok in {:.1} ms", took.as_secs_f64() * 1e3)
            }
            ProbeOutcome::Bad { failure } => {
                self.bad = self.bad.saturating_add(1);
                self.verdict.check(false);
                let timeout = self.checks.map(|checks| checks.timeout).unwrap_or_default();
                match failure {
                    ConnectFailure::Refused => "connect refused".into(),
                    ConnectFailure::Timeout => format!("no answer in {} ms", timeout.as_millis()),
                    ConnectFailure::Unreachable => "host unreachable".into(),
                    ConnectFailure::Other => "connect failed".into(),
                }
            }
        };
        self.explain(text);
    }

    pub(super) fn client_failed(&mut self, failure: ConnectFailure, now: Mono) {
        let before = self.record();
        let how = match failure {
            ConnectFailure::Refused => Some("refused"),
            ConnectFailure::Timeout => Some("timed out"),
            ConnectFailure::Unreachable => Some("found no way to the host"),
            ConnectFailure::Other => None,
        };
        if let Some(how) = how {
            self.own_evidence = true;
            self.client_failures = self.client_failures.saturating_add(1);
            self.verdict.weigh(false);
            if self.record() != before {
                self.explain(match self.client_failures {
                    1 => format!("client connect {how}"),
                    many => format!("{many} client connects {how}"),
                });
            }
        }
        let fell = before.up && !self.verdict.up();
        match self.checks {
            Some(checks) if before.up => self.hasten(checks.interval / HASTE, now),
            None if fell => self.due = Some(now + RETRY_AFTER),
            _ => {}
        }
    }

    /// True when that changed anything.
    pub(super) fn client_connected(&mut self) -> bool {
        self.own_evidence = true;
        let counts = if self.verdict.up() {
            self.verdict.streak() > 0
        } else {
            self.checks.is_none()
        };
        if counts {
            self.verdict.weigh(true);
            self.client_failures = 0;
            self.explain("a client connected".into());
            self.due = self.due.filter(|_| self.checks.is_some());
        }
        counts
    }

    /// The next check is due now, but not within `gap` of the one before.
    fn hasten(&mut self, gap: Duration, now: Mono) {
        let soonest = self.asked.map_or(now, |asked| now.max(asked + gap));
        self.due = self.due.map(|due| due.min(soonest));
    }

    /// Does what is due: gives up a lost check, asks for the next one, or begins a trial.
    pub(super) fn act(
        &mut self,
        backend: BackendId,
        last_token: &mut u64,
        random: &mut fastrand::Rng,
        now: Mono,
    ) -> Option<ProbeRequest> {
        self.flight.take_if(|flight| flight.lost_at <= now);
        if self.flight.is_some() || self.due.is_none_or(|due| due > now) {
            return None;
        }
        let Some(Checks { interval, timeout }) = self.checks else {
            self.try_again();
            return None;
        };
        *last_token += 1;
        let token = *last_token;
        self.asked = Some(now);
        self.due = Some(now + jittered(interval, random));
        self.flight = Some(Flight {
            token,
            lost_at: now + (timeout + ANSWER_SLACK),
        });
        Some(ProbeRequest {
            backend,
            address: self.address,
            timeout,
            token,
        })
    }

    fn try_again(&mut self) {
        self.due = None;
        self.client_failures = 0;
        self.verdict.try_again();
        self.explain(format!("tried again after {} s", RETRY_AFTER.as_secs()));
    }

    /// True when there is no evidence of our own, which would win.
    pub(super) fn adopt(&mut self, record: HealthRecord, now: Mono) -> bool {
        if self.own_evidence {
            return false;
        }
        self.verdict.adopt(record.up, record.streak);
        (self.good, self.bad) = (record.good, record.bad);
        self.client_failures = 0;
        self.explain("the peer's verdict".into());
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
    fn explain(&mut self, text: String) {
        self.reason = match self.verdict.streak() {
            0 => text,
            streak => format!("{text} ({streak} of {})", self.verdict.needed()),
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

    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let act = self.flight.map(|flight| flight.lost_at).or(self.due);
        let tell = self
            .told_at
            .filter(|_| self.record() != self.told)
            .map(|at| at + TELL_GAP);
        act.into_iter().chain(tell).min()
    }
}

/// The interval, give or take 10 %.
fn jittered(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    let nanos = interval.as_nanos() as u64;
    Duration::from_nanos(random.u64(nanos - nanos / 10..=nanos + nanos / 10))
}
