//! The leases of a process, kept by the rules of `daemon::kernel_mode`, on its machine's clock.

use tandem::balance::nat::{NatCommand, Relay};
use tandem::datapath::nat::reference::Reference;
use tandem::model::Role;

use super::world::{HEARTBEAT, MS};

/// A node that does not turn for so long may not forward: the dead-man timer, or heartbeat x misses
/// less two jiffies, whatever is less.
pub const LENGTH: u64 = if 8 * 3 * HEARTBEAT / 10 < 3 * HEARTBEAT - 20 * MS {
    8 * 3 * HEARTBEAT / 10
} else {
    3 * HEARTBEAT - 20 * MS
};

/// Until when each holds; none: it does not.
#[derive(Debug, Default)]
pub struct Leases {
    pub until: Option<u64>,
    /// The process before led, and nobody knows who leads now.
    pub frozen: bool,
    accept: Option<u64>,
    second: Option<u64>,
    /// It hands over: it decides nothing any more.
    yields: bool,
}

impl Leases {
    /// A process starts on what an earlier one left.
    pub fn start(tables: &mut Reference, now: u64) -> Self {
        (tables.accept, tables.second) = (0, 0);
        let mut leases = Self {
            frozen: tables.lease > 0,
            ..Self::default()
        };
        if leases.frozen {
            leases.renew(tables, now);
        }
        leases
    }

    /// The node wants this.
    pub fn command(&mut self, command: &NatCommand, tables: &mut Reference, now: u64) {
        match command {
            NatCommand::Lead => {
                self.frozen = false;
                self.renew(tables, now);
            }
            NatCommand::Yield => self.lapse(tables),
            NatCommand::Relay(relay) => self.relay(*relay, tables, now),
            _ => {}
        }
    }

    /// The node has made a turn, and is this now.
    pub fn turned(&mut self, role: Role, tables: &mut Reference, now: u64) {
        if self.frozen && !matches!(role, Role::Initialize | Role::Master) {
            self.lapse(tables);
        }
        let due = |until: Option<u64>| {
            until.is_some_and(|until| until.saturating_sub(now) < LENGTH * 3 / 4)
        };
        if due(self.accept) || due(self.second) {
            let relay = Relay {
                accept: self.accept.is_some(),
                asks: false,
                second_chance: self.second.is_some(),
                yields: self.yields,
            };
            self.relay(relay, tables, now);
        }
        if due(self.until) {
            self.renew(tables, now);
        }
    }

    fn relay(&mut self, relay: Relay, tables: &mut Reference, now: u64) {
        let until = |on: bool| on.then_some(now + LENGTH);
        (self.accept, self.second) = (until(relay.accept), until(relay.second_chance));
        tables.accept = self.accept.unwrap_or(0);
        tables.second = self.second.unwrap_or(0);
        if std::mem::replace(&mut self.yields, relay.yields) != relay.yields && self.until.is_some()
        {
            self.renew(tables, now);
        }
    }

    fn renew(&mut self, tables: &mut Reference, now: u64) {
        self.until = Some(now + LENGTH);
        (tables.lease, tables.frozen) = (now + LENGTH, self.frozen || self.yields);
    }

    fn lapse(&mut self, tables: &mut Reference) {
        (self.until, self.frozen, self.yields) = (None, false, false);
        (tables.lease, tables.frozen) = (0, false);
    }
}
