//! The command line as a shell sees it: exit codes, where the words go, what a node is asked.
//!
//! The node is a pretend one, which answers on a socket of its own.

mod affinity;
mod backend;
mod docs;
mod flows;
mod init;
mod journal;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use tandem::model::{AdminState, Role};
use tandem::status::{Cause, DrainStatus, Event, PeerStatus, Status, VipStatus, What};
use tandem::wire::admin::{Request, Response};
use tempfile::TempDir;

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn tandem(args: &[&str]) -> Ended {
    tandem_with(args, None)
}

fn tandem_with(args: &[&str], control: Option<&Path>) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command
        .args(args)
        .env_remove("TANDEM_CONTROL")
        .env_remove("CLICOLOR_FORCE")
        .stdin(Stdio::null());
    if let Some(control) = control {
        command.env("TANDEM_CONTROL", control);
    }
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().expect("it was killed"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A pretend node that gives these answers, one to each request, and returns what it was asked.
struct Node {
    folder: TempDir,
    thread: thread::JoinHandle<Vec<Request>>,
}

impl Node {
    fn with(answers: Vec<Response>) -> Self {
        let folder = folder();
        let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        let thread = thread::spawn(move || {
            let mut asked = Vec::new();
            let mut answers = answers.into_iter();
            while answers.len() > 0 {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 0 {
                    asked.push(serde_json::from_str(&line).unwrap());
                    line.clear();
                    let Some(answer) = answers.next() else { break };
                    let mut text = serde_json::to_string(&answer).unwrap();
                    text.push('\n');
                    (&stream).write_all(text.as_bytes()).unwrap();
                }
            }
            asked
        });
        Self { folder, thread }
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn ask(self, args: &[&str]) -> (Ended, Vec<Request>) {
        let ended = tandem_with(args, Some(&self.control()));
        (ended, self.thread.join().unwrap())
    }
}

fn status(role: Role, peer: Role) -> Status {
    Status {
        cluster: "web-pair".into(),
        node: "lb1".into(),
        role,
        epoch: 7,
        vips: vec![VipStatus {
            address: "192.0.2.100".into(),
            held: role == Role::Master,
            ..VipStatus::default()
        }],
        peer: PeerStatus {
            name: "lb2".into(),
            alive: true,
            role: Some(peer),
            ..PeerStatus::default()
        },
        ..Status::default()
    }
}

fn answer(role: Role, peer: Role) -> Response {
    Response::Status {
        status: Box::new(status(role, peer)),
    }
}

fn done(message: &str) -> Response {
    Response::Done {
        message: message.into(),
    }
}

const GOOD: &str = r#"
[cluster]
name = "web-pair"
key_file = "KEY"

[[node]]
name = "lb1"
priority = 150
addresses = ["192.0.2.11"]

[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]

[[vip]]
address = "192.0.2.100/24"
interface = "eth0"

[[service]]
name = "web"
listen = ["192.0.2.100:80"]

[[service.backend]]
name = "b1"
address = "198.51.100.21:8080"
"#;

/// A folder with a key and a configuration in it.
fn configured(change: impl FnOnce(String) -> String) -> (TempDir, PathBuf, PathBuf) {
    let folder = folder();
    let key = folder.path().join("cluster.key");
    let file = folder.path().join("tandem.toml");
    assert_eq!(tandem(&["keygen", text(&key)]).code, 0);
    std::fs::write(&file, change(GOOD.replace("KEY", text(&key)))).unwrap();
    (folder, file, key)
}

#[test]
fn help_and_version_go_to_standard_output() {
    for arg in ["--help", "--version"] {
        let ended = tandem(&[arg]);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        assert!(ended.out.contains("tandem"));
    }
    for code in ["0", "1", "64", "69", "70", "77"] {
        let help = tandem(&["--help"]).out;
        assert!(help.lines().any(|line| line.trim_start().starts_with(code)));
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    for args in [
        &["--no-such-flag"][..],
        &[],
        &["no-such-command"],
        &["status", "--jsn"],
        &["drain", "web"],
        &["flows", "--client", "web"],
        &["flows", "--limit", "0"],
        &["flows", "--limit", "5", "--count"],
        &["flows", "--mode", "fast"],
        &["check"],
        &["lab", "--scenario", "tea"],
        &["lab", "--runs", "0"],
        &["lab", "--stale"],
        &["lab", "--scenario", "kill9", "--mode", "tea"],
        &["lab", "--scenario", "kill9", "--stale"],
        &[
            "lab",
            "--scenario",
            "kill9",
            "--mode",
            "kernel",
            "--rate",
            "0",
        ],
        &["lab", "--scenario", "cut", "--mode", "kernel"],
        &["lab", "--scenario", "survive", "--rate", "9"],
        &["lab", "--bench", "tea"],
        &["lab", "--mode", "kernel"],
        &["lab", "--bench", "proxy", "--mode", "proxy"],
        &["lab", "--bench", "relay", "--switchovers", "3"],
        &["lab", "--scenario", "switchover", "--switchovers", "3"],
        &[
            "lab",
            "--scenario",
            "switchover",
            "--mode",
            "proxy",
            "--switchovers",
            "0",
        ],
        &[
            "lab",
            "--scenario",
            "kill9",
            "--mode",
            "proxy",
            "--switchovers",
            "3",
        ],
        &["lab", "--bench", "proxy", "--keep"],
    ] {
        let ended = tandem(args);
        assert_eq!(ended.code, 64, "{args:?}: {}", ended.err);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{args:?}");
    }
}

#[test]
fn a_good_configuration_is_summed_up() {
    let (_folder, file, _) = configured(|good| good);
    let ended = tandem(&["check", text(&file)]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.out.starts_with(&format!("{} is good: ", text(&file))));
    assert!(ended.out.contains("pair web-pair of lb1 and lb2"));
}

#[test]
fn every_mistake_is_shown_with_its_place() {
    let (_folder, file, _) = configured(|good| {
        good.replace("150", "255")
            .replace("eth0\"", "eth0\"\nmtu = 1500")
    });
    let ended = tandem(&["check", text(&file)]);
    assert_eq!((ended.code, ended.out.as_str()), (64, ""));
    for place in ["tandem.toml:8:12", "tandem.toml:19:1"] {
        assert!(ended.err.contains(place), "{place}\n{}", ended.err);
    }
    assert!(ended.err.contains("2 mistakes"), "{}", ended.err);
    assert!(!ended.err.contains('\x1b'), "colours in a pipe");
}

#[test]
fn a_configuration_that_is_not_there_or_not_text_ends_with_64() {
    let folder = folder();
    let file = folder.path().join("tandem.toml");
    let ended = tandem(&["check", text(&file)]);
    assert_eq!(ended.code, 64);
    assert!(ended.err.contains(text(&file)), "{}", ended.err);
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let ended = tandem(&["check", text(&file)]);
    assert_eq!(ended.code, 64);
    assert!(ended.err.contains("UTF-8"), "{}", ended.err);
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let (_folder, file, key) = configured(|good| good);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = tandem(&["check", text(&file)]);
    assert_eq!((ended.code, ended.out.as_str()), (64, ""));
    for word in ["tandem.toml:4:", "chmod 600", text(&key)] {
        assert!(ended.err.contains(word), "{word}\n{}", ended.err);
    }
}

#[test]
fn a_key_is_private_and_never_overwritten() {
    let folder = folder();
    let key = folder.path().join("cluster.key");
    let ended = tandem(&["keygen", text(&key)]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let before = std::fs::read(&key).unwrap();
    let ended = tandem(&["keygen", text(&key)]);
    assert_eq!(ended.code, 64);
    assert!(ended.err.contains(text(&key)), "{}", ended.err);
    assert_eq!(std::fs::read(&key).unwrap(), before);
    assert!(!before.is_empty());
}

#[test]
fn without_a_node_every_question_ends_with_69() {
    let folder = folder();
    let control = folder.path().join("control.sock");
    for args in [
        &["status"][..],
        &["events", "--json"],
        &["flows"],
        &["flows", "--json"],
        &["flows", "--count"],
        &["failover"],
        &["drain", "web/b1"],
        &["enable", "web/b1"],
    ] {
        let ended = tandem_with(args, Some(&control));
        assert_eq!(ended.code, 69, "{args:?}: {}", ended.err);
        assert_eq!(ended.out, "");
        assert!(ended.err.contains(text(&control)), "{}", ended.err);
    }
}

#[test]
fn status_is_text_or_the_read_model() {
    let node = Node::with(vec![answer(Role::Master, Role::Backup)]);
    let (ended, asked) = node.ask(&["status"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(asked, [Request::Status]);
    assert!(ended.out.starts_with("lb1 of web-pair: MASTER, epoch 7, "));
    assert!(!ended.out.contains('\x1b'), "colours in a pipe");

    let node = Node::with(vec![answer(Role::Master, Role::Backup)]);
    let (ended, _) = node.ask(&["status", "--json"]);
    let read: Status = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(read, status(Role::Master, Role::Backup));
    assert_eq!(ended.out.lines().count(), 1);
}

#[test]
fn events_are_lines_or_one_list() {
    let events = vec![Event {
        number: 1,
        unix_ms: 1_795_662_764_120,
        what: What::Transition {
            from: Role::Initialize,
            to: Role::Master,
            epoch: 1,
            cause: Cause::Alone,
            text: "no master was heard since the start".into(),
            detection_ms: None,
            takeover_ms: Some(0.3),
        },
    }];
    let response = Response::Events {
        events: events.clone(),
    };
    let (ended, asked) = Node::with(vec![response.clone()]).ask(&["events"]);
    assert_eq!((ended.code, asked), (0, vec![Request::Events]));
    assert!(ended.out.starts_with("2026-11-26T03:12:44.120Z  role "));

    let (ended, _) = Node::with(vec![response]).ask(&["events", "--json"]);
    let read: Vec<Event> = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(read, events);
}

#[test]
fn a_backend_is_drained_and_enabled_by_name() {
    for (command, state) in [
        ("drain", AdminState::Drain),
        ("enable", AdminState::Enabled),
    ] {
        let node = Node::with(vec![done("web/b1 is as you wish")]);
        let (ended, asked) = node.ask(&[command, "web/b1"]);
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (0, "web/b1 is as you wish\n")
        );
        let request = Request::Backend {
            service: "web".into(),
            backend: "b1".into(),
            state,
        };
        assert_eq!(asked, [request]);
    }
}

#[test]
fn what_the_node_refuses_ends_with_1() {
    let refusal = Response::Error {
        message: "there is no service \"web\"; there are: api".into(),
    };
    let (ended, _) = Node::with(vec![refusal]).ask(&["drain", "web/b1"]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert_eq!(
        ended.err,
        "tandem: there is no service \"web\"; there are: api\n"
    );
}

#[test]
fn an_answer_to_another_question_ends_with_70() {
    let (ended, _) = Node::with(vec![done("what?")]).ask(&["status"]);
    assert_eq!(ended.code, 70, "{}", ended.err);
}

#[test]
fn failover_waits_until_the_roles_have_changed() {
    let node = Node::with(vec![
        answer(Role::Master, Role::Backup),
        done("handing over to lb2"),
        answer(Role::Master, Role::Backup),
        answer(Role::Backup, Role::Backup),
        answer(Role::Backup, Role::Master),
    ]);
    let (ended, asked) = node.ask(&["failover"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(asked[1], Request::Failover);
    assert_eq!(asked.len(), 5);
    let said: Vec<&str> = ended.out.lines().collect();
    assert_eq!(said[0], "handing over to lb2");
    assert!(said[1].starts_with("lb2 is master now, lb1 is backup (epoch 7, "));
}

fn drains(left: u64, cut_in_ms: Option<u64>, cut: u64) -> Response {
    let mut status = status(Role::Backup, Role::Master);
    status.drain = Some(DrainStatus {
        left,
        of: 112,
        cut_in_ms,
        took_ms: 1_500,
        cut,
    });
    Response::Status {
        status: Box::new(status),
    }
}

/// As much as a node says during a switchover, up to this.
fn switchover(end: impl IntoIterator<Item = Response>) -> Node {
    let begin = [
        answer(Role::Master, Role::Backup),
        done("handing over to lb2"),
        drains(112, Some(300_000), 0),
    ];
    Node::with(begin.into_iter().chain(end).collect())
}

#[test]
fn failover_waits_for_the_last_connection_if_asked_to() {
    let node = switchover([drains(37, Some(272_000), 0), drains(0, None, 0)]);
    let (ended, asked) = node.ask(&["failover", "--wait"]);
    assert_eq!((ended.code, asked.len()), (0, 5), "{}", ended.err);
    let said: Vec<&str> = ended.out.lines().collect();
    assert_eq!(said[2], "lb1 had 112 connections left; all ended, in 1 s");
    // Not on a terminal: a line, and the next one 10 s later.
    let progress = "connections left on lb1: 112 of 112, at most 5 min more";
    assert_eq!(ended.err, format!("tandem: {progress}\n"));
}

#[test]
fn failover_says_in_its_exit_code_that_connections_were_cut() {
    let node = switchover([drains(0, None, 37)]);
    let (ended, _) = node.ask(&["failover", "--wait", "--json"]);
    assert_eq!(ended.code, 3, "{}", ended.err);
    assert!(ended.err.contains("reset 37 of 112 connections on lb1"));
    let mut told: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert!(told["switched_ms"].take().is_u64());
    let expected = serde_json::json!({
        "result": "cut", "master": "lb2", "backup": "lb1", "epoch": 7, "switched_ms": null,
        "drain": { "left": 0, "of": 112, "cut_in_ms": null, "took_ms": 1500, "cut": 37 },
    });
    assert_eq!(told, expected);
}

#[test]
fn failover_that_is_taken_back_is_none() {
    let node = switchover([answer(Role::Master, Role::Backup)]);
    let (ended, _) = node.ask(&["failover", "--wait", "--json"]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("taken back: lb1 is master"));
    assert!(ended.out.contains("\"result\":\"not_switched\""));
}

#[test]
fn failover_can_leave_at_once() {
    let node = Node::with(vec![
        answer(Role::Backup, Role::Master),
        done("asked lb2 to hand over to this node"),
    ]);
    let (ended, asked) = node.ask(&["failover", "--no-wait"]);
    assert_eq!((ended.code, asked.len()), (0, 2), "{}", ended.err);
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_failure() {
    let events = (1..5_000)
        .map(|number| Event {
            number,
            unix_ms: 0,
            what: What::Note {
                text: "a line of some length, so that the pipe fills".into(),
            },
        })
        .collect();
    let node = Node::with(vec![Response::Events { events }]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["events", "--control", text(&node.control())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    node.thread.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
