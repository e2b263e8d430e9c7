//! Switchovers and stops as they are where nothing relays: proxied connections are reset at once.

use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tandem::lab::{Lab, LabError, default_config};
use tandem::model::NodeId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tools::{ask, default_but, good, until, vip, with};
use super::traffic::exchange;
use super::{Test, test};

/// Connections that stand during the switchover.
const HELD: usize = 20;
/// Far above what a stop takes, and far below `drain_timeout`.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "drain_does_not_happen_with_the_relay_switched_off",
            switchover,
        ),
        test("drain_does_not_hold_up_a_stop_without_a_relay", stop),
    ]
}

async fn pair() -> Result<(Lab, NodeId), LabError> {
    let config = default_but("[cluster]\n", "[cluster]\nrelay = false\n");
    assert_ne!(config, default_config());
    let mut lab = Lab::up(&with(config)).await?;
    let master = lab.settled().await?;
    Ok((lab, master))
}

type Held = (oneshot::Sender<()>, JoinHandle<(bool, ErrorKind)>);

/// Each has had an answer, and says how its connection ends: before it was asked to speak again, or
/// when it did.
async fn hold(lab: &Lab) -> Vec<Held> {
    let mut held = Vec::new();
    for _ in 0..HELD {
        let client = &lab.network().client;
        let open = async {
            let mut stream = TcpStream::connect(vip(80)).await?;
            exchange(&mut stream).await?;
            Ok(stream)
        };
        let mut stream = good("a connection", client.run(open).await);
        let (speak, asked) = oneshot::channel();
        let life = client.spawn(async move {
            let kind =
                |end: io::Result<u8>| end.map_or_else(|e| e.kind(), |_| ErrorKind::InvalidData);
            let first = tokio::select! {
                end = stream.read_u8() => Some(end),
                _ = asked => None,
            };
            match first {
                Some(end) => (true, kind(end)),
                None => (false, kind(exchange(&mut stream).await)),
            }
        });
        held.push((speak, life));
    }
    held
}

/// A reset says that a connection was cut; its end would look as if all had been said. A node that
/// gives up the addresses resets before they go; a client whose reset got lost hears it from the new
/// master when it speaks.
async fn all_reset(held: Vec<Held>) {
    let mut at_once = 0;
    for (speak, life) in held {
        // It may have ended already.
        let _ = speak.send(());
        let end = timeout(PATIENCE, life).await.expect("it is reset in time");
        let (early, end) = end.expect("no panic");
        assert!(
            matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "{end:?}"
        );
        at_once += usize::from(early);
    }
    eprintln!("{at_once} of {HELD} were reset before they spoke");
}

/// Asked on the old master and then on the new one: neither has anything to wait for.
async fn switchover() -> Result<(), LabError> {
    let (mut lab, first) = pair().await?;
    for asked_on_master in [true, false] {
        let master = lab.settled().await?;
        let held = hold(&lab).await;
        let asked = if asked_on_master {
            master
        } else {
            master.peer()
        };
        let ended = ask(&mut lab, asked, &["failover", "--wait", "--json"]).await;
        assert!(ended.status.success(), "{ended:?}");
        let told: Value = serde_json::from_slice(&ended.stdout).expect("one object");
        assert_eq!(told["result"], "done", "{told}");
        let most = &told["drain"]["of"];
        assert!(most.is_null() || *most == 0, "{told}");
        all_reset(held).await;
        assert_eq!(lab.settled().await?, master.peer());
        for node in NodeId::BOTH {
            let status = lab.node(node).status().await?;
            assert!(!status.peer.relays && status.drain.is_none(), "{status:#?}");
        }
    }
    assert_eq!(lab.settled().await?, first);
    Ok(())
}

async fn stop() -> Result<(), LabError> {
    let (mut lab, master) = pair().await?;
    let held = hold(&lab).await;
    lab.node(master).signal(Signal::SIGTERM)?;
    let gone = until("it ends", PATIENCE, async || lab.node(master).ended()).await;
    assert!(gone.success(), "{gone}");
    all_reset(held).await;
    Ok(())
}
