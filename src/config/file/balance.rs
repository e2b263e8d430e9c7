//! `balance`: a word, or a table with the scheduler and its settings.

use std::time::Duration;

use toml::de::DeValue;

use super::{MINUTE, ms};
use crate::config::read::{Section, Shape};
use crate::config::report::{At, Field, Located, Reported};
use crate::config::units::{Fault, Read, duration, hundredths, number, text, word};
use crate::model::Scheduler;

/// Least and most places in Maglev's table; the most is computed within some milliseconds.
const TABLE_SIZES: std::ops::RangeInclusive<u32> = 251..=262_139;
/// Longest key of hashes, in bytes.
const MAX_HASH_KEY: usize = 256;

/// `balance`
pub(in crate::config) struct Balance {
    pub(in crate::config) scheduler: Field<Scheduler>,
    pub(in crate::config) table_size: Option<Field<u32>>,
    pub(in crate::config) bounded_load: Option<Field<u16>>,
    pub(in crate::config) hash_key: Option<Field<String>>,
    pub(in crate::config) decay: Option<Field<Duration>>,
    pub(in crate::config) floor: Option<Field<u16>>,
}

impl Balance {
    /// Takes the key from its service.
    pub(super) fn take(section: &mut Section<'_, '_>) -> Option<Result<Self, Reported>> {
        let scheduler = || word(Scheduler::WORDS);
        match section.word_or_table("balance", "balance = { scheduler = \"maglev\" }") {
            None => None,
            Some(Shape::Word(value)) => Some(Ok(Self::bare(section.read(&value, scheduler())))),
            Some(Shape::Table(table)) => Some(Ok(section.below(table, |table| Self {
                scheduler: table.required("scheduler", r#""maglev""#, scheduler()),
                table_size: table.optional("table_size", prime),
                bounded_load: table.optional("bounded_load", hundredths(101..=1_000)),
                hash_key: table.optional("hash_key", text(1..=MAX_HASH_KEY)),
                decay: table.optional("decay", duration(ms(100)..=10 * MINUTE)),
                floor: table.optional("floor", hundredths(1..=100)),
            }))),
        }
    }

    fn bare(scheduler: Field<Scheduler>) -> Self {
        Self {
            scheduler,
            table_size: None,
            bounded_load: None,
            hash_key: None,
            decay: None,
            floor: None,
        }
    }

    /// The settings that are written: the key, its place, and the schedulers that have it.
    pub(in crate::config) fn written(&self) -> Vec<(&'static str, At, &'static [Scheduler])> {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            scheduler: _,
            table_size,
            bounded_load,
            hash_key,
            decay,
            floor,
        } = self;
        const HASHED: &[Scheduler] = &[Scheduler::SourceHash, Scheduler::Maglev];
        const MEASURED: &[Scheduler] = &[Scheduler::LeastResponseTime, Scheduler::Adaptive];
        [
            ("table_size", at(table_size), &[Scheduler::Maglev][..]),
            ("bounded_load", at(bounded_load), HASHED),
            ("hash_key", at(hash_key), HASHED),
            ("decay", at(decay), MEASURED),
            ("floor", at(floor), &[Scheduler::Adaptive]),
        ]
        .into_iter()
        .filter_map(|(key, at, whose)| Some((key, at?, whose)))
        .collect()
    }
}

/// The place of a good value that is written.
fn at<T>(field: &Option<Field<T>>) -> Option<At> {
    let Located { at, .. } = field.as_ref()?.as_ref().ok()?;
    Some(at.clone())
}

/// A prime: only then does every backend's walk through the table meet all its places.
fn prime(value: &DeValue<'_>) -> Read<u32> {
    let size = number(TABLE_SIZES)(value)?;
    if is_prime(size) {
        return Ok(size);
    }
    let below = (2..size)
        .rev()
        .find(|n| is_prime(*n) && TABLE_SIZES.contains(n));
    let above = (size..=*TABLE_SIZES.end()).find(|n| is_prime(*n));
    let near: Vec<String> = below
        .into_iter()
        .chain(above)
        .map(|n| n.to_string())
        .collect();
    let what = format!("{size} is not prime, so backends would miss parts of the table");
    Err(Fault::new(what, format!("write {}", near.join(" or "))))
}

fn is_prime(n: u32) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}
