//! What the threads of two nodes that change their files say to each other, over the session: a
//! configuration that is pushed, keys that take each other's place.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a file in one piece at most.
pub const PIECE: usize = 64 << 10;
/// Bytes of a file that is pushed at most.
pub const MAX_PUSH: usize = 1 << 20;

/// A word between the two threads. `job` is a number of the node that asks, by which it knows the
/// answer; after a `Forget`, or the end of the session, nothing of it is left with the peer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Parcel {
    /// A piece of a configuration's file. The last one is answered: whether the peer could take it all.
    Piece {
        /// Whose.
        job: u64,
        /// At most [`PIECE`].
        bytes: Vec<u8>,
        /// The file is whole.
        last: bool,
    },
    /// Write the file and go by it. Answered when that is done.
    Take {
        /// Whose.
        job: u64,
    },
    /// It is not wanted any more. Not answered.
    Forget {
        /// Whose.
        job: u64,
    },
    /// Write this key file and go by it. Answered when that is done.
    Keys {
        /// Whose.
        job: u64,
        /// What the file is to hold.
        file: Hidden,
    },
    /// The answer.
    Answer {
        /// Whose.
        job: u64,
        /// Why not; none: so it is.
        fault: Option<String>,
    },
}

/// A text that is never printed, and wiped from memory when it is dropped.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize, Zeroize, ZeroizeOnDrop)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec::{decode_frame, encode_frame};
    use crate::wire::replication::Frame;

    #[test]
    fn the_bytes_of_each_parcel_are_these_until_the_protocol_version_rises() {
        let job = 7;
        let file = Hidden("k".into());
        let fault = Some("n".into());
        for (parcel, bytes) in [
            (Parcel::Take { job }, &[1, 7][..]),
            (Parcel::Forget { job }, &[2, 7]),
            (Parcel::Keys { job, file }, &[3, 7, 1, b'k']),
            (Parcel::Answer { job, fault }, &[4, 7, 1, 1, b'n']),
        ] {
            let frame = Frame::Parcel(parcel);
            let encoded = encode_frame(&frame);
            assert_eq!(encoded, [&[6, 0, 2, 12], bytes].concat());
            assert_eq!(decode_frame(&encoded), Ok(frame));
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let file = Hidden("secret".into());
        let shown = format!("{:?}", Parcel::Keys { job: 1, file });
        assert_eq!(shown, "Keys { job: 1, file: Hidden(..) }");
    }
}
