//! What the backup's end does with each message.

use super::tests::{T0, at, begin, bytes, close, health, open, replica_of, update};
use super::*;
use crate::model::{ConfigHash, Incarnation, NodeId};
use crate::status::ReplicationRole;
use crate::wire::replication::{Frame, Hello, Item, MAX_BATCH};

/// A sink that follows epoch 3 from a snapshot with flow 1 at sequence 5, acknowledged.
fn following() -> Sink {
    let mut sink = Sink::new(Replica::default());
    sink.detach();
    for frame in [
        begin(at(3, 5), 1),
        Frame::SnapshotChunk(vec![open(1, 1)]),
        Frame::SnapshotEnd,
    ] {
        sink.handle(frame, T0).unwrap();
    }
    assert_eq!(sink.poll_frame(), Some(Frame::Ack(at(3, 5))));
    sink
}

#[test]
fn a_sink_follows_and_acknowledges_the_latest_only() {
    let mut sink = following();
    sink.handle(update(at(3, 5), &[open(2, 1), close(1)]), T0)
        .unwrap();
    sink.handle(update(at(3, 7), &[bytes(2, 6)]), T0).unwrap();
    assert_eq!(sink.poll_frame(), Some(Frame::Ack(at(3, 8))));
    assert_eq!(sink.poll_frame(), None);
    assert_eq!(sink.replica(), &replica_of([open(2, 1), bytes(2, 6)]));
    let status = sink.status(T0);
    assert_eq!(status.role, ReplicationRole::Sink);
    assert!(status.in_sync);
    assert_eq!((status.epoch, status.position, status.flows), (3, 8, 1));
    assert_eq!((status.snapshots, status.resyncs), (1, 0));
}

#[test]
fn half_a_snapshot_replaces_nothing() {
    let mut sink = following();
    let whole = sink.replica().clone();
    sink.handle(begin(at(3, 9), 2), T0).unwrap();
    sink.handle(Frame::SnapshotChunk(vec![open(8, 1)]), T0)
        .unwrap();
    assert!(!sink.in_sync());
    assert_eq!(sink.poll_frame(), None);
    let restored = sink.clone().into_restored();
    let expected = Restored {
        replica: whole.clone(),
        position: at(3, 5),
        complete: true,
        // With what it had before its first snapshot.
        retired: vec![Replica::default(), replica_of([open(8, 1)])],
    };
    assert_eq!(restored, expected);
    sink.detach();
    assert_eq!(sink.poll_retired(), Some(replica_of([open(8, 1)])));
    assert_eq!((sink.replica(), sink.position()), (&whole, at(3, 5)));

    // On the next session it comes whole, after one more false start.
    for frame in [
        begin(at(3, 9), 2),
        Frame::SnapshotChunk(vec![open(8, 1)]),
        begin(at(3, 9), 1),
        Frame::SnapshotChunk(vec![open(9, 1)]),
        Frame::SnapshotEnd,
    ] {
        sink.handle(frame, T0).unwrap();
    }
    assert_eq!(sink.replica(), &replica_of([open(9, 1)]));
    assert!(sink.in_sync());
}

#[test]
fn what_a_node_knew_by_itself_is_not_complete() {
    let sink = Sink::new(replica_of([health(1, 1)]));
    let restored = sink.into_restored();
    assert!(!restored.complete);
    assert_eq!(restored.position, at(0, 0));
    assert_eq!(restored.replica.len(), 1);
}

#[test]
fn a_gap_is_answered_by_one_request_for_a_snapshot() {
    for gap in [at(3, 4), at(3, 6), at(4, 5)] {
        let mut sink = following();
        let whole = sink.replica().clone();
        // What was applied before is not acknowledged any more: the request says enough.
        sink.handle(update(at(3, 5), &[]), T0).unwrap();
        sink.handle(update(gap, &[open(9, 1)]), T0).unwrap();
        assert!(!sink.in_sync());
        assert_eq!(sink.poll_frame(), Some(Frame::ResyncRequest), "{gap:?}");
        for frame in [
            update(at(3, 5), &[open(9, 1)]),
            Frame::SnapshotChunk(vec![open(9, 1)]),
            Frame::SnapshotEnd,
        ] {
            sink.handle(frame, T0).unwrap();
            assert_eq!(sink.poll_frame(), None);
        }
        assert_eq!(sink.replica(), &whole);
        assert_eq!(sink.status(T0).resyncs, 1);
        sink.handle(begin(at(3, 8), 0), T0).unwrap();
        sink.handle(Frame::SnapshotEnd, T0).unwrap();
        assert_eq!(sink.poll_frame(), Some(Frame::Ack(at(3, 8))));
        assert!(sink.in_sync());
    }
}

#[test]
fn a_sink_that_is_made_during_a_session_asks_at_once() {
    let mut sink = Sink::new(Replica::default());
    assert_eq!(sink.poll_frame(), Some(Frame::ResyncRequest));
    assert_eq!(sink.poll_frame(), None);

    // Between sessions it need not: the next one begins with a snapshot. If it does not, it asks.
    for stray in [
        update(at(3, 5), &[close(1)]),
        Frame::SnapshotChunk(vec![open(1, 1)]),
        Frame::SnapshotEnd,
    ] {
        let mut sink = Sink::new(Replica::default());
        sink.detach();
        assert_eq!(sink.poll_frame(), None);
        sink.handle(stray, T0).unwrap();
        assert_eq!(sink.poll_frame(), Some(Frame::ResyncRequest));
    }
}

#[test]
fn what_crossed_a_change_of_roles_is_ignored() {
    let mut sink = following();
    let before = sink.replica().clone();
    for frame in [
        update(at(2, 5), &[close(1)]),
        Frame::Ack(at(9, 9)),
        Frame::ResyncRequest,
    ] {
        sink.handle(frame, T0).unwrap();
    }
    assert!(sink.in_sync());
    assert_eq!((sink.replica(), sink.position()), (&before, at(3, 5)));
    assert_eq!(sink.poll_frame(), None);
}

/// A master that restarted at a low epoch learns of a higher one only from a heartbeat; its
/// snapshot may come before that.
#[test]
fn a_snapshot_of_an_older_epoch_waits_for_one_of_a_newer() {
    let mut sink = following();
    let before = sink.replica().clone();
    for frame in [
        begin(at(2, 9), 1),
        Frame::SnapshotChunk(vec![open(7, 1)]),
        Frame::SnapshotEnd,
        update(at(2, 9), &[close(1)]),
    ] {
        sink.handle(frame, T0).unwrap();
    }
    assert!(!sink.in_sync());
    assert_eq!((sink.replica(), sink.position()), (&before, at(3, 5)));
    assert_eq!(sink.poll_frame(), None);
    sink.handle(begin(at(4, 0), 0), T0).unwrap();
    sink.handle(Frame::SnapshotEnd, T0).unwrap();
    assert_eq!(sink.poll_frame(), Some(Frame::Ack(at(4, 0))));
}

#[test]
fn another_session_may_bring_another_log_of_the_same_epoch() {
    let mut sink = following();
    sink.detach();
    sink.handle(begin(at(3, 2), 0), T0).unwrap();
    sink.handle(Frame::SnapshotEnd, T0).unwrap();
    assert_eq!(sink.poll_frame(), Some(Frame::Ack(at(3, 2))));
    assert!(sink.in_sync() && sink.replica().is_empty());
}

#[test]
fn a_frame_that_breaks_the_protocol_is_a_fault_and_changes_nothing() {
    use Frame::{SnapshotChunk, SnapshotEnd};
    let hello = Frame::Hello(Hello {
        protocol: 1,
        node: NodeId::First,
        incarnation: Incarnation(1),
        config_hash: ConfigHash(1),
    });
    let long = vec![close(1); MAX_BATCH + 1];
    let old = |got| PeerFault::OldSnapshot {
        got,
        have: at(3, 5),
    };
    let miscounted = |announced, got| PeerFault::SnapshotMiscounted { announced, got };
    let b = |items| begin(at(3, 5), items);
    let chunk = |items: &[Item]| SnapshotChunk(items.to_vec());
    let last = (2 * MAX_FLOWS + MAX_STICKS + 2 * MAX_BACKENDS) as u64;
    let end = at(3, u64::MAX);
    let cases = [
        (vec![hello], PeerFault::Unexpected("Hello")),
        (
            vec![chunk(&[open(1, 1)])],
            PeerFault::Unexpected("SnapshotChunk"),
        ),
        (vec![SnapshotEnd], PeerFault::Unexpected("SnapshotEnd")),
        (
            vec![b(1), update(at(3, 5), &[close(1)])],
            PeerFault::Unexpected("Update"),
        ),
        (
            vec![begin(end, 0), SnapshotEnd, update(end, &[close(1)])],
            PeerFault::Unexpected("sequence beyond the last"),
        ),
        (
            vec![update(at(3, 5), &long)],
            PeerFault::BatchTooLong(MAX_BATCH + 1),
        ),
        (
            vec![b(9_999), SnapshotChunk(long.clone())],
            PeerFault::BatchTooLong(MAX_BATCH + 1),
        ),
        (vec![b(last + 1)], PeerFault::SnapshotTooLong(last + 1)),
        (vec![begin(at(3, 4), 0)], old(at(3, 4))),
        (
            vec![b(1), chunk(&[open(1, 1), open(2, 1)])],
            miscounted(1, 2),
        ),
        (
            vec![b(2), chunk(&[open(1, 1)]), SnapshotEnd],
            miscounted(2, 1),
        ),
        (
            vec![b(2), chunk(&[open(1, 1), open(1, 1)]), SnapshotEnd],
            miscounted(2, 1),
        ),
        (
            vec![b(1), chunk(&[bytes(1, 1)]), SnapshotEnd],
            miscounted(1, 0),
        ),
    ];
    for (mut frames, fault) in cases {
        let mut sink = following();
        let bad = frames.pop().unwrap();
        for frame in frames {
            sink.handle(frame, T0).unwrap();
        }
        let before = (sink.replica().clone(), sink.position());
        assert_eq!(sink.handle(bad, T0), Err(fault));
        assert!(!sink.in_sync(), "{fault}");
        assert_eq!(sink.poll_frame(), None, "{fault}");
        // What is still on its way before the session closes.
        for stray in [SnapshotEnd, update(at(3, 5), &[close(1)])] {
            assert_eq!(sink.handle(stray, T0), Ok(()), "{fault}");
        }
        assert_eq!((sink.replica().clone(), sink.position()), before, "{fault}");
    }
    let mut sink = following();
    assert_eq!(sink.handle(b(last), T0), Ok(()), "the largest there is");
}
