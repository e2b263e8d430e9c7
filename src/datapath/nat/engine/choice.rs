//! Which backend a SYN goes to after others failed: as in `balance::scheduler`.

use super::super::layout::FlowKey;
use super::Engine;
use super::learn::endpoint;
use crate::model::Scheduler;

impl Engine {
    /// The next choice among those that may serve and did not fail.
    pub(super) fn next_backend(&mut self, key: &FlowKey, failed: &[usize]) -> Option<(usize, u32)> {
        let outlet = self.plan.outlet_at(endpoint(key))?;
        let rest: Vec<(usize, u32)> = outlet
            .pool
            .iter()
            .copied()
            .filter(|(place, _)| {
                let id = self.plan.backends[*place].id;
                self.publisher.eligible.contains(&id) && !failed.contains(place)
            })
            .collect();
        if rest.is_empty() {
            return None;
        }
        let weight = |place: usize| self.plan.backends[place].weight;
        let equals = |best: Vec<(usize, u32)>, rng: &mut fastrand::Rng| {
            let at = rng.usize(0..best.len());
            best.get(at).copied()
        };
        match self.plan.services[outlet.service].balance {
            Scheduler::RoundRobin => {
                let last = failed.last().copied().unwrap_or(0);
                let next = rest.iter().find(|(place, _)| *place > last);
                next.or_else(|| rest.first()).copied()
            }
            Scheduler::WeightedRoundRobin => {
                let most = rest.iter().map(|(place, _)| weight(*place)).max();
                let best = rest.into_iter();
                let best = best.filter(|(place, _)| Some(weight(*place)) == most);
                equals(best.collect(), &mut self.rng)
            }
            Scheduler::LeastConnections => {
                let load = |place: usize| {
                    let weight = u64::from(weight(place));
                    (u64::from(self.known.live(place)) << 32) / weight
                };
                let least = rest.iter().map(|(place, _)| load(*place)).min();
                let best = rest.into_iter();
                let best = best.filter(|(place, _)| Some(load(*place)) == least);
                equals(best.collect(), &mut self.rng)
            }
            // `random`; the configuration refuses the others.
            _ => {
                let sum = rest.iter().map(|(place, _)| u32::from(weight(*place)));
                let mut point = self.rng.u32(0..sum.sum::<u32>().max(1));
                rest.into_iter().find(|(place, _)| {
                    let weight = u32::from(weight(*place));
                    let found = point < weight;
                    point = point.saturating_sub(weight);
                    found
                })
            }
        }
    }
}
