//! What this node may do with a packet, and the way to the other one, as `bpf/relay.h` has it.

use super::super::layout::{Endpoint, Flow, FlowKey, Neighbour, OWNED_VIP, Stale, V4};
use super::super::names::{Counter, State};
use super::follow::SYN_DATA;
use super::packet::Packet;
use super::{Arrival, Reference, Verdict, translate};

/// Flows of a process that is dead are forwarded for so long after its lease, nanoseconds.
pub const FROZEN: u64 = 60_000_000_000;
/// Those of a process that hangs: it is dead, or has taken back what it may not do any more, long
/// before.
pub const HUNG: u64 = 1_000_000_000;
/// Handshakes that can be asked for again after a process died.
pub const RECENT: usize = 1_024;
/// Between two records of one stale neighbour.
const REMINDER: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Leave {
    Nothing,
    /// What is decided already: the flows that are there.
    Forward,
    Decide,
}

/// How this node stands to a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stand {
    /// None: no peer is known on this link, or it does not matter.
    at: Option<Neighbour>,
    pub(super) leave: Leave,
    /// The process that leads the program.
    pub(super) alive: bool,
    /// And it has turned lately: handshakes wait for it.
    pub(super) waits: bool,
    /// The packet was handed over.
    pub(super) from_peer: bool,
    /// And by that alone we may decide.
    pub(super) accepted: bool,
    /// The peer is about to lead, and accepts.
    offered: bool,
    /// The peer may know what nobody here does.
    pub(super) second: bool,
}

/// The address that an ARP request is for.
pub(super) fn asked_by_arp(frame: &[u8]) -> Option<Endpoint> {
    let arp = frame.get(12..42)?;
    if arp[..2] != [0x08, 0x06] || arp[8..10] != [0, 1] {
        return None;
    }
    let mut endpoint = Endpoint {
        family: V4,
        ..Endpoint::default()
    };
    endpoint.address.0[..4].copy_from_slice(&arp[26..30]);
    Some(endpoint)
}

impl Stand {
    /// The peer may ask for the handshakes that wait here.
    pub(super) fn asked(&self) -> bool {
        self.from_peer && !self.waits && self.leave != Leave::Nothing && !self.accepted
    }
}

impl Reference {
    pub(super) fn look(&mut self, frame: &[u8], arrival: &Arrival) -> Stand {
        let at = self.neighbours.get(&arrival.ifindex).copied();
        let from_peer = at.is_some_and(|at| frame[6..12] == at.peer);
        let mut stand = Stand {
            at,
            leave: Leave::Nothing,
            alive: !self.dead,
            waits: !self.dead && arrival.now < self.waits,
            from_peer,
            accepted: false,
            offered: false,
            second: false,
        };
        let now = arrival.now;
        let holds = now < self.lease;
        // A process that turns takes a lease back before it ends.
        let longer = if self.dead { FROZEN } else { HUNG };
        let lately = self.lease != 0 && now < self.lease.saturating_add(longer);
        if !self.dead && holds && !self.frozen && !self.offered {
            stand.leave = Leave::Decide;
            if stand.waits && now >= self.second {
                // A master has nothing to do with its peer otherwise: it is not looked for.
                (stand.at, stand.from_peer) = (None, false);
            }
            stand.second = now < self.second && at.is_some() && !from_peer;
        } else if !self.dead && from_peer && now < self.accept {
            stand.leave = Leave::Decide;
            stand.accepted = true;
            self.count(Counter::Accepted);
        } else if lately {
            stand.leave = Leave::Forward;
            stand.offered = !self.dead && holds && self.offered;
        }
        stand
    }

    /// On to the peer, or nowhere.
    pub(super) fn hand(&mut self, frame: &[u8], stand: &Stand, counter: Counter) -> Verdict {
        let Some(at) = stand.at else {
            return self.drop(Counter::Lease);
        };
        if stand.from_peer && !stand.offered {
            return self.drop(Counter::Loop);
        }
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&at.peer);
        frame[6..12].copy_from_slice(&at.own);
        self.count(counter);
        Verdict::Relay(frame)
    }

    /// What is not ours now.
    pub(super) fn relay(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
    ) -> Verdict {
        if stand.at.is_some() && !stand.from_peer && stand.alive {
            self.remember(frame, packet, arrival);
        }
        self.hand(frame, stand, Counter::Relayed)
    }

    fn remember(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) {
        let mut mac = [0; 6];
        mac.copy_from_slice(&frame[6..12]);
        let stale = Stale {
            vip: packet.key.dst,
            family: packet.key.family,
            ifindex: arrival.ifindex,
            mac,
            ..Stale::default()
        };
        let last = self.reminded.get(&stale);
        if last.is_some_and(|last| arrival.now - last < REMINDER) {
            return;
        }
        self.reminded.insert(stale, arrival.now);
        let sender = packet.key.src;
        self.stales.push(Stale { sender, ..stale });
    }

    /// For a VIP, and the local stack's affair on the node that has it.
    pub(super) fn local(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
        tcp: bool,
    ) -> Verdict {
        let connected = tcp && self.sockets.contains(&packet.key);
        if stand.leave == Leave::Decide {
            if tcp && stand.second && !packet.is_bare_syn() && !connected {
                return self.hand(frame, stand, Counter::Handed);
            }
            return Verdict::Pass;
        }
        // A connection that began here goes on here: a switchover leaves it the time to end.
        if stand.alive && connected {
            return Verdict::Pass;
        }
        self.relay(frame, packet, arrival, stand)
    }

    /// The kernel would answer for a VIP, which is on the device of both nodes.
    pub(super) fn arp(&mut self, asked: Endpoint) -> Verdict {
        let owned = self.addresses.get(&asked);
        if owned.is_some_and(|owned| owned.flags & OWNED_VIP != 0) {
            // Made one to another host, which the kernel does not look at.
            self.count(Counter::Arp);
        }
        Verdict::Pass
    }

    pub(super) fn note_opened(&mut self, key: FlowKey) {
        let place = self.opened as usize % RECENT;
        if place == self.recent.len() {
            self.recent.push(key);
        } else if let Some(it) = self.recent.get_mut(place) {
            *it = key;
        }
        self.opened += 1;
    }

    /// The peer asks for the SYN of the n-th youngest handshake that waits for the process that
    /// died here, or hangs.
    pub(super) fn kick(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        let number = u64::from(packet.seq);
        if number >= self.opened || packet.seq as usize >= RECENT || packet.hops < 2 {
            return self.drop(Counter::Loop);
        }
        let place = (self.opened - 1 - number) as usize % RECENT;
        let key = self.recent.get(place).copied().unwrap_or_default();
        let flow = self.flows.get(&key).copied();
        let waits = |flow: &Flow| {
            key.family == packet.key.family && flow.state < State::Established.number()
        };
        let Some(flow) = flow.filter(waits) else {
            return self.drop(Counter::Loop);
        };
        self.count(Counter::Kicked);
        let mut frame = frame.to_vec();
        match self.forget(&flow, packet.key.family) {
            Some(number) => translate::into_reset(&mut frame, packet, number),
            None => translate::sequence(&mut frame, packet, flow.client_isn),
        }
        translate::tcp(&mut frame, packet, &flow);
        *self.counters.entry(Counter::BytesToBackend).or_default() +=
            (packet.end - super::L3) as u64;
        self.send(&flow, arrival, Counter::ToBackend, frame)
    }

    /// What the backend acknowledges that remembers an older connection of this port.
    fn forget(&mut self, flow: &Flow, family: u32) -> Option<u32> {
        let back = self.flows.get_mut(&flow.opposite(family))?;
        let sent = back.ack.wrapping_sub(flow.client_isn).wrapping_sub(1);
        let old = flow.state == State::Opening.number() && back.ack != 0 && sent >= SYN_DATA;
        old.then(|| std::mem::take(&mut back.ack))
    }
}
