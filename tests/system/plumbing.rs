//! The lab itself: what it claims to do to a network, it does; what it claims to see, is there.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tandem::lab::{
    Failure, Host, Lab, LabConfig, LabError, Lan, Load, Network, Server, VIP4, VIP6, Watch,
    backend_address, node_addresses, node_mac, pattern, pattern_checksum,
};
use tandem::model::NodeId;
use tandem::net::clock::Clock;
use tandem::time::Mono;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::http::{get, talk};
use super::{Test, test};

const FIRST: NodeId = NodeId::First;
const SECOND: NodeId = NodeId::Second;
/// Long enough for a packet to cross the switch on a busy machine.
const CROSSING: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("lab_wires_both_lans_and_keeps_them_apart", wiring),
        test(
            "lab_backend_serves_every_mode_through_the_network",
            backend_modes,
        ),
        test(
            "lab_prober_measures_an_outage_of_known_length",
            known_outage,
        ),
        test("lab_watch_sees_every_owner_of_the_vip", owners),
        test("lab_cut_loses_one_direction_and_nothing_else", one_way_cut),
        test(
            "lab_detached_port_is_silent_and_keeps_its_carrier",
            detached_port,
        ),
        test("lab_says_why_a_node_ended", node_ends),
    ]
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

async fn wiring() -> Result<(), LabError> {
    let network = Network::build().await?;
    let b1 = Server::start(&network.backends[0], "b1", at(backend_address(0), 80)).await?;
    for node in NodeId::BOTH {
        let answer = get(network.node(node), at(backend_address(0), 80), "/").await;
        assert_eq!(answer.unwrap(), b"b1\n");
    }
    let crossed = get(&network.client, at(backend_address(0), 80), "/").await;
    let kind = crossed.unwrap_err().kind();
    assert_eq!(
        kind,
        ErrorKind::NetworkUnreachable,
        "front does not reach back"
    );
    assert_eq!(b1.served(), 2);
    Ok(())
}

async fn backend_modes() -> Result<(), LabError> {
    let network = Network::build().await?;
    let address = at(backend_address(1), 80);
    let mut server = Server::start(&network.backends[1], "b2", address).await?;
    let node = network.node(FIRST);
    let length = 300_000;
    let body: Vec<u8> = (0..length).map(pattern).collect();
    assert!(get(node, address, "/bytes/300000").await.unwrap() == body);
    assert_eq!(get(node, address, "/slow/20").await.unwrap(), b"b2\n");

    let head =
        format!("POST /sink HTTP/1.1\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let sunk = talk(node, address, [head.into_bytes(), body].concat(), false).await;
    let expected = format!("{length} {:016x}\n", pattern_checksum(length));
    assert_eq!(sunk.unwrap(), expected.as_bytes());

    let echo = [&b"GET /echo HTTP/1.1\r\n\r\n"[..], &[7; 10_000]].concat();
    let echoed = talk(node, address, echo, true).await;
    assert!(
        echoed.unwrap() == [7; 10_000],
        "all bytes came back after the half-close"
    );

    let twice = b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n";
    let kept = talk(node, address, twice.to_vec(), false).await.unwrap();
    assert!(kept.starts_with(b"b2\n") && kept.ends_with(b"b2\n") && kept.len() > 6);

    server.stop().await;
    let refused = get(node, address, "/").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    server.resume(&network.backends[1]).await?;
    assert_eq!(get(node, address, "/").await.unwrap(), b"b2\n");
    Ok(())
}

async fn known_outage() -> Result<(), LabError> {
    let network = Network::build().await?;
    let host = network.node(FIRST);
    network.hold(host, VIP4.into()).await?;
    let mut server = Server::start(host, "alone", at(VIP4, 80)).await?;
    let clock = Clock::start();
    let load = Load::start(&network.client, at(VIP4, 80), clock);
    sleep(Duration::from_millis(200)).await;
    let before = clock.now();
    server.stop().await;
    sleep(Duration::from_millis(300)).await;
    server.resume(host).await?;
    let after = clock.now();
    sleep(Duration::from_millis(200)).await;
    let record = load.stop().await;

    let (began, outage) = record.outage(Mono::ZERO).expect("there were answers");
    let known = after.since(before);
    assert!(outage >= Duration::from_millis(300), "{outage:?}");
    assert!(
        outage < known + record.stalled + CROSSING,
        "{outage:?} of {known:?}"
    );
    assert!(began <= after, "the longest gap is the one that was made");
    assert!(
        record.failures().contains_key(&Failure::Refused),
        "{:?}",
        record.failures()
    );
    assert!(record.answers()["alone"] > 20, "{:?}", record.answers());
    Ok(())
}

async fn owners() -> Result<(), LabError> {
    let network = Network::build().await?;
    let clock = Clock::start();
    for vip in [VIP4.into(), VIP6.into()] {
        network.hold(network.node(FIRST), vip).await?;
    }
    let watch = Watch::start(&network.watch, clock).await?;
    sleep(Duration::from_millis(300)).await;
    let one = clock.now();
    for vip in [VIP4.into(), VIP6.into()] {
        network.hold(network.node(SECOND), vip).await?;
    }
    sleep(Duration::from_millis(300)).await;
    let two = clock.now();
    network.detach(network.node(FIRST), Lan::Front).await?;
    let gone = clock.now();
    sleep(Duration::from_millis(300)).await;
    let seen = watch.stop();

    let answers = |from, until| {
        let inside = seen
            .0
            .iter()
            .filter(move |s| s.asked && from <= s.at && s.at < until);
        let mut answers: Vec<_> = inside.map(|s| (s.family, s.owner)).collect();
        answers.sort_unstable();
        answers.dedup();
        answers.len()
    };
    let start = Mono::ZERO;
    assert_eq!(seen.owners_max(start, one), 1);
    assert_eq!(answers(start, one), 2, "one owner in each family");
    assert_eq!(seen.owners_max(one, two), 2);
    assert_eq!(answers(one, two), 4, "two owners in each family");
    let last = seen.last_of(node_mac(FIRST)).expect("it answered");
    assert!(
        last.since(gone) < CROSSING,
        "no answer from a host that is cut off"
    );
    assert!(seen.last_of(node_mac(SECOND)).expect("it answered") > last);
    Ok(())
}

async fn one_way_cut() -> Result<(), LabError> {
    let network = Network::build().await?;
    let [first, second] = [network.node(FIRST), network.node(SECOND)];
    // A session that is open before the cut: the kernel keeps a route for it.
    let (mut near, mut far) = pair(&network).await;
    near.write_all(b"x").await.unwrap();
    assert!(arrives(&mut far).await, "before the cut");
    let server = Server::start(second, "lb2", at(node_addresses(SECOND)[0], 80)).await?;
    let vip_server = {
        network.hold(second, VIP4.into()).await?;
        Server::start(second, "vip", at(VIP4, 80)).await?
    };

    network.cut(SECOND).await?;
    for path in 0..2 {
        let [a, b] = NodeId::BOTH.map(|node| node_addresses(node)[path]);
        assert!(!datagram(first, a, second, b).await, "path {path} is cut");
        assert!(
            datagram(second, b, first, a).await,
            "path {path} back is not"
        );
    }
    near.write_all(b"x").await.unwrap();
    assert!(!arrives(&mut far).await, "the open session is cut");
    let page = get(&network.client, at(node_addresses(SECOND)[0], 80), "/").await;
    assert_eq!(page.unwrap(), b"lb2\n", "a client's way is not cut");
    let page = get(&network.client, at(VIP4, 80), "/").await;
    assert_eq!(page.unwrap(), b"vip\n", "nor is the VIP's");

    network.heal(SECOND).await?;
    let [a, b] = NodeId::BOTH.map(|node| node_addresses(node)[1]);
    assert!(datagram(first, a, second, b).await, "healed");
    let heard = timeout(Duration::from_secs(5), async {
        while !arrives(&mut far).await {}
    });
    assert!(heard.await.is_ok(), "what the session lost is sent again");
    assert_eq!((server.served(), vip_server.served()), (1, 1));
    // A second cut finds the rules as the first one did.
    network.cut(SECOND).await?;
    assert!(!datagram(first, a, second, b).await, "cut again");
    network.heal(SECOND).await
}

async fn detached_port() -> Result<(), LabError> {
    let network = Network::build().await?;
    let [a, b] = NodeId::BOTH.map(|node| node_addresses(node)[0]);
    let [first, second] = [network.node(FIRST), network.node(SECOND)];
    assert!(crosses(first, a, second, b).await);
    network.detach(first, Lan::Front).await?;
    assert!(!datagram(first, a, second, b).await, "detached");
    assert!(network.has_carrier(first).await?);
    network.attach(first, Lan::Front).await?;
    assert!(crosses(first, a, second, b).await, "attached");
    network.set_carrier(first, Lan::Front, false).await?;
    assert!(!network.has_carrier(first).await?);
    network.set_carrier(first, Lan::Front, true).await?;
    assert!(network.has_carrier(first).await?);
    Ok(())
}

async fn node_ends() -> Result<(), LabError> {
    let mut lab = Lab::build(&LabConfig::new("/bin/false")).await?;
    lab.start().await?;
    let error = lab.settled().await.unwrap_err().to_string();
    // Both do; whichever is seen first.
    let (node, why) = error.split_at(3);
    assert!(["lb1", "lb2"].contains(&node), "{error}");
    let wanted = " ended by itself (exit status: 1)";
    assert!(why.starts_with(wanted), "{error}");

    let lab = Lab::build(&LabConfig::new("/nonexistent/tandem")).await;
    let error = lab?.start().await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot start /nonexistent/tandem as lb1"),
        "{error}"
    );
    Ok(())
}

/// A connection from the first to the second node on the back LAN.
async fn pair(network: &Network) -> (TcpStream, TcpStream) {
    let address = at(node_addresses(SECOND)[1], 7000);
    let listener = network
        .node(SECOND)
        .run(async move { tokio::net::TcpListener::bind(address).await.unwrap() });
    let listener = listener.await;
    let near = network
        .node(FIRST)
        .run(async move { TcpStream::connect(address).await.unwrap() });
    let near = near.await;
    let far = network
        .node(SECOND)
        .run(async move { listener.accept().await.unwrap().0 });
    (near, far.await)
}

async fn arrives(stream: &mut TcpStream) -> bool {
    timeout(CROSSING, stream.read_u8()).await.is_ok()
}

/// Whether one of a few datagrams crosses: the kernel may take a second to see that a port is up.
async fn crosses(from: &Host, a: Ipv4Addr, to: &Host, b: Ipv4Addr) -> bool {
    for _ in 0..6 {
        if datagram(from, a, to, b).await {
            return true;
        }
    }
    false
}

/// Whether a datagram crosses. A socket of its own each time, so that nothing is left over.
async fn datagram(from: &Host, a: Ipv4Addr, to: &Host, b: Ipv4Addr) -> bool {
    let receiver = to
        .run(async move { UdpSocket::bind((b, 0)).await.unwrap() })
        .await;
    let target = receiver.local_addr().unwrap();
    from.run(async move {
        let socket = UdpSocket::bind((a, 0)).await.unwrap();
        socket.send_to(b"x", target).await.unwrap();
    })
    .await;
    to.run(async move { timeout(CROSSING, receiver.recv(&mut [0; 8])).await.is_ok() })
        .await
}
