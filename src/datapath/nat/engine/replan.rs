//! Backends that come, go and change while the program runs.
//!
//! Entries of the kernel's array are written before any slot leads to them, and are used again only
//! after a pause: the program may still have the slots before. Connections do not need them: each has
//! its own translation. A backend's place in the plan is given to another one when no connection
//! counts there any more.

use std::collections::{BTreeMap, BTreeSet};

use super::super::maps::Maps;
use super::super::program::NatError;
use super::Engine;
use super::plan::{Backend, Plan};
use super::publish::GAP;
use crate::config::{Config, Service};
use crate::model::BackendId;

/// How long an entry of the array rests before it is used again, nanoseconds.
const REST: u64 = 1_000_000_000;

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Replanned {
    /// Entries of the array that are others now.
    pub(super) entries: Vec<u32>,
    /// Outlets whose slots are to be others.
    pub(super) outlets: BTreeSet<usize>,
    /// Places of backends, with their services.
    pub(super) places: Vec<(usize, usize)>,
}

impl Plan {
    /// The backends are those of this configuration from now on; all else stays. `busy`: connections
    /// count at this place.
    pub(super) fn reconfigure(
        &mut self,
        config: &Config,
        busy: impl Fn(usize) -> bool,
        now: u64,
    ) -> Replanned {
        let mut done = Replanned::default();
        let there = config.services.iter().flat_map(|service| &service.backends);
        let there: BTreeSet<u32> = there.map(|backend| backend.id.0).collect();
        let gone = self.by_backend.iter().filter(|(id, _)| !there.contains(id));
        let gone: Vec<(u32, usize)> = gone.map(|(id, place)| (*id, *place)).collect();
        for (id, place) in gone {
            self.by_backend.remove(&id);
            self.vacant.push_back(place);
        }
        for service in &config.services {
            if let Some(number) = self.place_of(service.id) {
                self.replan_service(number, service, &busy, now, &mut done);
            }
        }
        done
    }

    fn replan_service(
        &mut self,
        number: usize,
        service: &Service,
        busy: &impl Fn(usize) -> bool,
        now: u64,
        done: &mut Replanned,
    ) {
        let mut places = Vec::new();
        let mut weighed = BTreeSet::new();
        for backend in &service.backends {
            let wanted = Backend {
                id: backend.id,
                service: number,
                weight: backend.weight.0.max(1),
            };
            let known = self.by_backend.get(&backend.id.0).copied();
            let place = known.unwrap_or_else(|| self.place(busy));
            if place == self.backends.len() {
                self.backends.push(wanted);
            } else {
                if self.backends[place].weight != wanted.weight {
                    weighed.insert(place);
                }
                self.backends[place] = wanted;
            }
            if known.is_none() {
                self.by_backend.insert(backend.id.0, place);
                done.places.push((place, number));
            }
            places.push(place);
        }
        self.services[number].backends.clone_from(&places);
        for outlet in self.services[number].outlets.clone() {
            let pool = self.repool(outlet, service, &places, now, done);
            let plan = &self.outlets[outlet];
            if pool != plan.pool || pool.iter().any(|(place, _)| weighed.contains(place)) {
                let half = self.half(service.balance.scheduler, &pool);
                let plan = &mut self.outlets[outlet];
                plan.half = half.min(plan.room);
                plan.pool = pool;
                done.outlets.insert(outlet);
            }
        }
    }

    /// A place for one more.
    fn place(&mut self, busy: &impl Fn(usize) -> bool) -> usize {
        let free = self.vacant.iter().position(|place| !busy(*place));
        let free = free.and_then(|at| self.vacant.remove(at));
        free.unwrap_or(self.backends.len())
    }

    /// An outlet's pool, with an entry of the array for each of it.
    fn repool(
        &mut self,
        outlet: usize,
        service: &Service,
        places: &[usize],
        now: u64,
        done: &mut Replanned,
    ) -> Vec<(usize, u32)> {
        let plan = &self.outlets[outlet];
        let (source, flags) = (plan.source, plan.entry.flags);
        let mut before: BTreeMap<usize, u32> = plan.pool.iter().copied().collect();
        let mut pool = Vec::new();
        for (place, backend) in places.iter().zip(&service.backends) {
            let address = backend.address.tcp();
            let Some(address) = address.filter(|it| it.is_ipv4() == source.is_ipv4()) else {
                continue;
            };
            let entry = self.entry(source, flags, backend.id, address);
            let same = |index: &&u32| self.array[**index as usize] == entry;
            if let Some(index) = before.get(place).filter(same).copied() {
                before.remove(place);
                pool.push((*place, index));
                continue;
            }
            let Some(index) = self.index(now) else {
                self.no_room += 1;
                continue;
            };
            if index as usize == self.array.len() {
                self.array.push(entry);
            } else {
                self.array[index as usize] = entry;
            }
            done.entries.push(index);
            pool.push((*place, index));
        }
        self.unused
            .extend(before.into_values().map(|index| (now, index)));
        pool
    }

    /// An entry of the array for one more.
    fn index(&mut self, now: u64) -> Option<u32> {
        let next = self.array.len() as u32;
        if next < self.array_room() {
            return Some(next);
        }
        let rested = |(since, _): &mut (u64, u32)| since.saturating_add(REST) <= now;
        self.unused.pop_front_if(rested).map(|(_, index)| index)
    }
}

impl Engine {
    /// The backends are those of this configuration from now on.
    pub(super) fn reconfigure(
        &mut self,
        config: &Config,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        let known = &self.known;
        let busy = |place| known.live(place) > 0;
        let done = self.plan.reconfigure(config, busy, now);
        for (place, service) in done.places {
            self.known.place(place, service);
        }
        for index in done.entries {
            maps.set_backend(index, self.plan.array[index as usize])?;
        }
        for outlet in done.outlets {
            self.publish_soon(outlet, GAP, now);
        }
        self.publish_due(maps, now)
    }

    /// Ends the connections of these backends, with a reset to both ends.
    pub(super) fn reset(&mut self, backends: impl IntoIterator<Item = BackendId>, now: u64) {
        if self.leading {
            self.walk.start_purge(backends, now);
        }
    }
}
