//! Who gets which connection, and what the nodes say of them.

use std::io;
use std::time::Duration;

use tandem::lab::{BACKENDS, Lab, LabError, SOURCE4};
use tandem::model::{AdminState, NodeId};
use tandem::status::{Mode, Status};
use tandem::wire::admin::{FlowState, FlowStatus};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, SOON, Service, all_go_on, nat, open, up};
use crate::tools::{ask, good, shows, status, until, vip};
use crate::{Test, test};

/// Connections that are shared out, and clients that open them.
const MANY: u64 = 600;
const CLIENTS: u64 = 6;
const LIMIT: usize = 60;
/// Connections beyond the limit that may begin until the node has counted.
const SLACK: usize = 15;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "kernel_weights_are_met_exactly_and_the_limit_about",
            weights_and_limit,
        ),
        test(
            "kernel_drained_backends_get_nothing_new_and_both_nodes_tell",
            drain_and_tell,
        ),
    ]
}

/// Connections of `clients` tasks, each one after the other.
async fn load(lab: &Lab, count: u64, clients: u64) {
    let mut all = Vec::new();
    for _ in 0..clients {
        all.push(lab.network().client.spawn(async move {
            for _ in 0..count / clients {
                timeout(PATIENCE, open(vip(80))).await??;
            }
            Ok::<_, io::Error>(())
        }));
    }
    for one in all {
        good("a page", one.await.expect("it does not panic"));
    }
}

fn served(lab: &Lab) -> [u64; BACKENDS] {
    [0, 1, 2].map(|n| lab.backend(n).served())
}

async fn weights_and_limit() -> Result<(), LabError> {
    let keys = format!("balance = \"weighted_round_robin\"\nmax_connections = {LIMIT}\n");
    let mut lab = up(&[Service {
        keys: &keys,
        weights: [3, 2, 1],
        ..Service::default()
    }])
    .await?;
    let master = lab.settled().await?;
    load(&lab, MANY, CLIENTS).await;
    assert_eq!(served(&lab), [MANY / 2, MANY / 3, MANY / 6]);
    let told = shows(
        &mut lab,
        master,
        "all are counted and over",
        SOON,
        |status| {
            let web = &status.services[0];
            web.total == MANY && web.connections == 0
        },
    );
    let told = told.await.services[0]
        .backends
        .iter()
        .map(|b| b.total)
        .collect::<Vec<_>>();
    assert_eq!(told, served(&lab));

    let client = &lab.network().client;
    let mut held = Vec::new();
    let refused = loop {
        match client
            .run(timeout(PATIENCE, open(vip(80))))
            .await
            .expect("an answer")
        {
            Ok(one) => held.push(one),
            Err(error) => break error,
        }
        assert!(held.len() <= LIMIT + SLACK, "there is a limit");
    };
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(held.len() >= LIMIT, "{}", held.len());
    eprintln!("max_connections {LIMIT}: {} went through", held.len());
    until("it is counted", SOON, async || {
        let limited = nat(&mut lab, master).await;
        (limited.counters["drop_no_backend"] >= 1).then_some(())
    })
    .await;
    // Those that stand go on, and when some of them leave there is room again.
    let client = &lab.network().client;
    let mut held = all_go_on(client, held, PATIENCE).await;
    held.truncate(LIMIT / 2);
    shows(&mut lab, master, "they have left", SOON, |status| {
        status.services[0].connections == LIMIT as u64 / 2
    })
    .await;
    let again = lab
        .network()
        .client
        .run(timeout(PATIENCE, open(vip(80))))
        .await;
    good("there is room", again.expect("in time"));
    Ok(())
}

async fn drain_and_tell() -> Result<(), LabError> {
    let mut lab = up(&[Service::default()]).await?;
    let master = lab.settled().await?;
    let backup = master.peer();
    let held = super::open_all(&lab.network().client, vip(80), 6).await;
    let local = |stream: &TcpStream| stream.local_addr().expect("it is connected");
    let mut clients: Vec<_> = held
        .iter()
        .map(|(stream, at)| (local(stream), *at))
        .collect();
    clients.sort_unstable();

    for node in [master, backup] {
        shows(&mut lab, node, "it knows them", SOON, |status| {
            let nat = status.nat.as_ref().expect("it has kernel mode");
            let known = |s: &Status| (s.services[0].connections, s.replication.flows, nat.flows);
            known(status) == (6, 6, 6)
        })
        .await;
        let now = status(&mut lab, node).await;
        let leads = node == master;
        let (web, nat) = (
            &now.services[0],
            now.nat.as_ref().expect("it has kernel mode"),
        );
        assert_eq!(web.mode, Mode::Kernel);
        let each: Vec<_> = web.backends.iter().map(|b| b.connections).collect();
        assert_eq!(each, [2, 2, 2]);
        assert_eq!(
            (web.total, nat.forwarding),
            if leads { (6, true) } else { (0, false) }
        );
        assert_eq!(nat.hooks.len(), 2, "{:?}", nat.hooks);
        assert!(now.replication.in_sync && !nat.degraded, "{now:#?}");
        let listed = ask(&mut lab, node, &["flows", "--json"]).await;
        let mut listed: Vec<FlowStatus> =
            serde_json::from_slice(&listed.stdout).expect("a list of connections");
        listed.sort_by_key(|flow| flow.client);
        for (flow, (client, at)) in listed.iter().zip(&clients) {
            assert_eq!((flow.client, flow.listen), (*client, Some(vip(80))));
            assert_eq!(
                (flow.mode, flow.state),
                (Mode::Kernel, FlowState::Established)
            );
            assert_eq!(
                (&*flow.service, flow.backend.clone()),
                ("web", format!("b{at}"))
            );
            assert_eq!(flow.source.map(|it| it.ip()), Some(SOURCE4.into()));
        }
        assert_eq!(listed.len(), 6);
        assert_eq!(counted(&mut lab, node).await, "6");
        let text = ask(&mut lab, node, &["status"]).await;
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        let does = if leads {
            "kernel mode: forwarding"
        } else {
            "kernel mode: standing by"
        };
        assert!(
            text.contains(does) && text.contains("6 of 131,072 connections"),
            "{text}"
        );
    }

    let drained = ask(&mut lab, master, &["drain", "web/b1"]).await;
    assert!(drained.status.success(), "{drained:?}");
    // Between two publications there is a millisecond; the rest is the machine's.
    sleep(Duration::from_millis(50)).await;
    let before = served(&lab);
    load(&lab, 30, 1).await;
    assert_eq!(gained(&lab, before), [0, 15, 15]);
    let held = all_go_on(&lab.network().client, held, PATIENCE).await;
    shows(&mut lab, backup, "the backup knows", SOON, |status| {
        status.services[0].backends[0].admin == AdminState::Drain
    })
    .await;
    let enabled = ask(&mut lab, master, &["enable", "web/b1"]).await;
    assert!(enabled.status.success(), "{enabled:?}");
    sleep(Duration::from_millis(50)).await;
    let before = served(&lab);
    load(&lab, 30, 1).await;
    assert_eq!(gained(&lab, before), [10, 10, 10]);
    drop(held);
    for node in [master, backup] {
        shows(&mut lab, node, "all are over", SOON, |status| {
            status.replication.flows == 0 && status.services[0].connections == 0
        })
        .await;
        assert_eq!(counted(&mut lab, node).await, "0");
    }
    Ok(())
}

async fn counted(lab: &mut Lab, node: NodeId) -> String {
    let count = ask(lab, node, &["flows", "--count"]).await;
    String::from_utf8_lossy(&count.stdout).trim().to_owned()
}

fn gained(lab: &Lab, before: [u64; BACKENDS]) -> [u64; BACKENDS] {
    let now = served(lab);
    [0, 1, 2].map(|n| now[n] - before[n])
}
