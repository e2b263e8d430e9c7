//! Backends that come and go while the node runs.
//!
//! There is one way to change them: a new effective configuration is made from the file's, from what
//! sources found and from what operators said (`balance::roster`), and every part that has something a
//! backend reconciles itself with it: health, counts, routes, checks, the kernel mode.
//!
//! A backend that is not in it any more *leaves*: it stays in the node's configuration, without a
//! verdict and so without new connections, as long as it has connections, and [`SETTLE`] at least; then
//! it is forgotten. One that is back before is as new. If only its address is another, its old
//! connections stay where they are, under the same name.
//!
//! What operators said is on both nodes and on the disk. A node that is not master tells the master
//! what it knows better (`Frame::Said`): after a split, the later word holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::io::Output;
use super::{Node, Replication, Timer};
use crate::balance::nat::NatCommand;
use crate::balance::{Effective, Found, Origin, Roster};
use crate::config::{Backend, Config, Service};
use crate::model::{AdminState, BackendId, ServiceId};
use crate::replication::{Learned, Replica};
use crate::time::Mono;
use crate::wire::replication::{Frame, Item, MAX_BATCH};
use crate::wire::statement::{Aspect, Said, Statement};

/// A backend that leaves stays so long at least: connections that are being made to it are told of late.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks at backends that leave, and between two resets of what should be gone.
const LOOK: Duration = Duration::from_secs(1);
/// Backends that leave at most; beyond it those that have done so for longest are forgotten, though
/// their connections go on.
const MAX_LEAVING: usize = 4_096;

/// What the node keeps of it.
#[derive(Debug)]
pub(super) struct RosterBook {
    /// The file's configuration.
    pub(super) file: Arc<Config>,
    pub(super) said: Roster,
    found: BTreeMap<(ServiceId, String, String), Found>,
    origins: BTreeMap<BackendId, Origin>,
    pub(super) leaving: BTreeMap<BackendId, Leaving>,
    trouble: BTreeSet<String>,
    /// The disk does not have all that was said.
    unkept: bool,
    /// The master may lack something.
    untold: bool,
    /// States have changed since routes were published.
    pub(super) moved: bool,
}

/// A backend that was removed and has connections.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    backend: Backend,
    /// The name of its pool, which the next configuration may have elsewhere, or not at all.
    pool: String,
    service: ServiceId,
    since: Mono,
    origin: Origin,
}

impl RosterBook {
    pub(super) fn new(file: &Arc<Config>) -> Self {
        let services = file.services.iter();
        let backends = services.flat_map(|service| &service.backends);
        Self {
            file: Arc::clone(file),
            said: Roster::default(),
            found: BTreeMap::new(),
            origins: backends.map(|it| (it.id, Origin::File)).collect(),
            leaving: BTreeMap::new(),
            trouble: BTreeSet::new(),
            unkept: false,
            untold: false,
            moved: false,
        }
    }

    /// It may get new connections, as far as operators say.
    pub(super) fn serves(&self, backend: BackendId) -> bool {
        self.said.state(backend) == AdminState::Enabled
    }

    /// Where it comes from, or came from.
    pub(super) fn origin(&self, backend: BackendId) -> &Origin {
        let gone = self.leaving.get(&backend).map(|it| &it.origin);
        gone.or_else(|| self.origins.get(&backend))
            .unwrap_or(&Origin::File)
    }

    /// It is there, or leaves.
    pub(super) fn is_known(&self, backend: BackendId) -> bool {
        self.origins.contains_key(&backend) || self.leaving.contains_key(&backend)
    }

    /// As the file has it.
    pub(super) fn written(&self, service: ServiceId, backend: BackendId) -> Option<&Backend> {
        let mut services = self.file.services.iter();
        let service = services.find(|known| known.id == service)?;
        service.backends.iter().find(|known| known.id == backend)
    }

    /// Names of the file's backends that operators have removed, once they are gone.
    pub(super) fn removed(&self, service: &Service) -> Vec<String> {
        let mut services = self.file.services.iter();
        let written = services.find(|known| known.id == service.id);
        let written = written.into_iter().flat_map(|known| &known.backends);
        let gone = written.filter(|it| !self.is_known(it.id));
        gone.map(|backend| backend.name.clone()).collect()
    }

    /// What operators made different from the file, in words.
    pub(super) fn differs(&self, service: ServiceId, now: &Backend) -> Option<String> {
        let mut said = self.said.aspects(now.id).filter(|it| *it != Aspect::State);
        said.next()?;
        let written = self.written(service, now.id)?;
        let mut words = Vec::new();
        if self.leaving.contains_key(&now.id) {
            words.push("it".to_owned());
        }
        if written.address != now.address {
            words.push(written.address.to_string());
        }
        if written.weight != now.weight {
            words.push(format!("weight {}", written.weight.0));
        }
        (!words.is_empty()).then(|| format!("the file has {}", words.join(" and ")))
    }

    /// What a mastership begins with.
    pub(super) fn put_into(&self, replica: &mut Replica) {
        for item in self.said.items() {
            replica.apply(&item);
        }
    }
}

impl Node {
    /// The file is another one: only in what can change while a node runs (`Config::difference`).
    pub(super) fn configure(&mut self, file: Arc<Config>, now: Mono) {
        self.election.tell_config(file.hash);
        self.roster.file = file;
        self.reconfigure(now);
        self.compare();
    }

    /// A source found this.
    pub(super) fn handle_found(&mut self, found: Found, now: Mono) {
        let key = (found.service, found.pool.clone(), found.source.clone());
        if self.roster.found.get(&key) != Some(&found) {
            self.roster.found.insert(key, found);
            self.reconfigure(now);
        }
    }

    /// What the disk has, from an earlier life.
    pub(super) fn recall(&mut self, items: &[Item], now: Mono) {
        self.hear(items);
        self.roster.unkept = false;
        self.reconfigure(now);
    }

    /// Takes what is news out of these; into the log, too, on a master. Whether there was any.
    fn hear(&mut self, items: &[Item]) -> VecDeque<Item> {
        let mut news = VecDeque::new();
        for item in items {
            if let Item::Said { backend, statement } = item
                && self.roster.said.hear(*backend, statement)
            {
                news.push_back(item.clone());
            }
        }
        if !news.is_empty() {
            (self.roster.unkept, self.roster.untold, self.roster.moved) = (true, true, true);
        }
        news
    }

    /// An operator said this.
    pub(super) fn say(
        &mut self,
        service: ServiceId,
        id: BackendId,
        name: &str,
        said: Said,
        now: Mono,
    ) {
        let node = self.identity.node;
        let at = self.roster.said.stamp(node, self.journal.unix_ms(now));
        let item = Item::Said {
            backend: id,
            statement: Statement {
                service,
                name: name.to_owned(),
                at,
                said,
            },
        };
        for item in self.hear(&[item]) {
            self.write(item, now);
        }
    }

    /// As master: the peer knows these.
    pub(super) fn hear_peer(&mut self, items: &[Item], now: Mono) {
        let news = self.hear(items);
        if news.is_empty() {
            return;
        }
        let many = news.len();
        for item in news {
            self.write(item, now);
        }
        self.note(
            format!(
                "{many} statements about backends come from the peer, where they were said later"
            ),
            now,
        );
        self.reconfigure(now);
    }

    /// Takes what is about backends out of what was learnt.
    pub(super) fn learn_said(&mut self, learned: Learned, now: Mono) -> Learned {
        let items = match learned {
            Learned::Items(items) => items,
            other => {
                self.roster.untold |= other == Learned::SnapshotEnd;
                return other;
            }
        };
        if !items.iter().any(Item::is_said) {
            return Learned::Items(items);
        }
        let (said, others): (Vec<Item>, _) = items.into_iter().partition(Item::is_said);
        if !self.hear(&said).is_empty() {
            self.reconfigure(now);
        }
        Learned::Items(others)
    }

    /// Makes the effective configuration, and tells everybody if it is another one.
    pub(super) fn reconfigure(&mut self, now: Mono) {
        let book = &mut self.roster;
        let Effective {
            mut config,
            origins,
            trouble,
        } = book.said.effective(&book.file, &book.found.values());
        for service in &self.config.services {
            for backend in &service.backends {
                let id = backend.id;
                if !origins.contains_key(&id) && !book.leaving.contains_key(&id) {
                    let origin = book.origin(id).clone();
                    let leaving = Leaving {
                        backend: backend.clone(),
                        pool: service.pool_name(backend.pool).to_owned(),
                        service: service.id,
                        since: now,
                        origin,
                    };
                    book.leaving.insert(id, leaving);
                }
            }
        }
        book.leaving.retain(|id, _| !origins.contains_key(id));
        while book.leaving.len() > MAX_LEAVING {
            let oldest = book.leaving.iter().min_by_key(|(_, it)| it.since);
            let oldest = oldest.map(|(id, _)| *id);
            oldest.map(|id| book.leaving.remove(&id));
        }
        for service in &mut config.services {
            let here = book.leaving.values().filter(|it| it.service == service.id);
            let pools = &service.proxied.pools;
            let backends = here.map(|it| Backend {
                pool: (pools.iter().position(|pool| pool.name == it.pool)).map(|at| at as u16),
                ..it.backend.clone()
            });
            let backends: Vec<_> = backends.collect();
            service.backends.extend(backends);
        }
        book.origins = origins;
        let fresh: Vec<String> = trouble.difference(&book.trouble).cloned().collect();
        book.trouble = trouble;
        for text in fresh {
            self.note(text, now);
        }
        self.apply_config(config, now);
        let said = &self.roster.said;
        let rests = |id| said.state(id) == AdminState::Maintenance;
        self.health.maintain(rests, now);
        self.roster.moved = true;
        self.look_again(now);
    }

    /// Everybody who has something a backend reconciles it.
    fn apply_config(&mut self, config: Config, now: Mono) {
        let leaving = &self.roster.leaving;
        let (former, config) = (Arc::clone(&self.config), Arc::new(config));
        let both = (&*former, &*config);
        self.health
            .reconfigure(both, |id| leaving.contains_key(&id), now);
        if *former == *config {
            return;
        }
        self.flows.reconfigure(&config);
        self.config = Arc::clone(&config);
        if self.has_nat() {
            self.tell_nat(NatCommand::Configure(Arc::clone(&config)));
        }
        self.outputs.push_back(Output::Configure(config));
        // Before anything else, so that no weight is as it was.
        self.published = None;
    }

    /// Connections on a backend, as far as this node knows.
    pub(super) fn connections_on(&self, backend: BackendId) -> u64 {
        self.flows.backend(backend).connections + self.replica().nat_live(backend)
    }

    /// Sets the timer for the next backend that is to be forgotten, or whose connections are to be
    /// reset.
    fn look_again(&mut self, now: Mono) {
        let unix_ms = self.journal.unix_ms(now);
        let wait = |at: u64| Duration::from_millis(at.saturating_sub(unix_ms)).max(LOOK);
        let soon = |at: u64| match at > unix_ms {
            true => Duration::from_millis(at - unix_ms),
            false => wait(at),
        };
        let cuts = self.roster.said.cuts();
        let busy = |(id, at): &(BackendId, u64)| *at > unix_ms || self.connections_on(*id) > 0;
        let cut = cuts.filter(busy).map(|(_, at)| soon(at)).min();
        let leaves = (!self.roster.leaving.is_empty()).then_some(LOOK);
        match cut.into_iter().chain(leaves).min() {
            Some(wait) => self.timers.set(Timer::Roster, now + wait),
            None => self.timers.stop(Timer::Roster),
        }
    }

    /// The timer came.
    pub(super) fn look_at_roster(&mut self, now: Mono) {
        let unix_ms = self.journal.unix_ms(now);
        let due = self.roster.said.cuts().filter(|(_, at)| *at <= unix_ms);
        let due: Vec<BackendId> = due.map(|(id, _)| id).collect();
        for id in due {
            // Those of the kernel mode are the master's to end.
            let leads = matches!(self.replication, Replication::Source(_));
            let left = match leads {
                true => self.connections_on(id),
                false => self.flows.backend(id).connections,
            };
            if left == 0 {
                continue;
            }
            let name = self.backend_name(id);
            self.note(
                format!("{name}: its time is up, reset {left} that were left"),
                now,
            );
            self.outputs.push_back(Output::ResetBackend { backend: id });
            if leads && self.has_nat() {
                self.tell_nat(NatCommand::Reset(BTreeSet::from([id])));
            }
        }
        let settled = |(id, it): (&BackendId, &Leaving)| {
            (it.since + SETTLE <= now && self.connections_on(*id) == 0).then_some(*id)
        };
        let gone: Vec<BackendId> = self.roster.leaving.iter().filter_map(settled).collect();
        if gone.is_empty() {
            self.look_again(now);
            return;
        }
        let mut config = (*self.config).clone();
        for service in &mut config.services {
            service.backends.retain(|it| !gone.contains(&it.id));
        }
        for id in gone {
            let name = self.backend_name(id);
            self.roster.leaving.remove(&id);
            self.note(format!("{name} is gone"), now);
        }
        self.apply_config(config, now);
        self.look_again(now);
    }

    /// What was said goes to the disk; as backup in sync, to a master that does not know it.
    pub(super) fn run_roster(&mut self, _now: Mono) {
        if std::mem::take(&mut self.roster.unkept) {
            let all = self.roster.said.items().collect();
            self.outputs.push_back(Output::Keep(all));
        }
        if !self.roster.untold {
            return;
        }
        match &self.replication {
            Replication::Source(_) => self.roster.untold = false,
            Replication::Sink(sink) if sink.in_sync() && self.link.may_send() => {
                self.roster.untold = false;
                let known = sink.replica().said();
                let unknown = |item: &Item| match item {
                    Item::Said { backend, statement } => known
                        .get(&(*backend, statement.said.aspect()))
                        .is_none_or(|known| known.at < statement.at),
                    _ => false,
                };
                let items: Vec<Item> = self.roster.said.items().filter(unknown).collect();
                for items in items.chunks(MAX_BATCH) {
                    self.send_frame(Frame::Said(items.to_vec()));
                }
            }
            Replication::Sink(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "roster_test.rs"]
mod tests;
