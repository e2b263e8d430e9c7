//! The session's cryptography: Noise NNpsk0 by snow, bound to the cluster and the roles.
//!
//! `NN`: no long-term key pairs, two ephemeral ones give forward secrecy. `psk0`: the shared key
//! is mixed in before the first message, so that one already fails with a wrong key. The first
//! message may still be a recording; what proves the presence of its sender is that he can go on,
//! which is why nothing counts before both `Hello`s have opened.

use snow::{Builder, HandshakeState, TransportState};

use super::SessionError;
use crate::model::{NodeId, Secret};
use crate::wire::replication::{Hello, PROTOCOL};
use crate::wire::seal::session_psk;

/// Longest message, in bytes (Noise, section 3).
pub(super) const MAX_MESSAGE: usize = 65_535;
/// Poly1305's tag at the end of each message.
pub(super) const TAG: usize = 16;
/// Each of the two messages of the handshake: an X25519 public key and the tag of nothing.
pub(super) const HANDSHAKE_MESSAGE: usize = 32 + TAG;
/// After so many messages in one direction its key is replaced (Noise, section 11.3).
pub(super) const REKEY_EVERY: u64 = 1 << 20;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// What a handshake needs to know.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    psk: Secret,
    prologue: Vec<u8>,
    /// What this node says first.
    pub(super) hello: Hello,
}

impl Keys {
    pub(super) fn new(secret: &Secret, cluster: &str, hello: Hello) -> Self {
        // The parts before the name have fixed lengths, so no two inputs give the same string.
        let mut prologue = b"tandem session".to_vec();
        prologue.extend_from_slice(&PROTOCOL.to_le_bytes());
        prologue.push(NodeId::First.index() as u8);
        prologue.push(NodeId::Second.index() as u8);
        prologue.extend_from_slice(cluster.as_bytes());
        Self {
            psk: session_psk(secret, cluster),
            prologue,
            hello,
        }
    }

    pub(super) fn dialler(&self) -> HandshakeState {
        self.builder()
            .build_initiator()
            .expect("NN needs no key pairs, and the psk is there")
    }

    pub(super) fn listener(&self) -> HandshakeState {
        self.builder()
            .build_responder()
            .expect("NN needs no key pairs, and the psk is there")
    }

    pub(super) fn builder(&self) -> Builder<'_> {
        let pattern = PATTERN.parse().expect("snow knows the pattern");
        Builder::new(pattern)
            .psk(0, &self.psk.0)
            .and_then(|builder| builder.prologue(&self.prologue))
            .expect("each is set once")
    }
}

/// Writes the next message of a handshake.
pub(super) fn write(state: &mut HandshakeState) -> [u8; HANDSHAKE_MESSAGE] {
    let mut message = [0; HANDSHAKE_MESSAGE];
    let length = state
        .write_message(&[], &mut message)
        .expect("it is our turn, and the buffer has its size");
    assert_eq!(
        length, HANDSHAKE_MESSAGE,
        "both messages of NNpsk0 are alike"
    );
    message
}

/// Reads the next message of a handshake.
pub(super) fn read(
    state: &mut HandshakeState,
    message: &[u8; HANDSHAKE_MESSAGE],
) -> Result<(), SessionError> {
    state
        .read_message(message, &mut [])
        .map(drop)
        .map_err(SessionError::Unopened)
}

/// Both directions after the handshake.
pub(super) struct Cipher {
    state: TransportState,
    rekey_every: u64,
}

impl Cipher {
    pub(super) fn new(state: HandshakeState, rekey_every: u64) -> Self {
        Self {
            state: state
                .into_transport_mode()
                .expect("both messages went through"),
            rekey_every,
        }
    }

    /// Appends one message, with its length in front. `plain` has at most
    /// `MAX_MESSAGE - TAG` bytes.
    ///
    /// # Errors
    ///
    /// 2^64 - 1 messages went before.
    pub(super) fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> Result<(), SessionError> {
        let length = plain.len() + TAG;
        wire.extend_from_slice(&(length as u16).to_le_bytes());
        let at = wire.len();
        wire.resize(at + length, 0);
        self.state
            .write_message(plain, &mut wire[at..])
            .map_err(SessionError::Unopened)?;
        if self.state.sending_nonce().is_multiple_of(self.rekey_every) {
            self.state.rekey_outgoing();
        }
        Ok(())
    }

    /// Appends the content of one message, given without its length.
    ///
    /// # Errors
    ///
    /// It is not the peer's next message.
    pub(super) fn open(&mut self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), SessionError> {
        let length = sealed
            .len()
            .checked_sub(TAG)
            .ok_or(SessionError::MessageLength(sealed.len()))?;
        let at = plain.len();
        plain.resize(at + length, 0);
        self.state
            .read_message(sealed, &mut plain[at..])
            .map_err(SessionError::Unopened)?;
        if self
            .state
            .receiving_nonce()
            .is_multiple_of(self.rekey_every)
        {
            self.state.rekey_incoming();
        }
        Ok(())
    }
}
