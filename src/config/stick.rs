//! What affinity asks of its own keys and of the schedulers.

use super::file::{Affinity, By, File, Service};
use super::report::Report;
use super::units::Fault;
use crate::model::Scheduler;

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        if let Some(Ok(affinity)) = &service.proxied.affinity {
            keys(affinity, report);
            table(service, affinity, report);
        }
    }
}

/// Each key belongs to what clients are recognised by.
fn keys(affinity: &Affinity, report: &Report<'_>) {
    let Ok(by) = &affinity.by else {
        return;
    };
    for (key, at, whose) in affinity.of_by() {
        if whose != by.value {
            let what = format!("by = \"{}\" has no `{key}`", by.value.word());
            let remedy = format!("remove it, or write by = \"{}\"", whose.word());
            report.fault(&at, Fault::new(what, remedy));
        }
    }
    if by.value == By::Cookie && affinity.cookie.is_none() {
        let what = "by = \"cookie\" without the cookie's name";
        report.fault(&by.at, Fault::new(what, "add cookie = \"SESSION\""));
    }
}

/// Without a table the scheduler must be one that hashes.
fn table(service: &Service, affinity: &Affinity, report: &Report<'_>) {
    let Ok(table) = &affinity.table else {
        return;
    };
    if table.value {
        return;
    }
    for (key, at) in affinity.of_table() {
        let what = format!("table = false has no `{key}`");
        let remedy = "remove it, or write table = true";
        report.fault(&at, Fault::new(what, remedy));
    }
    let pools = service.proxied.pools.iter().flatten().flatten();
    let pools = pools.filter_map(|pool| pool.balance.as_ref());
    for balance in std::iter::once(&service.balance).chain(pools).flatten() {
        if let Ok(scheduler) = &balance.scheduler
            && !matches!(scheduler.value, Scheduler::SourceHash | Scheduler::Maglev)
        {
            let what = format!(
                "affinity with table = false needs a scheduler that hashes, and `{}` does not",
                scheduler.value
            );
            let remedy = "write balance = \"maglev\" or \"source_hash\", or table = true";
            report.fault(&scheduler.at, Fault::new(what, remedy));
        }
    }
}
