//! What a key file says: one key, or two while one takes the other's place.
//!
//! ```text
//!   64 digits              the key that seals
//!   next 64 digits         one that will seal soon, or
//!   old 64 digits          one that sealed until now: it opens, too
//!   affinity 32 digits     what clients that are remembered are hashed with; left out: it follows from the key
//! ```

use zeroize::Zeroizing;

use super::DIGITS;
use crate::model::Secret;
use crate::net::clock::entropy;

/// What the second key is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// It will seal soon.
    Next,
    /// It sealed until now.
    Old,
}

impl Turn {
    const fn word(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

/// The keys of a file.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// It seals.
    pub first: Secret,
    /// It opens only; none: there is no other.
    pub second: Option<(Turn, Secret)>,
    /// Outlives the key that it followed from, so that clients stay known.
    pub affinity: Option<[u8; 16]>,
}

impl Keyring {
    /// From a file's content; empty lines and comments mean nothing. None: it is no key file.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let mut lines = content
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"));
        let mut ring = Self {
            first: Secret(digits(lines.next()?)?),
            second: None,
            affinity: None,
        };
        for line in lines {
            let space = line.iter().position(|byte| *byte == b' ')?;
            let (word, value) = (&line[..space], line[space..].trim_ascii());
            let turn = [Turn::Next, Turn::Old]
                .into_iter()
                .find(|turn| turn.word().as_bytes() == word);
            match (turn, word) {
                (Some(turn), _) if ring.second.is_none() => {
                    ring.second = Some((turn, Secret(digits(value)?)));
                }
                (None, b"affinity") if ring.affinity.is_none() => {
                    ring.affinity = Some(digits(value)?);
                }
                _ => return None,
            }
        }
        Some(ring)
    }

    /// What a file with these keys holds.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(512));
        text.push_str("# Tandem's cluster key: the same on both nodes, secret to everyone else.\n");
        put(&mut text, "", &self.first.0);
        if let Some((turn, secret)) = &self.second {
            put(&mut text, turn.word(), &secret.0);
        }
        if let Some(affinity) = &self.affinity {
            put(&mut text, "affinity", affinity);
        }
        text
    }

    /// The next key seals, and the one that sealed is old.
    #[must_use]
    pub fn swapped(&self) -> Self {
        let Some((_, second)) = &self.second else {
            return self.clone();
        };
        Self {
            first: second.clone(),
            second: Some((Turn::Old, self.first.clone())),
            affinity: self.affinity,
        }
    }

    /// Without the second key.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self {
            second: None,
            ..self.clone()
        }
    }
}

/// A new key.
pub fn fresh() -> Secret {
    Secret(entropy())
}

fn put(text: &mut String, word: &str, bytes: &[u8]) {
    text.push_str(word);
    if !word.is_empty() {
        text.push(' ');
    }
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(half)]));
        }
    }
    text.push('\n');
}

fn digits<const N: usize>(line: &[u8]) -> Option<[u8; N]> {
    if line.len() != 2 * N {
        return None;
    }
    debug_assert!(2 * N <= DIGITS);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(line.chunks_exact(2)) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_has_three_files() {
        let ring = Keyring {
            first: Secret([1; 32]),
            second: Some((Turn::Next, Secret([2; 32]))),
            affinity: Some([3; 16]),
        };
        let steps = [ring.clone(), ring.swapped(), ring.swapped().alone()];
        let firsts = steps.each_ref().map(|step| step.first.0[0]);
        assert_eq!(firsts, [1, 2, 2]);
        for step in steps {
            let read = Keyring::parse(step.text().as_bytes()).expect("it is a key file");
            assert_eq!(read.text(), step.text());
        }
        let text = ring.swapped().text();
        assert!(text.contains(&format!(
            "\nold {}\naffinity {}\n",
            "01".repeat(32),
            "03".repeat(16)
        )));
    }

    #[test]
    fn what_is_no_key_file_is_none() {
        let (key, half) = ("0f".repeat(32), "0f".repeat(16));
        let good = format!("{key}\n# c\nnext {key}\naffinity {half}\n");
        assert!(Keyring::parse(good.as_bytes()).is_some());
        for bad in [
            String::new(),
            half.clone(),
            format!("next {key}"),
            format!("{key}\n{key}"),
            format!("{key}\nnext {half}"),
            format!("{key}\nnext {key}\nold {key}"),
            format!("{key}\naffinity {key}"),
            format!("{key}\nlast {key}"),
        ] {
            assert!(Keyring::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
