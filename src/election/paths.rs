//! The heartbeat paths: counting, loss and round trip, for each path by itself.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Incarnation, PathId};
use crate::time::Mono;
use crate::wire::heartbeat::{Echo, Heartbeat};

/// Heartbeats over which the present loss is computed.
const LOSS_WINDOW: usize = 100;

/// What is known of one path.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats received and accepted.
    pub received: u64,
    /// Heartbeats missing in the peer's count.
    pub lost: u64,
    /// Those of them that came later.
    pub late: u64,
    /// When one was received last.
    pub last_heard: Option<Mono>,
    /// Smoothed round trip (RFC 6298, 2: gain 1/8).
    pub rtt: Option<Duration>,
    last_sequence: Option<u64>,
    recent: VecDeque<bool>,
    heard: Option<Stamp>,
    stranger: Option<(Incarnation, Stamp)>,
}

/// A time stamp to be echoed, and when it came.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    sent_at: u64,
    came: Mono,
}

impl Stamp {
    const fn of(heartbeat: &Heartbeat, now: Mono) -> Self {
        Self {
            sent_at: heartbeat.sent_at,
            came: now,
        }
    }
}

impl Path {
    /// Share of the last heartbeats that were lost, in percent.
    pub fn loss_percent(&self) -> f64 {
        if self.recent.is_empty() {
            return 0.0;
        }
        let lost = self.recent.iter().filter(|arrived| !**arrived).count();
        lost as f64 * 100.0 / self.recent.len() as f64
    }

    /// Counts one to be sent, to the present peer or to a stranger: its number on this path and the
    /// echo that it carries.
    pub fn send(&mut self, stranger: Option<Incarnation>, now: Mono) -> (u64, Option<Echo>) {
        self.sent += 1;
        let stamp = match stranger {
            None => self.heard,
            Some(life) => self
                .stranger
                .filter(|(from, _)| *from == life)
                .map(|(_, stamp)| stamp),
        };
        let echo = stamp.map(|Stamp { sent_at, came }| Echo {
            sent_at,
            held: now.since(came).as_nanos() as u64,
        });
        (self.sent, echo)
    }

    fn receive(&mut self, heartbeat: &Heartbeat, me: Incarnation, now: Mono) {
        self.received += 1;
        self.last_heard = Some(now);
        self.heard = Some(Stamp::of(heartbeat, now));
        let sequence = heartbeat.path_sequence;
        match self.last_sequence {
            Some(last) if sequence > last => {
                let missing = sequence - last - 1;
                self.lost += missing;
                for _ in 0..missing.min(LOSS_WINDOW as u64) {
                    self.note(false);
                }
                self.note(true);
                self.last_sequence = Some(sequence);
            }
            // It was overtaken by a later one and already counted as lost.
            Some(_) => {
                self.lost = self.lost.saturating_sub(1);
                self.late += 1;
            }
            None => {
                self.note(true);
                self.last_sequence = Some(sequence);
            }
        }
        if let Some(echo) = heartbeat.echo_for(me) {
            let sample = now.since(Mono::from_nanos(echo.sent_at.saturating_add(echo.held)));
            self.rtt = Some(self.rtt.map_or(sample, |smooth| (smooth * 7 + sample) / 8));
        }
    }

    fn note(&mut self, arrived: bool) {
        if self.recent.len() == LOSS_WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(arrived);
    }
}

/// All paths.
#[derive(Clone, Debug, Default)]
pub struct Paths(Vec<Path>);

impl Paths {
    /// As many as are configured.
    pub fn new(count: usize) -> Self {
        Self(vec![Path::default(); count])
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = (PathId, &Path)> {
        (0..).map(PathId).zip(&self.0)
    }

    /// The path with this id, if it is configured.
    pub fn get_mut(&mut self, path: PathId) -> Option<&mut Path> {
        self.0.get_mut(usize::from(path.0))
    }

    /// An authentic heartbeat of the present peer came.
    pub fn receive(&mut self, path: PathId, heartbeat: &Heartbeat, me: Incarnation, now: Mono) {
        if let Some(path) = self.get_mut(path) {
            path.receive(heartbeat, me, now);
        }
    }

    /// An authentic heartbeat of another life came; the answer echoes it.
    pub fn receive_stranger(
        &mut self,
        path: PathId,
        life: Incarnation,
        heartbeat: &Heartbeat,
        now: Mono,
    ) {
        if let Some(path) = self.get_mut(path) {
            path.stranger = Some((life, Stamp::of(heartbeat, now)));
        }
    }

    /// The peer began a new life: its counts start again.
    pub fn new_life(&mut self) {
        for path in &mut self.0 {
            path.last_sequence = None;
            path.heard = None;
        }
    }

    /// The slowest known round trip.
    pub fn worst_rtt(&self) -> Duration {
        self.0
            .iter()
            .filter_map(|path| path.rtt)
            .max()
            .unwrap_or_default()
    }
}
