//! Clients that are remembered: what the data path tells goes into the log, what the master tells goes
//! to the data path with its age, and what nobody used for its `ttl` leaves the log.
//!
//! Ages must survive the way to the other node, whose clock may show another time. So records carry the
//! moment of their last use on a scale that both share: a backup takes the latest moment that it has heard
//! of as "now", and goes on from there by its own steady clock; as master it stamps on the same scale.
//! A backup is behind on this scale by as long as nobody used any entry (and by the way of the message), so
//! entries may live that much longer at a failover, and never shorter.

use super::io::Output;
use super::{Node, Replication, Timer};
use crate::balance::Stick;
use crate::balance::stick::TELLS;
use crate::config::StickHow;
use crate::model::{BackendId, ServiceId};
use crate::replication::Learned;
use crate::time::Mono;
use crate::wire::replication::{Item, StickKey, StickRecord};

use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// Between two looks at remembered clients.
const SWEEP: Duration = Duration::from_millis(250);
/// How many are looked at then: about 0.2 ms if all have expired.
const SWEPT: usize = 256;

/// What the node keeps beside the replica.
#[derive(Debug, Default)]
pub(super) struct StickBook {
    /// The shared scale minus this process's clock, in milliseconds; none: it has no other.
    ahead: Option<i64>,
    /// The same of a snapshot under way.
    incoming: Option<Option<i64>>,
    /// Where the next look begins.
    swept: Option<StickKey>,
}

impl StickBook {
    /// Now on the shared scale.
    fn at(&self, now: Mono) -> u64 {
        now.as_millis()
            .saturating_add_signed(self.heard().unwrap_or(0))
    }

    const fn heard(&self) -> Option<i64> {
        match self.incoming {
            Some(incoming) => incoming,
            None => self.ahead,
        }
    }

    /// An entry was used at this moment, at the latest now.
    fn hear(&mut self, used_ms: u64, now: Mono) {
        let ahead = used_ms
            .cast_signed()
            .wrapping_sub(now.as_millis().cast_signed());
        let known = self.incoming.as_mut().unwrap_or(&mut self.ahead);
        *known = Some(known.map_or(ahead, |known| known.max(ahead)));
    }
}

impl Node {
    /// The data path remembers a client.
    pub(super) fn stuck(&mut self, key: StickKey, backend: BackendId, now: Mono) {
        let used_ms = self.sticks.at(now);
        let record = StickRecord { backend, used_ms };
        self.write(Item::Stick { key, record }, now);
    }

    /// Takes what is for the data path in the proxy out of what was learnt, and sends it there.
    pub(super) fn learn_sticks(&mut self, learned: Learned, now: Mono) -> Learned {
        let items = match learned {
            Learned::Items(items) => items,
            other => {
                match other {
                    Learned::SnapshotBegin => self.sticks.incoming = Some(None),
                    Learned::SnapshotEnd => {
                        self.sticks.ahead = self.sticks.incoming.take().flatten();
                    }
                    Learned::SnapshotVoid => self.sticks.incoming = None,
                    Learned::Items(_) => {}
                }
                return other;
            }
        };
        if !items.iter().any(Item::of_stick) {
            return Learned::Items(items);
        }
        let (sticks, others): (Vec<Item>, _) = items.into_iter().partition(Item::of_stick);
        for item in &sticks {
            if let Item::Stick { record, .. } = item {
                self.sticks.hear(record.used_ms, now);
            }
        }
        let at = self.sticks.at(now);
        let told = sticks.iter().filter_map(|item| match item {
            Item::Stick { key, record } => Some(Stick {
                key: *key,
                entry: Some((record.backend, at.saturating_sub(record.used_ms))),
            }),
            Item::Unstick { key } => Some(Stick {
                key: *key,
                entry: None,
            }),
            _ => None,
        });
        let told = told.collect();
        self.outputs.push_back(Output::Sticks(told));
        Learned::Items(others)
    }

    /// Now, on the scale of the records.
    pub(super) fn sticks_at(&self, now: Mono) -> u64 {
        self.sticks.at(now)
    }

    /// Forgets these, here and on the other node.
    pub(super) fn unstick(&mut self, keys: &[StickKey], now: Mono) {
        for key in keys {
            self.write(Item::Unstick { key: *key }, now);
        }
        let gone = keys.iter().map(|key| Stick {
            key: *key,
            entry: None,
        });
        let gone: Vec<_> = gone.collect();
        if !gone.is_empty() {
            self.outputs.push_back(Output::Sticks(gone));
        }
    }

    /// As master that knows clients: looks at them now and then.
    pub(super) fn run_sticks(&mut self, now: Mono) {
        let leads = matches!(self.replication, Replication::Source(_));
        if !leads || self.replica().sticks().is_empty() {
            self.timers.stop(Timer::Sticks);
        } else if self.timers.at(Timer::Sticks).is_none() {
            self.timers.set(Timer::Sticks, now + SWEEP);
        }
    }

    /// Forgets what has expired, and what belongs to no service.
    pub(super) fn sweep_sticks(&mut self, now: Mono) {
        let at = self.sticks.at(now);
        let from = self.sticks.swept.map_or(Unbounded, Excluded);
        let seen = self.replica().sticks().range((from, Unbounded)).take(SWEPT);
        let mut last = None;
        let mut gone = Vec::new();
        let mut count = 0;
        for (key, record) in seen {
            (last, count) = (Some(*key), count + 1);
            let age = at.saturating_sub(record.used_ms);
            let unknown = !self.roster.is_known(record.backend);
            if unknown || self.life(key.service).is_none_or(|life| age >= life) {
                gone.push(*key);
            }
        }
        self.sticks.swept = last.filter(|_| count == SWEPT);
        for key in gone {
            self.write(Item::Unstick { key }, now);
        }
    }

    /// How long an entry lives here, in milliseconds: its `ttl` and a little more, since the data path
    /// tells of a use only every so often.
    fn life(&self, service: ServiceId) -> Option<u64> {
        let mut services = self.config.services.iter();
        let service = services.find(|known| known.id == service)?;
        match service.proxied.affinity.as_ref()?.how {
            StickHow::Hash => None,
            StickHow::Table { ttl, .. } => Some((ttl + ttl / TELLS).as_millis() as u64),
        }
    }
}

#[cfg(test)]
#[path = "sticks_test.rs"]
mod tests;
