//! Checks of one service, written as an operator writes them, against small servers on the loopback.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::fixture::pair;
use crate::model::BackendId;

/// Long enough for any check that succeeds.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The plan of the service `checked` with these keys in its `[service.health]`.
pub(super) fn plans(health: &str) -> Plans {
    plans_of("", health)
}

/// Of a service with these keys.
pub(super) fn plans_of(service: &str, health: &str) -> Plans {
    let text = format!(
        r#"
        [[service]]
        name = "checked"
        listen = ["192.0.2.100:80"]
        {service}
        [[service.backend]]
        name = "b1"
        address = "198.51.100.21:8080"
        [service.agent]
        port = 8081
        send = "b1\n"
        [service.health]
        {health}
        "#
    );
    let config = pair(&text);
    Plans::load(&config).unwrap()
}

pub(super) fn request(address: SocketAddr, whom: Whom, timeout: Duration) -> ProbeRequest {
    ProbeRequest {
        backend: BackendId::of("checked", "b1"),
        whom,
        address: address.into(),
        timeout,
        token: 1,
    }
}

/// How a check of this address goes.
pub(super) async fn outcome(health: &str, address: SocketAddr, timeout: Duration) -> ProbeOutcome {
    let request = request(address, Whom::Backend, timeout);
    let began = Instant::now();
    let outcome = check(&plans(health), &request).await.expect("a socket");
    assert!(began.elapsed() < timeout + PATIENCE, "bounded in time");
    outcome
}

/// `good`, `good; WARNING`, or what was wrong.
pub(super) async fn says(health: &str, address: SocketAddr) -> String {
    said(outcome(health, address, PATIENCE).await)
}

/// The same, with this much time.
pub(super) async fn says_in(health: &str, address: SocketAddr, ms: u64) -> String {
    said(outcome(health, address, Duration::from_millis(ms)).await)
}

pub(super) async fn agent_says(address: SocketAddr, ms: u64) -> String {
    let request = request(address, Whom::Agent, Duration::from_millis(ms));
    let plans = plans("kind = \"tcp\"");
    said(check(&plans, &request).await.expect("a socket"))
}

pub(super) fn said(outcome: ProbeOutcome) -> String {
    match outcome {
        ProbeOutcome::Agent(answer) => format!("agent {}", answer.words),
        ProbeOutcome::Bad { failure } => format!("{failure:?}"),
        ProbeOutcome::Good { .. } => "good".into(),
        ProbeOutcome::Warned { what, .. } => format!("good; {what}"),
        ProbeOutcome::Wrong { what } => what,
    }
}

/// A server that does this with each connection. Ends with the test's runtime.
pub(super) async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Says this at once, and waits for the other end.
pub(super) async fn saying(text: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.write_all(text).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// Waits for a few bytes, says this, and closes.
pub(super) async fn answering(text: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(text).await;
    })
    .await
}

/// The four ways to be sick: mute, reset at once, a byte now and then, a flood.
pub(super) async fn mute() -> SocketAddr {
    saying(b"").await
}

pub(super) async fn resetting() -> SocketAddr {
    server(|stream| async move {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })
    .await
}

pub(super) async fn dripping(text: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        for byte in text.iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
    .await
}

pub(super) async fn flooding(begin: &'static [u8], then: u8) -> SocketAddr {
    server(move |mut stream| async move {
        let _ = stream.write_all(begin).await;
        while stream.write_all(&[then; 64 << 10]).await.is_ok() {}
    })
    .await
}
