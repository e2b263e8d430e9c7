//! Conformance: what a node does with what it is told, one folder a case.
//!
//! ```text
//! cases/NAME/case.toml    says = "one sentence"; node, show, and changes to the configuration
//! cases/NAME/in.jsonl     {"ms": 100, "hear": {"role": "master", "epoch": 3}}   one step a line
//! cases/NAME/out.jsonl    what the node wants, in order, with the time
//! ```
//!
//! A step is something said to the node at a time: `hear` (a heartbeat of the peer, sealed with its
//! key here), `session` (the session stands, with this life of the peer), `input` (an `Input` as it
//! is), or nothing (time passes). Between steps the node's own deadlines are served, unless the step
//! says `stalled`: then the node did not run.
//!
//! `show` names the kinds of output that `out.jsonl` holds: `Heartbeat` is a sent datagram, opened;
//! commands and events have their own names (`Hold`, `Announce`, `Release`; `Transition`,
//! `TakenOver`, `Note`, `Backend`). `Hold` is the first of a mastership, `Renew` the later ones.
//! A heartbeat tells `left` only if its node relays. `Relay` is the command of that name.
//! `Counters`, at the end, are those that are not zero.
//!
//! `TANDEM_BLESS=1 cargo test --test conformance` writes `out.jsonl` anew: read the difference.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tandem::balance::nat::NatCommand;
use tandem::config::Config;
use tandem::model::{Epoch, Incarnation, NodeId, PathId, Priority, Role, Secret};
use tandem::node::io::{Input, Output};
use tandem::node::{Identity, Node};
use tandem::status::What;
use tandem::time::Mono;
use tandem::vip::kernel::KernelCommand;
use tandem::wire::codec;
use tandem::wire::heartbeat::{Echo, Heartbeat};
use tandem::wire::replication::{Hello, PROTOCOL};
use tandem::wire::seal::{Opened, Opener, Sealer};

const LIFE: Incarnation = Incarnation(1);
const SECRET: Secret = Secret([7; 32]);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case shows; its reason to be.
    says: String,
    /// Which node is under test.
    #[serde(default = "lb2")]
    node: String,
    /// Kinds of output that are compared.
    show: Vec<String>,
    /// Nothing before this time is shown.
    #[serde(default)]
    from_ms: u64,
    /// Text to replace in the configuration.
    #[serde(default)]
    replace: Vec<(String, String)>,
}

fn lb2() -> String {
    "lb2".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    ms: u64,
    #[serde(default)]
    stalled: bool,
    hear: Option<Hear>,
    session: Option<u128>,
    input: Option<Input>,
}

/// A heartbeat of the peer; what is left out is as a healthy peer would say it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Hear {
    life: u128,
    path: u8,
    role: Role,
    epoch: u64,
    hears_us: bool,
    ownerships: u32,
    in_sync: bool,
    resigns: bool,
    relays: bool,
    left: u32,
    answer: bool,
}

impl Default for Hear {
    fn default() -> Self {
        Self {
            life: 2,
            path: 0,
            role: Role::Backup,
            epoch: 0,
            hears_us: true,
            ownerships: 0,
            in_sync: true,
            resigns: false,
            relays: false,
            left: 0,
            answer: false,
        }
    }
}

const CONFIG: &str = r#"
[cluster]
name = "edge"
key_file = "/etc/tandem/cluster.key"
[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]
[election]
heartbeat = "100ms"
misses = 3
preempt = false
[[vip]]
address = "192.0.2.100/24"
interface = "eth0"
[[service]]
name = "web"
listen = ["192.0.2.100:80"]
[[service.backend]]
name = "b1"
address = "198.51.100.21:8080"
[[service.backend]]
name = "b2"
address = "198.51.100.22:8080"
"#;

/// A node and its peer's voice.
struct Bench {
    node: Node,
    me: NodeId,
    config: Arc<Config>,
    sealers: Vec<(u128, Sealer)>,
    opener: Opener,
    sequence: u64,
    /// The newest time stamp of the node, and when it was sent.
    stamp: Option<(u64, Mono)>,
    /// The mastership under which the addresses are wanted.
    held: Option<Epoch>,
    show: Vec<String>,
    from: Mono,
    lines: Vec<Value>,
}

impl Bench {
    fn new(case: &Case) -> Self {
        let mut text = CONFIG.to_owned();
        for (from, to) in &case.replace {
            assert!(text.contains(from), "the configuration has no {from:?}");
            text = text.replace(from, to);
        }
        let config = Arc::new(Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}")));
        let me = config.node_named(&case.node).expect("node of the case");
        let identity = Identity {
            node: me,
            incarnation: LIFE,
            started_unix_ms: 0,
        };
        let node = Node::new(Arc::clone(&config), identity, &SECRET, 1, Mono::ZERO);
        let mut bench = Self {
            node,
            me,
            sealers: Vec::new(),
            opener: Opener::new(&SECRET, &config.cluster.name, me),
            config,
            sequence: 0,
            stamp: None,
            held: None,
            show: case.show.clone(),
            from: Mono::from_millis(case.from_ms),
            lines: Vec::new(),
        };
        bench.drain(Mono::ZERO);
        bench
    }

    fn run(mut self, steps: &str) -> String {
        let mut now = Mono::ZERO;
        for (number, line) in steps.lines().enumerate() {
            let step: Step = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("in.jsonl line {}: {error}", number + 1));
            let before = now;
            now = Mono::from_millis(step.ms);
            if !step.stalled {
                self.pass(before, now);
            }
            if let Some(hear) = step.hear {
                let path = PathId(hear.path);
                let bytes = self.heartbeat(&hear, now);
                self.give(Input::Datagram { path, bytes }, now);
            }
            if let Some(life) = step.session {
                let hello = Hello {
                    protocol: PROTOCOL,
                    node: self.me.peer(),
                    incarnation: Incarnation(life),
                    config_hash: self.config.hash,
                };
                self.give(Input::SessionUp(hello), now);
            }
            if let Some(input) = step.input {
                self.give(input, now);
            }
        }
        self.count(now);
        let lines = self.lines.iter().map(|line| format!("{line}\n"));
        lines.collect()
    }

    fn give(&mut self, input: Input, now: Mono) {
        self.node.handle(input, now);
        self.drain(now);
    }

    /// Serves the node's deadlines up to `end`; those that were missed at once.
    fn pass(&mut self, begin: Mono, end: Mono) {
        for _ in 0..1_000_000 {
            let Some(at) = self.node.poll_timeout().filter(|at| *at <= end) else {
                return;
            };
            let at = at.max(begin);
            self.node.handle_timeout(at);
            self.drain(at);
        }
        panic!("the node's deadline does not move");
    }

    fn drain(&mut self, now: Mono) {
        while let Some(output) = self.node.poll_output() {
            let (kind, value) = self.describe(&output, now);
            self.line(&kind, &value, now);
        }
    }

    fn line(&mut self, kind: &str, value: &Value, now: Mono) {
        if now >= self.from && self.show.iter().any(|shown| shown == kind) {
            let ms = now.as_nanos() as f64 / 1e6;
            self.lines.push(json!({ "ms": ms, kind: value }));
        }
    }

    /// The counters of rare things that are not zero.
    fn count(&mut self, now: Mono) {
        let counters = self.node.status(now).counters;
        let Ok(Value::Object(mut counters)) = serde_json::to_value(counters) else {
            panic!("counters are a record");
        };
        counters.remove("longest_turn_gap_us");
        counters.retain(|_, count| count != 0);
        self.line("Counters", &counters.into(), now);
    }

    /// The kind of an output, and what is worth reading of it.
    fn describe(&mut self, output: &Output, now: Mono) -> (String, Value) {
        match output {
            Output::Datagram { path, bytes } => {
                let opened = self.opener.open(bytes).expect("our own key");
                let (Opened::Current { plain, .. } | Opened::Candidate { plain, .. }) = opened;
                let beat = codec::decode_heartbeat(&plain).expect("our own codec");
                self.stamp = Some((beat.sent_at, now));
                let mut value = json!({
                    "path": path.0, "role": beat.role, "epoch": beat.epoch, "answer": beat.answer,
                    "hears": beat.hears.map(|life| life.0 as u64), "resigns": beat.resigns,
                    "ownerships": beat.ownerships, "in_sync": beat.in_sync,
                });
                if beat.relays {
                    value["left"] = beat.left.into();
                }
                ("Heartbeat".into(), value)
            }
            Output::Kernel(KernelCommand::Announce { epoch, .. }) => {
                ("Announce".into(), json!(epoch))
            }
            Output::Kernel(KernelCommand::Hold { epoch, .. }) => {
                let first = self.held.replace(*epoch) != Some(*epoch);
                let kind = if first { "Hold" } else { "Renew" };
                (kind.into(), json!(epoch))
            }
            Output::Kernel(KernelCommand::Release { epoch }) => {
                self.held = None;
                ("Release".into(), json!(epoch))
            }
            Output::Event(event) => describe_event(&event.what),
            Output::Nat(NatCommand::Relay(relay)) => ("Relay".into(), json!(relay)),
            other => match serde_json::to_value(other).expect("outputs are plain data") {
                Value::String(kind) => (kind, Value::Null),
                Value::Object(fields) => fields.into_iter().next().expect("externally tagged"),
                other => panic!("{other}"),
            },
        }
    }

    fn heartbeat(&mut self, hear: &Hear, now: Mono) -> Vec<u8> {
        let peer = self.me.peer();
        let config = &self.config;
        let known = self.sealers.iter().position(|(life, _)| *life == hear.life);
        let place = known.unwrap_or_else(|| {
            let life = Incarnation(hear.life);
            let sealer = Sealer::new(&SECRET, &config.cluster.name, peer, life);
            self.sealers.push((hear.life, sealer));
            self.sealers.len() - 1
        });
        self.sequence += 1;
        let beat = Heartbeat {
            path: PathId(hear.path),
            path_sequence: self.sequence,
            role: hear.role,
            epoch: Epoch(hear.epoch),
            priority: Priority(config.node(peer).priority.0),
            interval: config.election.heartbeat,
            config_hash: config.hash,
            hears: hear.hears_us.then_some(LIFE),
            ownerships: hear.ownerships,
            in_sync: hear.in_sync,
            resigns: hear.resigns,
            relays: hear.relays,
            left: hear.left,
            answer: hear.answer,
            sent_at: now.as_nanos(),
            // A peer that hears us echoes the newest stamp that it got.
            echo: self
                .stamp
                .filter(|_| hear.hears_us)
                .map(|(sent_at, at)| Echo {
                    sent_at,
                    held: now.since(at).min(Duration::from_secs(1)).as_nanos() as u64,
                }),
        };
        self.sealers[place].1.seal(&codec::encode_heartbeat(&beat))
    }
}

fn describe_event(what: &What) -> (String, Value) {
    match what {
        What::Backend {
            backend,
            up,
            reason,
        } => (
            "Backend".into(),
            json!({ "backend": backend, "up": up, "reason": reason }),
        ),
        What::Note { text } => ("Note".into(), json!(text)),
        What::Transition {
            takeover_ms: Some(ms),
            ..
        } => ("TakenOver".into(), json!({ "took_ms": ms })),
        What::Transition {
            from,
            to,
            epoch,
            cause,
            text,
            detection_ms,
            takeover_ms: None,
        } => (
            "Transition".into(),
            json!({
                "from": from, "to": to, "epoch": epoch, "cause": cause, "text": text,
                "detection_ms": detection_ms,
            }),
        ),
    }
}

fn run_case(folder: &Path, bless: bool) -> Result<(), String> {
    let read =
        |name: &str| fs::read_to_string(folder.join(name)).map_err(|e| format!("{name}: {e}"));
    let case: Case = toml::from_str(&read("case.toml")?).map_err(|error| error.to_string())?;
    if !case.says.ends_with('.') {
        return Err("`says` is not a sentence".into());
    }
    let got = Bench::new(&case).run(&read("in.jsonl")?);
    if bless {
        return fs::write(folder.join("out.jsonl"), got).map_err(|error| error.to_string());
    }
    let wanted = read("out.jsonl")?;
    let differs = wanted.lines().zip(got.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| wanted.lines().count().min(got.lines().count()));
    if wanted == got {
        return Ok(());
    }
    Err(format!(
        "out.jsonl line {}:\n  wanted {}\n  got    {}",
        line + 1,
        wanted.lines().nth(line).unwrap_or("the end"),
        got.lines().nth(line).unwrap_or("the end"),
    ))
}

#[test]
fn every_case_holds() {
    let bless = std::env::var_os("TANDEM_BLESS").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/cases");
    let mut folders: Vec<_> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 10, "only {} cases", folders.len());
    let failures: Vec<String> = folders
        .iter()
        .filter_map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy();
            run_case(folder, bless)
                .err()
                .map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
