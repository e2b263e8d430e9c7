//! The ordered steps of becoming master and of leaving it; nothing else.

use std::time::Duration;

use super::io::Output;
use super::{Node, REQUEST_GAP, Replication, Timer};
use crate::balance::nat::NatCommand;
use crate::election::Change;
use crate::model::{Epoch, Role};
use crate::replication::{Replica, Sink, Source};
use crate::status::Cause;
use crate::time::Mono;
use crate::wire::replication::{Frame, HandoverCause};

/// Between the reset of the connections and the return of the addresses: a reset needs the address
/// as its source.
const RESET_TIME: Duration = Duration::from_millis(3);
/// A stop without a drain that takes longer ends anyway: the addresses vanish with the process.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// A master that stops waits so long for a peer that has just started to be in sync.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn change_role(&mut self, change: Change, now: Mono) {
        let (from, to, cause, epoch) = (change.from, change.to, change.cause, change.epoch);
        let event = self.journal.transition(change, now);
        self.outputs.push_back(Output::Event(event));
        match (from, to) {
            (Role::Master, Role::Master) => self.renew_mastership(epoch, now),
            (_, Role::Master) => {
                self.relay.took_over(cause, self.election.peer(), now);
                self.become_master(epoch, now);
            }
            (Role::Master, _) => self.leave_mastership(epoch, cause, now),
            (_, Role::Fault) => self.cut_drain("this node is in fault", now),
            _ => {}
        }
        self.stopped_if_idle();
    }

    /// 1. The kernel mode's program may forward before the first packet arrives.
    /// 2. The addresses: everything else is ready before the first packet can arrive, since
    ///    this turn's outputs are carried out together, and the listeners are armed already.
    /// 3. What the old master knew: health where this node has no verdict of its own, and what
    ///    operators said. Its proxied connections died with it or stay with it, so they are
    ///    forgotten; those that this node has itself take their place.
    /// 4. The source, and if the peer is there, a snapshot for it.
    fn become_master(&mut self, epoch: Epoch, now: Mono) {
        self.timers.stop(Timer::Release);
        self.decided_at = Some(now);
        // What it learned comes before.
        self.run_nat(now);
        self.tell_nat(NatCommand::Lead);
        self.vips.hold(epoch, now);
        self.command_kernel();

        let mut replica = self.take_whole_replica();
        self.attic.put(replica.forget_flows());
        replica.put_flows(self.resume_flows(now));
        for (backend, record) in replica.health() {
            self.health.adopt(*backend, *record, now);
        }

        self.become_source(epoch, replica, now);
    }

    /// The mastership goes on under another epoch: the addresses are held and told under it, and
    /// the log starts again with everything that lives.
    fn renew_mastership(&mut self, epoch: Epoch, now: Mono) {
        self.vips.hold(epoch, now);
        let replica = self.take_whole_replica();
        self.become_source(epoch, replica, now);
    }

    fn become_source(&mut self, epoch: Epoch, mut replica: Replica, now: Mono) {
        self.roster.put_into(&mut replica);
        let mut source = Source::new(epoch, replica, now);
        if self.link.session().is_some() {
            source.attach(now);
        }
        self.replication = Replication::Source(source);
        self.handover = None;
    }

    /// The kernel has the addresses (and the announcements are out with this turn): the peer is
    /// told at once, because a master that handed over waits for this.
    pub(super) fn addresses_held(&mut self, now: Mono) {
        if let Some(decided_at) = self.decided_at.take() {
            let event = self.journal.complete_takeover(now.since(decided_at));
            self.outputs.extend(event.map(Output::Event));
            self.tell_nat(NatCommand::Probe);
        }
        self.election.tell_peer();
    }

    /// How connections and addresses go:
    ///
    /// * in order (handed over, stopping), and both nodes relay: the addresses go at once, the
    ///   connections stay until they end (`drain`);
    /// * in order otherwise: the connections are reset while the address is still there to reset
    ///   them from, then the addresses go;
    /// * else (a rival, a pause, a fault) the addresses go first, then the connections are reset:
    ///   this node must not send one more packet from them.
    fn leave_mastership(&mut self, epoch: Epoch, cause: Cause, now: Mono) {
        self.decided_at = None;
        self.handover = None;
        self.relay.left();
        let in_order = matches!(cause, Cause::Handover | Cause::Preempt | Cause::Stop);
        let drains = in_order && self.can_drain(now);
        // Not one more packet: the other master may already have sent one.
        self.tell_nat(NatCommand::Yield);
        if drains || !in_order {
            self.vips.release();
            self.command_kernel();
        }
        let mut replica = self.take_whole_replica();
        let flows = replica.forget_flows();
        self.replication = Replication::Sink(Sink::new(replica));
        if drains {
            self.begin_drain(epoch, flows, now);
            return;
        }
        self.attic.put(flows);
        self.flows.clear();
        self.outputs.push_back(Output::DropFlows { epoch });
        if in_order {
            self.timers.set(Timer::Release, now + RESET_TIME);
        }
    }

    fn take_whole_replica(&mut self) -> Replica {
        let empty = Replication::Sink(Sink::new(Replica::default()));
        match std::mem::replace(&mut self.replication, empty) {
            Replication::Sink(sink) => {
                let restored = sink.into_restored();
                for retired in restored.retired {
                    self.attic.put(retired);
                }
                restored.replica
            }
            Replication::Source(source) => source.into_replica(),
        }
    }

    /// As master: hand over, if the peer is able to take it.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub(super) fn hand_over(&mut self, cause: HandoverCause, now: Mono) -> Result<(), String> {
        let peer = &self.config.node(self.identity.node.peer()).name;
        if self.handover.is_some() || self.election.handing_over() {
            return Err("a switchover is already under way".into());
        }
        let Some(live) = self.election.live_peer(now) else {
            return Err(format!("{peer} does not send heartbeats; start it first"));
        };
        if live.role == Role::Fault {
            return Err(format!("{peer} is in fault; see `tandem status` there"));
        }
        if !self.election.hears_each_other(now) {
            return Err(format!(
                "{peer} does not hear this node; check the path to it"
            ));
        }
        if live.resigns {
            return Err(format!("{peer} stops; start it again first"));
        }
        if self.link.session().is_none() || !self.in_sync() {
            return Err(format!("{peer} is not in sync yet; try again in a moment"));
        }
        self.handover = Some(cause);
        Ok(())
    }

    /// The offer follows the last update on the stream, so that whoever takes it has everything.
    pub(super) fn finish_offer(&mut self, now: Mono) {
        let (Some(cause), true) = (self.handover, self.link.may_send()) else {
            return;
        };
        let Replication::Source(source) = &self.replication else {
            return;
        };
        if !source.drained() || !self.nat_is_quiet() {
            return;
        }
        self.handover = None;
        if let Some(epoch) = self.election.offer(cause, now) {
            self.vips.hush();
            self.send_frame(Frame::Handover { epoch, cause });
            if self.stopping {
                self.election.stop(now);
            }
        }
    }

    /// As backup with the better claim: ask for the mastership once in sync for long enough.
    pub(super) fn consider_preemption(&mut self, now: Mono) {
        if !(self.in_sync() && self.election.wants_preempt(now)) {
            self.in_sync_since = None;
            self.timers.stop(Timer::Preempt);
            return;
        }
        let since = *self.in_sync_since.get_or_insert(now);
        let due = since + self.config.election.preempt_delay;
        if self.timers.at(Timer::Preempt).is_some() {
            return;
        }
        if now < due {
            self.timers.set(Timer::Preempt, due);
            return;
        }
        self.timers.set(Timer::Preempt, now + REQUEST_GAP);
        if self.link.may_send() {
            self.send_frame(Frame::HandoverRequest(HandoverCause::Preempt));
        }
    }

    /// Hand over if that is possible, else resign; drain if that is possible; then end.
    pub(super) fn stop(&mut self, now: Mono) {
        if std::mem::replace(&mut self.stopping, true) {
            self.timers.stop(Timer::StopNow);
            self.leave_for_good(now);
            self.hurry(now);
            return;
        }
        if !self.drain.is_on() {
            self.timers.set(Timer::StopAnyway, now + STOP_LIMIT);
        }
        self.timers.set(Timer::StopNow, now + STOP_PATIENCE);
        self.consider_stop(now);
    }

    /// A master that stops resigns only if it cannot hand over, and will not be able to in a moment: the
    /// peer may have just started, or the data path has still to say what it let go on.
    pub(super) fn consider_stop(&mut self, now: Mono) {
        if self.timers.at(Timer::StopNow).is_none() {
            return;
        }
        let waits = self.role() == Role::Master
            && !self.election.handing_over()
            && (self.handover.is_some()
                || self.hand_over(HandoverCause::Stop, now).is_ok()
                || self.peer_will_follow(now));
        if !waits {
            self.timers.stop(Timer::StopNow);
            self.leave_for_good(now);
        }
    }

    /// As master: the peer cannot take over yet, and will be able to soon.
    fn peer_will_follow(&self, now: Mono) -> bool {
        let peer = self.election.live_peer(now);
        let fit = peer.is_some_and(|peer| peer.role != Role::Fault && !peer.resigns);
        fit && self.election.hears_each_other(now)
    }

    /// Gives up the mastership, if this node has it and has not offered it, and never takes it again.
    pub(super) fn leave_for_good(&mut self, now: Mono) {
        self.election.stop(now);
        if self.role() != Role::Master && !self.vips.wanted() {
            self.run_election(now);
            self.stopped_if_idle();
        }
    }

    /// Ends a stop once nothing is left to give back.
    fn stopped_if_idle(&mut self) {
        let idle = self.role() != Role::Master && !self.vips.wanted() && !self.drain.is_on();
        if self.stopping && idle {
            self.stopped();
        }
    }
}
