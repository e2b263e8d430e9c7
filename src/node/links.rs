//! Where the peer is on each link, whether the relay therefore works, and neighbours that have not
//! heard where an address lives.

use std::collections::{BTreeMap, VecDeque};

use super::Node;
use super::io::Output;
use crate::balance::nat::NatCommand;
use crate::model::{Neighbour, Role, Stale};
use crate::status::{RelayLink, RelayStatus, StaleStatus};
use crate::time::Mono;
use crate::vip::kernel::KernelCommand;

/// Stale neighbours that are shown: those seen last.
const SHOWN: usize = 16;

/// What the node keeps of its links.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The program is at the interfaces.
    program: bool,
    there: BTreeMap<String, Neighbour>,
    stale: VecDeque<StaleStatus>,
    reminded: u64,
}

impl Links {
    fn works(&self) -> bool {
        self.program && self.there.values().all(|at| at.peer.is_some())
    }
}

impl Node {
    /// Whether the program is at every interface that carries a VIP.
    pub(super) fn set_program(&mut self, works: bool) {
        self.links.program = works;
        self.set_relaying(self.links.works());
    }

    pub(super) fn handle_neighbour(&mut self, interface: &str, neighbour: Neighbour) {
        let interface = interface.to_owned();
        self.links.there.insert(interface.clone(), neighbour);
        self.tell_nat(NatCommand::Neighbour {
            interface,
            neighbour,
        });
        self.set_relaying(self.links.works());
    }

    /// A neighbour sent something to this node that was the master's. It is told where the master
    /// is, if that is known; until it obeys, its packets are relayed.
    pub(super) fn handle_stale(&mut self, stale: Stale, now: Mono) {
        let peer = self.election.live_peer(now).map(|peer| peer.role);
        if self.role() == Role::Master || peer != Some(Role::Master) {
            return;
        }
        let mut there = self.links.there.values();
        let at = there.find(|at| at.index == stale.index);
        let Some(at) = at.and_then(|at| at.peer) else {
            return;
        };
        self.links.reminded += 1;
        let (vip, mac) = (stale.vip.to_string(), stale.mac.to_string());
        self.links
            .stale
            .retain(|known| (&known.vip, &known.mac) != (&vip, &mac));
        self.links.stale.truncate(SHOWN - 1);
        self.links.stale.push_front(StaleStatus {
            vip,
            mac,
            sender: stale.sender.to_string(),
            unix_ms: self.journal.unix_ms(now),
        });
        let epoch = self.election.epoch();
        let remind = KernelCommand::Remind { epoch, stale, at };
        self.outputs.push_back(Output::Kernel(remind));
    }

    pub(super) fn relay_status(&self) -> RelayStatus {
        let relay = self.relay.told();
        let links = self.links.there.iter();
        RelayStatus {
            wanted: self.config.cluster.relay,
            works: self.relay.works(),
            links: links
                .map(|(interface, at)| RelayLink {
                    interface: interface.clone(),
                    own: at.own.to_string(),
                    peer: at.peer.map(|mac| mac.to_string()),
                })
                .collect(),
            accept: relay.accept,
            second_chance: relay.second_chance,
            stale: self.links.stale.iter().cloned().collect(),
            reminded: self.links.reminded,
            // The daemon knows.
            lacking: None,
        }
    }
}
