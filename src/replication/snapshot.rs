//! The source's state as it was at one position, told in pieces while writes go on.
//!
//! Nothing is copied at the beginning (a copy of two million connections takes longer than a node
//! may be without a turn): the walk reads the living tables in the order of their keys.
//! A write to an entry that the walk has yet to reach first puts the old entry aside, and the walk
//! tells that one instead. So the whole is exactly the state at the position, and has exactly as
//! many items as it had; the price is one kept entry for each entry that changes ahead of the walk,
//! and there are never more of those than items in the log.

use std::collections::BTreeMap;

use super::Replica;
use super::replica::Key;
use crate::wire::replication::{Item, Position};

/// A snapshot under way.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    position: Position,
    items: u64,
    told: u64,
    /// The walk has told, or passed, everything up to here.
    reached: Option<Key>,
    /// Entries ahead of the walk that changed since it began, as they were; `None`: not there.
    before: BTreeMap<Key, Option<Item>>,
}

impl Snapshot {
    /// Begins at this position, which `replica` is at.
    pub(super) fn begin(position: Position, replica: &Replica) -> Self {
        Self {
            position,
            items: replica.len(),
            told: 0,
            reached: None,
            before: BTreeMap::new(),
        }
    }

    /// The position that it represents.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// How many items it has.
    pub(super) const fn items(&self) -> u64 {
        self.items
    }

    /// A write to this entry would change what is still to be told.
    pub(super) fn needs(&self, key: Key) -> bool {
        self.reached.is_none_or(|reached| key > reached) && !self.before.contains_key(&key)
    }

    /// An entry that it needs has changed; this is how it was.
    pub(super) fn keep(&mut self, key: Key, was: Option<Item>) {
        self.before.insert(key, was);
    }

    /// The next items, at most so many; none: everything is told.
    pub(super) fn next_chunk(&mut self, replica: &Replica, most: usize) -> Vec<Item> {
        let mut living = replica.items_after(self.reached).peekable();
        let mut chunk = Vec::new();
        while chunk.len() < most {
            let now = living.peek().map(Key::of);
            let kept = self.before.first_key_value().map(|(key, _)| *key);
            let Some(next) = now.into_iter().chain(kept).min() else {
                break;
            };
            let living = living.next_if(|item| Key::of(item) == next);
            let told = if kept == Some(next) {
                self.before.pop_first().and_then(|(_, was)| was)
            } else {
                living
            };
            chunk.extend(told);
            self.reached = Some(next);
        }
        self.told += chunk.len() as u64;
        assert!(
            !chunk.is_empty() || self.told == self.items,
            "a snapshot of {} items told {}",
            self.items,
            self.told
        );
        chunk
    }

    /// Entries put aside.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.before.len()
    }
}
