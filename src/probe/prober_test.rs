//! Checks against sockets on the loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::tcp::failure;
use super::testbed::plans;
use super::*;
use crate::model::{BackendId, ConnectFailure};

/// Nothing here should take so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn request(address: SocketAddr, timeout: Duration, token: u64) -> ProbeRequest {
    ProbeRequest {
        backend: BackendId::of("checked", "b1"),
        whom: Whom::Backend,
        address: address.into(),
        timeout,
        token,
    }
}

/// A TCP socket with a port of its own that does not listen.
fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A listener whose backlog is full, so that it answers no SYN. Lives with the sockets returned.
fn mute() -> (Vec<Socket>, SocketAddr) {
    let (listener, address) = bound();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _in_progress = filler.connect(&address.into());
        sockets.push(filler);
    }
    (sockets, address)
}

async fn next(results: &mut Receiver<ProbeResult>) -> ProbeResult {
    tokio::time::timeout(PATIENCE, results.recv())
        .await
        .expect("an answer in time")
        .expect("a prober")
}

const fn bad(failure: ConnectFailure) -> ProbeOutcome {
    ProbeOutcome::Bad { failure }
}

#[tokio::test]
async fn a_listener_is_good_and_sees_an_ordinary_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (sender, mut results) = mpsc::channel(1);
    let prober = Prober::start(plans("kind = \"tcp\""), sender, 1);
    prober.probe(request(listener.local_addr().unwrap(), PATIENCE, 41));
    let result = next(&mut results).await;
    assert_eq!(
        (result.backend, result.token),
        (BackendId::of("checked", "b1"), 41)
    );
    let ProbeOutcome::Good { took } = result.outcome else {
        panic!("{result:?}");
    };
    assert!(took < PATIENCE);
    let (mut stream, _) = listener.accept().await.unwrap();
    let end = stream.read(&mut [0]).await;
    assert_eq!(end.expect("no reset"), 0);
    assert_eq!(prober.dropped(), 0);
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused() {
    let (_held, address) = bound();
    let (sender, mut results) = mpsc::channel(1);
    Prober::start(plans("kind = \"tcp\""), sender, 1).probe(request(address, PATIENCE, 1));
    let result = next(&mut results).await;
    assert_eq!(result.outcome, bad(ConnectFailure::Refused));
}

#[tokio::test]
async fn at_most_limit_checks_at_once_and_each_within_its_time() {
    let (_held, address) = mute();
    let (sender, mut results) = mpsc::channel(8);
    let prober = Prober::start(plans("kind = \"tcp\""), sender, 2);
    let timeout = Duration::from_millis(100);
    let start = Instant::now();
    for token in 0..5 {
        prober.probe(request(address, timeout, token));
    }
    let mut tokens = vec![];
    for _ in 0..5 {
        let result = next(&mut results).await;
        assert_eq!(result.outcome, bad(ConnectFailure::Timeout));
        tokens.push(result.token);
    }
    assert!(start.elapsed() >= timeout * 3, "two, two, one");
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3, 4]);
    assert_eq!(prober.dropped(), 0);
}

#[tokio::test]
async fn what_does_not_fit_the_queue_is_dropped_and_counted() {
    let (_held, address) = bound();
    let (sender, mut results) = mpsc::channel(1);
    let prober = Prober::start(plans("kind = \"tcp\""), sender, 4);
    let sent = QUEUE as u64 + 7;
    for token in 0..sent {
        // The runtime has one thread, and this task does not yield: nothing is taken out.
        prober.probe(request(address, PATIENCE, token));
    }
    assert_eq!(prober.dropped(), 7);
    let mut answers = 0;
    while answers + prober.dropped() < sent {
        next(&mut results).await;
        answers += 1;
    }
    assert!(answers > 0);
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_dropped() {
    let (_held, address) = mute();
    let (sender, mut results) = mpsc::channel(1);
    let prober = Prober::start(plans("kind = \"tcp\""), sender, 1);
    let long = ANSWER_SLACK + Duration::from_millis(50);
    prober.probe(request(address, long, 1));
    prober.probe(request(address, PATIENCE, 2));
    assert_eq!(next(&mut results).await.token, 1);
    let dropped = async {
        while prober.dropped() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, dropped).await.unwrap();
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn the_prober_ends_with_whoever_wanted_results() {
    let (sender, results) = mpsc::channel(1);
    let prober = Prober::start(plans("kind = \"tcp\""), sender, 1);
    drop(results);
    tokio::time::timeout(PATIENCE, prober.waiting.closed())
        .await
        .unwrap();
    let (_held, address) = bound();
    prober.probe(request(address, PATIENCE, 1));
    assert_eq!(prober.dropped(), 1);
}

#[test]
fn errors_of_the_backend_are_told_from_those_of_this_host() {
    for (errno, expected) in [
        (Errno::ECONNREFUSED, Some(ConnectFailure::Refused)),
        (Errno::ETIMEDOUT, Some(ConnectFailure::Timeout)),
        (Errno::EHOSTUNREACH, Some(ConnectFailure::Unreachable)),
        (Errno::ENETUNREACH, Some(ConnectFailure::Unreachable)),
        (Errno::ECONNRESET, Some(ConnectFailure::Other)),
        (Errno::EACCES, Some(ConnectFailure::Other)),
        (Errno::EMFILE, None),
        (Errno::ENFILE, None),
        (Errno::ENOBUFS, None),
        (Errno::ENOMEM, None),
        (Errno::EADDRNOTAVAIL, None),
    ] {
        let error = io::Error::from_raw_os_error(errno as i32);
        assert_eq!(failure(&error), expected, "{errno}");
    }
}
