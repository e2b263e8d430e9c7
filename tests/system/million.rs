//! A million connections in the tables of both nodes, and what has to go on as if there were none:
//! turns, a takeover, the killed node's return while clients go on, and a switchover back to it.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rtnetlink::RouteMessageBuilder;
use tandem::config::Config;
use tandem::lab::{
    Host, Lab, LabError, Rights, SERVICE, SOURCE4, VIP4, VIP6, backend_address, default_config,
    node_mac,
};
use tandem::model::{Mac, NodeId, Role};
use tandem::status::Status;
use tandem::wire::admin::Request;
use tokio::task::{JoinHandle, spawn_blocking};

use nix::sys::signal::Signal;

use super::crowd::{CLIENTS, Crowd, SERVER};
use super::tools::{FIRST, RIGHTS, SECOND, restart, shows, status, with};
use super::{Test, test};

/// Ports of the server, each a backend: a node has half of 49,152 ports towards each.
const BACKENDS: u16 = 64;
/// Connections that speak after each change.
const SPEAKERS: usize = 1_000;
/// Connections that begin while the killed node comes back, so many at a time.
const LATE: usize = 2_000;
const AT_A_TIME: usize = 100;
const SOON: Duration = Duration::from_secs(5);
/// Longest time of a million connections on their way to a node.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn tests() -> Vec<Test> {
    vec![test("million_flows_are_held_and_replicated", million)]
}

/// A million; in an unoptimised build, which takes 140 us for each, a part of it, unless
/// `TANDEM_FULL` is set.
fn connections() -> usize {
    let whole = !cfg!(debug_assertions) || std::env::var_os("TANDEM_FULL").is_some();
    if whole { 1_000_000 } else { 50_000 }
}

/// The lab's pair with one service in kernel mode, whose backends are ports of one address.
fn config() -> String {
    let text = default_config();
    let (head, _) = text
        .split_once("\n[[service]]")
        .expect("the lab's file has a service");
    let other = format!("\n[[vip]]\naddress = \"{VIP6}/64\"\ninterface = \"eth0\"\n");
    assert!(head.contains(&other), "{head}");
    let head = head.replace(&other, "");
    let mut text = format!(
        "{head}\n[[vip]]\naddress = \"{SOURCE4}/24\"\ninterface = \"eth1\"\n\n\
         [kernel]\nmax_flows = 1_200_000\nsync_timeout = \"1s\"\n\n\
         [[service]]\nname = \"{SERVICE}\"\nlisten = [\"{VIP4}:80\"]\nmode = \"kernel\"\n\
         source = \"{SOURCE4}\"\nreplication = \"sync\"\nbalance = \"round_robin\"\n\
         max_connections = 1_200_000\nconnect_timeout = \"900ms\"\n"
    );
    for n in 0..BACKENDS {
        let at = format!("{SERVER}:{}", 8_000 + n);
        let _ = write!(
            text,
            "\n[[service.backend]]\nname = \"p{n}\"\naddress = \"{at}\"\n"
        );
    }
    text
}

/// Has a node reach this network through that host.
async fn route(host: &Host, to: Ipv4Addr, prefix: u8, via: Ipv4Addr) {
    let route = RouteMessageBuilder::<Ipv4Addr>::new();
    let route = route.destination_prefix(to, prefix).gateway(via).build();
    let added = host.netlink().route().add(route).execute().await;
    added.unwrap_or_else(|error| panic!("a route to {to}: {error}"));
}

/// What a node is made of, as far as it grows with the connections.
#[derive(Clone, Copy, Debug)]
struct Size {
    resident: u64,
    /// Of its largest map.
    table: u64,
}

fn size(lab: &mut Lab, node: NodeId) -> Size {
    let pid = lab.node(node).pid().expect("it runs");
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let number = |line: &str| -> Option<u64> { line.split_whitespace().nth(1)?.parse().ok() };
    let resident = text.lines().find(|line| line.starts_with("VmRSS:"));
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("its files");
    let maps = files.filter_map(|file| {
        let text = fs::read_to_string(file.ok()?.path()).ok()?;
        number(text.lines().find(|line| line.starts_with("memlock:"))?)
    });
    Size {
        resident: resident.and_then(number).expect("a size") * 1024,
        table: maps.max().expect("it has maps"),
    }
}

/// Numbers of connections, each once.
fn some(count: usize, seed: u64) -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut chosen = std::collections::BTreeSet::new();
    while chosen.len() < SPEAKERS {
        chosen.insert(random.u32(..count as u32));
    }
    chosen.into_iter().collect()
}

/// The test and what it works with.
struct Stage {
    lab: Lab,
    crowd: Arc<Crowd>,
    count: usize,
    dead_man: Duration,
}

impl Stage {
    /// Some connections speak through this node, and are answered.
    async fn speak(&mut self, node: NodeId, seed: u64) {
        let (crowd, some) = (Arc::clone(&self.crowd), some(self.count, seed));
        let mac = node_mac(node);
        let speaking = spawn_blocking(move || crowd.speak(mac, &some, SOON));
        let silent = speaking.await.expect("no panic");
        assert_eq!(silent, 0, "of {SPEAKERS} connections through {node:?}");
        assert_eq!(self.crowd.astray(), (0, 0), "moved, reset");
    }

    /// Until told to stop, some connections speak through this node and others begin.
    fn traffic(&self, node: NodeId, late: Range<u32>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
        let (crowd, stop) = (Arc::clone(&self.crowd), Arc::clone(stop));
        let (mac, count) = (node_mac(node), self.count);
        spawn_blocking(move || {
            let mut late = late;
            for round in 100.. {
                let end = late.end.min(late.start + AT_A_TIME as u32);
                let opened = crowd.open(mac, late.start..end);
                assert_eq!(opened.missing, 0, "{opened:?}");
                late.start = end;
                let silent = crowd.speak(mac, &some(count, round)[..AT_A_TIME], SOON);
                assert_eq!(silent, 0, "of {AT_A_TIME} in round {round}");
                if late.is_empty() && stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        })
    }

    /// What must always hold of a node that serves or follows.
    fn healthy(&self, status: &Status) {
        let counters = &status.counters;
        let gap = Duration::from_micros(counters.longest_turn_gap_us);
        let nat = status.nat.as_ref().expect("kernel mode");
        let count = |name: &str| nat.counters.get(name).copied().unwrap_or(0);
        eprintln!(
            "{} {}: {} connections, {} in the table; longest time between turns {gap:?}, {} late \
             handshakes, {} rescans, {} events lost, {} failures, snapshots {}, resyncs {}",
            status.node,
            status.role,
            status.services[0].connections,
            nat.flows,
            nat.released_late,
            nat.rescans,
            count("lost_event"),
            count("map_failures"),
            status.replication.snapshots,
            status.replication.resyncs,
        );
        assert!(gap < self.dead_man, "{gap:?}");
        assert_eq!(counters.pauses, 0, "{counters:?}");
    }

    /// Waits until both nodes have every connection, and follow each other.
    async fn complete(&mut self, master: NodeId, within: Duration) {
        for node in [master, master.peer()] {
            let role = if node == master {
                Role::Master
            } else {
                Role::Backup
            };
            let count = self.count as u64;
            let shown = |status: &Status| {
                let nat = status.nat.as_ref().map(|nat| nat.flows);
                let whole = nat == Some(count) && status.services[0].connections == count;
                whole && status.replication.in_sync && status.role == role
            };
            let status = shows(&mut self.lab, node, "it has all", within, shown).await;
            self.healthy(&status);
        }
    }

    /// The killed node comes back to its peer, which goes on.
    async fn comes_back(&mut self, killed: NodeId) -> Result<(), LabError> {
        let clock = self.lab.clock();
        let (began, stop) = (clock.now(), Arc::new(AtomicBool::new(false)));
        let late = self.count as u32..(self.count + LATE) as u32;
        let traffic = self.traffic(killed.peer(), late, &stop);
        restart(&mut self.lab, killed).await?;
        let in_sync = |status: &Status| status.replication.in_sync && status.role == Role::Backup;
        shows(&mut self.lab, killed, "it follows", PATIENCE, in_sync).await;
        let took = clock.now().since(began);
        stop.store(true, Ordering::Relaxed);
        traffic.await.expect("all were answered");
        assert_eq!(self.crowd.astray(), (0, 0), "moved, reset");
        self.count += LATE;
        eprintln!("killed: it followed again {took:?} after its start");
        Ok(())
    }

    /// A planned switchover to this node.
    async fn switches_to(&mut self, heir: NodeId) -> Result<(), LabError> {
        let clock = self.lab.clock();
        let began = clock.now();
        self.lab.node(heir).call(&Request::Failover).await?;
        let leads =
            |status: &Status| status.role == Role::Master && status.vips.iter().all(|vip| vip.held);
        shows(&mut self.lab, heir, "it takes over", SOON, leads).await;
        self.speak(heir, 3).await;
        let took = clock.now().since(began);
        eprintln!("switchover: {SPEAKERS} connections spoke within {took:?}");
        self.complete(heir, PATIENCE).await;
        Ok(())
    }
}

async fn million() -> Result<(), LabError> {
    if *RIGHTS.get().expect("the tests run") == Rights::UserNamespace {
        // Its maps and programs need real root.
        return Ok(());
    }
    let count = connections();
    let text = config();
    let parsed =
        Config::parse(&text.replace("@DIR@", "/tmp")).unwrap_or_else(|errors| panic!("{errors}"));
    let mut lab = Lab::up(&with(text)).await?;
    let master = lab.settled().await?;
    let network = lab.network();
    for node in [FIRST, SECOND] {
        let host = network.node(node);
        route(host, CLIENTS, 24, Ipv4Addr::new(192, 0, 2, 10)).await;
        route(host, SERVER, 32, backend_address(0)).await;
    }
    for host in [&network.client, &network.backends[0]] {
        host.sysctl("ipv4/ip_forward", "0").await;
    }
    let mac = Mac([2, 0, 0, 0, 0, 10]);
    let crowd = Arc::new(Crowd::start(network, count + LATE, mac).await);
    let mut stage = Stage {
        lab,
        crowd,
        count,
        dead_man: parsed.election.dead_man,
    };

    let before = [FIRST, SECOND].map(|node| size(&mut stage.lab, node));
    let opener = Arc::clone(&stage.crowd);
    let opened = spawn_blocking(move || opener.open(node_mac(master), 0..count as u32)).await;
    let opened = opened.expect("no panic");
    eprintln!("{count} connections: {opened:?}");
    assert_eq!(opened.missing, 0, "{opened:?}");
    stage.complete(master, SOON).await;
    let first = status(&mut stage.lab, master).await;
    let nat = first.nat.as_ref().expect("kernel mode");
    assert!(nat.released_late < count as u64 / 100, "{nat:?}");
    let after = [FIRST, SECOND].map(|node| size(&mut stage.lab, node));
    for node in [FIRST, SECOND] {
        let (before, after) = (before[node.index()], after[node.index()]);
        let grown = after.resident.saturating_sub(before.resident) / count as u64;
        eprintln!(
            "memory of {}: {grown} bytes a connection ({} MB); the kernel's table {} MB, {} bytes \
             for each connection that it has room for",
            stage.lab.node(node).name(),
            after.resident >> 20,
            after.table >> 20,
            after.table / 1_200_000,
        );
        assert!(grown < 1_024, "{before:?} {after:?}");
    }
    stage.speak(master, 1).await;

    let clock = stage.lab.clock();
    let heir = master.peer();
    stage.lab.node(master).signal(Signal::SIGKILL)?;
    let killed = clock.now();
    shows(&mut stage.lab, heir, "it takes over", SOON, |status| {
        status.role == Role::Master && status.vips.iter().all(|vip| vip.held)
    })
    .await;
    stage.speak(heir, 2).await;
    let took = clock.now().since(killed);
    eprintln!("killed: {SPEAKERS} connections spoke within {took:?}");
    let heirs = status(&mut stage.lab, heir).await;
    stage.healthy(&heirs);

    stage.comes_back(master).await?;
    stage.complete(heir, SOON).await;
    stage.switches_to(master).await?;
    Ok(())
}
