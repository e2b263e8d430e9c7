//! The rows of the module's table, and the traps that the field fell into.

use super::*;
use crate::config::Config;
use crate::config::fixture::pair;
use crate::model::{ConfigHash, Role::*};

const ME: Incarnation = Incarnation(1);
const PEER: Incarnation = Incarnation(2);
const PATH: PathId = PathId(0);

/// `lb2` (priority 100) unless said otherwise, heartbeats 100 ms x 3.
struct Bench {
    election: Election,
    now: Mono,
    changes: Vec<(Role, Cause)>,
    sent: usize,
    probes: usize,
    reannounced: usize,
    sequence: u64,
}

pub(super) fn config(preempt: bool) -> Config {
    let text = format!(
        r#"
        [election]
        preempt = {preempt}
        [[service]]
        name = "web"
        listen = ["192.0.2.100:80"]
        [[service.backend]]
        name = "b1"
        address = "198.51.100.21:8080"
        "#
    );
    pair(&text)
}

impl Bench {
    fn new(me: NodeId) -> Self {
        let mut bench = Self {
            election: Election::new(&config(true), me, ME, Mono::ZERO),
            now: Mono::ZERO,
            changes: vec![],
            sent: 0,
            probes: 0,
            reannounced: 0,
            sequence: 0,
        };
        bench.drain();
        bench
    }

    fn backup() -> Self {
        let mut bench = Self::new(NodeId::Second);
        bench.hear(Master, 7);
        assert_eq!(bench.changes, [(Backup, Cause::MasterHeard)]);
        bench.changes.clear();
        bench
    }

    fn master() -> Self {
        let mut bench = Self::new(NodeId::First);
        bench.pass(400);
        assert_eq!(bench.changes, [(Master, Cause::Alone)]);
        bench.hear(Backup, 0);
        bench.changes.clear();
        bench.reannounced = 0;
        bench
    }

    fn drain(&mut self) {
        while let Some(action) = self.election.poll_action() {
            match action {
                Action::Role(change) => self.changes.push((change.to, change.cause)),
                Action::Send { path, answer, .. } => {
                    self.sent += 1;
                    self.probes += usize::from(answer);
                    let facts = Facts::default();
                    self.election.heartbeat(path, answer, None, facts, self.now);
                }
                Action::Reannounce => self.reannounced += 1,
                Action::Note(_) => {}
            }
        }
    }

    /// Lets time pass, a turn every millisecond.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.election.wake(self.now);
            self.election.handle_timeout(self.now);
            self.drain();
        }
    }

    fn heartbeat(&mut self, role: Role, epoch: u64) -> Heartbeat {
        self.sequence += 1;
        Heartbeat {
            path: PATH,
            path_sequence: self.sequence,
            role,
            epoch: Epoch(epoch),
            priority: Priority(150),
            interval: Duration::from_millis(100),
            config_hash: ConfigHash(0),
            hears: Some(ME),
            ownerships: 0,
            in_sync: true,
            resigns: false,
            relays: false,
            left: 0,
            answer: false,
            sent_at: 0,
            echo: None,
        }
    }

    fn give(&mut self, heartbeat: &Heartbeat) {
        self.give_of(PEER, heartbeat);
    }

    fn give_of(&mut self, life: Incarnation, heartbeat: &Heartbeat) {
        self.election
            .handle_heartbeat(PATH, life, heartbeat, self.now);
        self.drain();
    }

    fn hear(&mut self, role: Role, epoch: u64) {
        let heartbeat = self.heartbeat(role, epoch);
        self.give(&heartbeat);
    }
}

#[test]
fn a_node_alone_becomes_master_after_one_master_down_interval() {
    let mut bench = Bench::new(NodeId::First);
    bench.pass(321);
    assert_eq!(bench.changes, []);
    bench.pass(1); // 3 x 100 ms + (256 - 200) / 256 x 100 ms = 321.9 ms
    assert_eq!(bench.changes, [(Master, Cause::Alone)]);
    assert_eq!(bench.election.epoch(), Epoch(1));
}

#[test]
fn the_lesser_claim_waits_half_an_interval_longer_at_the_start() {
    let mut bench = Bench::new(NodeId::Second);
    bench.pass(371);
    assert_eq!(bench.changes, []);
    bench.pass(1);
    assert_eq!(bench.changes, [(Master, Cause::Alone)]);
}

#[test]
fn silence_of_the_master_ends_in_a_takeover_with_the_next_epoch() {
    let mut bench = Bench::backup();
    bench.pass(360);
    assert_eq!(bench.changes, []);
    bench.pass(1); // 3 x 100 ms + (256 - 100) / 256 x 100 ms = 360.9 ms
    assert_eq!(bench.changes, [(Master, Cause::HeartbeatsLost)]);
    assert_eq!(bench.election.epoch(), Epoch(8));
}

#[test]
fn a_resigning_master_is_followed_without_skew() {
    for fault in [false, true] {
        let mut bench = Bench::backup();
        let mut heartbeat = bench.heartbeat(if fault { Fault } else { Initialize }, 9);
        heartbeat.resigns = true;
        bench.give(&heartbeat);
        assert_eq!(bench.changes, [(Master, Cause::Resigned)]);
        let epoch = bench.election.epoch();
        assert_eq!(epoch, Epoch(10), "later than the last word of the master");
    }
}

#[test]
fn two_refusals_that_lie_apart_prove_a_death() {
    let mut bench = Bench::backup();
    bench.election.session_closed(bench.now);
    bench.drain();
    assert_eq!(bench.probes, 1);
    bench.election.port_closed(bench.now);
    bench.election.port_closed(bench.now);
    bench.drain();
    assert_eq!(bench.changes, [], "two at the same moment are one");
    bench.pass(1);
    bench.election.port_closed(bench.now);
    bench.drain();
    assert_eq!(bench.changes, [(Master, Cause::ProcessDied)]);
}

#[test]
fn a_forged_reset_moves_nothing_when_the_peer_answers() {
    let mut bench = Bench::backup();
    bench.pass(50);
    bench.election.session_closed(bench.now);
    bench.drain();
    let mut answer = bench.heartbeat(Master, 7);
    answer.echo = Some(crate::wire::heartbeat::Echo {
        sent_at: bench.now.as_nanos(),
        held: 0,
    });
    bench.give(&answer);
    assert_eq!(bench.election.false_alarms(), 1);
    let probes = bench.probes;
    bench.pass(200);
    assert_eq!((bench.changes.len(), bench.probes), (0, probes));
}

#[test]
fn a_heartbeat_between_two_refusals_takes_the_first_back() {
    let mut bench = Bench::backup();
    bench.election.port_closed(bench.now);
    bench.pass(1);
    bench.hear(Master, 7);
    bench.election.port_closed(bench.now);
    bench.drain();
    assert_eq!(bench.changes, []);
}

#[test]
fn a_new_life_of_the_master_means_that_the_old_one_died() {
    let mut bench = Bench::backup();
    let heartbeat = bench.heartbeat(Initialize, 9);
    bench.give_of(Incarnation(3), &heartbeat);
    assert_eq!(bench.changes, [(Master, Cause::ProcessDied)]);
    assert_eq!(bench.election.epoch(), Epoch(10));
}

#[test]
fn of_two_masters_the_lesser_claim_yields() {
    // (the rival's epoch, whether it wins). Own: epoch 1, priority 200; the rival's priority: 150.
    for (epoch, yields) in [(0, false), (1, false), (2, true)] {
        let mut bench = Bench::master();
        bench.hear(Master, epoch);
        let expected: &[_] = if yields {
            &[(Backup, Cause::Rival)]
        } else {
            &[]
        };
        assert_eq!(bench.changes, expected, "rival of epoch {epoch}");
    }
}

#[test]
fn a_master_yields_to_a_rival_that_never_hears_it() {
    let mut bench = Bench::master();
    for _ in 0..4 {
        let mut heartbeat = bench.heartbeat(Master, 0);
        heartbeat.hears = None;
        bench.give(&heartbeat);
        bench.pass(99);
    }
    assert_eq!(bench.changes, []);
    let mut heartbeat = bench.heartbeat(Master, 0);
    heartbeat.hears = None;
    bench.give(&heartbeat);
    assert_eq!(bench.changes, [(Backup, Cause::Unheard)]);
}

#[test]
fn the_winner_announces_again_when_the_rival_gave_up_or_had_owned_the_address() {
    let mut bench = Bench::master();
    bench.hear(Master, 0);
    bench.hear(Backup, 1);
    assert_eq!(bench.reannounced, 1);
    let mut heartbeat = bench.heartbeat(Backup, 1);
    heartbeat.ownerships = 1;
    bench.give(&heartbeat);
    assert_eq!(bench.reannounced, 2);
}

#[test]
fn a_master_outlives_what_its_peer_did_unheard() {
    let mut bench = Bench::master();
    let heartbeat = bench.heartbeat(Backup, 5);
    bench.give_of(Incarnation(3), &heartbeat);
    assert_eq!(bench.reannounced, 1, "the old life may have announced");
    assert_eq!(bench.changes, [(Master, Cause::EpochRaised)]);
    assert_eq!(bench.election.epoch(), Epoch(6));
}

#[test]
fn a_master_that_slept_steps_down_before_it_sends() {
    let mut bench = Bench::master();
    bench.now += Duration::from_millis(301);
    assert!(bench.election.wake(bench.now));
    bench.drain();
    assert_eq!(bench.changes, [(Backup, Cause::Paused)]);
}

#[test]
fn a_backup_that_slept_listens_anew_before_it_judges() {
    let mut bench = Bench::backup();
    bench.now += Duration::from_millis(900);
    assert!(bench.election.wake(bench.now));
    bench.election.handle_timeout(bench.now);
    bench.drain();
    assert_eq!(bench.changes, []);
    bench.pass(361);
    assert_eq!(bench.changes, [(Master, Cause::HeartbeatsLost)]);
}

#[test]
fn an_offer_ends_the_mastership_only_when_the_peer_holds_the_addresses() {
    let mut bench = Bench::master();
    let epoch = bench
        .election
        .offer(HandoverCause::Operator, bench.now)
        .unwrap();
    assert_eq!(epoch, Epoch(2));
    bench.hear(Master, 2);
    assert_eq!(bench.changes, [], "it says master but holds nothing yet");
    let mut heartbeat = bench.heartbeat(Master, 2);
    heartbeat.ownerships = 1;
    bench.give(&heartbeat);
    assert_eq!(bench.changes, [(Backup, Cause::Handover)]);
    assert!(
        !bench.election.wants_preempt(bench.now),
        "the operator's wish stands"
    );
}

#[test]
fn an_offer_that_nobody_takes_leaves_the_master_where_it_is() {
    let mut bench = Bench::master();
    assert!(
        bench
            .election
            .offer(HandoverCause::Preempt, bench.now)
            .is_some()
    );
    bench.pass(700);
    assert!(!bench.election.handing_over());
    assert_eq!(bench.election.role(), Master);
}

#[test]
fn a_stale_offer_is_refused() {
    let mut bench = Bench::backup();
    let now = bench.now;
    assert!(
        !bench
            .election
            .take_offer(Epoch(7), HandoverCause::Operator, now)
    );
    assert!(
        bench
            .election
            .take_offer(Epoch(8), HandoverCause::Operator, now)
    );
    assert_eq!(bench.election.epoch(), Epoch(8));
}

#[test]
fn preemption_needs_the_better_claim_and_being_heard() {
    let mut second = Bench::backup();
    assert!(!second.election.wants_preempt(second.now));
    let mut first = Bench::new(NodeId::First);
    let mut heartbeat = first.heartbeat(Master, 3);
    heartbeat.hears = None;
    first.give(&heartbeat);
    assert!(
        !first.election.wants_preempt(first.now),
        "it does not hear us"
    );
    first.hear(Master, 3);
    assert!(first.election.wants_preempt(first.now));
    second.pass(1);
}

#[test]
fn a_node_in_fault_never_takes_over_and_a_master_in_fault_gives_up() {
    let mut backup = Bench::backup();
    backup.election.set_fault("eth0 is down", true, backup.now);
    backup.pass(2_000);
    assert_eq!(backup.changes, [(Fault, Cause::Fault)]);
    backup.election.set_fault("eth0 is down", false, backup.now);
    backup.pass(1);
    assert_eq!(backup.election.role(), Backup);

    let mut master = Bench::master();
    master.election.set_fault("eth0 is down", true, master.now);
    master.drain();
    assert_eq!(master.changes, [(Fault, Cause::Fault)]);
}

#[test]
fn a_recording_of_a_dead_life_moves_nothing() {
    let mut bench = Bench::backup();
    let heartbeat = bench.heartbeat(Master, 99);
    for n in 0..1_000 {
        let life = Incarnation(1_000 + n);
        bench
            .election
            .handle_stranger(PATH, life, &heartbeat, true, bench.now);
        bench.drain();
    }
    assert_eq!(bench.election.epoch(), Epoch(7));
    assert_eq!(bench.election.peer().unwrap().incarnation, PEER);
    assert!(bench.sent < 10, "answers are rate-limited: {}", bench.sent);
    bench.pass(361);
    assert_eq!(bench.changes, [(Master, Cause::HeartbeatsLost)]);
}

#[test]
fn a_life_is_confirmed_by_a_fresh_echo_that_is_no_older_than_the_peers_last_word() {
    let echo = |at: Mono, ms: i64, nanos: i64| {
        let sent_at = at.as_nanos().strict_add_signed(ms * 1_000_000 + nanos);
        Some(crate::wire::heartbeat::Echo { sent_at, held: 0 })
    };
    let mut bench = Bench::new(NodeId::Second);
    bench.now = Mono::from_millis(5_000);
    let mut known = Bench::backup();
    known.now = bench.now;
    known.hear(Master, 7);
    known.now += Duration::from_millis(500);
    bench.now = known.now;
    // (whom it hears, the echo, confirmed by a node without a peer, by one with a peer)
    let (now, me) = (bench.now, Some(ME));
    for (hears, echo, alone, with_peer) in [
        (me, echo(now, 0, 0), true, true),
        (me, echo(now, -500, 0), true, true),
        (me, echo(now, -500, -1), true, false),
        (me, echo(now, -1_000, 0), true, false),
        (me, echo(now, -1_000, -1), false, false),
        (me, echo(now, 0, 1), false, false),
        (me, None, false, false),
        (Some(PEER), echo(now, 0, 0), false, false),
        (None, echo(now, 0, 0), false, false),
    ] {
        let mut heartbeat = bench.heartbeat(Master, 7);
        (heartbeat.hears, heartbeat.echo) = (hears, echo);
        let confirmed = [&bench, &known].map(|node| node.election.confirms(&heartbeat, now));
        assert_eq!(confirmed, [alone, with_peer], "{hears:?} {echo:?}");
    }
}

#[test]
fn a_node_that_starts_inside_a_one_way_cut_leaves_the_master_alone() {
    let mut bench = Bench::new(NodeId::Second);
    for _ in 0..20 {
        let mut heartbeat = bench.heartbeat(Master, 5);
        heartbeat.hears = None;
        bench
            .election
            .handle_stranger(PATH, PEER, &heartbeat, true, bench.now);
        bench.pass(100);
    }
    assert_eq!(bench.changes, []);
}

#[test]
fn heartbeats_keep_their_rhythm() {
    let mut bench = Bench::master();
    let before = bench.sent;
    bench.pass(10_000);
    assert_eq!(bench.sent - before, 100);
}

#[test]
fn a_stopping_node_never_takes_over_again() {
    let mut bench = Bench::backup();
    bench.election.stop(bench.now);
    bench.pass(2_000);
    assert_eq!(bench.changes, []);
    let mut master = Bench::master();
    master.election.stop(master.now);
    master.drain();
    assert_eq!(master.changes, [(Initialize, Cause::Stop)]);
}

#[test]
fn loss_is_counted_by_path_sequence() {
    let mut bench = Bench::backup();
    for _ in 0..9 {
        bench.sequence += 1; // every second one is lost
        bench.hear(Master, 7);
    }
    let (_, path) = bench.election.paths().iter().next().unwrap();
    assert_eq!((path.received, path.lost), (10, 9));
    assert!((path.loss_percent() - 47.37).abs() < 0.01);
}
