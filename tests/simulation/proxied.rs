//! Proxied connections: clients open and close them at whoever the LAN leads them to; those that a
//! former master drains live by the second chance that the new one gives them.

use std::time::Duration;

use tandem::balance::flow::{FlowEnd, FlowEvent};
use tandem::model::{ConnectFailure, FlowId, Incarnation};
use tandem::node::io::Input;

use super::world::{Event, MS, World};

/// What the world knows of them beside `World::flows`.
#[derive(Debug)]
pub struct Proxied {
    /// How often a draining connection ends, in percent of all looks.
    pub ends: u64,
    /// Connections that their node reset.
    pub resets: u64,
    /// Draining connections whose packets the new master did not hand over: it reset them.
    pub refused: u64,
    /// Whoever has stopped is started again.
    pub starts_again: bool,
}

impl Default for Proxied {
    fn default() -> Self {
        Self {
            ends: 25,
            resets: 0,
            refused: 0,
            starts_again: false,
        }
    }
}

impl World {
    pub fn tell_flows(&mut self, machine: usize, life: Incarnation, events: Vec<FlowEvent>) {
        if let (false, Some(process)) = (events.is_empty(), &mut self.machines[machine].process) {
            process.untold += 1;
            let before = process.told_until;
            let at = self.soon(50, 1_000).max(before);
            if let Some(process) = &mut self.machines[machine].process {
                process.told_until = at;
            }
            let event = Event::Flows {
                machine,
                life,
                events,
            };
            self.at(at, event);
        }
    }

    pub fn flow_events(&mut self, machine: usize, life: Incarnation, events: Vec<FlowEvent>) {
        match &mut self.machines[machine].process {
            Some(process) if process.incarnation == life => process.untold -= 1,
            _ => return,
        }
        self.give(machine, Input::Flows(events));
    }

    /// The node resets all that it has.
    pub fn drop_flows(&mut self, machine: usize, life: Incarnation) {
        let dropped = std::mem::take(&mut self.flows[machine]);
        self.proxied.resets += dropped.len() as u64;
        let events = dropped.into_iter();
        let events = events.map(|flow| closed(flow, FlowEnd::Dropped));
        self.tell_flows(machine, life, events.collect());
    }

    /// A connection of a node that is not master any more says something, and perhaps ends. Its
    /// packets go to the master, which knows nothing of it.
    fn drained_speaks(&mut self, machine: usize) {
        let host = &self.machines[machine];
        let Some(process) = host.awake().filter(|_| !host.is_master()) else {
            return;
        };
        let life = process.incarnation;
        let Some(flow) = self.flows[machine].first().copied() else {
            return;
        };
        let owner = self.lan.map(|(owner, _)| owner).filter(|o| *o != machine);
        let owner = owner.map(|owner| &self.machines[owner]);
        let master = owner.filter(|host| host.is_master() && host.kernel.holds(self.now));
        let process = master.and_then(|host| host.awake());
        let refused = process.is_some_and(|process| !process.relay.second_chance);
        self.proxied.refused += u64::from(refused);
        let end = match refused {
            true => FlowEnd::ClientError,
            false => FlowEnd::Complete,
        };
        if refused || self.rng.chance(self.proxied.ends) {
            self.flows[machine].remove(&flow);
            self.tell_flows(machine, life, vec![closed(flow, end)]);
        }
    }

    /// Clients open and close connections at whoever the LAN leads them to.
    pub fn work(&mut self) {
        self.at(self.now + 50 * MS, Event::Work);
        if self.relays[0] {
            (0..2).for_each(|machine| self.drained_speaks(machine));
        }
        let Some((owner, _)) = self.lan else { return };
        let host = &self.machines[owner];
        let Some(process) = host.awake() else { return };
        if !host.kernel.holds(self.now) || !host.is_master() || self.calm {
            return;
        }
        let (life, eligible) = (process.incarnation, &process.published);
        let service = self.config.services[0].id;
        let Some(backend) = eligible
            .iter()
            .nth(self.next_flow as usize % eligible.len().max(1))
        else {
            return;
        };
        let backend = *backend;
        self.next_flow += 1;
        if !self.backends_up[&backend] {
            let failure = ConnectFailure::Refused;
            let event = FlowEvent::ConnectFailed { backend, failure };
            self.tell_flows(owner, life, vec![event]);
            return;
        }
        // Each life counts its own, as the data path does: both nodes have a first one.
        let flow = process.opened + 1;
        self.flows[owner].insert(flow);
        let mut events = vec![FlowEvent::Opened {
            flow: FlowId(flow),
            service,
            backend,
            client: "192.0.2.1:40000".parse().expect("an address"),
            connect: Duration::from_millis(1),
        }];
        if self.flows[owner].len() > 20 {
            let oldest = self.flows[owner].pop_first();
            events.extend(oldest.map(|flow| closed(flow, FlowEnd::Complete)));
        }
        if let Some(process) = &mut self.machines[owner].process {
            process.opened += 1;
        }
        self.tell_flows(owner, life, events);
    }
}

const fn closed(flow: u64, end: FlowEnd) -> FlowEvent {
    FlowEvent::Closed {
        flow: FlowId(flow),
        up: 10,
        down: 20,
        end,
    }
}
