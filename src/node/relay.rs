//! What passes between the nodes at layer 2: when this node takes what its peer hands over
//! (*accept*), and when it hands over what it does not know (*second chance*).
//!
//! A node that is not master hands over what belongs to the master; that is the program's own rule.
//! The node decides the exceptions:
//!
//! | | holds while |
//! |---|---|
//! | accept | this node relays, is backup and does not stop, and its peer was master when it was heard last |
//! | asks | it accepts, and the peer has not been heard for so long that its process hangs or is dead ([`Election::stall`](crate::config::Election::stall)) |
//! | yields | this node is master, both relay, and the peer is about to take over in order: what it is told now it may not know by then, and what is not decided goes to it, also what it has handed over itself |
//! | second chance | this node is master, both relay, and one of: |
//! | (a) drain | the mastership came in order, and the peer has not said since that nothing is left there |
//! | (b) dead host | no [`FROZEN`] ago this node took over from a master that fell silent, or found none at its start; the peer did not resign, and its host said within [`GRACE`] that nobody listens |
//! | (b) silence | it is less than [`GRACE`] ago that this node took over from a master that fell silent |
//! | (c) restart | after (b) the peer is back in another life, not in sync yet, for [`RESTART`] at most |
//!
//! (a) ends when the peer has been silent for [`GRACE`], or lives another life: its connections are
//! gone. (b) is for what only the dead master knew: its program goes on with that. A node that starts
//! and finds no master cannot know that one died just before, or that it relays; so it asks a
//! host where nobody listens, as if. (c) is for what a restarted one has inherited and not told yet.
//!
//! The refusals of (b) are not authenticated. They decide about nothing but packets that nobody
//! knows here, while the peer is silent.

use std::time::Duration;

use super::drain::SETTLE;
use super::{Node, Timer};
use crate::balance::nat::{NatCommand, Relay};
use crate::election::Peer;
use crate::model::{Incarnation, Role};
use crate::status::{Cause, DrainStatus};
use crate::time::Mono;

/// How long the program of a dead process goes on with its connections (`FROZEN` there).
const FROZEN: Duration = Duration::from_secs(60);
/// How long a sign of the peer's death counts, and how long its silence may last while it drains.
const GRACE: Duration = Duration::from_secs(2);
/// How long a restarted peer may take until it is in sync.
const RESTART: Duration = Duration::from_secs(10);
/// A peer whose last connections end so close to its `drain_timeout` has reset them.
const CLOSE: Duration = Duration::from_millis(500);

/// What the node keeps of the relay.
#[derive(Debug, Default)]
pub(super) struct RelayBook {
    works: bool,
    told: Relay,
    /// The peer's host said last that nobody listens there.
    refused_at: Option<Mono>,
    /// This node took over from a master that fell silent.
    silent_at: Option<Mono>,
    /// The same, or it became master since none was there.
    alone_at: Option<Mono>,
    /// The peer came back in another life.
    restarted_at: Option<Mono>,
    /// The life of the peer that was seen last, and whether (b) held then.
    life: Option<Incarnation>,
    dead: bool,
    handed: Option<Handed>,
}

/// The former master, which handed over in order, and what it has left.
#[derive(Clone, Copy, Debug)]
struct Handed {
    life: Option<Incarnation>,
    at: Mono,
    /// It was heard as no master any more.
    since: Option<Mono>,
    left: u32,
    most: u32,
    /// Reset by its `drain_timeout`, or by its death.
    cut: u32,
    over: Option<Mono>,
}

/// Everything that the rules look at.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    works: bool,
    role: Role,
    handing_over: bool,
    stopping: bool,
    /// The peer's, when it was heard last.
    peer: Option<Role>,
    peer_relays: bool,
    peer_resigns: bool,
    peer_in_sync: bool,
    /// Not heard for so long that it hangs or is dead.
    peer_silent: bool,
    alive: bool,
    /// It handed over in order, and is not known to have nothing left.
    drains: bool,
    refused: bool,
    fell_silent: bool,
    restarted: bool,
}

impl Sight {
    /// The table of the module.
    fn relay(&self) -> Relay {
        let second_chance = self.drains || self.dead() || self.restarts();
        let accept = self.works
            && self.role == Role::Backup
            && !self.stopping
            && self.peer == Some(Role::Master);
        Relay {
            accept,
            asks: accept && self.peer_relays && self.peer_silent,
            second_chance: second_chance && self.leads(),
            yields: self.handing_over && self.leads(),
        }
    }

    fn leads(&self) -> bool {
        // Of one that was never heard, or not since it has begun, nobody knows.
        let unknown = matches!(self.peer, None | Some(Role::Initialize));
        let peer_relays = self.peer_relays || unknown;
        self.works && peer_relays && self.role == Role::Master
    }

    const fn dead(&self) -> bool {
        self.refused && !self.alive && !self.peer_resigns || self.fell_silent
    }

    fn restarts(&self) -> bool {
        self.restarted
            && self.alive
            && !self.peer_in_sync
            && matches!(self.peer, Some(Role::Initialize | Role::Backup))
    }
}

impl RelayBook {
    /// The relay works here.
    pub(super) const fn works(&self) -> bool {
        self.works
    }

    /// What the data path was told last.
    pub(super) const fn told(&self) -> Relay {
        self.told
    }

    /// The peer's host said that nobody listens on its heartbeat port.
    pub(super) const fn refused(&mut self, now: Mono) {
        self.refused_at = Some(now);
    }

    /// This node became master.
    pub(super) fn took_over(&mut self, cause: Cause, peer: Option<&Peer>, now: Mono) {
        self.left();
        match cause {
            Cause::Handover | Cause::Preempt | Cause::Stop | Cause::Resigned => {
                self.handed = Some(Handed {
                    life: peer.map(|peer| peer.incarnation),
                    at: now,
                    since: None,
                    left: 0,
                    most: 0,
                    cut: 0,
                    over: None,
                });
            }
            Cause::HeartbeatsLost | Cause::ProcessDied if peer.is_some() => {
                (self.silent_at, self.alone_at) = (Some(now), Some(now));
            }
            // Of a peer that was never heard it is not known that it fell silent.
            Cause::Alone | Cause::HeartbeatsLost => self.alone_at = Some(now),
            _ => {}
        }
    }

    /// This node is master no more.
    pub(super) const fn left(&mut self) {
        self.handed = None;
        self.silent_at = None;
        self.alone_at = None;
        self.restarted_at = None;
    }

    /// What the peer has left of its connections, or had when that ended.
    pub(super) fn status(&self, timeout: Duration, now: Mono) -> Option<DrainStatus> {
        let handed = self.handed?;
        let since = handed.since.unwrap_or(handed.at);
        let cut_in = (since + timeout).since(now).as_millis() as u64;
        Some(DrainStatus {
            left: handed.over.map_or(handed.left, |_| 0).into(),
            of: handed.most.into(),
            cut_in_ms: handed.over.is_none().then_some(cut_in),
            took_ms: handed.over.unwrap_or(now).since(since).as_millis() as u64,
            cut: handed.cut.into(),
        })
    }

    /// The rules see this; and when they may see something else although nothing happens.
    fn look(&mut self, sight: Sight, peer: Option<&Peer>, timeout: Duration, now: Mono) -> Sight {
        let mut sight = sight;
        if let (Some(handed), Some(peer)) = (&mut self.handed, peer) {
            handed.look(peer, timeout, now);
        }
        let recent = |at: Option<Mono>, time| at.is_some_and(|at| now < at + time);
        sight.drains = self.handed.is_some_and(|handed| handed.over.is_none());
        sight.refused = recent(self.refused_at, GRACE) && recent(self.alone_at, FROZEN);
        sight.fell_silent = recent(self.silent_at, GRACE);
        let life = peer.map(|peer| peer.incarnation);
        let before = std::mem::replace(&mut self.life, life);
        if before != life && (self.dead || sight.dead()) {
            self.restarted_at = Some(now);
        }
        if sight.alive && sight.peer_in_sync {
            self.restarted_at = None;
        }
        sight.restarted = recent(self.restarted_at, RESTART);
        self.dead = sight.role == Role::Master && sight.dead();
        sight
    }

    /// When a rule may end by the time alone.
    fn next(&self, peer: Option<&Peer>, now: Mono) -> Option<Mono> {
        let open = self.handed.filter(|handed| handed.over.is_none());
        [
            self.refused_at.map(|at| at + GRACE),
            self.silent_at.map(|at| at + GRACE),
            self.alone_at.map(|at| at + FROZEN),
            self.restarted_at.map(|at| at + RESTART),
            open.and_then(|handed| Some(handed.since? + SETTLE)),
            open.and_then(|_| Some(peer?.last_heard + GRACE)),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
    }
}

impl Handed {
    fn look(&mut self, peer: &Peer, timeout: Duration, now: Mono) {
        if self.over.is_some() {
            return;
        }
        let silent = peer.dead || now >= peer.last_heard + GRACE;
        if silent || self.life != Some(peer.incarnation) {
            (self.over, self.cut) = (Some(now), self.left);
            return;
        }
        if peer.role == Role::Master {
            // It has not heard yet that the addresses are here.
            return;
        }
        let since = *self.since.get_or_insert(now);
        if peer.left > 0 {
            self.cut = 0;
        } else if self.left > 0 && now + CLOSE >= since + timeout {
            self.cut = self.left;
        }
        self.left = peer.left;
        self.most = self.most.max(peer.left);
        if peer.left == 0 && now >= since + SETTLE {
            self.over = Some(now);
        }
    }
}

impl Node {
    /// Whether the relay works here.
    pub(super) fn set_relaying(&mut self, works: bool) {
        let works = works && self.config.cluster.relay;
        if std::mem::replace(&mut self.relay.works, works) != works {
            self.election.tell_peer();
        }
    }

    /// Tells the data path what has changed.
    pub(super) fn run_relay(&mut self, now: Mono) {
        let peer = self.election.peer();
        let stall = self.config.election.stall();
        let stalled_at = peer.map(|peer| peer.last_heard + stall);
        let sight = Sight {
            works: self.relay.works,
            role: self.role(),
            handing_over: self.handover.is_some() || self.election.handing_over(),
            stopping: self.stopping,
            peer: peer.map(|peer| peer.role),
            peer_relays: peer.is_some_and(|peer| peer.relays),
            peer_resigns: peer.is_some_and(|peer| peer.resigns),
            peer_in_sync: peer.is_some_and(|peer| peer.in_sync),
            peer_silent: stalled_at.is_some_and(|at| now >= at),
            alive: self.election.live_peer(now).is_some(),
            ..Sight::default()
        };
        let timeout = self.config.proxy.drain_timeout;
        let relay = self.relay.look(sight, peer, timeout, now).relay();
        let next = match sight.role {
            Role::Master => self.relay.next(peer, now),
            Role::Backup => stalled_at.filter(|at| *at > now),
            _ => None,
        };
        match next {
            Some(at) => self.timers.set(Timer::Relay, at),
            None => self.timers.stop(Timer::Relay),
        }
        if std::mem::replace(&mut self.relay.told, relay) != relay {
            self.tell_nat(NatCommand::Relay(relay));
        }
    }
}

#[cfg(test)]
#[path = "relay_test.rs"]
mod tests;
