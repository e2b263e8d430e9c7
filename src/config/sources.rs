//! What sources of backends ask of each other and of their service.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::used;
use super::file::{Discover, File, Mode, Service};
use super::report::{Field, List, Report, Reported};
use super::units::Fault;
use super::{Family, Origin};

/// Defaults that depend on nothing.
pub(super) const MIN_TTL: Duration = Duration::from_secs(5);
/// The same, the latest.
pub(super) const MAX_TTL: Duration = Duration::from_secs(60);

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        pool(&service.discover, report);
        for pool_of in service.proxied.pools.iter().flatten().flatten() {
            pool(&pool_of.discover, report);
        }
        families(service, report);
    }
}

fn pool(sources: &Option<List<Discover>>, report: &Report<'_>) {
    let mut seen = BTreeMap::new();
    for source in sources.iter().flatten().flatten() {
        let Ok(origin) = &source.origin else {
            continue;
        };
        let first = *seen.entry(&origin.value).or_insert(&origin.at);
        if !std::ptr::eq(first, &origin.at) {
            let fault = used(&origin.value, first, "write each source of a pool once");
            report.fault(&origin.at, fault);
        }
        if matches!(origin.value, Origin::File { .. }) {
            for (key, at) in source.asked.written() {
                let what = format!("a file has no `{key}`");
                report.fault(&at, Fault::new(what, "remove it: it belongs to DNS"));
            }
        }
        ttls(source, report);
    }
}

fn ttls(source: &Discover, report: &Report<'_>) {
    let Ok((min, max)) = bounds(source) else {
        return;
    };
    let written = [&source.asked.min_ttl, &source.asked.max_ttl];
    let written = written.into_iter().flatten().flatten();
    if let Some(at) = written.map(|it| &it.at).max_by_key(|at| at.place)
        && min > max
    {
        let what = format!(
            "min_ttl ({}) is longer than max_ttl ({})",
            humantime::format_duration(min),
            humantime::format_duration(max)
        );
        let remedy = "write a shorter `min_ttl`, or a longer `max_ttl`";
        report.fault(at, Fault::new(what, remedy));
    }
}

/// The least and the most time between two questions.
pub(super) fn bounds(source: &Discover) -> Result<(Duration, Duration), Reported> {
    let value = |written: &Option<Field<Duration>>| match written {
        Some(Ok(located)) => Ok(Some(located.value)),
        Some(Err(reported)) => Err(*reported),
        None => Ok(None),
    };
    let min = value(&source.asked.min_ttl)?;
    let max = value(&source.asked.max_ttl)?;
    // A default gives way to what is written.
    let least = min.unwrap_or_else(|| MIN_TTL.min(max.unwrap_or(MIN_TTL)));
    Ok((least, max.unwrap_or_else(|| MAX_TTL.max(least))))
}

/// In kernel mode there is no translation between the IP versions.
fn families(service: &Service, report: &Report<'_>) {
    if !matches!(&service.mode, Ok(mode) if mode.value == Mode::Kernel) {
        return;
    }
    for source in service.discover.iter().flatten().flatten() {
        let Some(Ok(family)) = &source.asked.family else {
            continue;
        };
        let listens = |v4| {
            let mut good = service.listen.iter().flatten();
            good.any(|address| address.value.is_ipv4() == v4)
        };
        let whole = service.listen.iter().all(Result::is_ok);
        let (word, serves) = match family.value {
            Family::Both => continue,
            Family::V4 => ("IPv4", listens(true)),
            Family::V6 => ("IPv6", listens(false)),
        };
        if whole && !serves {
            let what = format!(
                "`listen` has no {word} address: there is no translation in mode = \"kernel\""
            );
            let remedy = format!("add an {word} address to `listen`, or write another `family`");
            report.fault(&family.at, Fault::new(what, remedy));
        }
    }
}
