//! The life of a flow, as `bpf/state.h` has it.

use super::super::layout::{
    FLOW_CLIENT, FLOW_RETRY, FLOW_SYNC, Flow, MARK_BACKEND_FIN, MARK_BACKEND_RST, MARK_CLIENT_FIN,
    MARK_CLIENT_RST,
};
use super::super::names::{Cause, Counter, EventKind, State};
use super::packet::{ACK, FIN, Packet, RST, SYN};

const FINS: u8 = MARK_CLIENT_FIN | MARK_BACKEND_FIN;

/// More than fits in a SYN.
pub(super) const SYN_DATA: u32 = 65_536;
/// Most that an end sends without an answer, as far as is believed.
const FLIGHT: u32 = 1 << 22;

/// What a packet did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Step {
    /// What to tell of it.
    pub(super) event: Option<(EventKind, Cause)>,
    /// Why the packet stays here.
    pub(super) held: Option<Counter>,
    /// It is told with the packet.
    pub(super) carry: bool,
}

impl Step {
    const fn tell(kind: EventKind, cause: Cause) -> Self {
        Self {
            event: Some((kind, cause)),
            held: None,
            carry: false,
        }
    }

    const fn refuse(cause: Cause) -> Self {
        Self {
            event: Some((EventKind::Refused, cause)),
            held: Some(Counter::Held),
            carry: false,
        }
    }
}

/// Both entries of a flow. The client's moves on; the other one gets a copy of its state afterwards.
#[derive(Debug)]
pub(super) struct Both<'f> {
    pub(super) front: &'f mut Flow,
    pub(super) back: &'f Flow,
    /// The client sent the packet.
    pub(super) client: bool,
}

impl Both<'_> {
    fn is(&self, state: State) -> bool {
        self.front.state == state.number()
    }

    /// Not over: a SYN that comes to a flow that is gets a flow of its own.
    fn is_speaking(&self) -> bool {
        self.is(State::Established) || self.is(State::Closing)
    }

    /// Moves on.
    pub(super) fn follow(&mut self, packet: &Packet) -> Step {
        if packet.flags & RST != 0 {
            return self.reset(packet);
        }
        if packet.flags & SYN == 0 {
            return self.speak(packet);
        }
        if self.client || packet.flags & ACK == 0 {
            return Step::default();
        }
        // A SYN may carry data, which its answer may acknowledge as well (RFC 7413).
        let data = packet
            .ack
            .wrapping_sub(self.front.client_isn)
            .wrapping_sub(1);
        if data < SYN_DATA {
            answer(self.front, packet)
        } else if self.is_speaking() && packet.ack == self.front.seq {
            renew(self.front, self.back, packet)
        } else {
            Step::default()
        }
    }

    /// Whether the end that a RST goes to believes it.
    fn believed(&self, packet: &Packet) -> bool {
        let (front, back) = (&*self.front, self.back);
        let (from, to) = if self.client {
            (front, back)
        } else {
            (back, front)
        };
        let first = front.client_isn.wrapping_add(1);
        if !self.client && front.state <= State::Answered.number() {
            let asked = packet.flags & ACK != 0 && packet.ack.wrapping_sub(first) < SYN_DATA;
            let next = packet.seq == front.backend_isn.wrapping_add(1);
            return asked || self.is(State::Answered) && next;
        }
        if self.is(State::Opening) {
            return packet.seq == first || packet.seq == from.seq;
        }
        let behind = packet.seq == from.seq
            && packet.seq.wrapping_sub(to.ack) <= FLIGHT
            && near(from.ack, to.seq);
        to.packets == 0 || packet.seq == to.ack || behind
    }

    fn reset(&mut self, packet: &Packet) -> Step {
        let (cause, mark) = if self.client {
            (Cause::ClientRst, MARK_CLIENT_RST)
        } else {
            (Cause::BackendRst, MARK_BACKEND_RST)
        };
        if !self.believed(packet) {
            return Step::default();
        }
        if !self.client && self.is(State::Opening) && self.front.flags & FLOW_RETRY != 0 {
            return Step::refuse(cause);
        }
        self.front.marks |= mark;
        if self.is(State::Closed) {
            return Step::default();
        }
        self.front.state = State::Closed.number();
        Step::tell(EventKind::Closed, cause)
    }

    /// A FIN that may be on its way.
    fn ends(&self, packet: &Packet) -> bool {
        let to = if self.client { self.back } else { &*self.front };
        let end = packet.seq.wrapping_add(packet.taken());
        let fits = packet.flags & ACK != 0
            && end.wrapping_sub(to.ack) <= FLIGHT
            && near(packet.ack, to.seq);
        packet.flags & FIN != 0 && (to.packets == 0 || fits)
    }

    fn speak(&mut self, packet: &Packet) -> Step {
        let (own_fin, own_rst) = if self.client {
            (MARK_CLIENT_FIN, MARK_CLIENT_RST)
        } else {
            (MARK_BACKEND_FIN, MARK_BACKEND_RST)
        };
        let mut step = Step::default();
        if self.is(State::Opening) {
            if !self.client {
                let retry = self.front.flags & FLOW_RETRY != 0;
                return if retry {
                    Step::refuse(Cause::StaleAck)
                } else {
                    step
                };
            }
            let sent = packet.seq.wrapping_sub(self.front.client_isn);
            if packet.flags & ACK == 0 || sent.wrapping_sub(1) >= SYN_DATA {
                return step;
            }
            self.front.backend_isn = packet.ack.wrapping_sub(1);
            self.front.state = State::Established.number();
            step = Step::tell(EventKind::Established, Cause::None);
        }
        let marks = self.front.marks;
        if self.is(State::Closed) && marks & own_rst != 0 && marks & FINS != FINS {
            self.front.marks &= !own_rst;
            let state = if marks & FINS != 0 {
                State::Closing
            } else {
                State::Established
            };
            self.front.state = state.number();
            step = Step::tell(EventKind::Revived, Cause::None);
        }
        if self.is(State::Answered) && self.client && packet.flags & ACK != 0 {
            self.front.state = State::Established.number();
        }
        if !self.ends(packet) {
            return step;
        }
        self.front.marks |= own_fin;
        if !self.is(State::Closed) {
            self.front.state = State::Closing.number();
            if self.front.marks & FINS == FINS {
                self.front.state = State::Closed.number();
                step = Step::tell(EventKind::Closed, Cause::Fin);
            }
        }
        step
    }
}

/// The connection is over, and its client acknowledges what nobody sent on it: it has begun a new one
/// on these ports, of which only the peer knows.
pub(super) const fn is_of_next(packet: &Packet, flow: &Flow) -> bool {
    flow.state == State::Closed.number()
        && flow.flags & FLOW_CLIENT != 0
        && packet.flags & (SYN | ACK) == ACK
        && !near(packet.ack, flow.ack)
}

/// No further apart than what may be on its way.
const fn near(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).wrapping_add(FLIGHT) <= 2 * FLIGHT
}

/// The backend took a SYN on ports of a flow for the first of a new connection.
fn renew(flow: &mut Flow, back: &Flow, packet: &Packet) -> Step {
    flow.client_isn = packet.ack.wrapping_sub(1);
    flow.marks = 0;
    flow.opened = back.seen;
    flow.state = State::Opening.number();
    answer(flow, packet)
}

/// A SYN-ACK that the client would take.
fn answer(flow: &mut Flow, packet: &Packet) -> Step {
    let sync = flow.flags & FLOW_SYNC != 0;
    let step = Step::tell(EventKind::Established, Cause::None);
    let step = match State::from_number(flow.state) {
        Some(State::Opening | State::Answered) if sync => Step {
            held: Some(Counter::Waiting),
            carry: true,
            ..step
        },
        Some(State::Opening) => step,
        _ => return Step::default(),
    };
    flow.backend_isn = packet.seq;
    flow.state = State::Answered.number();
    step
}
