//! `[service.affinity]`

use std::time::Duration;

use toml::de::DeValue;

use super::service::at;
use super::{MINUTE, WEEK, s};
use crate::config::StickFallback;
use crate::config::read::Section;
use crate::config::report::{At, Field};
use crate::config::units::{Fault, Read, boolean, duration, number, shown, string, word};

/// Most entries of one service.
const MAX_SIZE: u32 = 1_000_000;
/// Longest name of a cookie.
const MAX_COOKIE: usize = 128;

const BYS: &[(&str, By)] = &[
    ("source", By::Source),
    ("session_id", By::SessionId),
    ("sni", By::Sni),
    ("rdp_cookie", By::RdpCookie),
    ("cookie", By::Cookie),
];
const FALLBACKS: &[(&str, StickFallback)] = &[
    ("reassign", StickFallback::Reassign),
    ("refuse", StickFallback::Refuse),
];

/// What a client is recognised by, without what belongs to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::config) enum By {
    Source,
    SessionId,
    Sni,
    RdpCookie,
    Cookie,
}

impl By {
    /// As it is written.
    pub(in crate::config) fn word(self) -> &'static str {
        let known = BYS.iter().find(|(_, by)| *by == self);
        known.map_or("", |(word, _)| word)
    }
}

/// `[service.affinity]`. None: not written.
pub(in crate::config) struct Affinity {
    pub(in crate::config) by: Field<By>,
    pub(in crate::config) cookie: Option<Field<String>>,
    pub(in crate::config) prefix4: Option<Field<u8>>,
    pub(in crate::config) prefix6: Option<Field<u8>>,
    pub(in crate::config) table: Field<bool>,
    pub(in crate::config) size: Option<Field<u32>>,
    pub(in crate::config) ttl: Option<Field<Duration>>,
    pub(in crate::config) fallback: Option<Field<StickFallback>>,
    pub(in crate::config) at: At,
}

impl Affinity {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            by: section.required("by", r#""source""#, word(BYS)),
            cookie: section.optional("cookie", cookie),
            prefix4: section.optional("prefix4", number(1..=32)),
            prefix6: section.optional("prefix6", number(1..=128)),
            table: section.or("table", true, boolean),
            size: section.optional("size", number(1..=MAX_SIZE)),
            ttl: section.optional("ttl", duration(s(1)..=WEEK)),
            fallback: section.optional("fallback", word(FALLBACKS)),
            at: section.at(),
        }
    }

    /// What is written of the keys that only a table has.
    pub(in crate::config) fn of_table(&self) -> impl Iterator<Item = (&'static str, At)> {
        let written = [
            ("size", at(&self.size)),
            ("ttl", at(&self.ttl)),
            ("fallback", at(&self.fallback)),
        ];
        written.into_iter().filter_map(|(key, at)| Some((key, at?)))
    }

    /// What is written of the keys that belong to one `by`.
    pub(in crate::config) fn of_by(&self) -> impl Iterator<Item = (&'static str, At, By)> {
        let written = [
            ("cookie", at(&self.cookie), By::Cookie),
            ("prefix4", at(&self.prefix4), By::Source),
            ("prefix6", at(&self.prefix6), By::Source),
        ];
        written
            .into_iter()
            .filter_map(|(key, at, by)| Some((key, at?, by)))
    }
}

/// How long entries live by default.
pub(in crate::config) const TTL: Duration = MINUTE.saturating_mul(30);

/// A token (RFC 6265, 4.1.1).
fn cookie(value: &DeValue<'_>) -> Read<String> {
    let text = string(value, "SESSION")?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=MAX_COOKIE).contains(&text.len()) && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    let what = format!("`{}` is no name of a cookie", shown(text));
    Err(Fault::new(
        what,
        "write the name alone, like \"SESSION\", without value",
    ))
}
