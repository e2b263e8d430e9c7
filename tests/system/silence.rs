//! The node that is not master has the floating addresses, and nobody on the network can tell.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tandem::lab::{Host, Lab, LabError, VIP4, VIP6, default_config, node_mac};
use tandem::model::{NodeId, Role};
use tokio::time::sleep;

use super::tools::{FIRST, REAL_ROOT, SECOND, ask, shows, with};
use super::{Test, test};

const SOON: Duration = Duration::from_secs(5);
/// A hundred questions and more in each family.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    let name = "silence_of_a_backup_that_has_the_addresses";
    vec![(test(name, backup), &[REAL_ROOT])]
}

/// In a namespace where the kernel itself would answer ARP for them, if the program did not keep the
/// questions from it.
async fn backup() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    for node in [FIRST, SECOND] {
        let host = &lab.network().nodes[node.index()];
        for key in ["ipv4/conf/all/arp_ignore", "ipv4/conf/eth0/arp_ignore"] {
            assert!(host.sysctl(key, "0").await);
        }
        for key in ["ipv4/conf/all/arp_announce", "ipv4/conf/eth0/arp_announce"] {
            assert!(host.sysctl(key, "0").await);
        }
    }
    lab.start().await?;
    let mut master = lab.settled().await?;
    for round in 0..2 {
        for node in [FIRST, SECOND] {
            shows(&mut lab, node, "its relay works", SOON, |status| {
                status.relay.works
            })
            .await;
            let host = &lab.network().nodes[node.index()];
            assert_eq!(
                on_device(host).await,
                BTreeSet::from([VIP4.into(), VIP6.into()])
            );
            let announce = "/proc/sys/net/ipv4/conf/eth0/arp_announce";
            let announce = host.run(async move { fs::read_to_string(announce) }).await;
            assert_eq!(announce.expect("a setting").trim(), "2");
        }
        let watch = lab.watch().await?;
        let began = lab.clock().now();
        sleep(LONG_ENOUGH).await;
        let seen = watch.stop();
        assert_eq!(
            seen.owners_max(began, lab.clock().now()),
            1,
            "round {round}"
        );
        let strange = seen.0.iter().find(|seen| seen.owner != node_mac(master));
        assert!(strange.is_none(), "round {round}: {strange:?}");
        assert!(seen.0.len() > 100, "{}", seen.0.len());
        if round == 0 {
            master = switch_over(&mut lab, master).await?;
        }
    }
    Ok(())
}

async fn switch_over(lab: &mut Lab, master: NodeId) -> Result<NodeId, LabError> {
    let asked = ask(lab, master, &["failover"]).await;
    assert!(asked.status.success(), "{asked:?}");
    let next = master.peer();
    for (node, role) in [(next, Role::Master), (master, Role::Backup)] {
        shows(lab, node, "the roles change", SOON, |status| {
            status.role == role
        })
        .await;
    }
    // What the master before said last is not heard any more.
    sleep(Duration::from_millis(100)).await;
    Ok(next)
}

/// Addresses on the private device.
async fn on_device(host: &Host) -> BTreeSet<IpAddr> {
    let found = host.run(async { getifaddrs().map(Iterator::collect::<Vec<_>>) });
    let found = found.await.expect("a host says its addresses");
    let ours = found.iter().filter(|it| it.interface_name == "tandem0");
    let ips = ours.filter_map(|it| {
        let at = it.address.as_ref()?;
        let four = at.as_sockaddr_in().map(|at| at.ip().into());
        four.or_else(|| at.as_sockaddr_in6().map(|at| at.ip().into()))
    });
    ips.collect()
}
