//! How two nodes come to trust each other's present lives, over a wire that loses datagrams and
//! belongs to an attacker who keeps, withholds and repeats them.

use proptest::prelude::*;

use super::lives::PROOF_AGE;
use super::tests::config;
use super::*;
use crate::model::Secret;
use crate::wire::codec;
use crate::wire::seal::{Opened, Opener, Sealer};

const LATENCY: Duration = Duration::from_millis(1);
const ROUND_TRIP: Duration = Duration::from_millis(2);
const INTERVAL: Duration = Duration::from_millis(100);
const A: usize = 0;
const B: usize = 1;
const PATH: PathId = PathId(0);

/// One process: an election between the seal's two ends, with a clock that starts with it.
struct Life {
    incarnation: Incarnation,
    started: Mono,
    election: Election,
    sealer: Sealer,
    opener: Opener,
}

impl Life {
    fn new(node: NodeId, number: u128, started: Mono) -> Self {
        let secret = Secret([7; 32]);
        let incarnation = Incarnation(number);
        Self {
            incarnation,
            started,
            election: Election::new(&config(false), node, incarnation, Mono::ZERO),
            sealer: Sealer::new(&secret, "edge", node, incarnation),
            opener: Opener::new(&secret, "edge", node.peer()),
        }
    }

    fn clock(&self, now: Mono) -> Mono {
        Mono::ZERO + now.since(self.started)
    }

    /// As the node does it.
    fn receive(&mut self, bytes: &[u8], now: Mono) {
        let now = self.clock(now);
        let Ok(opened) = self.opener.open(bytes) else {
            return;
        };
        let (Opened::Current { plain, .. } | Opened::Candidate { plain, .. }) = &opened;
        let heartbeat = codec::decode_heartbeat(plain).unwrap();
        match opened {
            Opened::Current { .. } => {
                let life = self.opener.current().unwrap();
                self.election.handle_heartbeat(PATH, life, &heartbeat, now);
            }
            Opened::Candidate { incarnation, .. } if self.election.confirms(&heartbeat, now) => {
                self.opener.confirm(incarnation);
                self.election
                    .handle_heartbeat(PATH, incarnation, &heartbeat, now);
            }
            Opened::Candidate {
                incarnation,
                newest,
                ..
            } => self
                .election
                .handle_stranger(PATH, incarnation, &heartbeat, newest, now),
        }
    }

    fn send(&mut self, now: Mono) -> Vec<Vec<u8>> {
        let now = self.clock(now);
        let mut sent = vec![];
        while let Some(action) = self.election.poll_action() {
            if let Action::Send {
                path,
                answer,
                hears,
            } = action
            {
                let facts = Facts::default();
                let heartbeat = self.election.heartbeat(path, answer, hears, facts, now);
                let plain = codec::encode_heartbeat(&heartbeat.unwrap());
                sent.push(self.sealer.seal(&plain));
            }
        }
        sent
    }
}

/// Two nodes and the wire between them.
struct World {
    now: Mono,
    lives: [Option<Life>; 2],
    wire: Vec<(Mono, usize, Vec<u8>)>,
    /// Everything that was ever sent, by receiver.
    recorded: [Vec<Vec<u8>>; 2],
    /// Whether the n-th datagram from now on is lost, by receiver.
    lose: fn(&mut Self, usize) -> bool,
    mask: u32,
    last_loss: Mono,
}

impl World {
    fn new() -> Self {
        Self {
            now: Mono::from_millis(1),
            lives: [None, None],
            wire: vec![],
            recorded: [vec![], vec![]],
            lose: |_, _| false,
            mask: 0,
            last_loss: Mono::ZERO,
        }
    }

    fn start(&mut self, node: usize, number: u128) {
        self.lives[node] = Some(Life::new(NodeId::BOTH[node], number, self.now));
        self.turn(node);
    }

    fn end(&mut self, node: usize) {
        self.lives[node] = None;
        self.wire.retain(|(_, to, _)| *to != node);
    }

    fn life(&self, node: usize) -> &Life {
        self.lives[node].as_ref().unwrap()
    }

    /// Whom this node takes for the peer's present life.
    fn trusts(&self, node: usize) -> Option<u128> {
        let current = self.life(node).opener.current();
        let peer = self.life(node).election.peer();
        assert_eq!(peer.map(|peer| peer.incarnation), current);
        current.map(|life| life.0)
    }

    fn agreed(&self) -> bool {
        [A, B].iter().all(|&node| {
            self.trusts(node) == self.lives[1 - node].as_ref().map(|life| life.incarnation.0)
        })
    }

    fn turn(&mut self, node: usize) {
        let now = self.now;
        let Some(life) = &mut self.lives[node] else {
            return;
        };
        let clock = life.clock(now);
        life.election.wake(clock);
        life.election.handle_timeout(clock);
        for bytes in life.send(now) {
            let to = 1 - node;
            self.recorded[to].push(bytes.clone());
            if (self.lose)(self, to) {
                self.last_loss = now;
            } else {
                self.wire.push((now + LATENCY, to, bytes));
            }
        }
    }

    fn deliver(&mut self, node: usize, bytes: &[u8]) {
        let now = self.now;
        if let Some(life) = &mut self.lives[node] {
            life.receive(bytes, now);
        }
        self.turn(node);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.wire.iter().map(|(at, ..)| *at).min();
            let timer = self.lives.iter().flatten().filter_map(|life| {
                let at = life.election.poll_timeout()?;
                Some(life.started + at.since(Mono::ZERO))
            });
            let next = timer.chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(at) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                let (_, to, bytes) = self.wire.remove(at);
                self.deliver(to, &bytes);
            } else {
                self.turn(A);
                self.turn(B);
            }
        }
        self.now = end;
    }
}

/// Loses what the bits of the mask say, the lowest first; nothing afterwards.
fn by_mask(world: &mut World, _to: usize) -> bool {
    let lost = world.mask & 1 == 1;
    world.mask >>= 1;
    lost
}

#[test]
fn two_fresh_nodes_trust_each_other_within_two_round_trips() {
    for apart in [0, 1, 2, 3, 40, 99] {
        let mut world = World::new();
        world.start(A, 1);
        world.pass(Duration::from_millis(apart));
        world.start(B, 2);
        world.pass(ROUND_TRIP * 2);
        assert!(world.agreed(), "{apart} ms apart");
    }
}

#[test]
fn a_new_life_is_trusted_within_two_round_trips_and_the_old_one_never_again() {
    let mut world = World::new();
    world.start(A, 1);
    world.start(B, 2);
    world.pass(Duration::from_millis(333));
    for number in 3..10 {
        world.end(B);
        world.pass(Duration::from_millis(17));
        world.start(B, number);
        world.pass(ROUND_TRIP * 2);
        assert!(world.agreed(), "life {number}");
        world.pass(Duration::from_millis(200));
    }
    for bytes in world.recorded[A].clone() {
        world.deliver(A, &bytes);
        assert_eq!(world.trusts(A), Some(9));
    }
}

#[test]
fn whatever_is_lost_at_first_the_next_interval_brings_trust() {
    for (known, mask) in [false, true]
        .into_iter()
        .flat_map(|k| (0..1 << 8).map(move |m| (k, m)))
    {
        let mut world = World::new();
        world.start(A, 1);
        if known {
            world.start(B, 2);
            world.pass(Duration::from_millis(250));
            world.end(B);
        }
        world.pass(Duration::from_millis(33));
        (world.lose, world.mask) = (by_mask, mask);
        world.last_loss = world.now;
        world.start(B, 3);
        while !world.agreed() {
            world.pass(LATENCY / 2);
            let waited = world.now.since(world.last_loss);
            assert!(
                waited <= INTERVAL + ROUND_TRIP * 2,
                "known {known}, mask {mask:b}: {waited:?} after the last loss"
            );
        }
    }
}

/// A and life 2 of B, of which nothing has reached A; A's heartbeats did reach it. Then it ended.
fn withheld(world: &mut World) -> Vec<Vec<u8>> {
    world.recorded[A].clear();
    world.lose = |_, to| to == A;
    world.start(B, 2);
    world.pass(Duration::from_millis(250));
    world.end(B);
    world.lose = |_, _| false;
    std::mem::take(&mut world.recorded[A])
}

#[test]
fn what_was_withheld_from_a_dead_life_retires_no_living_one() {
    let mut world = World::new();
    world.start(A, 1);
    let withheld = withheld(&mut world);
    world.start(B, 3);
    world.pass(ROUND_TRIP * 2);
    assert_eq!(world.trusts(A), Some(3));
    for bytes in withheld {
        world.deliver(A, &bytes);
        assert_eq!(world.trusts(A), Some(3));
    }
}

#[test]
fn what_was_withheld_for_long_proves_nothing_to_a_node_without_a_peer() {
    let mut world = World::new();
    world.start(A, 1);
    let withheld = withheld(&mut world);
    world.pass(PROOF_AGE);
    for bytes in withheld {
        world.deliver(A, &bytes);
        assert_eq!(world.trusts(A), None);
    }
}

#[test]
fn what_was_withheld_for_long_does_not_follow_a_dead_peer() {
    let mut world = World::new();
    world.start(A, 1);
    world.start(B, 9);
    world.pass(Duration::from_millis(250));
    world.end(B);
    let withheld = withheld(&mut world);
    world.pass(PROOF_AGE);
    for bytes in withheld {
        world.deliver(A, &bytes);
        assert_eq!(world.trusts(A), Some(9));
    }
    world.start(B, 3);
    world.pass(ROUND_TRIP * 2);
    assert!(world.agreed());
}

#[test]
fn an_echo_for_another_life_measures_nothing_and_refutes_nothing() {
    let mut world = World::new();
    world.start(A, 1);
    let withheld = withheld(&mut world);
    world.start(B, 3);
    world.pass(Duration::from_secs(5));
    // A answers each, and echoes a clock that is far behind that of life 3.
    for bytes in withheld {
        world.deliver(A, &bytes);
        world.pass(ROUND_TRIP);
    }
    assert_eq!(world.life(B).election.paths().worst_rtt(), ROUND_TRIP);

    let clock = world.life(B).clock(world.now);
    let election = &mut world.lives[B].as_mut().unwrap().election;
    election.session_closed(clock);
    let mut answer = election
        .heartbeat(PATH, false, Some(Incarnation(2)), Facts::default(), clock)
        .unwrap();
    answer.echo = Some(crate::wire::heartbeat::Echo {
        sent_at: clock.as_nanos(),
        held: 0,
    });
    election.handle_heartbeat(PATH, Incarnation(1), &answer, clock);
    assert_eq!(election.false_alarms(), 0);
    answer.hears = Some(Incarnation(3));
    election.handle_heartbeat(PATH, Incarnation(1), &answer, clock);
    assert_eq!(election.false_alarms(), 1);
}

#[test]
fn each_stranger_is_sent_its_own_time_stamp_or_none() {
    let mut life = Life::new(NodeId::First, 1, Mono::ZERO);
    let now = Mono::from_millis(50);
    let mut of = |number: u128, sent_at: u64| {
        let facts = Facts::default();
        let mut heartbeat = life
            .election
            .heartbeat(PATH, false, None, facts, now)
            .unwrap();
        heartbeat.sent_at = sent_at;
        life.election
            .handle_stranger(PATH, Incarnation(number), &heartbeat, true, now);
        [7, 8].map(|number| {
            let hears = Some(Incarnation(number));
            let heartbeat = life.election.heartbeat(PATH, true, hears, facts, now);
            heartbeat.unwrap().echo.map(|echo| echo.sent_at)
        })
    };
    assert_eq!(of(7, 70), [Some(70), None]);
    assert_eq!(of(8, 80), [None, Some(80)]);
}

#[test]
fn a_flood_of_recordings_makes_no_storm() {
    let mut world = World::new();
    world.start(A, 1);
    world.start(B, 2);
    world.pass(Duration::from_millis(250));
    world.end(B);
    world.start(B, 3);
    world.pass(Duration::from_millis(250));
    let before = world.recorded[B].len();
    for bytes in world.recorded[A].clone().iter().cycle().take(10_000) {
        world.deliver(A, bytes);
    }
    world.pass(ROUND_TRIP * 2);
    let sent = world.recorded[B].len() - before;
    assert!(sent < 20, "{sent} answers");
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u16),
    Restart(usize),
    Lose(u32),
    WithholdFrom(Option<usize>),
    Repeat(usize, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u16..400).prop_map(Step::Pass),
        2 => (0_usize..2).prop_map(Step::Restart),
        1 => any::<u32>().prop_map(Step::Lose),
        1 => prop::option::of(0_usize..2).prop_map(Step::WithholdFrom),
        8 => (0_usize..2, any::<prop::sample::Index>()).prop_map(|(to, n)| Step::Repeat(to, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever an attacker loses, withholds and repeats: whom a node begins to trust was alive a
    /// moment ago, and is younger than whom it trusted before. Left alone, the nodes agree.
    #[test]
    fn trust_only_moves_to_younger_lives_that_were_there_a_moment_ago(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        let mut ended = std::collections::BTreeMap::new();
        let mut number = 2;
        world.start(A, 1);
        world.start(B, 2);
        let mut trusted = [None, None];
        for step in steps {
            match step {
                Step::Pass(ms) => world.pass(Duration::from_millis(ms.into())),
                Step::Restart(node) => {
                    ended.insert(world.life(node).incarnation.0, world.now);
                    world.end(node);
                    world.pass(LATENCY * 3);
                    number += 1;
                    world.start(node, number);
                    trusted[node] = None;
                }
                Step::Lose(mask) => (world.lose, world.mask) = (by_mask, mask),
                Step::WithholdFrom(None) => world.lose = |_, _| false,
                Step::WithholdFrom(Some(A)) => world.lose = |_, to| to == A,
                Step::WithholdFrom(Some(_)) => world.lose = |_, to| to == B,
                Step::Repeat(to, n) => {
                    let recorded = &world.recorded[to];
                    let bytes = recorded[n.index(recorded.len())].clone();
                    world.deliver(to, &bytes);
                }
            }
            for node in [A, B] {
                let trusts = world.trusts(node);
                prop_assert!(trusts >= trusted[node], "{trusts:?} after {:?}", trusted[node]);
                if trusts != trusted[node] {
                    let gone = trusts.and_then(|life| ended.get(&life).copied());
                    // `Pass` looks away for 400 ms at most.
                    let limit = PROOF_AGE + Duration::from_millis(400);
                    prop_assert!(gone.is_none_or(|at| world.now.since(at) <= limit));
                    trusted[node] = trusts;
                }
            }
        }
        world.lose = |_, _| false;
        world.pass(INTERVAL + ROUND_TRIP * 2);
        prop_assert!(world.agreed());
    }
}
