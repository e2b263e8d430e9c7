//! `maglev`: a table from hashes to backends (Eisenbud et al., "Maglev: A Fast and Reliable
//! Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Every backend has its own walk through the table, a permutation of all places given by an offset
//! and a step; the backends take turns, each claiming the next free place of its walk, until the table
//! is full. Turns come by weight. They come in the order of the ids, so that the table depends on the
//! names and weights only, not on the order of the file.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Among;
use crate::model::BackendId;

/// The filled table.
#[derive(Debug)]
pub(in crate::balance) struct Maglev {
    /// Places in the pool. Empty: the pool is.
    entries: Box<[u16]>,
}

/// One backend's walk.
struct Walk {
    place: u16,
    weight: u32,
    /// What it has saved for its next turn.
    saved: u32,
    at: u32,
    step: u32,
}

const FREE: u16 = u16::MAX;

impl Maglev {
    /// `size` is prime, or walks would miss places. Takes about `size x ln(size)` steps.
    pub(super) fn new(backends: &[(BackendId, u16)], size: u32) -> Self {
        let number = |id: BackendId, seed| xxh3_64_with_seed(&id.0.to_le_bytes(), seed);
        let mut order: Vec<_> = backends.iter().enumerate().collect();
        order.sort_by_key(|(_, (id, _))| *id);
        let mut walks: Vec<Walk> = order
            .into_iter()
            .map(|(place, (id, weight))| Walk {
                place: place as u16,
                weight: u32::from(*weight).max(1),
                saved: 0,
                at: (number(*id, 1) % u64::from(size)) as u32,
                step: (number(*id, 2) % u64::from(size - 1)) as u32 + 1,
            })
            .collect();
        let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else {
            return Self {
                entries: Box::default(),
            };
        };
        let mut entries = vec![FREE; size as usize].into_boxed_slice();
        let mut free = size;
        loop {
            for walk in &mut walks {
                // The heaviest has a turn in every round, others when they have saved for it.
                walk.saved += walk.weight;
                if walk.saved < heaviest {
                    continue;
                }
                walk.saved -= heaviest;
                while entries[walk.at as usize] != FREE {
                    walk.at = (walk.at + walk.step) % size;
                }
                entries[walk.at as usize] = walk.place;
                free -= 1;
                if free == 0 {
                    return Self { entries };
                }
            }
        }
    }

    /// The client's backend; where that cannot be, the next one in the table.
    pub(super) fn pick(&self, among: Among<'_>, client: u64) -> Option<usize> {
        let (before, after) = match self.entries.len() {
            0 => return None,
            size => self.entries.split_at((client % size as u64) as usize),
        };
        // A place is asked once in a row only: in a service that is full the table is long.
        let mut last = FREE;
        for entry in after.iter().chain(before) {
            if *entry != last && among.has(usize::from(*entry)) {
                return Some(usize::from(*entry));
            }
            last = *entry;
        }
        // A weight too small for a place in the table.
        among.places().next()
    }
}

#[cfg(test)]
#[path = "maglev_test.rs"]
mod tests;
