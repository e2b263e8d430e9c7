//! Backends that operators add, remove, weigh and drain at any moment, on whoever is master then, also on
//! two masters of a split: in the end both nodes say the same, and nobody gave a connection to a backend
//! that was gone.

use std::collections::BTreeSet;

use tandem::model::{AdminState, BackendId};
use tandem::status::BackendStatus;
use tandem::wire::admin::{Change, Request};
use tandem::wire::replication::Item;

use super::nature::Act;
use super::scenarios::{A, B, Scenario};
use super::world::SECOND;

const NAMES: [&str; 6] = ["b1", "b2", "c1", "c2", "c3", "c4"];

impl Scenario {
    fn any_change(&mut self) -> Request {
        let rng = &mut self.0.rng;
        let place = rng.below(NAMES.len() as u64) as usize;
        let cut_after_ms = rng.chance(30).then(|| rng.below(5_000));
        let states = [
            AdminState::Enabled,
            AdminState::Drain,
            AdminState::Maintenance,
        ];
        let change = match rng.below(6) {
            0 | 1 => Change::Add {
                address: ([203, 0, 113, 50 + rng.below(9) as u8], 8_080).into(),
                weight: Some(1 + rng.below(9) as u16),
                pool: None,
                max_connections: None,
                backup: false,
            },
            2 => Change::Remove { cut_after_ms },
            3 => Change::Weight {
                weight: 1 + rng.below(256) as u16,
            },
            4 => Change::State {
                state: states[rng.below(3) as usize],
                cut_after_ms,
            },
            _ => Change::Reset,
        };
        Request::Roster {
            service: "web".into(),
            backend: NAMES[place].into(),
            change,
        }
    }

    /// Something happens, and time passes.
    fn churn(&mut self) {
        let machine = self.0.rng.below(2) as usize;
        match self.0.rng.below(14) {
            0 => {
                self.0.act(Act::Crash(machine));
                self.wait(3_000);
                self.0.act(Act::Start(machine));
            }
            1 => self.0.act(Act::Failover(machine)),
            2 => {
                // Both may be masters for a while, and both hear operators.
                let all = [(A, 0), (A, 1), (B, 0), (B, 1)];
                let cut = |cut| all.map(|(from, path)| Act::Cut { from, path, cut });
                cut(true).into_iter().for_each(|act| self.0.act(act));
                for machine in [A, B, A, B] {
                    self.wait(1_500);
                    let request = self.any_change();
                    self.0.ask(machine, request);
                }
                cut(false).into_iter().for_each(|act| self.0.act(act));
            }
            3 => {
                // Both die: their disks know.
                for machine in [A, B] {
                    self.0.act(Act::Crash(machine));
                }
                self.wait(500);
                for machine in [B, A] {
                    self.0.act(Act::Start(machine));
                }
            }
            _ => {
                let request = self.any_change();
                self.0.ask(machine, request);
            }
        }
        self.wait(1_500);
    }

    fn wait(&mut self, most_ms: u64) {
        let ms = 1 + self.0.rng.below(most_ms);
        self.run_for(ms);
        for machine in [A, B] {
            self.none_goes_where_none_is(machine);
        }
    }

    fn backends(&self, machine: usize) -> Vec<BackendStatus> {
        let Some(process) = self.0.machines[machine].awake() else {
            return Vec::new();
        };
        let status = process.node.status(process.clock(self.0.now));
        status.services[0].backends.clone()
    }

    fn none_goes_where_none_is(&self, machine: usize) {
        let Some(process) = self.0.machines[machine].awake() else {
            return;
        };
        let all = self.backends(machine);
        assert!(all.len() <= NAMES.len(), "{all:?}");
        let here = all
            .iter()
            .filter(|it| !it.leaving && it.admin == AdminState::Enabled);
        let here: BTreeSet<_> = here.map(|it| BackendId::of("web", &it.name)).collect();
        let there: BTreeSet<_> = process.published.iter().copied().collect();
        assert!(
            there.is_subset(&here),
            "{machine}: {all:?}\n{}",
            self.0.trace_tail(40)
        );
    }
}

#[test]
fn both_nodes_agree_whatever_was_said_and_whoever_died() {
    for seed in 0..8 {
        let mut s = Scenario::settled_from(seed * 8);
        for name in NAMES {
            s.0.backends_up.insert(BackendId::of("web", name), true);
        }
        for _ in 0..60 {
            s.churn();
        }
        s.0.heal();
        s.run_for(30_000);
        let node = |machine: usize| {
            &s.0.machines[machine]
                .process
                .as_ref()
                .expect("it runs")
                .node
        };
        let trace = || s.0.trace_tail(60);
        assert_eq!(
            node(A).roster(),
            node(B).roster(),
            "seed {seed}\n{}",
            trace()
        );
        let said: Vec<Item> = node(A).roster().items().collect();
        for machine in [A, B] {
            let replicated: Vec<Item> = node(machine)
                .replica()
                .items()
                .filter(Item::is_said)
                .collect();
            assert_eq!(replicated, said, "seed {seed}, {machine}\n{}", trace());
            assert_eq!(
                s.0.machines[machine].disk, said,
                "seed {seed}, {machine}: the disk"
            );
        }
        assert!(said.len() <= 3 * NAMES.len());
        let known = |machine| {
            let all = s.backends(machine).into_iter().filter(|it| !it.leaving);
            let known = |it: BackendStatus| (it.name, it.address, it.weight, it.admin, it.origin);
            all.map(known).collect::<Vec<_>>()
        };
        assert_eq!(known(A), known(B), "seed {seed}");
        assert!(s.0.now > 20 * SECOND);
    }
}
