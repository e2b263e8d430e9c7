//! The program's translation in plain Rust: a function of a frame and of tables.
//!
//! Owns nothing outside of its tables; no IO, no clock. The kernel's program is tested against it,
//! packet by packet; a simulation may use it as its data path.

mod alone;
mod choose;
mod follow;
mod packet;
mod translate;

use std::collections::BTreeMap;

use super::layout::{
    Address, Backend, Carried, Endpoint, Event, FLOW_CLIENT, FLOW_DNAT, FLOW_RETRY, FLOW_SYNC,
    Flow, FlowKey, OWNED_REJECT, OWNED_SOURCE, Owned, Port, Refusal, SERVICE_DNAT, SERVICE_REJECT,
    SERVICE_RETRY, SERVICE_SYNC, SYN_MAX, Service, Settings, Source, Window,
};
use super::names::{Cause, Counter, EventKind, State};
use super::tables::Told;
pub(super) use alone::translated;
pub use choose::hashed;
use packet::{ACK, FIN, Kind, L3, Packet, RST, SYN};

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
    /// Only the flows that are there.
    pub frozen: bool,
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
        if arrival.foreign || arrival.tagged {
            return Verdict::Pass;
        }
        let (kind, packet) = packet::read(frame, arrival.long);
        match kind {
            Kind::Other => Verdict::Pass,
            Kind::Tcp => self.tcp(frame, &packet, arrival),
            Kind::Icmp => self.icmp(frame, &packet, arrival),
            Kind::Fragment => self.strange(&packet, Counter::Fragment),
            Kind::Malformed => self.strange(&packet, Counter::Malformed),
            Kind::Extension => self.strange(&packet, Counter::Extension),
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

    fn strange(&mut self, packet: &Packet, reason: Counter) -> Verdict {
        match self.owner(packet.key.dst, packet.key.family) {
            Some(_) => self.drop(reason),
            None => Verdict::Pass,
        }
    }

    fn tcp(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        let lapsed = arrival.now >= self.lease;
        let frozen = lapsed || self.frozen;
        let syn = packet.flags & (SYN | ACK | RST | FIN) == SYN;
        if let Some(flow) = self.flows.get(&packet.key).copied() {
            if lapsed {
                return self.drop(Counter::Lease);
            }
            let client = flow.flags & FLOW_CLIENT != 0;
            let new = flow.client_isn != packet.seq;
            let over = flow.state == State::Closed.number()
                || flow.state < State::Established.number() && new;
            if !(syn && client && over) {
                return self.forward(frame, packet, arrival);
            }
            if frozen {
                return self.drop(Counter::Lease);
            }
            self.replace(packet, flow);
        }
        let endpoint = Endpoint {
            address: packet.key.dst,
            port: packet.key.dport,
            zero: 0,
            family: packet.key.family,
        };
        if let Some(service) = self.services.get(&endpoint).copied() {
            let reject = service.flags & SERVICE_REJECT != 0;
            if frozen {
                return self.drop(Counter::Lease);
            }
            if !syn {
                return self.refuse(packet, Counter::Unknown, reject);
            }
            if packet.hops < 2 {
                return self.drop(Counter::Hops);
            }
            return match self.open(frame, packet, &service, arrival) {
                Ok(()) => self.forward(frame, packet, arrival),
                Err(reason) => self.refuse(packet, reason, reject && reason == Counter::NoBackend),
            };
        }
        let port = packet.key.dport.get();
        match self.owner(packet.key.dst, packet.key.family) {
            Some(owned)
                if owned.flags & OWNED_SOURCE != 0
                    && (self.settings.range_first..=self.settings.range_last).contains(&port) =>
            {
                if frozen {
                    return self.drop(Counter::Lease);
                }
                self.refuse(packet, Counter::Stray, owned.flags & OWNED_REJECT != 0)
            }
            _ => Verdict::Pass,
        }
    }

    fn icmp(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
        let Some(quote) = packet::quote(frame, packet) else {
            return Verdict::Pass;
        };
        let Some(flow) = self.flows.get(&quote.key).copied() else {
            return Verdict::Pass;
        };
        if arrival.now >= self.lease {
            return self.drop(Counter::Lease);
        }
        if packet.hops < 2 {
            return self.drop(Counter::Hops);
        }
        let mut frame = frame.to_vec();
        translate::icmp(&mut frame, packet, &quote, &flow);
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

    fn forward(&mut self, frame: &[u8], packet: &Packet, arrival: &Arrival) -> Verdict {
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
            && let Some(reason) = self.hold(frame, packet, flow)
        {
            return self.drop(reason);
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
    fn hold(&mut self, frame: &[u8], packet: &Packet, flow: Flow) -> Option<Counter> {
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
        step.held
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

    fn open(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        service: &Service,
        arrival: &Arrival,
    ) -> Result<(), Counter> {
        if self.bad_source(&packet.key) {
            return Err(Counter::BadSource);
        }
        if self.too_fast(&packet.key, service, arrival.now) {
            return Err(Counter::SourceRate);
        }
        let index = self.pick(&packet.key, service, arrival) as usize;
        let backend = self.backends.get(index).copied().unwrap_or_default();
        if backend.port == Port::default() {
            return Err(Counter::NoBackend);
        }
        let flag = |service_flag: u32, flow_flag: u8| {
            if service.flags & service_flag == 0 {
                0
            } else {
                flow_flag
            }
        };
        let dnat = service.flags & SERVICE_DNAT != 0;
        let mut front = Flow {
            to_src: if dnat { packet.key.src } else { backend.source },
            to_dst: backend.address,
            to_sport: packet.key.sport,
            to_dport: backend.port,
            service: service.id,
            backend: backend.id,
            ifindex: backend.ifindex,
            client_isn: packet.seq,
            seq: packet.seq.wrapping_add(packet.taken()),
            mss: service.mss,
            state: State::Opening.number(),
            flags: flag(SERVICE_DNAT, FLOW_DNAT)
                | flag(SERVICE_SYNC, FLOW_SYNC)
                | flag(SERVICE_RETRY, FLOW_RETRY),
            opened: arrival.now,
            seen: arrival.now,
            ..Flow::default()
        };
        if dnat && front.to_src == front.to_dst {
            return Err(Counter::Hairpin);
        }
        let back = Flow {
            to_src: packet.key.dst,
            to_dst: packet.key.src,
            to_sport: packet.key.dport,
            to_dport: packet.key.sport,
            ifindex: arrival.ifindex,
            seq: 0,
            ..front
        };
        front.flags |= FLOW_CLIENT;
        let mut back_key = front.opposite(packet.key.family);
        if !dnat {
            front.to_sport = self.port(&mut back_key, index)?;
        } else if self.flows.contains_key(&back_key) {
            return Err(Counter::NoPort);
        }
        if self.flows.len() + 2 > self.capacity {
            return Err(Counter::TableFull);
        }
        self.flows.insert(back_key, back);
        self.flows.insert(packet.key, front);
        self.count(Counter::Opened);
        let event = event(EventKind::Opened, Cause::None, packet.key, front, None);
        self.events.push(carried(event, frame, packet));
        Ok(())
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
