//! HAProxy's agent protocol: one line of text with which a program beside a backend says how it is.
//!
//! The words and their meaning: HAProxy's configuration manual, `agent-check`. Words are divided by
//! blanks and commas, upper and lower case are the same, and `#` begins a remark.

use serde::{Deserialize, Serialize};

/// Longest line that is looked at, in bytes.
pub const MAX_LINE: usize = 512;
/// Largest share of the configured weight, in percent.
pub const MAX_PERCENT: u16 = 256;
/// Longest remark that is kept, in characters.
const MAX_REMARK: usize = 80;

/// What an agent said. What it did not speak of stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// Share of the configured weight, in percent, 0 to 256. 0: no new connections.
    pub percent: Option<u16>,
    /// What it wants done with the backend.
    pub admin: Option<Admin>,
    /// Whether it works: `up`; or `down`, `fail`, `failed`, `stopped`.
    pub works: Option<bool>,
    /// Its words and its remark, fit to print.
    pub words: String,
}

/// What an agent wants done with its backend.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Admin {
    /// No new connections.
    Drain,
    /// None at all.
    Maint,
    /// The usual.
    #[default]
    Ready,
}

/// Reads an agent's line, up to its end or to the end of what came.
///
/// # Errors
///
/// The first word that means nothing, or that there is none; fit to print.
pub fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    let line = bytes.split(|byte| b"\r\n\0".contains(byte)).next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let (said, remark) = line.split_once('#').unwrap_or((&line, ""));
    let mut answer = Answer::default();
    let mut words = Vec::new();
    for word in said.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
        let word = word.to_ascii_lowercase();
        match word.as_str() {
            "up" => answer.works = Some(true),
            "down" | "fail" | "failed" | "stopped" => answer.works = Some(false),
            "drain" => answer.admin = Some(Admin::Drain),
            "maint" => answer.admin = Some(Admin::Maint),
            "ready" => answer.admin = Some(Admin::Ready),
            // Limits of connections are not taken from an agent.
            _ if word.starts_with("maxconn:") => continue,
            _ => answer.percent = Some(percent(&word).ok_or_else(|| unknown(&word))?),
        }
        words.push(word);
    }
    if words.is_empty() {
        return Err("the agent said nothing".into());
    }
    answer.words = words.join(" ");
    let remark = printable(remark.trim());
    if !remark.is_empty() {
        answer.words += &format!(" ({remark})");
    }
    Ok(answer)
}

fn percent(word: &str) -> Option<u16> {
    let percent = word.strip_suffix('%')?.parse::<u16>().ok()?;
    (percent <= MAX_PERCENT).then_some(percent)
}

fn unknown(word: &str) -> String {
    format!(
        "the agent said \"{}\", which means nothing",
        printable(word)
    )
}

fn printable(text: &str) -> String {
    let start: String = text.chars().take(MAX_REMARK).collect();
    start.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_and_their_meaning() {
        for (line, percent, admin, works, words) in [
            ("75%\n", Some(75), None, None, "75%"),
            ("0%", Some(0), None, None, "0%"),
            ("up 100%\r\n", Some(100), None, Some(true), "up 100%"),
            (
                "READY,UP\n",
                None,
                Some(Admin::Ready),
                Some(true),
                "ready up",
            ),
            ("drain\n", None, Some(Admin::Drain), None, "drain"),
            ("maint", None, Some(Admin::Maint), None, "maint"),
            (
                "down #disk\u{7} full\n",
                None,
                None,
                Some(false),
                "down (disk\\u{7} full)",
            ),
            ("stopped\n up", None, None, Some(false), "stopped"),
            ("failed maxconn:30", None, None, Some(false), "failed"),
            ("fail", None, None, Some(false), "fail"),
            ("256%", Some(256), None, None, "256%"),
        ] {
            let words = words.to_owned();
            let expected = Answer {
                percent,
                admin,
                works,
                words,
            };
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line:?}");
        }
        for (line, why) in [
            ("", "the agent said nothing"),
            ("\nup\n", "the agent said nothing"),
            ("# no word", "the agent said nothing"),
            ("75", "the agent said \"75\", which means nothing"),
            ("257%", "the agent said \"257%\", which means nothing"),
            ("-1%", "the agent said \"-1%\", which means nothing"),
            (
                "up http/1.1",
                "the agent said \"http/1.1\", which means nothing",
            ),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(why.into()), "{line:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_comes_is_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
            let said = parse(&bytes).map_or_else(|error| error, |answer| answer.words);
            prop_assert!(said.chars().all(|c| !c.is_control()));
            prop_assert!(said.len() < 3_000);
        }
    }
}
