//! The program's translation in plain Rust: a function of a frame and of tables.
//!
//! Owns nothing outside of its tables; no IO, no clock. The kernel's program is tested against it,
//! packet by packet; a simulation may use it as its data path.

mod alone;
mod choose;
mod follow;
mod open;
mod packet;
mod relay;
mod translate;

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{
    Address, Backend, Carried, Endpoint, Event, FLOW_CLIENT, Flow, FlowKey, Neighbour, OWNED_NAT,
    OWNED_REJECT, OWNED_SOURCE, OWNED_VIP, Owned, Port, Refusal, SERVICE_REJECT, SYN_MAX, Service,
    Settings, Source, Stale, Window,
};
use super::names::{Cause, Counter, EventKind, State};
use super::tables::Told;
pub(super) use alone::translated;
pub use choose::hashed;
use packet::{ACK, FIN, Kind, L3, Packet, RST, SYN};
pub use relay::{FROZEN, HUNG, RECENT};
use relay::{Leave, Stand};

/// How a frame came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival {
    /// By which device.
    pub ifindex: u32,
    /// Addressed to another machine, or to many.
    pub foreign: bool,
    /// With a VLAN tag.
    pub tagged: bool,
    /// A super-packet, to be cut up later.
    pub long: bool,
    /// When: `CLOCK_MONOTONIC`, nanoseconds.
    pub now: u64,
    /// What the kernel's generator gives, for [`Scheduler::Random`](super::Scheduler::Random).
    pub random: u32,
}

/// What becomes of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Not ours.
    Pass,
    /// Dropped, and counted so.
    Drop(Counter),
    /// Sent by this device; its Ethernet addresses are the kernel's affair.
    Redirect {
        /// Device.
        ifindex: u32,
        /// The translated frame.
        frame: Vec<u8>,
    },
    /// Handed to the peer, by the device by which it came: the frame as it is, with other Ethernet
    /// addresses.
    Relay(Vec<u8>),
}

/// The maps.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Two entries a flow.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Most entries of `flows`.
    pub capacity: usize,
    /// Services.
    pub services: BTreeMap<Endpoint, Service>,
    /// Addresses of ours.
    pub addresses: BTreeMap<Endpoint, Owned>,
    /// Indices of backends.
    pub slots: Vec<u32>,
    /// Backends.
    pub backends: Vec<Backend>,
    /// Ports tried, a counter a backend.
    pub ports: Vec<u64>,
    /// Flows placed, a counter a service.
    pub turns: Vec<u64>,
    /// Who opened flows of services that limit it; without the kernel's forgetting.
    pub sources: BTreeMap<Source, Window>,
    /// Port ranges.
    pub settings: Settings,
    /// May forward until then.
    pub lease: u64,
    /// Handshakes wait for the standby's word until then.
    pub waits: u64,
    /// Only the flows that are there.
    pub frozen: bool,
    /// And what is not decided is the peer's already, which is about to lead.
    pub offered: bool,
    /// As standby: until then, what the peer hands over is ours.
    pub accept: u64,
    /// As master: until then, the peer gets what belongs to no flow and no socket.
    pub second: u64,
    /// The process that leads the program has died.
    pub dead: bool,
    /// Where the two nodes are, by device.
    pub neighbours: BTreeMap<u32, Neighbour>,
    /// Connections of the host's own, as their packets' keys.
    pub sockets: BTreeSet<FlowKey>,
    /// Handshakes that wait for user space, the last [`RECENT`] of them in a circle.
    pub recent: Vec<FlowKey>,
    /// How many there were.
    pub opened: u64,
    /// Stale neighbours, and when each was told of.
    pub reminded: BTreeMap<Stale, u64>,
    /// What user space would be told of them.
    pub stales: Vec<Stale>,
    /// Everything counted.
    pub counters: BTreeMap<Counter, u64>,
    /// What user space would be told of flows.
    pub events: Vec<Told>,
    /// Packets that deserve a RST.
    pub refusals: Vec<Refusal>,
}

impl Reference {
    /// What becomes of this frame; the tables change with it.
    pub fn process(&mut self, frame: &[u8], arrival: &Arrival) -> Verdict {
        if arrival.tagged {
            return Verdict::Pass;
        }
        if let Some(asked) = relay::asked_by_arp(frame) {
            return self.arp(asked);
        }
        if arrival.foreign {
            return Verdict::Pass;
        }
        let (kind, packet) = packet::read(frame, arrival.long);
        match kind {
            Kind::Other => self.other(frame, &packet, arrival),
            Kind::Tcp => self.tcp(frame, &packet, arrival),
            Kind::Icmp => self.icmp(frame, &packet, arrival),
            Kind::Fragment => self.strange(frame, &packet, arrival, Counter::Fragment),
            Kind::Malformed => self.strange(frame, &packet, arrival, Counter::Malformed),
            Kind::Extension => self.strange(frame, &packet, arrival, Counter::Extension),
        }
    }

    fn count(&mut self, counter: Counter) {
        *self.counters.entry(counter).or_default() += 1;
    }

    fn drop(&mut self, reason: Counter) -> Verdict {
        self.count(reason);
        Verdict::Drop(reason)
    }

    fn refuse(&mut self, packet: &Packet, reason: Counter, answer: bool) -> Verdict {
        if answer && packet.flags & RST == 0 {
            self.refusals.push(Refusal {
                key: packet.key,
                seq: packet.seq,
                ack: packet.ack,
                length: packet.taken(),
                reason: reason.number() as u16,
                flags: packet.flags,
                zero: 0,
            });
        }
        self.drop(reason)
    }

    fn owner(&self, address: Address, family: u32) -> Option<Owned> {
        let endpoint = Endpoint {
            address,
            family,
            ..Endpoint::default()
        };
        self.addresses.get(&endpoint).copied()
    }

    fn strange(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        reason: Counter,
    ) -> Verdict {
        let Some(owned) = self.owner(packet.key.dst, packet.key.family) else {
            return Verdict::Pass;
        };
        let stand = self.look(frame, arrival);
        if stand.leave != Leave::Decide && owned.flags & OWNED_VIP != 0 {
            return self.relay(frame, packet, arrival, &stand);
        }
        match owned.flags & OWNED_NAT {
            0 => Verdict::Pass,
            _ => self.drop(reason),
        }
    }

    /// What is not TCP.
    fn other(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        match self.owner(packet.key.dst, packet.key.family) {
            Some(owned) if owned.flags & OWNED_VIP != 0 => {
                let stand = self.look(frame, arrival);
                self.local(frame, packet, arrival, &stand, false)
            }
            _ => Verdict::Pass,
        }
    }

    fn tcp(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        let mut looked = None;
        if let Some(flow) = self.flows.get(&packet.key).copied() {
            let stand = *looked.insert(self.look(frame, arrival));
            if let Some(verdict) = self.known(frame, packet, arrival, &stand, flow) {
                return verdict;
            }
        }
        let endpoint = Endpoint {
            address: packet.key.dst,
            port: packet.key.dport,
            zero: 0,
            family: packet.key.family,
        };
        let service = self.services.get(&endpoint).copied();
        let owned = self.owner(packet.key.dst, packet.key.family);
        if service.is_none() && owned.is_none() {
            return Verdict::Pass;
        }
        let stand = looked.unwrap_or_else(|| self.look(frame, arrival));
        match service {
            Some(service) => self.begin(frame, packet, arrival, &stand, &service),
            None => self.stray(frame, packet, arrival, &stand, owned.unwrap_or_default()),
        }
    }

    /// A packet of a flow. None: it ended the flow, and begins one.
    fn known(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
        flow: Flow,
    ) -> Option<Verdict> {
        if stand.leave == Leave::Nothing {
            return Some(self.relay(frame, packet, arrival, stand));
        }
        // Who may only forward let its SYN go to the peer, perhaps when even that was over; and what comes
        // from there may be of a flow that only the peer has.
        let next = stand.second || stand.from_peer || stand.leave == Leave::Forward;
        if next && follow::is_of_next(packet, &flow) {
            return Some(self.hand(frame, stand, Counter::Handed));
        }
        let client = flow.flags & FLOW_CLIENT != 0;
        let new = flow.client_isn != packet.seq;
        let over =
            flow.state == State::Closed.number() || flow.state < State::Established.number() && new;
        if !(packet.is_bare_syn() && client && over) {
            return Some(self.forward(frame, packet, arrival, stand));
        }
        self.replace(packet, flow);
        (stand.leave != Leave::Decide).then(|| self.relay(frame, packet, arrival, stand))
    }

    /// To a service, and no flow.
    fn begin(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
        service: &Service,
    ) -> Verdict {
        let reject = service.flags & SERVICE_REJECT != 0;
        if stand.leave != Leave::Decide {
            return self.relay(frame, packet, arrival, stand);
        }
        if !packet.is_bare_syn() {
            if stand.second {
                return self.hand(frame, stand, Counter::Handed);
            }
            return self.refuse(packet, Counter::Unknown, reject);
        }
        if packet.hops < 2 {
            return self.drop(Counter::Hops);
        }
        match self.open(frame, packet, service, arrival, stand) {
            Ok(()) => self.forward(frame, packet, arrival, stand),
            Err(reason) => self.refuse(packet, reason, reject && reason == Counter::NoBackend),
        }
    }

    /// To an address of ours, no service and no flow.
    fn stray(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
        owned: Owned,
    ) -> Verdict {
        let port = packet.key.dport.get();
        let range = self.settings.range_first..=self.settings.range_last;
        if owned.flags & OWNED_SOURCE != 0 && range.contains(&port) {
            if stand.leave != Leave::Decide {
                return self.relay(frame, packet, arrival, stand);
            }
            if stand.second {
                return self.hand(frame, stand, Counter::Handed);
            }
            return self.refuse(packet, Counter::Stray, owned.flags & OWNED_REJECT != 0);
        }
        if owned.flags & OWNED_VIP == 0 {
            return Verdict::Pass;
        }
        let none = (Port::default(), Port::default());
        let kicks = packet.is_bare_syn() && (packet.key.sport, packet.key.dport) == none;
        if kicks && stand.asked() {
            return self.kick(frame, packet, arrival);
        }
        self.local(frame, packet, arrival, stand, true)
    }

    fn icmp(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        let quote = packet::quote(frame, packet);
        let flow = quote.as_ref().and_then(|quote| self.flows.get(&quote.key));
        let (Some(quote), Some(flow)) = (&quote, flow.copied()) else {
            return self.other(frame, packet, arrival);
        };
        let stand = self.look(frame, arrival);
        if stand.leave == Leave::Nothing {
            return self.relay(frame, packet, arrival, &stand);
        }
        if packet.hops < 2 {
            return self.drop(Counter::Hops);
        }
        let mut frame = frame.to_vec();
        translate::icmp(&mut frame, packet, quote, &flow);
        self.send(&flow, arrival, Counter::Icmp, frame)
    }

    fn send(&mut self, flow: &Flow, arrival: &Arrival, what: Counter, frame: Vec<u8>) -> Verdict {
        self.count(what);
        let ifindex = if flow.ifindex == 0 {
            arrival.ifindex
        } else {
            flow.ifindex
        };
        Verdict::Redirect { ifindex, frame }
    }

    fn forward(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        arrival: &Arrival,
        stand: &Stand,
    ) -> Verdict {
        if packet.hops < 2 {
            return self.drop(Counter::Hops);
        }
        let Some(flow) = self.flows.get_mut(&packet.key) else {
            return self.drop(Counter::Race);
        };
        flow.seen = arrival.now;
        flow.packets += 1;
        flow.bytes += (packet.end - L3) as u64;
        if packet.flags & RST == 0 {
            flow.seq = packet.seq.wrapping_add(packet.taken());
            if packet.flags & ACK != 0 {
                flow.ack = packet.ack;
            }
        }
        let flow = *flow;
        let plain = packet.flags & (SYN | FIN | RST) == 0;
        if !(plain && flow.state == State::Established.number())
            && let Some(reason) = self.hold(frame, packet, flow, stand)
        {
            return self.drop(reason);
        }
        if !stand.alive {
            self.count(Counter::Frozen);
        }
        let mut frame = frame.to_vec();
        translate::tcp(&mut frame, packet, &flow);
        let (what, bytes) = if flow.flags & FLOW_CLIENT == 0 {
            (Counter::ToClient, Counter::BytesToClient)
        } else {
            (Counter::ToBackend, Counter::BytesToBackend)
        };
        *self.counters.entry(bytes).or_default() += (packet.end - L3) as u64;
        self.send(&flow, arrival, what, frame)
    }

    /// Follows what the packet says. Why it stays here, if it does.
    fn hold(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        flow: Flow,
        stand: &Stand,
    ) -> Option<Counter> {
        let other = flow.opposite(packet.key.family);
        let pair = self.flows.get(&other).copied()?;
        let client = flow.flags & FLOW_CLIENT != 0;
        let (front_key, back_key, mut front, mut back) = if client {
            (packet.key, other, flow, pair)
        } else {
            (other, packet.key, pair, flow)
        };
        let mut both = follow::Both {
            front: &mut front,
            back: &back,
            client,
        };
        let step = both.follow(packet);
        back.state = front.state;
        back.marks = front.marks;
        back.backend_isn = front.backend_isn;
        back.client_isn = front.client_isn;
        back.opened = front.opened;
        self.flows.insert(front_key, front);
        self.flows.insert(back_key, back);
        if let Some((kind, cause)) = step.event {
            let event = event(kind, cause, front_key, front, Some(back));
            self.events.push(if step.carry {
                carried(event, frame, packet)
            } else {
                Told::Event(event)
            });
        }
        let refused = matches!(step.event, Some((EventKind::Refused, _)));
        // Nobody would send it soon, or try another backend.
        let useless = |held| held == Counter::Waiting && !stand.waits || refused && !stand.alive;
        step.held.filter(|held| !useless(*held))
    }

    fn replace(&mut self, packet: &Packet, mut flow: Flow) {
        let other = flow.opposite(packet.key.family);
        self.count(Counter::Replaced);
        flow.state = State::Closed.number();
        let back = self.flows.get(&other).copied();
        let event = event(EventKind::Closed, Cause::Replaced, packet.key, flow, back);
        self.events.push(Told::Event(event));
        self.flows.remove(&other);
        self.flows.remove(&packet.key);
    }
}

fn carried(event: Event, frame: &[u8], packet: &Packet) -> Told {
    let from = &frame[L3..packet.end];
    let length = from.len().min(SYN_MAX);
    let mut bytes = [0; SYN_MAX];
    bytes[..length].copy_from_slice(&from[..length]);
    Told::Carried(Box::new(Carried {
        event,
        length: length as u32,
        zero: 0,
        packet: bytes,
    }))
}

fn event(kind: EventKind, cause: Cause, key: FlowKey, flow: Flow, back: Option<Flow>) -> Event {
    Event {
        kind: kind.number(),
        cause: cause.number(),
        key,
        flow,
        back_packets: back.map_or(0, |back| back.packets),
        back_bytes: back.map_or(0, |back| back.bytes),
    }
}

#[cfg(test)]
mod tests;
