//! What one node makes of statements, sources and deadlines.

use super::*;
use crate::balance::flow::{FlowEnd, FlowEvent};
use crate::balance::found::Member;
use crate::config::fixture::pair;
use crate::health::probe::{ProbeOutcome, ProbeResult};
use crate::model::{Epoch, FlowId, Incarnation, NodeId, Secret};
use crate::node::io::Input;
use crate::node::{Identity, Replication};
use crate::replication::Source;
use crate::status::{BackendStatus, ServiceStatus};
use crate::vip::kernel::{KernelCommand, KernelReport};
use crate::wire::admin::{Change, Request, Response};
use crate::wire::statement::{Presence, Stamp};

const CONFIG: &str = r#"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[service.health]
kind = "tcp"
start = "down"
rise = 1
[[service.backend]]
name = "b1"
address = "198.51.100.21:80"
[[service.backend]]
name = "b2"
address = "198.51.100.22:80"
"#;

const DAY: u64 = 1_700_000_000_000;

struct Bench {
    node: Node,
    now: Mono,
    outputs: Vec<Output>,
}

impl Bench {
    fn new() -> Self {
        let config = Arc::new(pair(CONFIG));
        let identity = Identity {
            node: NodeId::First,
            incarnation: Incarnation(1),
            started_unix_ms: DAY,
        };
        let now = Mono::from_millis(1);
        let node = Node::new(config, identity, &Secret([1; 32]), 1, now);
        let mut bench = Self {
            node,
            now,
            outputs: Vec::new(),
        };
        bench.drain();
        bench
    }

    fn master() -> Self {
        let mut bench = Self::new();
        let source = Source::new(Epoch(1), Replica::default(), bench.now);
        bench.node.replication = Replication::Source(source);
        bench.run(500);
        bench
    }

    /// Checks are answered, and the kernel does what it is told: all is well.
    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            if let Output::Probe(request) = &output {
                let took = Duration::from_millis(1);
                let result = ProbeResult {
                    backend: request.backend,
                    token: request.token,
                    outcome: ProbeOutcome::Good { took },
                };
                self.node.handle(Input::Probe(result), self.now);
            }
            if let Output::Kernel(KernelCommand::Hold { epoch, .. }) = &output {
                let held = KernelReport::Held { epoch: *epoch };
                self.node.handle(Input::Kernel(held), self.now);
            }
            self.outputs.push(output);
        }
    }

    fn tell(&mut self, input: Input) {
        self.node.handle(input, self.now);
        self.drain();
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn ask(&mut self, backend: &str, change: Change) -> Result<String, String> {
        self.outputs.clear();
        self.tell(Input::Admin {
            ticket: 1,
            request: Request::Roster {
                service: "web".into(),
                backend: backend.into(),
                change,
            },
        });
        let mut replies = self.outputs.iter().filter_map(|output| match output {
            Output::Reply { response, .. } => Some(response.clone()),
            _ => None,
        });
        match replies.next().unwrap() {
            Response::Done { message } => Ok(message),
            Response::Error { message } => Err(message),
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, flow: u64, backend: &str) {
        self.tell(Input::Flows(vec![FlowEvent::Opened {
            flow: FlowId(flow),
            service: ServiceId::of("web"),
            backend: id(backend),
            client: "203.0.113.1:1000".parse().unwrap(),
            connect: Duration::ZERO,
        }]));
    }

    fn close(&mut self, flow: u64) {
        self.tell(Input::Flows(vec![FlowEvent::Closed {
            flow: FlowId(flow),
            up: 1,
            down: 1,
            end: FlowEnd::Complete,
        }]));
    }

    fn service(&self) -> ServiceStatus {
        self.node.status(self.now).services[0].clone()
    }

    fn backend(&self, name: &str) -> Option<BackendStatus> {
        let mut all = self.service().backends.into_iter();
        all.find(|backend| backend.name == name)
    }

    fn names(&self) -> Vec<String> {
        let all = self.service().backends.into_iter();
        all.map(|backend| backend.name).collect()
    }

    /// Those that may get new connections now, as published last.
    fn eligible(&self) -> Vec<String> {
        let last = self.outputs.iter().rev().find_map(|output| match output {
            Output::PublishRoutes { eligible, .. } => Some(eligible.clone()),
            _ => None,
        });
        let last = last.unwrap();
        let known = ["b1", "b2", "b3", "x", "y"];
        let there = known.iter().filter(|name| last.contains(&id(name)));
        there.map(|name| (*name).to_owned()).collect()
    }

    fn resets(&self) -> Vec<BackendId> {
        let resets = self.outputs.iter().filter_map(|output| match output {
            Output::ResetBackend { backend } => Some(*backend),
            _ => None,
        });
        resets.collect()
    }

    fn kept(&self) -> Vec<Item> {
        let kept = self.outputs.iter().rev().find_map(|output| match output {
            Output::Keep(items) => Some(items.clone()),
            _ => None,
        });
        kept.expect("it went to the disk")
    }
}

fn id(name: &str) -> BackendId {
    BackendId::of("web", name)
}

fn add(address: &str) -> Change {
    Change::Add {
        address: address.parse().unwrap(),
        weight: None,
        pool: None,
        max_connections: None,
        backup: false,
    }
}

const REMOVE: Change = Change::Remove { cut_after_ms: None };

fn state(state: AdminState, cut_after_ms: Option<u64>) -> Change {
    Change::State {
        state,
        cut_after_ms,
    }
}

#[test]
fn one_that_is_added_begins_as_its_check_says() {
    let mut bench = Bench::master();
    assert_eq!(bench.eligible(), ["b1", "b2"]);
    bench.ask("b3", add("198.51.100.23:80")).unwrap();
    // `start` is down: not before a check.
    assert_eq!(bench.eligible(), ["b1", "b2"]);
    let places = |wanted: fn(&Output) -> bool| bench.outputs.iter().position(wanted).unwrap();
    let configured = places(|it| matches!(it, Output::Configure(_)));
    let published = places(|it| matches!(it, Output::PublishRoutes { .. }));
    assert!(
        configured < published,
        "routes are made before they are published"
    );
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b2", "b3"]);
    let b3 = bench.backend("b3").unwrap();
    assert_eq!((b3.origin.as_str(), b3.up, b3.weight), ("runtime", true, 1));
    let again = bench.ask("b3", add("198.51.100.24:80")).unwrap_err();
    assert!(
        again.contains("is there already, at 198.51.100.23:80"),
        "{again}"
    );
}

#[test]
fn one_that_is_removed_stays_as_long_as_it_has_connections() {
    let mut bench = Bench::master();
    bench.open(1, "b1");
    let text = bench.ask("b1", REMOVE).unwrap();
    assert_eq!(text, "web/b1 is removed; its 1 connection goes on");
    assert_eq!(bench.eligible(), ["b2"]);
    bench.run(60_000);
    let b1 = bench.backend("b1").unwrap();
    assert!(b1.leaving && !b1.up && b1.connections == 1);
    assert_eq!(b1.differs.as_deref(), Some("the file has it"));
    assert!(bench.resets().is_empty());
    bench.close(1);
    bench.run(2_000);
    assert_eq!(bench.names(), ["b2"]);
    assert_eq!(bench.service().removed, ["b1"]);
    // And back.
    bench.ask("b1", Change::Reset).unwrap();
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b2"]);
    assert!(bench.service().removed.is_empty());
    assert_eq!(bench.backend("b1").unwrap().total, 0, "it is as new");
}

#[test]
fn what_is_left_at_the_deadline_is_reset() {
    let mut bench = Bench::master();
    bench.open(1, "b1");
    bench.open(2, "b2");
    let cut_after_ms = Some(30_000);
    bench.ask("b1", Change::Remove { cut_after_ms }).unwrap();
    bench
        .ask("b2", state(AdminState::Drain, Some(40_000)))
        .unwrap();
    assert_eq!(bench.backend("b2").unwrap().cut_in_ms, Some(40_000));
    bench.run(29_900);
    assert!(bench.resets().is_empty());
    bench.run(200);
    assert_eq!(bench.resets(), [id("b1")]);
    bench.close(1);
    bench.run(9_000);
    assert_eq!(bench.names(), ["b2"]);
    // Enabled again in time.
    bench.ask("b2", state(AdminState::Enabled, None)).unwrap();
    bench.run(10_000);
    assert!(bench.resets().is_empty());
}

#[test]
fn maintenance_is_a_drain_without_checks() {
    let mut bench = Bench::master();
    bench
        .ask("b1", state(AdminState::Maintenance, None))
        .unwrap();
    assert_eq!(bench.eligible(), ["b2"]);
    bench.outputs.clear();
    bench.run(20_000);
    let checked = |bench: &Bench, name| {
        let mut all = bench.outputs.iter();
        all.any(|it| matches!(it, Output::Probe(request) if request.backend == id(name)))
    };
    assert!(!checked(&bench, "b1") && checked(&bench, "b2"));
    bench.ask("b1", state(AdminState::Enabled, None)).unwrap();
    bench.run(200);
    assert!(checked(&bench, "b1"));
    assert_eq!(bench.eligible(), ["b1", "b2"]);
}

#[test]
fn a_weight_is_said_and_differs_from_the_file() {
    let mut bench = Bench::master();
    bench.ask("b1", Change::Weight { weight: 7 }).unwrap();
    let b1 = bench.backend("b1").unwrap();
    assert_eq!((b1.weight, b1.up), (7, true), "its verdict stays");
    assert_eq!(b1.differs.as_deref(), Some("the file has weight 1"));
    assert!(bench.ask("b1", Change::Weight { weight: 0 }).is_err());
    bench.ask("b1", Change::Reset).unwrap();
    let b1 = bench.backend("b1").unwrap();
    assert_eq!((b1.weight, b1.differs), (1, None));
}

#[test]
fn what_cannot_be_is_refused_with_words() {
    let mut bench = Bench::master();
    let mut refused = |name, change, words: &str| {
        let text = bench.ask(name, change).unwrap_err();
        assert!(text.contains(words), "{text}");
        assert!(bench.node.roster.said.items().next().is_none());
    };
    refused("b9", REMOVE, "has no backend \"b9\"; it has: b1, b2");
    refused("b1", Change::Reset, "nothing was said");
    refused("b1", add("198.51.100.23:80"), "is there already");
    refused("c", add("192.0.2.100:80"), "is the service itself");
    refused("b1", state(AdminState::Drain, Some(u64::MAX)), "7 days");
    let mut backup = Bench::new();
    let text = backup.ask("b1", REMOVE).unwrap_err();
    assert!(text.contains("say it to the master (lb2)"), "{text}");
}

#[test]
fn what_was_said_comes_back_from_the_disk() {
    let mut bench = Bench::master();
    bench.ask("b3", add("198.51.100.23:80")).unwrap();
    bench.ask("b1", REMOVE).unwrap();
    bench.ask("b2", state(AdminState::Drain, None)).unwrap();
    let kept = bench.kept();
    let mut later = Bench::new();
    later.tell(Input::Recall(kept.clone()));
    later.run(3_000);
    assert_eq!(later.names(), ["b2", "b3"]);
    assert_eq!(later.backend("b2").unwrap().admin, AdminState::Drain);
    assert!(
        !later.outputs.iter().any(|it| matches!(it, Output::Keep(_))),
        "it is there already"
    );
    // Damage that reads well: a name that is not the id's.
    let mut odd = kept;
    for item in &mut odd {
        if let Item::Said { statement, .. } = item {
            statement.name = "other".into();
        }
    }
    let mut later = Bench::new();
    later.tell(Input::Recall(odd));
    assert!(later.service().backends.len() <= 3);
}

#[test]
fn what_sources_find_comes_and_goes() {
    let mut bench = Bench::master();
    let found = |members: &[(&str, u8)]| {
        let member = |(name, last): &(&str, u8)| Member {
            name: (*name).into(),
            address: ([198, 51, 100, *last], 80).into(),
            weight: 2,
        };
        Input::Found(Found {
            service: ServiceId::of("web"),
            pool: "default".into(),
            source: "dns web.example".into(),
            members: members.iter().map(member).collect(),
        })
    };
    bench.tell(found(&[("x", 31), ("y", 32)]));
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b2", "x", "y"]);
    let x = bench.backend("x").unwrap();
    assert_eq!((x.origin.as_str(), x.weight), ("dns web.example", 2));
    bench.open(1, "x");
    bench.tell(found(&[("y", 32)]));
    assert_eq!(bench.eligible(), ["b1", "b2", "y"]);
    let x = bench.backend("x").unwrap();
    assert!(x.leaving && x.origin == "dns web.example");
    // Back in time: as new.
    bench.tell(found(&[("x", 31), ("y", 32)]));
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b2", "x", "y"]);
    assert!(bench.kept_nothing());
    bench.tell(found(&[]));
    bench.close(1);
    bench.run(3_000);
    assert_eq!(bench.names(), ["b1", "b2"]);
}

impl Bench {
    fn kept_nothing(&self) -> bool {
        !self.outputs.iter().any(|it| matches!(it, Output::Keep(_)))
    }
}

#[test]
fn a_moved_backend_is_checked_anew_and_keeps_its_connections() {
    let mut bench = Bench::master();
    bench.open(1, "b1");
    bench.ask("b1", REMOVE).unwrap();
    bench.ask("b1", add("198.51.100.99:80")).unwrap();
    let b1 = bench.backend("b1").unwrap();
    assert_eq!(
        (b1.address.as_str(), b1.up, b1.connections),
        ("198.51.100.99:80", false, 1)
    );
    assert_eq!(b1.differs.as_deref(), Some("the file has 198.51.100.21:80"));
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b2"]);
}

#[test]
fn another_file_goes_the_same_way() {
    let mut bench = Bench::master();
    let other = CONFIG.replace("name = \"b2\"", "name = \"b3\"");
    bench.open(1, "b2");
    bench.tell(Input::Configure(Arc::new(pair(&other))));
    bench.run(200);
    assert_eq!(bench.eligible(), ["b1", "b3"]);
    assert!(bench.backend("b2").unwrap().leaving);
}

#[test]
fn a_master_takes_what_its_peer_heard_later() {
    let mut bench = Bench::master();
    bench.ask("b1", state(AdminState::Drain, None)).unwrap();
    let statement = |at: u64, said| Item::Said {
        backend: id("b1"),
        statement: Statement {
            service: ServiceId::of("web"),
            name: "b1".into(),
            at: Stamp(at),
            said,
        },
    };
    let enabled = Said::State {
        state: AdminState::Enabled,
        cut_ms: None,
    };
    let removed = Said::Presence(Presence::Removed { cut_ms: None });
    let position = bench.node.position().sequence;
    let now = bench.now;
    bench
        .node
        .hear_peer(&[statement(5, enabled), statement(6, removed)], now);
    assert_eq!(
        bench.node.position().sequence,
        position + 1,
        "the later one only"
    );
    assert_eq!(bench.node.roster.said.state(id("b1")), AdminState::Drain);
    assert!(bench.backend("b1").unwrap().leaving);
}
