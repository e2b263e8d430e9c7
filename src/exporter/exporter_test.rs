//! Real connections to a server whose node is a closure.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::model::Role;

/// A server on a port of the kernel's choice.
fn serving<A, F>(ask: A) -> SocketAddr
where
    A: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Option<Status>> + Send + 'static,
{
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(serve(listener, Arc::new(Desk::new(ask)), room));
    address
}

fn master() -> Status {
    Status {
        role: Role::Master,
        ..Status::default()
    }
}

async fn say(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // One that is refused may be reset in the middle.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    say(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_health_and_nothing_else() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let address = serving(move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { Some(master()) }
    });
    let answer = get(address, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(
        answer.contains("\ntandem_role{role=\"master\"} 1"),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"));
    let health = get(address, "/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.ends_with("\r\n\r\nmaster\n"), "{health}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("GET /metrics/ HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "405",
        ),
        ("HEAD /metrics HTTP/1.0\r\n\r\n", "200"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = say(address, request).await;
        assert_eq!(answer.get(9..12), Some(status), "{request}: {answer}");
    }
    let long = format!(
        "GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(64 << 10)
    );
    let answer = say(address, &long).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    let many = format!(
        "GET /metrics HTTP/1.1\r\n{}\r\n",
        "x: y\r\n".repeat(FIELDS + 1)
    );
    assert!(!say(address, &many).await.contains(" 200 "));
    // All of it was seconds at most, and each answer is good for a while.
    let before = asked.load(Ordering::Relaxed);
    let all = (0..20).map(|_| get(address, "/metrics"));
    futures_util::future::join_all(all).await;
    assert!(
        asked.load(Ordering::Relaxed) - before < 20,
        "answers are kept"
    );
}

#[tokio::test]
async fn a_node_that_does_not_answer_or_stops_is_not_healthy() {
    let gone = serving(|| async { None });
    for path in ["/healthz", "/metrics"] {
        let answer = get(gone, path).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let stopping = serving(|| async {
        Some(Status {
            stopping: true,
            ..Status::default()
        })
    });
    assert!(get(stopping, "/healthz").await.starts_with("HTTP/1.1 503 "));
    assert!(get(stopping, "/metrics").await.starts_with("HTTP/1.1 200 "));
    let hanging = serving(std::future::pending::<Option<Status>>);
    assert!(get(hanging, "/healthz").await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn too_many_connections_are_closed() {
    let address = serving(|| async { Some(master()) });
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS + 8 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut last = idle.pop().unwrap();
    let read = timeout(PATIENCE / 2, last.read(&mut [0])).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    drop(idle);
    // There is room again.
    while !get(address, "/healthz").await.contains(" 200 ") {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_address_that_is_not_here_is_no_reason_to_fail() {
    assert!(listen("192.0.2.11:9700".parse().unwrap()).is_ok());
    assert!(listen("[2001:db8::11]:9700".parse().unwrap()).is_ok());
}
