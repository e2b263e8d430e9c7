//! What the keys of a proxied service ask of each other: pools, the rules that lead to them, and the
//! header for the backends.

use std::collections::BTreeMap;

use super::check::{used, whole};
use super::file::{File, Rule, Service};
use super::limits;
use super::proxied::{DEFAULT_POOL, ProxyVersion};
use super::report::{At, Report};
use super::units::Fault;

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        tlvs(service, report);
        pools(service, report);
        limits::check(service, report);
    }
}

/// Only version 2 has room for more than the addresses.
fn tlvs(service: &Service, report: &Report<'_>) {
    let proxied = &service.proxied;
    let Some(first) = proxied.send_proxy_tlvs.iter().flatten().flatten().next() else {
        return;
    };
    let version = match &proxied.send_proxy {
        Some(Ok(version)) if version.value == ProxyVersion::V1 => "send_proxy = \"v1\" has",
        None => "without `send_proxy` there is",
        Some(_) => return,
    };
    let what = format!("{version} no room for `{}`", first.value.word());
    let remedy = "write send_proxy = \"v2\", or remove `send_proxy_tlvs`";
    report.fault(&first.at, Fault::new(what, remedy));
}

/// Every rule leads to a pool, and every pool has a rule that leads there.
fn pools(service: &Service, report: &Report<'_>) {
    let written = || service.proxied.pools.iter().flatten();
    let mut names: BTreeMap<&str, (&At, bool)> = BTreeMap::new();
    // A pool whose name is wrong may be the one that a rule means.
    let mut known = written().all(|pool| pool.as_ref().is_ok_and(|pool| pool.name.is_ok()));
    for name in written().flatten().flat_map(|pool| &pool.name) {
        if name.value == DEFAULT_POOL {
            let what = format!("`{DEFAULT_POOL}` is the service's own pool");
            report.fault(&name.at, Fault::new(what, "write another name"));
            known = false;
        } else if let Some((first, _)) = names.get(name.value.as_str()) {
            let fault = used(&name.value, first, "give each pool its own name");
            report.fault(&name.at, fault);
            known = false;
        } else {
            names.insert(&name.value, (&name.at, false));
        }
    }
    let mut lost = false;
    for rule in service.proxied.rules.iter().flatten().flatten() {
        conditions(rule, report);
        let Ok(pool) = &rule.pool else {
            lost = true;
            continue;
        };
        if let Some((_, leads)) = names.get_mut(pool.value.as_str()) {
            *leads = true;
        } else if pool.value != DEFAULT_POOL {
            lost = true;
            if !known {
                continue;
            }
            let what = format!("the service has no pool `{}`", pool.value);
            let there: Vec<_> = names.keys().copied().chain([DEFAULT_POOL]).collect();
            let remedy = format!("write one of: {}", there.join(", "));
            report.fault(&pool.at, Fault::new(what, remedy));
        }
    }
    if lost || !service.proxied.rules.iter().all(whole) {
        return;
    }
    for (name, (at, leads)) in names {
        if !leads {
            let what = format!("no rule leads to pool `{name}`");
            let remedy = format!("add a [[service.rule]] with pool = \"{name}\"");
            report.fault(at, Fault::new(what, remedy));
        }
    }
}

/// A rule asks something, and something that one connection can be.
fn conditions(rule: &Rule, report: &Report<'_>) {
    let Rule {
        sni,
        alpn,
        host,
        source,
        pool: _,
        at,
    } = rule;
    if sni.is_none() && alpn.is_none() && host.is_none() && source.is_none() {
        let what = "a rule without a condition";
        let remedy = "write `sni`, `alpn`, `host` or `source`; what no rule matches goes to the \
                      service's own backends";
        report.fault(at, Fault::new(what, remedy));
    }
    if host.is_some() && (sni.is_some() || alpn.is_some()) {
        let what =
            "no connection is both: `host` is read from plain HTTP, `sni` and `alpn` from TLS";
        report.fault(at, Fault::new(what, "write two rules"));
    }
}
