//! A simulation: backends with capacities serve what the effective weights send them, in steps of a
//! second. Pure and seeded.

use std::time::Duration;

use crate::balance::scheduler::fixture::route_of;
use crate::balance::{Picks, Route};
use crate::config::Balance;
use crate::model::Scheduler;

/// A queue with one server (M/M/1): the response time grows with the load.
#[derive(Clone, Copy)]
struct Server {
    /// Milliseconds for one request without others.
    service: f64,
    /// Requests a second that it can serve.
    capacity: f64,
    /// Share that fails.
    failing: f64,
}

const GOOD: Server = Server {
    service: 20.0,
    capacity: 1_000.0,
    failing: 0.0,
};

struct World {
    route: Route,
    servers: Vec<Server>,
    rng: fastrand::Rng,
    now: u64,
    rate: usize,
}

impl World {
    fn new(weights: &[u16], rate: usize) -> Self {
        Self {
            route: route_of(Balance::from(Scheduler::Adaptive), weights),
            servers: vec![GOOD; weights.len()],
            rng: fastrand::Rng::with_seed(3),
            now: 0,
            rate,
        }
    }

    /// One second; the factors after it, and the shares in it.
    fn second(&mut self) -> (Vec<f32>, Vec<f64>) {
        let mut counts = vec![0.0; self.servers.len()];
        let now = Duration::from_millis(self.now);
        for _ in 0..self.rate {
            let mut picks = Picks::new([192, 0, 2, 1].into());
            counts[picks.next(&self.route, now, &mut self.rng).unwrap()] += 1.0;
        }
        for ((server, count), target) in (self.servers.iter().zip(&counts)).zip(self.route.pool()) {
            let load = (count / server.capacity).min(0.98);
            for _ in 0..*count as usize {
                if self.rng.f64() < server.failing {
                    target.gauge().unwrap().failed(Duration::from_secs(2), now);
                    continue;
                }
                // Exponentially distributed, as in such a queue.
                let mean = server.service / (1.0 - load);
                let took = -mean * (1.0 - self.rng.f64()).ln() / 1e3;
                target
                    .gauge()
                    .unwrap()
                    .sample(Duration::from_secs_f64(took), now);
            }
        }
        self.now += 1_000;
        self.route.adapt(Duration::from_millis(self.now));
        let factors = self
            .route
            .pool()
            .iter()
            .map(|it| it.gauge().unwrap().factor());
        let shares = counts.iter().map(|count| count / self.rate as f64);
        (factors.collect(), shares.collect())
    }

    fn seconds(&mut self, count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|_| self.second().0).collect()
    }
}

/// The widest swing of one factor over these seconds.
fn swing(history: &[Vec<f32>], place: usize) -> f32 {
    let of = || history.iter().map(|factors| factors[place]);
    of().fold(0.0, f32::max) - of().fold(1.0, f32::min)
}

/// How often the direction changes by more than noise.
fn turns(history: &[Vec<f32>], place: usize) -> usize {
    let mut turns = 0;
    let (mut low, mut high, mut rising) = (f32::MAX, f32::MIN, None);
    for factors in history {
        let it = factors[place];
        low = low.min(it);
        high = high.max(it);
        if rising != Some(true) && it > low + 0.05 {
            turns += usize::from(rising.is_some());
            (rising, high) = (Some(true), it);
        } else if rising != Some(false) && it < high - 0.05 {
            turns += usize::from(rising.is_some());
            (rising, low) = (Some(false), it);
        }
    }
    turns
}

#[test]
fn equal_backends_keep_their_weights() {
    let mut world = World::new(&[3, 2, 1], 600);
    for (n, factors) in world.seconds(120).into_iter().enumerate() {
        assert!(
            factors.iter().all(|factor| *factor > 0.9),
            "{n}: {factors:?}"
        );
    }
    let (_, shares) = world.second();
    for (share, expected) in shares.iter().zip([3.0 / 6.0, 2.0 / 6.0, 1.0 / 6.0]) {
        assert!((share - expected).abs() < 0.03, "{shares:?}");
    }
}

#[test]
fn a_slow_backend_loses_weight_without_oscillation_and_gets_it_back() {
    let mut world = World::new(&[1; 4], 600);
    world.seconds(60);
    world.servers[1].service *= 5.0;
    let fall = world.seconds(120);
    let settled = &fall[60..];
    let factor = settled.last().unwrap()[1];
    // Five times slower than the middle: 1.25 / 5, a little more for the slack and the lower load.
    assert!((0.2..0.35).contains(&factor), "{factor}");
    assert!(swing(settled, 1) < 0.06, "{}", swing(settled, 1));
    assert_eq!(turns(&fall, 1), 0, "one way down");
    for place in [0, 2, 3] {
        assert!(settled.iter().all(|factors| factors[place] > 0.9));
    }
    world.servers[1].service = GOOD.service;
    let rise = world.seconds(120);
    assert_eq!(turns(&rise, 1), 0, "one way up");
    assert!(rise.last().unwrap()[1] > 0.95);
    let steps = rise.windows(2).map(|pair| pair[1][1] - pair[0][1]);
    assert!(steps.fold(0.0, f32::max) <= 0.051, "slow start");
}

#[test]
fn a_backend_that_gets_too_much_settles_where_its_queue_does() {
    // Its response time depends on its share: a rule with too much gain would swing.
    let mut world = World::new(&[1; 3], 900);
    world.seconds(60);
    world.servers[2].capacity = 320.0;
    let history = world.seconds(240);
    let settled = &history[120..];
    assert!(swing(settled, 2) < 0.12, "{}", swing(settled, 2));
    let (_, shares) = world.second();
    assert!(shares[2] * 900.0 < 300.0, "below its capacity: {shares:?}");
    assert!(turns(settled, 2) <= 3, "{}", turns(settled, 2));
}

#[test]
fn a_failing_backend_goes_to_the_floor_and_comes_back() {
    let mut world = World::new(&[1; 3], 300);
    world.seconds(30);
    world.servers[0].failing = 0.9;
    let fall = world.seconds(90);
    assert!(fall.last().unwrap()[0] <= 0.11, "{:?}", fall.last());
    assert_eq!(turns(&fall, 0), 0);
    let (_, shares) = world.second();
    assert!(shares[0] > 0.03, "the floor keeps it measured: {shares:?}");
    world.servers[0].failing = 0.0;
    let rise = world.seconds(120);
    assert!(rise.last().unwrap()[0] > 0.95);
    assert_eq!(turns(&rise, 0), 0);
}

#[test]
fn all_slow_together_moves_nobody() {
    let mut world = World::new(&[1; 3], 300);
    world.seconds(30);
    for server in &mut world.servers {
        server.service *= 20.0;
    }
    for factors in world.seconds(120) {
        assert!(factors.iter().all(|factor| *factor > 0.85), "{factors:?}");
    }
}

#[test]
fn a_backend_that_never_answers_is_seen() {
    let mut world = World::new(&[1; 3], 300);
    world.seconds(30);
    for _ in 0..60 {
        // Its clients wait.
        world.route.pool()[1].gauge().unwrap().asked();
    }
    for _ in 0..60 {
        let now = Duration::from_millis(world.now);
        for place in [0, 2] {
            let gauge = world.route.pool()[place].gauge().unwrap();
            gauge.sample(Duration::from_millis(20), now);
        }
        world.now += 1_000;
        world.route.adapt(Duration::from_millis(world.now));
    }
    let factor = world.route.pool()[1].gauge().unwrap().factor();
    assert!(factor <= 0.11, "{factor}");
}
