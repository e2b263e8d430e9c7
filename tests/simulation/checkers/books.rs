//! Books and health, every second: what a node tells agrees with what happened to it.

use tandem::model::{AdminState, BackendId};
use tandem::status::{BackendStatus, Status};

use super::super::machine::Process;
use super::super::world::{Event, SECOND, World};

/// From a change of a backend to the verdict of every node: three checks, a second and a tenth
/// apart, a lost answer, and a client's connects between them.
const JUDGED: u64 = 6 * SECOND;

impl World {
    /// Looks at the books of every node that is awake.
    pub fn audit(&mut self) {
        self.at(self.now + SECOND, Event::Audit);
        self.audit_flows();
        for machine in 0..2 {
            let Some(process) = self.machines[machine].awake() else {
                continue;
            };
            let status = process.node.status(process.clock(self.now));
            let broken = self
                .connections(machine, process, &status)
                .or_else(|| self.verdicts(process, &status))
                .or_else(|| counts(process, &status));
            let counters = counters(&status);
            if let Some(process) = &mut self.machines[machine].process {
                process.seen.counters = counters;
            }
            if let Some(broken) = broken {
                self.checkers
                    .breaks(format!("books of {machine}: {broken}"));
            }
        }
    }

    /// Opened less closed is live: in the table, in the replica, and in the world.
    fn connections(&self, machine: usize, process: &Process, status: &Status) -> Option<String> {
        if process.untold > 0 {
            return None;
        }
        let (live, service) = (&self.flows[machine], &status.services[0]);
        if (service.connections, service.total) != (live.len() as u64, process.opened) {
            return Some(format!(
                "{} live of {}, but in truth {} of {}",
                service.connections,
                service.total,
                live.len(),
                process.opened
            ));
        }
        let on_backends = service.backends.iter().map(|b| b.connections).sum::<u64>();
        if on_backends != service.connections {
            return Some(format!("{on_backends} connections on the backends"));
        }
        if super::is_master(status.role) {
            let told = process.node.replica().flows().keys().map(|flow| flow.0);
            if !told.eq(live.iter().copied()) {
                return Some("the replica's connections are not the living ones".into());
            }
        }
        None
    }

    /// Each verdict is right once it had the time to be, and new connections go where it says.
    fn verdicts(&self, process: &Process, status: &Status) -> Option<String> {
        for told in &status.services[0].backends {
            let id = BackendId::of("web", &told.name);
            let since = self.checkers.backend_changed.get(&id).copied();
            let since = since.unwrap_or(0).max(process.seen.checks_since);
            let judged = told.admin != AdminState::Maintenance && !told.leaving;
            let late = self.now > since + JUDGED;
            if judged && late && told.up != self.backends_up[&id] {
                return Some(format!("{} up: {}", told.name, told.up));
            }
            let eligible = told.up && told.admin == AdminState::Enabled && !told.leaving;
            if process.published.contains(&id) != eligible {
                return Some(format!("routes to {}: {}", told.name, !eligible));
            }
        }
        None
    }
}

/// Counters never go down in a life.
fn counts(process: &Process, status: &Status) -> Option<String> {
    let (before, now) = (&process.seen.counters, counters(status));
    let fell = before.iter().zip(&now).any(|(before, now)| now < before);
    fell.then(|| format!("counters fell from {before:?} to {now:?}"))
}

fn counters(status: &Status) -> Vec<u64> {
    let (rare, service, vip) = (&status.counters, &status.services[0], &status.vips[0]);
    let mut counters = vec![
        rare.heartbeats_rejected,
        rare.heartbeats_replayed,
        rare.heartbeats_unconfirmed,
        rare.session_faults,
        rare.sessions,
        rare.false_alarms,
        rare.pauses,
        rare.longest_turn_gap_us,
        service.total,
        service.failed,
        vip.announcements,
        vip.restored,
    ];
    for path in &status.paths {
        counters.extend([path.sent, path.received]);
    }
    // One that comes back after its removal counts from zero, and others stand in its place meanwhile.
    let of_file = |it: &&BackendStatus| it.origin == "file" && !it.leaving;
    let of_file: Vec<_> = service.backends.iter().filter(of_file).collect();
    for backend in of_file.iter().filter(|_| of_file.len() == 2) {
        counters.extend([backend.total, backend.connect_failures]);
    }
    counters
}
