//! Alerts that a real Prometheus raises for what strains a pair in kernel mode: a peer that is on no
//! common link, a full table, a session that stands still, slow backends, another key, and processes
//! that do not run when they should.

use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{BACKENDS, Lab, LabError, Lan, SOURCE4, VIP4, backend_address, backend_name};
use tandem::model::NodeId;
use tandem::net::key;
use tokio::time::sleep;

use super::kernel::open_all;
use super::metrics::{LISTEN, Watcher};
use super::tools::{FIRST, REAL_ROOT, SECOND, default_but, restart, shows, vip, with};
use super::{Test, test};

/// Where the service in kernel mode is.
const PORT: u16 = 81;
/// More than four fifths of the smallest table.
const CROWD: usize = 850;
/// For what takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<(Test, &'static [&'static str])> {
    vec![(
        test("metrics_alerts_fire_under_strain", strains),
        &["prometheus", REAL_ROOT],
    )]
}

/// The lab's service, whose connects may be slow, and one in kernel mode.
fn config() -> String {
    let mut text = default_but("connect_timeout = \"200ms\"", "connect_timeout = \"3s\"");
    text += &format!(
        "\n[[vip]]\naddress = \"{SOURCE4}/24\"\ninterface = \"eth1\"\n\
         \n[kernel]\nmax_flows = 1024\n\
         \n[[service]]\nname = \"crowd\"\nmode = \"kernel\"\nlisten = [\"{VIP4}:{PORT}\"]\n\
         source = \"{SOURCE4}\"\n"
    );
    for n in 0..BACKENDS {
        let (name, at) = (backend_name(n), backend_address(n));
        text += &format!("\n[[service.backend]]\nname = \"{name}\"\naddress = \"{at}:80\"\n");
    }
    text + LISTEN
}

async fn strains() -> Result<(), LabError> {
    let config = with(config());
    let text = config.config.clone();
    let mut lab = Lab::build(&config).await?;
    let watcher = Watcher::start(&lab, |network| &network.client, 0).await;
    unseen(&mut lab, &watcher).await?;
    crowded(&mut lab, &watcher).await?;
    late(&mut lab, &watcher).await?;
    slow(&lab, &watcher).await?;
    locked_out(&mut lab, &watcher, &text).await?;
    held_up(&mut lab, &watcher).await
}

/// A node that starts while its peer is not on the clients' LAN cannot know where it is.
async fn unseen(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let cable = async |lab: &Lab, up| {
        let host = lab.network().node(SECOND);
        lab.network().set_carrier(host, Lan::Front, up).await
    };
    cable(lab, false).await?;
    lab.start_node(FIRST).await?;
    watcher.fire(lab, "no peer", &["TandemRelayDown"]).await;
    cable(lab, true).await?;
    lab.start_node(SECOND).await?;
    let master = lab.settled().await?;
    shows(lab, master, "the relay works", PATIENCE, |status| {
        status.relay.works
    })
    .await;
    Ok(())
}

async fn crowded(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let crowd = open_all(&lab.network().client, vip(PORT), CROWD).await;
    let alerts = ["TandemKernelTableFull"];
    watcher.fire(lab, "a crowd", &alerts).await;
    drop(crowd);
    let master = lab.settled().await?;
    shows(lab, master, "the table has room", PATIENCE, |status| {
        status.nat.as_ref().is_some_and(|nat| nat.flows < 100)
    })
    .await;
    Ok(())
}

/// The backup's acknowledgements are lost, while clients come.
async fn late(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let master = lab.settled().await?;
    let client = &lab.network().client;
    let coming = client.spawn(async {
        loop {
            let _ = super::kernel::open(vip(PORT)).await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    lab.network().cut_session(master).await?;
    let alerts = ["TandemKernelDegraded", "TandemReplicationSlow"];
    watcher.fire(lab, "a late standby", &alerts).await;
    lab.network().heal(master).await?;
    coming.abort();
    lab.settled().await?;
    Ok(())
}

/// A backend loses the first packet of many a connection, which is sent again after a second
/// (RFC 6298, section 2).
async fn slow(lab: &Lab, watcher: &Watcher) -> Result<(), LabError> {
    let load = lab.load();
    let backend = &lab.network().backends[0];
    for _ in 0..5 {
        for (up, ms) in [(false, 300), (true, 1_200)] {
            lab.network().set_carrier(backend, Lan::Back, up).await?;
            sleep(Duration::from_millis(ms)).await;
        }
    }
    load.stop().await;
    watcher
        .fire(lab, "lost SYNs", &["TandemConnectsSlow"])
        .await;
    Ok(())
}

/// The backup has another key.
async fn locked_out(lab: &mut Lab, watcher: &Watcher, text: &str) -> Result<(), LabError> {
    let backup = lab.settled().await?.peer();
    let other = text.replace("@DIR@/key", "@DIR@/other");
    assert_ne!(other, text);
    key::generate(&lab.dir().join("other"))?;
    for text in [&other, text] {
        lab.configure(backup, text)?;
        lab.node(backup).signal(Signal::SIGKILL)?;
        restart(lab, backup).await?;
        if *text == other {
            let alerts = ["TandemHeartbeatsRejected"];
            watcher.fire(lab, "another key", &alerts).await;
        }
    }
    lab.settled().await?;
    Ok(())
}

/// The master stands still for moments, then for nearly as long as its lease lasts.
async fn held_up(lab: &mut Lab, watcher: &Watcher) -> Result<(), LabError> {
    let master = lab.settled().await?;
    for _ in 0..30 {
        stand_still(lab, master, 60).await?;
        sleep(Duration::from_millis(100)).await;
    }
    let alerts = ["TandemTurnLoopLate"];
    watcher.fire(lab, "moments", &alerts).await;
    let mut ways = (140..240).step_by(4).cycle().take(200);
    let mut least = u64::MAX;
    while least > 9_000 {
        let stop = ways.next().expect("one stop of 200 nearly takes the lease");
        let master = lab.settled().await?;
        stand_still(lab, master, stop).await?;
        // One too long ends it, or its mastership.
        if lab.node(master).ended().is_some() {
            restart(lab, master).await?;
        } else if let Ok(status) = lab.node(master).status().await {
            let margin = status.nat.and_then(|nat| nat.lease_margin_us);
            least = margin.unwrap_or(least);
        }
    }
    watcher.fire(lab, "stops", &["TandemLeaseShort"]).await;
    Ok(())
}

async fn stand_still(lab: &mut Lab, node: NodeId, ms: u64) -> Result<(), LabError> {
    lab.node(node).signal(Signal::SIGSTOP)?;
    sleep(Duration::from_millis(ms)).await;
    // It may have ended meanwhile.
    let _ = lab.node(node).signal(Signal::SIGCONT);
    Ok(())
}
