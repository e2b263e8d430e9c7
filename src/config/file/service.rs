//! `[[service]]`, its kernel mode and its backends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::de::DeValue;

use super::balance::Balance;
use super::discover::{Discover, MAX_SOURCES};
use super::health::{Agent, Health};
use super::proxied::Proxied;
use super::{HOUR, MAX_CONNECTIONS, MINUTE, WEEK, ms, s};
use crate::config::read::Section;
use crate::config::report::{At, Field, List, Located, Reported};
use crate::config::units::{
    Fault, Read, backend_address, boolean, check_address, duration, listen_address, name, number,
    source_address, word,
};
use crate::config::{Acknowledge, Fallback, Forward, OnDown, Stray};
use crate::model::BackendAddress;

/// Most addresses of one service.
const MAX_LISTEN: usize = 64;
/// Most backends of one service.
pub(super) const MAX_BACKENDS: usize = 1_024;
/// Most addresses towards the backends of one service: one a family and node.
const MAX_OUTWARD: usize = 4;
/// Most new connections a second from one address.
const MAX_RATE: u32 = 1_000_000;

const MODES: &[(&str, Mode)] = &[("proxy", Mode::Proxy), ("kernel", Mode::Kernel)];
const FORWARDS: &[(&str, Forward)] = &[("nat", Forward::Nat), ("dnat", Forward::Dnat)];
const REPLICATIONS: &[(&str, Acknowledge)] =
    &[("sync", Acknowledge::Sync), ("async", Acknowledge::Async)];
const FALLBACKS: &[(&str, Fallback)] = &[("refuse", Fallback::Refuse), ("proxy", Fallback::Proxy)];
const ON_DOWN: &[(&str, OnDown)] = &[("keep", OnDown::Keep), ("reset", OnDown::Reset)];
const STRAYS: &[(&str, Stray)] = &[("reset", Stray::Reset), ("drop", Stray::Drop)];

/// `[[service]]`
pub(in crate::config) struct Service {
    pub(in crate::config) name: Field<String>,
    pub(in crate::config) listen: List<Located<SocketAddr>>,
    pub(in crate::config) mode: Field<Mode>,
    pub(in crate::config) balance: Result<Balance, Reported>,
    pub(in crate::config) connect_timeout: Field<Duration>,
    pub(in crate::config) idle_timeout: Field<Duration>,
    pub(in crate::config) max_connections: Field<u32>,
    pub(in crate::config) kernel: KernelMode,
    pub(in crate::config) proxied: Proxied,
    pub(in crate::config) agent: Option<Result<Agent, Reported>>,
    pub(in crate::config) health: Option<Result<Health, Reported>>,
    pub(in crate::config) backends: List<Backend>,
    /// None: not written.
    pub(in crate::config) discover: Option<List<Discover>>,
}

/// Where the connections of a service are forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::config) enum Mode {
    Kernel,
    Proxy,
}

/// Those keys of `[[service]]` that only the kernel mode has. None: not written.
pub(in crate::config) struct KernelMode {
    pub(in crate::config) source: Option<List<Located<IpAddr>>>,
    pub(in crate::config) forward: Option<Field<Forward>>,
    pub(in crate::config) replication: Option<Field<Acknowledge>>,
    pub(in crate::config) fallback: Option<Field<Fallback>>,
    pub(in crate::config) on_down: Option<Field<OnDown>>,
    pub(in crate::config) stray: Option<Field<Stray>>,
    pub(in crate::config) source_rate: Option<Field<u32>>,
}

/// `[[service.backend]]`
pub(in crate::config) struct Backend {
    pub(in crate::config) name: Field<String>,
    pub(in crate::config) address: Field<BackendAddress>,
    pub(in crate::config) weight: Field<u16>,
    /// None: not written.
    pub(in crate::config) max_connections: Option<Field<u32>>,
    /// None: not written.
    pub(in crate::config) backup: Option<Field<bool>>,
    pub(in crate::config) elsewhere: Elsewhere,
}

/// Those keys of `[[service.backend]]` that say where it is checked.
pub(in crate::config) struct Elsewhere {
    pub(in crate::config) check_address: Option<Field<IpAddr>>,
    pub(in crate::config) check_port: Option<Field<u16>>,
    pub(in crate::config) agent_address: Option<Field<IpAddr>>,
    pub(in crate::config) agent_port: Option<Field<u16>>,
}

impl Service {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let name = section.required("name", r#""web""#, name);
        let listen = r#"["192.0.2.100:80"]"#;
        let listen = section.list("listen", listen, 1..=MAX_LISTEN, listen_address);
        let mode = section.or("mode", Mode::Proxy, word(MODES));
        let balance = Balance::take(section);
        let (connect, idle) = match &mode {
            // RFC 5382, REQ-5: a translator keeps an idle connection for 2 h 4 min at least.
            Ok(mode) if mode.value == Mode::Kernel => (ms(250), 124 * MINUTE),
            _ => (s(2), 5 * MINUTE),
        };
        Self {
            name,
            listen,
            mode,
            balance,
            connect_timeout: section.or("connect_timeout", connect, duration(ms(1)..=HOUR)),
            idle_timeout: section.or("idle_timeout", idle, duration(s(1)..=WEEK)),
            max_connections: section.or("max_connections", 50_000, number(1..=MAX_CONNECTIONS)),
            kernel: KernelMode::read(section),
            proxied: Proxied::read(section),
            agent: section.table("agent", Agent::read),
            health: section.table("health", Health::read),
            backends: backends(section),
            discover: section.optional_tables("discover", 1..=MAX_SOURCES, Discover::read),
        }
    }
}

/// `[[..backend]]`: a pool with a source may do without.
pub(super) fn backends(section: &mut Section<'_, '_>) -> List<Backend> {
    if !section.has("discover") {
        return section.tables("backend", 1..=MAX_BACKENDS, Backend::read);
    }
    let written = section.optional_tables("backend", 0..=MAX_BACKENDS, Backend::read);
    written.unwrap_or_default()
}

impl Service {
    /// The backends of all pools.
    pub(in crate::config) fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        let pools = self.proxied.pools.iter().flatten().flatten();
        let others = pools.flat_map(|pool| pool.backends.iter().flatten());
        self.backends.iter().flatten().chain(others)
    }

    /// The health checks of all pools.
    pub(in crate::config) fn all_health(&self) -> impl Iterator<Item = &Health> {
        let pools = self.proxied.pools.iter().flatten().flatten();
        let others = pools.filter_map(|pool| pool.health.as_ref());
        self.health.iter().chain(others).flatten()
    }
}

impl KernelMode {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            source: section.one_or_more("source", 1..=MAX_OUTWARD, source_address),
            forward: section.optional("forward", forward),
            replication: section.optional("replication", word(REPLICATIONS)),
            fallback: section.optional("fallback", word(FALLBACKS)),
            on_down: section.optional("on_down", word(ON_DOWN)),
            stray: section.optional("stray", word(STRAYS)),
            source_rate: section.optional("source_rate", number(0..=MAX_RATE)),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(in crate::config) fn written(&self) -> Vec<(&'static str, At)> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            source,
            forward,
            replication,
            fallback,
            on_down,
            stray,
            source_rate,
        } = self;
        [
            ("source", at_list(source)),
            ("forward", at(forward)),
            ("replication", at(replication)),
            ("fallback", at(fallback)),
            ("on_down", at(on_down)),
            ("stray", at(stray)),
            ("source_rate", at(source_rate)),
        ]
        .into_iter()
        .filter_map(|(key, at)| Some((key, at?)))
        .collect()
    }
}

/// The place of a good value that is written.
pub(super) fn at<T>(field: &Option<Field<T>>) -> Option<At> {
    Some(field.as_ref()?.as_ref().ok()?.at.clone())
}

/// The place of the first good value of a list that is written, under the list's key.
pub(super) fn at_list<T>(list: &Option<List<Located<T>>>) -> Option<At> {
    let first = list.iter().flatten().flatten().next()?;
    Some(At {
        place: first.at.place,
        key: first.at.key.trim_end_matches("[0]").to_owned(),
    })
}

/// What the backend sees. LVS and others also have "direct server return", which is worth its own
/// words.
fn forward(value: &DeValue<'_>) -> Read<Forward> {
    if value.as_str() == Some("dsr") {
        let what = "this version has no `dsr` (direct server return)";
        let remedy = "write \"nat\", or \"dnat\" if the backends must see the clients' addresses";
        return Err(Fault::new(what, remedy));
    }
    word(FORWARDS)(value)
}

impl Backend {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.required("name", r#""b1""#, name),
            address: section.required("address", r#""198.51.100.21:8080""#, backend_address),
            weight: section.or("weight", 1, number(1..=256)),
            max_connections: section.optional("max_connections", number(1..=MAX_CONNECTIONS)),
            backup: section.optional("backup", boolean),
            elsewhere: Elsewhere::read(section),
        }
    }
}

impl Elsewhere {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            check_address: section.optional("check_address", check_address),
            check_port: section.optional("check_port", number(1..=u16::MAX)),
            agent_address: section.optional("agent_address", check_address),
            agent_port: section.optional("agent_port", number(1..=u16::MAX)),
        }
    }

    /// What is written: the key, its section in the service, and its place.
    pub(in crate::config) fn written(&self) -> Vec<(&'static str, &'static str, At)> {
        [
            ("check_address", "health", at(&self.check_address)),
            ("check_port", "health", at(&self.check_port)),
            ("agent_address", "agent", at(&self.agent_address)),
            ("agent_port", "agent", at(&self.agent_port)),
        ]
        .into_iter()
        .filter_map(|(key, section, at)| Some((key, section, at?)))
        .collect()
    }
}
