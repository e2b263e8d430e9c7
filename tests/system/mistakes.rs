//! What operators and broken hosts do to a pair: another key, another file, an absent peer, an
//! address that somebody removes.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, VIP4, VIP6, default_config, node_mac};
use tandem::model::Role;
use tandem::net::key;
use tandem::status::{Cause, Status, What};
use tokio::time::sleep;

use super::http::get;
use super::tools::{
    FIRST, SECOND, all_answered, ask, good, notes, restart, shows, standing, until, vip, vip6, with,
};
use super::{Test, test};

const SOON: Duration = Duration::from_secs(5);
/// Of 20 heartbeats a second with another knock, one in 32 is let in, by lot (`net::door`): none of
/// 600 once in 200 million runs.
const BY_LOT: Duration = Duration::from_secs(30);
const KEY_HINT: &str = "compare [cluster] name and the key file on both nodes";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("mistake_another_key_is_told_on_both_and_heals", another_key),
        test(
            "mistake_another_configuration_is_told_on_both_and_works",
            another_configuration,
        ),
        test(
            "mistake_an_absent_peer_is_told_and_joins_later",
            absent_peer,
        ),
        test(
            "mistake_a_bad_file_keeps_a_node_down_and_its_peer_up",
            bad_file,
        ),
        test("mistake_a_removed_address_comes_back", removed_address),
    ]
}

/// Two nodes that cannot read each other are each alone, and the VIP belongs to both: what two
/// nodes can promise of a partition holds for it, too.
async fn another_key() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    key::generate(&lab.dir().join("other"))?;
    let other = default_config().replace("@DIR@/key", "@DIR@/other");
    assert_ne!(other, default_config());
    lab.configure(SECOND, &other)?;
    lab.start_node(FIRST).await?;
    let alone = shows(&mut lab, FIRST, "lb1 is master", SOON, |s| {
        s.role == Role::Master
    })
    .await;
    good("a page", get(&lab.network().client, vip(80), "/").await);
    lab.start_node(SECOND).await?;

    for node in [FIRST, SECOND] {
        until("the hint", BY_LOT, async || {
            let notes = notes(&mut lab, node).await.ok()?;
            notes
                .iter()
                .any(|note| note.contains(KEY_HINT))
                .then_some(())
        })
        .await;
        let status = shows(&mut lab, node, "it counts them", SOON, |status| {
            // Of a session, the second node judges: it listens.
            let faults = status.counters.session_faults;
            status.counters.heartbeats_rejected > 0 && (node == FIRST || faults > 0)
        });
        let status = status.await;
        assert_eq!(
            (status.peer.alive, status.replication.connected),
            (false, false)
        );
        let log = fs::read_to_string(lab.node(node).log()).unwrap();
        assert!(log.contains(KEY_HINT), "{log}");
    }
    shows(&mut lab, SECOND, "lb2 is alone, too", SOON, |s| {
        s.role == Role::Master
    })
    .await;
    let first = lab.node(FIRST).status().await?;
    assert_eq!(
        (first.role, first.epoch),
        (Role::Master, alone.epoch),
        "lb1 has not moved"
    );
    // Whoever of the two the client's neighbour table believes, it gets its page.
    let load = lab.load();
    sleep(Duration::from_millis(500)).await;
    let record = load.stop().await;
    eprintln!("two keys: {:?} {:?}", record.answers(), record.failures());
    assert!(!record.answers().is_empty());

    // The right key, and all is well without a hand on lb1.
    lab.configure(SECOND, &default_config())?;
    lab.node(SECOND).signal(Signal::SIGTERM)?;
    restart(&mut lab, SECOND).await?;
    assert_eq!(lab.settled().await?, FIRST, "the one that stayed is master");
    let watch = lab.watch().await?;
    let load = lab.load();
    let began = lab.clock().now();
    sleep(Duration::from_millis(500)).await;
    all_answered(&load.stop().await);
    let seen = watch.stop();
    assert_eq!(seen.owners_max(began, lab.clock().now()), 1);
    assert!(seen.0.iter().all(|seen| seen.owner == node_mac(FIRST)));
    Ok(())
}

async fn another_configuration() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    // The first one again, under another name.
    let more = "\n[[service.backend]]\nname = \"b4\"\naddress = \"198.51.100.21:80\"\n";
    lab.configure(SECOND, &(default_config() + more))?;
    lab.start().await?;
    let master = lab.settled().await?;
    for node in [FIRST, SECOND] {
        let status = lab.node(node).status().await?;
        assert_eq!(status.peer.same_config, Some(false), "{status:#?}");
        let notes = notes(&mut lab, node).await?;
        let told = notes
            .iter()
            .filter(|note| note.contains("another configuration"));
        assert_eq!(told.count(), 1, "{notes:?}");
        let text = ask(&mut lab, node, &["status"]).await;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains("configuration"), "{text}");
        let named = |status: &Status| {
            status.peer.differs == ["service web: backend b4.address, backend b4.weight"]
        };
        let what = "what differs";
        shows(&mut lab, node, what, Duration::from_secs(5), named).await;
    }
    // It is a pair all the same: a drain of a backend that both know goes over, and so does the VIP.
    let drained = ask(&mut lab, master, &["drain", "web/b2"]).await;
    assert!(drained.status.success(), "{drained:?}");
    let moved = ask(&mut lab, master, &["failover"]).await;
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!(lab.settled().await?, master.peer());
    let before = lab.backend(1).served();
    let load = lab.load();
    sleep(Duration::from_millis(300)).await;
    all_answered(&load.stop().await);
    assert_eq!(
        lab.backend(1).served(),
        before,
        "b2 is drained on the new master"
    );
    Ok(())
}

async fn absent_peer() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    lab.start_node(FIRST).await?;
    let alone = shows(&mut lab, FIRST, "lb1 is master", SOON, |status| {
        status.role == Role::Master && status.vips.iter().all(|vip| vip.held)
    });
    let alone = alone.await;
    assert!(!alone.peer.alive && !alone.replication.connected && !alone.replication.in_sync);
    let why = alone.last_transition.clone().map(|event| event.what);
    assert!(
        matches!(
            why,
            Some(What::Transition {
                cause: Cause::Alone,
                ..
            })
        ),
        "{why:?}"
    );
    let text = ask(&mut lab, FIRST, &["status"]).await;
    let text = String::from_utf8_lossy(&text.stdout).to_lowercase();
    assert!(
        text.contains("no redundancy") || text.contains("not redundant"),
        "{text}"
    );
    for vip in [vip(80), vip6(80)] {
        good("a page", get(&lab.network().client, vip, "/").await);
    }
    let load = lab.load();
    lab.start_node(SECOND).await?;
    assert_eq!(lab.settled().await?, FIRST, "who serves goes on");
    sleep(Duration::from_millis(300)).await;
    all_answered(&load.stop().await);
    let now = lab.node(FIRST).status().await?;
    assert_eq!(
        (now.epoch, &now.last_transition),
        (alone.epoch, &alone.last_transition)
    );
    Ok(())
}

async fn bad_file() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let backup = master.peer();
    lab.node(backup).signal(Signal::SIGTERM)?;
    let bad = default_config().replace("round_robin", "round_robbin");
    lab.configure(backup, &bad)?;
    let load = lab.load();
    restart(&mut lab, backup).await?;
    let ended = until("it gives up", SOON, async || lab.node(backup).ended()).await;
    assert_eq!(ended.code(), Some(64), "{ended}");
    let log = fs::read_to_string(lab.node(backup).log()).unwrap();
    assert!(
        log.contains("round_robbin") && log.contains("round_robin"),
        "{log}"
    );
    sleep(Duration::from_millis(500)).await;
    all_answered(&load.stop().await);
    let status = lab.node(master).status().await?;
    assert_eq!(status.role, Role::Master);
    assert!(status.vips.iter().all(|vip| vip.held && vip.restored == 0));
    lab.configure(backup, &default_config())?;
    lab.start().await?;
    assert_eq!(lab.settled().await?, master);
    Ok(())
}

async fn removed_address() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let before = standing(&mut lab).await;
    let load = lab.load();
    let clock = lab.clock();
    for (n, address) in [VIP4.into(), VIP6.into()].into_iter().enumerate() {
        sleep(Duration::from_millis(200)).await;
        let removed = clock.now();
        let network = lab.network();
        assert!(
            network.strip(network.node(master), address).await?,
            "{address} was there"
        );
        shows(&mut lab, master, "it is back", SOON, |status| {
            status.vips[n].restored == 1 && status.vips[n].held
        })
        .await;
        eprintln!("{address} is back after {:.1?}", clock.now().since(removed));
        good(
            "a page",
            get(&lab.network().client, [vip(80), vip6(80)][n], "/").await,
        );
    }
    sleep(Duration::from_millis(200)).await;
    let record = load.stop().await;
    eprintln!(
        "{:?}, outage {:.1?}",
        record.failures(),
        record.outage(tandem::time::Mono::ZERO)
    );
    let (_, outage) = record.outage(tandem::time::Mono::ZERO).expect("answers");
    assert!(outage < Duration::from_secs(1), "{outage:?}");
    let notes = notes(&mut lab, master).await?;
    assert_eq!(
        notes
            .iter()
            .filter(|note| note.contains("somebody removed"))
            .count(),
        2,
        "{notes:?}"
    );
    assert_eq!(standing(&mut lab).await, before, "nobody else took over");
    Ok(())
}
