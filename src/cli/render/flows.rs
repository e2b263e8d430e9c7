//! The list of connections: one line each, in columns that no page makes narrower.

use super::words::{count, span};
use super::{Page, Tone};
use crate::wire::admin::FlowStatus;

const HEADING: [&str; 9] = [
    "client", "to", "service", "backend", "seen as", "state", "age", "up", "down",
];
/// The columns from here on are numbers, which stand to the right.
const NUMBERS: usize = 6;
/// Between two columns.
const GAP: &str = "  ";

/// Makes one table out of pages whose number nobody knows beforehand.
#[derive(Debug, Default)]
pub struct FlowTable {
    /// None: nothing was printed yet.
    widths: Option<[usize; HEADING.len()]>,
}

impl FlowTable {
    /// The next lines.
    pub fn page(&mut self, flows: &[FlowStatus]) -> Page {
        let mut page = Page::default();
        if flows.is_empty() {
            return page;
        }
        let rows: Vec<_> = flows.iter().map(row).collect();
        let begins = self.widths.is_none();
        let widths = self.widths.get_or_insert_with(|| HEADING.map(str::len));
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if begins {
            page.line(Tone::Heading, line(&HEADING.map(str::to_owned), widths));
        }
        for row in &rows {
            page.line(Tone::Plain, line(row, widths));
        }
        page
    }

    /// The last lines.
    pub fn end(self) -> Page {
        let mut page = Page::default();
        if self.widths.is_none() {
            page.line(Tone::Plain, "no connections");
        }
        page
    }
}

fn row(flow: &FlowStatus) -> [String; HEADING.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        flow.client.to_string(),
        or_dash(flow.listen.map(|listen| listen.to_string())),
        flow.service.clone(),
        flow.backend.clone(),
        or_dash(flow.source.map(|source| source.to_string())),
        flow.state.as_str().into(),
        span(flow.age_ms),
        or_dash(flow.up.map(count)),
        or_dash(flow.down.map(count)),
    ]
}

fn line(row: &[String; HEADING.len()], widths: &[usize; HEADING.len()]) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| match column < NUMBERS {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        })
        .collect();
    cells.join(GAP).trim_end().to_owned()
}
