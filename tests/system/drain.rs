//! Switchovers and stops under proxied connections that speak all the time: where both nodes relay no
//! client notices; where nothing relays they are reset at once.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tandem::lab::{Lab, LabError, backend_address, default_config};
use tandem::model::NodeId;
use tandem::status::Status;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::http::get;
use super::tools::{ask, default_but, good, service, shows, until, vip, with};
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

/// Those that need the program in the kernel.
pub(crate) fn relayed() -> Vec<Test> {
    vec![
        test("drain_lets_every_connection_go_on", goes_on),
        test("drain_is_cut_by_its_timeout", timeout_cuts),
        test("drain_of_each_node_at_once_and_back", to_and_fro),
        test("drain_comes_before_the_end_of_a_stop", stop_waits),
        test("drain_ends_with_a_second_signal", second_signal),
    ]
}

/// A pair that relays, with this `[proxy]`.
async fn relaying(proxy: &str) -> Result<(Lab, NodeId), LabError> {
    // The lab gives a place for the program's pins where a service is in kernel mode.
    let kernel = service("other", 81, backend_address(0).into());
    let kernel = kernel.replace("[service.health]", "mode = \"kernel\"\n[service.health]");
    let config = default_config() + proxy + &kernel.replace("1:81\"", "1:80\"");
    let mut lab = Lab::up(&with(config)).await?;
    for node in NodeId::BOTH {
        let works = |status: &Status| status.relay.works && status.peer.relays;
        shows(&mut lab, node, "both relay", PATIENCE, works).await;
    }
    let master = lab.settled().await?;
    Ok((lab, master))
}

/// Clients that ask again and again on one connection each, until they are told to stop.
struct Chatter {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<io::Result<u32>>>,
}

impl Chatter {
    async fn start(lab: &Lab) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut clients = Vec::new();
        for n in 0..HELD {
            let client = &lab.network().client;
            let open = async {
                let mut stream = TcpStream::connect(vip(80)).await?;
                exchange(&mut stream).await?;
                Ok(stream)
            };
            let mut stream = good("a connection", client.run(open).await);
            let stop = stop.clone();
            let pause = Duration::from_millis(10 + n as u64);
            clients.push(client.spawn(async move {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    timeout(PATIENCE, exchange(&mut stream)).await??;
                    answers += 1;
                    sleep(pause).await;
                }
                Ok(answers)
            }));
        }
        Self { stop, clients }
    }

    /// Each had answers to the end.
    async fn all_well(self) {
        self.stop.store(true, Ordering::Relaxed);
        for one in self.clients {
            let answers = good("an answer", one.await.expect("no panic"));
            assert!(answers > 0);
        }
    }

    async fn all_reset(self) {
        for one in self.clients {
            let end = one.await.expect("no panic").expect_err("it was cut").kind();
            assert!(
                matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                "{end:?}"
            );
        }
    }

    /// They stop by themselves after this long.
    fn stop_in(&self, time: Duration) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            sleep(time).await;
            stop.store(true, Ordering::Relaxed);
        });
    }
}

/// `failover --wait --json` on this node: its exit code and what it says.
async fn wait_for_failover(lab: &mut Lab, node: NodeId) -> (Option<i32>, Value) {
    let ended = ask(lab, node, &["failover", "--wait", "--json"]).await;
    let told = serde_json::from_slice(&ended.stdout);
    let told = told.unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.status.code(), told)
}

async fn goes_on() -> Result<(), LabError> {
    let (mut lab, first) = relaying("").await?;
    // On the old master, then on the new one.
    for asked_on_master in [true, false] {
        let master = lab.settled().await?;
        let chatter = Chatter::start(&lab).await;
        chatter.stop_in(Duration::from_secs(2));
        let asked = if asked_on_master {
            master
        } else {
            master.peer()
        };
        let (code, told) = wait_for_failover(&mut lab, asked).await;
        assert_eq!((code, &told["result"]), (Some(0), &"done".into()), "{told}");
        let drain = &told["drain"];
        assert_eq!(
            (&drain["of"], &drain["cut"]),
            (&HELD.into(), &0.into()),
            "{told}"
        );
        chatter.all_well().await;
        assert_eq!(lab.settled().await?, master.peer());
        good("a page", get(&lab.network().client, vip(80), "/").await);
    }
    assert_eq!(lab.settled().await?, first);
    Ok(())
}

async fn timeout_cuts() -> Result<(), LabError> {
    let (mut lab, master) = relaying("\n[proxy]\ndrain_timeout = \"2s\"\n").await?;
    let chatter = Chatter::start(&lab).await;
    let (code, told) = wait_for_failover(&mut lab, master).await;
    assert_eq!((code, &told["result"]), (Some(3), &"cut".into()), "{told}");
    assert_eq!(told["drain"]["cut"], HELD, "{told}");
    chatter.all_reset().await;
    Ok(())
}

/// Connections of both nodes, and switchovers faster than either drains.
async fn to_and_fro() -> Result<(), LabError> {
    let (mut lab, mut master) = relaying("").await?;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(Chatter::start(&lab).await);
        let moved = ask(&mut lab, master, &["failover"]).await;
        assert!(moved.status.success(), "{moved:?}");
        master = master.peer();
        let synced = |status: &Status| status.replication.in_sync;
        shows(&mut lab, master, "in sync", PATIENCE, synced).await;
        let drains = |status: &Status| status.drain.is_some();
        shows(&mut lab, master.peer(), "it drains", PATIENCE, drains).await;
    }
    sleep(Duration::from_secs(1)).await;
    for chatter in all {
        chatter.all_well().await;
    }
    Ok(())
}

async fn stop_waits() -> Result<(), LabError> {
    let (mut lab, master) = relaying("").await?;
    let chatter = Chatter::start(&lab).await;
    lab.node(master).signal(Signal::SIGTERM)?;
    let stops = |status: &Status| status.stopping && status.drain.is_some();
    shows(&mut lab, master, "it stops", PATIENCE, stops).await;
    // Longer than a stop without a drain may take.
    sleep(Duration::from_secs(4)).await;
    assert!(lab.node(master).is_running());
    chatter.all_well().await;
    let gone = until("it ends", PATIENCE, async || lab.node(master).ended()).await;
    assert!(gone.success(), "{gone}");
    good("a page", get(&lab.network().client, vip(80), "/").await);
    Ok(())
}

async fn second_signal() -> Result<(), LabError> {
    let (mut lab, master) = relaying("").await?;
    let chatter = Chatter::start(&lab).await;
    for _ in 0..2 {
        lab.node(master).signal(Signal::SIGTERM)?;
        sleep(Duration::from_secs(1)).await;
    }
    let gone = until("it ends", PATIENCE, async || lab.node(master).ended()).await;
    assert!(gone.success(), "{gone}");
    chatter.all_reset().await;
    Ok(())
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
