//! The lab's switch and its neighbours: frames are counted as they pass, and who shall not hear an
//! announcement does not.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tandem::lab::{Carries, Host, LabError, Lan, Network, Tap, VIP4, node_addresses};
use tandem::model::Mac;
use tokio::net::UdpSocket;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::packets::{Datagram, ETH0, Wire};
use super::tools::{FIRST, SECOND};
use super::{Test, test};

/// Whose frames are counted.
const SENDER: Mac = Mac([2, 0, 0, 0, 0, 0x55]);
const FROM: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const RATE: usize = 20_000;
/// For a packet to cross the switch on a busy machine.
const CROSSING: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "switch_counts_each_frame_once_by_sender_and_receiver",
            counted,
        ),
        test("switch_has_room_for_a_stranger_and_another_card", stranger),
        test("stale_neighbours_hear_no_announcement", stale),
    ]
}

async fn counted() -> Result<(), LabError> {
    let network = Network::build().await?;
    let [first, second] = [FIRST, SECOND].map(|node| Lan::Front.node_mac(node));
    let all = Tap::start(&network, None).await?;
    let of_sender = Tap::start(&network, Some(FROM.into())).await?;
    let wire = Wire::tap(&network.watch, ETH0).await;
    let to = |mac: Mac, ip: Ipv4Addr, from: Ipv4Addr| Datagram {
        macs: (SENDER, mac),
        from: (from, 9),
        to: (ip, 9),
    };
    let everybody = Mac([0xff; 6]);
    let other = Ipv4Addr::new(203, 0, 113, 8);
    let plan = [
        (to(first, VIP4, FROM), 300),
        (to(second, VIP4, FROM), 20),
        (to(second, node_addresses(SECOND)[0], other), 7),
        (to(everybody, Ipv4Addr::BROADCAST, FROM), 5),
    ];
    let frames = plan
        .iter()
        .flat_map(|(it, count)| vec![it.frame(b"x"); *count]);
    let frames: Vec<_> = frames
        .chain(vec![to(first, VIP4, FROM).reset(1); 4])
        .collect();
    let pour = spawn_blocking(move || wire.pour(&frames, RATE));
    pour.await.expect("it sends");
    let (all, of_sender) = (all.stop().await?, of_sender.stop().await?);
    for counts in [&all, &of_sender] {
        assert_eq!(counts.missed, 0, "{counts:?}");
        let of = |to, carries| counts.sum(Some(SENDER), to, carries);
        let to_first = of(Some(first), Carries::ToVip);
        assert_eq!((to_first.frames, to_first.resets), (304, 4));
        assert_eq!(of(Some(second), Carries::ToVip).frames, 20);
        assert_eq!(
            of(Some(everybody), Carries::Other).frames,
            5,
            "flooded, and counted once"
        );
        assert_eq!(of(None, Carries::FromVip).frames, 0);
    }
    let other = |counts: &tandem::lab::Counts| {
        counts
            .sum(Some(SENDER), Some(second), Carries::Other)
            .frames
    };
    assert_eq!((other(&all), other(&of_sender)), (7, 0));
    assert_eq!(of_sender.total, 300 + 20 + 5 + 4);
    Ok(())
}

async fn stranger() -> Result<(), LabError> {
    let network = Network::build().await?;
    let stranger = network.stranger().await?;
    let first = network.node(FIRST);
    let ip = IpAddr::from(node_addresses(FIRST)[0]);
    assert!(reaches(&stranger, ip).await);
    assert!(
        reaches(&stranger, node_addresses(FIRST)[1].into()).await,
        "on both LANs"
    );
    assert_eq!(
        network.believes(&stranger, ip).await?,
        Some(Lan::Front.node_mac(FIRST))
    );

    let card = Mac([2, 0, 0, 0, 0, 0x77]);
    network.set_mac(first, Lan::Front, card).await?;
    let tap = Tap::start(&network, None).await?;
    assert!(reaches(first, node_addresses(SECOND)[0].into()).await);
    let counts = tap.stop().await?;
    assert!(
        counts.sum(Some(card), None, Carries::Other).frames > 0,
        "{counts:?}"
    );
    let old = Lan::Front.node_mac(FIRST);
    assert_eq!(
        counts.sum(Some(old), None, Carries::Other).frames,
        0,
        "{counts:?}"
    );
    Ok(())
}

async fn stale() -> Result<(), LabError> {
    let network = Network::build().await?;
    let [first, second] = [FIRST, SECOND].map(|node| Lan::Front.node_mac(node));
    network.freeze(FIRST).await?;
    network.hold(network.node(SECOND), VIP4.into()).await?;
    let wire = Wire::tap(network.node(SECOND), ETH0).await;
    let announce = announcement(second);
    let heard = async || {
        wire.send(&announce);
        sleep(CROSSING).await;
        network.believes(&network.client, VIP4.into()).await
    };
    assert_eq!(heard().await?, Some(first), "it is deaf");
    assert!(!reaches(&network.client, VIP4.into()).await);
    network.freeze(SECOND).await?;
    assert!(reaches(&network.client, VIP4.into()).await, "told by hand");
    network.freeze(FIRST).await?;
    network.thaw().await?;
    assert!(reaches(&network.client, VIP4.into()).await, "it asks again");
    assert_eq!(heard().await?, Some(second));
    network.thaw().await
}

/// A gratuitous ARP request for the floating address (RFC 5227, 1.1).
fn announcement(owner: Mac) -> Vec<u8> {
    let vip = VIP4.octets();
    let ethernet = [&[0xff; 6][..], &owner.0, &[8, 6]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &owner.0, &vip, &[0; 6], &vip].concat();
    [ethernet, arp].concat()
}

/// Whether somebody is at home there: who is, says that nobody listens on the port.
async fn reaches(from: &Host, to: IpAddr) -> bool {
    let ask = move || async move {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect((to, 9)).await?;
        socket.send(b"x").await?;
        socket.recv(&mut [0]).await
    };
    // All the host's namespaces share one limit of ICMP errors (icmp_msgs_per_sec), which the tests
    // before may have used up.
    for _ in 0..5 {
        let answer = from
            .run(async move { timeout(CROSSING, ask()).await })
            .await;
        if matches!(answer, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
    }
    false
}
