//! The book: one entry a backend.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::verdict::Verdict;
use crate::config::Config;
use crate::health::probe::{ANSWER_SLACK, ProbeOutcome, ProbeRequest, ProbeResult};
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
const FIRST_SPREAD: Duration = Duration::from_millis(100);
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

/// The verdicts on all backends.
#[derive(Clone, Debug)]
pub struct HealthBook {
    entries: BTreeMap<BackendId, Entry>,
    /// Each entry's deadline, if it has one.
    agenda: BTreeSet<(Mono, BackendId)>,
    probes: VecDeque<ProbeRequest>,
    changes: VecDeque<HealthChange>,
    random: fastrand::Rng,
    last_token: u64,
}

/// What is known of one backend.
#[derive(Clone, Debug)]
struct Entry {
    address: SocketAddr,
    checks: Option<Checks>,
    verdict: Verdict,
    good: u64,
    bad: u64,
    /// There is evidence of our own, so that the peer's opinion counts no more.
    own_evidence: bool,
    /// Clients' failed connects in a row since the last check.
    client_failures: u32,
    reason: String,
    flight: Option<Flight>,
    asked: Option<Mono>,
    /// When the next check is due; without checks, when a backend that is down is tried again.
    due: Option<Mono>,
    told: HealthRecord,
    told_at: Option<Mono>,
    /// Its place in the agenda.
    deadline: Option<Mono>,
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

impl HealthBook {
    /// A book in which every backend is up until something else is known. First checks are due at
    /// once, spread over a moment. `seed` feeds the jitter.
    pub fn new(config: &Config, seed: u64, now: Mono) -> Self {
        let mut book = Self {
            entries: BTreeMap::new(),
            agenda: BTreeSet::new(),
            probes: VecDeque::new(),
            changes: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
            last_token: 0,
        };
        for service in &config.services {
            for backend in &service.backends {
                let mut entry = Entry::new(backend.address, service.health.as_ref());
                if let Some(checks) = entry.checks {
                    let spread = FIRST_SPREAD.min(checks.interval).as_nanos() as u64;
                    let wait = Duration::from_nanos(book.random.u64(1..=spread));
                    entry.due = Some(now + wait);
                }
                book.entries.insert(backend.id, entry);
                book.settle(backend.id, now);
            }
        }
        book
    }

    /// A check was answered. Late answers are ignored.
    pub fn handle_probe(&mut self, result: ProbeResult, now: Mono) {
        let Some(entry) = self.entries.get_mut(&result.backend) else {
            return;
        };
        let awaited = |flight: &mut Flight| flight.token == result.token;
        if entry.flight.take_if(awaited).is_some() {
            entry.answered(result.outcome);
            self.settle(result.backend, now);
        }
    }

    /// A client's connect to this backend failed.
    pub fn connect_failed(&mut self, backend: BackendId, failure: ConnectFailure, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend) {
            entry.client_failed(failure, now);
            self.settle(backend, now);
        }
    }

    /// A client's connect to this backend succeeded.
    pub fn connected(&mut self, backend: BackendId, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend)
            && entry.client_connected()
        {
            self.settle(backend, now);
        }
    }

    /// The deadline came. Drain `poll_probe` and `poll_change` after every call that takes `now`.
    pub fn handle_timeout(&mut self, now: Mono) {
        while let Some(&(at, backend)) = self.agenda.first()
            && at <= now
        {
            self.settle(backend, now);
        }
    }

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// The next check to make.
    pub fn poll_probe(&mut self) -> Option<ProbeRequest> {
        self.probes.pop_front()
    }

    /// The next piece of news.
    pub fn poll_change(&mut self) -> Option<HealthChange> {
        self.changes.pop_front()
    }

    /// Warm start from the peer. Evidence of our own, be it one check, wins over what the peer
    /// thought.
    pub fn adopt(&mut self, backend: BackendId, record: HealthRecord, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend)
            && !entry.own_evidence
        {
            entry.adopt(record, now);
            self.settle(backend, now);
        }
    }

    /// The verdict; false for an unknown backend.
    pub fn is_up(&self, backend: BackendId) -> bool {
        self.entries
            .get(&backend)
            .is_some_and(|entry| entry.verdict.up())
    }

    /// The verdict and its counters.
    pub fn record(&self, backend: BackendId) -> HealthRecord {
        self.entries
            .get(&backend)
            .map_or_else(HealthRecord::default, Entry::record)
    }

    /// Why, in a few words (`check ok in 0.2 ms`, `connect refused`).
    pub fn reason(&self, backend: BackendId) -> &str {
        self.entries
            .get(&backend)
            .map_or("unknown backend", |entry| entry.reason.as_str())
    }

    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.verdict.up())
            .map(|(id, _)| *id)
    }

    /// Does what is due for this backend, and enters its next deadline, which lies ahead.
    fn settle(&mut self, id: BackendId, now: Mono) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.flight.take_if(|flight| flight.lost_at <= now);
        if entry.flight.is_none() && entry.due.is_some_and(|due| due <= now) {
            match entry.checks {
                Some(checks) => {
                    self.last_token += 1;
                    let token = self.last_token;
                    let wait = jittered(checks.interval, &mut self.random);
                    self.probes.push_back(entry.ask(id, checks, token, now));
                    entry.due = Some(now + wait);
                }
                None => entry.try_again(),
            }
        }
        self.changes.extend(entry.news(id, now));

        let next = entry.next_deadline();
        let last = std::mem::replace(&mut entry.deadline, next);
        if last != next {
            self.agenda.extend(next.map(|at| (at, id)));
            if let Some(at) = last {
                self.agenda.remove(&(at, id));
            }
        }
    }
}

impl Entry {
    fn new(address: SocketAddr, health: Option<&crate::config::Health>) -> Self {
        let verdict = health.map_or(Verdict::new(1, PASSIVE_FALL), |health| {
            Verdict::new(health.rise, health.fall)
        });
        let reason = match health {
            Some(_) => "not checked yet",
            None => "no health check",
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

    const fn record(&self) -> HealthRecord {
        HealthRecord {
            up: self.verdict.up(),
            streak: self.verdict.streak(),
            good: self.good,
            bad: self.bad,
        }
    }

    fn answered(&mut self, outcome: ProbeOutcome) {
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

    fn client_failed(&mut self, failure: ConnectFailure, now: Mono) {
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
    fn client_connected(&mut self) -> bool {
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

    fn ask(
        &mut self,
        backend: BackendId,
        checks: Checks,
        token: u64,
        now: Mono,
    ) -> ProbeRequest {
        self.asked = Some(now);
        self.flight = Some(Flight {
            token,
            lost_at: now + (checks.timeout + ANSWER_SLACK),
        });
        ProbeRequest {
            backend,
            address: self.address,
            timeout: checks.timeout,
            token,
        }
    }

    fn try_again(&mut self) {
        self.due = None;
        self.client_failures = 0;
        self.verdict.try_again();
        self.explain(format!("tried again after {} s", RETRY_AFTER.as_secs()));
    }

    fn adopt(&mut self, record: HealthRecord, now: Mono) {
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
    }

    /// The reason, and how far it has come if it speaks against the verdict.
    fn explain(&mut self, text: String) {
        self.reason = match self.verdict.streak() {
            0 => text,
            streak => format!("{text} ({streak} of {})", self.verdict.needed()),
        };
    }

    /// What is to be told now.
    fn news(&mut self, backend: BackendId, now: Mono) -> Option<HealthChange> {
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

    fn next_deadline(&self) -> Option<Mono> {
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
    let least = nanos - nanos / 10;
    Duration::from_nanos(random.u64(least..=nanos + nanos / 10))
}

#[cfg(test)]
#[path = "book_test.rs"]
mod tests;
