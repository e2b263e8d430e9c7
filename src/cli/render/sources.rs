//! Where backends come from, beside the file.

use super::ATTENTION;
use super::verdict::Level;
use super::words::{count, plural, span};
use crate::status::{ServiceStatus, SourceStatus};

/// The columns of a source.
pub(super) const HEADING: [&str; 7] = [
    "", "source", "pool", "backends", "answered", "next", "notes",
];
/// Those that are numbers.
pub(super) const NUMBERS: [usize; 3] = [3, 4, 5];

/// The row of a source.
pub(super) fn row(source: &SourceStatus) -> Vec<String> {
    let attention = match source.error {
        Some(_) => ATTENTION,
        None => "",
    };
    let answered = match source.answered_ms_ago {
        Some(ms) => format!("{} ago", span(ms)),
        None => "never".into(),
    };
    let next = source.next_in_ms.map(|ms| format!("in {}", span(ms)));
    vec![
        attention.into(),
        source.source.clone(),
        source.pool.clone(),
        count(source.backends),
        answered,
        next.unwrap_or_default(),
        source.error.clone().unwrap_or_default(),
    ]
}

/// What is wrong with the sources of a service.
pub(super) fn findings(service: &ServiceStatus, say: &mut impl FnMut(Level, String)) {
    for source in &service.sources {
        if let Some(error) = &source.error {
            let kept = match source.backends {
                0 => "it gives none".to_owned(),
                some => format!("it gives {}", plural(some, "backend")),
            };
            let text = format!(
                "service {}: {}: {error}; {kept}",
                service.name, source.source
            );
            say(Level::Warning, text);
        }
    }
}
