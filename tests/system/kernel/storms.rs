//! Whatever is wrong with the pair, no packet goes round between its nodes, and no live connection is
//! reset: frames are counted on the switch.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Carries, Counts, Host, Lab, LabError, Lan, Tap, VIP4, node_addresses, node_mac};
use tandem::model::{Mac, NodeId, Role};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{SOON, Service, all_go_on, open, up};
use crate::garbage::heard;
use crate::http::get;
use crate::packets::{Datagram, ETH0, Wire};
use crate::tools::{good, shows, standing, until, vip};
use crate::{Test, test};

/// Packets of a client that does not know where the address is.
const PACKETS: usize = 1_000;
/// So many a second.
const RATE: usize = 4_000;
/// Whoever sends them, and under which name: nobody answers to it.
const SENDER: (Ipv4Addr, Mac) = (Ipv4Addr::new(203, 0, 113, 7), Mac([2, 0, 0, 0, 0, 14]));
/// Whose connections must go on.
const CLIENT: (Ipv4Addr, Mac) = (Ipv4Addr::new(192, 0, 2, 10), Mac([2, 0, 0, 0, 0, 10]));
/// A client that never hears of a takeover.
const WATCH: (Ipv4Addr, Mac) = (Ipv4Addr::new(192, 0, 2, 13), Mac([2, 0, 0, 0, 0, 13]));
/// A network card that was put in.
const CARD: Mac = Mac([2, 0, 0, 0, 0, 0x77]);
/// Longer than any lease.
const LEASE: Duration = Duration::from_millis(500);
/// For one page; a lost SYN takes a second.
const TRY: Duration = Duration::from_millis(1_500);
/// Heartbeats and sessions.
const PORT: u16 = 7373;
/// Connections that go on.
const HELD: usize = 6;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("storm_none_while_the_nodes_are_cut_off", cut),
        test("storm_none_when_both_are_dead", both_dead),
        test("storm_none_when_both_hang", both_hang),
        test("storm_none_when_neither_is_master", neither),
        test("storm_none_after_a_network_card_was_replaced", card),
        test("storm_none_by_frames_in_the_peer_s_name", forged_peer),
        test("storm_none_by_forged_heartbeats", forged_heartbeats),
    ]
}

/// A settled pair with connections that stand, and a stranger on its LANs.
struct Scene {
    lab: Lab,
    master: NodeId,
    held: Vec<(TcpStream, u8)>,
    stranger: Host,
}

impl Scene {
    async fn new() -> Result<Self, LabError> {
        let mut lab = up(&[Service::default()]).await?;
        let master = lab.settled().await?;
        let mut held = Vec::new();
        for _ in 0..HELD {
            let one = lab.network().client.run(timeout(SOON, open(vip(80)))).await;
            held.push(good("connect", one.expect("in time")));
        }
        let stranger = lab.network().stranger().await?;
        Ok(Self {
            lab,
            master,
            held,
            stranger,
        })
    }

    /// Sends these from the stranger's place.
    async fn pour(&self, frames: Vec<Vec<u8>>) {
        let wire = Wire::tap(&self.stranger, ETH0).await;
        let pour = spawn_blocking(move || wire.pour(&frames, RATE));
        pour.await.expect("it sends");
    }

    /// The stale client's packets come to this node; how often each was sent on, over all.
    async fn stale(&self, to: NodeId) -> Result<f64, LabError> {
        let network = self.lab.network();
        let all = Tap::start(network, None).await?;
        let sent = Tap::start(network, Some(SENDER.0.into())).await?;
        self.pour(packets(to)).await;
        let (all, sent) = (all.stop().await?, sent.stop().await?);
        calm(&all);
        let frames = |from: Mac| sent.sum(Some(from), None, Carries::ToVip).frames;
        assert_eq!(sent.missed, 0, "{sent:?}");
        assert_eq!(frames(SENDER.1), PACKETS as u64, "{sent:?}");
        let relayed = sent.total - PACKETS as u64;
        assert!(relayed <= PACKETS as u64, "more than once each: {sent:?}");
        // And not from both: it would be more than once for some of them.
        let by = NodeId::BOTH.map(|node| frames(node_mac(node)));
        assert_eq!(by[to.peer().index()], 0, "sent back: {sent:?}");
        let share = relayed as f64 / PACKETS as f64;
        eprintln!("{:.0} % relayed once", 100.0 * share);
        Ok(share)
    }

    async fn go_on(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.held = all_go_on(&self.lab.network().client, held, SOON).await;
    }
}

/// No frame of this was a reset for the client whose connections stand.
fn calm(counts: &Counts) {
    assert_eq!(counts.missed, 0, "{counts:?}");
    let to_client = counts.sum(None, Some(CLIENT.1), Carries::FromVip);
    assert_eq!(to_client.resets, 0, "{counts:?}");
}

/// Half of them open connections, half belong to none.
fn packets(to: NodeId) -> Vec<Vec<u8>> {
    let one = |n: usize| {
        let packet = Datagram {
            macs: (SENDER.1, node_mac(to)),
            from: (SENDER.0, 10_000 + n as u16),
            to: (VIP4, 80),
        };
        match n % 2 {
            0 => packet.tcp(77, None, b""),
            _ => packet.tcp(77, Some(78), b"hello"),
        }
    };
    (0..PACKETS).map(one).collect()
}

/// First one way, for which one of them yields; then both ways, and healed.
async fn cut() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    let master = scene.master;
    scene.lab.network().cut(master.peer()).await?;
    sleep(LEASE).await;
    for node in [master, master.peer()] {
        scene.stale(node).await?;
    }
    scene.go_on().await;
    scene.lab.network().heal(master.peer()).await?;
    scene.lab.settled().await?;
    scene.go_on().await;

    for node in NodeId::BOTH {
        scene.lab.network().cut(node).await?;
    }
    sleep(LEASE).await;
    for node in NodeId::BOTH {
        scene.stale(node).await?;
    }
    for node in NodeId::BOTH {
        scene.lab.network().heal(node).await?;
    }
    // While they find out who it is.
    scene.stale(master).await?;
    scene.lab.settled().await?;
    Ok(())
}

async fn both_dead() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    for node in NodeId::BOTH {
        scene.lab.node(node).signal(Signal::SIGKILL)?;
    }
    for node in NodeId::BOTH {
        gone(&mut scene.lab, node).await;
        // At once, and when each lease has lapsed.
        let relayed = scene.stale(node).await?;
        assert!(relayed > 0.0, "the relay works without a process");
        sleep(LEASE).await;
    }
    Ok(())
}

async fn both_hang() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    for node in NodeId::BOTH {
        scene.lab.node(node).signal(Signal::SIGSTOP)?;
    }
    let master = scene.master;
    for node in [master, master.peer()] {
        scene.stale(node).await?;
    }
    Ok(())
}

/// Both processes live, and neither may be master: each lacks a network.
async fn neither() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    for node in NodeId::BOTH {
        let network = scene.lab.network();
        network
            .set_carrier(network.node(node), Lan::Back, false)
            .await?;
    }
    for node in NodeId::BOTH {
        shows(
            &mut scene.lab,
            node,
            "it must not be master",
            SOON,
            |status| status.role == Role::Fault,
        )
        .await;
    }
    for node in NodeId::BOTH {
        scene.stale(node).await?;
    }
    for node in NodeId::BOTH {
        let network = scene.lab.network();
        network
            .set_carrier(network.node(node), Lan::Back, true)
            .await?;
    }
    scene.lab.settled().await?;
    Ok(())
}

/// The backup's; then its master dies, and a client that never hears of it is served all the same.
async fn card() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    let (master, backup) = (scene.master, scene.master.peer());
    let network = scene.lab.network();
    network
        .set_mac(network.node(backup), Lan::Front, CARD)
        .await?;
    let (host, address) = (network.node(master), node_addresses(backup)[0]);
    until("the master's host knows the new card", SOON, async || {
        let believes = network.believes(host, address.into()).await;
        (believes.ok()? == Some(CARD)).then_some(())
    })
    .await;
    scene.lab.settled().await?;
    // Of no interest to anybody but the relay: whether the old one is still meant.
    sleep(LEASE).await;
    scene.lab.network().freeze(master).await?;
    scene.lab.node(master).signal(Signal::SIGKILL)?;
    gone(&mut scene.lab, master).await;
    let network = scene.lab.network();
    let tap = Tap::start(network, None).await?;
    let of_watch = Tap::start(network, Some(WATCH.0.into())).await?;
    until("a client that does not know is served", SOON, async || {
        // A connect that nobody answers would go on for two minutes.
        let page = timeout(TRY, get(&network.watch, vip(80), "/"));
        page.await.ok()?.ok()
    })
    .await;
    scene.go_on().await;
    let counts = tap.stop().await?;
    calm(&counts);
    let to_old = counts.sum(
        Some(node_mac(master)),
        Some(node_mac(backup)),
        Carries::ToVip,
    );
    assert_eq!(to_old.frames, 0, "to the card that is gone: {counts:?}");
    // What this client sent was sent on once at most. (Nodes also ask each other things.)
    let sent = of_watch.stop().await?;
    let own = sent.sum(Some(WATCH.1), None, Carries::ToVip).frames;
    assert!(sent.missed == 0 && sent.total <= 2 * own, "{sent:?}");
    Ok(())
}

/// The stranger sends to the standby in the master's name: of connections that stand, of new ones,
/// and of none.
async fn forged_peer() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    let (master, backup) = (scene.master, scene.master.peer());
    let ends = scene.held.iter().map(|(stream, _)| stream.local_addr());
    let ports: Vec<u16> = ends.map(|end| end.expect("it stands").port()).collect();
    let forged = |n: usize| {
        let port = ports[n % ports.len()];
        let (ip, port) = match n % 4 {
            0 | 1 => (CLIENT.0, port),
            _ => (SENDER.0, 20_000 + n as u16),
        };
        let packet = Datagram {
            macs: (node_mac(master), node_mac(backup)),
            from: (ip, port),
            to: (VIP4, 80),
        };
        match n % 2 {
            0 => packet.tcp(n as u32 * 7_919, None, b""),
            _ => packet.tcp(n as u32 * 7_919, Some(78), b"hello"),
        }
    };
    let tap = Tap::start(scene.lab.network(), None).await?;
    for round in 0..3 {
        let frames: Vec<_> = (0..PACKETS / 4).map(|n| forged(4 * n + round)).collect();
        scene.pour(frames).await;
        scene.go_on().await;
    }
    let counts = tap.stop().await?;
    calm(&counts);
    // What bears the master's address is the stranger's, too, so only the backup's own frames tell.
    let back = counts.sum(Some(node_mac(backup)), None, Carries::ToVip);
    assert_eq!(back.frames, 0, "nothing goes back: {counts:?}");
    assert_eq!(scene.lab.settled().await?, master);
    Ok(())
}

/// In the peer's name, with its own words, and with others.
async fn forged_heartbeats() -> Result<(), LabError> {
    let mut scene = Scene::new().await?;
    let before = standing(&mut scene.lab).await;
    for victim in NodeId::BOTH {
        let peer = victim.peer();
        let words = heard(&scene.lab, peer).await;
        let datagram = Datagram {
            macs: (SENDER.1, node_mac(victim)),
            from: (node_addresses(peer)[0], PORT),
            to: (node_addresses(victim)[0], PORT),
        };
        let one = |n: usize| {
            let mut words = words.clone();
            let last = words.len() - 1;
            // Every other one is the peer's own, once more.
            words[last - n % 16] ^= (n % 2) as u8;
            datagram.frame(&words)
        };
        let tap = Tap::start(scene.lab.network(), None).await?;
        scene.pour((0..PACKETS).map(one).collect()).await;
        calm(&tap.stop().await?);
        let network = scene.lab.network();
        let believes = network.believes(network.node(victim), node_addresses(peer)[0].into());
        assert_eq!(
            believes.await?,
            Some(node_mac(peer)),
            "its place is as it was"
        );
    }
    scene.go_on().await;
    assert_eq!(standing(&mut scene.lab).await, before);
    Ok(())
}

async fn gone(lab: &mut Lab, node: NodeId) {
    until("it is gone", SOON, async || lab.node(node).ended()).await;
}
