//! What is known of each connection in the table: enough to tell what is new, in little memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::super::layout::{Flow, FlowKey};

/// A backend that is in no configuration.
pub(super) const NOWHERE: u32 = u32::MAX;

/// One connection, in 32 bytes with its key's hash. A key is known as long as the table has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    /// The place of its backend in the plan, or [`NOWHERE`].
    pub(super) backend: u32,
    /// Of its translation.
    pub(super) print: u32,
    /// The last 32 bits of the ticket of the report that has it.
    pub(super) ticket: u32,
    /// The snapshot, or reading of the table, that it was last seen in.
    pub(super) round: u16,
    /// It was reported as answered.
    pub(super) answered: bool,
    /// It was reported as closed.
    pub(super) closed: bool,
}

/// Passes on a hash that is one already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through(u64);

impl Hasher for Through {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A map whose keys are hashes. It is never walked in its own order.
pub(super) type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Through>>;

/// Hashes keys so that no client knows which of them collide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixer(u64);

impl Mixer {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn fold(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ ((wide >> 64) as u64)
    }

    fn words(self, words: [u64; 5]) -> u64 {
        let mixed = words.into_iter().fold(self.0, |hash, word| {
            Self::fold(hash ^ word ^ 0x9e37_79b9_7f4a_7c15, self.0 | 1 << 63)
        });
        Self::fold(mixed ^ 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f)
    }

    /// 64 bits, so that one in a hundred million tables of a million connections has two keys of
    /// one hash.
    pub(super) fn key(self, key: &FlowKey) -> u64 {
        let [a, b] = halves(&key.src.0);
        let [c, d] = halves(&key.dst.0);
        let ports = u64::from(key.sport.get()) << 16 | u64::from(key.dport.get());
        self.words([a, b, c, d, ports | u64::from(key.family) << 32])
    }

    /// Tells translations of one key from each other.
    pub(super) fn print(self, flow: &Flow) -> u32 {
        let [a, b] = halves(&flow.to_src.0);
        let [c, d] = halves(&flow.to_dst.0);
        let ports = u64::from(flow.to_sport.get()) << 16 | u64::from(flow.to_dport.get());
        self.words([a, b, c, d, ports]) as u32
    }
}

fn halves(address: &[u8; 16]) -> [u64; 2] {
    let wide = u128::from_be_bytes(*address);
    [(wide >> 64) as u64, wide as u64]
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Known {
    entries: ByHash<Entry>,
    mixer: Mixer,
    /// Open connections of each backend, by its place in the plan.
    live: Vec<u32>,
    /// Open ones of each service.
    services: Vec<u32>,
    service_of: Vec<usize>,
    /// The services whose counts changed, each once.
    moved: Vec<usize>,
    is_moved: Vec<bool>,
}

impl Known {
    pub(super) fn new(mixer: Mixer, services: usize, service_of: Vec<usize>) -> Self {
        Self {
            entries: ByHash::default(),
            mixer,
            live: vec![0; service_of.len()],
            services: vec![0; services],
            service_of,
            moved: Vec::new(),
            is_moved: vec![false; services],
        }
    }

    /// Another backend has this place from now on, the next one at most; nothing counts there.
    pub(super) fn place(&mut self, place: usize, service: usize) {
        if place == self.live.len() {
            self.live.push(0);
            self.service_of.push(service);
        } else {
            self.service_of[place] = service;
        }
    }

    pub(super) fn hash(&self, key: &FlowKey) -> u64 {
        self.mixer.key(key)
    }

    pub(super) fn print(&self, flow: &Flow) -> u32 {
        self.mixer.print(flow)
    }

    pub(super) fn get(&self, hash: u64) -> Option<&Entry> {
        self.entries.get(&hash)
    }

    fn count(&mut self, entry: Entry, by: i32) {
        let place = entry.backend as usize;
        if entry.closed || place >= self.live.len() {
            return;
        }
        let service = self.service_of[place];
        self.live[place] = self.live[place].saturating_add_signed(by);
        self.services[service] = self.services[service].saturating_add_signed(by);
        if !std::mem::replace(&mut self.is_moved[service], true) {
            self.moved.push(service);
        }
    }

    /// What is known of it from now on.
    pub(super) fn put(&mut self, hash: u64, entry: Entry) {
        if let Some(old) = self.entries.insert(hash, entry) {
            self.count(old, -1);
        }
        self.count(entry, 1);
    }

    /// Changes what is known of it, if anything is.
    pub(super) fn change(&mut self, hash: u64, how: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.entries.get(&hash).copied() {
            how(&mut entry);
            self.put(hash, entry);
        }
    }

    /// It is not in the table any more.
    pub(super) fn remove(&mut self, hash: u64) -> Option<Entry> {
        let old = self.entries.remove(&hash)?;
        self.count(old, -1);
        Some(old)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Open connections of a backend.
    pub(super) fn live(&self, place: usize) -> u32 {
        self.live[place]
    }

    /// Open connections of a service.
    pub(super) fn live_of(&self, service: usize) -> u32 {
        self.services[service]
    }

    /// A service whose counts changed since it was taken last.
    pub(super) fn take_moved(&mut self) -> Option<usize> {
        let service = self.moved.pop()?;
        self.is_moved[service] = false;
        Some(service)
    }
}
