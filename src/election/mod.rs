//! Who is master.
//!
//! Owns: the role, the epoch, what is known of the peer, the heartbeat's rhythm. Never: sends
//! anything, touches an address; it says what is to be done ([`Action`]).
//!
//! ```text
//!              a master is heard            peer silent, dead, resigned,
//!  Initialize ------------------> Backup    or it handed over
//!      |                           |  ^ \-----------------------> Master
//!      | nobody heard for one      |  |   rival with a better        |
//!      | master-down interval      |  |   claim, handed over,        |
//!      +---------------------------|--|-- paused, unheard <----------+
//!                      link down   v  | link up                      |
//!                                 Fault <----------------------------+
//! ```
//!
//! | role | event | becomes | cause |
//! |---|---|---|---|
//! | initialize | a present master is heard | backup | `MasterHeard` |
//! | initialize | master-down interval without one | master | `Alone` |
//! | backup | master-down interval without a heartbeat of the master | master | `HeartbeatsLost` |
//! | backup | the master's process is proved dead | master | `ProcessDied` |
//! | backup | the master resigns, or is in fault | master | `Resigned` |
//! | backup | the master hands over | master | `Handover`, `Preempt`, `Stop` |
//! | master | a rival with a better (epoch, priority, address) | backup | `Rival` |
//! | master | a rival that has not heard us for a master-down interval | backup | `Unheard` |
//! | master | the peer has seen a later epoch, and is no master | master | `EpochRaised` |
//! | master | the peer took what was handed over | backup | `Handover`, `Preempt`, `Stop` |
//! | master | did not run for as long as the peer waits | backup | `Paused` |
//! | any | an interface or the kernel fails | fault | `Fault` |
//! | fault | nothing is wrong any more | backup | `Recovered` |
//! | any | stop | initialize | `Stop` |
//!
//! Invariants: the epoch never falls; every mastership has an epoch of its own, higher than any
//! that this node knew; heartbeats of an unconfirmed life never move a node that knows its peer.
//! `lives` says how a life is confirmed.

mod lives;
mod paths;
mod peer;
mod rules;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::config;
use crate::model::{Epoch, Incarnation, NodeId, PathId, Priority, Role};
use crate::status::Cause;
use crate::time::{Mono, TimerTable};
use crate::wire::heartbeat::Heartbeat;
use crate::wire::replication::HandoverCause;

pub use paths::{Path, Paths};
pub use peer::Peer;
use peer::Suspicion;
use rules::cause_of;

/// A turn that comes this much after its deadline says that the node did not run.
const LATE: Duration = Duration::from_millis(10);

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Something that an operator should know.
    Note(String),
    /// Tell the neighbours again: somebody else may have told them otherwise.
    Reannounce,
    /// The role changed. Comes before anything that the new role sends.
    Role(Change),
    /// Send a heartbeat on this path.
    Send {
        /// The path.
        path: PathId,
        /// Ask for an answer.
        answer: bool,
        /// A stranger that it answers, instead of the present peer: it says to hear that one.
        hears: Option<Incarnation>,
    },
}

/// A change of role.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Before.
    pub from: Role,
    /// After.
    pub to: Role,
    /// The epoch after it; of the mastership that ends, if one does.
    pub epoch: Epoch,
    /// Why.
    pub cause: Cause,
    /// One sentence.
    pub text: String,
    /// From the last sign of the peer's life to this decision.
    pub detection: Option<Duration>,
}

/// What only the other machines know and heartbeats tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// How many times this node began to hold the VIPs.
    pub ownerships: u32,
    /// The replica equals the master's state.
    pub in_sync: bool,
    /// The relay works here.
    pub relays: bool,
    /// Proxied connections that are served without being master.
    pub left: u32,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Down,
    HandoverEnd,
    Heartbeat,
    Probe,
}

/// A handover that has been offered and not yet taken.
#[derive(Clone, Copy, Debug)]
struct Offer {
    epoch: Epoch,
    cause: HandoverCause,
    /// The peer's count before; it rises when the peer holds the addresses.
    ownerships: u32,
}

/// The election, as one node sees it.
#[derive(Debug)]
pub struct Election {
    rules: config::Election,
    priority: Priority,
    peer_priority: Priority,
    /// Whether this node wins among equal priorities (the higher address, RFC 9568, 6.4.3).
    wins_ties: bool,
    incarnation: Incarnation,
    config_hash: crate::model::ConfigHash,
    role: Role,
    /// The highest epoch known; while master, the own one or that of a rival.
    known: Epoch,
    /// The epoch of this node's mastership, while it is master.
    own: Epoch,
    faults: BTreeSet<String>,
    stopping: bool,
    /// Left by an operator's wish: no preemption until the peer dies or hands back.
    stood_down: bool,
    peer: Option<Peer>,
    suspicion: Option<Suspicion>,
    offer: Option<Offer>,
    paths: Paths,
    answered: Vec<Option<Mono>>,
    last_sent: Mono,
    /// This node did not run for a while: until then, what comes may have waited in its sockets.
    backlog_until: Mono,
    /// The end of a silence came late and was put off, once.
    deferred: bool,
    false_alarms: u64,
    timers: TimerTable<Timer>,
    actions: VecDeque<Action>,
}

impl Election {
    /// A node that has just started and listens for a master.
    pub fn new(config: &config::Config, me: NodeId, incarnation: Incarnation, now: Mono) -> Self {
        let (mine, peers) = (config.node(me), config.node(me.peer()));
        let mut election = Self {
            rules: config.election.clone(),
            priority: mine.priority,
            peer_priority: peers.priority,
            wins_ties: mine.addresses > peers.addresses,
            incarnation,
            config_hash: config.hash,
            role: Role::Initialize,
            known: Epoch::default(),
            own: Epoch::default(),
            faults: BTreeSet::new(),
            stopping: false,
            stood_down: false,
            peer: None,
            suspicion: None,
            offer: None,
            paths: Paths::new(mine.addresses.len()),
            answered: vec![None; mine.addresses.len()],
            last_sent: now,
            backlog_until: now,
            deferred: false,
            false_alarms: 0,
            timers: TimerTable::default(),
            actions: VecDeque::new(),
        };
        election.timers.set(Timer::Heartbeat, now);
        let down = election.down_interval(true);
        election.timers.set(Timer::Down, now + down);
        election
    }

    /// The role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The own epoch while master, else the highest known.
    pub const fn epoch(&self) -> Epoch {
        match self.role {
            Role::Master => self.own,
            _ => self.known,
        }
    }

    /// Why the role is `Fault`.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().map(String::as_str)
    }

    /// The peer's present life, if one was ever confirmed.
    pub const fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// The peer, if it was heard within its timeout and is not proved dead.
    pub fn live_peer(&self, now: Mono) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| {
            !peer.dead && now.since(peer.last_heard) <= self.silence_limit(peer.interval)
        })
    }

    /// Whether heartbeats pass both ways.
    pub fn hears_each_other(&self, now: Mono) -> bool {
        self.live_peer(now).is_some_and(|peer| {
            peer.heard_us
                .is_some_and(|at| now.since(at) <= self.silence_limit(peer.interval))
        })
    }

    /// The heartbeat paths.
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Closed sessions and refusals whose peer turned out to be alive.
    pub const fn false_alarms(&self) -> u64 {
        self.false_alarms
    }

    /// Heartbeats tell this configuration from now on.
    pub const fn tell_config(&mut self, hash: crate::model::ConfigHash) {
        self.config_hash = hash;
    }

    /// Whether a handover has been offered and not yet taken.
    pub const fn handing_over(&self) -> bool {
        self.offer.is_some()
    }

    /// Whether this backup should take the mastership back, apart from being in sync.
    pub fn wants_preempt(&self, now: Mono) -> bool {
        self.rules.preempt
            && self.role == Role::Backup
            && !self.stopping
            && !self.stood_down
            && self.better_claim()
            && self.hears_each_other(now)
            && self
                .peer
                .as_ref()
                .is_some_and(|peer| peer.role == Role::Master)
    }

    /// When to be woken.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The heartbeat to send now on this path.
    pub fn heartbeat(
        &mut self,
        path: PathId,
        answer: bool,
        hears: Option<Incarnation>,
        facts: Facts,
        now: Mono,
    ) -> Option<Heartbeat> {
        let (path_sequence, echo) = self.paths.get_mut(path)?.send(hears, now);
        let hears = hears.or_else(|| self.live_peer(now).map(|peer| peer.incarnation));
        Some(Heartbeat {
            path,
            path_sequence,
            role: self.role,
            epoch: self.epoch(),
            priority: self.priority,
            interval: self.rules.heartbeat,
            config_hash: self.config_hash,
            hears,
            ownerships: facts.ownerships,
            in_sync: facts.in_sync,
            resigns: self.stopping && self.role != Role::Master || self.role == Role::Fault,
            relays: facts.relays,
            left: facts.left,
            answer,
            sent_at: now.as_nanos(),
            echo,
        })
    }

    /// Send on every path now, beside the rhythm: something changed that the peer should know.
    pub fn tell_peer(&mut self) {
        for (path, _) in self.paths.iter() {
            self.actions.push_back(Action::Send {
                path,
                answer: false,
                hears: None,
            });
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Mono) {
        let late = |at| now.since(at) > LATE;
        let late = !self.deferred && self.timers.at(Timer::Down).is_some_and(late);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                // What would end the silence may wait in the sockets: that is looked at first.
                Timer::Down if late && !self.deferred => {
                    self.deferred = true;
                    self.timers.set(Timer::Down, now + LATE);
                }
                Timer::Heartbeat => {
                    self.last_sent = now;
                    self.timers
                        .set(Timer::Heartbeat, now + self.rules.heartbeat);
                    self.tell_peer();
                }
                Timer::Down => self.peer_is_silent(now),
                Timer::HandoverEnd => self.offer_was_not_taken(now),
                Timer::Probe => self.probe(now),
            }
        }
    }

    /// Call first in every turn. True when the node did not run for so long that a master must
    /// step down before it looks at anything: the peer may have taken over.
    pub fn wake(&mut self, now: Mono) -> bool {
        let paused = now.since(self.last_sent) > self.silence_limit(self.rules.heartbeat);
        if !paused {
            return false;
        }
        let gap = now.since(self.last_sent);
        self.last_sent = now;
        self.backlog_until = now + self.silence_limit(self.rules.heartbeat);
        self.timers.set(Timer::Heartbeat, now);
        self.suspicion = None;
        self.timers.stop(Timer::Probe);
        match self.role {
            Role::Master => self.leave(
                Role::Backup,
                Cause::Paused,
                format!("this node did not run for {} ms", gap.as_millis()),
                now,
            ),
            Role::Backup | Role::Initialize => self.listen_again(now),
            Role::Fault => {}
        }
        true
    }

    /// An authentic heartbeat of the confirmed life came.
    pub fn handle_heartbeat(
        &mut self,
        path: PathId,
        life: Incarnation,
        heartbeat: &Heartbeat,
        now: Mono,
    ) {
        // First, so that whatever follows is later than what the peer has seen.
        self.known = self.known.max(heartbeat.epoch);
        let before = match &mut self.peer {
            Some(peer) if peer.incarnation == life => {
                let before = peer.clone();
                peer.update(heartbeat, self.incarnation, now);
                Some(before)
            }
            _ => self.new_life(life, heartbeat, now),
        };
        self.paths.receive(path, heartbeat, self.incarnation, now);
        if heartbeat.answer {
            self.answer(path, None, now);
        }
        self.weigh_suspicion(heartbeat);
        self.judge(before.as_ref(), heartbeat, now);
        self.expect_the_next(heartbeat, now);
    }

    /// The replication session closed, or could not be kept.
    pub fn session_closed(&mut self, now: Mono) {
        if self.live_peer(now).is_some() {
            self.suspect(now);
        }
    }

    /// The peer's host said that nobody listens on the heartbeat port.
    pub fn port_closed(&mut self, now: Mono) {
        if self.live_peer(now).is_none() {
            return;
        }
        if self.suspicion.is_none() {
            self.suspect(now);
        }
        let apart = self.refusals_apart();
        let proved = self
            .suspicion
            .as_mut()
            .is_some_and(|suspicion| suspicion.refused(now, apart));
        if proved {
            self.peer_died(now);
        }
    }

    /// Something makes a mastership impossible (or not any more). Named, so that several can hold.
    pub fn set_fault(&mut self, what: &str, present: bool, now: Mono) {
        if present {
            let new = self.faults.insert(what.to_owned());
            if self.role == Role::Master {
                self.leave(Role::Fault, Cause::Fault, what.to_owned(), now);
            } else if new && self.role != Role::Fault {
                self.change(Role::Fault, Cause::Fault, what.to_owned(), None);
            }
        } else if self.faults.remove(what) && self.faults.is_empty() && self.role == Role::Fault {
            let text = format!("over: {what}");
            self.change(Role::Backup, Cause::Recovered, text, None);
            self.listen_again(now);
            self.tell_peer();
        }
    }

    /// As master: offers the mastership to the peer and says under which epoch. The node goes on
    /// as master until the peer holds the addresses.
    pub fn offer(&mut self, cause: HandoverCause, now: Mono) -> Option<Epoch> {
        let ownerships = self.live_peer(now)?.ownerships;
        if self.role != Role::Master || self.offer.is_some() {
            return None;
        }
        let epoch = self.known.max(self.own).next();
        self.offer = Some(Offer {
            epoch,
            cause,
            ownerships,
        });
        let patience = self.silence_limit(self.rules.heartbeat) * 2;
        self.timers.set(Timer::HandoverEnd, now + patience);
        Some(epoch)
    }

    /// As backup: the master handed over. False if that cannot be: the offer is stale.
    pub fn take_offer(&mut self, epoch: Epoch, cause: HandoverCause, now: Mono) -> bool {
        if self.role != Role::Backup || self.stopping || epoch <= self.known {
            return false;
        }
        self.become_master(
            epoch,
            cause_of(cause),
            "the master handed over".into(),
            None,
            now,
        );
        true
    }

    /// Never take over again; as master, give up now (unless an offer is out).
    pub fn stop(&mut self, now: Mono) {
        self.stopping = true;
        match self.role {
            Role::Master if self.offer.is_some() => {}
            Role::Master => self.leave(Role::Initialize, Cause::Stop, "stopping".into(), now),
            _ => {
                self.timers.stop(Timer::Down);
                self.tell_peer();
            }
        }
    }
}

#[cfg(test)]
mod handshake_test;
#[cfg(test)]
mod tests;
