//! The peer's datagrams and frames: opened, counted, given to the machine they are for.

use std::time::Duration;

use super::io::Output;
use super::{Identity, Node, Replication, SESSION_QUEUE};
use crate::config::Config;
use crate::model::{PathId, Secret};
use crate::time::Mono;
use crate::wire::codec;
use crate::wire::heartbeat::Heartbeat;
use crate::wire::parcel::Parcel;
use crate::wire::replication::{Frame, Hello, PROTOCOL};
use crate::wire::seal::{OpenError, Opened, Opener, Sealer};

/// Between two notes that datagrams of the peer's address do not open.
const KEY_NOTE_GAP: Duration = Duration::from_secs(60);

/// The seal of the heartbeats, and the session.
pub(super) struct PeerLink {
    sealer: Sealer,
    opener: Opener,
    session: Option<Hello>,
    /// Frames that the stream's queue still takes.
    room: u32,
    key_noted: Option<Mono>,
}

impl PeerLink {
    pub(super) fn new(config: &Config, identity: &Identity, secret: &Secret) -> Self {
        let cluster = &config.cluster.name;
        let (me, life) = (identity.node, identity.incarnation);
        Self {
            sealer: Sealer::new(secret, cluster, me, life),
            opener: Opener::new(secret, cluster, me.peer()),
            session: None,
            room: 0,
            key_noted: None,
        }
    }

    /// The datagram, unless this life has used up its counter.
    pub(super) fn seal(&mut self, heartbeat: &Heartbeat) -> Option<Vec<u8>> {
        let datagram = self.sealer.seal(&codec::encode_heartbeat(heartbeat));
        (!datagram.is_empty()).then_some(datagram)
    }

    /// Seals with the first of these keys, and opens with any.
    pub(super) fn rekey(&mut self, secrets: &[Secret]) {
        if let Some(first) = secrets.first() {
            self.sealer.rekey(first);
            self.opener.rekey(secrets);
        }
    }

    pub(super) const fn session(&self) -> Option<&Hello> {
        self.session.as_ref()
    }

    pub(super) const fn may_send(&self) -> bool {
        self.session.is_some() && self.room > 0
    }

    /// Frames that the session takes now.
    pub(super) const fn room(&self) -> u32 {
        match self.session {
            Some(_) => self.room,
            None => 0,
        }
    }

    pub(super) const fn sent_frame(&mut self) {
        self.room = self.room.saturating_sub(1);
    }

    pub(super) fn credit(&mut self, frames: u32) {
        self.room = self.room.saturating_add(frames).min(SESSION_QUEUE);
    }
}

impl Node {
    /// The cluster key is the first of these from now on, and the peer's may be any. Not an input: keys
    /// are in no account of a run.
    pub fn rekey(&mut self, secrets: &[Secret]) {
        self.link.rekey(secrets);
    }

    pub(super) fn pass_on(&mut self, parcel: Parcel) {
        if self.link.may_send() {
            self.send_frame(Frame::Parcel(parcel));
        }
    }

    pub(super) fn handle_datagram(&mut self, path: PathId, bytes: &[u8], now: Mono) {
        let opened = match self.link.opener.open(bytes) {
            Ok(opened) => opened,
            Err(OpenError::Replayed | OpenError::Retired) => {
                self.counters.heartbeats_replayed += 1;
                return;
            }
            Err(OpenError::Foreign) => {
                self.counters.heartbeats_rejected += 1;
                return;
            }
            Err(OpenError::Forged) => {
                self.counters.heartbeats_rejected += 1;
                self.doubt_the_key(now);
                return;
            }
        };
        let (Opened::Current { plain, .. } | Opened::Candidate { plain, .. }) = &opened;
        let Ok(heartbeat) = codec::decode_heartbeat(plain) else {
            self.counters.heartbeats_rejected += 1;
            return;
        };
        match opened {
            Opened::Current { .. } => {
                if let Some(life) = self.link.opener.current() {
                    self.election.handle_heartbeat(path, life, &heartbeat, now);
                }
            }
            Opened::Candidate { incarnation, .. } if self.election.confirms(&heartbeat, now) => {
                self.link.opener.confirm(incarnation);
                self.election
                    .handle_heartbeat(path, incarnation, &heartbeat, now);
            }
            Opened::Candidate {
                incarnation,
                newest,
                ..
            } => {
                self.counters.heartbeats_unconfirmed += 1;
                self.election
                    .handle_stranger(path, incarnation, &heartbeat, newest, now);
            }
        }
    }

    /// Heartbeats that do not open, and none that do: an operator's mistake, or an attack.
    fn doubt_the_key(&mut self, now: Mono) {
        let recent = |at: Mono| now.since(at) < KEY_NOTE_GAP;
        if self.election.live_peer(now).is_some() || self.link.key_noted.is_some_and(recent) {
            return;
        }
        self.link.key_noted = Some(now);
        let text = "heartbeats come from the peer's address that do not open with our key: \
                    compare [cluster] name and the key file on both nodes";
        self.note(text.into(), now);
    }

    pub(super) fn session_up(&mut self, hello: Hello, now: Mono) {
        if hello.protocol != PROTOCOL || hello.node != self.identity.node.peer() {
            self.peer_fault("its Hello is not one of our peer", now);
            return;
        }
        self.counters.sessions += 1;
        // Its heartbeats know of reloads, its `Hello` does not.
        let theirs = self.election.peer().map(|peer| peer.config_hash);
        let theirs = theirs.unwrap_or(hello.config_hash);
        if theirs != self.config.hash {
            let text = format!(
                "the peer runs another configuration ({theirs}, ours is {}): copy the file",
                self.config.hash
            );
            self.note(text, now);
        }
        self.compare.begin();
        self.link.session = Some(hello);
        self.link.room = SESSION_QUEUE;
        self.detach();
        if let Replication::Source(source) = &mut self.replication {
            source.attach(now);
        }
    }

    pub(super) fn session_sent(&mut self, frames: u32, now: Mono) {
        self.link.credit(frames);
        if let Replication::Source(source) = &mut self.replication {
            source.handle_sent(now);
        }
    }

    pub(super) fn session_closed(&mut self, fault: bool, reason: &str, now: Mono) {
        self.counters.session_faults += u64::from(fault);
        if self.link.session.take().is_none() {
            return;
        }
        self.handover = None;
        self.detach();
        if fault {
            self.note(
                format!("the session with the peer was closed: {reason}"),
                now,
            );
        }
        self.election.session_closed(now);
    }

    fn detach(&mut self) {
        match &mut self.replication {
            Replication::Source(source) => source.detach(),
            Replication::Sink(sink) => sink.detach(),
        }
    }

    pub(super) fn handle_frame(&mut self, frame: Frame, now: Mono) {
        if self.link.session.is_none() {
            return;
        }
        let verdict = match (&mut self.replication, frame) {
            (_, Frame::Hello(_)) => Err("a second Hello".to_owned()),
            (
                _,
                Frame::Marks {
                    config,
                    marks,
                    last,
                },
            ) => self.hear_marks(config, marks, last),
            (_, Frame::Parcel(parcel)) => {
                self.outputs.push_back(Output::Parcel(parcel));
                Ok(())
            }
            (Replication::Source(source), Frame::Ack(position)) => source
                .handle_ack(position, now)
                .map_err(|fault| fault.to_string()),
            (Replication::Source(source), Frame::ResyncRequest) => {
                source.handle_resync(now);
                Ok(())
            }
            (Replication::Source(_), Frame::HandoverRequest(cause)) => {
                // A refusal needs no answer: the peer asks again, or its operator does.
                let _refused = self.hand_over(cause, now);
                Ok(())
            }
            (Replication::Source(_), Frame::Inherited(items)) => {
                self.inherit(items, now);
                Ok(())
            }
            (Replication::Source(_), Frame::Said(items)) => {
                self.hear_peer(&items, now);
                Ok(())
            }
            (Replication::Sink(_), Frame::Handover { epoch, cause }) => {
                if self.in_sync() {
                    self.election.take_offer(epoch, cause, now);
                }
                Ok(())
            }
            // Frames that crossed a change of roles on their way.
            (Replication::Source(_), _)
            | (
                Replication::Sink(_),
                Frame::Ack(_)
                | Frame::ResyncRequest
                | Frame::HandoverRequest(_)
                | Frame::Inherited(_)
                | Frame::Said(_),
            ) => Ok(()),
            (Replication::Sink(sink), frame) => {
                sink.handle(frame, now).map_err(|fault| fault.to_string())
            }
        };
        if let Err(fault) = verdict {
            self.peer_fault(&fault, now);
        }
    }

    pub(super) fn peer_fault(&mut self, what: &str, now: Mono) {
        self.counters.session_faults += 1;
        let reason = format!("the peer broke the protocol: {what}");
        self.note(reason.clone(), now);
        self.outputs.push_back(Output::CloseSession { reason });
    }
}
