//! From bytes to messages and from their contents to frames: no IO, bounded buffers.
//!
//! ```text
//!   stream:    [length u16][message] [length u16][message] ...     message: at most 65,535 bytes
//!   contents:  [length u32][frame ...... ][length u32][frame] ...  frame: at most MAX_FRAME
//! ```
//!
//! A frame may span several messages and a message may hold several frames. All lengths are
//! little endian.

use super::SessionError;
use super::noise::{Cipher, MAX_MESSAGE, TAG};
use crate::wire::codec::{MAX_FRAME, decode_frame, encode_frame};
use crate::wire::replication::Frame;

/// Bytes of a message's length.
pub(super) const MESSAGE_LENGTH: usize = 2;
/// Bytes of a frame's length.
const FRAME_LENGTH: usize = 4;
/// Room for one whole message and the beginning of the next.
const INBOX: usize = 2 * (MESSAGE_LENGTH + MAX_MESSAGE);

/// Appends a frame with its length.
///
/// # Errors
///
/// It is longer than the peer accepts.
pub(super) fn put(frame: &Frame, contents: &mut Vec<u8>) -> Result<(), SessionError> {
    let bytes = encode_frame(frame);
    if bytes.len() > MAX_FRAME {
        let reason = format!("a frame of this node has {} bytes", bytes.len());
        return Err(SessionError::ClosedHere(reason));
    }
    contents.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    contents.extend_from_slice(&bytes);
    Ok(())
}

/// Seals contents in as few messages as possible, appended to `wire`.
pub(super) fn seal(
    cipher: &mut Cipher,
    contents: &[u8],
    wire: &mut Vec<u8>,
) -> Result<(), SessionError> {
    contents
        .chunks(MAX_MESSAGE - TAG)
        .try_for_each(|chunk| cipher.seal(chunk, wire))
}

/// Bytes from the stream, until they are whole messages.
pub(super) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; INBOX].into(),
            start: 0,
            end: 0,
        }
    }

    /// Where to put what comes next. Never empty once `next` has given all messages.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            // Less than one message: `next` gave the whole ones.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put there.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let waiting = &self.buffer[self.start..self.end];
        let (length, rest) = waiting.split_first_chunk::<MESSAGE_LENGTH>()?;
        let length = usize::from(u16::from_le_bytes(*length));
        let message = rest.get(..length)?;
        self.start += MESSAGE_LENGTH + length;
        Some(message)
    }
}

/// Contents of messages, until they are whole frames.
#[derive(Default)]
pub(super) struct Frames {
    contents: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Where to append contents; forgets the frames that were given.
    pub(super) fn contents(&mut self) -> &mut Vec<u8> {
        self.contents.drain(..self.start);
        self.start = 0;
        &mut self.contents
    }

    /// The next whole frame.
    ///
    /// # Errors
    ///
    /// What comes next is not a frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SessionError> {
        let Some(bytes) = self.peek()? else {
            return Ok(None);
        };
        let length = bytes.len();
        let frame = decode_frame(bytes)?;
        self.start += FRAME_LENGTH + length;
        Ok(Some(frame))
    }

    /// The bytes of the next whole frame.
    fn peek(&self) -> Result<Option<&[u8]>, SessionError> {
        let waiting = &self.contents[self.start..];
        let Some((length, rest)) = waiting.split_first_chunk::<FRAME_LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(SessionError::FrameLength(length));
        }
        Ok(rest.get(..length))
    }

    /// [`next`](Self::next) gives a frame or an error.
    pub(super) fn is_due(&self) -> bool {
        !matches!(self.peek(), Ok(None))
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.contents.len() - self.start
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }
}

#[cfg(test)]
#[path = "framing_test.rs"]
mod tests;
