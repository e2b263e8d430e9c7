//! Both ends of the control socket, and clients that misbehave.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{CallError, call};
use super::socket::CLIENTS;
use super::*;
use crate::model::FlowId;
use crate::status::Status;
use crate::wire::admin::{Change, FlowCursor, FlowQuery, MAX_LINE, Pushed, Reloaded};
use crate::wire::replication::AdminState;

/// Longer than any of these should ever take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A served socket in a directory of its own.
struct Stage {
    _directory: TempDir,
    path: PathBuf,
    rejected: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

/// What a stage's node does with what it is asked.
#[derive(Clone, Copy)]
enum NodeIs {
    Awake,
    Gone,
    Hung,
}

impl Stage {
    fn new() -> Self {
        Self::with(NodeIs::Awake, |_| {})
    }

    fn with(node: NodeIs, change: impl FnOnce(&mut Server)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let rejected = Arc::new(AtomicU64::new(0));
        let mut server = Server::bind(&path).unwrap();
        change(&mut server);
        let (asks, mut asked) = mpsc::channel::<Asked>(4);
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(asks, Arc::clone(&rejected)));
        match node {
            NodeIs::Gone => drop(asked),
            NodeIs::Hung => {
                tasks.spawn(async move {
                    let _held = asked;
                    std::future::pending::<()>().await;
                });
            }
            NodeIs::Awake => {
                tasks.spawn(async move {
                    while let Some(Asked { request, reply }) = asked.recv().await {
                        let _ = reply.send(answer(&request));
                    }
                });
            }
        }
        Self {
            _directory: directory,
            path,
            rejected,
            tasks,
        }
    }

    async fn client(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(&self.path).await.unwrap())
    }

    async fn call(&self, request: Request) -> Result<Response, CallError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || call(&path, &request))
            .await
            .unwrap()
    }

    fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

fn answer(request: &Request) -> Response {
    match request {
        Request::Status => Response::Status {
            status: Box::new(Status {
                cluster: "pair".into(),
                ..Status::default()
            }),
        },
        Request::Events => Response::Events { events: vec![] },
        Request::Failover => Response::Error {
            message: "not now".into(),
        },
        Request::Flows(query) => Response::Flows {
            matching: u64::from(query.limit.unwrap_or(0)),
            flows: vec![],
            next: query.after,
        },
        Request::Reload { dry_run } => Response::Reloaded {
            reloaded: Reloaded {
                dry_run: *dry_run,
                ..Reloaded::default()
            },
        },
        Request::Push { .. } => Response::Pushed {
            pushed: Pushed::default(),
        },
        Request::Rotate => Response::Done {
            message: "rotated".into(),
        },
        Request::Log { level } => Response::Done {
            message: level.clone(),
        },
        Request::Sticks(query) | Request::ForgetSticks(query) => Response::Sticks {
            matching: 0,
            clients: vec![],
            next: query.after.clone(),
        },
        Request::Backend { backend, .. } | Request::Roster { backend, .. } => Response::Done {
            message: backend.clone(),
        },
    }
}

async fn write(client: &mut BufReader<UnixStream>, bytes: &[u8]) {
    client.write_all(bytes).await.unwrap();
}

async fn read(client: &mut BufReader<UnixStream>) -> Option<Response> {
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, client.read_line(&mut line));
    let bytes = read.await.expect("an answer in time").unwrap_or(0);
    (bytes > 0).then(|| serde_json::from_str(&line).expect("a response"))
}

async fn read_error(client: &mut BufReader<UnixStream>) -> String {
    match read(client).await {
        Some(Response::Error { message }) => message,
        other => panic!("{other:?} instead of an error"),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn each_request_comes_back_answered() {
    let stage = Stage::new();
    let drain = Request::Backend {
        service: "web".into(),
        backend: "b1".into(),
        state: AdminState::Drain,
    };
    let add = Request::Roster {
        service: "web".into(),
        backend: "b4".into(),
        change: Change::Add {
            address: "198.51.100.24:80".parse().unwrap(),
            weight: Some(2),
            pool: None,
            max_connections: None,
            backup: false,
        },
    };
    let flows = Request::Flows(FlowQuery {
        client: Some("192.0.2.0/24".parse().unwrap()),
        after: Some(FlowCursor::Proxy(FlowId(7))),
        limit: Some(5),
        ..FlowQuery::default()
    });
    for request in [
        Request::Status,
        Request::Events,
        Request::Failover,
        Request::Reload { dry_run: true },
        flows,
        drain,
        add,
    ] {
        let expected = answer(&request);
        assert_eq!(stage.call(request).await.unwrap(), expected);
    }
    assert_eq!(stage.rejected(), 0);
}

#[tokio::test]
async fn a_bad_line_is_explained_and_counted_and_the_connection_goes_on() {
    let stage = Stage::new();
    let mut client = stage.client().await;
    let bad: [(&[u8], &str); 7] = [
        (b"{\"request\":\"backend\",\"service\":\"web\",\"backend\":\"b\",\"state\":\"drain\",\"x\":1}", "unknown field `x`"),
        (b"hello", "expected value"),
        (b"", "EOF"),
        (b"{\"request\":\"reboot\"}", "unknown variant `reboot`"),
        (
            b"{\"request\":\"backend\",\"service\":\"web\"}",
            "missing field",
        ),
        (b"\xff\xfe\x00", "not a request"),
        (b"{\"request\":\"\x1b[31m\"}", "not a request"),
    ];
    for (number, (line, expected)) in bad.iter().enumerate() {
        write(&mut client, &[line, b"\n".as_slice()].concat()).await;
        let message = read_error(&mut client).await;
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
        assert_eq!(stage.rejected(), number as u64 + 1);
    }
    write(&mut client, b"{\"request\":\"status\"}\n").await;
    assert!(matches!(
        read(&mut client).await,
        Some(Response::Status { .. })
    ));
}

#[tokio::test]
async fn a_complaint_does_not_grow_with_the_line() {
    let stage = Stage::new();
    let mut client = stage.client().await;
    let long = format!("{{\"request\":\"{}\"}}\n", "x".repeat(50_000));
    write(&mut client, long.as_bytes()).await;
    assert!(read_error(&mut client).await.len() < 1_000);
}

#[tokio::test]
async fn the_longest_line_is_read_and_a_longer_one_ends_the_connection() {
    let stage = Stage::new();
    let mut client = stage.client().await;
    let mut longest = b"{\"request\":\"status\"}".to_vec();
    longest.resize(MAX_LINE, b' ');
    longest.push(b'\n');
    write(&mut client, &longest).await;
    assert!(matches!(
        read(&mut client).await,
        Some(Response::Status { .. })
    ));
    longest.insert(0, b' ');
    write(&mut client, &longest).await;
    assert!(read_error(&mut client).await.contains("longer than 65536"));
    assert_eq!(read(&mut client).await, None);
    assert_eq!(stage.rejected(), 1);
}

#[tokio::test]
async fn a_hundred_thousand_bad_lines_are_answered_one_by_one() {
    const LINES: usize = 100_000;
    let stage = Stage::new();
    let (reader, mut writer) = stage.client().await.into_inner().into_split();
    let garbage = "nonsense\n".repeat(LINES);
    let write = writer.write_all(garbage.as_bytes());
    let read = async {
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        for _ in 0..LINES {
            line.clear();
            assert!(reader.read_line(&mut line).await.unwrap() > 0);
        }
    };
    let both = async { tokio::join!(write, read).0 };
    let done = tokio::time::timeout(Duration::from_secs(60), both).await;
    done.expect("bounded time").unwrap();
    assert_eq!(stage.rejected(), LINES as u64);
    assert!(stage.call(Request::Status).await.is_ok());
}

#[tokio::test]
async fn a_line_may_come_in_pieces_and_the_last_one_may_lack_its_end() {
    let stage = Stage::new();
    let mut client = stage.client().await;
    write(&mut client, b"{\"request\":").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    write(&mut client, b"\"status\"}\n{\"request\":\"events\"}").await;
    client.get_mut().shutdown().await.unwrap();
    assert!(matches!(
        read(&mut client).await,
        Some(Response::Status { .. })
    ));
    assert!(matches!(
        read(&mut client).await,
        Some(Response::Events { .. })
    ));
    assert_eq!(read(&mut client).await, None);
}

#[tokio::test]
async fn a_client_that_does_not_go_on_is_closed() {
    let stage = Stage::with(NodeIs::Awake, |server| {
        server.patience.client = Duration::from_millis(100);
    });
    let mut client = stage.client().await;
    write(&mut client, b"{\"request\"").await;
    assert!(read_error(&mut client).await.contains("no whole line"));
    assert_eq!(read(&mut client).await, None);
}

#[tokio::test]
async fn a_node_that_hangs_or_is_gone_is_named() {
    let hung = Stage::with(NodeIs::Hung, |server| {
        server.patience.node = Duration::from_millis(100);
    });
    let gone = Stage::with(NodeIs::Gone, |_| {});
    for (stage, expected) in [(hung, "did not answer"), (gone, "stopping")] {
        // More than the queue to the node takes.
        for _ in 0..6 {
            match stage.call(Request::Status).await {
                Ok(Response::Error { message }) => assert!(message.contains(expected)),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_others_stay() {
    let stage = Stage::new();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = stage.client().await;
        write(&mut client, b"{\"request\":\"events\"}\n").await;
        assert!(read(&mut client).await.is_some());
        clients.push(client);
    }
    let mut late = stage.client().await;
    assert!(read_error(&mut late).await.contains("64 clients"));
    assert_eq!(read(&mut late).await, None);
    write(&mut clients[0], b"{\"request\":\"events\"}\n").await;
    assert!(read(&mut clients[0]).await.is_some());
    drop(clients);
    // The server needs a moment to see that they left.
    let mut again = stage.call(Request::Events).await.unwrap();
    while matches!(again, Response::Error { .. }) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        again = stage.call(Request::Events).await.unwrap();
    }
}

#[tokio::test]
async fn the_file_has_its_mode_and_goes_with_the_server() {
    let mut stage = Stage::new();
    assert_eq!(mode(&stage.path), 0o660);
    stage.tasks.shutdown().await;
    assert!(!stage.path.exists());
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind");
    let server = Server::bind(&path).unwrap();
    match Server::bind(&path) {
        Err(error @ ControlError::AlreadyRunning { .. }) => {
            let pid = format!("(pid {})", std::process::id());
            assert!(error.to_string().contains(&pid), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(StdStream::connect(&path).is_ok(), "untouched");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_server_does_not_remove_the_file_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let old = Server::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _new = Server::bind(&path).unwrap();
    drop(old);
    assert!(StdStream::connect(&path).is_ok());
}

#[test]
fn what_cannot_be_bound_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("run/control.sock");
    let error = Server::bind(&missing).unwrap_err();
    assert!(matches!(error, ControlError::NoDirectory { .. }));
    assert!(error.to_string().contains("RuntimeDirectory"), "{error}");

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = Server::bind(&file).unwrap_err();
    assert!(matches!(error, ControlError::NotASocket { .. }));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let long = directory.path().join("x".repeat(200));
    assert!(matches!(
        Server::bind(&long),
        Err(ControlError::System { action: "name", .. })
    ));
}

#[test]
fn a_caller_learns_why_there_is_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let not_running = |path: &Path| {
        let error = call(path, &Request::Status).unwrap_err();
        assert!(matches!(error, CallError::NotRunning { .. }), "{error}");
        assert!(error.to_string().contains("--control"), "{error}");
    };
    not_running(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let broken = |answer: &'static [u8], expected: &str| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut caller = listener.accept().unwrap().0;
                // To its end: whoever closes before, breaks the caller's pipe.
                let mut reader = std::io::BufReader::new(&caller);
                std::io::BufRead::read_line(&mut reader, &mut String::new()).unwrap();
                caller.write_all(answer).unwrap();
            });
            let error = call(&path, &Request::Status).unwrap_err();
            assert!(matches!(error, CallError::Broken { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        });
    };
    broken(b"", "");
    broken(b"{\"response\":\"done\"", "");
    broken(b"{\"response\":\"dance\"}\n", "another version");
    drop(listener);
    not_running(&path);
}

/// Every example in the protocol's page is what the code reads and writes.
#[test]
fn the_examples_in_the_docs_are_true() {
    let page = include_str!("../../docs/protocol.md");
    let lines: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("{\""))
        .collect();
    let requests = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Request>(line).ok())
        .count();
    let responses = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Response>(line).ok())
        .count();
    assert_eq!(requests + responses, lines.len());
    assert!(requests >= 4 && responses >= 4, "{requests} {responses}");
}
