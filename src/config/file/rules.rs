//! `[[service.pool]]` and `[[service.rule]]`

use std::net::Ipv6Addr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::balance::Balance;
use super::discover::{Discover, MAX_SOURCES};
use super::health::Health;
use super::proxied::{MAX_NETWORKS, network};
use super::service::{Backend, backends};
use crate::config::read::Section;
use crate::config::report::{At, Field, List, Located, Reported};
use crate::config::units::{Fault, Read, name, shown, string};

/// Most names in one list of a rule.
const MAX_NAMES: usize = 64;
/// Longest name of a host (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;
/// Longest name of a protocol (RFC 7301, 3.1).
const MAX_PROTOCOL: usize = 255;

/// `[[service.pool]]`
pub(in crate::config) struct Pool {
    pub(in crate::config) name: Field<String>,
    pub(in crate::config) balance: Option<Result<Balance, Reported>>,
    pub(in crate::config) health: Option<Result<Health, Reported>>,
    pub(in crate::config) backends: List<Backend>,
    /// None: not written.
    pub(in crate::config) discover: Option<List<Discover>>,
    pub(in crate::config) at: At,
}

/// `[[service.rule]]`. None: not written.
pub(in crate::config) struct Rule {
    pub(in crate::config) sni: Option<List<Located<String>>>,
    pub(in crate::config) alpn: Option<List<Located<String>>>,
    pub(in crate::config) host: Option<List<Located<String>>>,
    pub(in crate::config) source: Option<List<Located<IpNet>>>,
    pub(in crate::config) pool: Field<String>,
    pub(in crate::config) at: At,
}

impl Pool {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            name: section.required("name", r#""api""#, name),
            balance: Balance::take_written(section),
            health: section.table("health", Health::read),
            backends: backends(section),
            discover: section.optional_tables("discover", 1..=MAX_SOURCES, Discover::read),
            at: section.at(),
        }
    }
}

impl Rule {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            sni: section.one_or_more("sni", 1..=MAX_NAMES, server),
            alpn: section.one_or_more("alpn", 1..=MAX_NAMES, protocol),
            host: section.one_or_more("host", 1..=MAX_NAMES, host),
            source: section.one_or_more("source", 1..=MAX_NETWORKS, network),
            pool: section.required("pool", r#""api""#, name),
            at: section.at(),
        }
    }
}

/// The name of a server, or all names below one.
fn server(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "api.example.com")?;
    let lower = text.to_ascii_lowercase();
    if is_name(lower.strip_prefix("*.").unwrap_or(&lower)) {
        return Ok(lower);
    }
    Err(no_pattern(text))
}

/// The same, or an IPv6 address in brackets, as clients write it.
fn host(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "www.example.com")?;
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match inner.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        Some(address) => Ok(format!("[{address}]")),
        None => server(value),
    }
}

fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let label = |label: &str| !label.is_empty() && label.chars().all(good);
    text.len() <= MAX_HOST && text.split('.').all(label)
}

fn no_pattern(text: &str) -> Fault {
    let what = format!("`{}` is no name of a host", shown(text));
    let remedy = "write a name, like \"api.example.com\", or \"*.example.com\" for all names below \
                  one; without port, scheme or path";
    Fault::new(what, remedy)
}

/// An application protocol's name.
fn protocol(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "h2")?;
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if (1..=MAX_PROTOCOL).contains(&text.len()) && visible {
        return Ok(text.to_owned());
    }
    let what = format!("`{}` is no name of a protocol", shown(text));
    Err(Fault::new(
        what,
        "write it as TLS does (ALPN), like \"h2\" or \"http/1.1\"",
    ))
}
