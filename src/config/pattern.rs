//! Regular expressions of the configuration: over bytes, in linear time, of bounded size.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub(super) const MAX_PATTERN: usize = 1_024;
/// Largest compiled form, in bytes: repetitions of repetitions are refused, not built.
const MAX_COMPILED: usize = 256 << 10;

/// A regular expression; ASCII classes, `.` is any byte but a new line.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .build();
        built.map(Self).map_err(|error| {
            // The library draws the place over several lines; the last one says what it is.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").trim().to_owned()
        })
    }

    /// Where the first match ends.
    pub fn find_end(&self, bytes: &[u8]) -> Option<usize> {
        self.0.find(bytes).map(|found| found.end())
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}
