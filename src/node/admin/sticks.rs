//! Remembered clients, a page at a time: listed, or forgotten.
//!
//! As with connections, a question looks at a bounded number of them, and the cursor names the last one.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::{backend_named, names, service_named};
use crate::config::Config;
use crate::model::{BackendId, ServiceId};
use crate::replication::Replica;
use crate::wire::admin::{MAX_PAGE, Remembered, StickQuery};
use crate::wire::replication::{StickKey, StickRecord};

/// Entries that one question looks at.
const LOOKED_AT: usize = 4_096;

/// What a question found.
pub(super) struct Found {
    pub(super) clients: Vec<(StickKey, StickRecord)>,
    /// Where to go on; none: that was all.
    pub(super) next: Option<StickKey>,
}

/// Those that the question means, behind its cursor.
pub(super) fn find(
    replica: &Replica,
    config: &Config,
    query: &StickQuery,
) -> Result<Found, String> {
    let service = match &query.service {
        Some(name) => Some(service_named(config, name)?.id),
        None => None,
    };
    let backends = query.backend.as_deref();
    let backends = backends
        .map(|name| backends_named(config, query, name))
        .transpose()?;
    let hash = query
        .key
        .as_deref()
        .map(|text| number(text, 16))
        .transpose()?;
    let limit = query
        .limit
        .map_or(MAX_PAGE, |limit| MAX_PAGE.min(limit as usize));
    let from = match (&query.after, service) {
        (Some(cursor), _) => Excluded(from_cursor(cursor)?),
        (None, Some(service)) => Included(StickKey { service, hash: 0 }),
        (None, None) => Unbounded,
    };
    let mut found = Found {
        clients: Vec::new(),
        next: None,
    };
    for (looked_at, (key, record)) in replica.sticks().range((from, Unbounded)).enumerate() {
        // They are in the order of services.
        if service.is_some_and(|service| service != key.service) {
            return Ok(Found {
                next: None,
                ..found
            });
        }
        if looked_at == LOOKED_AT || found.clients.len() == limit {
            return Ok(found);
        }
        found.next = Some(*key);
        let fits = backends
            .as_ref()
            .is_none_or(|ids| ids.contains(&record.backend))
            && hash.is_none_or(|hash| hash == key.hash);
        if fits {
            found.clients.push((*key, *record));
        }
    }
    found.next = None;
    Ok(found)
}

/// For an operator; `at` is now on the scale of the records.
pub(super) fn told(
    config: &Config,
    (key, record): &(StickKey, StickRecord),
    at: u64,
) -> Remembered {
    let service = config.services.iter().find(|known| known.id == key.service);
    let backends = service.map_or(&[][..], |service| &service.backends);
    let backend = backends.iter().find(|known| known.id == record.backend);
    Remembered {
        key: format!("{:016x}", key.hash),
        service: service.map_or_else(|| format!("#{:08x}", key.service.0), |it| it.name.clone()),
        backend: backend.map_or_else(
            || format!("#{:08x}", record.backend.0),
            |it| it.name.clone(),
        ),
        age_ms: at.saturating_sub(record.used_ms),
    }
}

/// The cursor behind this one.
pub(super) fn cursor(key: StickKey) -> String {
    format!("{:08x} {:016x}", key.service.0, key.hash)
}

fn from_cursor(text: &str) -> Result<StickKey, String> {
    let wrong = || "no cursor; take `next` of the answer before as it is".to_owned();
    let (service, hash) = text.split_once(' ').ok_or_else(wrong)?;
    let service = u32::from_str_radix(service, 16).map_err(|_| wrong())?;
    Ok(StickKey {
        service: ServiceId(service),
        hash: number(hash, 16).map_err(|_| wrong())?,
    })
}

fn number(text: &str, digits: usize) -> Result<u64, String> {
    let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = u64::from_str_radix(text, 16).ok().filter(|_| good);
    parsed
        .ok_or_else(|| format!("{text:?} is no key: write the {digits} digits that the list shows"))
}

/// Of the service, if one is named; else of all.
fn backends_named(
    config: &Config,
    query: &StickQuery,
    name: &str,
) -> Result<Vec<BackendId>, String> {
    if let Some(service) = &query.service {
        return Ok(vec![
            backend_named(service_named(config, service)?, name)?.id,
        ]);
    }
    let all = || config.services.iter().flat_map(|service| &service.backends);
    let ids: Vec<_> = all().filter(|it| it.name == name).map(|it| it.id).collect();
    if ids.is_empty() {
        let known = names(all().map(|it| it.name.as_str()));
        return Err(format!("there is no backend {name:?}; there are: {known}"));
    }
    Ok(ids)
}
