//! The heartbeat: what each node tells the other, many times a second, on every path.
//!
//! Both nodes send. The master's heartbeats are VRRP's advertisements; the backup's tell the
//! master that it is heard. `docs/protocol.md` describes the datagram.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{ConfigHash, Epoch, Incarnation, PathId, Priority, Role};

/// One heartbeat. Who sent it, and in which order, is in the seal's header.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Heartbeat {
    /// The path it was sent on.
    pub path: PathId,
    /// Count of heartbeats sent on this path; gaps are losses.
    pub path_sequence: u64,
    /// The sender's role.
    pub role: Role,
    /// The highest epoch the sender knows; its own, if it is master.
    pub epoch: Epoch,
    /// The sender's priority.
    pub priority: Priority,
    /// The sender's advertisement interval, from which the receiver computes its timeouts.
    pub interval: Duration,
    /// The sender's configuration.
    pub config_hash: ConfigHash,
    /// "I hear you": the receiver's incarnation, if the sender heard it within its timeout, on any
    /// path. Proves that the sender is alive *now* when it names the receiver's present life.
    pub hears: Option<Incarnation>,
    /// How many times the sender began to hold the VIPs in this life. A change tells the peer that
    /// neighbours may have been told otherwise (keepalived #166).
    pub ownerships: u32,
    /// The sender's replica equals the master's state as far as it knows.
    pub in_sync: bool,
    /// The sender gives up its mastership, or stops: take over now (VRRP's priority 0).
    pub resigns: bool,
    /// The sender's relay works: it hands to the receiver what belongs there.
    pub relays: bool,
    /// Proxied connections that the sender, which is not master, still serves.
    pub left: u32,
    /// Please answer at once on this path.
    pub answer: bool,
    /// The sender's clock, in nanoseconds of its own life, to be echoed.
    pub sent_at: u64,
    /// The newest `sent_at` heard on this path from the life that `hears` names, and how long it
    /// was held before this answer. Means nothing to any other life: the clock is not its own.
    pub echo: Option<Echo>,
}

impl Heartbeat {
    /// The echo, if it is meant for this life.
    pub fn echo_for(&self, life: Incarnation) -> Option<Echo> {
        self.echo.filter(|_| self.hears == Some(life))
    }
}

/// A returned time stamp: from it the receiver computes the round trip.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Echo {
    /// The receiver's own `sent_at`.
    pub sent_at: u64,
    /// Nanoseconds between its arrival and this answer.
    pub held: u64,
}
