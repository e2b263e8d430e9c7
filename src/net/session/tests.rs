//! Sessions on loopback. Each test has addresses of its own, so that they can run side by side.

use std::net::{IpAddr, Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::atomic::AtomicU8;

use socket2::{Domain, Socket, Type};

mod hostile;

use super::*;
use crate::model::{BackendId, ConfigHash, Epoch, Incarnation};
use crate::node::SESSION_CREDIT;
use crate::wire::replication::{HealthRecord, Item, MAX_BATCH, PROTOCOL, Position};

/// Longer than any of these should ever take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where one test's nodes are: 127.x.y.1 and 127.x.y.2.
#[derive(Clone, Copy)]
struct Place {
    net: [u8; 2],
    port: u16,
}

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let net = [
            1 + (std::process::id() % 250) as u8,
            NEXT.fetch_add(1, Ordering::Relaxed),
        ];
        let mut place = Self { net, port: 0 };
        let probe = StdListener::bind(place.at(2)).unwrap();
        place.port = probe.local_addr().unwrap().port();
        place
    }

    fn at(self, host: u8) -> SocketAddr {
        let ip = Ipv4Addr::new(127, self.net[0], self.net[1], host);
        SocketAddr::new(ip.into(), self.port)
    }

    fn settings(self, me: NodeId) -> Settings {
        let paths = match me {
            NodeId::First => vec![(self.at(1), self.at(2))],
            NodeId::Second => vec![(self.at(2), self.at(1))],
        };
        Settings {
            me,
            paths,
            cluster: "pair".into(),
            secret: Secret([7; 32]),
            hello: hello(me),
        }
    }

    fn start(self, me: NodeId) -> End {
        End::start(self.settings(me), 1_024)
    }

    /// Both nodes, with a session between them.
    async fn pair(self) -> (End, End) {
        let mut second = self.start(NodeId::Second);
        let mut first = self.start(NodeId::First);
        assert_eq!(first.next().await, SessionEvent::Up(hello(NodeId::Second)));
        assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
        (first, second)
    }

    /// A connection to the second node from this host of the net.
    fn connect_from(self, host: u8) -> StdStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let mut local = self.at(host);
        local.set_port(0);
        socket.bind(&local.into()).unwrap();
        socket.connect(&self.at(2).into()).unwrap();
        let stream = StdStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The peer's own handshake, without the rest of its session.
    async fn impostor(self) -> Established {
        let settings = self.settings(NodeId::First);
        let keys = Keys::new(&settings.secret, &settings.cluster, settings.hello);
        let stream = self.connect_from(1);
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        stream::as_dialler(stream, self.at(2), &keys).await.unwrap()
    }
}

/// One node's session.
struct End {
    session: Session,
    events: mpsc::Receiver<SessionEvent>,
}

impl End {
    fn start(settings: Settings, room: usize) -> Self {
        let (sender, events) = mpsc::channel(room);
        let session = Session::start(settings, sender);
        Self { session, events }
    }

    async fn next(&mut self) -> SessionEvent {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the session lives")
    }

    /// The next event that is not `Sent`.
    async fn heard(&mut self) -> SessionEvent {
        loop {
            match self.next().await {
                SessionEvent::Sent { .. } => {}
                event => return event,
            }
        }
    }

    async fn closed(&mut self) -> (bool, String) {
        match self.heard().await {
            SessionEvent::Closed { fault, reason } => (fault, reason),
            other => panic!("{other:?} instead of Closed"),
        }
    }

    async fn faults(&self, at_least: u64) {
        tokio::time::timeout(PATIENCE, async {
            while self.session.faults() < at_least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("faults are counted");
    }
}

/// Lets the tasks that have just been started come to their first wait: the listener is open.
async fn settled() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

fn hello(node: NodeId) -> Hello {
    Hello {
        protocol: PROTOCOL,
        node,
        incarnation: Incarnation(node.index() as u128 + 100),
        config_hash: ConfigHash(5),
    }
}

fn ack(sequence: u64) -> Frame {
    Frame::Ack(Position {
        epoch: Epoch(1),
        sequence,
    })
}

/// A frame with so many items of about 28 bytes.
fn chunk(number: u32, items: usize) -> Frame {
    let item = |n| Item::Health {
        backend: BackendId(number),
        record: HealthRecord {
            up: true,
            streak: 0,
            good: u64::MAX - n,
            bad: u64::MAX,
        },
    };
    Frame::SnapshotChunk((0..items as u64).map(item).collect())
}

#[tokio::test]
async fn frames_go_both_ways_in_order_and_are_accounted_for() {
    let (mut first, mut second) = Place::new().pair().await;
    for n in 0..200 {
        assert!(first.session.send(ack(n)));
        assert!(second.session.send(ack(1_000 + n)));
    }
    for (end, base) in [(&mut first, 1_000), (&mut second, 0)] {
        let (mut received, mut written) = (0, 0);
        while received < 200 || written + u64::from(SESSION_CREDIT) <= 200 {
            match end.next().await {
                SessionEvent::Frame(frame) => {
                    assert_eq!(frame, ack(base + received));
                    received += 1;
                }
                SessionEvent::Sent { frames } => written += u64::from(frames),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(received, 200);
        assert!(written <= 200, "{written}");
        assert_eq!(end.session.faults(), 0);
    }
}

#[tokio::test]
async fn a_snapshot_passes_whole() {
    let (mut first, mut second) = Place::new().pair().await;
    let chunks = 30;
    for n in 0..chunks {
        assert!(first.session.send(chunk(n, MAX_BATCH)));
    }
    for n in 0..chunks {
        // Without printing it all.
        assert!(second.heard().await == SessionEvent::Frame(chunk(n, MAX_BATCH)));
    }
    let mut written = 0;
    while written + SESSION_CREDIT <= chunks {
        let SessionEvent::Sent { frames } = first.next().await else {
            panic!("only Sent");
        };
        assert!(frames >= SESSION_CREDIT);
        written += frames;
    }
    assert!(written <= chunks, "{written}");
}

/// Both ends are tasks of the turn loop's thread: a turn waits for what they do in one go.
#[tokio::test]
async fn a_snapshot_leaves_the_thread_between_its_frames() {
    let (mut first, mut second) = Place::new().pair().await;
    let chunks = 100;
    for n in 0..chunks {
        assert!(first.session.send(chunk(n, MAX_BATCH)));
    }
    let (mut written, mut read) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while written + SESSION_CREDIT <= chunks || read < chunks {
        assert!(Instant::now() < deadline, "{written} written, {read} read");
        tokio::task::yield_now().await;
        let (mut writes, mut reads) = (0, 0);
        while let Ok(event) = first.events.try_recv() {
            let SessionEvent::Sent { frames } = event else {
                panic!("only Sent");
            };
            (written, writes) = (written + frames, writes + 1);
        }
        while let Ok(event) = second.events.try_recv() {
            assert!(matches!(event, SessionEvent::Frame(_)));
            (read, reads) = (read + 1, reads + 1);
        }
        assert!(writes <= 1 && reads <= 1, "{writes} writes, {reads} frames");
    }
    for end in [first, second] {
        assert!(end.session.busy() > Duration::ZERO);
        let (sent, received) = end.session.bytes();
        assert!(sent + received > 0);
    }
}

#[tokio::test]
async fn a_newer_session_replaces_an_older_one() {
    let place = Place::new();
    let (_first, mut second) = place.pair().await;
    let mut restarted = place.settings(NodeId::First);
    restarted.hello.incarnation = Incarnation(999);
    let newer = restarted.hello.clone();
    let _newer = End::start(restarted, 16);
    let (fault, reason) = second.closed().await;
    assert!(!fault && reason.contains("newer"), "{reason}");
    assert_eq!(second.heard().await, SessionEvent::Up(newer));
}

#[tokio::test]
async fn the_end_of_the_peer_is_seen_at_once_and_it_may_come_back() {
    let place = Place::new();
    for leaver in NodeId::BOTH {
        let (first, second) = place.pair().await;
        let (gone, mut stays) = match leaver {
            NodeId::First => (first, second),
            NodeId::Second => (second, first),
        };
        let at = Instant::now();
        drop(gone);
        assert!(!stays.closed().await.0);
        assert!(at.elapsed() < Duration::from_secs(1), "{:?}", at.elapsed());
        assert!(!stays.session.send(ack(1)));
        let mut back = place.start(leaver);
        assert_eq!(stays.heard().await, SessionEvent::Up(hello(leaver)));
        assert_eq!(back.heard().await, SessionEvent::Up(hello(leaver.peer())));
        drop((stays, back));
    }
}

#[tokio::test]
async fn close_ends_the_session_and_a_new_one_is_dialled() {
    let (mut first, mut second) = Place::new().pair().await;
    for closer in NodeId::BOTH {
        let (here, there) = match closer {
            NodeId::First => (&mut first, &mut second),
            NodeId::Second => (&mut second, &mut first),
        };
        here.session.close("the log is full");
        assert!(!here.session.send(ack(1)), "the queue closes at once");
        let (fault, reason) = here.closed().await;
        assert!(!fault && reason.contains("the log is full"), "{reason}");
        assert!(!there.closed().await.0);
        assert_eq!(here.heard().await, SessionEvent::Up(hello(closer.peer())));
        assert_eq!(there.heard().await, SessionEvent::Up(hello(closer)));
    }
    assert_eq!((first.session.faults(), second.session.faults()), (0, 0));
}

#[tokio::test]
async fn a_receiver_that_does_not_take_stops_the_sender_and_loses_nothing() {
    let place = Place::new();
    // A listener with little room in its kernel.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.bind(&place.at(2).into()).unwrap();
    socket.listen(1).unwrap();
    let mut first = place.start(NodeId::First);
    let accepted = tokio::task::spawn_blocking(move || socket.accept().unwrap().0);
    let stream = StdStream::from(accepted.await.unwrap());
    stream.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let settings = place.settings(NodeId::Second);
    let keys = Keys::new(&settings.secret, &settings.cluster, settings.hello);
    let mut second = stream::as_listener(stream, place.at(1), std::slice::from_ref(&keys))
        .await
        .unwrap();
    assert_eq!(first.next().await, SessionEvent::Up(hello(NodeId::Second)));
    let (events, mut taken) = mpsc::channel(4);
    let (_frames, outgoing) = mpsc::channel(1);
    tokio::spawn(async move {
        let load = stream::Load::default();
        second.run(outgoing, &events, &load).await
    });

    let (mut sent, mut refused) = (0, 0);
    while refused < 20 {
        if first.session.send(chunk(sent, 32)) {
            (sent, refused) = (sent + 1, 0);
        } else {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(sent > SESSION_QUEUE);
    for n in 0..sent {
        let event = taken.recv().await.expect("the session stands");
        assert!(event == SessionEvent::Frame(chunk(n, 32)), "not {n}");
    }
    let mut written = 0;
    while written + SESSION_CREDIT <= sent {
        match first.next().await {
            SessionEvent::Sent { frames } => written += frames,
            other => panic!("{other:?}"),
        }
    }
    assert!(written <= sent, "{written}");
}

#[tokio::test]
async fn the_next_session_waits_until_the_end_of_the_last_was_taken() {
    let place = Place::new();
    let (first, mut second) = place.pair().await;
    drop(first);
    let mut back = place.start(NodeId::First);
    assert_eq!(back.next().await, SessionEvent::Up(hello(NodeId::Second)));
    // The peer is there, but here nobody has heard of the end yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!second.session.send(ack(1)), "meant for the old session");
    assert!(!second.closed().await.0);
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
    assert!(second.session.send(ack(2)));
    assert_eq!(back.heard().await, SessionEvent::Frame(ack(2)));
}

#[tokio::test]
async fn the_next_path_is_taken_when_the_first_one_refuses() {
    let place = Place::new();
    let mut settings = place.settings(NodeId::First);
    // Nobody listens on host 9, and this host has no address in 192.0.2.0/24.
    let elsewhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), place.port);
    settings.paths = vec![
        (place.at(8), place.at(9)),
        (elsewhere, place.at(2)),
        (place.at(1), place.at(2)),
    ];
    let mut second = place.start(NodeId::Second);
    let mut first = End::start(settings, 16);
    assert_eq!(first.next().await, SessionEvent::Up(hello(NodeId::Second)));
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
}

#[tokio::test]
async fn an_address_that_is_taken_is_listened_on_later() {
    let place = Place::new();
    let blocker = StdListener::bind(place.at(2)).unwrap();
    let mut second = place.start(NodeId::Second);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(blocker);
    let mut first = place.start(NodeId::First);
    assert_eq!(first.next().await, SessionEvent::Up(hello(NodeId::Second)));
    assert_eq!(second.next().await, SessionEvent::Up(hello(NodeId::First)));
}

#[tokio::test]
async fn sockets_are_tuned_and_lie_above_ordinary_descriptors() {
    use std::os::fd::AsRawFd;
    let place = Place::new();
    let second = place.start(NodeId::Second);
    settled().await;
    let mut impostor = place.impostor().await;
    let (stream, _) = impostor.parts();
    let ordinary = StdListener::bind("127.0.0.1:0").unwrap();
    assert!(stream.as_raw_fd() > ordinary.as_raw_fd() + 100);
    tune(stream).unwrap();
    let socket = SockRef::from(&*stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
    // The kernel doubles it (socket(7)).
    assert_eq!(socket.recv_buffer_size().unwrap(), 2 * UNREAD);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(CUT_AFTER));
    drop(second);
}
