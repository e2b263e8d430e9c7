//! The life of a flow, as `bpf/state.h` has it.

use super::super::layout::{
    FLOW_RETRY, FLOW_SYNC, Flow, MARK_BACKEND_FIN, MARK_BACKEND_RST, MARK_CLIENT_FIN,
    MARK_CLIENT_RST,
};
use super::super::names::{Cause, Counter, EventKind, State};
use super::packet::{ACK, FIN, Packet, RST, SYN};

const FINS: u8 = MARK_CLIENT_FIN | MARK_BACKEND_FIN;

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

/// Moves the client's entry on; `client`: it sent the packet.
pub(super) fn follow(flow: &mut Flow, packet: &Packet, client: bool) -> Step {
    if packet.flags & RST != 0 {
        return reset(flow, client);
    }
    if packet.flags & SYN == 0 {
        return speak(flow, packet, client);
    }
    let answers = packet.flags & ACK != 0 && packet.ack == flow.client_isn.wrapping_add(1);
    if !client && answers {
        return answer(flow, packet);
    }
    Step::default()
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

fn reset(flow: &mut Flow, client: bool) -> Step {
    let cause = if client {
        Cause::ClientRst
    } else {
        Cause::BackendRst
    };
    let retry = flow.flags & FLOW_RETRY != 0;
    if !client && flow.state == State::Opening.number() && retry {
        return Step::refuse(cause);
    }
    flow.marks |= if client {
        MARK_CLIENT_RST
    } else {
        MARK_BACKEND_RST
    };
    if flow.state == State::Closed.number() {
        return Step::default();
    }
    flow.state = State::Closed.number();
    Step::tell(EventKind::Closed, cause)
}

fn speak(flow: &mut Flow, packet: &Packet, client: bool) -> Step {
    let (own_fin, own_rst) = if client {
        (MARK_CLIENT_FIN, MARK_CLIENT_RST)
    } else {
        (MARK_BACKEND_FIN, MARK_BACKEND_RST)
    };
    let mut step = Step::default();
    let mut state = State::from_number(flow.state);
    if state == Some(State::Opening) {
        if !client && flow.flags & FLOW_RETRY != 0 {
            step = Step::refuse(Cause::StaleAck);
        }
        return step;
    }
    if state == Some(State::Closed) && flow.marks & own_rst != 0 && flow.marks & FINS != FINS {
        flow.marks &= !own_rst;
        let finished = flow.marks & FINS != 0;
        state = Some(if finished {
            State::Closing
        } else {
            State::Established
        });
        step = Step::tell(EventKind::Revived, Cause::None);
    }
    if state == Some(State::Answered) && client && packet.flags & ACK != 0 {
        state = Some(State::Established);
    }
    if packet.flags & FIN != 0 {
        flow.marks |= own_fin;
        if state != Some(State::Closed) {
            state = Some(State::Closing);
            if flow.marks & FINS == FINS {
                state = Some(State::Closed);
                step = Step::tell(EventKind::Closed, Cause::Fin);
            }
        }
    }
    if let Some(state) = state {
        flow.state = state.number();
    }
    step
}
