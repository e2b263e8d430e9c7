//! The whole node minus IO: one deterministic value.
//!
//! Owns: the machines (election, addresses, health, flows, replication), the seal of heartbeats,
//! the timeline. Never: does IO, reads a clock, decides what a machine decides. What crosses
//! between machines crosses here, and only here.
//!
//! A turn: `handle` or `handle_timeout`, then `poll_output` until it gives nothing, then
//! `poll_timeout` says when the next turn is due at the latest.
//!
//! Invariants: the node is source exactly while it is master, otherwise sink; addresses are wanted
//! only while it is master, and for a moment after it handed them over in order.

mod admin;
mod backends;
mod compare;
mod drain;
mod flows;
pub mod io;
mod journal;
mod links;
mod nat;
mod peer;
mod relay;
mod report;
mod roster;
mod sticks;
mod takeover;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::balance::Roster;
use crate::balance::flow::FlowTable;
use crate::config::Config;
use crate::election::{Action, Election, Facts};
use crate::health::HealthBook;
use crate::model::{BackendId, Incarnation, NodeId, Role, Secret};
use crate::replication::{Attic, Replica, Sink, Source};
use crate::status::{Counters, Status, What};
use crate::time::{Mono, TimerTable};
use crate::vip::kernel::KernelReport;
use crate::vip::{Notice, VipKeeper};
use crate::wire::replication::{Frame, HandoverCause, Item, Position};

use compare::CompareBook;
use drain::DrainBook;
use io::{Input, Output};
use journal::Journal;
use links::Links;
use nat::NatBook;
use peer::PeerLink;
use relay::RelayBook;
use roster::RosterBook;
use sticks::StickBook;

/// Frames that may wait for the session's stream at most.
pub const SESSION_QUEUE: u32 = 256;
/// Frames that are made in one step of a turn, at most: those of a snapshot have 512 items each. The
/// session says so when this many have been written, or more: one turn, and not one for each.
pub const SESSION_CREDIT: u32 = 16;
/// After this long an unfit kernel is tried again.
const FORGIVENESS: Duration = Duration::from_secs(10);
/// Between two requests for the mastership.
const REQUEST_GAP: Duration = Duration::from_secs(1);

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its place in the configuration.
    pub node: NodeId,
    /// This process lifetime.
    pub incarnation: Incarnation,
    /// The time of day at `Mono::ZERO`, in milliseconds since 1970.
    pub started_unix_ms: u64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    /// Give the addresses back, after the connections were reset.
    Release,
    /// Try an unfit kernel again.
    Forgive,
    /// Ask for the mastership (again).
    Preempt,
    /// The stop has taken too long.
    StopAnyway,
    /// Stop although the peer is not in sync.
    StopNow,
    /// The connections that stayed have had their time.
    Drain,
    /// Whatever was accepted before the drain began has been told.
    Settle,
    /// A rule of the relay may have ended.
    Relay,
    /// A backend may be forgotten, or what is left on one is to be reset.
    Roster,
    /// Some clients that are remembered are looked at, whether they have expired.
    Sticks,
}

/// Which end of the replication this node is.
#[derive(Debug)]
enum Replication {
    Sink(Sink),
    Source(Source),
}

/// A node.
pub struct Node {
    config: Arc<Config>,
    identity: Identity,
    election: Election,
    vips: VipKeeper,
    health: HealthBook,
    flows: FlowTable,
    replication: Replication,
    /// States that are not needed any more.
    attic: Attic,
    link: PeerLink,
    journal: Journal,
    nat: NatBook,
    drain: DrainBook,
    links: Links,
    relay: RelayBook,
    roster: RosterBook,
    compare: CompareBook,
    sticks: StickBook,
    /// A handover that is to be offered once the log is written to the stream.
    handover: Option<HandoverCause>,
    decided_at: Option<Mono>,
    in_sync_since: Option<Mono>,
    published: Option<BTreeSet<BackendId>>,
    /// The weights that agents have changed, as published.
    weights: BTreeMap<BackendId, u16>,
    unfit: Option<String>,
    stopping: bool,
    stopped: bool,
    last_turn: Mono,
    counters: Counters,
    timers: TimerTable<Timer>,
    outputs: VecDeque<Output>,
}

impl Node {
    /// A node that has just started.
    pub fn new(
        config: Arc<Config>,
        identity: Identity,
        secret: &Secret,
        seed: u64,
        now: Mono,
    ) -> Self {
        let mut node = Self {
            election: Election::new(&config, identity.node, identity.incarnation, now),
            vips: VipKeeper::new(&config.vips),
            health: HealthBook::new(&config, seed, now),
            flows: FlowTable::new(&config),
            replication: Replication::Sink(Sink::new(Replica::default())),
            attic: Attic::default(),
            link: PeerLink::new(&config, &identity, secret),
            journal: Journal::new(identity.started_unix_ms),
            nat: NatBook::default(),
            drain: DrainBook::default(),
            links: Links::default(),
            relay: RelayBook::default(),
            roster: RosterBook::new(&config),
            compare: CompareBook::default(),
            sticks: StickBook::default(),
            handover: None,
            decided_at: None,
            in_sync_since: None,
            published: None,
            weights: BTreeMap::new(),
            unfit: None,
            stopping: false,
            stopped: false,
            last_turn: now,
            counters: Counters::default(),
            timers: TimerTable::default(),
            outputs: VecDeque::new(),
            config,
            identity,
        };
        node.settle(now);
        node
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Mono) {
        self.begin_turn(now);
        match input {
            Input::Admin { ticket, request } => self.handle_admin(ticket, request, now),
            Input::Configure(file) => self.configure(file, now),
            Input::Datagram { path, bytes } => self.handle_datagram(path, &bytes, now),
            Input::Flows(events) => self.handle_flows(&events, now),
            Input::Found(found) => self.handle_found(found, now),
            Input::Kernel(report) => self.handle_kernel(&report, now),
            Input::Nat(report) => self.handle_nat(report, now),
            Input::Note { text } => self.note(text, now),
            Input::Parcel(parcel) => self.pass_on(parcel),
            Input::PortClosed { .. } => {
                self.relay.refused(now);
                self.election.port_closed(now);
            }
            Input::Probe(result) => self.health.handle_probe(&result, now),
            Input::Recall(items) => self.recall(&items, now),
            Input::Relaying(works) => self.set_program(works),
            Input::SessionClosed { fault, reason } => self.session_closed(fault, &reason, now),
            Input::SessionFrame(frame) => self.handle_frame(frame, now),
            Input::SessionSent { frames } => self.session_sent(frames, now),
            Input::SessionUp(hello) => self.session_up(hello, now),
            Input::Stop => self.stop(now),
        }
        self.settle(now);
    }

    /// The deadline of `poll_timeout` came.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.begin_turn(now);
        self.election.handle_timeout(now);
        self.vips.handle_timeout(now);
        self.health.handle_timeout(now);
        if let Replication::Source(source) = &mut self.replication
            && let Err(fault) = source.handle_timeout(now)
        {
            self.peer_fault(&fault.to_string(), now);
        }
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Release => self.vips.release(),
                Timer::Forgive => {
                    if let Some(what) = self.unfit.take() {
                        self.election.set_fault(&what, false, now);
                    }
                }
                // What is due is seen in `settle`.
                Timer::Preempt | Timer::Relay | Timer::Settle => {}
                Timer::Roster => self.look_at_roster(now),
                Timer::Sticks => self.sweep_sticks(now),
                Timer::StopAnyway => self.stopped(),
                Timer::StopNow => self.leave_for_good(now),
                Timer::Drain => self.cut_drain("`proxy.drain_timeout` has passed", now),
            }
        }
        self.settle(now);
    }

    /// What is wanted next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the next turn is due at the latest.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let replication = match &self.replication {
            Replication::Source(source) => source.poll_timeout(),
            Replication::Sink(_) => None,
        };
        [
            self.election.poll_timeout(),
            self.vips.poll_timeout(),
            self.health.poll_timeout(),
            self.timers.next(),
            replication,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The read model.
    pub fn status(&self, now: Mono) -> Status {
        report::status(self, now)
    }

    /// The role.
    pub const fn role(&self) -> Role {
        self.election.role()
    }

    /// The election, for checkers.
    pub const fn election(&self) -> &Election {
        &self.election
    }

    /// The replicated state that this node has, for checkers.
    pub fn replica(&self) -> &Replica {
        match &self.replication {
            Replication::Sink(sink) => sink.replica(),
            Replication::Source(source) => source.replica(),
        }
    }

    /// What operators said, as far as this node has heard, for checkers.
    pub const fn roster(&self) -> &Roster {
        &self.roster.said
    }

    /// The configuration that holds: the file's, with other backends. For checkers.
    pub const fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Where in a master's log that state stands, for checkers.
    pub fn position(&self) -> Position {
        match &self.replication {
            Replication::Sink(sink) => sink.position(),
            Replication::Source(source) => source.position(),
        }
    }

    fn begin_turn(&mut self, now: Mono) {
        let gap = now.since(self.last_turn).as_micros() as u64;
        self.counters.longest_turn_gap_us = self.counters.longest_turn_gap_us.max(gap);
        self.last_turn = now;
        if self.election.wake(now) {
            self.counters.pauses += 1;
            // Step down before anything else is looked at.
            self.run_election(now);
        }
    }

    /// Lets the machines hear of each other until nothing is left to say.
    fn settle(&mut self, now: Mono) {
        loop {
            // What one of these says may move the other, without any output yet.
            let moved = self.run_election(now) | self.run_vips(now) | self.run_drain(now);
            self.run_health(now);
            self.consider_preemption(now);
            self.consider_stop(now);
            self.run_replication(now);
            self.run_nat(now);
            self.run_sticks(now);
            self.run_roster(now);
            self.run_compare();
            self.run_relay(now);
            self.publish();
            if !moved {
                break;
            }
        }
        self.tidy_up();
    }

    fn tidy_up(&mut self) {
        if let Replication::Sink(sink) = &mut self.replication {
            while let Some(retired) = sink.poll_retired() {
                self.attic.put(retired);
            }
        }
        self.attic.shed();
    }

    /// True if there was anything to do.
    fn run_election(&mut self, now: Mono) -> bool {
        let mut moved = false;
        while let Some(action) = self.election.poll_action() {
            moved = true;
            match action {
                Action::Note(text) => self.note(text, now),
                Action::Reannounce => self.vips.reannounce(now),
                Action::Role(change) => self.change_role(change, now),
                Action::Send {
                    path,
                    answer,
                    hears,
                } => {
                    let facts = self.facts();
                    let heartbeat = self.election.heartbeat(path, answer, hears, facts, now);
                    if let Some(bytes) = heartbeat.and_then(|beat| self.link.seal(&beat)) {
                        self.outputs.push_back(Output::Datagram { path, bytes });
                    }
                }
            }
        }
        moved
    }

    fn facts(&self) -> Facts {
        Facts {
            ownerships: self.vips.ownerships(),
            in_sync: self.in_sync(),
            relays: self.relay.works(),
            left: self.left(),
        }
    }

    fn in_sync(&self) -> bool {
        match &self.replication {
            Replication::Sink(sink) => sink.in_sync(),
            Replication::Source(source) => source.in_sync(),
        }
    }

    fn command_kernel(&mut self) {
        while let Some(command) = self.vips.poll_command() {
            self.outputs.push_back(Output::Kernel(command));
        }
    }

    /// True if anything was noticed.
    fn run_vips(&mut self, now: Mono) -> bool {
        let mut moved = false;
        self.command_kernel();
        while let Some(notice) = self.vips.poll_notice() {
            moved = true;
            match notice {
                Notice::Held => self.addresses_held(now),
                Notice::Released(epoch) => {
                    if self.drain.is_on() {
                        continue;
                    }
                    // Clients may have come until now; nothing of theirs can be answered any more.
                    self.outputs.push_back(Output::DropFlows { epoch });
                    if self.stopping {
                        self.stopped();
                    }
                }
                Notice::Restored(vip) => {
                    self.note(format!("somebody removed {vip}; it is back"), now);
                }
                Notice::Rival(vip, mac) => {
                    if self.vips.counts(vip).rivals == 1 {
                        self.note(format!("{mac} claims {vip} too; announced again"), now);
                    }
                }
                Notice::Unfit(what) => {
                    self.election.set_fault(&what, true, now);
                    self.unfit = Some(what);
                    self.timers.set(Timer::Forgive, now + FORGIVENESS);
                }
            }
        }
        moved
    }

    fn handle_kernel(&mut self, report: &KernelReport, now: Mono) {
        if let KernelReport::Link { interface, up } = report {
            let what = format!("interface {interface} is down");
            self.election.set_fault(&what, !up, now);
        }
        if let KernelReport::Neighbour {
            interface,
            neighbour,
        } = report
        {
            self.handle_neighbour(interface, *neighbour);
        }
        self.vips.handle_report(report, now);
    }

    /// A fact for the peer. Facts that arise while the node is not master are its own business.
    fn write(&mut self, item: Item, now: Mono) {
        if let Replication::Source(source) = &mut self.replication {
            source.write(item, now);
        }
    }

    fn run_replication(&mut self, now: Mono) {
        // More than these goes with the next turn, which comes once the stream has written them.
        for _ in 0..SESSION_CREDIT {
            if !self.link.may_send() {
                break;
            }
            let frame = match &mut self.replication {
                Replication::Sink(sink) => sink.poll_frame(),
                Replication::Source(source) => source.poll_frame(now),
            };
            let Some(frame) = frame else { break };
            self.send_frame(frame);
        }
        self.finish_offer(now);
    }

    fn send_frame(&mut self, frame: Frame) {
        self.link.sent_frame();
        self.outputs.push_back(Output::SendFrame(frame));
    }

    fn note(&mut self, text: String, now: Mono) {
        self.write_event(What::Note { text }, now);
    }

    fn write_event(&mut self, what: What, now: Mono) {
        let event = self.journal.write(what, now);
        self.outputs.push_back(Output::Event(event));
    }

    fn stopped(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            self.timers = TimerTable::default();
            self.outputs.push_back(Output::Stopped);
        }
    }
}
