//! The knock: what a heartbeat says at the door, before anybody computes anything.
//!
//! Eight bytes that follow from the cluster key, the cluster's name and the sender, the same in
//! every datagram of a sender. They stand where the kernel's filter can compare them, so that a
//! flood from somebody who neither has the key nor hears the pair's heartbeats takes no room in
//! the socket's buffer.
//!
//! It authenticates nothing: whoever hears one heartbeat can repeat it. The seal authenticates.

use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::model::{NodeId, Secret};

/// Length of a knock, in bytes: two of the words that a filter compares.
pub const KNOCK: usize = 8;

/// What the heartbeats of one node of one cluster begin with, after the magic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Knock(pub [u8; KNOCK]);

impl Knock {
    /// The first bytes of `HKDF(salt = empty, ikm = cluster key, info = "tandem knock v1" |
    /// cluster name | sender)`.
    pub fn new(secret: &Secret, cluster: &str, sender: NodeId) -> Self {
        let mut okm = Zeroizing::new([0_u8; 32]);
        // The parts around the name have fixed lengths, so no two inputs give the same string.
        let info: [&[u8]; 3] = [
            b"tandem knock v1",
            cluster.as_bytes(),
            &[sender.index() as u8],
        ];
        Salt::new(HKDF_SHA256, &[])
            .extract(&secret.0)
            .expand(&info, HKDF_SHA256)
            .and_then(|derived| derived.fill(&mut *okm))
            .expect("HKDF gives 32 bytes (RFC 5869: up to 255 x 32)");
        let mut knock = [0; KNOCK];
        knock.copy_from_slice(&okm[..KNOCK]);
        Self(knock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(key: u8, cluster: &str, sender: NodeId) -> Knock {
        Knock::new(&Secret([key; 32]), cluster, sender)
    }

    /// Computed a second time with Python's `hmac`, from `docs/protocol.md`.
    #[test]
    fn the_bytes_of_a_knock_are_these() {
        let both = [NodeId::First, NodeId::Second].map(|sender| knock(7, "pair", sender));
        assert_eq!(
            both.map(|knock| u64::from_be_bytes(knock.0)),
            [0xd889_e721_34c0_0095, 0xe817_6777_6542_6e71]
        );
    }

    #[test]
    fn another_key_cluster_or_sender_knocks_otherwise() {
        let ours = knock(7, "pair", NodeId::First);
        assert_eq!(ours, knock(7, "pair", NodeId::First));
        assert_ne!(ours, knock(8, "pair", NodeId::First));
        assert_ne!(ours, knock(7, "pairs", NodeId::First));
        assert_ne!(ours, knock(7, "pair", NodeId::Second));
    }

    #[test]
    fn a_knock_is_no_part_of_another_key() {
        let session = super::super::session_psk(&Secret([7; 32]), "pair");
        for sender in [NodeId::First, NodeId::Second] {
            assert_ne!(knock(7, "pair", sender).0, session.0[..KNOCK]);
        }
    }
}
