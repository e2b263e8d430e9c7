//! Schedulers compiled to slots: the program takes one slot after the other (or any), so what a
//! scheduler would choose is written out beforehand.
//!
//! | scheduler | slots |
//! |---|---|
//! | `round_robin` | each backend once: exact |
//! | `weighted_round_robin` | the smooth sequence: exact over each of its periods; one of more than 4,096 is replaced by weights rounded to that |
//! | `random` | each backend by its weight, any slot is as likely |
//! | `least_connections` | what the next connections would choose if none ended; written anew when the counts have changed, at most every 100 ms, so it is that old at most |
//!
//! A service's slots have two halves. The one that nobody reads is filled, then the service is
//! pointed to it in one step. A reader that still has the other one has left it by the time of the
//! next publication, which comes 1 ms later at the earliest.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::super::maps::Maps;
use super::super::program::NatError;
use super::Engine;
use super::plan::{MOST_SLOTS, Outlet, ROUNDED};
use crate::balance::scheduler::Rotation;
use crate::model::{BackendId, Scheduler};

/// Between two publications of one outlet, nanoseconds.
pub(super) const GAP: u64 = 1_000_000;
/// The same, if only counts changed.
pub(super) const AGE: u64 = 100_000_000;

/// What is published of one outlet.
#[derive(Clone, Debug, Default)]
struct Published {
    /// Those of its pool that are eligible; none: nothing was published yet.
    pool: Option<Vec<(usize, u32)>>,
    /// The second half is the one that is read.
    second: bool,
    slots: u32,
    /// When.
    at: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    pub(super) eligible: BTreeSet<BackendId>,
    pub(super) down: BTreeSet<BackendId>,
    outlets: Vec<Published>,
    /// When an outlet is to be published again.
    due: BTreeSet<(u64, usize)>,
    /// Services with as many connections as they may have.
    limited: Vec<bool>,
}

impl Publisher {
    pub(super) fn new(plan: &super::plan::Plan) -> Self {
        Self {
            outlets: vec![Published::default(); plan.outlets.len()],
            limited: vec![false; plan.services.len()],
            ..Self::default()
        }
    }

    pub(super) fn timeout(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }
}

impl Engine {
    /// Lets new connections go to these backends only. Those that are newly down.
    pub(super) fn set_eligible(
        &mut self,
        eligible: BTreeSet<BackendId>,
        down: BTreeSet<BackendId>,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<Vec<BackendId>, NatError> {
        let fresh = down.difference(&self.publisher.down).copied().collect();
        self.publisher.eligible = eligible;
        self.publisher.down = down;
        for outlet in 0..self.plan.outlets.len() {
            if self.publisher.outlets[outlet].pool.as_ref() != Some(&self.pool(outlet)) {
                self.publish_soon(outlet, GAP, now);
            }
        }
        self.publish_due(maps, now)?;
        Ok(fresh)
    }

    fn pool(&self, outlet: usize) -> Vec<(usize, u32)> {
        let pool = self.plan.outlets[outlet].pool.iter().copied();
        let eligible = &self.publisher.eligible;
        pool.filter(|(place, _)| eligible.contains(&self.plan.backends[*place].id))
            .collect()
    }

    /// Publishes an outlet when its last publication is so old.
    pub(super) fn publish_soon(&mut self, outlet: usize, age: u64, now: u64) {
        let published = &self.publisher.outlets[outlet];
        let at = match published.pool {
            None => now,
            Some(_) => now.max(published.at + age),
        };
        self.publisher.due.insert((at, outlet));
    }

    /// Publishes what has to be by now.
    pub(super) fn publish_due(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        while let Some((at, outlet)) = self.publisher.due.first().copied() {
            if at > now {
                break;
            }
            self.publisher.due.pop_first();
            let published = &self.publisher.outlets[outlet];
            if published.pool.is_some() && published.at + GAP > now {
                self.publish_soon(outlet, GAP, now);
                continue;
            }
            self.publish(outlet, maps, now)?;
        }
        Ok(())
    }

    fn publish(&mut self, outlet: usize, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        let pool = self.pool(outlet);
        let plan = &self.plan.outlets[outlet];
        let slots = self.slots(plan, &pool, maps)?;
        let second = !self.publisher.outlets[outlet].second;
        let first = plan.first + if second { plan.room } else { 0 };
        maps.set_slots(first, &slots)?;
        self.publisher.outlets[outlet] = Published {
            pool: Some(pool),
            second,
            slots: slots.len() as u32,
            at: now,
        };
        self.point(outlet, maps)
    }

    /// Points the service to its slots; to none, if it has as many connections as it may.
    fn point(&self, outlet: usize, maps: &mut impl Maps) -> Result<(), NatError> {
        let plan = &self.plan.outlets[outlet];
        let published = &self.publisher.outlets[outlet];
        let mut entry = plan.entry;
        entry.first = plan.first + if published.second { plan.room } else { 0 };
        if !self.publisher.limited[plan.service] {
            entry.slots = published.slots;
        }
        plan.endpoints
            .iter()
            .try_for_each(|at| maps.set_service(*at, entry))
    }

    fn slots(
        &self,
        outlet: &Outlet,
        pool: &[(usize, u32)],
        maps: &impl Maps,
    ) -> Result<Vec<u32>, NatError> {
        if pool.is_empty() {
            return Ok(Vec::new());
        }
        let weights = pool.iter().map(|(at, _)| self.plan.backends[*at].weight);
        let weights: Vec<u16> = weights.collect();
        let rotation = match self.plan.services[outlet.service].balance {
            Scheduler::LeastConnections => {
                let mut slots = self.by_load(pool, &weights, outlet.half as usize);
                let turns = maps.turns(outlet.entry.turn)? % slots.len() as u64;
                // The next connection takes the first choice.
                slots.rotate_right(turns as usize);
                return Ok(slots);
            }
            Scheduler::RoundRobin => Rotation::weighted(&vec![1; pool.len()]),
            // The configuration refuses the others.
            _ => rotation(&weights),
        };
        let period = rotation.period().min(u64::from(outlet.half));
        Ok((0..period).map(|at| pool[rotation.at(at)].1).collect())
    }

    /// The choices of so many connections that come one after the other.
    fn by_load(&self, pool: &[(usize, u32)], weights: &[u16], count: usize) -> Vec<u32> {
        // Connections per weight, with 32 bits of fraction.
        let load = |live: u64, weight: u16| (live << 32) / u64::from(weight);
        let mut queue: BinaryHeap<Reverse<(u64, usize, u64)>> = pool
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(at, ((place, _), weight))| {
                let live = u64::from(self.known.live(*place));
                Reverse((load(live, *weight), at, live))
            })
            .collect();
        let mut slots = Vec::with_capacity(count);
        while slots.len() < count
            && let Some(Reverse((_, at, live))) = queue.pop()
        {
            slots.push(pool[at].1);
            queue.push(Reverse((load(live + 1, weights[at]), at, live + 1)));
        }
        slots
    }

    /// Looks at the services whose connections became more or fewer.
    pub(super) fn mind_counts(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        while let Some(service) = self.known.take_moved() {
            let plan = &self.plan.services[service];
            let outlets = plan.outlets.clone();
            let (live, most) = (self.known.live_of(service), plan.max_connections);
            if self.leading && plan.balance == Scheduler::LeastConnections {
                for outlet in outlets.clone() {
                    self.publish_soon(outlet, AGE, now);
                }
            }
            let limited = if self.publisher.limited[service] {
                // Not at once again: each change is a few writes.
                u64::from(live) * 20 >= u64::from(most) * 19
            } else {
                live >= most
            };
            if limited == self.publisher.limited[service] {
                continue;
            }
            self.publisher.limited[service] = limited;
            for outlet in outlets {
                if self.publisher.outlets[outlet].pool.is_some() {
                    self.point(outlet, maps)?;
                }
            }
        }
        Ok(())
    }

    /// This node's counts are the connections' own now.
    pub(super) fn publish_loads(&mut self, now: u64) {
        for outlet in 0..self.plan.outlets.len() {
            let service = &self.plan.services[self.plan.outlets[outlet].service];
            let published = self.publisher.outlets[outlet].pool.is_some();
            if published && service.balance == Scheduler::LeastConnections {
                self.publish_soon(outlet, GAP, now);
            }
        }
    }
}

/// The smooth sequence of these weights, or of rounded ones.
fn rotation(weights: &[u16]) -> Rotation {
    let exact = Rotation::weighted(weights);
    if exact.period() <= u64::from(MOST_SLOTS) {
        return exact;
    }
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let rounded = |weight: &u16| (u64::from(*weight) * u64::from(ROUNDED) / sum).max(1) as u16;
    Rotation::weighted(&weights.iter().map(rounded).collect::<Vec<_>>())
}
