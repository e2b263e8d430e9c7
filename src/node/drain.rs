//! Draining: the proxied connections of a mastership that ended in order stay here until they end.
//!
//! Only where both nodes relay: the new master hands their packets over (its *second chance*). What
//! is left after `drain_timeout` is reset.
//!
//! | while it drains | then |
//! |---|---|
//! | the last connection ends | the drain is over, a [`SETTLE`] after its beginning at the earliest |
//! | `drain_timeout` passes | what is left is reset |
//! | this node becomes master again | the connections are its own again |
//! | this node comes into fault | what is left is reset |
//! | told to stop | it drains on, and then stops |
//! | told to stop a second time | what is left is reset |
//!
//! Invariants: never while this node is master; `kept` holds the proxied connections of a node that
//! is not master, and is empty on a master, whose log has them.

use std::time::Duration;

use super::io::Output;
use super::{Node, Timer};
use crate::model::{Epoch, Role};
use crate::replication::Replica;
use crate::status::DrainStatus;
use crate::time::Mono;

/// A drain lasts so long at least: a connection that was accepted in the last moment is told of only
/// when a backend has taken it.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// What the node keeps of its drain.
#[derive(Debug, Default)]
pub(super) struct DrainBook {
    present: Option<Drain>,
    /// How the last one ended, until the next mastership.
    last: Option<DrainStatus>,
    /// This node's proxied connections while it is not master.
    pub(super) kept: Replica,
    /// Told to stop twice.
    impatient: bool,
}

#[derive(Clone, Copy, Debug)]
struct Drain {
    /// The mastership that ended.
    epoch: Epoch,
    since: Mono,
    until: Mono,
    /// From then on "none is known" means that there is none.
    settled: Mono,
    /// The most connections there were.
    most: u64,
}

impl DrainBook {
    /// A drain is under way.
    pub(super) const fn is_on(&self) -> bool {
        self.present.is_some()
    }

    /// The present drain, or how the last one ended. `left`: the connections there are.
    pub(super) fn status(&self, left: u64, now: Mono) -> Option<DrainStatus> {
        let Some(drain) = &self.present else {
            return self.last.clone();
        };
        Some(DrainStatus {
            left,
            of: drain.most.max(left),
            cut_in_ms: Some(drain.until.since(now).as_millis() as u64),
            took_ms: now.since(drain.since).as_millis() as u64,
            cut: 0,
        })
    }
}

impl Node {
    /// Connections that this node drains; none: it does not.
    pub fn draining(&self) -> Option<u64> {
        self.drain.is_on().then_some(self.flows.len() as u64)
    }

    /// Told to stop, and not ended yet.
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The proxied connections that are served here although this node is not master.
    pub(super) fn left(&self) -> u32 {
        match self.role() {
            Role::Master => 0,
            _ if !self.relay.works() => 0,
            _ => u32::try_from(self.flows.len()).unwrap_or(u32::MAX),
        }
    }

    /// Whether the connections may stay here when the mastership goes in order.
    pub(super) fn can_drain(&self, now: Mono) -> bool {
        let mut services = self.config.services.iter();
        let peer = self.election.live_peer(now);
        !self.config.proxy.drain_timeout.is_zero()
            && !self.drain.impatient
            && self.relay.works()
            && peer.is_some_and(|peer| peer.relays && !peer.resigns)
            && services.any(|service| service.kernel.is_none())
    }

    /// The mastership of this epoch has ended, and these connections stay.
    pub(super) fn begin_drain(&mut self, epoch: Epoch, kept: Replica, now: Mono) {
        let timeout = self.config.proxy.drain_timeout;
        let most = self.flows.len() as u64;
        self.drain.kept = kept;
        self.drain.present = Some(Drain {
            epoch,
            since: now,
            until: now + timeout,
            settled: now + SETTLE,
            most,
        });
        self.timers.set(Timer::Drain, now + timeout);
        self.timers.set(Timer::Settle, now + SETTLE);
        self.timers.stop(Timer::StopAnyway);
        if most > 0 {
            let most = connections(most);
            let limit = humantime::format_duration(timeout);
            let text = format!("keeps {most} until they end, for {limit} at most");
            self.note(text, now);
        }
    }

    /// Connections are to be told again, so that some are not known now.
    pub(super) fn unsettle(&mut self, now: Mono) {
        if let Some(drain) = &mut self.drain.present {
            drain.settled = now + SETTLE;
            self.timers.set(Timer::Settle, drain.settled);
        }
    }

    /// Notices that nothing is left: then true.
    pub(super) fn run_drain(&mut self, now: Mono) -> bool {
        let Some(drain) = &mut self.drain.present else {
            return false;
        };
        drain.most = drain.most.max(self.flows.len() as u64);
        if !self.flows.is_empty() || now < drain.settled {
            return false;
        }
        if drain.most > 0 {
            let took = now.since(drain.since).as_secs_f64();
            let most = connections(drain.most);
            self.note(format!("{most} drained in {took:.1} s"), now);
        }
        self.end_drain(0, now);
        true
    }

    /// Resets what is left, if this node drains.
    pub(super) fn cut_drain(&mut self, why: &str, now: Mono) {
        let Some(drain) = &self.drain.present else {
            return;
        };
        let (epoch, cut) = (drain.epoch, self.flows.len() as u64);
        self.outputs.push_back(Output::DropFlows { epoch });
        self.flows.clear();
        if cut > 0 {
            let most = connections(drain.most.max(cut));
            self.note(format!("reset {cut} of {most}: {why}"), now);
        }
        self.end_drain(cut, now);
    }

    fn end_drain(&mut self, cut: u64, now: Mono) {
        let Some(drain) = self.drain.present.take() else {
            return;
        };
        self.timers.stop(Timer::Drain);
        self.timers.stop(Timer::Settle);
        self.attic.put(std::mem::take(&mut self.drain.kept));
        self.drain.last = Some(DrainStatus {
            left: 0,
            of: drain.most,
            cut_in_ms: None,
            took_ms: now.since(drain.since).as_millis() as u64,
            cut,
        });
        self.election.tell_peer();
        if self.stopping {
            self.stopped();
        }
    }

    /// This node is master: the connections that it has are its own, and go into its log.
    pub(super) fn resume_flows(&mut self, now: Mono) -> Replica {
        self.drain.last = None;
        if self.drain.present.take().is_some() {
            self.timers.stop(Timer::Drain);
            self.timers.stop(Timer::Settle);
            if !self.flows.is_empty() {
                let left = connections(self.flows.len() as u64);
                self.note(format!("master again of the {left} that it drained"), now);
            }
        }
        std::mem::take(&mut self.drain.kept)
    }

    /// Told to stop again: nothing is waited for any more.
    pub(super) fn hurry(&mut self, now: Mono) {
        self.drain.impatient = true;
        self.cut_drain("this node was told to stop twice", now);
    }
}

fn connections(n: u64) -> String {
    format!("{n} connection{}", if n == 1 { "" } else { "s" })
}
