//! Reading TOML that may be wrong: every value with its place, every mistake collected.
//!
//! A [`Section`] is taken apart key by key; what is left when it ends is unknown.

use std::ops::RangeInclusive;

use toml::de::{DeArray, DeTable, DeValue};

use super::report::{At, Field, List, Located, Report, Reported};
use super::units::{Fault, Read, closest, described, shown};

/// Reads the whole text of this report.
pub(super) fn root<'i, T>(
    report: &Report<'i>,
    read: impl FnOnce(&mut Section<'_, 'i>) -> T,
) -> Result<T, Reported> {
    let at = |offset| At {
        place: report.place(offset),
        key: String::new(),
    };
    match DeTable::parse(report.text) {
        Ok(table) => Ok(section(report, at(0), table.into_inner(), read)),
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            let what = format!("not TOML: {}", error.message());
            let remedy = "see https://toml.io for the syntax";
            Err(report.fault(&at(offset), Fault::new(what, remedy)))
        }
    }
}

fn section<'i, T>(
    report: &Report<'i>,
    at: At,
    values: DeTable<'i>,
    read: impl FnOnce(&mut Section<'_, 'i>) -> T,
) -> T {
    let mut section = Section {
        report,
        at,
        values,
        known: Vec::new(),
    };
    let result = read(&mut section);
    section.report_unknown();
    result
}

/// What stands where a word or a table may stand.
pub(super) enum Shape<'i> {
    /// A word, or the proof that it is neither.
    Word(Field<DeValue<'i>>),
    Table(Located<DeTable<'i>>),
}

/// A table that is being taken apart.
pub(super) struct Section<'r, 'i> {
    report: &'r Report<'i>,
    at: At,
    values: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'i> Section<'_, 'i> {
    /// Where the section begins.
    pub(super) fn at(&self) -> At {
        self.at.clone()
    }

    /// A value that must be there, for example this one.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Field<T> {
        self.optional(key, read)
            .unwrap_or_else(|| Err(self.missing(key, &format!("{key} = {example}"))))
    }

    /// A value that may be left out.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Field<T> {
        self.optional(key, read)
            .unwrap_or_else(|| self.default(key, default))
    }

    /// A value that may be left out and whose default depends on others.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Option<Field<T>> {
        let Located { value, at } = self.take(key)?;
        Some(self.leaf(&value, at, read))
    }

    /// A list of this many values that may be left out.
    pub(super) fn list_or_none<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<List<Located<T>>> {
        self.values
            .contains_key(key)
            .then(|| self.list(key, "[...]", length, read))
    }

    /// Whether a key is there that was not taken yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A key that must not be there, and why.
    pub(super) fn refuse(&mut self, key: &'static str, why: impl FnOnce() -> Fault) {
        if let Some(Located { at, .. }) = self.take(key) {
            self.report.fault(&at, why());
        }
    }

    /// A key of which nothing can be said, since what it depends on is wrong.
    pub(super) fn ignore(&mut self, key: &'static str) {
        let _ = self.take(key);
    }

    /// The keys that were not taken yet.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(|key| key.get_ref().as_ref())
    }

    /// Reports what several values together have wrong.
    pub(super) fn fault(&self, at: &At, fault: Fault) -> Reported {
        self.report.fault(at, fault)
    }

    /// A list of values that must be there, for example this one, and this long.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        example: &str,
        length: RangeInclusive<usize>,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> List<Located<T>> {
        let shape = format!("{key} = {example}");
        self.elements(key, &shape, "values", length, |section, value, at| {
            section.leaf(&value, at, &read)
        })
    }

    /// A value, or a list of this many, that may be left out.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        read: impl Fn(&DeValue<'_>) -> Read<T>,
    ) -> Option<List<Located<T>>> {
        let Located { value, at } = self.take(key)?;
        Some(match value {
            DeValue::Array(values) => {
                self.each(values, &at, "values", length, |section, value, at| {
                    section.leaf(&value, at, &read)
                })
            }
            value => vec![self.leaf(&value, at, &read)],
        })
    }

    /// `[[tables]]` that must be there, this many.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        read: impl Fn(&mut Section<'_, 'i>) -> T,
    ) -> List<T> {
        let shape = format!("[[{}]]", self.at.header(key));
        self.elements(key, &shape, "sections", length, |section, value, at| {
            section.subsection(value, at, &shape, &read)
        })
    }

    /// `[[tables]]` that may be left out.
    pub(super) fn optional_tables<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        read: impl Fn(&mut Section<'_, 'i>) -> T,
    ) -> Option<List<T>> {
        if self.values.contains_key(key) {
            return Some(self.tables(key, length, read));
        }
        self.known.push(key);
        None
    }

    /// A `[table]`, if it is there.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Option<Result<T, Reported>> {
        let Located { value, at } = self.take(key)?;
        let shape = format!("[{}]", self.at.header(key));
        Some(self.subsection(value, at, &shape, read))
    }

    /// A `[table]` that must be there.
    pub(super) fn required_table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        self.table(key, read)
            .unwrap_or_else(|| Err(self.missing(key, &format!("[{}]", self.at.header(key)))))
    }

    /// A `[table]` that may be left out: then all its keys are.
    pub(super) fn default_table<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        self.table(key, &read).unwrap_or_else(|| {
            let at = self.at.below(self.at.place, key);
            Ok(section(self.report, at, DeTable::new(), read))
        })
    }

    /// A value that may be a word or a table with the same word in it.
    pub(super) fn word_or_table(&mut self, key: &'static str, example: &str) -> Option<Shape<'i>> {
        let Located { value, at } = self.take(key)?;
        Some(match value {
            DeValue::Table(value) => Shape::Table(Located { value, at }),
            value @ DeValue::String(_) => Shape::Word(Ok(Located { value, at })),
            value => {
                let what = format!("{} instead of a word or a table", described(&value));
                Shape::Word(Err(self
                    .report
                    .fault(&at, Fault::new(what, write(example)))))
            }
        })
    }

    /// What [`Section::word_or_table`] found, if it is a word.
    pub(super) fn read<T>(
        &self,
        found: &Field<DeValue<'i>>,
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Field<T> {
        let Located { value, at } = found.as_ref().map_err(|reported| *reported)?;
        self.leaf(value, at.clone(), read)
    }

    /// What [`Section::word_or_table`] found, if it is a table.
    pub(super) fn below<T>(
        &self,
        found: Located<DeTable<'i>>,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> T {
        section(self.report, found.at, found.value, read)
    }

    /// The value of a key that is left out.
    pub(super) fn default<T>(&self, key: &'static str, value: T) -> Field<T> {
        let at = self.at.below(self.at.place, key);
        Ok(Located { value, at })
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
        read: impl FnOnce(&DeValue<'_>) -> Read<T>,
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
        shape: &str,
        read: impl FnOnce(&mut Section<'_, 'i>) -> T,
    ) -> Result<T, Reported> {
        let DeValue::Table(values) = value else {
            let what = format!("{} instead of a section", described(&value));
            return Err(self.report.fault(&at, Fault::new(what, write(shape))));
        };
        Ok(section(self.report, at, values, read))
    }

    fn elements<T>(
        &mut self,
        key: &'static str,
        shape: &str,
        things: &str,
        length: RangeInclusive<usize>,
        read: impl Fn(&Self, DeValue<'i>, At) -> Result<T, Reported>,
    ) -> List<T> {
        let Some(Located { value, at }) = self.take(key) else {
            return vec![Err(self.missing(key, shape))];
        };
        let DeValue::Array(values) = value else {
            let what = format!("{} instead of a list", described(&value));
            return vec![Err(self.report.fault(&at, Fault::new(what, write(shape))))];
        };
        self.each(values, &at, things, length, read)
    }

    fn each<T>(
        &self,
        values: DeArray<'i>,
        at: &At,
        things: &str,
        length: RangeInclusive<usize>,
        read: impl Fn(&Self, DeValue<'i>, At) -> Result<T, Reported>,
    ) -> List<T> {
        let count = values.len();
        let mut list: List<_> = values
            .into_iter()
            .enumerate()
            .map(|(n, value)| {
                let place = self.report.place(value.span().start);
                read(self, value.into_inner(), at.below(place, &format!("[{n}]")))
            })
            .collect();
        if !length.contains(&count) {
            let (least, most) = length.into_inner();
            let wanted = match least == most {
                true => format!("exactly {least}"),
                false => format!("{least} to {most}"),
            };
            let fault = Fault::new(format!("{count} {things}"), write(&wanted));
            list.push(Err(self.report.fault(at, fault)));
        }
        list
    }

    fn missing(&self, key: &str, shape: &str) -> Reported {
        let at = self.at.below(self.at.place, key);
        self.report
            .fault(&at, Fault::new("missing", format!("add {shape}")))
    }

    fn report_unknown(&self) {
        for (key, _) in &self.values {
            let place = self.report.place(key.span().start);
            let at = self.at.below(place, &shown(key.get_ref()));
            let known = self.known.iter().copied();
            let remedy = match closest(key.get_ref(), known.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "remove it; known here: {}",
                    known.collect::<Vec<_>>().join(", ")
                ),
            };
            self.report.fault(&at, Fault::new("unknown key", remedy));
        }
    }
}

fn write(what: &str) -> String {
    format!("write {what}")
}
