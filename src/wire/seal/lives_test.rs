use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::wire::seal::{MAGIC, MAX_PLAIN, Sealer, session_psk};

const A: Incarnation = Incarnation(0xa);
const B: Incarnation = Incarnation(0xb);
const C: Incarnation = Incarnation(0xc);
/// Where they stand in a datagram.
const KNOCK_AT: Range<usize> = 4..12;
const SENDER_AT: usize = 12;

fn secret() -> Secret {
    Secret([7; 32])
}

fn sealer(life: Incarnation) -> Sealer {
    Sealer::new(&secret(), "pair", NodeId::First, life)
}

fn opener() -> Opener {
    Opener::new(&secret(), "pair", NodeId::First)
}

/// An opener with `life` as its current one, and that life's sealer.
fn confirmed(life: Incarnation) -> (Sealer, Opener) {
    let (mut sealer, mut opener) = (sealer(life), opener());
    opener.open(&sealer.seal(b"first")).unwrap();
    opener.confirm(life);
    assert_eq!(opener.current(), Some(life));
    (sealer, opener)
}

#[test]
fn the_first_life_is_a_candidate_until_it_is_confirmed() {
    let (mut sealer, mut opener) = (sealer(A), opener());
    assert_eq!(
        opener.open(&sealer.seal(b"one")),
        Ok(Opened::Candidate {
            incarnation: A,
            counter: 1,
            plain: b"one".to_vec(),
            newest: true
        })
    );
    assert_eq!(opener.current(), None);
    opener.confirm(A);
    assert_eq!(
        opener.open(&sealer.seal(b"two")),
        Ok(Opened::Current {
            counter: 2,
            plain: b"two".to_vec()
        })
    );
}

/// Computed a second time with Python's `cryptography` and `hmac`, from `docs/protocol.md`.
#[test]
fn the_bytes_of_a_datagram_are_these() {
    let datagram = sealer(Incarnation(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100)).seal(b"tandem");
    assert_eq!(
        hex(&datagram),
        "54444d32\
         d889e72134c00095\
         00\
         000102030405060708090a0b0c0d0e0f\
         0100000000000000\
         448744f647c1\
         cec01bea5f89eefb33b324b00c888d5c"
    );
}

#[test]
fn reordered_datagrams_open_once_each() {
    let (mut sealer, mut opener) = confirmed(A);
    let sent: Vec<_> = (0..100_u8).map(|n| sealer.seal(&[n])).collect();
    for (n, datagram) in sent.iter().enumerate().rev() {
        let counter = n as u64 + 2;
        assert_eq!(
            opener.open(datagram),
            Ok(Opened::Current {
                counter,
                plain: vec![n as u8]
            })
        );
        assert_eq!(opener.open(datagram), Err(OpenError::Replayed));
    }
}

#[test]
fn a_datagram_behind_the_window_is_a_replay_even_if_it_was_never_opened() {
    let (mut sealer, mut opener) = confirmed(A);
    let late = sealer.seal(b"late");
    let edge = sealer.seal(b"edge");
    for _ in 0..1_023 {
        opener.open(&sealer.seal(b"")).unwrap();
    }
    assert_eq!(opener.open(&late), Err(OpenError::Replayed));
    assert!(opener.open(&edge).is_ok());
}

#[test]
fn another_key_cluster_or_sender_does_not_open() {
    let mut plain = sealer(A);
    let datagram = plain.seal(b"x");
    let mut other_key = Opener::new(&Secret([8; 32]), "pair", NodeId::First);
    let mut other_cluster = Opener::new(&secret(), "pairs", NodeId::First);
    let mut other_sender = Opener::new(&secret(), "pair", NodeId::Second);
    assert_eq!(other_key.open(&datagram), Err(OpenError::Forged));
    assert_eq!(other_cluster.open(&datagram), Err(OpenError::Forged));
    assert_eq!(other_sender.open(&datagram), Err(OpenError::Foreign));
    // Nor with the right knock and sender, which anybody can copy.
    for (opener, sender) in [
        (&mut other_key, NodeId::First),
        (&mut other_cluster, NodeId::First),
        (&mut other_sender, NodeId::Second),
    ] {
        let mut datagram = datagram.clone();
        datagram[KNOCK_AT].copy_from_slice(&opener.secrets[0].0.0);
        datagram[SENDER_AT] = sender.index() as u8;
        assert_eq!(opener.open(&datagram), Err(OpenError::Forged));
        assert!(opener.candidate.is_none());
    }
}

#[test]
fn a_wrong_knock_is_turned_away_whatever_follows_it() {
    let (mut sealer, mut opener) = confirmed(A);
    sealer.knock.0[7] ^= 1;
    // Sealed by the right key, over the wrong knock.
    assert_eq!(opener.open(&sealer.seal(b"sealed")), Err(OpenError::Forged));
    let mut stranger = self::sealer(B);
    stranger.knock.0[0] ^= 1;
    assert_eq!(opener.open(&stranger.seal(b"new")), Err(OpenError::Forged));
    assert!(opener.candidate.is_none());
    sealer.knock.0[7] ^= 1;
    assert!(opener.open(&sealer.seal(b"right again")).is_ok());
}

#[test]
fn a_nodes_own_datagram_sent_back_does_not_open_under_either_name() {
    let mut own = Sealer::new(&secret(), "pair", NodeId::Second, A);
    let mut datagram = own.seal(b"mirror");
    assert_eq!(opener().open(&datagram), Err(OpenError::Foreign));
    datagram[SENDER_AT] = 0;
    assert_eq!(opener().open(&datagram), Err(OpenError::Forged));
    datagram[KNOCK_AT].copy_from_slice(&opener().secrets[0].0.0);
    assert_eq!(opener().open(&datagram), Err(OpenError::Forged));
}

#[test]
fn a_restarted_peer_takes_over_by_proof_and_its_old_life_never_comes_back() {
    let (mut old, mut opener) = confirmed(A);
    let unopened = old.seal(b"in flight");
    let mut new = sealer(B);
    assert!(matches!(
        opener.open(&new.seal(b"hello")),
        Ok(Opened::Candidate { incarnation: B, .. })
    ));
    assert_eq!(opener.current(), Some(A), "a candidate moves nothing");
    assert!(matches!(
        opener.open(&old.seal(b"still here")),
        Ok(Opened::Current { .. })
    ));
    opener.confirm(B);
    assert_eq!(opener.current(), Some(B));
    assert_eq!(opener.open(&unopened), Err(OpenError::Retired));
    assert_eq!(opener.open(&old.seal(b"zombie")), Err(OpenError::Retired));
    assert!(matches!(
        opener.open(&new.seal(b"more")),
        Ok(Opened::Current { counter: 2, .. })
    ));
}

#[test]
fn confirming_anything_but_the_candidate_changes_nothing() {
    let (mut current, mut opener) = confirmed(A);
    opener.confirm(B);
    opener.confirm(A);
    assert_eq!(opener.current(), Some(A));
    opener.open(&sealer(B).seal(b"")).unwrap();
    opener.confirm(C);
    assert_eq!(opener.current(), Some(A));
    assert!(opener.open(&current.seal(b"")).is_ok());
}

#[test]
fn what_came_before_the_confirmation_cannot_come_again_after_it() {
    let (mut sealer, mut opener) = (sealer(A), opener());
    let opened: Vec<_> = (0..10).map(|_| sealer.seal(b"early")).collect();
    for datagram in &opened {
        opener.open(datagram).unwrap();
    }
    // Pushed out and back in: the window forgot the ten above.
    opener.open(&self::sealer(B).seal(b"")).unwrap();
    opener.open(&sealer.seal(b"proof")).unwrap();
    opener.confirm(A);
    for datagram in &opened {
        assert_eq!(opener.open(datagram), Err(OpenError::Replayed));
    }
}

#[test]
fn a_replayed_dead_life_cannot_keep_a_live_candidate_out() {
    let (_, mut opener) = confirmed(A);
    let recorded = sealer(C).seal(b"recorded long ago");
    let mut live = sealer(B);
    for _ in 0..50 {
        assert!(opener.open(&recorded).is_ok());
        assert!(matches!(
            opener.open(&live.seal(b"live")),
            Ok(Opened::Candidate {
                incarnation: B,
                newest: true,
                ..
            })
        ));
    }
    opener.confirm(B);
    assert_eq!(opener.current(), Some(B));
}

#[test]
fn an_older_datagram_of_a_candidate_is_not_the_newest() {
    let (mut sealer, mut opener) = (sealer(A), opener());
    let (one, two) = (sealer.seal(b"1"), sealer.seal(b"2"));
    opener.open(&two).unwrap();
    assert!(matches!(
        opener.open(&one),
        Ok(Opened::Candidate {
            counter: 1,
            newest: false,
            ..
        })
    ));
    assert_eq!(opener.open(&one), Err(OpenError::Replayed));
}

#[test]
fn the_memory_of_retired_lives_is_bounded() {
    let mut opener = opener();
    for life in 0..=RETIRED as u128 + 10 {
        opener.open(&sealer(Incarnation(life)).seal(b"")).unwrap();
        opener.confirm(Incarnation(life));
    }
    assert_eq!(opener.retired.order.len(), RETIRED);
    assert_eq!(opener.retired.set.len(), RETIRED);
    assert_eq!(
        opener.open(&sealer(Incarnation(100)).seal(b"")),
        Err(OpenError::Retired)
    );
}

#[test]
fn every_single_bit_flip_is_rejected() {
    let (mut sealer, mut opener) = confirmed(A);
    let datagram = sealer.seal(&[0x5a; 80]);
    for bit in 0..datagram.len() * 8 {
        let mut bent = datagram.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(opener.open(&bent).is_err(), "bit {bit}");
    }
    assert!(
        opener.open(&datagram).is_ok(),
        "and the true one still opens"
    );
}

#[test]
fn every_other_length_is_rejected() {
    let (mut sealer, mut opener) = confirmed(A);
    let datagram = sealer.seal(&[1; 80]);
    for cut in 0..datagram.len() {
        assert!(opener.open(&datagram[..cut]).is_err(), "{cut} bytes");
    }
    let mut longer = datagram.clone();
    longer.push(0);
    assert_eq!(opener.open(&longer), Err(OpenError::Forged));
    longer.resize(MAX_DATAGRAM + 1, 0);
    assert_eq!(opener.open(&longer), Err(OpenError::Foreign));
}

#[test]
fn the_longest_content_fits_and_a_longer_one_is_not_sealed() {
    let (mut sealer, mut opener) = confirmed(A);
    let datagram = sealer.seal(&[9; MAX_PLAIN]);
    assert_eq!(datagram.len(), MAX_DATAGRAM);
    assert!(opener.open(&datagram).is_ok());
    assert!(sealer.seal(&[9; MAX_PLAIN + 1]).is_empty());
    assert!(opener.open(&sealer.seal(b"goes on")).is_ok());
}

#[test]
fn a_used_up_counter_seals_nothing_and_does_not_wrap() {
    let mut sealer = sealer(A);
    sealer.counter = Some(u64::MAX);
    let last = sealer.seal(b"last");
    assert!(opener().open(&last).is_ok());
    assert!(sealer.seal(b"one more").is_empty());
    assert!(sealer.seal(b"and more").is_empty());
}

#[test]
fn counter_zero_is_never_valid() {
    let mut sealer = sealer(A);
    sealer.counter = Some(0);
    let zero = sealer.seal(b"zero");
    let mut opener = opener();
    assert_eq!(opener.open(&zero), Err(OpenError::Replayed));
    assert!(opener.candidate.is_none(), "it does not take the place");
}

#[test]
fn garbage_in_our_clothes_moves_nothing() {
    let (mut sealer, mut opener) = confirmed(A);
    let mut garbage = sealer.seal(&[0; 80]);
    for n in 0..5_000_u32 {
        garbage[13..17].copy_from_slice(&n.to_le_bytes());
        garbage[17] ^= 0xff;
        assert_eq!(opener.open(&garbage), Err(OpenError::Forged));
    }
    assert!(opener.candidate.is_none());
    assert!(opener.open(&sealer.seal(b"")).is_ok());
}

/// The value was computed a second time with Python's `hmac`.
#[test]
fn the_sessions_key_depends_on_key_and_cluster_and_is_no_heartbeat_key() {
    let psk = session_psk(&secret(), "pair");
    assert_eq!(psk.0, session_psk(&secret(), "pair").0);
    assert_ne!(psk.0, session_psk(&secret(), "other").0);
    assert_ne!(psk.0, session_psk(&Secret([8; 32]), "pair").0);
    assert_eq!(
        hex(&psk.0),
        "bb9add3765486674eda2cf4d1c0b0cb0bfe6e7003460d364caa6b9b3ac7f058e"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        dressed in any::<bool>(),
    ) {
        let mut opener = opener();
        if dressed && bytes.len() > SENDER_AT {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[KNOCK_AT].copy_from_slice(&opener.secrets[0].0.0);
            bytes[SENDER_AT] = 0;
        }
        prop_assert!(opener.open(&bytes).is_err());
    }
}

#[test]
fn a_key_takes_anothers_place_and_no_datagram_is_lost() {
    let keys = [7_u8, 8].map(|byte| Secret([byte; 32]));
    let [old, new] = &keys;
    let mut sealer = Sealer::new(old, "pair", NodeId::First, A);
    let mut opener = Opener::new(old, "pair", NodeId::First);
    let beat = |sealer: &mut Sealer, n: u8| sealer.seal(&[n]);
    let first = beat(&mut sealer, 0);
    opener.open(&first).unwrap();
    opener.confirm(A);
    let plain = |opened: Result<Opened, OpenError>| match opened {
        Ok(Opened::Current { plain, counter }) => (plain[0], counter),
        other => panic!("{other:?}"),
    };
    opener.rekey(&keys);
    let late = beat(&mut sealer, 1);
    sealer.rekey(new);
    let fresh = beat(&mut sealer, 2);
    assert_eq!(plain(opener.open(&fresh)), (2, 3), "the counter goes on");
    assert_eq!(plain(opener.open(&late)), (1, 2), "the old key opens, too");
    assert_eq!(opener.open(&late), Err(OpenError::Replayed), "but once");
    opener.rekey(&[new.clone(), old.clone()]);
    assert_eq!(
        opener.open(&fresh),
        Err(OpenError::Replayed),
        "windows stay"
    );
    let more = beat(&mut sealer, 4);
    assert_eq!(plain(opener.open(&more)).0, 4);
    opener.rekey(std::slice::from_ref(new));
    assert_eq!(opener.open(&first), Err(OpenError::Forged), "it is gone");
    let more = beat(&mut sealer, 5);
    assert_eq!(plain(opener.open(&more)).0, 5);
    // Back to a key that it had: no number meets it twice.
    sealer.rekey(old);
    opener.rekey(std::slice::from_ref(old));
    let last = beat(&mut sealer, 6);
    assert_eq!(plain(opener.open(&last)), (6, 6));
}
