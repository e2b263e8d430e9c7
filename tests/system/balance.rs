//! Who gets which connection: shares, retries, limits, drained backends.

use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{BACKENDS, Lab, LabError};
use tandem::model::{AdminState, NodeId};
use tandem::status::{ServiceStatus, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::http::get;
use super::tools::{ask, default_but, good, restart, shows, vip, with};
use super::{Test, test};

/// Connections that are shared out.
const MANY: u64 = 6_000;
/// How many clients open them, each one after the other.
const CLIENTS: u64 = 20;
const SOON: Duration = Duration::from_secs(3);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("balance_round_robin_gives_each_exactly_its_third", || {
            shares("round_robin", [1, 1, 1], [2_000, 2_000, 2_000])
        }),
        test("balance_weights_3_2_1_are_met_exactly", || {
            shares("weighted_round_robin", [3, 2, 1], [3_000, 2_000, 1_000])
        }),
        test(
            "balance_retries_so_that_no_client_sees_two_dead_backends",
            two_refuse,
        ),
        test(
            "balance_resets_at_once_when_every_backend_refuses",
            all_refuse,
        ),
        test("balance_refuses_what_is_over_the_limit", limit),
        test(
            "balance_drain_and_enable_hold_over_a_failover",
            drain_and_enable,
        ),
    ]
}

async fn shares(
    scheduler: &str,
    weights: [u32; BACKENDS],
    expected: [u64; BACKENDS],
) -> Result<(), LabError> {
    let mut config = default_but("round_robin", scheduler);
    for (n, weight) in weights.into_iter().enumerate() {
        let name = format!("name = \"b{}\"\n", n + 1);
        config = config.replace(&name, &format!("{name}weight = {weight}\n"));
    }
    let mut lab = Lab::up(&with(config)).await?;
    let master = lab.settled().await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(lab.network().client.spawn(async {
            for _ in 0..MANY / CLIENTS {
                page().await?;
            }
            Ok::<_, io::Error>(())
        }));
    }
    for client in clients {
        good("a page", client.await.expect("it does not panic"));
    }
    // The backends' own count; the node's must say the same.
    let served: Vec<u64> = (0..BACKENDS).map(|n| lab.backend(n).served()).collect();
    assert_eq!(served, expected);
    let told = shows(&mut lab, master, "all are counted", SOON, |status| {
        status.services[0].total == MANY && status.services[0].connections == 0
    });
    let told = told.await.services[0]
        .backends
        .iter()
        .map(|b| b.total)
        .collect::<Vec<_>>();
    assert_eq!(told, expected);
    Ok(())
}

/// One page on a connection of its own.
async fn page() -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(vip(80)).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

async fn two_refuse() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_but(
        "interval = \"250ms\"",
        "interval = \"5s\"",
    )))
    .await?;
    let master = lab.settled().await?;
    let load = lab.load();
    sleep(Duration::from_millis(200)).await;
    // With checks this slow, the first to find out are the clients' connects.
    lab.stop_backend(0).await;
    lab.stop_backend(1).await;
    let stopped = lab.clock().now();
    sleep(Duration::from_secs(1)).await;
    let record = load.stop().await;
    // Whom a backend's kernel had accepted for it, it resets when the backend goes.
    let mut later = record
        .attempts
        .iter()
        .filter(|attempt| attempt.start > stopped);
    assert!(
        later.all(|attempt| attempt.outcome.is_ok()),
        "{:?}",
        record.failures()
    );
    assert!(
        record.answers()["b3"] > record.answers()["b1"],
        "{:?}",
        record.answers()
    );
    let status = lab.node(master).status().await?;
    let failures: Vec<u64> = web(&status)
        .backends
        .iter()
        .map(|b| b.connect_failures)
        .collect();
    assert!(
        failures[0] > 0 && failures[1] > 0 && failures[2] == 0,
        "{failures:?}"
    );
    assert_eq!(
        web(&status).failed,
        0,
        "no connection went without a backend"
    );
    Ok(())
}

fn web(status: &Status) -> &ServiceStatus {
    &status.services[0]
}

async fn all_refuse() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(tandem::lab::default_config())).await?;
    let master = lab.settled().await?;
    for n in 0..BACKENDS {
        lab.stop_backend(n).await;
    }
    let clock = lab.clock();
    // First while they still count as up, then when they are known to be down.
    for known in [false, true] {
        if known {
            shows(&mut lab, master, "all are down", SOON, |status| {
                web(status).backends.iter().all(|backend| !backend.up)
            })
            .await;
        }
        let began = clock.now();
        let answer = lab.network().client.run(timeout(SOON, page())).await;
        let took = clock.now().since(began);
        let error = answer
            .expect("an answer, and be it a reset")
            .expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "known: {known}");
        assert!(took < Duration::from_millis(500), "{took:?}");
        eprintln!("all backends refuse (known: {known}): reset after {took:.1?}");
    }
    let counted = |status: &Status| web(status).failed == 2;
    shows(&mut lab, master, "both are counted", SOON, counted).await;
    for n in 0..BACKENDS {
        lab.start_backend(n).await?;
    }
    lab.settled().await?;
    good("a page", get(&lab.network().client, vip(80), "/").await);
    Ok(())
}

async fn limit() -> Result<(), LabError> {
    const LIMIT: usize = 10;
    let limited = format!("connect_timeout = \"200ms\"\nmax_connections = {LIMIT}");
    let mut lab = Lab::up(&with(default_but("connect_timeout = \"200ms\"", &limited))).await?;
    let master = lab.settled().await?;
    let client = &lab.network().client;
    let mut held = Vec::new();
    for _ in 0..LIMIT {
        held.push(good("within the limit", client.run(keep()).await));
    }
    let over = client.run(timeout(SOON, page())).await;
    let error = over.expect("refused in time").expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    shows(&mut lab, master, "it is counted", SOON, |status| {
        web(status).refused == 1 && web(status).connections == LIMIT as u64
    })
    .await;
    drop(held.pop());
    shows(&mut lab, master, "one has left", SOON, |status| {
        web(status).connections < LIMIT as u64
    })
    .await;
    good(
        "there is room again",
        lab.network().client.run(page()).await,
    );
    Ok(())
}

/// A connection that stays open after its first page; the backend's number.
pub(crate) async fn keep() -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(vip(80)).await?;
    let backend = again(&mut stream).await?;
    Ok((stream, backend))
}

/// One more page; the backend's number.
pub(crate) async fn again(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer[answer.len() - 2] - b'0')
}

async fn drain_and_enable() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(tandem::lab::default_config())).await?;
    let master = lab.settled().await?;
    let mut on_first = None;
    for _ in 0..BACKENDS {
        let (stream, backend) = good("a page", lab.network().client.run(keep()).await);
        if backend == 1 {
            on_first = Some(stream);
        }
    }
    let mut on_first = on_first.expect("three connections reach three backends");

    let backup = ask(&mut lab, master.peer(), &["drain", "web/b1"]).await;
    assert!(!backup.status.success(), "the backup refuses: {backup:?}");
    let drained = ask(&mut lab, master, &["drain", "web/b1"]).await;
    assert!(drained.status.success(), "{drained:?}");
    shares_of(&lab, [0, 15, 15]).await;
    let answered = lab
        .network()
        .client
        .run(async move { again(&mut on_first).await });
    assert_eq!(good("the connection lives on", answered.await), 1);

    let drained = |status: &Status| {
        let states = web(status).backends.iter().map(|backend| backend.admin);
        states.eq([AdminState::Drain, AdminState::Enabled, AdminState::Enabled])
    };
    shows(&mut lab, master.peer(), "the backup knows", SOON, drained).await;
    lab.node(master).signal(Signal::SIGKILL)?;
    taken_over(&mut lab, master.peer()).await;
    shows(
        &mut lab,
        master.peer(),
        "the new master knows",
        SOON,
        drained,
    )
    .await;
    shares_of(&lab, [0, 15, 15]).await;

    restart(&mut lab, master).await?;
    let master = lab.settled().await?;
    let enabled = ask(&mut lab, master, &["enable", "web/b1"]).await;
    assert!(enabled.status.success(), "{enabled:?}");
    shares_of(&lab, [10, 10, 10]).await;
    Ok(())
}

pub(crate) async fn taken_over(lab: &mut Lab, node: NodeId) {
    shows(
        lab,
        node,
        "it takes over",
        Duration::from_secs(5),
        |status| status.vips.iter().all(|vip| vip.held),
    )
    .await;
}

/// Of the next 30 connections, each backend must get so many.
pub(crate) async fn shares_of(lab: &Lab, expected: [u64; BACKENDS]) {
    let before: Vec<u64> = (0..BACKENDS).map(|n| lab.backend(n).served()).collect();
    for _ in 0..expected.iter().sum::<u64>() {
        good("a page", lab.network().client.run(page()).await);
    }
    let got: Vec<u64> = (0..BACKENDS)
        .map(|n| lab.backend(n).served() - before[n])
        .collect();
    assert_eq!(got, expected);
}
