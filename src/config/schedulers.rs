//! What a scheduler's settings ask of each other and of the backends.

use super::file::{Balance, File};
use super::report::Report;
use super::units::Fault;
use crate::model::Scheduler;

/// Fewest places in Maglev's table for each backend: then a share is at most a tenth off.
const PLACES: usize = 10;

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        if let Some(Ok(balance)) = &service.balance {
            settings(balance, report);
            table(service.backends.len(), balance, report);
        }
        for pool in service.proxied.pools.iter().flatten().flatten() {
            if let Some(Ok(balance)) = &pool.balance {
                settings(balance, report);
                table(pool.backends.len(), balance, report);
            }
        }
    }
}

/// Each setting belongs to the scheduler.
fn settings(balance: &Balance, report: &Report<'_>) {
    let Ok(scheduler) = &balance.scheduler else {
        return;
    };
    for (key, at, whose) in balance.written() {
        if !whose.contains(&scheduler.value) {
            let whose: Vec<_> = whose.iter().map(|known| format!("\"{known}\"")).collect();
            let what = format!("`{}` has no `{key}`", scheduler.value);
            let remedy = format!("remove it, or write scheduler = {}", whose.join(" or "));
            report.fault(&at, Fault::new(what, remedy));
        }
    }
}

/// Maglev's table has places for all.
fn table(backends: usize, balance: &Balance, report: &Report<'_>) {
    let Some(Ok(size)) = &balance.table_size else {
        return;
    };
    let maglev = |scheduler: &super::report::Located<_>| scheduler.value == Scheduler::Maglev;
    if balance.scheduler.as_ref().is_ok_and(maglev) && (size.value as usize) < PLACES * backends {
        let what = format!("{} places are too few for {backends} backends", size.value);
        let remedy = format!(
            "write a prime above {}, or leave it out for {}",
            PLACES * backends,
            super::Balance::TABLE_SIZE
        );
        report.fault(&size.at, Fault::new(what, remedy));
    }
}
