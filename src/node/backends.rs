//! Backends: verdicts go to the peer and to operators, and those that serve to the data path.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use super::io::Output;
use crate::balance::standby;
use crate::config::OnDown;
use crate::model::BackendId;
use crate::status::What;
use crate::time::Mono;
use crate::wire::replication::Item;

impl Node {
    pub(super) fn run_health(&mut self, now: Mono) {
        while let Some(change) = self.health.poll_change() {
            let (backend, record) = (change.backend, change.record);
            self.write(Item::Health { backend, record }, now);
            if change.verdict_changed {
                let what = What::Backend {
                    backend: self.backend_name(backend),
                    up: record.up,
                    reason: change.reason,
                };
                self.write_event(what, now);
                if !record.up && self.resets_when_down(backend) {
                    self.outputs.push_back(Output::ResetBackend { backend });
                }
            }
        }
        while let Some((backend, remark)) = self.health.poll_note() {
            let text = format!("{}: {remark}", self.backend_name(backend));
            self.write_event(What::Note { text }, now);
        }
        while let Some(request) = self.health.poll_probe() {
            self.outputs.push_back(Output::Probe(request));
        }
    }

    /// The connections of this backend are reset when it is judged down. The kernel mode has its own way.
    fn resets_when_down(&self, backend: BackendId) -> bool {
        self.config.services.iter().any(|service| {
            service.proxied.limits.on_down == OnDown::Reset
                && service.backends.iter().any(|it| it.id == backend)
        })
    }

    pub(super) fn backend_name(&self, id: BackendId) -> String {
        let mut all = self.config.services.iter().flat_map(|service| {
            let pair = move |backend| (service, backend);
            service.backends.iter().map(pair)
        });
        all.find(|(_, backend)| backend.id == id)
            .map(|(service, backend)| format!("{}/{}", service.name, backend.name))
            .unwrap_or_default()
    }

    /// Called at every turn, so it makes nothing while nothing has changed.
    pub(super) fn publish(&mut self) {
        let book = &self.roster;
        let serves = |id: &BackendId| book.serves(*id);
        let eligible = self.health.serving().filter(serves);
        let published = self.published.as_ref();
        let same = published.is_some_and(|known| known.iter().copied().eq(eligible)) && !book.moved;
        let weights = self.weights.iter().map(|(id, weight)| (*id, *weight));
        let weighed = weights.eq(self.health.weights());
        if !same || !weighed {
            let eligible: BTreeSet<BackendId> = self.health.serving().filter(serves).collect();
            // Who may have connections when too few serve (`balance::standby`).
            // One that is up and does not serve is drained by its agent.
            let spared = |id: &BackendId| self.health.is_up(*id) && !eligible.contains(id);
            let leaves = |id: &BackendId| book.leaving.contains_key(id);
            let may = |id| serves(&id) && !spared(&id) && !leaves(&id);
            let chosen: BTreeSet<BackendId> = (self.config.services.iter())
                .flat_map(|service| standby::eligible(service, |id| eligible.contains(&id), may))
                .collect();
            self.roster.moved = false;
            self.published = Some(eligible);
            self.weights = self.health.weights().collect();
            self.publish_nat(true);
            let weights: BTreeMap<BackendId, u16> = self.weights.clone();
            self.outputs.push_back(Output::PublishRoutes {
                eligible: chosen,
                weights,
            });
        } else {
            self.publish_nat(false);
        }
    }
}
