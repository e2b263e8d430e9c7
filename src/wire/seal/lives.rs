//! Opening datagrams: which life sent it, was it opened before.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use ring::aead::{Aad, LessSafeKey};

use super::window::Window;
use super::{HEADER, Header, Knock, MAX_DATAGRAM, TAG, heartbeat_key, nonce};
use crate::model::{Incarnation, NodeId, Secret};

/// Retired lives that are remembered; the oldest is forgotten first.
pub const RETIRED: usize = 1_024;

/// An authentic datagram that was not opened before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opened {
    /// From the current life.
    Current {
        /// Orders the datagrams of one life, over all paths.
        counter: u64,
        /// The content.
        plain: Vec<u8>,
    },
    /// From another life, which has not proved that it is present (see the module's text).
    Candidate {
        /// The life.
        incarnation: Incarnation,
        /// Orders the datagrams of one life, over all paths.
        counter: u64,
        /// The content.
        plain: Vec<u8>,
        /// It is the newest of its life since that life took the candidate's place.
        newest: bool,
    },
}

/// Why a datagram was not opened. The caller drops it and counts it by kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// Not one of ours: size, magic or sender.
    #[error("not a heartbeat of the peer")]
    Foreign,
    /// Knock or authentication is wrong: another key, another cluster, or damaged.
    #[error("authentication failed")]
    Forged,
    /// Authentic, but opened before or too far behind to know.
    #[error("replayed")]
    Replayed,
    /// It names a life that was followed by another one. Not authenticated.
    #[error("from a life that ended")]
    Retired,
}

/// Opens the peer's heartbeats.
pub struct Opener {
    /// One, or two while a key takes another's place; the knock says which one it is.
    secrets: Vec<(Knock, Secret)>,
    cluster: String,
    peer: NodeId,
    current: Option<Life>,
    candidate: Option<Life>,
    retired: Retired,
}

impl Opener {
    /// An opener for datagrams of this sender. It knows no life yet.
    pub fn new(secret: &Secret, cluster: &str, sender: NodeId) -> Self {
        Self {
            secrets: vec![(Knock::new(secret, cluster, sender), secret.clone())],
            cluster: cluster.to_owned(),
            peer: sender,
            current: None,
            candidate: None,
            retired: Retired::default(),
        }
    }

    /// Opens what is sealed with one of these keys from now on. Lives stay what they are: a life counts
    /// on with another key.
    pub fn rekey(&mut self, secrets: &[Secret]) {
        let knock = |secret| Knock::new(secret, &self.cluster, self.peer);
        let known = secrets.iter().map(|secret| (knock(secret), secret.clone()));
        self.secrets = known.collect();
        for life in [&mut self.current, &mut self.candidate]
            .into_iter()
            .flatten()
        {
            life.keys = keys(&self.secrets, &self.cluster, self.peer, life.incarnation);
        }
    }

    /// Opens one datagram.
    ///
    /// # Errors
    ///
    /// The datagram must be dropped, and nothing may follow from it.
    pub fn open(&mut self, datagram: &[u8]) -> Result<Opened, OpenError> {
        if datagram.len() < HEADER + TAG || datagram.len() > MAX_DATAGRAM {
            return Err(OpenError::Foreign);
        }
        let Some((clear, sealed)) = datagram.split_first_chunk::<HEADER>() else {
            return Err(OpenError::Foreign);
        };
        let Some(header) = Header::decode(clear) else {
            return Err(OpenError::Foreign);
        };
        if usize::from(header.sender) != self.peer.index() {
            return Err(OpenError::Foreign);
        }
        let which = |(knock, _): &(Knock, Secret)| *knock == header.knock;
        let Some(which) = self.secrets.iter().position(which) else {
            return Err(OpenError::Forged);
        };
        let Header {
            incarnation,
            counter,
            ..
        } = header;

        if let Some(current) = named(&mut self.current, incarnation) {
            let plain = decrypt(&current.keys[which], counter, clear, sealed)?;
            return if current.window.accept(counter) {
                Ok(Opened::Current { counter, plain })
            } else {
                Err(OpenError::Replayed)
            };
        }
        if self.retired.contains(incarnation) {
            return Err(OpenError::Retired);
        }
        if let Some(candidate) = named(&mut self.candidate, incarnation) {
            let plain = decrypt(&candidate.keys[which], counter, clear, sealed)?;
            let newest = counter > candidate.window.highest();
            return if candidate.window.accept(counter) {
                Ok(Opened::Candidate {
                    incarnation,
                    counter,
                    plain,
                    newest,
                })
            } else {
                Err(OpenError::Replayed)
            };
        }
        let (_, secret) = &self.secrets[which];
        let key = heartbeat_key(secret, &self.cluster, self.peer, incarnation);
        let plain = decrypt(&key, counter, clear, sealed)?;
        let mut window = Window::new();
        if !window.accept(counter) {
            return Err(OpenError::Replayed);
        }
        self.candidate = Some(Life {
            incarnation,
            keys: keys(&self.secrets, &self.cluster, self.peer, incarnation),
            window,
        });
        Ok(Opened::Candidate {
            incarnation,
            counter,
            plain,
            newest: true,
        })
    }

    /// The candidate proved that it is present: it becomes current, and the current life is
    /// retired for good. Does nothing unless this life is the candidate.
    ///
    /// The module's text says what the proof is.
    pub fn confirm(&mut self, incarnation: Incarnation) {
        let Some(mut life) = self
            .candidate
            .take_if(|candidate| candidate.incarnation == incarnation)
        else {
            return;
        };
        life.window.close_below_highest();
        if let Some(old) = self.current.replace(life) {
            self.retired.insert(old.incarnation);
        }
    }

    /// The life that is confirmed.
    pub fn current(&self) -> Option<Incarnation> {
        self.current.as_ref().map(|life| life.incarnation)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("peer", &self.peer)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

/// One life of the peer, as far as its datagrams are concerned.
struct Life {
    incarnation: Incarnation,
    /// As the opener's keys.
    keys: Vec<LessSafeKey>,
    window: Window,
}

fn keys(
    secrets: &[(Knock, Secret)],
    cluster: &str,
    peer: NodeId,
    life: Incarnation,
) -> Vec<LessSafeKey> {
    let key = |(_, secret): &(Knock, Secret)| heartbeat_key(secret, cluster, peer, life);
    secrets.iter().map(key).collect()
}

fn named(slot: &mut Option<Life>, incarnation: Incarnation) -> Option<&mut Life> {
    slot.as_mut().filter(|life| life.incarnation == incarnation)
}

fn decrypt(
    key: &LessSafeKey,
    counter: u64,
    clear: &[u8; HEADER],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    // On the stack: a forged datagram costs no allocation.
    let mut buffer = [0; MAX_DATAGRAM];
    let sealed = {
        let room = &mut buffer[..sealed.len()];
        room.copy_from_slice(sealed);
        room
    };
    key.open_in_place(nonce(counter), Aad::from(clear), sealed)
        .map(|plain| plain.to_vec())
        .map_err(|ring::error::Unspecified| OpenError::Forged)
}

/// The last lives that were followed by another one.
#[derive(Default)]
struct Retired {
    order: VecDeque<Incarnation>,
    set: BTreeSet<Incarnation>,
}

impl Retired {
    fn contains(&self, incarnation: Incarnation) -> bool {
        self.set.contains(&incarnation)
    }

    fn insert(&mut self, incarnation: Incarnation) {
        if !self.set.insert(incarnation) {
            return;
        }
        self.order.push_back(incarnation);
        if self.order.len() > RETIRED
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "lives_test.rs"]
mod tests;
