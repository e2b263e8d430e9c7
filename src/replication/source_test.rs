//! What the master's end does with each message.

use std::time::Duration;

use super::source::Limits;
use super::tests::{T0, at, begin, bytes, close, health, nat_open, open, replica_of, update};
use super::*;
use crate::model::Epoch;
use crate::status::ReplicationRole;
use crate::time::Mono;
use crate::wire::replication::Frame;

const SMALL: Limits = Limits {
    log: 8,
    window: 2,
    batch: 3,
};

fn frames(source: &mut Source, now: Mono) -> Vec<Frame> {
    std::iter::from_fn(|| source.poll_frame(now)).collect()
}

/// A source of epoch 3 with small limits, attached at `T0`.
fn attached(replica: Replica) -> Source {
    let mut source = Source::with_limits(Epoch(3), replica, T0, SMALL);
    source.attach(T0);
    source
}

/// One whose empty snapshot was acknowledged.
fn live() -> Source {
    let mut source = attached(Replica::default());
    frames(&mut source, T0);
    source.handle_ack(at(3, 0), T0).unwrap();
    assert!(source.in_sync());
    source
}

#[test]
fn a_source_tells_its_state_and_then_what_changes() {
    let mut source = attached(replica_of((1..=4).map(|n| open(n, 1))));
    assert_eq!(
        frames(&mut source, T0),
        [
            begin(at(3, 0), 4),
            Frame::SnapshotChunk((1..=3).map(|n| open(n, 1)).collect()),
            Frame::SnapshotChunk(vec![open(4, 1)]),
            Frame::SnapshotEnd,
        ]
    );
    source.write(close(2), T0);
    source.write(close(9), T0);
    let changes = [update(at(3, 0), &[close(2)])];
    assert_eq!(frames(&mut source, T0), changes, "what changes nothing");
    assert_eq!(source.position(), at(3, 1));
    assert!(!source.in_sync(), "not acknowledged yet");
    source.handle_ack(at(3, 0), T0).unwrap();
    assert!(source.in_sync() && !source.drained());
    source.handle_ack(at(3, 1), T0).unwrap();
    assert!(source.drained());
    assert_eq!(source.into_replica().flows().len(), 3);
}

#[test]
fn a_snapshot_is_the_state_at_its_position() {
    let state = replica_of((1..=9).map(|n| open(n * 10, 1)));
    let mut source = attached(state.clone());
    let mut told = vec![source.poll_frame(T0).unwrap()];
    told.push(source.poll_frame(T0).unwrap());
    // Behind the walk (it stands at 30), at it, ahead of it; twice; new ones everywhere.
    for item in [close(10), close(30), close(40), open(40, 2), bytes(50, 9)] {
        source.write(item, T0);
    }
    for item in [open(5, 1), open(65, 1), health(1, 1)] {
        source.write(item, T0);
    }
    assert_eq!(source.sizes(), (8, 0, 3), "log, in flight, kept");
    told.extend(std::iter::from_fn(|| source.poll_frame(T0)));

    let mut sink = Sink::new(Replica::default());
    let mut checked = 0;
    for frame in told {
        sink.handle(frame, T0).unwrap();
        if sink.position() == at(3, 0) && sink.in_sync() {
            assert_eq!(sink.replica(), &state, "as it was at the beginning");
            checked += 1;
        }
    }
    assert_eq!(checked, 1);
    source.handle_ack(sink.position(), T0).unwrap();
    for frame in frames(&mut source, T0) {
        sink.handle(frame, T0).unwrap();
    }
    assert_eq!(sink.position(), at(3, 8));
    assert_eq!(sink.replica(), source.replica());
}

#[test]
fn what_changes_nothing_costs_a_snapshot_nothing() {
    let mut source = attached(Replica::default());
    source.poll_frame(T0);
    for flow in 0..1_000 {
        source.write(bytes(flow, 1), T0);
    }
    assert_eq!(source.sizes(), (0, 0, 0));
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut source = live();
    for n in 1..=8 {
        source.write(open(n, 1), T0);
    }
    let sent = frames(&mut source, T0);
    let opens = |range: std::ops::RangeInclusive<u64>| range.map(|n| open(n, 1)).collect();
    let expected = |after, range| {
        let items = opens(range);
        Frame::Update { after, items }
    };
    assert_eq!(sent, [expected(at(3, 0), 1..=3), expected(at(3, 3), 4..=6)]);
    source.handle_ack(at(3, 2), T0).unwrap();
    assert_eq!(
        source.poll_frame(T0),
        None,
        "no frame is acknowledged whole"
    );
    source.handle_ack(at(3, 6), T0).unwrap();
    assert_eq!(frames(&mut source, T0), [expected(at(3, 6), 7..=8)]);
    assert_eq!(source.sizes(), (2, 1, 0));
}

#[test]
fn an_acknowledgement_is_of_this_epoch_and_of_something_sent() {
    let mut source = live();
    source.write(open(1, 1), T0);
    source.write(open(2, 1), T0);
    let ahead = |got, sent| Err(PeerFault::AckAhead { got, sent });
    let now = T0;
    assert_eq!(
        source.handle_ack(at(3, 1), now),
        ahead(at(3, 1), at(3, 0)),
        "written, not sent"
    );
    frames(&mut source, T0);
    assert_eq!(source.handle_ack(at(4, 0), now), ahead(at(4, 0), at(3, 2)));
    assert_eq!(source.handle_ack(at(2, 99), now), Ok(()));
    assert_eq!(source.status(now).acknowledged, 0);
    assert_eq!(source.handle_ack(at(3, 2), now), Ok(()));
    assert_eq!(source.handle_ack(at(3, 1), now), Ok(()), "late");
    assert_eq!(source.status(now).acknowledged, 2);
    assert!(source.drained());

    source.attach(T0);
    assert_eq!(source.handle_ack(at(3, 2), now), ahead(at(3, 2), at(3, 0)));
    source.detach();
    assert_eq!(source.handle_ack(at(3, 99), now), Ok(()), "of no session");
}

#[test]
fn a_full_log_gives_way_to_a_snapshot() {
    let mut source = live();
    for n in 1..=9 {
        source.write(open(n, 1), T0);
    }
    assert_eq!(source.sizes(), (0, 0, 0));
    assert!(!source.in_sync());
    assert_eq!(source.poll_frame(T0), Some(begin(at(3, 9), 9)));
    for n in 11..=18 {
        source.write(open(n, 1), T0);
    }
    assert_eq!(source.sizes(), (8, 0, 8));
    source.write(open(19, 1), T0);
    assert_eq!(source.poll_frame(T0), Some(begin(at(3, 18), 18)));
    assert_eq!(source.status(T0).resyncs, 2);
    frames(&mut source, T0);
    source.handle_ack(at(3, 18), T0).unwrap();
    assert!(source.drained());
    assert_eq!(source.status(T0).snapshots, 2);
}

#[test]
fn there_is_a_log_for_a_peer_only() {
    let mut source = Source::new(Epoch(3), Replica::default(), T0);
    assert_eq!(source.position(), at(3, 0));
    for n in 1..=20 {
        source.write(open(n, 1), T0);
    }
    assert_eq!(source.sizes(), (0, 0, 0));
    assert_eq!((source.poll_frame(T0), source.poll_timeout()), (None, None));
    assert!(!source.in_sync() && !source.drained());
    source.handle_resync(T0);
    assert_eq!(source.poll_frame(T0), None, "there is no session");
    source.attach(T0);
    source.write(open(21, 1), T0);
    assert_eq!(source.sizes(), (0, 0, 0), "the snapshot has yet to begin");
    assert_eq!(source.poll_frame(T0), Some(begin(at(3, 21), 21)));
    source.write(open(22, 1), T0);
    assert_eq!(source.sizes(), (1, 0, 1));
    source.detach();
    assert_eq!(source.sizes(), (0, 0, 0));
    assert_eq!(source.replica().flows().len(), 22);
}

#[test]
fn a_new_snapshot_starts_the_window_and_the_acknowledgements_anew() {
    let mut source = live();
    for n in 1..=8 {
        source.write(open(n, 1), T0);
    }
    assert_eq!(frames(&mut source, T0).len(), 2, "the window is full");
    source.write(open(9, 1), T0);
    let sent = frames(&mut source, T0);
    assert_eq!(sent.last(), Some(&Frame::SnapshotEnd));
    source.write(open(10, 1), T0);
    let next = update(at(3, 9), &[open(10, 1)]);
    assert_eq!(source.poll_frame(T0), Some(next), "it has room");
    source.handle_ack(at(3, 6), T0).unwrap();
    assert!(!source.in_sync(), "sent before the snapshot");
    assert_eq!(source.sizes(), (1, 1, 0));
    source.handle_ack(at(3, 9), T0).unwrap();
    assert!(source.in_sync() && !source.drained());
}

#[test]
fn a_resync_request_gets_a_snapshot() {
    let mut source = live();
    source.write(open(1, 1), T0);
    frames(&mut source, T0);
    source.handle_resync(T0);
    assert!(!source.in_sync());
    assert_eq!(source.handle_ack(at(3, 1), T0), Ok(()), "sent before it");
    assert_eq!(frames(&mut source, T0).len(), 3);
    assert!(!source.in_sync());
    source.handle_ack(at(3, 1), T0).unwrap();
    assert!(source.drained());
    assert_eq!(source.status(T0).resyncs, 1);
}

#[test]
fn a_peer_without_progress_is_given_up() {
    let late = T0 + ACK_TIMEOUT;
    let just_before = Mono::from_nanos(late.as_nanos() - 1);
    let second = Duration::from_secs(1);

    // A snapshot that is not acknowledged: counted from the last frame that the session took.
    let mut source = attached(replica_of([open(1, 1)]));
    assert_eq!(source.poll_timeout(), Some(late));
    assert_eq!(frames(&mut source, T0).len(), 3);
    assert_eq!(source.poll_timeout(), Some(late));
    source.handle_sent(T0 + second);
    assert_eq!(source.poll_timeout(), Some(late + second));
    assert_eq!(source.handle_timeout(late), Ok(()));
    let overdue = source.handle_timeout(late + second);
    assert_eq!(overdue, Err(PeerFault::AckOverdue));
    assert_eq!(
        source.poll_timeout(),
        Some(late + second + ACK_TIMEOUT),
        "a deadline that passed must not stay"
    );

    // Updates: from the write if nothing waited before it, then from each acknowledgement.
    let mut source = live();
    assert_eq!(source.poll_timeout(), None, "nothing to wait for");
    source.write(open(1, 1), T0 + second);
    source.write(open(2, 1), T0 + second * 2);
    assert_eq!(source.poll_timeout(), Some(late + second));
    frames(&mut source, T0 + second);
    source.handle_ack(at(3, 1), T0 + second * 5).unwrap();
    assert_eq!(source.poll_timeout(), Some(late + second * 5));
    source.handle_ack(at(3, 1), T0 + second * 6).unwrap();
    source.handle_sent(T0 + second * 6);
    assert_eq!(source.poll_timeout(), Some(late + second * 5), "no news");
    assert_eq!(source.handle_timeout(just_before), Ok(()));
    source.handle_ack(at(3, 2), just_before).unwrap();
    assert_eq!(source.poll_timeout(), None);
    assert_eq!(source.handle_timeout(late + second * 99), Ok(()));
}

#[test]
fn the_status_of_a_source_tells_its_lag() {
    let mut source = live();
    source.write(open(1, 1), T0);
    source.write(nat_open(2, 1), T0 + Duration::from_millis(40));
    frames(&mut source, T0);
    let now = T0 + Duration::from_millis(50);
    source.handle_ack(at(3, 1), now).unwrap();
    let status = source.status(now);
    assert_eq!(status.role, ReplicationRole::Source);
    assert!(status.in_sync && status.connected);
    assert_eq!((status.epoch, status.position), (3, 2));
    assert_eq!((status.acknowledged, status.lag_items), (1, 1));
    assert_eq!((status.lag_ms, status.flows, status.snapshots), (10, 2, 1));
}
