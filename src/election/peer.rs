//! What is known of the peer: its present life, and whether that has just ended.

use std::time::Duration;

use crate::model::{ConfigHash, Epoch, Incarnation, Priority, Role};
use crate::time::Mono;
use crate::wire::heartbeat::{Echo, Heartbeat};

/// Probes that follow each other quickly before the slower rhythm.
const FAST_PROBES: u32 = 4;
/// Least distance between two refusals, and between the first probes.
pub(super) const PROBE_GAP: Duration = Duration::from_millis(1);
/// Between later probes: hosts limit the rate of ICMP errors (Linux `icmp_ratelimit`).
const SLOW_PROBE_GAP: Duration = Duration::from_millis(50);

/// The peer's present life, as its heartbeats tell.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Which life.
    pub incarnation: Incarnation,
    /// When it was heard last.
    pub last_heard: Mono,
    /// When it last said that it hears us.
    pub heard_us: Option<Mono>,
    /// It was proved dead: its host answers that nobody listens.
    pub dead: bool,
    /// Since when it claims the mastership while we are master too.
    pub rival_since: Option<Mono>,
    /// Its role.
    pub role: Role,
    /// The highest epoch it knows, or its own.
    pub epoch: Epoch,
    /// Its priority.
    pub priority: Priority,
    /// Its advertisement interval.
    pub interval: Duration,
    /// Its configuration.
    pub config_hash: ConfigHash,
    /// How many times it began to hold the VIPs.
    pub ownerships: u32,
    /// Its replica equals ours.
    pub in_sync: bool,
    /// It stops or gives up.
    pub resigns: bool,
    /// Its relay works.
    pub relays: bool,
    /// Proxied connections that it serves without being master.
    pub left: u32,
}

impl Peer {
    /// A life that has just been confirmed.
    pub(super) fn new(incarnation: Incarnation, heartbeat: &Heartbeat, now: Mono) -> Self {
        Self {
            incarnation,
            last_heard: now,
            heard_us: None,
            dead: false,
            rival_since: None,
            role: heartbeat.role,
            epoch: heartbeat.epoch,
            priority: heartbeat.priority,
            interval: heartbeat.interval,
            config_hash: heartbeat.config_hash,
            ownerships: heartbeat.ownerships,
            in_sync: heartbeat.in_sync,
            resigns: heartbeat.resigns,
            relays: heartbeat.relays,
            left: heartbeat.left,
        }
    }

    /// Takes over what its newest heartbeat says.
    pub(super) fn update(&mut self, heartbeat: &Heartbeat, me: Incarnation, now: Mono) {
        self.last_heard = now;
        self.dead = false;
        if heartbeat.hears == Some(me) {
            self.heard_us = Some(now);
        }
        if heartbeat.role != Role::Master {
            self.rival_since = None;
        }
        self.role = heartbeat.role;
        self.epoch = heartbeat.epoch;
        self.priority = heartbeat.priority;
        self.interval = heartbeat.interval;
        self.config_hash = heartbeat.config_hash;
        self.ownerships = heartbeat.ownerships;
        self.in_sync = heartbeat.in_sync;
        self.resigns = heartbeat.resigns;
        self.relays = heartbeat.relays;
        self.left = heartbeat.left;
    }
}

/// The peer's process may have died: its session closed, or its host said that nobody listens.
///
/// Neither is authenticated, so both only raise the question. It is answered by a heartbeat that
/// echoes one of ours sent after the suspicion arose (alive), or by two refusals that lie apart,
/// with no heartbeat between them (dead). Otherwise the heartbeats run out as usual.
#[derive(Clone, Debug)]
pub(super) struct Suspicion {
    pub(super) since: Mono,
    probes: u32,
    first_refusal: Option<Mono>,
}

impl Suspicion {
    pub(super) const fn new(now: Mono) -> Self {
        Self {
            since: now,
            probes: 0,
            first_refusal: None,
        }
    }

    /// Counts a probe and gives the time until the next. Refusals must lie `apart`, and so must the
    /// probes that bring them; a little more, since a refusal may come late.
    pub(super) fn probed(&mut self, apart: Duration) -> Duration {
        self.probes += 1;
        if self.probes < FAST_PROBES {
            apart + apart / 8
        } else {
            SLOW_PROBE_GAP.max(apart)
        }
    }

    /// The peer's host said that nobody listens. True when that proves the death.
    pub(super) fn refused(&mut self, now: Mono, apart: Duration) -> bool {
        match self.first_refusal {
            None => {
                self.first_refusal = Some(now);
                false
            }
            Some(first) => now.since(first) >= apart,
        }
    }

    /// A heartbeat came that does not settle the question: it may have been on its way.
    pub(super) const fn heard_something(&mut self) {
        self.first_refusal = None;
    }

    /// Whether a heartbeat with this echo was written after the suspicion arose.
    pub(super) fn refuted_by(&self, echo: Option<Echo>) -> bool {
        echo.is_some_and(|echo| echo.sent_at >= self.since.as_nanos())
    }
}
