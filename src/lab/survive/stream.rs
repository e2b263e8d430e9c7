//! Long streams whose every byte is known: what is sent, and whether that is what came.
//!
//! The n-th byte of a stream follows from its number and n. A byte that is in no stream ends it,
//! and the length follows, so that a stream that was cut is never taken for a whole one.

use std::sync::LazyLock;

use crate::lab::backend::pattern;

/// Period of [`pattern`], whose bytes are all smaller.
const PERIOD: u64 = 251;
/// Begins the end of a stream.
const END: u8 = 0xff;
/// It and the length.
const END_BYTES: usize = 9;
/// Most bytes that [`slice`] gives.
pub(super) const MOST: usize = 64 * 1024;

static BLOCK: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..PERIOD + MOST as u64).map(pattern).collect());

/// So many bytes of this stream, from this place on; at most [`MOST`].
pub(super) fn slice(stream: usize, from: u64, count: usize) -> &'static [u8] {
    // Neighbours differ, so that bytes of another stream show.
    let start = ((from + 37 * stream as u64) % PERIOD) as usize;
    &BLOCK[start..start + count.min(MOST)]
}

/// The end of a stream of this length.
pub(super) fn end(length: u64) -> [u8; END_BYTES] {
    let mut end = [END; END_BYTES];
    end[1..].copy_from_slice(&length.to_be_bytes());
    end
}

/// Looks at a stream as it comes.
#[derive(Debug)]
pub(super) struct Check {
    stream: usize,
    /// Bytes so far, without the end.
    pub(super) length: u64,
    /// Bytes that are not what was sent.
    pub(super) wrong: u64,
    end: Vec<u8>,
}

impl Check {
    pub(super) const fn new(stream: usize) -> Self {
        Self {
            stream,
            length: 0,
            wrong: 0,
            end: Vec::new(),
        }
    }

    /// More of it came; at most [`MOST`] bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let expected = slice(self.stream, self.length, bytes.len());
        if self.end.is_empty() && bytes == expected {
            self.length += bytes.len() as u64;
            return;
        }
        for byte in bytes {
            if !self.end.is_empty() || *byte == END {
                self.end.push(*byte);
            } else {
                self.wrong += u64::from(*byte != slice(self.stream, self.length, 1)[0]);
                self.length += 1;
            }
        }
        // What follows the end belongs to no stream.
        self.wrong += self.end.len().saturating_sub(END_BYTES) as u64;
        self.end.truncate(END_BYTES);
    }

    /// Whether its end has come.
    pub(super) const fn has_ended(&self) -> bool {
        self.end.len() == END_BYTES
    }

    /// Whether all of it came, and nothing else.
    pub(super) fn is_whole(&self) -> bool {
        self.wrong == 0 && self.end == end(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many reads see it.
    fn check(stream: usize, bytes: &[u8], part: usize) -> Check {
        let mut check = Check::new(stream);
        for bytes in bytes.chunks(part) {
            check.take(bytes);
        }
        check
    }

    fn whole(stream: usize, length: usize) -> Vec<u8> {
        [slice(stream, 0, length), &end(length as u64)].concat()
    }

    #[test]
    fn a_whole_stream_is_whole_however_it_is_cut_into_reads() {
        let bytes = whole(7, 10_000);
        for part in [1, 3, 9, 250, 251, 4_096, 20_000] {
            let check = check(7, &bytes, part);
            assert!(check.is_whole() && check.has_ended(), "{part}");
            assert_eq!(check.length, 10_000);
        }
        assert!(check(7, &end(0), 9).is_whole(), "an empty one");
    }

    #[test]
    fn each_fault_of_a_stream_shows() {
        let good = whole(7, 10_000);
        let cut = check(7, &good[..good.len() - 1], 1_000);
        assert!(!cut.has_ended() && !cut.is_whole(), "the end is cut");
        assert!(!check(7, &good[..5_000], 1_000).has_ended(), "half of it");
        assert!(check(8, &good, 1_000).wrong > 9_000, "another stream");

        let mut flipped = good.clone();
        flipped[4_321] ^= 1;
        assert_eq!(check(7, &flipped, 1_000).wrong, 1);
        let hole = [&good[..3_000], &good[3_001..]].concat();
        assert!(!check(7, &hole, 1_000).is_whole(), "a byte is missing");
        // A hole of the pattern's period shows in the length alone.
        let hole = [&good[..3_000], &good[3_251..]].concat();
        let check = check(7, &hole, 1_000);
        assert!(check.wrong == 0 && !check.is_whole());
        let more = [&good[..], b"x"].concat();
        assert!(
            !self::check(7, &more, 1_000).is_whole(),
            "something follows"
        );
    }
}
