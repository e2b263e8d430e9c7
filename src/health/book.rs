//! The book: one entry a backend, and an agenda that says which of them is due next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::entry::{Blame, Entry, HealthChange};
use crate::config::{Backend, Config, Observe, Service};
use crate::health::probe::{ProbeRequest, ProbeResult};
use crate::model::{BackendId, ConnectFailure};
use crate::time::Mono;
use crate::wire::replication::HealthRecord;

/// The verdicts on all backends.
#[derive(Clone, Debug)]
pub struct HealthBook {
    entries: BTreeMap<BackendId, Entry>,
    /// Each entry's deadline, if it has one.
    agenda: BTreeSet<(Mono, BackendId)>,
    probes: VecDeque<ProbeRequest>,
    changes: VecDeque<HealthChange>,
    notes: VecDeque<(BackendId, String)>,
    /// Some service looks at first bytes.
    first_bytes: bool,
    random: fastrand::Rng,
    last_token: u64,
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
            notes: VecDeque::new(),
            first_bytes: looks_at_first_bytes(config),
            random: fastrand::Rng::with_seed(seed),
            last_token: 0,
        };
        for service in &config.services {
            for backend in &service.backends {
                book.begin(service, backend, now);
            }
        }
        book
    }

    fn begin(&mut self, service: &Service, backend: &Backend, now: Mono) {
        let mut entry = Entry::new(service, backend, now);
        entry.begin(&mut self.random, now);
        self.forget(backend.id);
        self.entries.insert(backend.id, entry);
        self.settle(backend.id, now);
    }

    fn forget(&mut self, id: BackendId) {
        if let Some(at) = self.entries.remove(&id).and_then(|old| old.deadline) {
            self.agenda.remove(&(at, id));
        }
    }

    /// The configuration is another one. A backend that is checked as before, at the same place, keeps
    /// its verdict, whatever its weight is now; so does one that is checked otherwise, until it has been.
    /// Any other one begins as its check's `start` says. Those
    /// that `leave` have no verdict any more: they are not up.
    pub fn reconfigure(
        &mut self,
        (former, config): (&Config, &Config),
        leave: impl Fn(BackendId) -> bool,
        now: Mono,
    ) {
        let former = by_id(former);
        let mut wanted = by_id(config);
        wanted.retain(|id, _| !leave(*id));
        let known = self.entries.keys().copied();
        let gone: Vec<_> = known.filter(|id| !wanted.contains_key(id)).collect();
        for id in gone {
            self.forget(id);
        }
        for (id, (service, backend)) in wanted {
            let known = former.get(&id).filter(|_| self.entries.contains_key(&id));
            if !known.is_some_and(|known| checked_alike(*known, (service, backend))) {
                let same = known.filter(|(_, it)| it.address == backend.address);
                let old = same.and_then(|(was, _)| Some((*was, self.entries.get(&id)?.clone())));
                self.begin(service, backend, now);
                if let (Some((was, old)), Some(entry)) = (old, self.entries.get_mut(&id)) {
                    entry.succeed(&old, was.agent == service.agent);
                    self.settle(id, now);
                }
            } else if let Some(entry) = self.entries.get_mut(&id) {
                entry.place(service, backend);
            }
        }
        self.first_bytes = looks_at_first_bytes(config);
    }

    /// Backends in maintenance are not checked, and no agent of theirs is asked; afterwards they begin
    /// anew.
    pub fn maintain(&mut self, rests: impl Fn(BackendId) -> bool, now: Mono) {
        let ids: Vec<_> = self.entries.keys().copied().collect();
        for id in ids {
            let entry = self.entries.get_mut(&id).expect("it is listed");
            if entry.rest(rests(id), &mut self.random, now) {
                self.settle(id, now);
            }
        }
    }

    /// A check was answered. Late answers are ignored.
    pub fn handle_probe(&mut self, result: &ProbeResult, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&result.backend)
            && entry.answered(result, now)
        {
            self.settle(result.backend, now);
        }
    }

    /// A client's connect to this backend failed.
    pub fn connect_failed(&mut self, backend: BackendId, failure: ConnectFailure, now: Mono) {
        self.blame(backend, Blame::Connect(failure), now);
    }

    /// The backend reset a client's connection before its first byte.
    pub fn reset_early(&mut self, backend: BackendId, now: Mono) {
        self.blame(backend, Blame::Reset, now);
    }

    fn blame(&mut self, backend: BackendId, blame: Blame, now: Mono) {
        let last = self.is_last(backend);
        if let Some(entry) = self.entries.get_mut(&backend) {
            entry.client_failed(blame, last, now);
            self.settle(backend, now);
        }
    }

    /// It is about to fall, and no other backend of its pool serves.
    fn is_last(&self, backend: BackendId) -> bool {
        let entry = self.entries.get(&backend);
        let Some(entry) = entry.filter(|it| it.is_about_to_fall()) else {
            return false;
        };
        let mut all = self.entries.iter();
        !all.any(|(id, it)| *id != backend && it.group == entry.group && it.helps())
    }

    /// A backend said something to a client.
    pub fn spoke(&mut self, backend: BackendId, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend)
            && entry.client_served(true, now)
        {
            self.settle(backend, now);
        }
    }

    /// Whether `reset_early` and `spoke` change anything for any backend.
    pub const fn wants_first_bytes(&self) -> bool {
        self.first_bytes
    }

    /// A client's connect to this backend succeeded.
    pub fn connected(&mut self, backend: BackendId, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend)
            && entry.client_served(false, now)
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

    /// The next remark for the timeline, which is no change of a verdict.
    pub fn poll_note(&mut self) -> Option<(BackendId, String)> {
        self.notes.pop_front()
    }

    /// Warm start from the peer. Evidence of our own, be it one check, wins over what the peer
    /// thought.
    pub fn adopt(&mut self, backend: BackendId, record: HealthRecord, now: Mono) {
        if let Some(entry) = self.entries.get_mut(&backend)
            && entry.adopt(record, now)
        {
            self.settle(backend, now);
        }
    }

    /// The verdict; false for an unknown backend.
    pub fn is_up(&self, backend: BackendId) -> bool {
        self.entries.get(&backend).is_some_and(Entry::up)
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
            .filter(|(_, entry)| entry.up())
            .map(|(id, _)| *id)
    }

    /// Those that may get new connections, as far as checks and agents say.
    pub fn serving(&self) -> impl Iterator<Item = BackendId> + '_ {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.serves())
            .map(|(id, _)| *id)
    }

    /// Weights that agents have changed, of backends that serve.
    pub fn weights(&self) -> impl Iterator<Item = (BackendId, u16)> + '_ {
        let changed = |(id, entry): (&BackendId, &Entry)| Some((*id, entry.changed_weight()?));
        self.entries.iter().filter_map(changed)
    }

    /// The weight that counts now; none for an unknown backend.
    pub fn weight(&self, backend: BackendId) -> Option<u16> {
        self.entries.get(&backend).map(Entry::weight)
    }

    /// Does what is due for this backend, and enters its next deadline, which lies ahead.
    fn settle(&mut self, id: BackendId, now: Mono) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let probe = entry.act(id, &mut self.last_token, &mut self.random, now);
        self.probes.extend(probe);
        let question = entry.ask(id, &mut self.last_token, &mut self.random, now);
        self.probes.extend(question);
        self.notes.extend(entry.note.take().map(|note| (id, note)));
        self.changes.extend(entry.news(id, now));

        let next = entry.next_deadline(now);
        let last = std::mem::replace(&mut entry.deadline, next);
        if last != next {
            self.agenda.extend(next.map(|at| (at, id)));
            if let Some(at) = last {
                self.agenda.remove(&(at, id));
            }
        }
    }
}

type Placed<'c> = (&'c Service, &'c Backend);

fn by_id(config: &Config) -> BTreeMap<BackendId, Placed<'_>> {
    let services = config.services.iter();
    let pairs = services.flat_map(|service| service.backends.iter().map(move |it| (service, it)));
    pairs.map(|pair| (pair.1.id, pair)).collect()
}

fn looks_at_first_bytes(config: &Config) -> bool {
    let mut all = config.services.iter().flat_map(|service| {
        let pools = (0..service.proxied.pools.len()).map(|pool| Some(pool as u16));
        let pools = std::iter::once(None).chain(pools);
        pools.filter_map(|pool| service.health_of_pool(pool))
    });
    all.any(|health| health.observe == Observe::FirstByte)
}

/// Nothing that a check or an agent has to do with is different.
fn checked_alike((was, old): Placed<'_>, (is, new): Placed<'_>) -> bool {
    let elsewhere = |it: &Backend| {
        (
            it.address.clone(),
            (it.check_address, it.check_port),
            (it.agent_address, it.agent_port),
        )
    };
    elsewhere(old) == elsewhere(new)
        && was.health_of(old) == is.health_of(new)
        && was.agent == is.agent
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
