//! What the keys of a proxied service ask of each other.

use super::ProxyVersion;
use super::file::{File, Service};
use super::report::Report;
use super::units::Fault;

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        tlvs(service, report);
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
