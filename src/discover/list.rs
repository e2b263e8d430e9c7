//! A file of backends, written by somebody else: JSON or TOML of one shape.
//!
//! Strict: what is not understood is refused with its place, and nothing changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::Deserialize;

use super::source::Entry;
use crate::config::unusable;

/// Most bytes of such a file.
pub const MAX_BYTES: u64 = 1 << 20;
/// Longest name of a backend, in bytes, as in the configuration.
const MAX_NAME: usize = 64;

/// How the file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

/// What is wrong in a file of backends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// Line and column, from 1; none: what is wrong has no single place.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{line}:{column}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    backend: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<Name>,
    address: Address,
    weight: Option<Share>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(good) {
            return Ok(Self(text));
        }
        Err(format!(
            "a name has 1 to {MAX_NAME} of A-Z, a-z, 0-9, `.`, `_`, `-`"
        ))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Address(SocketAddr);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let remedy = "an address is an IP address and a port, like \"192.0.2.1:80\"";
        let address: SocketAddr = text.parse().map_err(|_| remedy.to_owned())?;
        if let Some(why) = unusable(address.ip()) {
            return Err(format!("{} {why}", address.ip()));
        }
        match address.port() {
            0 => Err(remedy.to_owned()),
            _ => Ok(Self(address)),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "i64")]
struct Share(u16);

impl TryFrom<i64> for Share {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let share = u16::try_from(number).ok();
        let share = share.filter(|share| (1..=256).contains(share));
        share
            .map(Self)
            .ok_or_else(|| "a weight is a whole number from 1 to 256".to_owned())
    }
}

/// The backends of a file.
///
/// # Errors
///
/// What is wrong first.
pub fn parse(
    text: &str,
    format: Format,
    weight: u16,
    most: u16,
) -> Result<BTreeMap<SocketAddr, Entry>, Mistake> {
    let file: File = match format {
        Format::Json => serde_json::from_str(text).map_err(|error| {
            let what = error.to_string();
            // It ends with the place, which is said in another way here.
            let what = what
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned();
            let place = (error.line() > 0).then(|| (error.line(), error.column().max(1)));
            Mistake { place, what }
        })?,
        Format::Toml => toml::from_str(text).map_err(|error| Mistake {
            place: error.span().map(|span| place(text, span.start)),
            what: error.message().to_owned(),
        })?,
    };
    let whole = |what: String| Mistake { place: None, what };
    if file.backend.len() > usize::from(most) {
        let count = file.backend.len();
        return Err(whole(format!(
            "{count} backends; `max_backends` allows {most}"
        )));
    }
    let mut places = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (n, written) in file.backend.into_iter().enumerate() {
        let address = written.address.0;
        if let Some(first) = places.insert(address, n) {
            return Err(whole(format!(
                "backend[{n}]: {address} is already backend[{first}]"
            )));
        }
        let name = written.name.map(|name| name.0);
        if let Some(name) = &name
            && let Some(first) = names.insert(name.clone(), n)
        {
            return Err(whole(format!(
                "backend[{n}]: {name} is already backend[{first}]"
            )));
        }
        let weight = written.weight.map_or(weight, |share| share.0);
        entries.insert(address, Entry { name, weight });
    }
    Ok(entries)
}

/// Line and column of this byte, from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}
