//! What a backend's answers were like: the figures that `least_response_time` and `adaptive` need.
//!
//! A sample is the time of the connect plus the time from the client's first byte (from the
//! connect, if the backend speaks first) to the first byte of the answer. A connection whose connect
//! fails, or whose backend resets it before the first byte, is a failure.
//!
//! All workers write here, without locks: each figure is one atomic word.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// One backend's figures.
#[derive(Debug)]
pub struct Gauge {
    decay: Duration,
    peak: Peak,
    window: Window,
    /// Connections that have sent something and wait for the first byte of the answer.
    waiting: AtomicI32,
    /// Microseconds, smoothed over turns; an `f32`, 0 is none yet.
    pub(super) smooth: AtomicU32,
    /// Share of failures, smoothed; an `f32`.
    pub(super) errors: AtomicU32,
    /// Share of the weight that is left; an `f32`.
    pub(super) factor: AtomicU32,
}

/// Since the last turn.
#[derive(Debug, Default)]
struct Window {
    micros: AtomicU64,
    answers: AtomicU32,
    failures: AtomicU32,
}

/// What happened in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// First bytes of answers.
    pub answers: u32,
    /// Their mean response time, in microseconds.
    pub mean: f32,
    /// Connects that failed, and resets before the first byte.
    pub failures: u32,
    /// Connections that wait for their answer now.
    pub waiting: u32,
}

impl Gauge {
    /// Nothing was measured yet.
    pub fn new(decay: Duration) -> Self {
        Self {
            decay,
            peak: Peak(AtomicU64::new(0)),
            window: Window::default(),
            waiting: AtomicI32::new(0),
            smooth: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            factor: AtomicU32::new(1.0_f32.to_bits()),
        }
    }

    /// The backend took a connect. Counts only while nothing better is known.
    pub fn connected(&self, took: Duration, now: Duration) {
        self.peak.seed(micros(took), now);
    }

    /// Somebody waits for an answer from now on.
    pub fn asked(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// The first byte of the answer came after this long.
    pub fn answered(&self, took: Duration, now: Duration) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.sample(took, now);
    }

    /// The first byte of an answer that nobody had asked for.
    pub fn sample(&self, took: Duration, now: Duration) {
        let took = micros(took);
        self.peak.sample(took, now, self.decay);
        self.window.micros.fetch_add(took as u64, Ordering::Relaxed);
        self.window.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody does not wait any more, and no answer had come after this long. The response would
    /// have taken longer, which can only raise the figure.
    pub fn gave_up(&self, waited: Duration, now: Duration) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.peak.raise(micros(waited), now, self.decay);
    }

    /// A failure. For `least_response_time` it is a response that took `instead`, the limit of a
    /// connect: else a backend that refuses at once would be the fastest.
    pub fn failed(&self, instead: Duration, now: Duration) {
        self.peak.sample(micros(instead), now, self.decay);
        self.window.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The peak-EWMA of the response time now, in microseconds; none before the first sample.
    pub fn response_time(&self, now: Duration) -> Option<f32> {
        self.peak.now(now, self.decay)
    }

    /// Share of the weight that is left: 1 is all of it.
    pub fn factor(&self) -> f32 {
        f32::from_bits(self.factor.load(Ordering::Relaxed))
    }

    /// Ends the turn.
    pub(super) fn take(&self) -> Seen {
        let answers = self.window.answers.swap(0, Ordering::Relaxed);
        let micros = self.window.micros.swap(0, Ordering::Relaxed);
        Seen {
            answers,
            mean: micros as f32 / answers.max(1) as f32,
            failures: self.window.failures.swap(0, Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed).max(0) as u32,
        }
    }
}

fn micros(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e6
}

/// A peak-EWMA: rises at once with a slower sample; a faster one pulls it down by the share
/// `1 - exp(-t / decay)`, with `t` the time since the sample before; and without samples it falls by
/// `exp(-t / decay)`, so that a slow backend is tried again.
///
/// The word holds microseconds as an `f32` and, below, the time of the last sample in milliseconds
/// modulo 2^32. 0 is nothing yet.
#[derive(Debug)]
struct Peak(AtomicU64);

impl Peak {
    fn seed(&self, sample: f32, now: Duration) {
        let new = word(sample, now);
        let _ = (self.0).compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn sample(&self, sample: f32, now: Duration, decay: Duration) {
        let next = |old: u64| {
            let (cost, age) = split(old, now);
            let left = fade(age, decay);
            let eased = cost * left + sample * (1.0 - left);
            Some(word(if old == 0 { sample } else { sample.max(eased) }, now))
        };
        let _ = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// A sample that is a lower limit.
    fn raise(&self, sample: f32, now: Duration, decay: Duration) {
        let known = self.now(now, decay);
        if known.is_some_and(|known| sample > known) {
            self.sample(sample, now, decay);
        }
    }

    fn now(&self, now: Duration, decay: Duration) -> Option<f32> {
        let old = self.0.load(Ordering::Relaxed);
        let (cost, age) = split(old, now);
        (old != 0).then(|| cost * fade(age, decay))
    }
}

fn word(cost: f32, now: Duration) -> u64 {
    // Never 0, which means nothing.
    u64::from(cost.max(1.0).to_bits()) << 32 | u64::from(now.as_millis() as u32)
}

/// The figure, and how old it is.
fn split(word: u64, now: Duration) -> (f32, Duration) {
    let age = (now.as_millis() as u32).wrapping_sub(word as u32);
    // Another worker's clock may have been read a moment later: half the circle is the past.
    let age = if age > u32::MAX / 2 { 0 } else { age };
    (
        f32::from_bits((word >> 32) as u32),
        Duration::from_millis(age.into()),
    )
}

pub(super) fn fade(age: Duration, decay: Duration) -> f32 {
    (-age.as_secs_f32() / decay.as_secs_f32()).exp()
}

#[cfg(test)]
#[path = "gauge_test.rs"]
mod tests;
