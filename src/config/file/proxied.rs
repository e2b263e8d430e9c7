//! Those keys of `[[service]]` that only the proxy mode has.

use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::affinity::Affinity;
use super::limits::Limits;
use super::rules::{Pool, Rule};
use super::service::{at, at_list};
use super::sockets::Sockets;
use super::{MINUTE, ms};
use crate::config::read::Section;
use crate::config::report::{At, Field, List, Located, Reported};
use crate::config::units::{Fault, Read, duration, number, shown, string, word};
use crate::config::{Ech, ProxyVersion};

/// Most networks in one list.
pub(super) const MAX_NETWORKS: usize = 64;
/// Most pools of one service, beside its own.
const MAX_POOLS: usize = 64;
/// Most rules of one service.
const MAX_RULES: usize = 256;
/// Fewest bytes to look at, and most.
const INSPECT_BYTES: std::ops::RangeInclusive<u32> = 512..=64 << 10;

const VERSIONS: &[(&str, ProxyVersion)] = &[("v1", ProxyVersion::V1), ("v2", ProxyVersion::V2)];
const ECHS: &[(&str, Ech)] = &[("unknown", Ech::Unknown), ("outer", Ech::Outer)];
const TLVS: &[(&str, Tlv)] = &[
    ("authority", Tlv::Authority),
    ("unique_id", Tlv::UniqueId),
    ("crc32c", Tlv::Crc32c),
];

/// Those keys of `[[service]]` that only the proxy mode has. None: not written.
pub(in crate::config) struct Proxied {
    pub(in crate::config) accept_proxy: Option<List<Located<IpNet>>>,
    pub(in crate::config) accept_proxy_timeout: Option<Field<Duration>>,
    pub(in crate::config) send_proxy: Option<Field<ProxyVersion>>,
    pub(in crate::config) send_proxy_tlvs: Option<List<Located<Tlv>>>,
    pub(in crate::config) inspect_timeout: Option<Field<Duration>>,
    pub(in crate::config) inspect_bytes: Option<Field<u32>>,
    pub(in crate::config) ech: Option<Field<Ech>>,
    pub(in crate::config) limits: Limits,
    pub(in crate::config) sockets: Sockets,
    pub(in crate::config) affinity: Option<Result<Affinity, Reported>>,
    pub(in crate::config) pools: Option<List<Pool>>,
    pub(in crate::config) rules: Option<List<Rule>>,
}

/// What a header of version 2 can carry beside the addresses.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::config) enum Tlv {
    Authority,
    UniqueId,
    Crc32c,
}

impl Tlv {
    /// As it is written.
    pub(in crate::config) fn word(self) -> &'static str {
        let known = TLVS.iter().find(|(_, tlv)| *tlv == self);
        known.map_or("", |(word, _)| word)
    }
}

impl Proxied {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let timeout = || duration(ms(10)..=MINUTE);
        Self {
            accept_proxy: section.one_or_more("accept_proxy", 1..=MAX_NETWORKS, network),
            accept_proxy_timeout: section.optional("accept_proxy_timeout", timeout()),
            send_proxy: section.optional("send_proxy", word(VERSIONS)),
            send_proxy_tlvs: section.one_or_more("send_proxy_tlvs", 1..=TLVS.len(), word(TLVS)),
            inspect_timeout: section.optional("inspect_timeout", timeout()),
            inspect_bytes: section.optional("inspect_bytes", number(INSPECT_BYTES)),
            ech: section.optional("ech", word(ECHS)),
            limits: Limits::read(section),
            sockets: Sockets::read(section),
            affinity: section.table("affinity", Affinity::read),
            pools: section.optional_tables("pool", 1..=MAX_POOLS, Pool::read),
            rules: section.optional_tables("rule", 1..=MAX_RULES, Rule::read),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(in crate::config) fn written(&self) -> Vec<(&'static str, At)> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            accept_proxy,
            accept_proxy_timeout,
            send_proxy,
            send_proxy_tlvs,
            inspect_timeout,
            inspect_bytes,
            ech,
            limits,
            sockets,
            affinity,
            pools,
            rules,
        } = self;
        let affinity = affinity.iter().flatten().next();
        let pool = pools.iter().flatten().flatten().next();
        let rule = rules.iter().flatten().flatten().next();
        let head = [
            ("accept_proxy", at_list(accept_proxy)),
            ("accept_proxy_timeout", at(accept_proxy_timeout)),
            ("send_proxy", at(send_proxy)),
            ("send_proxy_tlvs", at_list(send_proxy_tlvs)),
            ("inspect_timeout", at(inspect_timeout)),
            ("inspect_bytes", at(inspect_bytes)),
            ("ech", at(ech)),
        ];
        let tail = [
            ("affinity", affinity.map(|section| section.at.clone())),
            ("pool", pool.map(|pool| pool.at.clone())),
            ("rule", rule.map(|rule| rule.at.clone())),
        ];
        let all = head
            .into_iter()
            .chain(limits.written())
            .chain(sockets.written())
            .chain(tail);
        all.filter_map(|(key, at)| Some((key, at?))).collect()
    }
}

/// A network: an address with a prefix, and nothing set behind that.
pub(super) fn network(value: &DeValue<'_>) -> Read<IpNet> {
    let text = string(value, "192.0.2.0/24")?;
    let net: IpNet = text.parse().map_err(|_| {
        Fault::new(
            format!("`{}` is no network", shown(text)),
            "write an address and a prefix, like \"192.0.2.0/24\" or \"2001:db8::7/128\"",
        )
    })?;
    if net.addr() != net.network() {
        let what = format!("{net} has bits behind its prefix");
        let whole = format!("write \"{}\" for the network", net.trunc());
        let one = format!("\"{}/{}\" for one host", net.addr(), net.max_prefix_len());
        return Err(Fault::new(what, format!("{whole}, or {one}")));
    }
    Ok(net)
}
