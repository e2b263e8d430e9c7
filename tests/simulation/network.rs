//! What lies between the two machines: heartbeat paths and the session's stream, each direction
//! by itself.

use std::time::Duration;

use super::faults::{Faults, Kind};
use super::rng::Rng;

pub const PATHS: usize = 2;
/// A stream over a cut network is given up after this long (`TCP_USER_TIMEOUT`).
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// One direction of one path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    pub cut: bool,
    pub loss_percent: u64,
}

#[derive(Debug)]
pub struct Network {
    /// `links[from][path]`.
    pub links: [[Link; PATHS]; 2],
    /// Datagrams that somebody recorded: (from, path, bytes).
    pub recorded: Vec<(usize, usize, Vec<u8>)>,
    faults: Faults,
}

impl Network {
    pub fn new(faults: Faults, rng: &mut Rng) -> Self {
        let mut links = [[Link::default(); PATHS]; 2];
        if faults.has(Kind::Loss) {
            for link in links.iter_mut().flatten() {
                link.loss_percent = rng.below(31);
            }
        }
        Self {
            links,
            recorded: Vec::new(),
            faults,
        }
    }

    /// When, after now, copies of a datagram arrive; none if it is lost.
    pub fn deliveries(&mut self, from: usize, path: usize, rng: &mut Rng) -> Vec<Duration> {
        let link = self.links[from][path];
        if link.cut || rng.chance(link.loss_percent) {
            return Vec::new();
        }
        let copies = if self.faults.has(Kind::Reorder) && rng.chance(5) {
            2
        } else {
            1
        };
        (0..copies).map(|_| self.delay(rng)).collect()
    }

    fn delay(&self, rng: &mut Rng) -> Duration {
        let slow = self.faults.has(Kind::Reorder) && rng.chance(10);
        let most = if slow { 30_000 } else { 400 };
        rng.between(Duration::from_micros(50), Duration::from_micros(most))
    }

    /// Keeps a few datagrams for later replay.
    pub fn record(&mut self, from: usize, path: usize, bytes: &[u8], rng: &mut Rng) {
        if self.faults.has(Kind::Attacker) && rng.chance(2) && self.recorded.len() < 500 {
            self.recorded.push((from, path, bytes.to_vec()));
        }
    }

    /// The stream uses the first path.
    pub fn stream_passes(&self) -> bool {
        self.links.iter().all(|links| !links[0].cut)
    }

    pub fn heal(&mut self) {
        self.links = Default::default();
        self.faults = Faults::NONE;
    }
}
