//! What differs between two configurations: of one node before and after, and of two nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Config;
use super::listing::{Reach, listing};
use crate::model::ConfigHash;

/// Marks of a configuration at most; one with more settings has one for each section.
pub const MAX_MARKS: usize = 4_096;
/// Keys that are named of one section; of more, how many there are.
const MAX_KEYS: usize = 4;
/// Why services do not come and go.
const LISTENERS: &str = "listeners are opened at the start";

/// A setting that is another one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    /// `election`, `service web`.
    pub section: String,
    /// `idle_timeout`, `backend b1.weight`.
    pub key: String,
    /// Before; none: it was not set.
    pub old: Option<String>,
    /// After; none: it is not set.
    pub new: Option<String>,
    /// Why it needs a restart; none: it does not.
    pub restart: Option<String>,
}

/// The fingerprint of one setting, or of a whole section, for a peer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mark {
    /// `service web`.
    pub section: String,
    /// `idle_timeout`; empty: all of the section.
    pub key: String,
    /// Of its value.
    pub hash: u64,
}

impl Config {
    /// What is different in `next`, in the order of sections and keys.
    pub fn difference(&self, next: &Self) -> Vec<Change> {
        let (before, after) = (listing(self), listing(next));
        let services = |config: &Self| -> BTreeSet<String> {
            let names = config
                .services
                .iter()
                .map(|it| format!("service {}", it.name));
            names.collect()
        };
        let (had, has) = (services(self), services(next));
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let mut changes = Vec::new();
        for at in keys {
            let (old, new) = (before.get(at), after.get(at));
            let value = |it: Option<&super::listing::Setting>| it.map(|it| it.value.clone());
            let (was, is) = (value(old), value(new));
            if was == is {
                continue;
            }
            let restart = [old, new]
                .into_iter()
                .flatten()
                .find_map(|it| match it.reach {
                    Reach::Live => None,
                    Reach::Restart(why) => Some(why),
                });
            // Of two services one is not there.
            let whole = had.contains(&at.0) != has.contains(&at.0);
            let restart = restart.or_else(|| whole.then_some(LISTENERS));
            changes.push(Change {
                section: at.0.clone(),
                key: at.1.clone(),
                old: was,
                new: is,
                restart: restart.map(str::to_owned),
            });
        }
        changes
    }
}

/// The fingerprints of all settings that both nodes should have alike.
pub(super) fn marks(config: &Config) -> Vec<Mark> {
    let all = listing(config)
        .into_iter()
        .filter(|(_, setting)| !setting.own);
    let marks: Vec<Mark> = all
        .map(|((section, key), setting)| Mark {
            section,
            key,
            hash: xxh3_64(setting.value.as_bytes()),
        })
        .collect();
    match marks.len() <= MAX_MARKS {
        true => marks,
        false => coarse(&marks),
    }
}

/// The fingerprint of the whole: of what it means, not of how it is written. A setting of a later
/// version that says nothing new must not be listed, so that two versions agree on one file.
pub(super) fn fingerprint(marks: &[Mark]) -> ConfigHash {
    let mut text = Vec::new();
    for Mark { section, key, hash } in marks {
        for word in [section, key] {
            text.extend(word.as_bytes());
            text.push(0);
        }
        text.extend(hash.to_le_bytes());
    }
    ConfigHash::of(&text)
}

/// One mark for each section.
fn coarse(marks: &[Mark]) -> Vec<Mark> {
    let mut texts: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for mark in marks {
        let text = texts.entry(&mark.section).or_default();
        // What is coarse already stays what it is.
        if !mark.key.is_empty() {
            text.extend(mark.key.as_bytes());
            text.push(0);
        }
        text.extend(mark.hash.to_le_bytes());
    }
    let alone = |text: &[u8]| <[u8; 8]>::try_from(text).map(u64::from_le_bytes);
    let mark = |(section, text): (&str, Vec<u8>)| Mark {
        section: section.to_owned(),
        key: String::new(),
        hash: alone(&text).unwrap_or_else(|_| xxh3_64(&text)),
    };
    texts.into_iter().map(mark).collect()
}

/// What two nodes' configurations differ in, a line for each section: `service web: idle_timeout`.
pub fn differing(ours: &[Mark], theirs: &[Mark]) -> Vec<String> {
    let is_coarse = |marks: &[Mark]| marks.iter().any(|mark| mark.key.is_empty());
    if is_coarse(ours) != is_coarse(theirs) {
        return differing(&coarse(ours), &coarse(theirs));
    }
    let map = |marks: &'_ [Mark]| -> BTreeMap<(String, String), u64> {
        let at = |mark: &Mark| ((mark.section.clone(), mark.key.clone()), mark.hash);
        marks.iter().map(at).collect()
    };
    let (here, there) = (map(ours), map(theirs));
    let sections = |map: &BTreeMap<(String, String), u64>| -> BTreeSet<String> {
        map.keys().map(|(section, _)| section.clone()).collect()
    };
    let (known, told) = (sections(&here), sections(&there));
    let mut lines: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let all: BTreeSet<_> = here.keys().chain(there.keys()).collect();
    for at in all {
        if here.get(at) != there.get(at) {
            lines.entry(&at.0).or_default().push(&at.1);
        }
    }
    let line = |(section, keys): (&str, Vec<&str>)| {
        match (known.contains(section), told.contains(section)) {
            (true, false) => return format!("{section}: only here"),
            (false, true) => return format!("{section}: only the peer has it"),
            _ => {}
        }
        let named: Vec<&str> = keys.iter().take(MAX_KEYS).copied().collect();
        let more = keys.len() - named.len();
        match (named.join(", "), more) {
            (text, _) if text.is_empty() => section.to_owned(),
            (text, 0) => format!("{section}: {text}"),
            (text, more) => format!("{section}: {text} and {more} more"),
        }
    };
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
#[path = "difference_test.rs"]
mod tests;
