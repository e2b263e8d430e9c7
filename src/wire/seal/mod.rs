//! Authenticated encryption of heartbeats, and the keys of both channels.
//!
//! Owns: key derivation, the datagram's header, the knock, the replay window, which life of the peer
//! is the present one. Never: decides whether a life is present; its caller does, and calls
//! [`Opener::confirm`]. Never sends, never reads a clock.
//!
//! Primitives: ChaCha20-Poly1305 (RFC 8439) and HKDF-SHA256 (RFC 5869), both from ring.
//! `docs/protocol.md` describes the bytes.
//!
//! # Keys and nonces
//!
//! Each life of a node seals with a key of its own, `HKDF(salt = incarnation, ikm = cluster key,
//! info = "tandem heartbeat v1" | cluster name | sender)`. The incarnation is 128 random bits, so
//! no two lives share a key, and a counter that starts at 1 in each life can serve as the nonce.
//! A counter that reached its end seals nothing more; it never wraps, and does not begin anew with
//! another cluster key. The sender is bound into
//! the key, so a node's own datagram, sent back to it, does not open.
//!
//! # Lives
//!
//! The opener pins one *current* life. An authentic datagram of any other life is only a
//! *candidate*: an attacker without the key can make none, but he can replay those that he
//! recorded from a life that ended. So a candidate proves nothing until the caller confirms it,
//! because its heartbeat says something that only a node that lives now can know.
//!
//! **What the caller must check before it confirms:** the heartbeat names *our* present
//! incarnation (`hears`), and it echoes a time stamp of ours (`echo.sent_at`) from *after* the
//! moment at which the current life was last heard. The first alone is not enough: an attacker in
//! the path can withhold a datagram in which a life that we never confirmed already names us, and
//! deliver it after that life has ended; confirming it would retire the true peer. The second
//! stops this: a life that ended before the current one began cannot echo a time stamp from after
//! the current one was heard.
//!
//! Consequences, each of them wanted:
//!
//! * There is one candidate slot, and any authentic other life takes it. A replayed dead life can
//!   push a live candidate out, and lose its place again to that one's next datagram. Nothing is
//!   lost, because a candidate's datagram is judged alone, at the moment it is opened.
//! * An evicted candidate's replay window is forgotten, so its datagrams can be opened again, as a
//!   candidate's: harmless, since unconfirmed datagrams move nothing.
//! * On promotion the window stays and gets a floor: whatever has a counter at or below the
//!   highest one opened so far is a replay, also if it was never opened, because a forgotten
//!   window may have opened it before.
//! * The life that was current is retired and never opens again. The last [`RETIRED`] are
//!   remembered. A life that fell out of that memory can become a candidate again, and then needs
//!   the caller's proof like any other, which the dead cannot give.
//!
//! # Cost of garbage
//!
//! Size, magic, sender and [`Knock`] are compared first; the kernel compares magic and knock before
//! (`net::heartbeat`). A datagram that passes and names an unknown life costs one key derivation and
//! one Poly1305. Nothing is kept for it and nothing is allocated.

mod knock;
mod lives;
mod window;

pub use knock::{KNOCK, Knock};
pub use lives::{OpenError, Opened, Opener, RETIRED};
pub use window::WINDOW;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::model::{Incarnation, NodeId, Secret};

/// First bytes of every datagram; the digit is the version of this layout.
pub const MAGIC: [u8; 4] = *b"TDM2";
/// Magic, knock, sender, incarnation, counter.
pub const HEADER: usize = 4 + KNOCK + 1 + 16 + 8;
/// Poly1305's tag.
pub const TAG: usize = 16;
/// Longest datagram, in bytes; fits any path's MTU (RFC 791: 576, RFC 8200: 1,280).
pub const MAX_DATAGRAM: usize = 512;
/// Longest content, in bytes.
pub const MAX_PLAIN: usize = MAX_DATAGRAM - HEADER - TAG;

/// Seals this life's heartbeats.
pub struct Sealer {
    key: LessSafeKey,
    knock: Knock,
    cluster: String,
    sender: NodeId,
    incarnation: Incarnation,
    /// The next datagram's; `None` once all are used.
    pub(super) counter: Option<u64>,
}

impl Sealer {
    /// A sealer for one life. Two sealers with the same arguments would use a nonce twice: make
    /// one a life.
    pub fn new(secret: &Secret, cluster: &str, sender: NodeId, incarnation: Incarnation) -> Self {
        Self {
            key: heartbeat_key(secret, cluster, sender, incarnation),
            knock: Knock::new(secret, cluster, sender),
            cluster: cluster.to_owned(),
            sender,
            incarnation,
            counter: Some(1),
        }
    }

    /// Seals with what follows from this key from now on. The counter goes on, so that no key of this
    /// life meets a number twice, also if it comes back.
    pub fn rekey(&mut self, secret: &Secret) {
        self.key = heartbeat_key(secret, &self.cluster, self.sender, self.incarnation);
        self.knock = Knock::new(secret, &self.cluster, self.sender);
    }

    /// A datagram with this content.
    ///
    /// Empty, and not to be sent, if the content is longer than [`MAX_PLAIN`] or the counter is
    /// used up (2^64 - 1 datagrams in one life).
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let Some(counter) = self.counter else {
            return Vec::new();
        };
        if plain.len() > MAX_PLAIN {
            return Vec::new();
        }
        self.counter = counter.checked_add(1);
        let header = Header {
            knock: self.knock,
            sender: self.sender.index() as u8,
            incarnation: self.incarnation,
            counter,
        }
        .encode();
        let mut datagram = Vec::with_capacity(HEADER + plain.len() + TAG);
        datagram.extend_from_slice(&header);
        datagram.extend_from_slice(plain);
        let sealed = self.key.seal_in_place_separate_tag(
            nonce(counter),
            Aad::from(header),
            &mut datagram[HEADER..],
        );
        match sealed {
            Ok(tag) => {
                datagram.extend_from_slice(tag.as_ref());
                datagram
            }
            // Only for content of 256 GiB, which MAX_PLAIN excludes.
            Err(ring::error::Unspecified) => Vec::new(),
        }
    }
}

/// What stands in clear before the content. It is authenticated with it.
#[derive(Clone, Copy)]
struct Header {
    knock: Knock,
    sender: u8,
    incarnation: Incarnation,
    counter: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..12].copy_from_slice(&self.knock.0);
        bytes[12] = self.sender;
        bytes[13..29].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[29..].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }

    /// The header, if the magic is ours.
    fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (knock, rest) = rest.split_first_chunk::<KNOCK>()?;
        let (&sender, rest) = rest.split_first()?;
        let (incarnation, rest) = rest.split_first_chunk::<16>()?;
        let (counter, _) = rest.split_first_chunk::<8>()?;
        (*magic == MAGIC).then_some(Self {
            knock: Knock(*knock),
            sender,
            incarnation: Incarnation(u128::from_le_bytes(*incarnation)),
            counter: u64::from_le_bytes(*counter),
        })
    }
}

/// The pre-shared key of the replication session's handshake. Bound to the cluster, and never
/// equal to a heartbeat key.
pub fn session_psk(secret: &Secret, cluster: &str) -> Secret {
    let mut psk = Secret([0; 32]);
    Salt::new(HKDF_SHA256, &[])
        .extract(&secret.0)
        .expand(&[b"tandem session v1", cluster.as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut psk.0))
        .expect("HKDF gives 32 bytes (RFC 5869: up to 255 x 32)");
    psk
}

/// The key with which clients that are remembered are hashed (`balance::stick`). The same on both nodes and
/// in every life, and known to nobody who does not have the cluster's key: addresses and names are too
/// few to be hidden by a hash that anybody can compute.
pub fn stick_key(secret: &Secret, cluster: &str) -> [u8; 16] {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, &[])
        .extract(&secret.0)
        .expand(&[b"tandem affinity v1", cluster.as_bytes()], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("HKDF gives 32 bytes (RFC 5869: up to 255 x 32)");
    *key.first_chunk().expect("16 of 32")
}

fn heartbeat_key(
    secret: &Secret,
    cluster: &str,
    sender: NodeId,
    incarnation: Incarnation,
) -> LessSafeKey {
    let mut key = Zeroizing::new([0_u8; 32]);
    // The parts around the name have fixed lengths, so no two inputs give the same string.
    let info: [&[u8]; 3] = [
        b"tandem heartbeat v1",
        cluster.as_bytes(),
        &[sender.index() as u8],
    ];
    Salt::new(HKDF_SHA256, &incarnation.0.to_le_bytes())
        .extract(&secret.0)
        .expand(&info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *key))
        .expect("HKDF gives 32 bytes (RFC 5869: up to 255 x 32)");
    let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("the key has 32 bytes");
    LessSafeKey::new(key)
}

/// RFC 8439, 2.8: 96 bits; four zero bytes, then the counter.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
