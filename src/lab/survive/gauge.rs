//! What is counted while connections are at work, window by window. No clock: whoever counts says
//! what time it is.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::ends::{End, Ends, How, Trouble};
use crate::lab::load::{Failure, failure};
use crate::lab::verdict::ms;
use crate::net::clock::Clock;
use crate::time::Mono;

/// What a connection that stays is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::lab) enum Kind {
    /// Receives a stream.
    Download,
    /// Sends a stream.
    Upload,
    /// Asks, and asks again when it is answered.
    Requests,
    /// Is silent, and speaks once when it is told to.
    Idle,
}

impl Kind {
    pub(in crate::lab) const ALL: [Self; 4] =
        [Self::Download, Self::Upload, Self::Requests, Self::Idle];

    pub(in crate::lab) const fn name(self) -> &'static str {
        match self {
            Self::Download => "downloads",
            Self::Upload => "uploads",
            Self::Requests => "requests",
            Self::Idle => "idle",
        }
    }
}

/// One kind of connection in one window.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Connections that stood when the window ended.
    pub standing: usize,
    /// Connections that ended although nobody wanted it, by kind.
    pub lost: BTreeMap<Failure, u64>,
    /// Bytes that arrived and were not those that were sent.
    pub wrong_bytes: u64,
    /// Bytes that arrived, or messages that were answered.
    pub progress: u64,
    /// Longest time that a connection that waited for something waited for it, as its receiver saw
    /// it.
    pub stall_ms: f64,
}

impl Tally {
    /// All lost connections.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }
}

/// New connections in one window.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NewTally {
    /// That ended in this window, well or not.
    pub attempts: u64,
    /// That were not opened because too many were under way.
    pub skipped: u64,
    /// That failed before their handshake was complete: a client may try again.
    pub failed: BTreeMap<Failure, u64>,
    /// That were lost after it was.
    pub lost: BTreeMap<Failure, u64>,
    /// Handshakes that took longer than half a second: a segment was lost.
    pub delayed: u64,
    /// Handshakes that took longer than 100 ms: somebody may have noticed.
    pub late: u64,
    /// Longest handshake that was completed.
    pub handshake_ms: f64,
    /// Longest time from a question to its answer.
    pub answer_ms: f64,
}

impl NewTally {
    /// All that were lost after their handshake.
    pub fn lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// All that failed before.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// The connections of one kind.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// By number; since when it waits for something, if it does.
    open: BTreeMap<usize, Option<Mono>>,
    tally: Tally,
    longest: Duration,
    /// From this number on, the next part is due so long after the last came.
    paced: Option<(usize, Duration)>,
}

impl Gauge {
    /// The connection stands; nothing is due on it.
    pub(super) fn open(&mut self, n: usize) {
        self.open.insert(n, None);
    }

    /// From now on something is due.
    pub(super) fn expect(&mut self, n: usize, now: Mono) {
        if let Some(since) = self.open.get_mut(&n) {
            *since = Some(now);
        }
    }

    /// Some of what is due came, and more is.
    pub(super) fn progress(&mut self, n: usize, amount: u64, now: Mono) {
        self.tally.progress += amount;
        if let Some(Some(since)) = self.open.get_mut(&n) {
            self.longest = self.longest.max(now.since(*since));
            let pause = self.paced.filter(|(first, _)| n >= *first);
            *since = now + pause.map_or(Duration::ZERO, |(_, pause)| pause);
        }
    }

    /// All that was due came.
    pub(super) fn answered(&mut self, n: usize, now: Mono) {
        self.progress(n, 1, now);
        self.open(n);
    }

    /// Bytes came that nobody sent.
    pub(super) const fn wrong(&mut self, bytes: u64) {
        self.tally.wrong_bytes += bytes;
    }

    /// The connection ended, and nobody wanted it.
    pub(super) fn lose(&mut self, n: usize, failure: Failure) {
        self.open.remove(&n);
        *self.tally.lost.entry(failure).or_default() += 1;
    }

    /// The connection ended as it should.
    pub(super) fn close(&mut self, n: usize) {
        self.open.remove(&n);
    }

    pub(super) fn standing(&self) -> usize {
        self.open.len()
    }

    /// Ends the window. What is due and has not come yet counts as well.
    pub(super) fn take(&mut self, now: Mono) -> Tally {
        let waits = self.open.values().flatten().map(|since| now.since(*since));
        let longest = waits.max().unwrap_or_default().max(self.longest);
        self.longest = Duration::ZERO;
        let mut tally = std::mem::take(&mut self.tally);
        tally.standing = self.open.len();
        tally.stall_ms = ms(longest);
        tally
    }
}

/// Longest time in which nothing at all happened, in any thread.
#[derive(Debug, Default)]
struct Pulse {
    last_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Pulse {
    fn beat(&self, now: Mono) {
        let now = now.since(Mono::ZERO).as_micros() as u64;
        let before = self.last_us.fetch_max(now, Ordering::Relaxed);
        let gap = now.saturating_sub(before);
        self.longest_us.fetch_max(gap, Ordering::Relaxed);
    }

    fn take(&self, now: Mono) -> Duration {
        self.beat(now);
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }
}

/// Everything that one window shows.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Longest time in which nothing came through the VIP, on any connection: how long nobody
    /// served it.
    pub hole_ms: f64,
    /// Longest time that the tool itself was held up; it says nothing about shorter times.
    pub tool_stalled_ms: f64,
    /// Connections that receive a stream.
    pub downloads: Tally,
    /// Connections that send one.
    pub uploads: Tally,
    /// Connections that ask and wait for the answer, again and again.
    pub requests: Tally,
    /// Connections that were silent and spoke once after the fault.
    pub idle: Tally,
    /// Connections opened at a steady rate.
    pub new: NewTally,
}

impl Counts {
    /// The kinds of connections that stay.
    pub(in crate::lab) fn kinds(&self) -> [(Kind, &Tally); 4] {
        let tallies = [&self.downloads, &self.uploads, &self.requests, &self.idle];
        std::array::from_fn(|n| (Kind::ALL[n], tallies[n]))
    }
}

/// The gauges of all kinds, for all threads.
#[derive(Debug)]
pub(in crate::lab) struct Board {
    pub(in crate::lab) clock: Clock,
    pulse: Pulse,
    gauges: [Mutex<Gauge>; 4],
    new: Mutex<NewTally>,
    ends: Mutex<Ends>,
    stalled_us: AtomicU64,
}

impl Board {
    pub(in crate::lab) fn new(clock: Clock) -> Self {
        Self {
            clock,
            pulse: Pulse::default(),
            gauges: Default::default(),
            new: Mutex::default(),
            ends: Mutex::default(),
            stalled_us: AtomicU64::new(0),
        }
    }

    pub(super) fn of(&self, kind: Kind) -> MutexGuard<'_, Gauge> {
        lock(&self.gauges[kind as usize])
    }

    /// Answers, or bytes, of this window so far.
    pub(in crate::lab) fn answers(&self, kind: Kind) -> u64 {
        self.of(kind).tally.progress
    }

    /// Forgets connections of a run that was broken off.
    pub(super) fn reset(&self) {
        for kind in Kind::ALL {
            *self.of(kind) = Gauge::default();
        }
    }

    /// Streams from this number on send a part, and then none for so long.
    pub(super) fn pace(&self, first: usize, pause: Duration) {
        for kind in [Kind::Download, Kind::Upload] {
            self.of(kind).paced = Some((first, pause));
        }
    }

    pub(super) fn new_ones(&self) -> MutexGuard<'_, NewTally> {
        lock(&self.new)
    }

    /// A connection ended, and nobody wanted it.
    pub(super) fn lost(&self, kind: Kind, n: usize, error: &io::Error) {
        let (how, at) = (How::of(error), self.clock.now());
        lock(&self.ends).stayed(End { how, at });
        self.of(kind).lose(n, failure(error));
    }

    /// A new connection failed.
    pub(super) fn troubled(&self, trouble: Trouble) {
        lock(&self.ends).new_one(trouble);
    }

    /// Each end since this was last asked.
    pub(in crate::lab) fn take_ends(&self) -> Ends {
        std::mem::take(&mut *lock(&self.ends))
    }

    /// Something came through the VIP just now.
    pub(super) fn beat(&self) -> Mono {
        let now = self.clock.now();
        self.pulse.beat(now);
        now
    }

    /// Bytes of an upload arrived at its server.
    pub(super) fn uploaded(&self, n: usize, bytes: u64) {
        let now = self.beat();
        self.of(Kind::Upload).progress(n, bytes, now);
    }

    /// The tool was held up for so long.
    pub(super) fn stalled(&self, time: Duration) {
        let time = time.as_micros() as u64;
        self.stalled_us.fetch_max(time, Ordering::Relaxed);
    }

    /// Ends the window.
    pub(in crate::lab) fn take(&self) -> Counts {
        let now = self.clock.now();
        let take = |kind| self.of(kind).take(now);
        Counts {
            hole_ms: ms(self.pulse.take(now)),
            tool_stalled_ms: self.stalled_us.swap(0, Ordering::Relaxed) as f64 / 1e3,
            downloads: take(Kind::Download),
            uploads: take(Kind::Upload),
            requests: take(Kind::Requests),
            idle: take(Kind::Idle),
            new: std::mem::take(&mut *self.new_ones()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Mono {
        Mono::from_millis(ms)
    }

    #[test]
    fn a_stall_is_the_longest_wait_of_any_connection_for_what_is_due() {
        let mut gauge = Gauge::default();
        for n in 0..2 {
            gauge.open(n);
            gauge.expect(n, at(0));
        }
        gauge.progress(0, 10, at(5));
        gauge.progress(1, 10, at(30));
        gauge.answered(0, at(15));
        gauge.answered(1, at(35));
        gauge.expect(0, at(1_000));
        gauge.answered(0, at(1_008));
        let tally = gauge.take(at(2_000));
        assert!(
            (tally.stall_ms - 30.0).abs() < 1e-9,
            "silence between questions is none"
        );
        assert_eq!((tally.standing, tally.progress), (2, 23));
        assert!(gauge.take(at(3_000)).stall_ms < 1e-9, "a new window");
    }

    #[test]
    fn the_pause_of_a_paced_stream_is_no_stall() {
        let mut gauge = Gauge {
            paced: Some((1, Duration::from_millis(40))),
            ..Gauge::default()
        };
        for n in 0..2 {
            gauge.open(n);
            gauge.expect(n, at(0));
            gauge.progress(n, 10, at(0));
        }
        gauge.progress(1, 10, at(55));
        assert!((gauge.take(at(55)).stall_ms - 55.0).abs() < 1e-9);
        gauge.progress(0, 10, at(56));
        gauge.close(0);
        gauge.take(at(56));
        gauge.progress(1, 10, at(140));
        assert!((gauge.take(at(140)).stall_ms - 45.0).abs() < 1e-9);
    }

    #[test]
    fn what_never_comes_counts_until_now_and_what_is_lost_does_not() {
        let mut gauge = Gauge::default();
        for n in 0..2 {
            gauge.open(n);
            gauge.expect(n, at(0));
        }
        assert!((gauge.take(at(100)).stall_ms - 100.0).abs() < 1e-9);
        gauge.lose(0, Failure::Reset);
        gauge.close(1);
        gauge.progress(0, 3, at(150));
        let tally = gauge.take(at(200));
        assert!(tally.stall_ms < 1e-9);
        assert_eq!((tally.standing, tally.lost()), (0, 1));
        assert_eq!(tally.lost, BTreeMap::from([(Failure::Reset, 1)]));
    }

    #[test]
    fn a_hole_is_the_longest_time_without_any_sign() {
        let pulse = Pulse::default();
        pulse.beat(at(10));
        pulse.take(at(10));
        for ms in [11, 13, 40, 41] {
            pulse.beat(at(ms));
        }
        // Another thread read its clock earlier and came later.
        pulse.beat(at(39));
        assert_eq!(pulse.take(at(50)), Duration::from_millis(27));
        assert_eq!(pulse.take(at(90)), Duration::from_millis(40), "to the end");
    }
}
