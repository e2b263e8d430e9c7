//! The network of the kernel mode: it carries frames between clients, machines and backends, and
//! each end takes what comes.

use std::time::Duration;

use tandem::datapath::nat::Counter;
use tandem::datapath::nat::reference::{Arrival, Verdict};

use super::checkers::Decided;
use super::ends::{End, State, Taken, refusal};
use super::faults::Kind;
use super::kernel_mode::DEVICE;
use super::segment::{ACK, FIN, IP, LINK, RST, SYN, Segment, glance};
use super::traffic::{Mood, Server, Step, Whose, answer};
use super::world::{Event, World};

impl World {
    /// A host sends this segment. To the service it goes where the LAN leads.
    pub fn sends(&mut self, segment: &Segment) {
        if self.traffic.is_service(segment.to) {
            self.sends_to_vip(segment);
        } else {
            self.carries(None, segment.frame(), 0);
        }
    }

    /// The network carries a frame, late, twice or never.
    pub fn carries(&mut self, to: Option<usize>, frame: Vec<u8>, hops: u8) {
        let has = |kind| self.faults.has(kind) && !self.calm;
        let (lossy, disordered) = (has(Kind::Loss), has(Kind::Reorder));
        if lossy && self.traffic.rng.chance(3) {
            return;
        }
        if disordered && self.traffic.rng.chance(5) {
            self.delivers(to, frame.clone(), hops, disordered);
        }
        self.delivers(to, frame, hops, disordered);
    }

    fn delivers(&mut self, to: Option<usize>, frame: Vec<u8>, hops: u8, disordered: bool) {
        let rng = &mut self.traffic.rng;
        let slow = disordered && rng.chance(8);
        let most = if slow { 20_000 } else { 200 };
        let delay = rng.between(Duration::from_micros(30), Duration::from_micros(most));
        let event = Event::Traffic(Step::Frame { to, frame, hops });
        self.at(self.now + delay.as_nanos() as u64, event);
    }

    /// A frame comes to a machine's program.
    pub fn machine_gets(&mut self, machine: usize, frame: &[u8], hops: u8) {
        let random = self.traffic.rng.next() as u32;
        self.watch(["A", "B"][machine], "gets", frame);
        let loses = self.faults.has(Kind::Kernel) && !self.calm && self.traffic.rng.chance(1);
        let host = &mut self.machines[machine];
        if !host.powered() || host.kernel.link_down {
            return;
        }
        let arrival = Arrival {
            ifindex: DEVICE,
            now: host.kept.clock.read(self.now),
            random,
            ..Arrival::default()
        };
        host.kept.tables.dead = host.kept.is_dead(self.now);
        let tables = &mut host.kept.tables;
        let before = (
            tables.events.len(),
            tables.refusals.len(),
            tables.stales.len(),
        );
        let decided = Decided::of(tables);
        let verdict = tables.process(frame, &arrival);
        if loses && tables.events.len() > before.0 {
            tables.events.truncate(before.0);
            *tables.counters.entry(Counter::LostEvent).or_default() += 1;
        }
        let now = (
            tables.events.len(),
            tables.refusals.len(),
            tables.stales.len(),
        );
        let told = before != now;
        let decided = Decided::of(tables).since(decided);
        if !self.watched.is_empty() {
            let text = match &verdict {
                Verdict::Relay(_) => "relays".to_owned(),
                Verdict::Redirect { .. } => "forwards".to_owned(),
                other => format!("{other:?}"),
            };
            self.watch(["A", "B"][machine], &text, frame);
        }
        self.flow_decided(machine, decided, frame, hops);
        match verdict {
            Verdict::Pass => self.flow_passed(machine, frame),
            Verdict::Drop(_) => {}
            Verdict::Relay(goes) => self.hands_over(machine, goes, hops + 1),
            Verdict::Redirect { frame: goes, .. } => {
                self.flow_forwarded(machine, frame, &goes, hops);
                self.leaves(machine, goes);
            }
        }
        if told {
            self.wake_thread(machine, Duration::from_micros(150));
        }
    }

    /// Traces what is watched.
    fn watch(&mut self, who: &str, what: &str, frame: &[u8]) {
        let (from, to) = glance(frame);
        if self.watched.contains(&from.port()) || self.watched.contains(&to.port()) {
            let flags = frame[LINK + IP + 13];
            self.log(who, &format!("{what} {from} > {to} {flags:#04x}"));
        }
    }

    /// A machine sends a frame to a client or a backend.
    pub fn leaves(&mut self, machine: usize, frame: Vec<u8>) {
        let host = &self.machines[machine];
        if host.powered() && !host.kernel.link_down {
            self.carries(None, frame, 0);
        }
    }

    /// A client or a backend gets a frame.
    pub fn host_gets(&mut self, frame: &[u8]) {
        self.watch("-", "host gets", frame);
        let segment = match Segment::read(frame) {
            Ok(segment) => segment,
            Err(why) => return self.checkers.kernel_mode_failed(why),
        };
        if let Some(number) = self.traffic.client_at(segment.to) {
            self.client_gets(number, &segment);
        } else {
            self.backend_gets(&segment);
        }
    }

    fn client_gets(&mut self, number: u64, segment: &Segment) {
        let Some(client) = self.traffic.clients.get_mut(&number) else {
            return;
        };
        let before = client.end.state;
        let was_live = client.end.is_live();
        let Taken {
            replies,
            bytes,
            opened,
        } = client.end.take(segment);
        if opened {
            client.took = Some(self.now - client.began);
        }
        let think = if !bytes.is_empty() {
            self.client_reads(number, &bytes);
            true
        } else {
            opened
        };
        for reply in replies {
            self.sends(&reply);
        }
        if think {
            let most = Duration::from_millis(2_000);
            let wait = self.traffic.rng.between(Duration::ZERO, most);
            let at = self.now + wait.as_nanos() as u64;
            self.at(at, Event::Traffic(Step::Ask(number)));
        }
        let Some(client) = self.traffic.clients.get(&number) else {
            return;
        };
        if was_live && client.end.state == State::Reset {
            self.flow_reset(number, before);
        } else if was_live && !client.end.is_live() {
            let at = client.end.local;
            self.traffic.free.push(at);
        }
    }

    /// Content: what comes is the answer to the last question, from one and the same backend.
    fn client_reads(&mut self, number: u64, bytes: &[u8]) {
        let Some(client) = self.traffic.clients.get_mut(&number) else {
            return;
        };
        let said = bytes.first_chunk().map(|id| u32::from_be_bytes(*id));
        let backend = *client
            .backend
            .get_or_insert_with(|| said.unwrap_or(u32::MAX));
        client.answered += 1;
        client.waits_since = u64::MAX;
        let expected = answer(backend, number, client.answered);
        if bytes != expected || client.answered != client.asked {
            let what = format!(
                "content: client {number} got {bytes:02x?} instead of {expected:02x?} to its question {}",
                client.asked
            );
            self.checkers.kernel_mode_failed(&what);
        }
    }

    fn backend_gets(&mut self, segment: &Segment) {
        let isn = self.traffic.rng.next() as u32;
        let Some(host) = self.traffic.hosts.get_mut(&segment.to) else {
            return;
        };
        let whose = Whose::Server {
            host: segment.to,
            peer: segment.from,
        };
        let Some(server) = host.servers.get_mut(&segment.from) else {
            let fresh = segment.has(SYN) && !segment.has(ACK);
            match host.mood {
                _ if segment.has(RST) => {}
                Mood::Serves if fresh => {
                    let (end, reply) = End::accept(segment, isn);
                    let server = Server { end, number: None };
                    host.servers.insert(segment.from, server);
                    self.flies(whose, &reply);
                }
                Mood::Silent if fresh => {}
                _ => self.sends(&refusal(segment)),
            }
            return;
        };
        let taken = server.end.take(segment);
        let mut flying = None;
        if !taken.bytes.is_empty() {
            flying = server.answer(host.id, &taken.bytes);
            if flying.is_none() {
                let what = format!("content: backend {:?} got {:02x?}", host.id, taken.bytes);
                self.checkers.kernel_mode_failed(&what);
                return;
            }
        } else if server.end.state == State::Open
            && server.end.has_ended()
            && !taken.replies.is_empty()
            && !server.end.is_waiting()
        {
            flying = Some(server.end.send(ACK | FIN, Vec::new()));
        }
        if !server.end.is_live() {
            host.servers.remove(&segment.from);
        }
        for reply in taken.replies {
            self.sends(&reply);
        }
        if let Some(segment) = flying {
            self.flies(whose, &segment);
        }
    }
}
