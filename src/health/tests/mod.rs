//! The book at work: a bench, and the scenarios by kind of evidence.

use std::time::Duration;

use super::*;
use crate::config::fixture::pair;
use crate::health::entry::FIRST_SPREAD;
use crate::health::probe::{ANSWER_SLACK, ProbeOutcome};
use crate::health::{PASSIVE_FALL, RETRY_AFTER, TELL_GAP};

mod agents;
mod checks;
mod clients;
mod oracle;
mod rhythm;
mod telling;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_millis(500);
const MS: Duration = Duration::from_millis(1);

/// One service with checks every 2 s (rise 2, fall 3), one without; `count` backends each.
fn config(count: usize) -> Config {
    let backends: String = (0..count)
        .map(|n| {
            let port = 1_000 + n;
            format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"198.51.100.7:{port}\"\n")
        })
        .collect();
    let text = format!(
        r#"
        [[service]]
        name = "checked"
        listen = ["192.0.2.100:80"]
        [service.health]
        kind = "tcp"
        interval = "2s"
        timeout = "500ms"
        rise = 2
        fall = 3
        {backends}
        [[service]]
        name = "unchecked"
        listen = ["192.0.2.100:81"]
        {backends}
        "#
    );
    pair(&text)
}

/// A book, a clock, and the checks that nobody answered yet.
struct Bench {
    book: HealthBook,
    now: Mono,
    open: Vec<ProbeRequest>,
    /// All checks, with the time when they were asked for.
    asked: Vec<(Mono, ProbeRequest)>,
    news: Vec<HealthChange>,
}

impl Bench {
    fn of(config: &Config, seed: u64) -> Self {
        let mut bench = Self {
            book: HealthBook::new(config, seed, Mono::ZERO),
            now: Mono::ZERO,
            open: vec![],
            asked: vec![],
            news: vec![],
        };
        bench.drain();
        bench
    }

    fn new() -> Self {
        Self::of(&config(1), 7)
    }

    /// What must hold after every call.
    fn drain(&mut self) {
        while let Some(request) = self.book.poll_probe() {
            self.open.push(request.clone());
            self.asked.push((self.now, request));
        }
        self.news
            .extend(std::iter::from_fn(|| self.book.poll_change()));
        let next = self.book.poll_timeout();
        assert!(next.is_none_or(|at| at > self.now), "a busy loop: {next:?}");
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.book.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.book.handle_timeout(at);
            self.drain();
        }
        self.now = end;
    }

    /// Lets time pass until a check is asked for.
    fn ask(&mut self) -> ProbeRequest {
        while self.open.is_empty() {
            let at = self.book.poll_timeout().expect("a check is to come");
            self.pass(at.since(self.now));
        }
        self.open.remove(0)
    }

    #[allow(clippy::needless_pass_by_value, reason = "an answer ends a request")]
    fn answer(&mut self, request: ProbeRequest, outcome: ProbeOutcome) {
        let ProbeRequest { backend, token, .. } = request;
        let result = ProbeResult {
            backend,
            token,
            outcome,
        };
        self.book.handle_probe(&result, self.now);
        self.drain();
    }

    fn check(&mut self, good: bool) {
        let request = self.ask();
        self.answer(request, outcome(good));
    }

    fn fail(&mut self, backend: BackendId, failure: ConnectFailure) {
        self.book.connect_failed(backend, failure, self.now);
        self.drain();
    }

    fn connect(&mut self, backend: BackendId) {
        self.book.connected(backend, self.now);
        self.drain();
    }

    fn state(&self, backend: BackendId) -> (bool, u8) {
        let record = self.book.record(backend);
        assert_eq!(record.up, self.book.is_up(backend));
        assert_eq!(record.up, self.book.up().any(|id| id == backend));
        (record.up, record.streak)
    }

    /// The verdicts that were told, with their reasons.
    fn verdicts(&mut self) -> Vec<(bool, String)> {
        self.news
            .drain(..)
            .filter(|news| news.verdict_changed)
            .map(|news| (news.record.up, news.reason))
            .collect()
    }
}

fn outcome(good: bool) -> ProbeOutcome {
    if good {
        let took = Duration::from_micros(240);
        ProbeOutcome::Good { took }
    } else {
        let failure = ConnectFailure::Refused;
        ProbeOutcome::Bad { failure }
    }
}

fn checked() -> BackendId {
    BackendId::of("checked", "b0")
}

fn unchecked() -> BackendId {
    BackendId::of("unchecked", "b0")
}
