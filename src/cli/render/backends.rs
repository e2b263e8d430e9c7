//! The page of `tandem backend list`, and the words for a backend's state.

use super::words::{count, span};
use super::{ATTENTION, Page, Tone};
use crate::config::DEFAULT_POOL;
use crate::model::AdminState;
use crate::status::{BackendStatus, ServiceStatus};

/// The page.
pub fn backends(services: &[&ServiceStatus]) -> Page {
    let mut page = Page::default();
    for (n, service) in services.iter().enumerate() {
        if n > 0 {
            page.gap();
        }
        page.text(Tone::Heading, &format!("service {}", service.name));
        let rows = service.backends.iter().map(row).collect();
        let heading = ["", "backend", "address", "state", "weight", "now", "origin"];
        page.table(&heading, &[4, 5], rows);
        if let Some(text) = removed(service) {
            page.text(Tone::Plain, &text);
        }
    }
    page
}

fn row(backend: &BackendStatus) -> Vec<String> {
    let mut origin = origin(backend).to_owned();
    if let Some(pool) = backend.pool.as_deref().filter(|pool| *pool != DEFAULT_POOL) {
        origin += &format!(", pool {pool}");
    }
    for text in remarks(backend) {
        origin += &format!("; {text}");
    }
    vec![
        mark(is_bad(backend)),
        backend.name.clone(),
        backend.address.clone(),
        state(backend).into(),
        backend.weight.to_string(),
        count(backend.connections),
        origin,
    ]
}

/// Where it comes from. A node of an earlier version does not say.
fn origin(backend: &BackendStatus) -> &str {
    match backend.origin.as_str() {
        "" => "file",
        origin => origin,
    }
}

/// Its state in one word or two.
pub(super) const fn state(backend: &BackendStatus) -> &'static str {
    match (backend.leaving, backend.up, backend.admin) {
        (true, _, _) => "removed",
        (false, true, AdminState::Enabled) => "up",
        (false, true, AdminState::Drain) => "drain",
        (false, false, AdminState::Enabled) => "DOWN",
        (false, false, AdminState::Drain) => "DOWN, drain",
        (false, _, AdminState::Maintenance) => "maintenance",
    }
}

/// It is not as it should be, though nobody wanted that.
pub(super) fn is_bad(backend: &BackendStatus) -> bool {
    !backend.up && !backend.leaving && backend.admin != AdminState::Maintenance
}

pub(super) fn mark(bad: bool) -> String {
    if bad { ATTENTION.into() } else { String::new() }
}

/// What operators should not forget of it.
pub(super) fn remarks(backend: &BackendStatus) -> Vec<String> {
    let cut = backend.cut_in_ms.filter(|_| backend.connections > 0);
    let cut = cut.map(|ms| format!("cut in {}", span(ms)));
    backend.differs.iter().cloned().chain(cut).collect()
}

/// What `status` says of its origin; nothing of the file's.
pub(super) fn other_origin(backend: &BackendStatus) -> Option<&str> {
    Some(origin(backend)).filter(|origin| *origin != "file")
}

/// Those of the file that operators removed.
pub(super) fn removed(service: &ServiceStatus) -> Option<String> {
    let names = service.removed.join(", ");
    (!names.is_empty()).then(|| format!("removed at run time, and in the file: {names}"))
}
