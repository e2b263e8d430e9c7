//! Bytes and connections in earnest: long transfers, half-closed connections, thousands at once.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tandem::lab::{BACKENDS, Lab, LabError, Load, backend_address, default_config, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tools::{all_answered, good, restart, service, shows, until, vip, vip6, with};
use super::{Test, test};

/// Length of a long transfer.
const LONG: u64 = 2_000_000_000;
/// Time for it. Measured in an unoptimised build on two cores: about 2 s.
const LONG_TIME: Duration = Duration::from_secs(40);
/// Connections at once: they cost the node twice as many descriptors, and this process as well.
const CROWD: usize = 5_000;
const PORT: u16 = 9000;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("traffic_2_gb_down_arrives_byte_by_byte", || long(true)),
        test("traffic_2_gb_up_arrives_byte_by_byte", || long(false)),
        test(
            "traffic_goes_on_after_the_client_closed_its_half",
            client_closes_first,
        ),
        test(
            "traffic_goes_on_after_the_server_closed_its_half",
            server_closes_first,
        ),
        test("traffic_of_5000_connections_at_once", crowd),
        test("traffic_of_ipv6_survives_a_failover", ipv6_failover),
    ]
}

/// A pair with a service whose backend does this with its one connection.
async fn alone<F, T>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (Lab, JoinHandle<io::Result<T>>)
where
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let backend = backend_address(0);
    // No health check: its connects would be taken for the client.
    let service = service("raw", PORT, backend.into());
    let (head, tail) = service.split_once("[service.health]").unwrap();
    let tail = &tail[tail.find("[[service.backend]]").unwrap()..];
    let config = default_config() + head + tail;
    let lab = Lab::up(&with(config)).await.expect("the pair comes up");
    let at = SocketAddr::new(backend.into(), PORT);
    let host = &lab.network().backends[0];
    let listener = good("listen", host.run(TcpListener::bind(at)).await);
    let served = host.spawn(async move { serve(listener.accept().await?.0).await });
    (lab, served)
}

/// A block of the pattern that repeats without a seam.
fn block() -> Vec<u8> {
    const PERIOD: u64 = 251;
    (0..PERIOD * 1_024).map(pattern).collect()
}

async fn send(mut stream: impl AsyncWriteExt + Unpin, length: u64) -> io::Result<()> {
    let block = block();
    let mut left = length;
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&block[..part]).await?;
        left -= part as u64;
    }
    stream.shutdown().await
}

/// Reads to the end; how many bytes came, all of which were the pattern's.
async fn receive(mut stream: impl AsyncReadExt + Unpin) -> io::Result<u64> {
    let block = block();
    let mut buffer = vec![0; block.len()];
    let mut got = 0;
    loop {
        let place = (got % block.len() as u64) as usize;
        let room = block.len() - place;
        let count = stream.read(&mut buffer[..room]).await?;
        if count == 0 {
            return Ok(got);
        }
        if buffer[..count] != block[place..place + count] {
            let text = format!("a byte differs after {got}");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        got += count as u64;
    }
}

async fn long(down: bool) -> Result<(), LabError> {
    let (mut lab, served) = alone(move |mut stream| async move {
        match down {
            true => send(&mut stream, LONG).await.map(|()| 0),
            false => receive(&mut stream).await,
        }
    })
    .await;
    let clock = lab.clock();
    let began = clock.now();
    let transfer = lab.network().client.run(timeout(LONG_TIME, async move {
        let mut stream = TcpStream::connect(vip(PORT)).await?;
        match down {
            true => receive(&mut stream).await,
            false => send(&mut stream, LONG).await.map(|()| 0),
        }
    }));
    let received = good("transfer", transfer.await.expect("it ends in time"));
    let kept = good("serve", served.await.expect("the server ends"));
    let took = clock.now().since(began);
    assert_eq!(if down { received } else { kept }, LONG);
    let rate = LONG as f64 * 8e-9 / took.as_secs_f64();
    eprintln!(
        "2 GB {}: {took:.2?}, {rate:.1} Gbit/s",
        if down { "down" } else { "up" }
    );
    let moved = |status: &tandem::status::Status| status.services[1].connections == 0;
    let master = lab.masters().await[0];
    shows(
        &mut lab,
        master,
        "the connection is over",
        Duration::from_secs(3),
        moved,
    )
    .await;
    Ok(())
}

const MEGABYTE: u64 = 1_000_000;

async fn client_closes_first() -> Result<(), LabError> {
    let (lab, served) = alone(|mut stream| async move {
        // Not a word before the client has closed its half.
        let got = receive(&mut stream).await?;
        send(&mut stream, 3 * MEGABYTE).await?;
        Ok(got)
    })
    .await;
    let client = lab.network().client.run(timeout(LONG_TIME, async {
        let mut stream = TcpStream::connect(vip(PORT)).await?;
        send(&mut stream, MEGABYTE).await?;
        receive(&mut stream).await
    }));
    assert_eq!(good("talk", client.await.expect("in time")), 3 * MEGABYTE);
    assert_eq!(good("serve", served.await.unwrap()), MEGABYTE);
    Ok(())
}

async fn server_closes_first() -> Result<(), LabError> {
    let (lab, served) = alone(|mut stream| async move {
        send(&mut stream, MEGABYTE).await?;
        receive(&mut stream).await
    })
    .await;
    let client = lab.network().client.run(timeout(LONG_TIME, async {
        let mut stream = TcpStream::connect(vip(PORT)).await?;
        let got = receive(&mut stream).await?;
        // The server's half is closed; ours is not.
        send(&mut stream, 3 * MEGABYTE).await?;
        Ok::<_, io::Error>(got)
    }));
    assert_eq!(good("talk", client.await.expect("in time")), MEGABYTE);
    assert_eq!(good("serve", served.await.unwrap()), 3 * MEGABYTE);
    Ok(())
}

/// Descriptors of a process.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the process runs")
        .count()
}

async fn crowd() -> Result<(), LabError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let pid = lab.node(master).pid().expect("it runs");
    let before = descriptors(pid);

    let all_open = Arc::new(Barrier::new(CROWD + 1));
    let all_done = Arc::new(Barrier::new(CROWD + 1));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut crowd = Vec::with_capacity(CROWD);
    let gate = Arc::new(Semaphore::new(100));
    for _ in 0..CROWD {
        let (open, done) = (all_open.clone(), all_done.clone());
        let (answered, gate) = (answered.clone(), gate.clone());
        let one = async move {
            let entry = gate.acquire_owned().await.expect("never closed");
            let mut stream = TcpStream::connect(vip(80)).await?;
            exchange(&mut stream).await?;
            drop(entry);
            open.wait().await;
            let name = exchange(&mut stream).await?;
            answered.fetch_add(1, Ordering::Relaxed);
            done.wait().await;
            Ok::<_, io::Error>(name)
        };
        crowd.push(lab.network().client.spawn(one));
    }
    let patience = Duration::from_secs(30);
    timeout(patience, all_open.wait())
        .await
        .expect("all connect");
    until(
        "all are answered while all are open",
        patience,
        async || (answered.load(Ordering::Relaxed) == CROWD).then_some(()),
    )
    .await;
    let while_open = descriptors(pid);
    timeout(patience, all_done.wait()).await.expect("all go on");
    let mut counts = [0; BACKENDS];
    for one in crowd {
        let name = good("an exchange", one.await.expect("it does not panic"));
        counts[usize::from(name - b'1')] += 1;
    }
    assert_eq!(counts.iter().sum::<usize>(), CROWD);
    let [least, most] = [counts.iter().min(), counts.iter().max()].map(|n| *n.unwrap());
    assert!(most - least <= 1, "each has its third: {counts:?}");
    // A health check may have had one before.
    assert!(
        while_open + 16 >= before + 2 * CROWD,
        "{before} -> {while_open}"
    );
    let over = |status: &tandem::status::Status| status.services[0].connections == 0;
    let patience = Duration::from_secs(10);
    let after = shows(&mut lab, master, "all are closed", patience, over).await;
    assert_eq!(after.services[0].total, CROWD as u64);
    assert_eq!(
        (after.services[0].failed, after.services[0].refused),
        (0, 0)
    );
    let left = descriptors(pid);
    assert!(
        left < before + 100,
        "descriptors are given back: {before} -> {left}"
    );
    eprintln!("5000 at once: descriptors {before} -> {while_open} -> {left}");
    Ok(())
}

/// One page on a connection that stays open; the last letter of the backend's name.
pub(crate) async fn exchange(stream: &mut TcpStream) -> io::Result<u8> {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer[answer.len() - 2])
}

async fn ipv6_failover() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let load = Load::start(&lab.network().client, vip6(80), lab.clock());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let at = lab.clock().now();
    lab.node(master).signal(Signal::SIGKILL)?;
    shows(
        &mut lab,
        master.peer(),
        "the other takes over",
        Duration::from_secs(5),
        |status| status.vips.iter().all(|vip| vip.held),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let record = load.stop().await;
    let failures = record.failures();
    let (_, outage) = record
        .outage(at)
        .unwrap_or_else(|| panic!("no answer again: {failures:?}"));
    eprintln!("IPv6 failover after kill -9: outage {outage:.1?}, {failures:?}");
    assert!(outage < Duration::from_secs(2), "{outage:?}");
    let settled = lab.clock().now();
    assert!(
        record
            .first_answer(at + outage)
            .is_some_and(|at| at < settled)
    );
    restart(&mut lab, master).await?;
    lab.settled().await?;
    let load = Load::start(&lab.network().client, vip6(80), lab.clock());
    tokio::time::sleep(Duration::from_millis(300)).await;
    all_answered(&load.stop().await);
    Ok(())
}
