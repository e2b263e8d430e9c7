//! The session: one stream between the nodes, and what each end believes of it.

use tandem::model::{Incarnation, NodeId};
use tandem::node::io::Input;
use tandem::wire::replication::{Frame, Hello, PROTOCOL};

use super::network::STREAM_TIMEOUT;
use super::world::{Event, MS, World};

impl World {
    pub fn dial(&mut self) {
        self.at(self.now + 100 * MS, Event::Dial);
        let ready = self
            .machines
            .iter()
            .all(|machine| machine.awake().is_some());
        if self.stream.is_some() || !ready || !self.network.stream_passes() || self.path_down(0) {
            return;
        }
        self.streams += 1;
        self.stream = Some(self.streams);
        let at = self.soon(300, 900);
        self.stream_next = [at; 2];
        for machine in 0..2 {
            let incarnation = |m: usize| self.machines[m].process.as_ref().unwrap().incarnation;
            let (life, peer) = (incarnation(machine), incarnation(1 - machine));
            let hello = Hello {
                protocol: PROTOCOL,
                node: NodeId::BOTH[1 - machine],
                incarnation: peer,
                config_hash: self.config.hash,
            };
            let input = Input::SessionUp(hello);
            self.at(
                at,
                Event::Process {
                    machine,
                    life,
                    stream: self.stream,
                    input,
                },
            );
        }
    }

    /// What each end believes of the stream: an end is told once that it stands, and once that it
    /// ended; a new one ends the old one first.
    pub fn session_agrees(&mut self, machine: usize, stream: Option<u64>, input: &Input) -> bool {
        let known = self.machines[machine].session;
        match input {
            Input::SessionUp(hello) if stream == self.stream => {
                if known.is_some() {
                    self.give(machine, closed("replaced"));
                }
                self.machines[machine].session = stream;
                if let Some(process) = &mut self.machines[machine].process {
                    process.unsent = 0;
                    process.written = 0;
                    process.session_life = Some(hello.incarnation);
                }
                true
            }
            Input::SessionClosed { .. } if stream == known => {
                self.machines[machine].session = None;
                true
            }
            Input::SessionFrame(_) => stream == self.stream && stream == known,
            Input::SessionUp(_) | Input::SessionClosed { .. } => false,
            _ => true,
        }
    }

    /// The stream ends; each end learns of it, late if the network does not pass.
    pub fn close_stream(&mut self, reset: bool) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        let passes = reset && self.network.stream_passes() && !self.path_down(0);
        for machine in 0..2 {
            let Some(process) = &self.machines[machine].process else {
                continue;
            };
            let life = process.incarnation;
            let at = if passes && self.machines[1 - machine].powered() {
                self.soon(50, 400).max(self.stream_next[machine])
            } else {
                self.now + STREAM_TIMEOUT.as_nanos() as u64
            };
            self.at(
                at,
                Event::Process {
                    machine,
                    life,
                    stream: Some(stream),
                    input: closed("reset"),
                },
            );
        }
    }

    pub fn send_frame(&mut self, machine: usize, life: Incarnation, frame: Frame) {
        let sent = Input::SessionSent { frames: 1 };
        let at = self.soon(10, 200);
        self.at(
            at,
            Event::Process {
                machine,
                life,
                stream: None,
                input: sent,
            },
        );
        let (Some(stream), Some(peer)) = (self.stream, &self.machines[1 - machine].process) else {
            return;
        };
        let life = peer.incarnation;
        let at = self.soon(60, 600).max(self.stream_next[1 - machine] + 1);
        self.stream_next[1 - machine] = at;
        let input = Input::SessionFrame(frame);
        self.at(
            at,
            Event::Process {
                machine: 1 - machine,
                life,
                stream: Some(stream),
                input,
            },
        );
    }
}

fn closed(reason: &str) -> Input {
    Input::SessionClosed {
        fault: false,
        reason: reason.into(),
    }
}
