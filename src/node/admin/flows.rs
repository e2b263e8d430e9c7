//! The live connections, a page at a time.
//!
//! A question is answered within a turn of the node, so that it may look at a bounded number of
//! entries only, whatever it asks for and however many there are; the cursor says where the next
//! one goes on. It names the last entry that was looked at by its key, so that it stays true while
//! connections come and go: one that lives from the first page to the last is listed once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Bound::{Excluded, Included, Unbounded};

use ipnet::IpNet;

use super::{backend_named, names, service_named};
use crate::config::{Backend, Config, Service};
use crate::model::{BackendId, ServiceId};
use crate::replication::Replica;
use crate::status::Mode;
use crate::wire::admin::{FlowCursor, FlowQuery, FlowState, FlowStatus, MAX_PAGE, Response};
use crate::wire::replication::{FlowRecord, NatKey, NatRecord};

/// Entries that one question looks at. (A full page takes 2 ms in a build without optimisation.)
const LOOKED_AT: usize = 4_096;

/// Where the connections of each mode stand.
#[derive(Clone, Copy)]
pub(super) struct Tables<'r> {
    pub(super) proxied: &'r Replica,
    pub(super) kernel: &'r Replica,
}

/// The page behind the question's cursor; `unix_ms` is the time of day.
pub(super) fn page(
    tables: Tables<'_>,
    config: &Config,
    query: &FlowQuery,
    unix_ms: u64,
) -> Result<Response, String> {
    let wanted = Wanted::new(config, query)?;
    let limit = query
        .limit
        .map_or(MAX_PAGE, |limit| MAX_PAGE.min(limit as usize));
    if limit == 0 && query.after.is_none() && wanted.all() {
        let (mut matching, mode) = (0, query.mode);
        if mode != Some(Mode::Kernel) {
            matching += tables.proxied.flows().len() as u64;
        }
        if mode != Some(Mode::Proxy) {
            matching += tables.kernel.nat().len() as u64;
        }
        return Ok(Response::Flows {
            matching,
            flows: Vec::new(),
            next: None,
        });
    }
    let mut entries = entries(tables, query);
    let mut names = Names::new(config);
    let (mut matching, mut flows, mut last) = (0, Vec::new(), None);
    let mut looked_at = 0;
    let next = loop {
        if looked_at == LOOKED_AT || (limit > 0 && flows.len() == limit) {
            break entries.next().and(last);
        }
        let Some(entry) = entries.next() else {
            break None;
        };
        looked_at += 1;
        last = Some(entry.cursor());
        if wanted.matches(&entry) {
            matching += 1;
            if limit > 0 {
                flows.push(names.status(&entry, unix_ms));
            }
        }
    };
    Ok(Response::Flows {
        matching,
        flows,
        next,
    })
}

/// The entries behind the question's cursor, in their order; of those of the kernel mode, which are
/// ordered by client, only the range that the question can mean.
fn entries<'r>(tables: Tables<'r>, query: &FlowQuery) -> impl Iterator<Item = Entry<'r>> + use<'r> {
    let proxied = match query.after {
        _ if query.mode == Some(Mode::Kernel) => None,
        None => Some(Unbounded),
        Some(FlowCursor::Proxy(flow)) => Some(Excluded(flow)),
        Some(FlowCursor::Kernel(_)) => None,
    };
    let first = query
        .client
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |net| net.network());
    let first = NatKey {
        client: SocketAddr::new(first, 0),
        service: (Ipv4Addr::UNSPECIFIED, 0).into(),
    };
    let last = query.client.map(|net| net.broadcast());
    let kernel = match query.after {
        _ if query.mode == Some(Mode::Proxy) => None,
        Some(FlowCursor::Kernel(key)) if key >= first => Some(Excluded(key)),
        _ => Some(Included(first)),
    };
    let proxied = proxied.map(|from| tables.proxied.flows().range((from, Unbounded)));
    let kernel = kernel.map(|from| tables.kernel.nat().range((from, Unbounded)));
    let proxied = proxied.into_iter().flatten();
    let kernel = kernel.into_iter().flatten();
    proxied
        .map(|(flow, record)| Entry::Proxy(FlowCursor::Proxy(*flow), record))
        .chain(
            kernel
                .take_while(move |(key, _)| last.is_none_or(|last| key.client.ip() <= last))
                .map(|(key, record)| Entry::Kernel(key, record)),
        )
}

/// One connection.
enum Entry<'r> {
    Kernel(&'r NatKey, &'r NatRecord),
    Proxy(FlowCursor, &'r FlowRecord),
}

impl Entry<'_> {
    const fn cursor(&self) -> FlowCursor {
        match *self {
            Self::Kernel(key, _) => FlowCursor::Kernel(*key),
            Self::Proxy(cursor, _) => cursor,
        }
    }

    const fn client(&self) -> SocketAddr {
        match self {
            Self::Kernel(key, _) => key.client,
            Self::Proxy(_, record) => record.client,
        }
    }

    const fn ids(&self) -> (ServiceId, BackendId) {
        match self {
            Self::Kernel(_, record) => (record.service, record.backend),
            Self::Proxy(_, record) => (record.service, record.backend),
        }
    }
}

/// What a question asks for, by ids. None: all.
struct Wanted {
    service: Option<ServiceId>,
    backends: Option<BTreeSet<BackendId>>,
    client: Option<IpNet>,
}

impl Wanted {
    fn new(config: &Config, query: &FlowQuery) -> Result<Self, String> {
        let service = match &query.service {
            Some(name) => Some(service_named(config, name)?),
            None => None,
        };
        let backends = match (&query.backend, service) {
            (None, _) => None,
            (Some(name), Some(service)) => Some(BTreeSet::from([backend_named(service, name)?.id])),
            (Some(name), None) => Some(of_any_service(config, name)?),
        };
        Ok(Self {
            service: service.map(|service| service.id),
            backends,
            client: query.client,
        })
    }

    const fn all(&self) -> bool {
        self.service.is_none() && self.backends.is_none() && self.client.is_none()
    }

    fn matches(&self, entry: &Entry<'_>) -> bool {
        let (service, backend) = entry.ids();
        self.service.is_none_or(|wanted| wanted == service)
            && (self.backends.as_ref()).is_none_or(|wanted| wanted.contains(&backend))
            && (self.client).is_none_or(|wanted| wanted.contains(&entry.client().ip()))
    }
}

/// All backends of this name.
fn of_any_service(config: &Config, name: &str) -> Result<BTreeSet<BackendId>, String> {
    let services = &config.services;
    let all = services.iter().flat_map(|service| &service.backends);
    let found: BTreeSet<_> = all
        .filter(|backend| backend.name == name)
        .map(|backend| backend.id)
        .collect();
    if found.is_empty() {
        let names = names(services.iter().map(|service| service.name.as_str()));
        return Err(format!(
            "no service has a backend {name:?}; name its service (there are: {names}) to see what \
             that one has"
        ));
    }
    Ok(found)
}

/// What the configuration says of ids, looked up once for each that occurs.
struct Names<'c> {
    config: &'c Config,
    known: BTreeMap<(ServiceId, BackendId), Found<'c>>,
}

type Found<'c> = (Option<&'c Service>, Option<&'c Backend>);

impl<'c> Names<'c> {
    const fn new(config: &'c Config) -> Self {
        Self {
            config,
            known: BTreeMap::new(),
        }
    }

    fn of(&mut self, ids: (ServiceId, BackendId)) -> Found<'c> {
        let services = &self.config.services;
        *self.known.entry(ids).or_insert_with(|| {
            let service = services.iter().find(|known| known.id == ids.0);
            let backends = service.map_or(&[][..], |service| &service.backends);
            (service, backends.iter().find(|known| known.id == ids.1))
        })
    }

    fn status(&mut self, entry: &Entry<'_>, unix_ms: u64) -> FlowStatus {
        let ids = entry.ids();
        let (service, backend) = self.of(ids);
        let since_unix_ms = match entry {
            Entry::Kernel(_, record) => record.since_unix_ms,
            Entry::Proxy(_, record) => record.since_unix_ms,
        };
        let common = FlowStatus {
            mode: Mode::Proxy,
            client: entry.client(),
            listen: service.and_then(|service| only(&service.listen, entry.client())),
            service: service.map_or_else(|| unknown(ids.0.0), |known| known.name.clone()),
            backend: backend.map_or_else(|| unknown(ids.1.0), |known| known.name.clone()),
            target: backend.and_then(|backend| backend.address.tcp()),
            source: None,
            state: FlowState::Established,
            since_unix_ms,
            age_ms: unix_ms.saturating_sub(since_unix_ms),
            up: None,
            down: None,
        };
        match entry {
            Entry::Kernel(key, record) => FlowStatus {
                mode: Mode::Kernel,
                listen: Some(key.service),
                target: Some(record.target),
                source: Some(record.source),
                state: match record.backend_mark {
                    Some(_) => FlowState::Established,
                    None => FlowState::Opening,
                },
                ..common
            },
            Entry::Proxy(_, record) => FlowStatus {
                up: Some(record.up),
                down: Some(record.down),
                ..common
            },
        }
    }
}

/// Where this client must have connected to, if there is only one address of its IP version.
fn only(listen: &[SocketAddr], client: SocketAddr) -> Option<SocketAddr> {
    let mut same = listen
        .iter()
        .filter(|address| address.is_ipv4() == client.is_ipv4());
    same.next().copied().filter(|_| same.next().is_none())
}

/// The peer's configuration may have names that this one has not.
fn unknown(id: u32) -> String {
    format!("#{id:08x}")
}

#[cfg(test)]
#[path = "flows_test.rs"]
mod tests;
