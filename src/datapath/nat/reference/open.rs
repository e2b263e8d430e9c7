//! The beginning of a flow.

use super::super::layout::{
    FLOW_CLIENT, FLOW_DNAT, FLOW_RETRY, FLOW_SYNC, Flow, Port, SERVICE_DNAT, SERVICE_RETRY,
    SERVICE_SYNC, Service,
};
use super::super::names::{Cause, Counter, EventKind, State};
use super::packet::Packet;
use super::relay::Stand;
use super::{Arrival, Reference, carried, event};

impl Reference {
    /// A SYN to a service makes a flow, or there is a reason to drop it.
    pub(super) fn open(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        service: &Service,
        arrival: &Arrival,
        stand: &Stand,
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
        // Who is not master has no standby that could know of it first.
        let sync = if stand.accepted {
            0
        } else {
            flag(SERVICE_SYNC, FLOW_SYNC)
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
            flags: flag(SERVICE_DNAT, FLOW_DNAT) | sync | flag(SERVICE_RETRY, FLOW_RETRY),
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
        if sync != 0 {
            self.note_opened(packet.key);
        }
        let event = event(EventKind::Opened, Cause::None, packet.key, front, None);
        self.events.push(carried(event, frame, packet));
        Ok(())
    }
}
