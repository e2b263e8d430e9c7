//! When this node may forward, accept and hand over: the leases by which its program acts.
//!
//! Owns: until when each holds. Never: reads a clock, writes anything; whoever has the program's
//! tables writes [`Leases::rights`] there after each call.
//!
//! | lease | begins | goes on at each turn | ends at once |
//! |---|---|---|---|
//! | forward | `Lead`; frozen: at the start, if the process before led | always | `Yield`; frozen: this node hears that it is not master |
//! | accept, second chance | `Relay` says so | always | `Relay` says otherwise |
//!
//! Frozen is the first one while nobody knows who leads, and while this node hands over.
//!
//! Invariants: none holds for longer than its length after the last turn; none is written again
//! before an eighth of it has passed, unless something changes. Handshakes wait for the standby's
//! word only in the first part of a lease: a process that has not turned for so long hangs, and its
//! clients would wait until it is dead.

use std::time::Duration;

use super::{NatCommand, Relay};
use crate::model::Role;

/// What the program may do, and until when: `CLOCK_MONOTONIC`, nanoseconds. Zero: not at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// Forward until then.
    pub until: u64,
    /// New connections wait for the standby's word until then.
    pub waits: u64,
    /// Only what is decided already.
    pub frozen: bool,
    /// And what is not decided is the peer's already, which is about to lead.
    pub offered: bool,
    /// Take what the peer hands over.
    pub accept: u64,
    /// Hand what is not known here to the peer.
    pub second: u64,
}

/// The leases of one process.
#[derive(Clone, Debug)]
pub struct Leases {
    /// For how long each is given.
    length: Duration,
    /// The part of it in which handshakes wait.
    waits: Duration,
    /// Until when each holds, on `CLOCK_MONOTONIC`; none: it does not.
    until: Option<Duration>,
    accept: Option<Duration>,
    second: Option<Duration>,
    /// The process that was here before led. As long as nobody knows who leads now, its connections
    /// go on, and none begins: where its peer leads, no packet comes here.
    inherits: bool,
    /// This node hands over: it decides nothing any more.
    yields: bool,
}

impl Leases {
    /// Of a process that starts now. `waits`: how long a process may go without a turn and is not
    /// thought to hang; at most `length`. `led`: the one before it left a lease that it had not given
    /// back.
    pub fn start(length: Duration, waits: Duration, led: bool, now: Duration) -> Self {
        Self {
            length,
            waits: waits.min(length),
            until: led.then(|| now + length),
            accept: None,
            second: None,
            inherits: led,
            yields: false,
        }
    }

    /// The node wants this.
    pub fn command(&mut self, command: &NatCommand, now: Duration) {
        match command {
            NatCommand::Lead => {
                self.inherits = false;
                self.until = Some(now + self.length);
            }
            NatCommand::Yield => self.lapse(),
            NatCommand::Relay(relay) => self.relay(*relay, now),
            _ => {}
        }
    }

    /// The node has made a turn, and is this now.
    pub fn turned(&mut self, role: Role, now: Duration) {
        // A master leads once its addresses are there.
        if self.inherits && !matches!(role, Role::Initialize | Role::Master) {
            self.lapse();
        }
        let (end, least) = (now + self.length, self.length * 7 / 8);
        let due =
            |until: Option<Duration>| until.is_some_and(|until| until.saturating_sub(now) < least);
        for until in [&mut self.until, &mut self.accept, &mut self.second] {
            if due(*until) {
                *until = Some(end);
            }
        }
    }

    /// What the program's tables are to say.
    pub fn rights(&self) -> Rights {
        let nanos = |until: Option<Duration>| until.map_or(0, |until| until.as_nanos() as u64);
        Rights {
            until: nanos(self.until),
            waits: nanos(self.until.map(|until| until - self.length + self.waits)),
            frozen: self.until.is_some() && (self.inherits || self.yields),
            offered: self.until.is_some() && self.yields,
            accept: nanos(self.accept),
            second: nanos(self.second),
        }
    }

    /// The program forwards, by right of this process's own mastership.
    pub const fn leads(&self) -> bool {
        self.until.is_some() && !self.inherits
    }

    /// Begins these, or goes on with them.
    fn relay(&mut self, relay: Relay, now: Duration) {
        let until = |on: bool| on.then_some(now + self.length);
        (self.accept, self.second) = (until(relay.accept), until(relay.second_chance));
        self.yields = relay.yields;
    }

    fn lapse(&mut self) {
        (self.until, self.inherits, self.yields) = (None, false, false);
    }
}

#[cfg(test)]
#[path = "leases_test.rs"]
mod tests;
