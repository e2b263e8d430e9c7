//! The machine that leads the program in the kernel: told what the program saw and what the node
//! wants, it writes the maps, and says which packets to send and what to report.
//!
//! Owns: what is to be in the maps, handshakes and SYNs that wait, what is known of connections.
//! Never: does IO, reads a clock; times are nanoseconds of `CLOCK_MONOTONIC`, as the program has
//! them. It is generic over the maps, and a function of its inputs and its seed.
//! Invariants: only a node that leads sends anything or reports of connections; only one that does
//! not lead learns; each key in the table is known, once what was there at the start has been read; no call
//! works on more than a batch of the table.
//!
//! | what happens | on the master | on its standby |
//! |---|---|---|
//! | a connection begins | `gate`: its SYN-ACK waits for the standby; `retry`: its SYN can go elsewhere | `learn`: the same two entries |
//! | backends come and go | `publish`: slots | the same, so that it is ready |
//! | it falls silent | `collect`: forgotten after a time that depends on its state | only ended ones are |
//! | this node takes over | `probe`: both ends are asked where they are | |

mod adopt;
mod choice;
mod collect;
mod draft;
mod early;
mod events;
mod gate;
mod known;
mod learn;
mod marks;
mod plan;
mod probe;
mod publish;
mod replan;
mod report;
mod retry;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::layout;
use super::maps::Maps;
use super::names::{Counter, EventKind, State};
pub use super::packet::Packet;
use super::program::{NatError, Sizes};
use super::tables::Told;
use crate::balance::nat::{NatCommand, NatEvent, NatReport};
use crate::config::Config;
use crate::model::{Mac, NodeId, Stale};
use crate::status::NatStatus;
use collect::Walk;
use early::Early;
use gate::Gate;
use known::{Known, Mixer};
use learn::Learner;
use marks::Marks;
use plan::{Plan, nanos};
use probe::Prober;
use publish::Publisher;
use report::Reports;
use retry::Retry;

const MS: u64 = 1_000_000;
/// See [`Engine::lull`]: for each handshake that waits, and at most.
const LULL: u64 = 50_000;
const LONG_LULL: u64 = MS;
/// See [`Engine::lull`]: a standby.
const LEARN_LULL: u64 = 10 * MS;
/// Handshakes that waited so long ago are no sign that others will.
const MEMORY: u64 = 10 * MS;

/// What the engine knows of this host.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Each interface that carries a VIP.
    pub interfaces: BTreeMap<String, Link>,
    /// Unix time in milliseconds when `CLOCK_MONOTONIC` was zero.
    pub unix_ms_at_zero: u64,
}

/// A device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// After how long a silent connection is forgotten, by state.
#[derive(Clone, Copy, Debug)]
struct Times {
    opening: u64,
    closing: u64,
    closed: u64,
    /// The longest of all.
    longest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    retries: u64,
    unserved: u64,
    resets: u64,
    probed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Engine {
    plan: Plan,
    times: Times,
    max_flows: u64,
    unix_ms_at_zero: u64,
    rng: fastrand::Rng,
    known: Known,
    reports: Reports,
    packets: VecDeque<Packet>,
    gate: Gate,
    retry: Retry,
    publisher: Publisher,
    learner: Learner,
    marks: Marks,
    walk: Walk,
    prober: Prober,
    leading: bool,
    /// When it began to.
    led_at: u64,
    /// The latest time that was told.
    now: u64,
    /// Something was told while this node did not lead, and was not kept.
    missed: bool,
    early: Early,
    /// When the process died that led before this one.
    died: Option<u64>,
    /// Resets that may be sent, in millionths, and since when there are so many.
    allowance: (u64, u64),
    counts: Counts,
}

impl Engine {
    /// Nothing is known yet, and this node does not lead.
    pub fn new(config: &Config, node: NodeId, links: &Links, seed: u64) -> Self {
        let plan = Plan::new(config, node, links);
        let mut rng = fastrand::Rng::with_seed(seed);
        let kernel = &config.kernel;
        let (opening, closing) = (nanos(kernel.opening_timeout), nanos(kernel.closing_timeout));
        let idle = plan.services.iter().map(|service| service.idle).max();
        let service_of = plan.backends.iter().map(|backend| backend.service);
        Self {
            times: Times {
                opening,
                closing,
                closed: nanos(kernel.closed_timeout),
                longest: opening.max(closing).max(idle.unwrap_or(0)),
            },
            max_flows: kernel.max_flows.into(),
            unix_ms_at_zero: links.unix_ms_at_zero,
            known: Known::new(
                Mixer::new(rng.u64(..)),
                plan.services.len(),
                service_of.collect(),
            ),
            reports: Reports::default(),
            packets: VecDeque::new(),
            gate: Gate::new(nanos(kernel.sync_timeout)),
            retry: Retry::default(),
            publisher: Publisher::new(&plan),
            learner: Learner::default(),
            marks: Marks::default(),
            walk: Walk::default(),
            prober: Prober::default(),
            leading: false,
            led_at: 0,
            now: 0,
            missed: false,
            early: Early::default(),
            died: None,
            allowance: (events::RESETS * MS, 0),
            counts: Counts::default(),
            plan,
            rng,
        }
    }

    /// How large the maps have to be. Those of listeners grow in large steps, since tables of
    /// another size are begun anew at a restart.
    pub fn sizes(&self) -> Sizes {
        let listeners: usize = self.plan.outlets.iter().map(|it| it.endpoints.len()).sum();
        let some = Sizes::default();
        let room = |count: usize, least: u32| (count as u32).next_power_of_two().max(least);
        Sizes {
            flows: u32::try_from(self.max_flows).unwrap_or(u32::MAX),
            slots: self.plan.slots.max(1),
            backends: self.plan.array_room(),
            services: room(2 * listeners, some.services),
            turns: room(self.plan.outlets.len(), some.turns),
            ..some
        }
    }

    /// Writes what does not change; the first walk reports the connections that are there already.
    /// Once, before all else; nobody serves until the first [`NatCommand::Publish`].
    ///
    /// # Errors
    ///
    /// What the kernel said; so everywhere below.
    pub fn begin(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        self.now = now;
        for outlet in &self.plan.outlets {
            for at in &outlet.endpoints {
                maps.set_service(*at, outlet.entry)?;
            }
        }
        for (index, backend) in (0..).zip(&self.plan.array) {
            maps.set_backend(index, *backend)?;
        }
        maps.set_settings(self.plan.settings)?;
        for (at, owned) in &self.plan.addresses {
            maps.set_address(*at, *owned)?;
        }
        self.skip_losses(maps)?;
        self.walk.start_adopt(now);
        Ok(())
    }

    /// The node wants something.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn command(
        &mut self,
        command: NatCommand,
        maps: &mut impl Maps,
        now: u64,
    ) -> Result<(), NatError> {
        self.now = now;
        match command {
            NatCommand::Acknowledged { ticket, by_standby } => {
                for held in self.gate.acknowledged(ticket, by_standby, now) {
                    self.answer(&held.carried);
                }
            }
            NatCommand::Learn(items) if !self.leading => self.learn(&items, maps, now)?,
            NatCommand::SnapshotBegin if !self.leading => self.snapshot_begin(),
            NatCommand::SnapshotEnd if !self.leading => self.snapshot_end(now),
            NatCommand::SnapshotVoid if !self.leading => self.snapshot_void(),
            // A master learns from nobody.
            NatCommand::Learn(_)
            | NatCommand::SnapshotBegin
            | NatCommand::SnapshotEnd
            | NatCommand::SnapshotVoid => {}
            NatCommand::Inherit(items) if self.leading => self.take_over(&items, maps, now)?,
            NatCommand::Inherit(_) => {}
            NatCommand::Lead => self.lead(maps, now)?,
            NatCommand::Publish { eligible, down } => {
                let fresh = self.set_eligible(eligible, down, maps, now)?;
                self.purge(&fresh, now);
            }
            NatCommand::Configure(config) => self.reconfigure(&config, maps, now)?,
            NatCommand::Reset(backends) => self.reset(backends, now),
            NatCommand::Pause => self.pause(true),
            NatCommand::Resume => self.pause(false),
            NatCommand::Probe => self.prober.go(now),
            NatCommand::Yield => self.yield_up(),
            // The caller's affair.
            NatCommand::Neighbour { .. } | NatCommand::Relay(_) => {}
        }
        self.mind_counts(maps, now)
    }

    fn lead(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        if std::mem::replace(&mut self.leading, true) {
            return Ok(());
        }
        self.led_at = now;
        // The other node's connections are in TIME_WAIT at the backends, under its ports.
        for index in 0..self.plan.array.len() as u32 {
            maps.set_ports_tried(index, self.rng.u32(..).into())?;
        }
        for outlet in 0..self.plan.outlets.len() as u32 {
            maps.set_turns(outlet, self.rng.u32(..).into())?;
        }
        self.publish_loads(now);
        self.skip_losses(maps)?;
        let (learned, torn) = self.learner.lead();
        self.prober.begin(learned.recent(), now);
        self.walk.start_gather(now);
        if std::mem::take(&mut self.missed) | torn {
            self.walk.start_rescan(now);
        }
        self.catch_up(maps, now)
    }

    /// A neighbour sends its packets to this node, which is not master.
    pub fn stale(&mut self, stale: &layout::Stale) {
        self.reports.push(NatEvent::Stale(Stale {
            index: stale.ifindex,
            vip: stale.vip.ip(stale.family),
            sender: stale.sender.ip(stale.family),
            mac: Mac(stale.mac),
        }));
    }

    const fn pause(&mut self, pause: bool) {
        self.gate.pause(pause);
        self.reports.pause(pause);
    }

    fn yield_up(&mut self) {
        self.leading = false;
        self.gate.clear();
        self.retry.clear();
        self.prober.clear();
        self.walk.give_up();
        self.marks.clear();
        self.reports.clear();
        self.packets.clear();
    }

    /// Ends the connections of backends that went down, where a service wants that.
    fn purge(&mut self, fresh: &[crate::model::BackendId], now: u64) {
        let wanted = fresh.iter().copied().filter(|id| {
            let place = self.plan.backend_with(id.0);
            place.is_some_and(|at| self.plan.services[self.plan.backends[at].service].reset_on_down)
        });
        let wanted: Vec<_> = wanted.collect();
        if self.leading && !wanted.is_empty() {
            self.walk.start_purge(wanted, now);
        }
    }

    /// The program saw something.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn told(&mut self, told: Told, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        self.now = now;
        if !self.leading {
            self.missed |= !self.early.keep(told);
            return Ok(());
        }
        let event = match &told {
            Told::Carried(carried) => &carried.event,
            Told::Event(event) => event,
        };
        if self.is_gone(event, maps, now)? {
            return Ok(());
        }
        match told {
            Told::Carried(carried) => match EventKind::from_number(carried.event.kind) {
                Some(EventKind::Opened) => self.on_opened(carried, now),
                Some(EventKind::Established) => {
                    let event = carried.event;
                    self.on_answered(&event, Some(carried), now);
                }
                _ => {}
            },
            Told::Event(event) => match EventKind::from_number(event.kind) {
                Some(EventKind::Established) => self.on_answered(&event, None, now),
                Some(EventKind::Closed) => self.on_closed(&event),
                Some(EventKind::Revived) => self.on_revived(&event, now),
                Some(EventKind::Refused) => self.on_refused(&event, maps, now)?,
                Some(EventKind::Opened) | None => {}
            },
        }
        self.mind_counts(maps, now)
    }

    /// Time passed. A bounded amount of work.
    ///
    /// # Errors
    ///
    /// See [`begin`](Self::begin).
    pub fn tick(&mut self, maps: &mut impl Maps, now: u64) -> Result<(), NatError> {
        self.now = now;
        if self.leading {
            for held in self.gate.expired(now) {
                self.answer(&held.carried);
            }
            self.retry_silent(maps, now)?;
            self.look_for_loss(maps, now)?;
        }
        self.publish_due(maps, now)?;
        self.walk(maps, now)?;
        if self.leading {
            self.probe(maps, now)?;
        }
        self.mind_counts(maps, now)
    }

    /// When [`tick`](Self::tick) is to be called next. Never later than the next walk.
    pub fn poll_timeout(&self) -> Option<u64> {
        let timers = [
            self.gate.timeout(),
            self.retry.timeout(),
            self.publisher.timeout(),
            self.prober.timeout(),
            Some(self.walk.timeout(self.leading)),
        ];
        timers.into_iter().flatten().min()
    }

    /// The next packet to send.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// The next part of what happened since the last call.
    pub fn poll_report(&mut self) -> Option<NatReport> {
        let report = self.reports.take()?;
        self.gate.given(report.ticket, self.now);
        Some(report)
    }

    /// For how long what happens is to gather before this is told of it: what is done for many at
    /// once costs each of them less. The more handshakes wait, the longer; if none does, and for a
    /// standby, whose tables nobody needs until it leads, as long as is reasonable.
    pub fn lull(&self) -> Duration {
        let nanos = match self.leading {
            false => LEARN_LULL,
            true if self.gate.is_needed(self.now, MEMORY) => {
                (self.gate.waiting().max(1) as u64 * LULL).min(LONG_LULL)
            }
            true => LONG_LULL,
        };
        Duration::from_nanos(nanos)
    }

    /// What the engine counts; `hooks` and `forwarding` are the caller's affair.
    pub fn status(&self, maps: &impl Maps) -> NatStatus {
        let mut counters: BTreeMap<String, u64> = Counter::ALL
            .iter()
            .zip(Counter::NAMES)
            .filter_map(|(counter, name)| {
                let value = maps.counter(*counter).ok()?;
                Some((name.to_ascii_lowercase(), value))
            })
            .collect();
        counters.insert("learned_no_room".to_owned(), self.learner.no_room);
        counters.insert("learned_strange".to_owned(), self.learner.strange);
        counters.insert("backends_no_room".to_owned(), self.plan.no_room);
        counters.insert("syns_forgotten".to_owned(), self.retry.forgotten);
        let released = self.gate.released;
        NatStatus {
            flows: self.known.len() as u64,
            states: State::ALL
                .iter()
                .map(|state| {
                    let count = self.walk.states.get(&state.number());
                    (state.as_str().to_owned(), count.copied().unwrap_or(0))
                })
                .collect(),
            max_flows: self.max_flows,
            waiting: self.gate.waiting() as u64,
            released_acknowledged: released.acknowledged,
            released_alone: released.alone,
            released_late: released.late,
            degraded: self.gate.degraded(),
            retries: self.counts.retries,
            unserved: self.counts.unserved,
            resets: self.counts.resets,
            probed: self.counts.probed,
            rescans: self.walk.rescans,
            counters,
            ..NatStatus::default()
        }
    }
}

#[cfg(test)]
mod tests;
