//! Names of hosts, and patterns of them.

/// Longest name (RFC 1035, 2.3.4, in its written form).
pub const MAX_NAME: usize = 253;

/// A host's name or address as a client wrote it, in the form of one: letters, digits, `-`, `_`,
/// `.`, or an address in brackets. Compared without regard to case; one dot at the end means
/// nothing.
#[derive(Clone, Copy, Debug)]
pub struct Name<'b>(&'b str);

impl<'b> Name<'b> {
    /// The name in these bytes; none: they have not the form of one.
    pub fn of(bytes: &'b [u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let text = text.strip_suffix('.').unwrap_or(text);
        let inner = match text.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None => text,
        };
        let bracketed = inner.len() < text.len();
        let good = |byte: u8| match byte {
            b':' => bracketed,
            _ => byte.is_ascii_alphanumeric() || b"-_.".contains(&byte),
        };
        let fits = (1..=MAX_NAME).contains(&inner.len()) && inner.bytes().all(good);
        let labels = bracketed || inner.split('.').all(|label| !label.is_empty());
        (fits && labels).then_some(Self(text))
    }

    /// As the client wrote it, without a dot at the end.
    pub const fn as_str(self) -> &'b str {
        self.0
    }

    /// Whether it is one of these: the name itself, or with `*.example.com` a name below it, however
    /// deep. The pattern is in lower case.
    pub fn matches(self, pattern: &str) -> bool {
        let Some(below) = pattern.strip_prefix('*') else {
            return self.0.eq_ignore_ascii_case(pattern);
        };
        let Some(head) = self.0.len().checked_sub(below.len()) else {
            return false;
        };
        head > 0 && self.0.as_bytes()[head..].eq_ignore_ascii_case(below.as_bytes())
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}
