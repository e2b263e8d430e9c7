//! Peers with a wrong key, strangers, garbage, and peers that break the rules.

use std::io::{Read, Write};

use tokio::io::AsyncWriteExt;

use super::*;

#[tokio::test]
async fn another_key_or_cluster_never_comes_up_and_is_a_fault() {
    let (key, cluster) = (Place::new(), Place::new());
    let other_key = Settings {
        secret: Secret([8; 32]),
        ..key.settings(NodeId::First)
    };
    let other_cluster = Settings {
        cluster: "pairs".into(),
        ..cluster.settings(NodeId::First)
    };
    for (place, settings) in [(key, other_key), (cluster, other_cluster)] {
        let mut second = place.start(NodeId::Second);
        let mut first = End::start(settings, 16);
        second.faults(2).await;
        assert!(second.events.try_recv().is_err());
        assert!(first.events.try_recv().is_err());
        assert!(!first.session.send(ack(1)));
    }
}

#[tokio::test]
async fn a_hello_of_another_node_or_version_is_a_fault() {
    for (node, protocol) in [(NodeId::Second, PROTOCOL), (NodeId::First, PROTOCOL + 1)] {
        let place = Place::new();
        let mut second = place.start(NodeId::Second);
        settled().await;
        let settings = Settings {
            hello: Hello {
                node,
                protocol,
                ..hello(NodeId::First)
            },
            ..place.settings(NodeId::First)
        };
        let keys = Keys::new(&settings.secret, &settings.cluster, settings.hello);
        let stream = place.connect_from(1);
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let dialled = stream::as_dialler(stream, place.at(2), &keys).await;
        assert!(matches!(dialled, Err(SessionError::EndedEarly)));
        second.faults(1).await;
        assert!(second.events.try_recv().is_err());
    }
}

#[tokio::test]
async fn garbage_does_not_touch_the_standing_session() {
    let place = Place::new();
    let (mut first, mut second) = place.pair().await;
    let flood = tokio::task::spawn_blocking(move || {
        let mut random = fastrand::Rng::with_seed(1);
        let mut wrong = 0;
        for n in 0..2_000 {
            let mut stream = place.connect_from(1);
            let mut garbage = [0; 60];
            random.fill(&mut garbage);
            let cryptic = n % 2 == 0;
            if cryptic {
                // A length that lets it get as far as the cryptography.
                garbage[..2].copy_from_slice(&48_u16.to_le_bytes());
            }
            let said = &garbage[..n % 60];
            stream.write_all(said).unwrap();
            if said.len() >= if cryptic { 50 } else { 2 } {
                wrong += 1;
                assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "closed");
            }
        }
        wrong
    });
    let mut sent = 0;
    while !flood.is_finished() {
        assert!(first.session.send(ack(sent)));
        assert_eq!(second.heard().await, SessionEvent::Frame(ack(sent)));
        sent += 1;
        if sent % u64::from(SESSION_CREDIT) == 0 {
            let frames = SESSION_CREDIT;
            assert_eq!(first.next().await, SessionEvent::Sent { frames });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let wrong = flood.await.unwrap();
    assert!(sent > 0 && wrong > 1_000);
    second.faults(wrong).await;
}

#[tokio::test]
async fn a_recorded_first_message_does_not_touch_the_standing_session() {
    let place = Place::new();
    let (first, mut second) = place.pair().await;
    let settings = place.settings(NodeId::First);
    let keys = Keys::new(&settings.secret, &settings.cluster, settings.hello);
    let mut message = 48_u16.to_le_bytes().to_vec();
    message.extend(noise::write(&mut keys.dialler()));
    let answered = tokio::task::spawn_blocking(move || {
        let mut stream = place.connect_from(1);
        stream.write_all(&message).unwrap();
        let mut answer = [0; 50];
        stream.read_exact(&mut answer).unwrap();
        // Whoever only recorded cannot go on from here.
        stream.write_all(&[40, 0]).unwrap();
        stream.write_all(&[0; 40]).unwrap();
        stream.read(&mut answer).unwrap_or(0)
    });
    assert_eq!(answered.await.unwrap(), 0, "closed without a Hello");
    second.faults(1).await;
    assert!(first.session.send(ack(1)));
    assert_eq!(second.heard().await, SessionEvent::Frame(ack(1)));
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let place = Place::new();
    let mut second = place.start(NodeId::Second);
    settled().await;
    let silent: Vec<_> = (0..10).map(|_| place.connect_from(1)).collect();
    let mut first = place.start(NodeId::First);
    assert_eq!(first.next().await, SessionEvent::Up(hello(NodeId::Second)));
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
    second.faults(silent.len() as u64 - HANDSHAKES as u64).await;
}

#[tokio::test]
async fn a_stranger_is_closed_at_once_and_counted() {
    let place = Place::new();
    let second = place.start(NodeId::Second);
    settled().await;
    let closed = tokio::task::spawn_blocking(move || {
        let mut stream = place.connect_from(77);
        stream.read(&mut [0; 8]).unwrap_or(0)
    });
    assert_eq!(closed.await.unwrap(), 0);
    second.faults(1).await;
}

#[tokio::test]
async fn garbage_of_the_peer_is_a_fault() {
    let place = Place::new();
    let mut second = place.start(NodeId::Second);
    settled().await;
    let mut impostor = place.impostor().await;
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
    let (stream, _) = impostor.parts();
    stream.write_all(&[20, 0]).await.unwrap();
    stream.write_all(&[0; 20]).await.unwrap();
    let (fault, reason) = second.closed().await;
    assert!(fault && reason.contains("does not open"), "{reason}");
    assert_eq!(second.session.faults(), 1);
}

#[tokio::test]
async fn the_last_words_of_a_peer_that_breaks_off_are_heard() {
    let place = Place::new();
    let mut second = place.start(NodeId::Second);
    settled().await;
    let mut impostor = place.impostor().await;
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
    let (stream, cipher) = impostor.parts();
    let (mut contents, mut wire) = (Vec::new(), Vec::new());
    framing::put(&ack(7), &mut contents).unwrap();
    framing::seal(cipher, &contents, &mut wire).unwrap();
    stream.write_all(&wire).await.unwrap();
    SockRef::from(&*stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    // A reset, while this side writes.
    drop(impostor);
    assert!(second.session.send(ack(1)));
    assert_eq!(second.heard().await, SessionEvent::Frame(ack(7)));
    assert!(!second.closed().await.0);
}
