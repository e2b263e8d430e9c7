//! Order, at the end: one master, everybody agrees, nothing is left over.

use super::super::faults::{Faults, Kind};
use super::super::host::NEIGHBOUR_TRUST;
use super::super::world::World;

impl World {
    /// Both nodes stand at the same position.
    pub fn copies_are_level(&self) -> bool {
        let position = |m: usize| self.machines[m].process.as_ref().map(|p| p.node.position());
        position(0) == position(1)
    }

    /// After the healing: one master, everybody agrees, nothing is left over.
    pub fn check_order(&mut self) -> Result<(), String> {
        let masters: Vec<usize> = (0..2).filter(|m| self.machines[*m].is_master()).collect();
        let [master] = masters[..] else {
            return Err(format!("at the end the masters are {masters:?}"));
        };
        for machine in 0..2 {
            let holds = self.machines[machine].kernel.holds(self.now);
            if holds != (machine == master) {
                return Err(format!(
                    "at the end machine {machine} holds the address: {holds}"
                ));
            }
        }
        // If all five announcements of the last takeover were lost, clients find the way again when
        // their entries grow old, or with the refresh after a minute: later than this.
        let excused = self.faults.has(Kind::LostAnnouncements)
            && self
                .lan
                .is_some_and(|(_, since)| self.now - since < NEIGHBOUR_TRUST);
        if self.lan.map(|(owner, _)| owner) != Some(master) && !excused {
            return Err(format!("at the end the LAN leads to {:?}", self.lan));
        }
        let [a, b] = [0, 1].map(|m| &self.machines[m].process.as_ref().expect("restarted").node);
        if a.replica() != b.replica() {
            let sizes = [a, b].map(|node| {
                let replica = node.replica();
                let status = node.status(tandem::time::Mono::ZERO).replication;
                (replica.flows().len(), replica.health(), status)
            });
            return Err(format!("at the end the replicas differ: {sizes:?}"));
        }
        self.flows_agree()?;
        self.flows_in_order(master)?;
        let now = self.now;
        for machine in 0..2 {
            let process = self.machines[machine].process.as_ref().expect("restarted");
            let status = process.node.status(process.clock(now));
            let well = status.replication.in_sync && status.peer.alive && status.peer.hears_us;
            if !well
                || status.services[0]
                    .backends
                    .iter()
                    .any(|backend| !backend.up)
            {
                return Err(format!(
                    "at the end machine {machine} is not well: {status:#?}"
                ));
            }
        }
        if self.faults == Faults::NONE && self.checkers.moves > 12 {
            let moves = self.checkers.moves;
            return Err(format!("quiet: {moves} moves without any fault"));
        }
        Ok(())
    }
}
