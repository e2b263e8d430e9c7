//! The ends of pretend connections: TCP as far as a balancer between them can tell, with one
//! segment in flight. No clock: whoever holds an end is told when to send again.

use std::net::SocketAddrV4;

use super::segment::{ACK, FIN, RST, SYN, Segment};

/// How far an end is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// Its SYN, or its SYN-ACK, is not acknowledged.
    Opening,
    Open,
    /// Both ends have ended it.
    Closed,
    Reset,
}

/// One end.
#[derive(Clone, Debug)]
pub struct End {
    pub local: SocketAddrV4,
    pub remote: SocketAddrV4,
    pub state: State,
    /// Its first sequence number.
    pub isn: u32,
    /// What it sends next.
    next: u32,
    /// What it expects next.
    expects: u32,
    /// What is not acknowledged yet.
    flying: Option<Segment>,
    /// Its number, and how often it was sent again.
    pub flight: u64,
    pub tries: u32,
    /// It was sent again because the other end asked for it: once is enough.
    woken: bool,
    /// FINs: sent, received.
    ended: [bool; 2],
}

/// What came of a segment.
#[derive(Debug, Default)]
pub struct Taken {
    /// To be answered with these.
    pub replies: Vec<Segment>,
    /// What it brought.
    pub bytes: Vec<u8>,
    /// The handshake is complete.
    pub opened: bool,
}

impl End {
    /// A client's, and its SYN.
    pub fn connect(local: SocketAddrV4, remote: SocketAddrV4, isn: u32) -> (Self, Segment) {
        let mut end = Self {
            local,
            remote,
            state: State::Opening,
            isn,
            next: isn,
            expects: 0,
            flying: None,
            flight: 0,
            tries: 0,
            woken: false,
            ended: [false; 2],
        };
        let syn = end.send(SYN, Vec::new());
        (end, syn)
    }

    /// A backend's, and its answer to this SYN.
    pub fn accept(syn: &Segment, isn: u32) -> (Self, Segment) {
        let (mut end, _) = Self::connect(syn.to, syn.from, isn);
        end.next = isn;
        end.expects = syn.seq.wrapping_add(1);
        let answer = end.send(SYN | ACK, Vec::new());
        (end, answer)
    }

    fn segment(&self, flags: u8, payload: Vec<u8>) -> Segment {
        Segment {
            from: self.local,
            to: self.remote,
            seq: self.next,
            ack: if flags & ACK == 0 { 0 } else { self.expects },
            flags,
            payload,
        }
    }

    /// Sends something that is to be acknowledged.
    pub fn send(&mut self, flags: u8, payload: Vec<u8>) -> Segment {
        let segment = self.segment(flags, payload);
        self.next = self.next.wrapping_add(segment.taken());
        self.ended[0] |= segment.has(FIN);
        (self.flying, self.tries) = (Some(segment.clone()), 0);
        self.flight += 1;
        self.woken = false;
        segment
    }

    /// What is in flight, again.
    pub fn again(&mut self) -> Option<Segment> {
        let mut segment = self.flying.clone()?;
        if segment.has(ACK) {
            segment.ack = self.expects;
        }
        self.tries += 1;
        Some(segment)
    }

    pub const fn is_waiting(&self) -> bool {
        self.flying.is_some()
    }

    pub const fn is_live(&self) -> bool {
        matches!(self.state, State::Opening | State::Open)
    }

    /// Whether the other end has sent FIN.
    pub const fn has_ended(&self) -> bool {
        self.ended[1]
    }

    /// A reset that it believes.
    pub fn reset_of_this(&self) -> Segment {
        Segment {
            from: self.remote,
            to: self.local,
            seq: self.expects,
            ack: 0,
            flags: RST,
            payload: Vec::new(),
        }
    }

    /// A segment came.
    pub fn take(&mut self, segment: &Segment) -> Taken {
        let mut taken = Taken::default();
        // RFC 9293, sections 3.10.7.3 and 3.5.3: one that sent a SYN knows no number of the other end
        // yet.
        let asks = self.flying.as_ref().is_some_and(|it| it.flags == SYN);
        if segment.has(RST) {
            let believed = if asks {
                segment.has(ACK) && segment.ack == self.next
            } else {
                segment.seq == self.expects && self.state != State::Closed
            };
            if believed {
                self.state = State::Reset;
            }
            return taken;
        }
        if segment.has(SYN | ACK) {
            self.answered(segment, &mut taken);
            return taken;
        }
        if segment.has(SYN) {
            // The same one again, or (RFC 5961, section 4.2) somebody else's.
            let same = self.state == State::Opening && segment.seq.wrapping_add(1) == self.expects;
            let reply = if same { self.flying.clone() } else { None };
            taken
                .replies
                .push(reply.unwrap_or_else(|| self.segment(ACK, Vec::new())));
            return taken;
        }
        if asks {
            if segment.ack != self.next {
                let mut reset = self.segment(RST, Vec::new());
                reset.seq = segment.ack;
                taken.replies.push(reset);
            }
            return taken;
        }
        if self.state == State::Opening && segment.seq != self.expects {
            // RFC 9293, section 3.10.7.4: one that is not acceptable does not complete a handshake.
            taken.replies.push(self.segment(ACK, Vec::new()));
            return taken;
        }
        if segment.has(ACK) {
            self.acknowledged(segment, &mut taken);
        }
        if self.state != State::Opening && segment.taken() > 0 {
            self.received(segment, &mut taken);
        }
        taken
    }

    /// A client got a SYN-ACK.
    fn answered(&mut self, segment: &Segment, taken: &mut Taken) {
        if self.state == State::Opening && segment.ack == self.next {
            self.state = State::Open;
            self.flying = None;
            self.expects = segment.seq.wrapping_add(1);
            taken.opened = true;
        } else if self.state == State::Opening {
            // RFC 9293, section 3.10.7.3.
            let mut reset = self.segment(RST, Vec::new());
            reset.seq = segment.ack;
            taken.replies.push(reset);
            return;
        }
        taken.replies.push(self.segment(ACK, Vec::new()));
    }

    fn acknowledged(&mut self, segment: &Segment, taken: &mut Taken) {
        let bare = segment.taken() == 0;
        if segment.ack == self.next {
            if self.state == State::Opening {
                self.state = State::Open;
                taken.opened = true;
            }
            self.flying = None;
        } else if self.state == State::Opening {
            let mut reset = self.segment(RST, Vec::new());
            reset.seq = segment.ack;
            taken.replies.push(reset);
        } else if bare && segment.seq == self.expects && !self.woken {
            // It says where it is: what is in flight got lost.
            self.woken = true;
            taken.replies.extend(self.again());
        }
        self.close();
    }

    fn received(&mut self, segment: &Segment, taken: &mut Taken) {
        if segment.seq == self.expects {
            self.expects = self.expects.wrapping_add(segment.taken());
            taken.bytes.clone_from(&segment.payload);
            self.ended[1] |= segment.has(FIN);
            self.close();
        }
        taken.replies.push(self.segment(ACK, Vec::new()));
    }

    fn close(&mut self) {
        if self.ended == [true; 2] && self.flying.is_none() && self.state == State::Open {
            self.state = State::Closed;
        }
    }
}

/// The answer of a host without such a connection (RFC 9293, section 3.10.7.1).
pub fn refusal(segment: &Segment) -> Segment {
    let acks = segment.has(ACK);
    Segment {
        from: segment.to,
        to: segment.from,
        seq: if acks { segment.ack } else { 0 },
        ack: if acks {
            0
        } else {
            segment.seq.wrapping_add(segment.taken())
        },
        flags: if acks { RST } else { RST | ACK },
        payload: Vec::new(),
    }
}

/// Two ends that talk over a wire that loses every third segment.
#[test]
fn ends_agree_in_spite_of_losses() {
    let at = |text: &str| text.parse().unwrap();
    let (mut client, syn) = End::connect(at("192.0.2.1:1000"), at("192.0.2.2:80"), 7);
    let (mut server, answer) = End::accept(&syn, 77);
    let mut wire = vec![answer];
    let (mut lost, mut got, mut said) = (0, [Vec::<u8>::new(), Vec::new()], false);
    for _ in 0..200 {
        let Some(segment) = wire.pop() else {
            wire.extend(client.again().into_iter().chain(server.again()));
            if client.state == State::Open && !client.is_waiting() && !said {
                said = true;
                wire.push(client.send(ACK, b"question".to_vec()));
            } else if said && !got[0].is_empty() && !client.ended[0] && !client.is_waiting() {
                wire.push(client.send(ACK | FIN, Vec::new()));
            }
            continue;
        };
        lost += 1;
        if lost % 3 == 0 {
            continue;
        }
        let to_client = segment.to == client.local;
        let end = if to_client { &mut client } else { &mut server };
        let taken = end.take(&segment);
        got[usize::from(!to_client)].extend(&taken.bytes);
        wire.extend(taken.replies);
        if !to_client && !taken.bytes.is_empty() {
            wire.push(server.send(ACK, b"answer".to_vec()));
        }
        if server.has_ended() && !server.ended[0] {
            wire.push(server.send(ACK | FIN, Vec::new()));
        }
    }
    assert_eq!(got, [b"answer".to_vec(), b"question".to_vec()]);
    assert_eq!([client.state, server.state], [State::Closed; 2]);
}
