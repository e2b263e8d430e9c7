use super::*;
use crate::model::AdminState;
use crate::replication::tests::{
    admin, bytes, close, health, nat_close, nat_key, nat_marks, nat_open, open, stick, unstick,
};

fn of(items: &[Item]) -> Replica {
    let mut replica = Replica::default();
    for item in items {
        replica.apply(item);
    }
    replica
}

#[test]
fn each_fact_changes_the_state_once() {
    let facts = [
        admin(1, AdminState::Enabled),
        admin(1, AdminState::Drain),
        health(1, 1),
        health(1, 2),
        open(7, 1),
        bytes(7, 10),
        open(7, 2),
        close(7),
    ];
    let mut replica = Replica::default();
    for fact in facts {
        assert!(replica.apply(&fact), "{fact:?}");
        let once = replica.clone();
        assert!(!replica.apply(&fact), "{fact:?} again");
        assert_eq!(replica, once, "{fact:?} again");
    }
    assert!(replica.flows().is_empty());
    assert_eq!(replica.said().len(), 1);
    assert_eq!(replica.health()[&BackendId(1)].good, 2);
}

#[test]
fn connections_of_the_kernel_mode_move_between_backends_and_are_counted() {
    let mut replica = of(&[nat_open(1, 1), nat_open(2, 1)]);
    let live = |replica: &Replica| [1, 2].map(|id| replica.nat_live(BackendId(id)));
    assert_eq!(live(&replica), [2, 0]);
    for (item, counts) in [
        (nat_marks(1, 9), [2, 0]),
        (nat_open(2, 2), [1, 1]),
        (nat_close(1), [0, 1]),
    ] {
        assert!(replica.apply(&item), "{item:?}");
        assert!(!replica.apply(&item), "{item:?} again");
        assert_eq!(live(&replica), counts, "{item:?}");
    }
    assert!(!replica.apply(&nat_marks(1, 9)), "it is not there");
    let proxied = replica.forget_flows();
    assert!(proxied.is_empty(), "there was none");
    assert_eq!(replica.nat().keys().collect::<Vec<_>>(), [&nat_key(2)]);
}

#[test]
fn what_is_said_of_an_unknown_connection_is_dropped() {
    let mut replica = of(&[open(1, 1)]);
    assert!(!replica.apply(&bytes(2, 5)));
    assert!(!replica.apply(&close(2)));
    assert_eq!(replica, of(&[open(1, 1)]));
    assert_eq!(replica.overflowed(), 0);
}

#[test]
fn a_full_table_drops_and_counts_new_entries_only() {
    let mut replica = Replica::with_limits(1, 1);
    for item in [open(1, 1), health(1, 1), admin(1, AdminState::Drain)] {
        assert!(replica.apply(&item), "{item:?}");
    }
    for item in [open(2, 1), health(2, 1), admin(2, AdminState::Drain)] {
        assert!(!replica.apply(&item), "{item:?}");
    }
    assert_eq!((replica.len(), replica.overflowed()), (3, 3));
    for item in [open(1, 2), health(1, 2), admin(1, AdminState::Enabled)] {
        assert!(replica.apply(&item), "{item:?}");
    }
    assert!(replica.apply(&close(1)) && replica.apply(&open(2, 1)));
    assert_eq!((replica.len(), replica.overflowed()), (3, 3));
}

#[test]
fn items_rebuild_the_replica_and_can_be_resumed_anywhere() {
    let replica = of(&[
        open(9, 1),
        open(3, 1),
        health(5, 1),
        health(2, 1),
        admin(4, AdminState::Drain),
        admin(6, AdminState::Enabled),
        nat_open(4, 1),
        nat_open(3, 2),
        stick(9, 1, 5),
        stick(8, 2, 7),
    ]);
    let all: Vec<Item> = replica.items().collect();
    assert_eq!(of(&all), replica);
    let keys: Vec<Key> = all.iter().map(Key::of).collect();
    assert!(keys.is_sorted());
    for (n, key) in keys.iter().enumerate() {
        let rest: Vec<Item> = replica.items_after(Some(*key)).collect();
        assert_eq!(rest, all[n + 1..], "after {key:?}");
        assert_eq!(replica.item(*key).as_ref(), Some(&all[n]));
    }
    let gap: Vec<Item> = replica.items_after(Some(Key::Flow(FlowId(5)))).collect();
    assert_eq!(gap, all[5..], "after a key that is not there");
    assert_eq!(replica.item(Key::Flow(FlowId(5))), None);
}

#[test]
fn the_digest_sees_contents_not_history() {
    let mut a = of(&[open(1, 1), health(2, 1), bytes(1, 8), open(3, 3), close(3)]);
    let b = of(&[health(2, 1), open(1, 1), bytes(1, 8)]);
    assert_eq!((a.digest(), &a), (b.digest(), &b));
    let changes = [
        bytes(1, 9),
        health(2, 2),
        admin(2, AdminState::Enabled),
        open(3, 3),
    ];
    for change in changes {
        let before = a.digest();
        a.apply(&change);
        assert_ne!(a.digest(), before, "{change:?}");
    }
    assert_ne!(Replica::default().digest(), b.digest());
}

#[test]
fn what_does_not_travel_is_not_kept() {
    let Item::FlowOpen { flow, mut record } = open(1, 1) else {
        unreachable!()
    };
    record.client = SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 6, 7).into();
    let replica = of(&[Item::FlowOpen { flow, record }]);
    let chunk = Frame::SnapshotChunk(replica.items().collect());
    let decoded = codec::decode_frame(&codec::encode_frame(&chunk));
    assert_eq!(decoded, Ok(chunk));
}

#[test]
fn remembered_clients_are_states_as_well() {
    let mut replica = of(&[stick(1, 1, 5), stick(2, 1, 5)]);
    assert!(!replica.apply(&stick(1, 1, 5)), "said twice");
    assert!(replica.apply(&stick(1, 1, 6)), "used again");
    assert!(replica.apply(&stick(1, 2, 6)), "another backend");
    assert!(replica.apply(&unstick(2)));
    assert!(!replica.apply(&unstick(2)));
    assert_eq!(replica, of(&[stick(1, 2, 6)]));
    replica.put_flows(of(&[open(1, 1)]));
    assert_eq!(replica.forget_flows(), of(&[open(1, 1)]));
    assert_eq!((replica.sticks().len(), replica.len()), (1, 1));
    assert!(!replica.has_no_connections());
    replica.shed(1);
    assert!(replica.is_empty());
}
