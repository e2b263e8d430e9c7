//! The list of remembered clients: one line each.

use super::words::span;
use super::{Page, Tone};
use crate::wire::admin::Remembered;

const HEADING: [&str; 4] = ["key", "service", "backend", "last used"];

/// Lines for these, with a heading if they are the first ones.
pub fn stick_rows(clients: &[Remembered], first: bool) -> Page {
    let row = |client: &Remembered| {
        [
            client.key.clone(),
            client.service.clone(),
            client.backend.clone(),
            format!("{} ago", span(client.age_ms)),
        ]
    };
    let heading = first.then(|| HEADING.map(str::to_owned));
    let rows: Vec<_> = heading.into_iter().chain(clients.iter().map(row)).collect();
    let mut widths = HEADING.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut page = Page::default();
    for (place, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let tone = match first && place == 0 {
            true => Tone::Heading,
            false => Tone::Plain,
        };
        page.line(tone, cells.join("  ").trim_end());
    }
    page
}
