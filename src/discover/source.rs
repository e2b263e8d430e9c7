//! What was found becomes backends: their names, which of them may be, and how many.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::roster::backend;
use crate::balance::{Found, Member};
use crate::config::{Config, DEFAULT_POOL};
use crate::model::ServiceId;
use crate::wire::statement::Addition;

/// So much of a pool's name is in the names of its found backends, in bytes.
const POOL: usize = 16;

/// A found backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name, if the source gives it one.
    pub name: Option<String>,
    /// Its share, 1 to 256.
    pub weight: u16,
}

/// A source, and what it gave last.
#[derive(Debug)]
pub struct Source {
    config: Arc<Config>,
    service: usize,
    pool: String,
    label: String,
    most: usize,
    last: Option<Vec<Member>>,
    /// Why not all that was found is used.
    left_out: Option<String>,
}

impl Source {
    /// A source that has given nothing yet: the places of a service and of a source of it.
    ///
    /// # Panics
    ///
    /// The configuration has none there.
    pub fn new(config: &Arc<Config>, service: usize, discover: usize) -> Self {
        let known = &config.services[service];
        let discover = &known.discover[discover];
        Self {
            config: Arc::clone(config),
            service,
            pool: known.pool_name(discover.pool).to_owned(),
            label: discover.origin.to_string(),
            most: discover.max_backends.into(),
            last: None,
            left_out: None,
        }
    }

    /// Its pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// As the status shows it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Backends that it gave last.
    pub fn count(&self) -> usize {
        self.last.as_ref().map_or(0, Vec::len)
    }

    /// Why not all that was found is used.
    pub fn left_out(&self) -> Option<&str> {
        self.left_out.as_deref()
    }

    /// Takes all that was found; the backends, if they are not those that it gave last.
    pub fn gather(&mut self, found: &BTreeMap<SocketAddr, Entry>) -> Option<Found> {
        self.left_out = None;
        let mut members = Vec::new();
        for (address, entry) in found {
            let name = entry.name.clone();
            let member = Member {
                name: name.unwrap_or_else(|| name_of(&self.pool, *address)),
                address: *address,
                weight: entry.weight,
            };
            match self.refuses(&member) {
                Some(why) if self.left_out.is_none() => {
                    self.left_out = Some(format!("{address} is left out: {why}"));
                }
                Some(_) => {}
                None => members.push(member),
            }
        }
        if members.len() > self.most {
            let (count, most) = (members.len(), self.most);
            self.left_out = Some(format!(
                "{count} addresses; `max_backends` allows {most} of them"
            ));
            // Those that are in use stay, whatever the order of an answer.
            let used: BTreeSet<_> = self.last.iter().flatten().map(|it| it.address).collect();
            members.sort_by_key(|it| (!used.contains(&it.address), it.address));
            members.truncate(most);
            members.sort_by_key(|it| it.address);
        }
        if self.last.as_ref() == Some(&members) {
            return None;
        }
        self.last = Some(members.clone());
        Some(Found {
            service: self.config.services[self.service].id,
            pool: self.pool.clone(),
            source: self.label.clone(),
            members,
        })
    }

    /// Why the service cannot have it.
    fn refuses(&self, member: &Member) -> Option<String> {
        let addition = Addition {
            pool: Some(self.pool.clone()),
            address: member.address,
            weight: member.weight,
            max_connections: None,
            backup: false,
        };
        let service = &self.config.services[self.service];
        backend(&self.config, service, &member.name, &addition).err()
    }
}

/// The name of a backend that has none: the same on both nodes, and another one in each pool of the
/// service. The configuration gives no name with a colon. At most 64 bytes.
fn name_of(pool: &str, address: SocketAddr) -> String {
    match pool {
        DEFAULT_POOL => address.to_string(),
        pool if pool.len() <= POOL => format!("{pool}:{address}"),
        pool => {
            let hash = ServiceId::of(pool).0 & 0xffff;
            format!("{}-{hash:04x}:{address}", &pool[..POOL - 5])
        }
    }
}
