//! Alerts that a real Prometheus raises for faults of the network, of neighbours, of strangers and of
//! operators. Those of dead nodes and backends are in `metrics`.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, Lan, VIP4, node_addresses};
use tandem::model::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::sleep;

use super::metrics::{LISTEN, Watcher};
use super::tools::{ask, default_but, restart, with};
use super::{Test, test};

/// The port of heartbeats and sessions.
const PORT: u16 = 7373;
/// Nobody has it.
const NOBODY: &str = "192.0.2.99:9";

pub(crate) fn tests() -> Vec<(Test, &'static [&'static str])> {
    vec![(
        test("metrics_alerts_fire_in_faults_of_all_kinds", faults),
        &["prometheus"],
    )]
}

async fn faults() -> Result<(), LabError> {
    let source = "\n[[service.discover]]\nbackends_file = \"@DIR@/nobody.json\"\n";
    // Neither clients nor checks see a backend that is away for a second.
    let web = default_but("fall = 2", "fall = 6\nobserve = \"nothing\"");
    let config = with(web + source + LISTEN);
    let text = config.config.clone();
    let mut lab = Lab::build(&config).await?;
    for node in NodeId::BOTH {
        // A file of its own.
        lab.configure(node, &text)?;
    }
    fs::write(lab.dir().join("nobody.json"), "{").expect("a file is written");
    lab.start().await?;
    lab.settled().await?;
    // By the LAN behind, where no fault is.
    let watcher = Watcher::start(&lab, |network| &network.backends[0], 1).await;
    watcher.is(&lab, "sum(up)", |up| up == 2.0).await;
    watcher
        .fire(&lab, "a damaged source", &["TandemSourceFailing"])
        .await;
    refused(&mut lab, &watcher).await?;
    parted(&mut lab, &watcher).await?;
    lossy(&lab, &watcher).await?;
    unplugged(&mut lab, &watcher).await?;
    claimed(&lab, &watcher).await?;
    differing(&mut lab, &watcher, &text).await?;
    addressed(&mut lab, &watcher).await?;
    dying(&mut lab, &watcher).await?;
    to_and_fro(&mut lab, &watcher).await
}

/// A backend goes away again and again, each time for less than its checks need to see it, while clients
/// come.
async fn refused(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let load = lab.load();
    for _ in 0..10 {
        lab.stop_backend(1).await;
        sleep(Duration::from_secs(1)).await;
        lab.start_backend(1).await?;
        sleep(Duration::from_secs(1)).await;
    }
    load.stop().await;
    watcher
        .fire(lab, "a backend that refuses", &["TandemConnectsFail"])
        .await;
    Ok(())
}

/// The nodes do not hear each other; then one of them does not hear the other.
async fn parted(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    for node in NodeId::BOTH {
        lab.network().cut(node).await?;
    }
    let alerts = ["TandemTwoMasters", "TandemPeerLost", "TandemPathDown"];
    watcher.fire(lab, "a cut", &alerts).await;
    for node in NodeId::BOTH {
        lab.network().heal(node).await?;
    }
    let backup = lab.settled().await?.peer();
    lab.network().cut(backup).await?;
    watcher.fire(lab, "half a cut", &["TandemUnheard"]).await;
    lab.network().heal(backup).await?;
    lab.settled().await?;
    Ok(())
}

/// A third of the heartbeats is lost, never so many in a row that the peer is thought dead.
async fn lossy(lab: &Lab, watcher: &Watcher) -> Result<(), LabError> {
    let seen = Cell::new(false);
    let losing = async {
        while !seen.get() {
            lab.network().cut(NodeId::First).await?;
            sleep(Duration::from_millis(100)).await;
            lab.network().heal(NodeId::First).await?;
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    };
    let watching = async {
        watcher.fire(lab, "loss", &["TandemPathLossy"]).await;
        seen.set(true);
    };
    tokio::join!(losing, watching).0
}

/// Neither node has a link where the clients are.
async fn unplugged(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    for up in [false, true] {
        for node in &lab.network().nodes {
            lab.network().set_carrier(node, Lan::Front, up).await?;
        }
        if !up {
            let alerts = ["TandemFault", "TandemNoMaster"];
            watcher.fire(lab, "no link", &alerts).await;
        }
    }
    lab.settled().await?;
    Ok(())
}

/// Another host has the floating address and asks for a neighbour by it, which claims it
/// (RFC 5227, section 2.4).
async fn claimed(lab: &Lab, watcher: &Watcher) -> Result<(), LabError> {
    let network = lab.network();
    let stranger = network.stranger().await?;
    network.hold(&stranger, VIP4.into()).await?;
    let asking = stranger.spawn(ask_for_nobody());
    watcher.fire(lab, "a rival", &["TandemVipRival"]).await;
    asking.abort();
    network.strip(&stranger, VIP4.into()).await?;
    Ok(())
}

async fn ask_for_nobody() -> std::io::Result<()> {
    let socket = UdpSocket::bind((IpAddr::from(VIP4), 0)).await?;
    // A minute of it.
    for _ in 0..200 {
        // An error is the last question's, which nobody answered.
        let _ = socket.send_to(b"?", NOBODY).await;
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// The backup goes by another file.
async fn differing(lab: &mut Lab, watcher: &Watcher, text: &str) -> Result<(), LabError> {
    let backup = lab.settled().await?.peer();
    let other = text.replace("connect_timeout = \"200ms\"", "connect_timeout = \"300ms\"");
    assert_ne!(other, text);
    turn_to(lab, backup, &other).await?;
    let alerts = ["TandemConfigDiffers"];
    watcher.fire(lab, "another file", &alerts).await;
    turn_to(lab, backup, text).await
}

async fn turn_to(lab: &mut Lab, node: NodeId, text: &str) -> Result<(), LabError> {
    lab.configure(node, text)?;
    let done = ask(lab, node, &["reload"]).await;
    assert!(done.status.success(), "{done:?}");
    Ok(())
}

/// Somebody who has no key speaks to the port of sessions.
async fn addressed(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    for node in NodeId::BOTH {
        let to = SocketAddr::new(node_addresses(node)[0].into(), PORT);
        for _ in 0..10 {
            // Whatever it says to that.
            let _ = lab.network().client.run(speak(to)).await;
        }
    }
    watcher
        .fire(lab, "a stranger", &["TandemSessionFaults"])
        .await;
    Ok(())
}

async fn speak(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// One node dies again and again, the first time as master.
async fn dying(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let node = lab.settled().await?;
    for _ in 0..3 {
        lab.node(node).signal(Signal::SIGKILL)?;
        restart(lab, node).await?;
        lab.settled().await?;
        // For Prometheus to see this life.
        sleep(Duration::from_millis(1_500)).await;
    }
    let alerts = ["TandemFailedOver", "TandemRestarting"];
    watcher.fire(lab, "deaths", &alerts).await;
    Ok(())
}

async fn to_and_fro(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    for _ in 0..5 {
        let master = lab.settled().await?;
        let done = ask(lab, master, &["failover"]).await;
        assert!(done.status.success(), "{done:?}");
    }
    watcher.fire(lab, "switchovers", &["TandemFlapping"]).await;
    Ok(())
}
