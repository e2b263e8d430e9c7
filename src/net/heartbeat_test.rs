//! Heartbeat sockets on loopback.

use super::*;

const PATH: PathId = PathId(3);
/// What the peer's heartbeats begin with, after the magic.
const US: [Knock; 2] = [Knock(*b"it is us"); 2];

/// Heartbeats on 127.0.0.1 towards a plain socket on 127.0.0.2 that is connected back.
fn pair() -> (Heartbeats, mpsc::Receiver<Arrival>, StdUdpSocket) {
    let peer = StdUdpSocket::bind("127.0.0.2:0").unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let remote = peer.local_addr().unwrap();
    let (beats, arrivals) = Heartbeats::open(&[(PATH, "127.0.0.1:0".parse().unwrap(), remote)], US);
    peer.connect(beats.local_addr(PATH).unwrap()).unwrap();
    (beats, arrivals, peer)
}

async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
    tokio::time::timeout(Duration::from_secs(5), arrivals.recv())
        .await
        .expect("an arrival in time")
        .expect("the receivers live")
}

#[tokio::test]
async fn datagrams_go_both_ways_and_the_first_one_goes_at_once() {
    let (beats, mut arrivals, peer) = pair();
    assert_eq!(
        beats.try_send(PATH, b"TDM2it is us there"),
        SendOutcome::Sent
    );
    let mut buffer = [0; 64];
    assert_eq!(peer.recv(&mut buffer).unwrap(), 18);
    peer.send(b"TDM2it is us back").unwrap();
    assert_eq!(
        next(&mut arrivals).await,
        Arrival::Datagram {
            path: PATH,
            bytes: b"TDM2it is us back".to_vec()
        }
    );
}

#[tokio::test]
async fn a_stranger_is_not_heard() {
    let (beats, mut arrivals, peer) = pair();
    let stranger = StdUdpSocket::bind("127.0.0.3:0").unwrap();
    let here = beats.local_addr(PATH).unwrap();
    stranger.send_to(b"TDM2it is us stranger", here).unwrap();
    let other_port = StdUdpSocket::bind("127.0.0.2:0").unwrap();
    other_port
        .send_to(b"TDM2it is us other port", here)
        .unwrap();
    peer.send(b"TDM2it is us peer").unwrap();
    assert_eq!(
        next(&mut arrivals).await,
        Arrival::Datagram {
            path: PATH,
            bytes: b"TDM2it is us peer".to_vec()
        }
    );
    assert!(arrivals.try_recv().is_err());
}

#[tokio::test]
async fn garbage_under_the_peers_address_is_dropped_by_the_kernel_and_counted() {
    let (beats, mut arrivals, peer) = pair();
    let garbage = [
        &b""[..],
        b"TDM",
        b"TDM2it is u",
        b"TDM1it is us of another version",
        b"\0\0\0\0it is us",
    ];
    for garbage in garbage {
        peer.send(garbage).unwrap();
    }
    peer.send(b"TDM2it is us").unwrap();
    assert_eq!(
        next(&mut arrivals).await,
        Arrival::Datagram {
            path: PATH,
            bytes: b"TDM2it is us".to_vec()
        }
    );
    assert_eq!(beats.unread(), 5);
}

#[tokio::test]
async fn few_of_those_with_another_knock_come_in_and_everyone_with_the_right_one() {
    const ROUNDS: u32 = 100;
    const EACH: u32 = 32;
    let (beats, mut arrivals, peer) = pair();
    // The knocks differ in their first word, in their second, in both.
    let others = [&b"TDM2It is us"[..], b"TDM2it is uS", b"TDM2somebody"];
    let mut strangers = [0_u32; 3];
    for round in 0..ROUNDS {
        for n in 0..EACH * 3 {
            peer.send(others[(n % 3) as usize]).unwrap();
        }
        let right = [b"TDM2it is us", &round.to_be_bytes()[..]].concat();
        peer.send(&right).unwrap();
        loop {
            let Arrival::Datagram { bytes, .. } = next(&mut arrivals).await else {
                panic!("a datagram");
            };
            if bytes == right {
                break;
            }
            let which = others.iter().position(|other| *other == bytes);
            strangers[which.expect("one of those that were sent")] += 1;
        }
    }
    // 3,200 of each, one in 32 by lot: 100, with a standard deviation of 10.
    for count in strangers {
        assert!((40..=160).contains(&count), "{strangers:?}");
    }
    let sent = u64::from(ROUNDS * EACH * 3);
    assert_eq!(
        beats.unread(),
        sent - u64::from(strangers.iter().sum::<u32>())
    );
}

#[tokio::test]
async fn another_knock_is_let_in_from_the_moment_that_it_is_said() {
    let (beats, mut arrivals, peer) = pair();
    let heartbeat = |knock: &[u8; 8], n: u8| [b"TDM2", &knock[..], &[n]].concat();
    let (old, new) = (b"it is us", b"it is we");
    let steps = [
        ([*old, *new], old),
        ([*new, *old], old),
        ([*new, *old], new),
        ([*new; 2], new),
    ];
    for (n, (knocks, knock)) in (0..).zip(steps) {
        beats.rekey(knocks.map(Knock));
        for _ in 0..100 {
            peer.send(&heartbeat(knock, n)).unwrap();
            let Arrival::Datagram { bytes, .. } = next(&mut arrivals).await else {
                panic!("a datagram");
            };
            assert_eq!(bytes, heartbeat(knock, n));
        }
    }
    assert_eq!(beats.unread(), 0);
    // What is not let in any more is a stranger's.
    for _ in 0..320 {
        peer.send(&heartbeat(old, 9)).unwrap();
    }
    assert!(beats.unread() > 200);
}

#[tokio::test]
async fn a_closed_port_is_reported_by_the_receiver() {
    let (beats, mut arrivals, peer) = pair();
    drop(peer);
    assert_eq!(
        beats.try_send(PATH, b"TDM2it is us anyone?"),
        SendOutcome::Sent
    );
    assert_eq!(
        next(&mut arrivals).await,
        Arrival::PortClosed { path: PATH }
    );
}

#[tokio::test]
async fn a_closed_port_is_reported_by_the_next_send_if_that_comes_first() {
    let (beats, _arrivals, peer) = pair();
    drop(peer);
    // No await in between: the receiver has no chance to take the error.
    assert_eq!(
        beats.try_send(PATH, b"TDM2it is us anyone?"),
        SendOutcome::Sent
    );
    assert_eq!(
        beats.try_send(PATH, b"TDM2it is us anyone?"),
        SendOutcome::PortClosed
    );
}

#[tokio::test]
async fn an_oversized_datagram_arrives_one_byte_too_long() {
    let (_beats, mut arrivals, peer) = pair();
    let mut long = [0; 2_000];
    long[..12].copy_from_slice(b"TDM2it is us");
    peer.send(&long).unwrap();
    let Arrival::Datagram { bytes, .. } = next(&mut arrivals).await else {
        panic!("a datagram");
    };
    assert_eq!(bytes.len(), MAX_DATAGRAM + 1);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let (beats, mut arrivals, peer) = pair();
    let mut sent = 0;
    while beats.overflows() == 0 && sent < 20 * ARRIVALS {
        for _ in 0..50 {
            peer.send(b"TDM2it is us flood").unwrap();
        }
        sent += 50;
        tokio::task::yield_now().await;
    }
    assert!(beats.overflows() > 0);
    let mut queued = 0;
    while arrivals.try_recv().is_ok() {
        queued += 1;
    }
    assert_eq!(queued, ARRIVALS);
}

#[tokio::test]
async fn a_path_whose_address_is_taken_opens_later() {
    let peer = StdUdpSocket::bind("127.0.0.2:0").unwrap();
    let blocker = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    let local = blocker.local_addr().unwrap();
    let (beats, mut arrivals) = Heartbeats::open(&[(PATH, local, peer.local_addr().unwrap())], US);
    assert_eq!(
        beats.try_send(PATH, b"TDM2it is us early"),
        SendOutcome::Dropped
    );
    assert_eq!(beats.try_send(PathId(9), b"no path"), SendOutcome::Dropped);
    drop(blocker);
    tokio::time::sleep(REOPEN + Duration::from_millis(300)).await;
    peer.send_to(b"TDM2it is us now", local).unwrap();
    assert_eq!(
        next(&mut arrivals).await,
        Arrival::Datagram {
            path: PATH,
            bytes: b"TDM2it is us now".to_vec()
        }
    );
    assert_eq!(beats.try_send(PATH, b"TDM2it is us now"), SendOutcome::Sent);
}

#[tokio::test]
async fn an_address_that_the_host_does_not_have_is_no_end() {
    let (beats, _arrivals) = Heartbeats::open(
        &[(
            PATH,
            "192.0.2.1:7373".parse().unwrap(),
            "192.0.2.2:7373".parse().unwrap(),
        )],
        US,
    );
    assert_eq!(beats.try_send(PATH, b"x"), SendOutcome::Dropped);
    assert_eq!(beats.local_addr(PATH), None);
}

#[tokio::test]
async fn the_socket_is_marked_and_lies_above_ordinary_descriptors() {
    let (beats, _arrivals, peer) = pair();
    let socket = beats.sockets[&PATH].get().unwrap();
    assert_eq!(SockRef::from(socket).tos_v4().unwrap(), CS6);
    assert_eq!(SockRef::from(socket).priority().unwrap(), QUEUE_PRIORITY);
    assert!(socket.as_raw_fd() > peer.as_raw_fd() + 100);
    let flags = nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}
