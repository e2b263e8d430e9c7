//! Where values stand, and the mistakes found so far.

use std::cell::RefCell;

use super::error::{ConfigError, ConfigErrors, Place};
use super::units::Fault;

/// Proof that a mistake has been reported: only reporting makes one, so that a value which is not
/// there has always been explained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) struct At {
    /// Line and column.
    pub(super) place: Place,
    /// Key path.
    pub(super) key: String,
}

impl At {
    /// The place of something below: a key, or an index in brackets.
    pub(super) fn below(&self, place: Place, step: &str) -> Self {
        let dot = match self.key.is_empty() || step.starts_with('[') {
            true => "",
            false => ".",
        };
        Self {
            place,
            key: format!("{}{dot}{step}", self.key),
        }
    }

    /// The name of the section `key` below, as its header writes it: without indices.
    pub(super) fn header(&self, key: &str) -> String {
        let names: String = self.key.split(['[', ']']).step_by(2).collect();
        match names.as_str() {
            "" => key.to_owned(),
            names => format!("{names}.{key}"),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    /// The value.
    pub(super) value: T,
    /// Its place; that of its section if it is a default.
    pub(super) at: At,
}

/// A value, or the proof that its absence has been reported.
pub(super) type Field<T> = Result<Located<T>, Reported>;

/// Those of a list's elements that are good, and proofs for the others.
pub(super) type List<T> = Vec<Result<T, Reported>>;

/// The mistakes found so far.
pub(super) struct Report<'i> {
    /// What is read.
    pub(super) text: &'i str,
    /// Where each line starts.
    lines: Vec<usize>,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'i> Report<'i> {
    /// An empty report on this text.
    pub(super) fn new(text: &'i str) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(after_newline).collect(),
            errors: RefCell::default(),
        }
    }

    /// Reports a mistake.
    pub(super) fn fault(&self, at: &At, fault: Fault) -> Reported {
        self.errors.borrow_mut().push(ConfigError {
            place: at.place,
            key: at.key.clone(),
            what: fault.what,
            remedy: fault.remedy,
        });
        Reported(())
    }

    /// The result, unless there were mistakes; these in the order of the file.
    pub(super) fn finish<T>(self, result: Result<T, Reported>) -> Result<T, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        match result {
            Ok(value) if errors.is_empty() => Ok(value),
            _ => {
                errors.sort_by(|a, b| (a.place, &a.key).cmp(&(b.place, &b.key)));
                Err(ConfigErrors(errors))
            }
        }
    }

    /// The place of this byte.
    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines[line - 1];
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        let characters = String::from_utf8_lossy(before).chars().count();
        Place {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(characters + 1).unwrap_or(u32::MAX),
        }
    }
}
