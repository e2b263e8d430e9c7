//! The book: one entry a backend.

use crate::config::Config;
use crate::health::probe::{ProbeRequest, ProbeResult};
use crate::model::{BackendId, ConnectFailure};
use crate::time::Mono;
use crate::wire::replication::HealthRecord;

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
pub struct HealthBook {}

impl HealthBook {
    /// A book in which every backend is up until something else is known. First checks are due at
    /// once, spread over a moment. `seed` feeds the jitter.
    pub fn new(_config: &Config, _seed: u64, _now: Mono) -> Self {
        Self {}
    }

    /// A check was answered. Late answers are ignored.
    pub fn handle_probe(&mut self, _result: ProbeResult, _now: Mono) {}

    /// A client's connect to this backend failed.
    pub fn connect_failed(&mut self, _backend: BackendId, _failure: ConnectFailure, _now: Mono) {}

    /// A client's connect to this backend succeeded.
    pub fn connected(&mut self, _backend: BackendId, _now: Mono) {}

    /// The deadline came. Drain `poll_probe` and `poll_change` after every call that takes `now`.
    pub fn handle_timeout(&mut self, _now: Mono) {}

    /// When `handle_timeout` is due.
    pub fn poll_timeout(&self) -> Option<Mono> {
        None
    }

    /// The next check to make.
    pub fn poll_probe(&mut self) -> Option<ProbeRequest> {
        None
    }

    /// The next piece of news.
    pub fn poll_change(&mut self) -> Option<HealthChange> {
        None
    }

    /// Warm start from the peer. Fresh evidence of our own wins over what the peer thought.
    pub fn adopt(&mut self, _backend: BackendId, _record: HealthRecord, _now: Mono) {}

    /// The verdict; false for an unknown backend.
    pub fn is_up(&self, _backend: BackendId) -> bool {
        true
    }

    /// The verdict and its counters.
    pub fn record(&self, _backend: BackendId) -> HealthRecord {
        HealthRecord::default()
    }

    /// Why, in a few words (`check ok in 0.2 ms`, `connect refused`).
    pub fn reason(&self, _backend: BackendId) -> &str {
        ""
    }

    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = BackendId> + '_ {
        std::iter::empty()
    }
}
