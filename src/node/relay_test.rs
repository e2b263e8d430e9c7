//! The rules of the relay, row by row.

use super::*;
use crate::model::{ConfigHash, Epoch, Priority};

/// A backup of a living master; both relay.
fn backup() -> Sight {
    Sight {
        works: true,
        role: Role::Backup,
        peer: Some(Role::Master),
        peer_relays: true,
        alive: true,
        ..Sight::default()
    }
}

/// A master with a living backup; both relay.
fn master() -> Sight {
    Sight {
        role: Role::Master,
        peer: Some(Role::Backup),
        peer_in_sync: true,
        ..backup()
    }
}

fn relay(change: impl FnOnce(&mut Sight), mut sight: Sight) -> [bool; 2] {
    change(&mut sight);
    let Relay {
        accept,
        second_chance,
        asks: _,
        yields: _,
    } = sight.relay();
    [accept, second_chance]
}

#[test]
fn a_master_yields_new_connections_while_it_hands_over() {
    let yields = |change: fn(&mut Sight)| {
        let mut sight = master();
        change(&mut sight);
        sight.relay().yields
    };
    assert!(!yields(|_| {}));
    assert!(yields(|s| s.handing_over = true));
    assert!(!yields(|s| (s.handing_over, s.peer_relays) = (true, false)));
    assert!(!yields(|s| (s.handing_over, s.works) = (true, false)));
    assert!(!yields(|s| (s.handing_over, s.role) = (true, Role::Backup)));
}

#[test]
fn a_backup_asks_a_master_that_is_silent_for_longer_than_it_lives() {
    let asks = |change: fn(&mut Sight)| {
        let mut sight = Sight {
            peer_silent: true,
            ..backup()
        };
        change(&mut sight);
        sight.relay().asks
    };
    assert!(asks(|_| {}));
    assert!(asks(|s| s.alive = false));
    assert!(!asks(|s| s.peer_silent = false));
    assert!(!asks(|s| s.peer_relays = false));
    assert!(!asks(|s| s.stopping = true));
    assert!(!asks(|s| s.role = Role::Master));
    assert!(!asks(|s| s.peer = Some(Role::Backup)));
}

#[test]
fn a_backup_accepts_from_the_master_that_it_knows() {
    type Row = (&'static str, fn(&mut Sight), bool);
    let rows: [Row; 9] = [
        ("a living master", |_| {}, true),
        ("a silent master", |s| s.alive = false, true),
        ("its relay does not work", |s| s.works = false, false),
        ("it stops", |s| s.stopping = true, false),
        ("it is in fault", |s| s.role = Role::Fault, false),
        ("it has just started", |s| s.role = Role::Initialize, false),
        ("no peer was heard", |s| s.peer = None, false),
        ("no master", |s| s.peer = Some(Role::Backup), false),
        (
            "it has given its master up",
            |s| s.role = Role::Master,
            false,
        ),
    ];
    for (what, change, accept) in rows {
        assert_eq!(relay(change, backup()), [accept, false], "{what}");
    }
}

#[test]
fn a_master_gives_a_second_chance_where_the_other_may_know_more() {
    let restarted = |s: &mut Sight| (s.restarted, s.peer_in_sync) = (true, false);
    type Row<'r> = (&'static str, &'r dyn Fn(&mut Sight), bool);
    let unknown = |s: &mut Sight| (s.alive, s.peer, s.peer_relays) = (false, None, false);
    let rows: [Row<'_>; 19] = [
        ("all is well", &|_| {}, false),
        ("(a) the peer drains", &|s| s.drains = true, true),
        (
            "its relay does not work",
            &|s| (s.drains, s.works) = (true, false),
            false,
        ),
        (
            "the peer's does not",
            &|s| (s.drains, s.peer_relays) = (true, false),
            false,
        ),
        (
            "no master",
            &|s| (s.drains, s.role) = (true, Role::Backup),
            false,
        ),
        ("silent only", &|s| s.alive = false, false),
        (
            "(b) a dead host",
            &|s| (s.alive, s.refused) = (false, true),
            true,
        ),
        ("a refusal, but it lives", &|s| s.refused = true, false),
        (
            "it had resigned: it is not there any more",
            &|s| (s.alive, s.refused, s.peer_resigns) = (false, true, true),
            false,
        ),
        ("nobody was heard since the start", &unknown, false),
        (
            "(b) the same, and where the peer should be nobody listens",
            &|s| {
                unknown(s);
                s.refused = true;
            },
            true,
        ),
        (
            "(b) it died before it had said that it relays",
            &|s| {
                (s.alive, s.refused) = (false, true);
                (s.peer, s.peer_relays) = (Some(Role::Initialize), false);
            },
            true,
        ),
        (
            "the same, but our own relay does not work",
            &|s| {
                unknown(s);
                (s.refused, s.works) = (true, false);
            },
            false,
        ),
        (
            "(b) the master has just fallen silent",
            &|s| (s.alive, s.fell_silent) = (false, true),
            true,
        ),
        ("(c) restarted", &restarted, true),
        (
            "(c) it has not heard us yet",
            &|s| {
                restarted(s);
                s.peer = Some(Role::Initialize);
            },
            true,
        ),
        ("restarted, in sync", &|s| s.restarted = true, false),
        (
            "restarted, and master too",
            &|s| {
                restarted(s);
                s.peer = Some(Role::Master);
            },
            false,
        ),
        (
            "not in sync, not restarted",
            &|s| s.peer_in_sync = false,
            false,
        ),
    ];
    for (what, change, chance) in rows {
        assert_eq!(relay(change, master()), [false, chance], "{what}");
    }
}

const TIMEOUT: Duration = Duration::from_secs(60);

fn at(ms: u64) -> Mono {
    Mono::from_millis(ms)
}

fn peer(life: u128, role: Role, left: u32, heard: u64) -> Peer {
    Peer {
        incarnation: Incarnation(life),
        last_heard: at(heard),
        heard_us: Some(at(heard)),
        dead: false,
        rival_since: None,
        role,
        epoch: Epoch(1),
        priority: Priority(100),
        interval: Duration::from_millis(100),
        config_hash: ConfigHash(0),
        ownerships: 1,
        in_sync: role == Role::Backup,
        resigns: false,
        relays: true,
        left,
    }
}

/// A book of a node that became master, and what it says at a time.
struct Master(RelayBook);

impl Master {
    fn new(cause: Cause) -> Self {
        let mut book = RelayBook::default();
        let former = peer(1, Role::Master, 0, 0);
        book.look(Self::sight(&former, true), Some(&former), TIMEOUT, at(0));
        book.took_over(cause, Some(&former), at(0));
        Self(book)
    }

    fn sight(peer: &Peer, alive: bool) -> Sight {
        Sight {
            works: true,
            role: Role::Master,
            peer: Some(peer.role),
            peer_relays: peer.relays,
            peer_in_sync: peer.in_sync,
            alive,
            ..Sight::default()
        }
    }

    fn chance(&mut self, peer: &Peer, now: u64) -> bool {
        let alive = now < peer.last_heard.as_millis() + 300;
        let sight = Self::sight(peer, alive);
        let seen = self.0.look(sight, Some(peer), TIMEOUT, at(now));
        seen.relay().second_chance
    }

    fn status(&self, now: u64) -> (u64, u64, Option<u64>, u64) {
        let status = self.0.status(TIMEOUT, at(now)).unwrap();
        (status.left, status.of, status.cut_in_ms, status.cut)
    }
}

#[test]
fn the_former_master_has_its_second_chance_until_it_says_that_nothing_is_left() {
    for cause in [
        Cause::Handover,
        Cause::Preempt,
        Cause::Stop,
        Cause::Resigned,
    ] {
        let mut master = Master::new(cause);
        assert!(master.chance(&peer(1, Role::Master, 0, 1), 1));
        assert!(master.chance(&peer(1, Role::Backup, 0, 2), 2), "too early");
        assert!(master.chance(&peer(1, Role::Backup, 7, 100), 100));
        assert!(master.chance(&peer(1, Role::Backup, 3, 9_000), 9_000));
        assert_eq!(master.status(9_002), (3, 7, Some(51_000), 0));
        assert!(!master.chance(&peer(1, Role::Backup, 0, 9_100), 9_100));
        assert_eq!(master.status(9_200), (0, 7, None, 0));
        assert!(!master.chance(&peer(1, Role::Backup, 1, 9_200), 9_200));
    }
    let mut alone = Master::new(Cause::Alone);
    assert!(!alone.chance(&peer(1, Role::Backup, 7, 100), 100));
    assert!(alone.0.status(TIMEOUT, at(1)).is_none());
}

#[test]
fn connections_that_end_with_the_timeout_were_cut() {
    let mut master = Master::new(Cause::Handover);
    assert!(master.chance(&peer(1, Role::Backup, 7, 10), 10));
    assert!(!master.chance(&peer(1, Role::Backup, 0, 60_050), 60_050));
    assert_eq!(master.status(60_100), (0, 7, None, 7));
}

#[test]
fn a_former_master_that_dies_has_nothing_left() {
    let mut silent = Master::new(Cause::Handover);
    let last = peer(1, Role::Backup, 7, 100);
    assert!(silent.chance(&last, 100));
    assert_eq!(silent.0.next(Some(&last), at(200)), Some(at(1_100)));
    assert!(silent.chance(&last, 2_099), "it may be heard again");
    assert_eq!(silent.0.next(Some(&last), at(2_099)), Some(at(2_100)));
    assert!(!silent.chance(&last, 2_100));
    assert_eq!(silent.status(2_100), (0, 7, None, 7));

    let mut anew = Master::new(Cause::Handover);
    assert!(anew.chance(&last, 100));
    assert!(!anew.chance(&peer(2, Role::Initialize, 0, 200), 200));
    assert_eq!(anew.status(300), (0, 7, None, 7));
}

#[test]
fn a_dead_host_counts_as_long_as_it_refuses_and_a_restarted_one_until_it_is_in_sync() {
    let mut master = Master::new(Cause::ProcessDied);
    let dead = peer(1, Role::Master, 0, 0);
    assert!(master.chance(&dead, 1_999));
    assert_eq!(master.0.next(Some(&dead), at(1)), Some(at(2_000)));
    assert!(!master.chance(&dead, 2_000));
    master.0.refused(at(2_500));
    assert!(master.chance(&dead, 2_500));
    master.0.refused(at(3_500));
    assert!(master.chance(&dead, 5_499));
    let mut new = peer(2, Role::Initialize, 0, 5_499);
    assert!(master.chance(&new, 5_499), "restarted");
    new.last_heard = at(7_000);
    assert!(master.chance(&new, 7_000));
    assert!(!master.chance(&peer(2, Role::Backup, 0, 7_100), 7_100));
    new.last_heard = at(7_200);
    assert!(!master.chance(&new, 7_200), "it was in sync once");
}

/// A node that lost its power finds no master, and its peer's process is dead.
#[test]
fn a_node_that_starts_alone_asks_the_host_of_a_peer_that_it_never_heard() {
    let alone = |master: &mut RelayBook, now| {
        let sight = Sight {
            works: true,
            role: Role::Master,
            ..Sight::default()
        };
        let seen = master.look(sight, None, TIMEOUT, at(now));
        seen.relay().second_chance
    };
    let mut book = RelayBook::default();
    book.refused(at(100));
    book.took_over(Cause::Alone, None, at(300));
    assert!(alone(&mut book, 300));
    assert_eq!(book.next(None, at(300)), Some(at(2_100)));
    assert!(!alone(&mut book, 2_100), "its host is silent: it is gone");
    for second in 3..60 {
        book.refused(at(second * 1_000));
        assert!(alone(&mut book, second * 1_000), "{second} s");
    }
    book.refused(at(60_000));
    assert_eq!(book.next(None, at(60_000)), Some(at(60_300)));
    assert!(alone(&mut book, 60_299));
    assert!(!alone(&mut book, 60_300), "its table has ended");

    let mut silent = RelayBook::default();
    silent.took_over(Cause::Alone, None, at(300));
    assert!(!alone(&mut silent, 301), "its host is not there");
    // It was in fault when it should have found out.
    silent.left();
    silent.took_over(Cause::HeartbeatsLost, None, at(400));
    assert!(!alone(&mut silent, 401), "nobody fell silent");
    silent.refused(at(402));
    assert!(alone(&mut silent, 402));

    // Its process starts again, with what the table has.
    let mut master = Master(silent);
    assert!(master.chance(&peer(1, Role::Initialize, 0, 500), 500));
    assert!(
        !master.chance(&peer(1, Role::Backup, 0, 501), 501),
        "in sync"
    );
}

/// The master's process is started anew so fast that its death shows only by the new life.
#[test]
fn a_fast_restart_is_one_too() {
    let mut master = Master::new(Cause::ProcessDied);
    for ms in [1, 1_000, 3_000, 9_999] {
        assert!(
            master.chance(&peer(2, Role::Initialize, 0, ms), ms),
            "{ms} ms"
        );
    }
    let late = peer(2, Role::Initialize, 0, 10_001);
    assert!(!master.chance(&late, 10_001), "it takes too long");
}
