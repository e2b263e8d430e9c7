//! `[dns]`, `[[service.discover]]` and `[[service.pool.discover]]`

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::service::{MAX_BACKENDS, at};
use super::{DAY, HOUR, WEEK, ms, s};
use crate::config::read::Section;
use crate::config::report::{At, Field, Reported};
use crate::config::units::{Fault, Read, duration, number, path, shown, string, word};
use crate::config::values::host_name;
use crate::config::{Family, Origin};

/// Most resolvers.
const MAX_SERVERS: usize = 8;
/// Most sources of one pool.
pub(super) const MAX_SOURCES: usize = 8;
/// The port of DNS (RFC 1035, 4.2).
const PORT: u16 = 53;

const FAMILIES: &[(&str, Family)] = &[
    ("both", Family::Both),
    ("ipv4", Family::V4),
    ("ipv6", Family::V6),
];

/// `[dns]`
pub(in crate::config) struct Dns {
    pub(in crate::config) servers: Option<super::List<super::Located<SocketAddr>>>,
    pub(in crate::config) timeout: Field<Duration>,
    pub(in crate::config) attempts: Field<u8>,
}

/// `[[service.discover]]`. None: not written.
pub(in crate::config) struct Discover {
    pub(in crate::config) origin: Field<Origin>,
    pub(in crate::config) asked: Asked,
    pub(in crate::config) max_backends: Field<u16>,
    pub(in crate::config) weight: Field<u16>,
}

/// Those of its keys that only DNS has.
pub(in crate::config) struct Asked {
    pub(in crate::config) family: Option<Field<Family>>,
    pub(in crate::config) min_ttl: Option<Field<Duration>>,
    pub(in crate::config) max_ttl: Option<Field<Duration>>,
    pub(in crate::config) hold: Option<Field<Duration>>,
    pub(in crate::config) linger: Option<Field<Duration>>,
}

impl Dns {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            servers: section.one_or_more("servers", 1..=MAX_SERVERS, server),
            timeout: section.or("timeout", s(2), duration(ms(100)..=s(30))),
            attempts: section.or("attempts", 2, number(1..=10)),
        }
    }
}

impl Discover {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let written = [
            section.optional("dns", named),
            section.optional("dns_srv", srv),
            section.optional("backends_file", file),
        ];
        let mut written: Vec<_> = written.into_iter().flatten().collect();
        let origin = match written.len() {
            1 => written.remove(0),
            0 => {
                let what = "a source of nothing";
                let remedy = "add one of: dns = \"web.example:80\", \
                              dns_srv = \"_http._tcp.web.example\", \
                              backends_file = \"/etc/tandem/web.json\"";
                Err(section.fault(&section.at(), Fault::new(what, remedy)))
            }
            _ => Err(several(section, &written)),
        };
        let most = MAX_BACKENDS as u16;
        Self {
            origin,
            asked: Asked::read(section),
            max_backends: section.or("max_backends", 64, number(1..=most)),
            weight: section.or("weight", 1, number(1..=256)),
        }
    }
}

/// One section is one source.
fn several(section: &Section<'_, '_>, written: &[Field<Origin>]) -> Reported {
    let places = written.iter().map(|field| field.as_ref().map(|it| &it.at));
    let last = places
        .flatten()
        .max_by_key(|at| at.place)
        .cloned()
        .unwrap_or_else(|| section.at());
    let remedy = "write a section of its own for each of `dns`, `dns_srv` and `backends_file`";
    section.fault(&last, Fault::new("two sources in one section", remedy))
}

impl Asked {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            family: section.optional("family", word(FAMILIES)),
            min_ttl: section.optional("min_ttl", duration(s(1)..=HOUR)),
            max_ttl: section.optional("max_ttl", duration(s(1)..=DAY)),
            hold: section.optional("hold", duration(s(1)..=WEEK)),
            linger: section.optional("linger", duration(s(0)..=HOUR)),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(in crate::config) fn written(&self) -> Vec<(&'static str, At)> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            family,
            min_ttl,
            max_ttl,
            hold,
            linger,
        } = self;
        [
            ("family", at(family)),
            ("min_ttl", at(min_ttl)),
            ("max_ttl", at(max_ttl)),
            ("hold", at(hold)),
            ("linger", at(linger)),
        ]
        .into_iter()
        .filter_map(|(key, at)| Some((key, at?)))
        .collect()
    }
}

/// A resolver: an address, with the port if it is not that of DNS.
fn server(value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = string(value, "192.0.2.53")?;
    let plain = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    plain
        .or_else(|_| text.parse::<SocketAddr>())
        .ok()
        .filter(|address| address.port() != 0 && !address.ip().is_unspecified())
        .ok_or_else(|| {
            let what = format!("`{}` is no address of a resolver", shown(text));
            Fault::new(
                what,
                "write an IP address, like \"192.0.2.53\" or \"[2001:db8::53]:5353\"",
            )
        })
}

/// A name, in the form in which names are compared.
fn canonical(text: &str) -> Read<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let value = DeValue::String(std::borrow::Cow::Borrowed(name));
    Ok(host_name(&value)?.to_ascii_lowercase())
}

fn named(value: &DeValue<'_>) -> Read<Origin> {
    let example = "web.example:80";
    let text = string(value, example)?;
    if text.parse::<SocketAddr>().is_ok() {
        let what = format!("`{}` is an address: there is nothing to ask", shown(text));
        return Err(Fault::new(what, "write it in a [[service.backend]]"));
    }
    let (name, port) = text
        .rsplit_once(':')
        .and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)))
        .filter(|(_, port)| *port > 0)
        .ok_or_else(|| {
            let what = format!("`{}` has no port", shown(text));
            Fault::new(what, format!("write name and port, like \"{example}\""))
        })?;
    let name = canonical(name)?;
    Ok(Origin::Dns { name, port })
}

fn srv(value: &DeValue<'_>) -> Read<Origin> {
    let example = "_http._tcp.web.example";
    let text = string(value, example)?;
    if text.contains(':') {
        let what = format!(
            "`{}` has a port, but SRV records name the ports",
            shown(text)
        );
        return Err(Fault::new(
            what,
            format!("write the name, like \"{example}\""),
        ));
    }
    Ok(Origin::Srv {
        name: canonical(text)?,
    })
}

fn file(value: &DeValue<'_>) -> Read<Origin> {
    let path: PathBuf = path(value)?;
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("json" | "toml") => Ok(Origin::File { path }),
        _ => Err(Fault::new(
            format!(
                "`{}` does not say what is in it",
                shown(&path.display().to_string())
            ),
            "write a path that ends in .json or .toml",
        )),
    }
}
