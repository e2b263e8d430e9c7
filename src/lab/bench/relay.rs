//! `--bench relay`: a pair beside itself without the relay (`cluster.relay = false`).
//!
//! Both pairs stand all the time, each in a network of its own, and each has its turn right after
//! the other, so that what else the machine does is the same for both. Their nodes start anew for
//! every second round, so that no luck of one process is in all of them. In proxy mode the pair
//! without the relay has no program in the kernel; in kernel mode it has one all the same, but no
//! addresses that stand on both nodes, and nothing is handed over.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::client::{Kind as Do, Work};
use super::report::{Layout, Ratio};
use super::rivals::{Cost, Kind, Rival};
use super::server::{Block, Server};
use super::{
    EACH, Figure, GBIT, Ground, Measured, P50, P99, PER_GB, PER_SECOND, Program, Stage,
    background_cpus, unpaced,
};
use crate::lab::config::{Mode, PORT, SERVICE, mode_config};
use crate::lab::error::LabError;
use crate::lab::netns::Rights;
use crate::lab::pair::{Lab, LabConfig};
use crate::lab::topology::{BACKENDS, VIP4, backend_address, backend_address6};
use crate::model::NodeId;
use crate::status::Status;

/// Port of the servers, beside those of the lab.
const TO: u16 = 8_000;
/// Time for both nodes to know each other on their links, and for a node to stop.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

pub(super) const PROGRAM: Program = Program {
    name: "relay",
    works: &[
        Work::new(Do::Down, 4),
        Work::new(Do::Up, 4),
        Work::new(Do::Connections, 64),
        Work::new(Do::Requests, 32),
    ],
    figures: &[
        Figure::rate("bulk down, 4 streams", "Gbit/s", 0, GBIT),
        Figure::time("bulk down, CPU", "s/GB", 0, PER_GB),
        Figure::rate("bulk up, 4 streams", "Gbit/s", 1, GBIT),
        Figure::time("bulk up, CPU", "s/GB", 1, PER_GB),
        Figure::rate("new connections, 64 at once", "1/s", 2, PER_SECOND),
        Figure::time("new connections, CPU", "us each", 2, EACH),
        Figure::time("new connections, p50", "us", 2, P50),
        Figure::time("new connections, p99", "us", 2, P99),
        Figure::rate("requests, 32 connections", "1/s", 3, PER_SECOND),
        Figure::time("requests, CPU", "us each", 3, EACH),
    ],
    layout: Layout {
        columns: &[Kind::Without, Kind::Relay],
        ratios: &[Ratio {
            name: "relay_to_without",
            of: Kind::Relay,
            to: Kind::Without,
        }],
        spread: true,
    },
    cost: Cost::Lab,
};

/// The pair that was compared with itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pair {
    /// How its service ran.
    pub(super) mode: Mode,
    /// Where the master's kernel called the program, without the relay.
    hooks_without: Vec<String>,
    /// The same with it.
    hooks_relay: Vec<String>,
}

/// One of the two.
#[derive(Debug)]
struct Side {
    stage: Stage,
    rival: Rival,
    mode: Mode,
    /// Who has been master from the start on, and where its kernel calls the program.
    state: Option<(NodeId, Vec<String>)>,
}

/// Measures. In each round both have a turn at each kind of work, in every other round the other
/// way round.
pub(super) async fn measure(
    binary: &Path,
    rights: Rights,
    mode: Mode,
    rounds: u32,
    note: impl Fn(&str),
) -> Result<Measured, LabError> {
    if rights == Rights::UserNamespace {
        return Err(LabError::NotAllowed {
            why: "the kernel takes no programs from a user namespace, so the relay needs real root"
                .to_owned(),
        });
    }
    let mut sides = [
        Side::new(binary, mode, Kind::Without).await?,
        Side::new(binary, mode, Kind::Relay).await?,
    ];
    let (mut samples, mut background) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        note(&format!("round {round} of {rounds} ..."));
        if round % 2 == 1 {
            let [without, relay] = &mut sides;
            tokio::try_join!(without.begin(), relay.begin())?;
        }
        background.push(background_cpus().await?);
        for (nth, work) in PROGRAM.works.iter().enumerate() {
            let mut turn = [&sides[0], &sides[1]];
            if round % 2 == 0 {
                turn.reverse();
            }
            for Side { stage, rival, .. } in turn {
                let sample = stage.sample(*work, rival, PROGRAM.cost).await?;
                samples.push((nth, round, rival.kind, sample));
            }
        }
        for side in &mut sides {
            side.check().await?;
        }
    }
    let [without, relay] = sides;
    Ok(Measured {
        program: PROGRAM,
        samples,
        memory: None,
        background,
        haproxy: None,
        nftables: None,
        no_kernel_mode: None,
        congestion_control: relay.stage.congestion_control,
        pair: Some(Pair {
            mode,
            hooks_without: without.hooks(),
            hooks_relay: relay.hooks(),
        }),
    })
}

impl Side {
    /// Network and servers; the nodes are not started yet.
    async fn new(binary: &Path, mode: Mode, kind: Kind) -> Result<Self, LabError> {
        let block = Block::new().map_err(LabError::io("make a file in memory"))?;
        let mut config = LabConfig::new(binary);
        config.config = text(mode, kind == Kind::Relay);
        let lab = Lab::build(&config).await?;
        let network = lab.network();
        let congestion_control = unpaced(network.hosts()).await;
        let mut servers = Vec::new();
        for n in 0..BACKENDS {
            let addresses: [IpAddr; 2] = [backend_address(n).into(), backend_address6(n).into()];
            let addresses = addresses.map(|address| SocketAddr::new(address, TO));
            let host = &network.backends[n];
            servers.push(Server::start(host, addresses.to_vec(), block.clone()).await?);
        }
        let rival = Rival {
            kind,
            to: vec![SocketAddr::new(VIP4.into(), PORT)],
            pid: None,
        };
        let stage = Stage {
            rivals: Vec::new(),
            _haproxies: Vec::new(),
            _servers: servers,
            _routers: Vec::new(),
            ground: Ground::Pair(Box::new(lab)),
            block,
            congestion_control,
            nftables: None,
            no_kernel_mode: None,
        };
        Ok(Self {
            stage,
            rival,
            mode,
            state: None,
        })
    }

    /// Starts both nodes anew, and waits until they are what they should be.
    async fn begin(&mut self) -> Result<(), LabError> {
        let (mode, relay) = (self.mode, self.rival.kind == Kind::Relay);
        let lab = self.stage.ground.pair();
        if let Some((master, _)) = &self.state {
            stop(lab, *master).await?;
        }
        lab.start().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let master = lab.settled().await?;
            let statuses = lab.statuses().await;
            let all = statuses.iter().flatten();
            let wrong: Vec<_> = all.filter_map(|s| wrong(s, mode, relay)).collect();
            if wrong.is_empty() {
                let status = statuses.into_iter().nth(master.index()).flatten();
                let nat = status.and_then(|status| status.nat);
                self.state = Some((master, nat.map_or_else(Vec::new, |nat| nat.hooks)));
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LabError::TooLate {
                    what: format!("a pair whose relay is {relay}"),
                    seconds: PATIENCE.as_secs(),
                    state: wrong.join("; "),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Whether the same node was master all the time, as far as one can see.
    async fn check(&mut self) -> Result<(), LabError> {
        let masters = self.stage.ground.pair().masters().await;
        let master = self.state.as_ref().map(|(master, _)| *master);
        match masters.iter().copied().eq(master) {
            true => Ok(()),
            false => Err(LabError::Disturbed {
                what: "the mastership moved during a measurement".to_owned(),
            }),
        }
    }

    fn hooks(self) -> Vec<String> {
        self.state.map_or_else(Vec::new, |(_, hooks)| hooks)
    }
}

/// The pair's file. A second without heartbeats is allowed: the machine is as busy as it can be, and
/// who is master is not what is measured.
fn text(mode: Mode, relay: bool) -> String {
    let text = mode_config(&[(SERVICE, mode, PORT)], TO);
    text.replace("misses = 3", "misses = 10")
        .replace("[cluster]\n", &format!("[cluster]\nrelay = {relay}\n"))
}

/// What a node has that it should not have, or not what it should.
fn wrong(status: &Status, mode: Mode, relay: bool) -> Option<String> {
    let program = relay || mode.is_kernel();
    let what = match &status.relay {
        it if it.wanted != relay => format!("its file says {}", it.wanted),
        it if it.works != relay => it.lacking.clone().unwrap_or_else(|| "it works".to_owned()),
        _ if status.nat.is_some() != program => format!("its program: {:?}", status.nat),
        _ => return None,
    };
    Some(format!("{}: {what}", status.node))
}

/// Stops both nodes, and forgets what they have in the kernel.
async fn stop(lab: &mut Lab, master: NodeId) -> Result<(), LabError> {
    // The backup first, so that nobody takes over.
    for id in [master.peer(), master] {
        lab.node(id).signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while lab.node(id).is_running() {
            if Instant::now() >= deadline {
                return Err(LabError::TooLate {
                    what: format!("the stop of {}", lab.node(id).name()),
                    seconds: PATIENCE.as_secs(),
                    state: "it still runs".to_owned(),
                });
            }
            sleep(LOOK).await;
        }
        lab.forget_pins(id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::lab::config::DIR;

    #[test]
    fn the_two_files_differ_by_the_relay_alone() {
        for mode in [Mode::Proxy, Mode::Sync, Mode::Async] {
            let [with, without] = [true, false].map(|relay| {
                let config = Config::parse(&text(mode, relay).replace(DIR, "/tmp"));
                let config = config.unwrap_or_else(|errors| panic!("{errors}"));
                assert_eq!((config.cluster.relay, config.election.misses), (relay, 10));
                text(mode, relay)
            });
            assert_eq!(with.replace("relay = true", "relay = false"), without);
        }
    }

    #[test]
    fn a_pair_that_is_not_what_was_asked_for_is_not_measured() {
        let mut status = Status::default();
        assert_eq!(wrong(&status, Mode::Proxy, false), None);
        assert!(wrong(&status, Mode::Sync, false).is_some(), "no program");
        assert!(wrong(&status, Mode::Proxy, true).is_some(), "not wanted");
        status.relay.wanted = true;
        status.relay.lacking = Some("no peer".to_owned());
        let lacks = wrong(&status, Mode::Proxy, true);
        assert!(lacks.is_some_and(|what| what.contains("no peer")));
        assert!(wrong(&status, Mode::Proxy, false).is_some(), "wanted");
    }
}
