//! `--bench kernel`: a pair with a service of each mode, beside a router, a router that translates
//! addresses by nftables, and HAProxy on the router's host. All reach the same servers.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::client::{Kind as Do, Work};
use super::report::{Layout, Ratio};
use super::rivals::{Cost, Haproxy, Kind, Rival};
use super::routers::{FORWARD, forward_address, nft, router};
use super::server::{Block, Server};
use super::{
    EACH, Figure, GBIT, Ground, LONGEST, MACHINE, P50, P99, PER_GB, PER_SECOND, Program, Stage,
    unpaced,
};
use crate::lab::config::{Mode, mode_config};
use crate::lab::error::LabError;
use crate::lab::netns::Rights;
use crate::lab::pair::{Lab, LabConfig};
use crate::lab::topology::{BACKENDS, VIP4, backend_address, backend_address6};

/// Port of the servers, beside those of the lab.
const TO: u16 = 8_000;

/// Each mode's service, and its port.
const SERVICES: [(&str, Mode, u16, Kind); 3] = [
    ("proxy", Mode::Proxy, 80, Kind::Proxy),
    ("async", Mode::Async, 81, Kind::Async),
    ("sync", Mode::Sync, 82, Kind::Sync),
];

const fn ratio(name: &'static str, of: Kind, to: Kind) -> Ratio {
    Ratio { name, of, to }
}

pub(super) const PROGRAM: Program = Program {
    name: "kernel",
    works: &[
        Work::new(Do::Down, 1),
        Work::new(Do::Down, 4),
        Work::new(Do::Connections, 64),
        Work::new(Do::Requests, 32),
    ],
    figures: &[
        Figure::rate("bulk, 1 stream", "Gbit/s", 0, GBIT),
        Figure::time("bulk, 1 stream, CPU", "s/GB", 0, PER_GB),
        Figure::rate("bulk, 4 streams", "Gbit/s", 1, GBIT),
        Figure::time("bulk, 4 streams, CPU", "s/GB", 1, PER_GB),
        Figure::rate("new connections, 64 at once", "1/s", 2, PER_SECOND),
        Figure::time("new connections, CPU", "us each", 2, EACH),
        Figure::share("new connections, balancer's share", "us each", 2, EACH),
        Figure::time("new connections, CPU of the machine", "us each", 2, MACHINE),
        Figure::share("the same, balancer's share", "us each", 2, MACHINE),
        Figure::time("new connections, p50", "us", 2, P50),
        Figure::time("new connections, p99", "us", 2, P99),
        Figure::time("new connections, longest", "ms", 2, LONGEST),
        Figure::rate("requests, 32 connections", "1/s", 3, PER_SECOND),
        Figure::time("requests, CPU", "us each", 3, EACH),
        Figure::share("requests, balancer's share", "us each", 3, EACH),
        Figure::time("requests, p50", "us", 3, P50),
        Figure::time("requests, p99", "us", 3, P99),
    ],
    layout: Layout {
        columns: &[
            Kind::Direct,
            Kind::Forward,
            Kind::Nft,
            Kind::Haproxy,
            Kind::Proxy,
            Kind::Async,
            Kind::Sync,
        ],
        ratios: &[
            ratio("nft_to_forward", Kind::Nft, Kind::Forward),
            ratio("haproxy_to_forward", Kind::Haproxy, Kind::Forward),
            ratio("proxy_to_forward", Kind::Proxy, Kind::Forward),
            ratio("async_to_forward", Kind::Async, Kind::Forward),
            ratio("sync_to_forward", Kind::Sync, Kind::Forward),
            ratio("proxy_to_haproxy", Kind::Proxy, Kind::Haproxy),
            ratio("async_to_haproxy", Kind::Async, Kind::Haproxy),
            ratio("sync_to_haproxy", Kind::Sync, Kind::Haproxy),
        ],
        spread: false,
    },
    cost: Cost::Lab,
};

pub(super) async fn stage(binary: &Path, rights: Rights, haproxy: bool) -> Result<Stage, LabError> {
    let block = Block::new().map_err(LabError::io("make a file in memory"))?;
    let (lab, servers, no_kernel_mode) = match pair(binary, true, &block).await {
        Ok((lab, servers)) => (lab, servers, None),
        // The others are worth measuring all the same.
        Err(error) => {
            let why = match rights {
                Rights::UserNamespace => {
                    "the kernel takes no programs from a user namespace; run as root".to_owned()
                }
                Rights::Root => error.to_string(),
            };
            let (lab, servers) = pair(binary, false, &block).await?;
            (lab, servers, Some(why))
        }
    };
    let network = lab.network();
    network.plug_client_into_back().await?;
    let mut rivals = vec![
        Rival {
            kind: Kind::Direct,
            to: backends(|n| backend_address(n).into()),
            pid: None,
        },
        Rival {
            kind: Kind::Forward,
            to: backends(|n| forward_address(n).into()),
            pid: None,
        },
    ];
    let mut routers = vec![router(network, "router", FORWARD).await?];
    network.route_through(&routers[0]).await?;
    let translating = nft(network, TO).await?;
    let nftables = translating.map(|(host, address, version)| {
        routers.push(host);
        rivals.push(Rival {
            kind: Kind::Nft,
            to: vec![SocketAddr::new(address.into(), TO)],
            pid: None,
        });
        version
    });
    let congestion_control = unpaced(network.hosts().chain(&routers)).await;
    let mut haproxies = Vec::new();
    if haproxy {
        let listen = SocketAddr::new(FORWARD.front().into(), TO);
        let (haproxy, rival) = Haproxy::start(
            Kind::Haproxy,
            lab.dir(),
            &routers[0],
            &network.client,
            listen,
            TO,
        )
        .await?;
        haproxies.push(haproxy);
        rivals.push(rival);
    }
    for (_, mode, port, kind) in SERVICES {
        if !mode.is_kernel() || no_kernel_mode.is_none() {
            let to = vec![SocketAddr::new(VIP4.into(), port)];
            rivals.push(Rival {
                kind,
                to,
                pid: None,
            });
        }
    }
    Ok(Stage {
        rivals,
        _haproxies: haproxies,
        _servers: servers,
        _routers: routers,
        ground: Ground::Pair(Box::new(lab)),
        block,
        congestion_control,
        nftables,
        no_kernel_mode,
    })
}

fn backends(address: impl Fn(usize) -> IpAddr) -> Vec<SocketAddr> {
    let all = (0..BACKENDS).map(address);
    all.map(|address| SocketAddr::new(address, TO)).collect()
}

/// A settled pair and its servers, with or without services in kernel mode.
async fn pair(binary: &Path, kernel: bool, block: &Block) -> Result<(Lab, Vec<Server>), LabError> {
    let services = SERVICES
        .iter()
        .filter(|(_, mode, ..)| kernel || !mode.is_kernel());
    let services: Vec<_> = services
        .map(|(name, mode, port, _)| (*name, *mode, *port))
        .collect();
    let mut config = LabConfig::new(binary);
    config.config = mode_config(&services, TO);
    let mut lab = Lab::build(&config).await?;
    let network = lab.network();
    let mut servers = Vec::new();
    for n in 0..BACKENDS {
        let host = &network.backends[n];
        network.add_forward_address(n).await?;
        let addresses: [IpAddr; 3] = [
            backend_address(n).into(),
            backend_address6(n).into(),
            forward_address(n).into(),
        ];
        let addresses = addresses.map(|address| SocketAddr::new(address, TO));
        servers.push(Server::start(host, addresses.to_vec(), block.clone()).await?);
    }
    lab.start().await?;
    lab.settled().await?;
    Ok((lab, servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_of_a_work_and_every_ratio_of_columns() {
        for program in [
            PROGRAM,
            super::super::proxy::PROGRAM,
            super::super::relay::PROGRAM,
        ] {
            let works = program.works.len();
            assert!(program.figures.iter().all(|figure| figure.work < works));
            let columns = program.layout.columns;
            let mut ratios = program.layout.ratios.iter();
            assert!(ratios.all(|r| columns.contains(&r.of) && columns.contains(&r.to)));
        }
    }
}
