//! Mistakes as an operator sees them: the line, what is wrong with it, what to write instead.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::error::{ConfigError, ConfigErrors, Place};

impl ConfigErrors {
    /// Every mistake with its line of `text`, which is the content of `file_name`.
    pub fn render(&self, file_name: &str, text: &str, color: bool) -> String {
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let rendered: Vec<_> = self
            .0
            .iter()
            .map(|error| render(error, file_name, text, &renderer))
            .collect();
        rendered.join("\n\n")
    }
}

fn render(error: &ConfigError, file_name: &str, text: &str, renderer: &Renderer) -> String {
    let ConfigError {
        place,
        key,
        what,
        remedy,
    } = error;
    let title = match key.as_str() {
        "" => what.clone(),
        key => format!("{key}: {what}"),
    };
    let (line, token) = token(text, *place);
    let snippet = Snippet::source(line)
        .path(file_name)
        .line_start(place.line as usize)
        .annotation(AnnotationKind::Primary.span(token));
    let report = Level::ERROR.primary_title(title).element(snippet);
    let help = Level::HELP.message(remedy.as_str());
    renderer.render(&[report.element(help)])
}

/// The line of a place, and in it the word, string or header that begins there.
fn token(text: &str, place: Place) -> (&str, Range<usize>) {
    let line = text
        .lines()
        .nth((place.line as usize).saturating_sub(1))
        .unwrap_or("");
    let start = line
        .char_indices()
        .nth((place.column as usize).saturating_sub(1))
        .map_or(line.len(), |(at, _)| at);
    let rest = &line[start..];
    let length = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        Some('[') => rest.find(']').map_or(1, |end| {
            let more = rest[end..].chars().take_while(|c| *c == ']').count();
            end + more
        }),
        Some(first) => rest
            .find(|c: char| !(c.is_alphanumeric() || "._-+:".contains(c)))
            .unwrap_or(rest.len())
            .max(first.len_utf8()),
        None => 0,
    };
    (line, start..start + length)
}
