//! Choosing: a backend, a port of ours, and whether a client may be one.

use std::net::IpAddr;

use super::super::layout::{FlowKey, NO_BACKEND, Port, Service, Settings, Source, Window};
use super::super::names::{Counter, Scheduler};
use super::{Arrival, Reference};

const SECOND: u64 = 1_000_000_000;
/// Ports that are tried for one flow.
const TRIES: u32 = 16;

impl Reference {
    /// A port of ours that makes this key new.
    pub(super) fn port(&mut self, back_key: &mut FlowKey, index: usize) -> Result<Port, Counter> {
        let Settings {
            own_first,
            own_last,
            ..
        } = self.settings;
        let tried = self.ports.get_mut(index).ok_or(Counter::NoPort)?;
        if own_last < own_first {
            return Err(Counter::NoPort);
        }
        let span = u64::from(own_last - own_first) + 1;
        // Ports that are taken stand in runs: the golden ratio leads out of one.
        let leap = (span * 2_531) >> 12;
        for _ in 0..TRIES {
            // Less than 2^16, as the range is.
            let port = own_first + (*tried % span) as u16;
            *tried += 1;
            back_key.dport = port.into();
            if !self.flows.contains_key(back_key) {
                return Ok(back_key.dport);
            }
            *tried += leap;
        }
        Err(Counter::NoPort)
    }

    pub(super) fn pick(&mut self, key: &FlowKey, service: &Service, arrival: &Arrival) -> u32 {
        if service.slots == 0 {
            return NO_BACKEND;
        }
        let number = match Scheduler::from_number(service.scheduler) {
            Some(Scheduler::RoundRobin) => match self.turns.get_mut(service.turn as usize) {
                Some(turns) => {
                    *turns += 1;
                    *turns - 1
                }
                None => 0,
            },
            Some(Scheduler::Random) => arrival.random.into(),
            _ => hashed(key, service).into(),
        };
        let slot = u64::from(service.first) + number % u64::from(service.slots);
        let index = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.slots.get(slot));
        index.copied().unwrap_or(NO_BACKEND)
    }

    pub(super) fn bad_source(&self, key: &FlowKey) -> bool {
        let impossible = match key.src.ip(key.family) {
            IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified() || ip.is_loopback(),
        };
        impossible || self.owner(key.src, key.family).is_some()
    }
}

impl Reference {
    /// Whether this source opened enough flows this second.
    pub(super) fn too_fast(&mut self, key: &FlowKey, service: &Service, now: u64) -> bool {
        if service.source_rate == 0 {
            return false;
        }
        let [a, b, c, d, e, f, g, h, ..] = key.src.0;
        let source = Source {
            net: [a, b, c, d, e, f, g, h],
            service: service.id,
            family: key.family,
        };
        let window = self.sources.entry(source).or_insert(Window {
            start: now,
            syns: 0,
        });
        if now - window.start >= SECOND {
            *window = Window {
                start: now,
                syns: 0,
            };
        }
        window.syns += 1;
        window.syns > u64::from(service.source_rate)
    }
}

/// The hash by which a client finds its slot; user space may foretell it.
pub fn hashed(key: &FlowKey, service: &Service) -> u32 {
    let mixed = |hash: u32, word: u32| {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
        hash ^ (hash >> 15)
    };
    let words = key.src.0.chunks_exact(4);
    let words = words.map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    let mut hash = words.fold(service.seed, mixed);
    if service.scheduler == Scheduler::Tuple.number() {
        hash = mixed(hash, key.sport.get().into());
    }
    mixed(hash, 0)
}
