//! The decisions behind the table of the module above.

use std::time::Duration;

use super::peer::{PROBE_GAP, Suspicion};
use super::{Action, Change, Election, Peer, Timer};
use crate::model::{Epoch, Role};
use crate::status::Cause;
use crate::time::Mono;
use crate::wire::heartbeat::Heartbeat;
use crate::wire::replication::HandoverCause;

/// Bounds of an interval that the peer may name (those of the configuration).
const INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

/// The cause that both nodes write down.
pub(super) const fn cause_of(cause: HandoverCause) -> Cause {
    match cause {
        HandoverCause::Operator => Cause::Handover,
        HandoverCause::Preempt => Cause::Preempt,
        HandoverCause::Stop => Cause::Stop,
    }
}

impl Election {
    /// After this much silence the peer counts as not heard.
    pub(super) fn silence_limit(&self, interval: Duration) -> Duration {
        interval.clamp(INTERVALS.0, INTERVALS.1) * u32::from(self.rules.misses)
    }

    /// How long to wait for a master. `contested`: no master was there, so that both nodes may be
    /// waiting, and the one with the lesser claim leaves the other half an interval more.
    pub(super) fn down_interval(&self, contested: bool) -> Duration {
        let interval = self
            .peer
            .as_ref()
            .map_or(self.rules.heartbeat, |peer| peer.interval)
            .clamp(INTERVALS.0, INTERVALS.1);
        let skew = self.rules.skew(self.priority, interval);
        let others = self.rules.skew(self.peer_priority, interval);
        let wait = if contested && !self.better_claim() {
            skew.max(others + interval / 2)
        } else {
            skew
        };
        self.silence_limit(interval) + wait
    }

    /// Whether this node comes first among two that start together.
    pub(super) fn better_claim(&self) -> bool {
        (self.priority, self.wins_ties) > (self.peer_priority, !self.wins_ties)
    }

    pub(super) fn listen_again(&mut self, now: Mono) {
        if !self.stopping {
            let contested = self
                .peer
                .as_ref()
                .is_none_or(|peer| peer.role != Role::Master);
            self.deferred = false;
            self.timers
                .set(Timer::Down, now + self.down_interval(contested));
        }
    }

    /// What a heartbeat of the present peer means for the role.
    pub(super) fn judge(&mut self, before: Option<&Peer>, heartbeat: &Heartbeat, now: Mono) {
        let master = heartbeat.role == Role::Master;
        match self.role {
            Role::Master if master => self.contest(heartbeat, now),
            Role::Master if heartbeat.epoch > self.own => self.raise_epoch(heartbeat.epoch),
            Role::Master => {
                // A rival that gave up, or owned the addresses meanwhile, has told the neighbours
                // that they live there (keepalived #166).
                let claimed = before.is_some_and(|before| {
                    before.role == Role::Master || before.ownerships != heartbeat.ownerships
                });
                if claimed {
                    self.actions.push_back(Action::Reannounce);
                }
            }
            Role::Initialize if master && !self.stopping => {
                self.change(
                    Role::Backup,
                    Cause::MasterHeard,
                    format!("the peer is master of epoch {}", heartbeat.epoch),
                    None,
                );
                self.listen_again(now);
            }
            Role::Backup if master => self.listen_again(now),
            Role::Backup if heartbeat.resigns => {
                // From the backlog of a pause it may be old news; then the silence decides.
                let was_master = before.is_some_and(|before| before.role == Role::Master);
                if was_master && now >= self.backlog_until {
                    self.take_over(Cause::Resigned, "the master resigned", None, now);
                }
            }
            Role::Backup | Role::Initialize | Role::Fault => {}
        }
    }

    /// The peer, no master itself, knows of a later mastership than ours: its own, of which it
    /// stepped down unheard. Ours goes on, under an epoch that nobody has seen.
    fn raise_epoch(&mut self, seen: Epoch) {
        self.own = self.known.max(seen).next();
        self.known = self.own;
        self.offer = None;
        self.timers.stop(Timer::HandoverEnd);
        let text = format!(
            "the peer has seen epoch {seen}; this mastership goes on as {}",
            self.own
        );
        self.push_change(Role::Master, self.own, Cause::EpochRaised, text, None);
        self.tell_peer();
    }

    /// Two masters hear of each other: the better (epoch, priority, address) stays.
    fn contest(&mut self, heartbeat: &Heartbeat, now: Mono) {
        if let Some(offer) = self.offer.filter(|offer| offer.epoch == heartbeat.epoch) {
            if heartbeat.ownerships != offer.ownerships {
                self.stood_down = offer.cause == HandoverCause::Operator;
                let to = if self.stopping {
                    Role::Initialize
                } else {
                    Role::Backup
                };
                let text = format!("the peer took over with epoch {}", offer.epoch);
                self.leave(to, cause_of(offer.cause), text, now);
            }
            return;
        }
        let mine = (self.own, self.priority, self.wins_ties);
        let theirs = (heartbeat.epoch, heartbeat.priority, !self.wins_ties);
        if theirs > mine {
            let even = mine.0 == theirs.0 && mine.1 == theirs.1;
            let text = format!(
                "the peer is master too, and its claim (epoch {}, priority {}{}) is better than ours (epoch {}, priority {})",
                heartbeat.epoch,
                heartbeat.priority.0,
                if even { ", the higher address" } else { "" },
                self.own,
                self.priority.0
            );
            self.leave(Role::Backup, Cause::Rival, text, now);
            return;
        }
        let hears_us = heartbeat.hears == Some(self.incarnation);
        let limit = self.down_interval(false);
        let Some(peer) = &mut self.peer else { return };
        if hears_us {
            peer.rival_since = None;
            return;
        }
        let since = *peer.rival_since.get_or_insert(now);
        if now.since(since) > limit {
            let text = "the peer is master too and cannot hear us".to_owned();
            self.leave(Role::Backup, Cause::Unheard, text, now);
        }
    }

    pub(super) fn peer_is_silent(&mut self, now: Mono) {
        match self.role {
            Role::Initialize => {
                let text = "no master was heard since the start";
                self.take_over(Cause::Alone, text, None, now);
            }
            Role::Backup => {
                let last_heard = self.peer.as_ref().map(|peer| peer.last_heard);
                self.take_over(
                    Cause::HeartbeatsLost,
                    "no heartbeat of a master came within the master-down interval",
                    last_heard,
                    now,
                );
            }
            Role::Master => {
                // It may have taken over and told the neighbours before it fell silent.
                self.actions.push_back(Action::Reannounce);
                let text = "the peer is silent: nobody stands by";
                self.actions.push_back(Action::Note(text.into()));
            }
            Role::Fault => {}
        }
    }

    /// As master: notices when the peer falls silent.
    pub(super) fn expect_the_next(&mut self, heartbeat: &Heartbeat, now: Mono) {
        if self.role == Role::Master && !heartbeat.resigns {
            let limit = self.silence_limit(heartbeat.interval);
            self.timers.set(Timer::Down, now + limit);
        }
    }

    pub(super) fn suspect(&mut self, now: Mono) {
        if self.suspicion.is_none() {
            self.suspicion = Some(Suspicion::new(now));
            self.timers.set(Timer::Probe, now);
            self.handle_timeout(now);
        }
    }

    /// A peer that lives answers a probe within a round trip; a refusal that comes later than that
    /// after another one, with no answer between them, was not overtaken by it.
    pub(super) fn refusals_apart(&self) -> Duration {
        PROBE_GAP.max(self.paths.worst_rtt() * 2)
    }

    pub(super) fn probe(&mut self, now: Mono) {
        if self.live_peer(now).is_none() {
            self.suspicion = None;
        }
        let apart = self.refusals_apart();
        let Some(suspicion) = &mut self.suspicion else {
            return;
        };
        let next = suspicion.probed(apart);
        self.timers.set(Timer::Probe, now + next);
        for (path, _) in self.paths.iter() {
            self.actions.push_back(Action::Send {
                path,
                answer: true,
                hears: None,
            });
        }
    }

    pub(super) fn weigh_suspicion(&mut self, heartbeat: &Heartbeat) {
        let Some(suspicion) = &mut self.suspicion else {
            return;
        };
        suspicion.heard_something();
        if suspicion.refuted_by(heartbeat.echo_for(self.incarnation)) {
            self.suspicion = None;
            self.timers.stop(Timer::Probe);
            self.false_alarms += 1;
        }
    }

    pub(super) fn peer_died(&mut self, now: Mono) {
        let doubted = self
            .suspicion
            .take()
            .map_or(now, |suspicion| suspicion.since);
        self.timers.stop(Timer::Probe);
        let Some(peer) = &mut self.peer else { return };
        peer.dead = true;
        let (was_master, last_heard) = (peer.role == Role::Master, peer.last_heard);
        self.stood_down = false;
        if self.role == Role::Backup && was_master {
            let text = format!(
                "the master's host says that nobody listens on its heartbeat port; proved {:.1} ms \
                 after the session closed or the host first said so",
                now.since(doubted).as_secs_f64() * 1e3
            );
            self.take_over(Cause::ProcessDied, &text, Some(last_heard), now);
        } else {
            if self.role == Role::Master {
                self.timers.stop(Timer::Down);
            }
            let text = "the peer's process died: nobody listens on its heartbeat port";
            self.actions.push_back(Action::Note(text.into()));
        }
    }

    pub(super) fn offer_was_not_taken(&mut self, now: Mono) {
        if let Some(offer) = self.offer.take() {
            self.actions.push_back(Action::Note(format!(
                "the peer did not take over with epoch {} in time",
                offer.epoch
            )));
            // It may have taken and announced the addresses, and died of it.
            self.actions.push_back(Action::Reannounce);
            if self.stopping {
                self.leave(Role::Initialize, Cause::Stop, "stopping".into(), now);
            }
        }
    }

    pub(super) fn take_over(
        &mut self,
        cause: Cause,
        text: &str,
        last_heard: Option<Mono>,
        now: Mono,
    ) {
        if self.stopping {
            return;
        }
        let detection = last_heard.map(|at| now.since(at));
        let epoch = self.known.next();
        self.become_master(epoch, cause, text.into(), detection, now);
    }

    pub(super) fn become_master(
        &mut self,
        epoch: Epoch,
        cause: Cause,
        text: String,
        detection: Option<Duration>,
        now: Mono,
    ) {
        assert!(epoch > self.known, "a takeover needs an epoch of its own");
        self.known = epoch;
        self.own = epoch;
        self.stood_down = false;
        self.timers.stop(Timer::Down);
        if let Some(peer) = &mut self.peer {
            peer.rival_since = None;
        }
        self.change(Role::Master, cause, text, detection);
        self.last_sent = now;
        self.timers
            .set(Timer::Heartbeat, now + self.rules.heartbeat);
        self.tell_peer();
    }

    /// Gives up the mastership.
    pub(super) fn leave(&mut self, to: Role, cause: Cause, text: String, now: Mono) {
        self.offer = None;
        self.timers.stop(Timer::HandoverEnd);
        let epoch = self.own;
        self.push_change(to, epoch, cause, text, None);
        if to == Role::Backup {
            self.listen_again(now);
        } else {
            self.timers.stop(Timer::Down);
        }
        self.tell_peer();
    }

    pub(super) fn change(
        &mut self,
        to: Role,
        cause: Cause,
        text: String,
        detection: Option<Duration>,
    ) {
        if to == Role::Fault {
            self.timers.stop(Timer::Down);
        }
        self.push_change(to, self.known, cause, text, detection);
    }

    fn push_change(
        &mut self,
        to: Role,
        epoch: Epoch,
        cause: Cause,
        text: String,
        detection: Option<Duration>,
    ) {
        let from = std::mem::replace(&mut self.role, to);
        self.actions.push_back(Action::Role(Change {
            from,
            to,
            epoch,
            cause,
            text,
            detection,
        }));
    }
}
