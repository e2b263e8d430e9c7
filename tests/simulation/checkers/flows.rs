//! Flows: connections of the kernel mode, as clients, backends and both machines' tables have them.
//!
//! | what | promise | when it is void |
//! |---|---|---|
//! | keeps | a connection whose SYN-ACK went on by the standby's word keeps its backend and its translation, and no reset ends it | no node that knows it is left, see below |
//! | tuple | no two live connections go to a backend under one source | the node does not know one of them |
//! | lease | who forwards has the right to (`relay`); two nodes hold leases at once no longer than it takes two masters to settle | |
//! | local | no packet of a service reaches the local stack while the address is there | |
//! | agree | at the end the tables of both machines translate every open connection alike, and no promised one stalls | |
//!
//! A node knows a connection from the standby's word on. It forgets it with a loss of power; a
//! process that dies leaves what is in its kernel, but not what is still on its way there. It knows
//! it again once its table has it. The promise is void when a node that does not know the
//! connection becomes master: the last one that did has failed before it could tell, which takes
//! two faults.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::super::ends::State;
use super::super::kernel_mode::{LENGTH, Path, path_of};
use super::super::segment::glance;
use super::super::world::{MS, SECOND, World};
use super::{Checkers, SETTLE, mark};

/// Without faults no client waits longer for an answer.
const STALL: u64 = 4 * SECOND;

#[derive(Debug, Default)]
pub struct Flows {
    /// What was promised of each client's connection.
    promised: BTreeMap<u64, Promise>,
    /// The client that used each source towards a backend last.
    users: BTreeMap<Path, u64>,
    two_leases_since: Option<u64>,
    /// How many promises were made, and how many were void in the end.
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub promised: u64,
    pub void: u64,
    pub forwarded: u64,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    path: Path,
    knows: [bool; 2],
}

impl Flows {
    /// For tests of other checkers.
    pub fn forget_promises(&mut self) {
        self.promised.clear();
    }
}

impl Checkers {
    pub fn kernel_mode_failed(&mut self, what: &str) {
        self.breaks(format!("flows: {what}"));
    }
}

impl World {
    /// A SYN-ACK goes on because the standby knows the connection.
    pub fn flow_promised(&mut self, machine: usize, client: SocketAddrV4, service: SocketAddrV4) {
        let path = self.machines[machine].kept.path(client, service);
        let (Some((path, _)), Some(number)) = (path, self.traffic.client_at(client)) else {
            return;
        };
        if self.traffic.clients[&number].end.state != State::Opening {
            // It was answered before.
            return;
        }
        let knows = [true; 2];
        let flows = &mut self.checkers.flows;
        flows.counts.promised += 1;
        flows.promised.insert(number, Promise { path, knows });
    }

    /// Clients that live and were promised to keep their connections.
    pub fn living_promises(&self) -> impl Iterator<Item = u64> + '_ {
        let promised = self.checkers.flows.promised.keys().copied();
        promised.filter(|number| self.traffic.clients[number].end.is_live())
    }

    /// Whether this machine's table leads a client there.
    fn table_has(&self, machine: usize, number: u64, path: Path) -> bool {
        let Some(client) = self.traffic.clients.get(&number) else {
            return false;
        };
        let end = &client.end;
        let known = self.machines[machine].kept.path(end.local, end.remote);
        known.is_some_and(|(known, flow)| known == path && flow.client_isn == end.isn)
    }

    /// This machine lost what was not in its table, or (`all`) that too.
    pub fn flows_lost(&mut self, machine: usize, all: bool) {
        let promised = std::mem::take(&mut self.checkers.flows.promised);
        let promised = promised.into_iter().map(|(number, mut promise)| {
            promise.knows[machine] = !all && self.table_has(machine, number, promise.path);
            (number, promise)
        });
        self.checkers.flows.promised = promised.collect();
    }

    /// This machine's node became master.
    pub fn flows_taken_over(&mut self, machine: usize) {
        let mut promised = std::mem::take(&mut self.checkers.flows.promised);
        let before = promised.len();
        promised.retain(|number, promise| {
            promise.knows[machine] |= self.table_has(machine, *number, promise.path);
            promise.knows[machine]
        });
        let flows = &mut self.checkers.flows;
        flows.counts.void += (before - promised.len()) as u64;
        flows.promised = promised;
    }

    /// A machine's program forwarded a frame.
    pub fn flow_forwarded(&mut self, machine: usize, came: &[u8], goes: &[u8], hops: u8) {
        self.checkers.flows.counts.forwarded += 1;
        if !self.has_the_right(machine, hops) {
            let kept = &self.machines[machine].kept;
            let (stands, dead_at) = (kept.stands, kept.dead_at);
            let what =
                format!("lease: machine {machine} forwards: {stands:?}, dead at {dead_at:?}");
            self.checkers.kernel_mode_failed(&what);
        }
        let (client, _) = glance(came);
        let Some(number) = self.traffic.client_at(client) else {
            return;
        };
        let path = glance(goes);
        if let Some(promise) = self.checkers.flows.promised.get(&number)
            && promise.path != path
            && self.traffic.clients[&number].end.is_live()
        {
            let what = format!(
                "keeps: client {number} went {:?}, now {path:?}",
                promise.path
            );
            self.checkers.kernel_mode_failed(&what);
        }
        self.flow_uses(machine, number, path);
        self.has_one_way(machine, number);
    }

    /// Tuple: somebody else may have used it before, but not any more.
    fn flow_uses(&mut self, machine: usize, number: u64, path: Path) {
        let before = self.checkers.flows.users.insert(path, number);
        let Some(other) = before.filter(|other| *other != number) else {
            return;
        };
        let lives = self.traffic.clients[&other].end.state == State::Open;
        let promise = self.checkers.flows.promised.get(&other);
        let known = promise.is_some_and(|it| it.path == path && it.knows[machine]);
        if lives && (known || self.table_has(machine, other, path)) {
            let what = format!("tuple: clients {other} and {number} both go {path:?}");
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// Local: a packet of a service went to the local stack.
    pub fn flow_passed(&mut self, machine: usize, frame: &[u8]) {
        let host = &self.machines[machine];
        let (_, to) = glance(frame);
        // What is for no port is for nobody: a handshake that was asked for at a living node.
        let there = host.kernel.holds(self.now) || host.process.is_some();
        if there && to.port() != 0 {
            let what = format!("local: machine {machine} passes {:?}", glance(frame));
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// A client's connection was reset.
    pub fn flow_reset(&mut self, number: u64, before: State) {
        self.is_not_reset(number, before);
        if let Some(promise) = self.checkers.flows.promised.get(&number) {
            let what = format!("keeps: client {number} is reset, {promise:?}");
            self.checkers.kernel_mode_failed(&what);
        }
    }

    /// Lease: not two at once.
    pub(super) fn check_leases(&mut self) -> Result<(), String> {
        let both = self
            .machines
            .iter()
            .all(|host| host.powered() && host.kept.may_forward(self.now));
        let both = both && self.checkers.good_since.is_some();
        let since = &mut self.checkers.flows.two_leases_since;
        mark(since, both, self.now);
        if since.is_some_and(|at| self.now - at > SETTLE + LENGTH) {
            return Err("lease: two nodes may forward".into());
        }
        Ok(())
    }

    /// Tuple, in the tables: each open entry of a living client has its backend's entry to itself.
    pub fn audit_flows(&mut self) {
        for machine in 0..2 {
            let kept = &self.machines[machine].kept;
            for (key, flow) in kept.open() {
                let back = kept.tables.flows.get(&flow.opposite(key.family));
                if back.is_some_and(|back| back.opposite(key.family) == *key) {
                    continue;
                }
                let number = match key.from() {
                    std::net::SocketAddr::V4(at) => self.traffic.client_at(at),
                    std::net::SocketAddr::V6(_) => None,
                };
                let client = number.and_then(|number| self.traffic.clients.get(&number));
                let lives =
                    client.is_some_and(|it| it.end.is_live() && it.end.isn == flow.client_isn);
                if lives {
                    let what =
                        format!("tuple: machine {machine} has {key:?} {flow:?} and {back:?}");
                    return self.checkers.kernel_mode_failed(&what);
                }
            }
        }
    }

    /// All open connections of both machines' tables are the same ones.
    pub fn flows_agree(&self) -> Result<(), String> {
        type Table = BTreeMap<SocketAddrV4, Option<Path>>;
        let table = |machine: usize| -> Table {
            let open = self.machines[machine].kept.open();
            let open = open.filter_map(|(key, flow)| match key.from() {
                std::net::SocketAddr::V4(at) => Some((at, path_of(flow))),
                std::net::SocketAddr::V6(_) => None,
            });
            open.collect()
        };
        let [a, b] = [table(0), table(1)];
        if a == b {
            return Ok(());
        }
        let lacks = |x: &Table, y: &Table| {
            let missing = x.iter().filter(|(at, path)| y.get(at) != Some(path));
            missing
                .map(|(at, path)| format!("{at} {path:?}"))
                .collect::<Vec<_>>()
        };
        Err(format!(
            "agree: only A has {:?}, only B has {:?}",
            lacks(&a, &b),
            lacks(&b, &a)
        ))
    }

    /// At the end, while clients reach the master.
    pub(super) fn flows_in_order(&self, master: usize) -> Result<(), String> {
        let replicas = self.machines[master].process.as_ref();
        let known = replicas.map_or(0, |process| process.node.replica().nat().len());
        let open = self.machines[master].kept.open().count();
        if known != open {
            return Err(format!("agree: {open} are open, the replica has {known}"));
        }
        if self.lan.map(|(owner, _)| owner) != Some(master) {
            return Ok(());
        }
        for number in self.checkers.flows.promised.keys() {
            let client = &self.traffic.clients[number];
            let waits = self.now.saturating_sub(client.waits_since);
            if client.end.is_live() && client.end.is_waiting() && waits > STALL {
                let ms = waits / MS;
                return Err(format!(
                    "keeps: client {number} waits for {ms} ms: {:?}",
                    client.end
                ));
            }
        }
        Ok(())
    }
}
