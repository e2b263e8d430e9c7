//! Packets of no connection.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, VIP4, node_mac};
use tandem::model::{Mac, NodeId};
use tandem::time::Mono;
use tokio::time::sleep;

use super::{SOON, Service, config, nat};
use crate::packets::{Datagram, ETH0, Wire, segment};
use crate::tools::{shows, with};
use crate::{Test, test};

/// The client's address and Ethernet address in the lab.
const CLIENT: (Ipv4Addr, Mac) = (Ipv4Addr::new(192, 0, 2, 10), Mac([2, 0, 0, 0, 0, 10]));
/// After a takeover nothing is refused for so long.
const GRACE: Duration = Duration::from_secs(1);
/// Age of a status of the data path, at most, and time to make it.
const STATUS: Duration = Duration::from_millis(300);
/// What a stray packet acknowledges.
const ACKNOWLEDGED: u32 = 0x1234_5678;

pub(super) fn tests() -> Vec<Test> {
    vec![test(
        "kernel_a_stray_packet_is_reset_or_dropped_and_not_at_a_takeover",
        strays,
    )]
}

/// Sends data of no connection to this port; where and when it was answered with a reset.
async fn stray(lab: &Lab, to: NodeId, port: u16, wait: Duration) -> Option<Mono> {
    let wire = Wire::tap(&lab.network().client, ETH0).await;
    let from = (CLIENT.0, 999);
    let data = Datagram {
        macs: (CLIENT.1, node_mac(to)),
        from,
        to: (VIP4, port),
    };
    wire.send(&data.tcp(77, Some(ACKNOWLEDGED), b"hello"));
    let clock = lab.clock();
    let began = clock.now();
    while clock.now().since(began) < wait {
        while let Some(frame) = wire.waiting() {
            if let Some(answer) = segment(&frame)
                && answer.rst
                && (answer.from, answer.to) == ((VIP4, port), from)
            {
                assert_eq!(answer.next, ACKNOWLEDGED, "one that a client would believe");
                return Some(clock.now());
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}

async fn strays() -> Result<(), LabError> {
    let quiet = Service {
        name: "quiet",
        port: 81,
        keys: "stray = \"drop\"\n",
        ..Service::default()
    };
    // With it the former master would be asked first.
    let relay = "port = 7373\nrelay = false\n";
    let text = config(&[Service::default(), quiet]);
    let text = text.replacen("name = \"lab\"\n", &format!("name = \"lab\"\n{relay}"), 1);
    let mut lab = Lab::up(&with(text)).await?;
    let master = lab.settled().await?;
    // The first node's own grace is over by then.
    sleep(GRACE).await;
    let answered = stray(&lab, master, 80, Duration::from_secs(2)).await;
    assert!(answered.is_some(), "stray = \"reset\" answers");
    // What is told of the data path is so old at most.
    sleep(STATUS).await;
    let before = nat(&mut lab, master).await.counters["drop_unknown"];
    let answered = stray(&lab, master, 81, Duration::from_millis(300)).await;
    assert_eq!(answered, None, "stray = \"drop\" does not");
    sleep(STATUS).await;
    let counted = nat(&mut lab, master).await.counters["drop_unknown"];
    assert_eq!(counted, before + 1, "it came, and was counted");

    let backup = master.peer();
    lab.node(master).signal(Signal::SIGKILL)?;
    let killed = lab.clock().now();
    // Only packets that come while it leads are of interest: the others are counted elsewhere.
    let answered = loop {
        if let Some(at) = stray(&lab, backup, 80, Duration::from_millis(50)).await {
            break at;
        }
        assert!(lab.clock().now().since(killed) < SOON, "it answers at last");
    };
    let after = answered.since(killed);
    shows(&mut lab, backup, "it leads", SOON, |status| {
        status.nat.as_ref().is_some_and(|nat| nat.forwarding)
    })
    .await;
    sleep(STATUS).await;
    let unanswered = nat(&mut lab, backup).await.counters["drop_unknown"];
    eprintln!("the first reset {after:.1?} after the kill, {unanswered} strays at the new master");
    assert!(after >= GRACE, "{after:?}");
    assert!(unanswered >= 5, "they reached it before: {unanswered}");
    Ok(())
}
