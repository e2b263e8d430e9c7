//! Lives of the peer: which one is present, and how a new one proves itself.
//!
//! A datagram that opens was written by *some* life of the peer, perhaps one that ended: whoever
//! owns the wire can keep, withhold and repeat what he cannot write. So a life that is not the
//! confirmed one (a stranger) is challenged, and believed once it has answered:
//!
//! ```text
//!   A                                     B, just started
//!     <-- (1) sent_at b1 ---------------
//!     --- (2) hears B, echo b1, sent_at a2 -->     confirms A
//!     <-- (3) hears A, echo a2 ---------
//!   confirms B
//! ```
//!
//! Each heartbeat of a stranger is answered at once with its own time stamp, and asks for an answer
//! in turn; so three datagrams in a row suffice, whoever begins, and lost ones cost one interval.
//!
//! What [`Election::confirms`] asks for, and what each condition keeps out:
//!
//! * it names this life of ours, which no recording from before our start can;
//! * it echoes a time stamp of ours that is no older than when the confirmed life was last heard:
//!   a life that ended before the confirmed one began cannot have seen that stamp. So confirmation
//!   only moves forward in time, and a withheld datagram never retires the living peer;
//! * that stamp is fresh: a withheld datagram of a life that was never confirmed dies of age.

use std::time::Duration;

use super::{Action, Election, Peer, Timer};
use crate::model::{Incarnation, PathId, Role};
use crate::status::Cause;
use crate::time::Mono;
use crate::wire::heartbeat::Heartbeat;

/// An echo of a time stamp that is older than this proves no presence (or, with slow heartbeats,
/// older than the silence after which a peer counts as gone).
pub(super) const PROOF_AGE: Duration = Duration::from_secs(1);
/// Answers to requests on one path keep at least this distance.
const ANSWER_GAP: Duration = Duration::from_millis(1);

impl Election {
    /// Whether a heartbeat of an unconfirmed life proves that this life is present now.
    pub fn confirms(&self, heartbeat: &Heartbeat, now: Mono) -> bool {
        let Some(echo) = heartbeat.echo_for(self.incarnation) else {
            return false;
        };
        let sent = Mono::from_nanos(echo.sent_at);
        let limit = PROOF_AGE.max(self.silence_limit(self.rules.heartbeat));
        let fresh = sent <= now && now.since(sent) <= limit;
        fresh
            && self
                .peer
                .as_ref()
                .is_none_or(|peer| sent >= peer.last_heard)
    }

    /// An authentic heartbeat came of a life that has not proved to be present: perhaps a peer
    /// that has just started, perhaps a recording. It is answered, so that a present one can
    /// prove itself; otherwise it moves nothing, with one exception.
    ///
    /// The exception: a node that has never confirmed anyone does not take over while a master
    /// goes on counting, since the master may be unable to hear it (a one-way cut at the start).
    pub fn handle_stranger(
        &mut self,
        path: PathId,
        life: Incarnation,
        heartbeat: &Heartbeat,
        newest: bool,
        now: Mono,
    ) {
        self.paths.receive_stranger(path, life, heartbeat, now);
        self.answer(path, Some(life), now);
        let defers = self.role == Role::Initialize && self.peer.is_none();
        if defers && newest && heartbeat.role == Role::Master && !heartbeat.resigns {
            self.listen_again(now);
        }
    }

    /// A life was confirmed that is not the one on record: the old process is gone.
    pub(super) fn new_life(
        &mut self,
        life: Incarnation,
        heartbeat: &Heartbeat,
        now: Mono,
    ) -> Option<Peer> {
        let mut peer = Peer::new(life, heartbeat, now);
        peer.update(heartbeat, self.incarnation, now);
        let before = self.peer.replace(peer);
        self.paths.new_life();
        self.suspicion = None;
        self.timers.stop(Timer::Probe);
        self.stood_down = false;
        if self.role == Role::Master {
            // The old life may have held and announced the addresses unheard.
            self.actions.push_back(Action::Reannounce);
        }
        let was_master = before
            .as_ref()
            .is_some_and(|old| old.role == Role::Master && !old.dead);
        let news = now >= self.backlog_until;
        if was_master && news && self.role == Role::Backup && heartbeat.role != Role::Master {
            let last_heard = before.as_ref().map(|old| old.last_heard);
            self.take_over(
                Cause::ProcessDied,
                "the master's process was started anew",
                last_heard,
                now,
            );
        }
        before
    }

    /// Sends at once on one path, unless that happened just now.
    ///
    /// A stranger is asked to answer in turn: should it trust us already, it would have no other
    /// reason to prove itself before its next heartbeat.
    pub(super) fn answer(&mut self, path: PathId, stranger: Option<Incarnation>, now: Mono) {
        let Some(last) = self.answered.get_mut(usize::from(path.0)) else {
            return;
        };
        if last.is_none_or(|at| now.since(at) >= ANSWER_GAP) {
            *last = Some(now);
            self.actions.push_back(Action::Send {
                path,
                answer: stranger.is_some(),
                hears: stranger,
            });
        }
    }
}
