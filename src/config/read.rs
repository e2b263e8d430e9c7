//! Reading TOML that may be wrong: every value with its place, every mistake collected.
//!
//! A [`Section`] is taken apart key by key; what is left when it ends is unknown. [`Reported`] can
//! only be made by reporting a mistake, so a value that is not there has always been explained.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors, Place};
use super::units::{Fault, closest};

/// Proof that a mistake has been reported.
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
    /// The place of something below: `.key` or `[index]`.
    fn below(&self, place: Place, step: &str) -> Self {
        let dot = if self.key.is_empty() || step.starts_with('[') {
            ""
        } else {
            "."
        };
        Self {
            place,
            key: format!("{}{dot}{step}", self.key),
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
pub(super) struct Report {
    /// Where each line starts.
    lines: Vec<usize>,
    text: String,
    errors: RefCell<Vec<ConfigError>>,
}

impl Report {
    /// An empty report on this text.
    pub(super) fn new(text: &str) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            lines: std::iter::once(0).chain(after_newline).collect(),
            text: text.to_owned(),
            errors: RefCell::default(),
        }
    }

    /// Reads the whole text.
    pub(super) fn root<T>(
        &self,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
    ) -> Result<T, Reported> {
        let at = |offset| At {
            place: self.place(offset),
            key: String::new(),
        };
        match DeTable::parse(&self.text) {
            Ok(table) => Ok(self.section(at(0), table.into_inner(), read)),
            Err(error) => {
                let offset = error.span().map_or(0, |span| span.start);
                Err(self.fault(
                    &at(offset),
                    Fault::new(
                        format!("not TOML: {}", error.message()),
                        "see https://toml.io for the syntax",
                    ),
                ))
            }
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

    fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines[line - 1];
        let before = self.text.as_bytes().get(start..offset).unwrap_or_default();
        let characters = String::from_utf8_lossy(before).chars().count();
        Place {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(characters + 1).unwrap_or(u32::MAX),
        }
    }

    fn section<'i, T>(
        &self,
        at: At,
        values: DeTable<'i>,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> T {
        let mut section = Section {
            report: self,
            at,
            values,
            known: Vec::new(),
        };
        let result = read(&mut section);
        section.report_unknown();
        result
    }
}

/// A table that is being taken apart.
pub(super) struct Section<'r, 'i> {
    report: &'r Report,
    at: At,
    values: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'i> Section<'_, 'i> {
    /// Where the section begins.
    pub(super) fn at(&self) -> At {
        self.at.clone()
    }

    /// A value that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Field<T> {
        match self.optional(key, read) {
            Some(field) => field,
            None => Err(self.missing(key, "add")),
        }
    }

    /// A value that may be left out.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Field<T> {
        self.optional(key, read).unwrap_or_else(|| {
            Ok(Located {
                value: default,
                at: self.at.below(self.at.place, key),
            })
        })
    }

    /// A value that may be left out and whose default depends on others.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Option<Field<T>> {
        let Located { value, at } = self.take(key)?;
        Some(self.leaf(&value, at, read))
    }

    /// A list of values that must be there, this long.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        read: impl Fn(&DeValue<'_>) -> Result<T, Fault>,
    ) -> List<Located<T>> {
        let Some(Located { value, at }) = self.take(key) else {
            return vec![Err(self.missing(key, "add"))];
        };
        let DeValue::Array(values) = value else {
            let what = format!("{} instead of a list", described(&value));
            let remedy = format!("write {key} = [\"...\"]");
            return vec![Err(self.report.fault(&at, Fault::new(what, remedy)))];
        };
        let count = values.len();
        let mut list: List<_> = values
            .into_iter()
            .enumerate()
            .map(|(n, value)| {
                let at = at.below(self.report.place(value.span().start), &format!("[{n}]"));
                self.leaf(value.get_ref(), at, &read)
            })
            .collect();
        if !length.contains(&count) {
            list.push(Err(self.miscounted(&at, "values", count, &length)));
        }
        list
    }

    /// A `[table]`, if it is there.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Option<Result<T, Reported>> {
        let Located { value, at } = self.take(key)?;
        Some(self.subsection(value, at, "[", "]", read))
    }

    /// A `[table]` that must be there.
    pub(super) fn required_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        match self.table(key, read) {
            Some(table) => table,
            None => Err(self.missing_table(key, "[", "]")),
        }
    }

    /// A `[table]` that may be left out: then all its keys are.
    pub(super) fn default_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        match self.take(key) {
            Some(Located { value, at }) => self.subsection(value, at, "[", "]", read),
            None => {
                let at = self.at.below(self.at.place, key);
                Ok(self.report.section(at, DeTable::new(), read))
            }
        }
    }

    /// `[[tables]]` that must be there, this many.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        mut read: impl FnMut(&mut Section<'_, 'i>) -> T,
    ) -> List<T> {
        let Some(Located { value, at }) = self.take(key) else {
            return vec![Err(self.missing_table(key, "[[", "]]"))];
        };
        let DeValue::Array(values) = value else {
            return vec![Err(self.not_a_table(&value, &at, "[[", "]]"))];
        };
        let count = values.len();
        let mut list: List<_> = values
            .into_iter()
            .enumerate()
            .map(|(n, value)| {
                let at = at.below(self.report.place(value.span().start), &format!("[{n}]"));
                self.subsection(value.into_inner(), at, "[[", "]]", &mut read)
            })
            .collect();
        if !length.contains(&count) {
            list.push(Err(self.miscounted(&at, "sections", count, &length)));
        }
        list
    }

    fn take(&mut self, key: &'static str) -> Option<Located<DeValue<'i>>> {
        self.known.push(key);
        let value = self.values.remove(key)?;
        let place = self.report.place(value.span().start);
        Some(Located {
            value: value.into_inner(),
            at: self.at.below(place, key),
        })
    }

    fn leaf<T>(
        &self,
        value: &DeValue<'_>,
        at: At,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Fault>,
    ) -> Field<T> {
        match read(value) {
            Ok(value) => Ok(Located { value, at }),
            Err(fault) => Err(self.report.fault(&at, fault)),
        }
    }

    fn subsection<T>(
        &self,
        value: DeValue<'i>,
        at: At,
        open: &str,
        close: &str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        match value {
            DeValue::Table(values) => Ok(self.report.section(at, values, read)),
            other => Err(self.not_a_table(&other, &at, open, close)),
        }
    }

    fn not_a_table(&self, value: &DeValue<'_>, at: &At, open: &str, close: &str) -> Reported {
        let what = format!("{} instead of a section", described(value));
        let header: String = at.key.split('[').step_by(2).collect();
        let remedy = format!("write {open}{header}{close} and its keys below");
        self.report.fault(at, Fault::new(what, remedy))
    }

    fn missing(&self, key: &str, verb: &str) -> Reported {
        let at = self.at.below(self.at.place, key);
        let fault = Fault::new("missing", format!("{verb} `{key} = ...` to this section"));
        self.report.fault(&at, fault)
    }

    fn missing_table(&self, key: &str, open: &str, close: &str) -> Reported {
        let at = self.at.below(self.at.place, key);
        let fault = Fault::new("missing", format!("add a section {open}{}{close}", at.key));
        self.report.fault(&at, fault)
    }

    fn miscounted(
        &self,
        at: &At,
        things: &str,
        count: usize,
        length: &RangeInclusive<usize>,
    ) -> Reported {
        let (least, most) = (length.start(), length.end());
        let wanted = if least == most {
            format!("exactly {least}")
        } else {
            format!("{least} to {most}")
        };
        let fault = Fault::new(format!("{count} {things}"), format!("write {wanted}"));
        self.report.fault(at, fault)
    }

    fn report_unknown(&self) {
        for (key, _) in &self.values {
            let at = self
                .at
                .below(self.report.place(key.span().start), key.get_ref());
            let known = self.known.iter().copied();
            let remedy = match closest(key.get_ref(), known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
            };
            self.report.fault(&at, Fault::new("unknown key", remedy));
        }
    }
}

/// The kind of a value, with its article.
pub(super) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fractional number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
