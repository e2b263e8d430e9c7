//! Affinity: which backend a client had, as far as that is remembered.
//!
//! A [`StickTable`] holds keys, never what they were made of: a [`Hasher`] makes them with a secret that
//! only the two nodes have. It is bounded (the entry that was used longest ago goes first) and its
//! entries expire (`ttl` after their last use). Both need one order only, that of the last use.
//!
//! The data path reads and writes it; the node learns of its changes by events, and a standby's data path
//! is told the master's entries with their age. An entry that is used again and again is told again only
//! every so often ([`TELLS`]), so that renewals cost the session little.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use super::routes::Route;
use crate::config::StickFallback;
use crate::model::{BackendId, ServiceId};
use crate::wire::replication::StickKey;

/// How often within its `ttl` an entry that is used all the time is told to the peer.
pub const TELLS: u32 = 8;

/// Makes keys of what clients are recognised by.
///
/// SipHash-2-4 (Aumasson and Bernstein, 2012) with a key: without it nobody can tell whose entry a number
/// is, nor find values that meet in one entry. Both nodes have the same key.
#[derive(Clone)]
pub struct Hasher {
    key: [u8; 16],
    service: ServiceId,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Hasher {
    /// For this service: the same client has other keys elsewhere.
    pub const fn new(key: [u8; 16], service: ServiceId) -> Self {
        Self { key, service }
    }

    /// The number of this value.
    pub fn hash(&self, value: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        // Of a fixed length, so that no two inputs give the same bytes.
        hasher.write(&self.service.0.to_le_bytes());
        hasher.write(value);
        hasher.finish()
    }
}

/// What a data path is to know of an entry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stick {
    /// Which.
    pub key: StickKey,
    /// Its backend, and the milliseconds since it was used; none: it is gone.
    pub entry: Option<(BackendId, u64)>,
}

/// What became of an entry that was put in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Learned {
    /// It is new, goes to another backend, or was not told for some time: the peer should hear of it.
    pub tell: bool,
    /// This entry had to go.
    pub evicted: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: BackendId,
    /// Milliseconds since the start; below zero: before it.
    used: i64,
    told: i64,
}

/// Clients and their backends. Times are those since the start of the process.
#[derive(Clone, Debug)]
pub struct StickTable {
    size: usize,
    ttl: i64,
    entries: BTreeMap<u64, Entry>,
    /// By last use.
    order: BTreeSet<(i64, u64)>,
}

impl StickTable {
    /// An empty table of so many entries at most, one at least.
    pub fn new(size: usize, ttl: Duration) -> Self {
        Self {
            size: size.max(1),
            ttl: millis(ttl),
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    /// The backend, unless the entry has expired. It counts as used when it is learnt again.
    pub fn find(&self, key: u64, now: Duration) -> Option<BackendId> {
        let entry = self.entries.get(&key)?;
        (millis(now).saturating_sub(entry.used) < self.ttl).then_some(entry.backend)
    }

    /// A connection with this key has got this backend.
    pub fn learn(&mut self, key: u64, backend: BackendId, now: Duration) -> Learned {
        let now = millis(now);
        let known = self.entries.get(&key).filter(|it| it.backend == backend);
        let told = known.map(|known| known.told);
        let tell = told.is_none_or(|told| now.saturating_sub(told) >= self.ttl / i64::from(TELLS));
        let entry = Entry {
            backend,
            used: now,
            told: told.filter(|_| !tell).unwrap_or(now),
        };
        let evicted = self.put(key, entry);
        Learned { tell, evicted }
    }

    /// The master says this.
    pub fn adopt(&mut self, key: u64, entry: Option<(BackendId, u64)>, now: Duration) {
        let Some((backend, age)) = entry else {
            self.forget(key);
            return;
        };
        let used = millis(now).saturating_sub_unsigned(age);
        let entry = Entry {
            backend,
            used,
            told: used,
        };
        self.put(key, entry);
    }

    /// Lets go of entries that have expired, at most so many.
    pub fn expire(&mut self, now: Duration, most: usize) {
        for _ in 0..most {
            match self.order.first() {
                Some((used, key)) if millis(now).saturating_sub(*used) >= self.ttl => {
                    self.forget(*key);
                }
                _ => break,
            }
        }
    }

    /// All of them: the key, its backend, and the milliseconds since it was used.
    pub fn entries(&self, now: Duration) -> impl Iterator<Item = (u64, BackendId, u64)> {
        let now = millis(now);
        let age = move |used: i64| now.saturating_sub(used).max(0) as u64;
        let all = self.entries.iter();
        all.map(move |(key, it)| (*key, it.backend, age(it.used)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget(&mut self, key: u64) {
        if let Some(gone) = self.entries.remove(&key) {
            self.order.remove(&(gone.used, key));
        }
    }

    fn put(&mut self, key: u64, entry: Entry) -> Option<u64> {
        self.forget(key);
        self.entries.insert(key, entry);
        self.order.insert((entry.used, key));
        if self.entries.len() <= self.size {
            return None;
        }
        let (_, oldest) = *self.order.first()?;
        self.forget(oldest);
        // An old one that the master told may itself be the one.
        Some(oldest)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// What a connection's memory says of its pick.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advice {
    /// The scheduler chooses.
    Any,
    /// This place of the pool first.
    First(usize),
    /// This place, or none.
    Only(usize),
    /// Its backend takes no connections now, and no other one may serve it.
    Refuse,
}

/// Where a connection goes whose client had this backend. A backend of another pool, or of an earlier
/// configuration, is as good as none.
pub fn advise(had: Option<BackendId>, route: &Route, fallback: StickFallback) -> Advice {
    let Some(had) = had else {
        return Advice::Any;
    };
    let place = route.pool().iter().position(|target| target.id == had);
    match (place, fallback) {
        (Some(place), StickFallback::Reassign) => Advice::First(place),
        (Some(place), StickFallback::Refuse) => Advice::Only(place),
        (None, StickFallback::Reassign) => Advice::Any,
        (None, StickFallback::Refuse) => match route.all().iter().any(|target| target.id == had) {
            true => Advice::Refuse,
            false => Advice::Any,
        },
    }
}

#[cfg(test)]
#[path = "stick_test.rs"]
mod tests;
