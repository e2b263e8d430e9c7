//! What an operator sees: the read model as lines of text, 80 columns wide.
//!
//! Owns: words, order, emphasis. Never: asks the node, reads a clock, decides what is printed
//! where. Every function is pure, so that a test can compare the exact text.
//!
//! Colour only repeats what the words and the `!` in front of a line say already.

mod backends;
mod events;
mod flows;
mod nat;
mod relay;
mod sources;
mod status;
mod sticks;
mod verdict;
mod words;

#[cfg(test)]
mod flows_test;
#[cfg(test)]
mod nat_test;
#[cfg(test)]
mod relay_test;
#[cfg(test)]
mod samples_test;
#[cfg(test)]
mod status_test;
#[cfg(test)]
mod verdict_test;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};

pub use backends::backends;
pub use events::events;
pub use flows::FlowTable;
pub use status::status;
pub use sticks::stick_rows;
pub(super) use words::{count, plural, span};

/// Widest line of a page (the timeline and the list of connections are not cut: one event or
/// connection, one line).
pub const WIDTH: u16 = 80;
/// Columns of a table that are never broken, from the first with words on.
const WHOLE: usize = 2;
/// They would leave too little room, if they were longer.
const SHORT: u16 = 21;

/// First cell of a row that needs attention.
const ATTENTION: &str = "!";

/// Emphasis of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tone {
    Bad,
    Caution,
    Good,
    Heading,
    Plain,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Caution => AnsiColor::Yellow.on_default().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Heading => Style::new().bold(),
            Self::Plain => Style::new(),
        }
    }
}

/// Lines with their emphasis.
#[derive(Clone, Debug, Default)]
pub struct Page {
    lines: Vec<(Tone, String)>,
}

impl Page {
    /// Writes the page with its colours; the writer drops them where they are not wanted.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (tone, text) in &self.lines {
            let style = tone.style();
            writeln!(out, "{style}{text}{style:#}")?;
        }
        Ok(())
    }

    fn line(&mut self, tone: Tone, text: impl Into<String>) {
        self.lines.push((tone, text.into()));
    }

    fn gap(&mut self) {
        self.line(Tone::Plain, "");
    }

    /// A sentence, wrapped.
    fn text(&mut self, tone: Tone, text: &str) {
        let mut table = plain_table();
        table.add_row([text]);
        self.lines.extend(lines(&table).map(|line| (tone, line)));
    }

    /// Rows under a heading. The first cell is empty or [`ATTENTION`]; columns named in `numbers`
    /// stand to the right.
    fn table(&mut self, heading: &[&str], numbers: &[usize], rows: Vec<Vec<String>>) {
        let mut table = plain_table();
        table.set_header(heading);
        table.add_rows(rows);
        for &column in numbers {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // Names and addresses of IPv4 stay whole: they are copied into the next command.
        let widths = table.column_max_content_widths();
        for (column, width) in table.column_iter_mut().zip(widths).take(1 + WHOLE) {
            if width <= SHORT {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        for (n, line) in lines(&table).enumerate() {
            let tone = match line.starts_with(ATTENTION) {
                true => Tone::Bad,
                false if n == 0 => Tone::Heading,
                false => Tone::Plain,
            };
            self.line(tone, line);
        }
    }

    /// Labels with what belongs to them.
    fn facts(&mut self, facts: &[(impl AsRef<str>, String)]) {
        let mut table = plain_table();
        table.add_rows(facts.iter().map(|(label, text)| [label.as_ref(), text]));
        self.lines
            .extend(lines(&table).map(|line| (Tone::Plain, line)));
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH);
    table
}

/// The table's lines without the padding at both ends.
fn lines(table: &Table) -> impl Iterator<Item = String> {
    let mut table = table.clone();
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.into_iter()
}
