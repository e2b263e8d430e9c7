//! Bytes of the messages between the nodes: bounded, versioned, and never a panic.
//!
//! A message is the protocol version (two bytes, little endian), a type byte, and the body in
//! bincode's standard layout (little endian, variable-length integers). The body is not
//! self-describing, so any change of a shape must raise [`PROTOCOL`]; the golden vectors below
//! notice a change that forgot it. This is the only module that names bincode
//! (`docs/decisions/0002-bincode.md`).
//!
//! What a decoder may allocate is bounded before it is asked for: the input by [`MAX_HEARTBEAT`]
//! or [`MAX_FRAME`], a list by `MAX_BATCH` (the shapes refuse a longer one before its first
//! item), and everything that bincode reads by its own limit. Without that limit a ten-byte
//! message that claims a huge list would end the process.

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::heartbeat::Heartbeat;
use crate::wire::replication::{Frame, PROTOCOL, TOO_MANY_ITEMS};

/// Longest encoded heartbeat, in bytes. The longest possible one has 107.
pub const MAX_HEARTBEAT: usize = 256;
/// Longest encoded frame, in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;
/// Version and type byte.
const PREFIX: usize = 3;
/// Type byte of a heartbeat.
const HEARTBEAT: u8 = 1;
/// Type byte of a session frame.
const FRAME: u8 = 2;

type Bounded<const N: usize> = Configuration<LittleEndian, Varint, Limit<N>>;

/// Why bytes are not a message. The caller drops them (heartbeat) or the session (frame).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A list has more than `MAX_BATCH` items.
    #[error("a list has too many items")]
    Items,
    /// Another message type than the one expected here.
    #[error("message type {found} is not expected here")]
    Kind {
        /// The type byte.
        found: u8,
    },
    /// A value that the shape does not have.
    #[error("not a valid message: {0}")]
    Shape(String),
    /// More bytes than a message may have.
    #[error("message has {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Bytes are left after the message.
    #[error("{bytes} bytes are left after the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The message ends too early.
    #[error("message is cut short")]
    Truncated,
    /// The peer runs another protocol version.
    #[error("peer speaks protocol version {found}, this node {PROTOCOL}")]
    Version {
        /// The peer's.
        found: u16,
    },
}

/// The bytes of a heartbeat, at most [`MAX_HEARTBEAT`].
pub fn encode_heartbeat(heartbeat: &Heartbeat) -> Vec<u8> {
    encode(HEARTBEAT, heartbeat)
}

/// The heartbeat in these bytes.
///
/// # Errors
///
/// Anything that is not exactly one heartbeat of this protocol version.
pub fn decode_heartbeat(bytes: &[u8]) -> Result<Heartbeat, DecodeError> {
    decode::<_, MAX_HEARTBEAT>(HEARTBEAT, bytes)
}

/// The bytes of a session frame. The caller keeps lists within `MAX_BATCH`; the peer refuses
/// longer ones.
pub fn encode_frame(frame: &Frame) -> Vec<u8> {
    encode(FRAME, frame)
}

/// The session frame in these bytes.
///
/// # Errors
///
/// Anything that is not exactly one frame of this protocol version.
pub fn decode_frame(bytes: &[u8]) -> Result<Frame, DecodeError> {
    decode::<_, MAX_FRAME>(FRAME, bytes)
}

fn encode<T: Serialize>(kind: u8, body: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
    bytes.push(kind);
    bincode::serde::encode_into_std_write(body, &mut bytes, standard())
        .expect("the shapes hold nothing that bincode cannot write, and a Vec takes every write");
    bytes
}

fn decode<T: DeserializeOwned, const N: usize>(kind: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > N {
        return Err(DecodeError::TooLong {
            bytes: bytes.len(),
            limit: N,
        });
    }
    let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(DecodeError::Truncated);
    };
    let [low, high, found_kind] = *prefix;
    let version = u16::from_le_bytes([low, high]);
    if version != PROTOCOL {
        return Err(DecodeError::Version { found: version });
    }
    if found_kind != kind {
        return Err(DecodeError::Kind { found: found_kind });
    }
    let config: Bounded<N> = standard().with_limit::<N>();
    let (value, used) =
        bincode::serde::decode_from_slice(body, config).map_err(|error| because(error, N))?;
    match body.len() - used {
        0 => Ok(value),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}

fn because(error: bincode::error::DecodeError, limit: usize) -> DecodeError {
    use bincode::error::DecodeError as Bincode;
    match error {
        Bincode::UnexpectedEnd { .. } => DecodeError::Truncated,
        Bincode::LimitExceeded => DecodeError::TooLong {
            bytes: limit.saturating_add(1),
            limit,
        },
        Bincode::OtherString(text) if text == TOO_MANY_ITEMS => DecodeError::Items,
        Bincode::OtherString(text) => DecodeError::Shape(text),
        other => DecodeError::Shape(other.to_string()),
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
