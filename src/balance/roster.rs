//! Who is behind each service now: the file, under what sources found, under what operators said.
//!
//! Of two statements about one thing the later one holds, so that rosters which heard the same
//! statements, in any order and any number of times, are equal. What operators take back is kept as a
//! statement that says nothing, since an older one may still be on its way.

use std::collections::{BTreeMap, BTreeSet};

use super::found::{Found, Member};
use crate::config::{Backend, Config, DEFAULT_POOL, MAX_BACKENDS, Service};
use crate::model::{AdminState, BackendId, NodeId, Weight};
use crate::wire::replication::Item;
use crate::wire::statement::{Addition, Aspect, Presence, Said, Stamp, Statement};

/// Statements in a roster at most.
pub const MAX_STATEMENTS: usize = 16_384;

/// Later stamps are damage: this one is of the year 36,000,000.
const LAST: Stamp = Stamp(1 << 61);

/// What operators said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roster {
    said: BTreeMap<(BackendId, Aspect), Statement>,
    newest: Stamp,
}

/// Where a backend comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The configuration's file.
    File,
    /// An operator.
    Runtime,
    /// A source, with its name.
    Source(String),
}

/// What all of it comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The file's configuration with other backends. Its fingerprint is still the file's.
    pub config: Config,
    /// Of each of its backends.
    pub origins: BTreeMap<BackendId, Origin>,
    /// What cannot be done, in sentences.
    pub trouble: BTreeSet<String>,
}

impl Roster {
    /// Hears a statement; whether it is news. Those of a roster that is full are dropped.
    pub fn hear(&mut self, backend: BackendId, statement: &Statement) -> bool {
        let key = (backend, statement.said.aspect());
        let full = self.said.len() >= MAX_STATEMENTS;
        let later = match self.said.get(&key) {
            // No word could be later than the end of time.
            _ if statement.at > LAST => false,
            Some(known) => statement.at > known.at,
            None => !full,
        };
        if later {
            self.newest = self.newest.max(statement.at);
            self.said.insert(key, statement.clone());
        }
        later
    }

    /// The stamp of what is said now.
    pub const fn stamp(&self, node: NodeId, unix_ms: u64) -> Stamp {
        Stamp::after(self.newest, node, unix_ms)
    }

    /// There is no room for another thing.
    pub fn is_full(&self) -> bool {
        self.said.len() + 3 > MAX_STATEMENTS
    }

    /// Everything that was said, as items for the peer.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        self.said
            .iter()
            .map(|((backend, _), statement)| Item::Said {
                backend: *backend,
                statement: statement.clone(),
            })
    }

    /// What was said of this.
    pub fn said(&self, backend: BackendId, aspect: Aspect) -> Option<&Said> {
        let statement = self.said.get(&(backend, aspect))?;
        Some(&statement.said)
    }

    /// What of this backend differs from what it would be without operators.
    pub fn aspects(&self, backend: BackendId) -> impl Iterator<Item = Aspect> + '_ {
        let all = [Aspect::Presence, Aspect::Weight, Aspect::State];
        all.into_iter().filter(move |aspect| {
            let said = self.said(backend, *aspect);
            said.is_some_and(|said| !said.is_nothing())
        })
    }

    /// Whether it gets new connections.
    pub fn state(&self, backend: BackendId) -> AdminState {
        match self.said(backend, Aspect::State) {
            Some(Said::State { state, .. }) => *state,
            _ => AdminState::Enabled,
        }
    }

    /// When what is left on it is reset, milliseconds since 1970.
    pub fn cut_ms(&self, backend: BackendId) -> Option<u64> {
        let removed = match self.presence(backend) {
            Presence::Removed { cut_ms } => *cut_ms,
            Presence::Unsaid | Presence::Added(_) => None,
        };
        let drained = match self.said(backend, Aspect::State) {
            Some(Said::State {
                state: AdminState::Drain | AdminState::Maintenance,
                cut_ms,
            }) => *cut_ms,
            _ => None,
        };
        removed.into_iter().chain(drained).min()
    }

    /// Backends with a moment at which what is left on them is reset.
    pub fn cuts(&self) -> impl Iterator<Item = (BackendId, u64)> + '_ {
        let of = |id: BackendId| self.cut_ms(id).map(|at| (id, at));
        let ids: BTreeSet<BackendId> = self.said.keys().map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(of)
    }

    /// Whether it is there.
    pub fn presence(&self, backend: BackendId) -> &Presence {
        match self.said(backend, Aspect::Presence) {
            Some(Said::Presence(presence)) => presence,
            _ => &Presence::Unsaid,
        }
    }

    fn weight(&self, backend: BackendId) -> Option<u16> {
        match self.said(backend, Aspect::Weight) {
            Some(Said::Weight(weight)) => *weight,
            _ => None,
        }
    }

    /// Backends of this service that operators added, in the order in which they did.
    fn added<'s>(&'s self, service: &'s Service) -> Vec<(&'s str, &'s Addition)> {
        let mut added: Vec<_> = (self.said.values())
            .filter(|statement| statement.service == service.id)
            .filter_map(|statement| match &statement.said {
                Said::Presence(Presence::Added(addition)) => {
                    Some((statement.at, statement.name.as_str(), addition))
                }
                _ => None,
            })
            .collect();
        added.sort_by_key(|(at, name, _)| (*at, *name));
        let plain = added.into_iter();
        plain.map(|(_, name, addition)| (name, addition)).collect()
    }

    /// The configuration that holds: this file's, with what was found and what was said.
    pub fn effective<'f>(
        &self,
        file: &Config,
        found: &(impl Iterator<Item = &'f Found> + Clone),
    ) -> Effective {
        let mut done = Effective {
            config: file.clone(),
            origins: BTreeMap::new(),
            trouble: BTreeSet::new(),
        };
        // Names of the file come first, so that nobody else takes an id of theirs.
        let named = file.services.iter().flat_map(|service| &service.backends);
        let named: BTreeSet<BackendId> = named.map(|backend| backend.id).collect();
        for (place, service) in file.services.iter().enumerate() {
            let here = found.clone().filter(|found| found.service == service.id);
            let mut hall = Hall {
                roster: self,
                file,
                service,
                named: &named,
                backends: Vec::new(),
                done: &mut done,
            };
            hall.seat(here);
            let backends = hall.backends;
            done.config.services[place].backends = backends;
        }
        done
    }
}

/// One service while its backends are collected.
struct Hall<'a> {
    roster: &'a Roster,
    file: &'a Config,
    service: &'a Service,
    named: &'a BTreeSet<BackendId>,
    backends: Vec<Backend>,
    done: &'a mut Effective,
}

impl<'a> Hall<'a> {
    fn seat<'f>(&mut self, found: impl Iterator<Item = &'f Found> + Clone) {
        let added = self.roster.added(self.service);
        let is_added = |name: &str| added.iter().any(|(known, _)| *known == name);
        let mut members: BTreeMap<&str, (&Found, &Member)> = BTreeMap::new();
        for found in found {
            for member in &found.members {
                members.entry(&member.name).or_insert((found, member));
            }
        }
        for backend in &self.service.backends {
            match members.remove(backend.name.as_str()) {
                _ if is_added(&backend.name) => {}
                Some((found, member)) if self.pool_of(&found.pool) == Ok(backend.pool) => {
                    let backend = Backend {
                        address: member.address.into(),
                        weight: Weight(member.weight),
                        ..backend.clone()
                    };
                    self.put(backend, Origin::Source(found.source.clone()));
                }
                _ => self.put(backend.clone(), Origin::File),
            }
        }
        for (name, (found, member)) in members {
            if !is_added(name) {
                let addition = Addition {
                    pool: Some(found.pool.clone()),
                    address: member.address,
                    weight: member.weight,
                    max_connections: None,
                    backup: false,
                };
                self.add(name, &addition, Origin::Source(found.source.clone()));
            }
        }
        for (name, addition) in added {
            self.add(name, addition, Origin::Runtime);
        }
    }

    fn pool_of(&self, name: &str) -> Result<Option<u16>, String> {
        pool(self.service, Some(name))
    }

    /// Takes one in that the file does not have so.
    fn add(&mut self, name: &str, addition: &Addition, origin: Origin) {
        match backend(self.file, self.service, name, addition) {
            Ok(backend) => self.put(backend, origin),
            Err(what) => {
                let service = &self.service.name;
                let text = format!("{service}/{name} is left out: {what}");
                self.done.trouble.insert(text);
            }
        }
    }

    fn put(&mut self, mut backend: Backend, origin: Origin) {
        let id = backend.id;
        if matches!(self.roster.presence(id), Presence::Removed { .. }) {
            return;
        }
        let (service, name) = (&self.service.name, &backend.name);
        let own = self.service.backends.iter().any(|it| it.id == id);
        if self.done.origins.contains_key(&id) || (self.named.contains(&id) && !own) {
            let text = format!("{service}/{name} is left out: another backend has its id");
            self.done.trouble.insert(text);
        } else if self.backends.len() >= MAX_BACKENDS {
            let text = format!(
                "service {service} has {MAX_BACKENDS} backends, which is the most; others are left out"
            );
            self.done.trouble.insert(text);
        } else {
            let said = self.roster.weight(id).map(Weight);
            backend.weight = said.unwrap_or(backend.weight);
            self.done.origins.insert(id, origin);
            self.backends.push(backend);
        }
    }
}

/// The place of the pool with this name; none: the service's own.
///
/// # Errors
///
/// There is none.
pub fn pool(service: &Service, name: Option<&str>) -> Result<Option<u16>, String> {
    let Some(name) = name.filter(|name| *name != DEFAULT_POOL) else {
        return Ok(None);
    };
    let pools = &service.proxied.pools;
    let place = pools.iter().position(|pool| pool.name == name);
    place.map(|place| Some(place as u16)).ok_or_else(|| {
        let names = pools.iter().map(|pool| pool.name.as_str());
        let names: Vec<_> = std::iter::once(DEFAULT_POOL).chain(names).collect();
        let (service, names) = (&service.name, names.join(", "));
        format!("service {service} has no pool {name:?}; it has: {names}")
    })
}

/// The backend that this addition makes.
///
/// # Errors
///
/// Its service cannot have it.
pub fn backend(
    config: &Config,
    service: &Service,
    name: &str,
    addition: &Addition,
) -> Result<Backend, String> {
    let backend = Backend {
        id: BackendId::of(&service.name, name),
        name: name.to_owned(),
        address: addition.address.into(),
        weight: Weight(addition.weight),
        max_connections: addition.max_connections,
        backup: addition.backup,
        pool: pool(service, addition.pool.as_deref())?,
        check_address: None,
        check_port: None,
        agent_address: None,
        agent_port: None,
    };
    config.admits(service, &backend)?;
    Ok(backend)
}

#[cfg(test)]
#[path = "roster_test.rs"]
mod tests;
