//! `--bench proxy`: one node alone on lb1, as master; HAProxy on lb2, as it comes and tuned.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::{Kind as Do, Work, idle};
use super::report::{Layout, Ratio, Row};
use super::rivals::{Cost, Haproxy, Kind, Rival};
use super::server::{Block, Server};
use super::{
    EACH, Figure, GBIT, Ground, P50, P99, PER_GB, PER_SECOND, Program, Stage, WINDOW, unpaced,
};
use crate::lab::config::{CONFIG_FILE, KEY_FILE, PORT};
use crate::lab::error::LabError;
use crate::lab::node::NodeProcess;
use crate::lab::pair::LabConfig;
use crate::lab::scratch::Scratch;
use crate::lab::topology::{BACKENDS, Network, VIP4, backend_address, node_addresses};
use crate::model::{NodeId, Role};
use crate::net::key;

/// Connections whose memory is measured.
pub(super) const IDLE: usize = 2_000;
/// Time for the node to become master and to see its backends up.
const SETTLE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);
/// Port of the tuned HAProxy, which shares its host with the other one.
const TUNED_PORT: u16 = 81;

const LAYOUT: Layout = Layout {
    columns: &[Kind::Direct, Kind::Tandem, Kind::Haproxy, Kind::Tuned],
    ratios: &[
        Ratio {
            name: "to_haproxy",
            of: Kind::Tandem,
            to: Kind::Haproxy,
        },
        Ratio {
            name: "to_tuned",
            of: Kind::Tandem,
            to: Kind::Tuned,
        },
    ],
    spread: false,
};

pub(super) const PROGRAM: Program = Program {
    name: "proxy",
    works: &[
        Work::new(Do::Down, 8),
        Work::new(Do::Up, 8),
        Work::new(Do::Requests, 32),
        Work::new(Do::Connections, 16),
        Work::PACED,
    ],
    figures: &[
        Figure::rate("bulk down, 8 streams", "Gbit/s", 0, GBIT),
        Figure::own("bulk down, CPU", "s/GB", 0, PER_GB),
        Figure::rate("bulk up, 8 streams", "Gbit/s", 1, GBIT),
        Figure::own("bulk up, CPU", "s/GB", 1, PER_GB),
        Figure::rate("requests, 32 connections", "1/s", 2, PER_SECOND),
        Figure::own("requests, CPU", "us each", 2, EACH),
        Figure::rate("new connections, 16 at once", "1/s", 3, PER_SECOND),
        Figure::own("new connections, CPU", "us each", 3, EACH),
        Figure::time("2,000 requests/s, p50", "us", 4, P50),
        Figure::time("2,000 requests/s, p99", "us", 4, P99),
        Figure::own("2,000 requests/s, CPU", "us each", 4, EACH),
    ],
    layout: LAYOUT,
    cost: Cost::Process,
};

/// The order of the fields is the order of the end.
#[derive(Debug)]
pub(super) struct Alone {
    _node: NodeProcess,
    network: Network,
    _scratch: Scratch,
}

impl Alone {
    pub(super) const fn network(&self) -> &Network {
        &self.network
    }
}

pub(super) async fn stage(config: &LabConfig, haproxy: bool) -> Result<Stage, LabError> {
    let scratch = Scratch::new().map_err(LabError::io("make the lab's directory"))?;
    key::generate(&scratch.path().join(KEY_FILE))?;
    let written = scratch.write(CONFIG_FILE, &config.text(scratch.path()));
    written.map_err(LabError::io(format!("write {CONFIG_FILE}")))?;
    let network = Network::build().await?;
    network.plug_client_into_back().await?;
    let congestion_control = unpaced(network.hosts()).await;
    let block = Block::new().map_err(LabError::io("make a file in memory"))?;
    let mut servers = Vec::new();
    let mut backends = Vec::new();
    for n in 0..BACKENDS {
        let address = SocketAddr::new(backend_address(n).into(), PORT);
        let server = Server::start(&network.backends[n], vec![address], block.clone());
        servers.push(server.await?);
        backends.push(address);
    }
    let (lb1, lb2) = (NodeId::BOTH[0], NodeId::BOTH[1]);
    let mut node = NodeProcess::new(lb1, scratch.path(), &config.binary);
    node.start(network.node(lb1)).await?;
    alone(&mut node).await?;
    let direct = Rival {
        kind: Kind::Direct,
        to: backends,
        pid: None,
    };
    let tandem = Rival {
        kind: Kind::Tandem,
        to: vec![SocketAddr::new(VIP4.into(), PORT)],
        pid: node.pid(),
    };
    let (mut haproxies, mut rivals) = (Vec::new(), vec![direct, tandem]);
    if haproxy {
        let address = node_addresses(lb2)[0];
        for (kind, port) in [(Kind::Haproxy, PORT), (Kind::Tuned, TUNED_PORT)] {
            let (haproxy, rival) = Haproxy::start(
                kind,
                scratch.path(),
                network.node(lb2),
                &network.client,
                SocketAddr::new(address.into(), port),
                PORT,
            )
            .await?;
            haproxies.push(haproxy);
            rivals.push(rival);
        }
    }
    Ok(Stage {
        rivals,
        _haproxies: haproxies,
        _servers: servers,
        _routers: Vec::new(),
        ground: Ground::Alone(Box::new(Alone {
            _node: node,
            network,
            _scratch: scratch,
        })),
        block,
        congestion_control,
        nftables: None,
        no_kernel_mode: None,
    })
}

impl Stage {
    /// Bytes for one idle connection, of each.
    pub(super) async fn memory(&self) -> Result<Vec<(Kind, f64)>, LabError> {
        let mut all = Vec::new();
        for rival in &self.rivals {
            all.push((rival.kind, self.memory_of(rival).await?));
        }
        Ok(all)
    }

    async fn memory_of(&self, rival: &Rival) -> Result<f64, LabError> {
        let before = rival.memory()?;
        let opened = idle(&self.ground.network().client, rival.to.clone(), IDLE).await;
        let what = format!("open {IDLE} connections to {}", rival.kind.name());
        let streams = opened.map_err(LabError::io(what))?;
        // What the connections left to be done is done by then.
        sleep(WINDOW / 2).await;
        let after = rival.memory()?;
        drop(streams);
        sleep(WINDOW / 2).await;
        Ok(after.saturating_sub(before) as f64 / IDLE as f64)
    }
}

pub(super) fn memory_row(memory: &[(Kind, f64)]) -> Row {
    let idle = |kind, _| {
        let mut known = memory.iter().filter(|(k, _)| *k != Kind::Direct);
        known
            .find(|(k, _)| *k == kind)
            .map(|(_, bytes)| bytes / 1024.0)
    };
    Row::new(
        "memory of an idle connection",
        "KiB",
        false,
        1,
        LAYOUT,
        idle,
    )
}

/// Waits until the node is master, holds the addresses and has its backends.
async fn alone(node: &mut NodeProcess) -> Result<(), LabError> {
    let deadline = Instant::now() + SETTLE;
    loop {
        node.check()?;
        let status = node.status().await;
        if let Ok(status) = &status
            && status.role == Role::Master
            && status.vips.iter().all(|vip| vip.held)
            && status
                .services
                .iter()
                .flat_map(|service| &service.backends)
                .all(|backend| backend.up)
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(LabError::TooLate {
                what: "mastership".to_owned(),
                seconds: SETTLE.as_secs(),
                state: status.map_or_else(|error| error.to_string(), |s| s.role.to_string()),
            });
        }
        sleep(LOOK).await;
    }
}
