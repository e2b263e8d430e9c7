//! The lab as a whole: network, backends and both nodes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Server;
use super::config::{
    CONFIG_FILE, DIR, KEY_FILE, PORT, backend_name, default_config, is_kernel_mode,
};
use super::error::LabError;
use super::held::Held;
use super::load::Load;
use super::node::NodeProcess;
use super::owners::Watch;
use super::pins::Pins;
use super::scratch::Scratch;
use super::survive::Board;
use super::topology::{BACKENDS, Network, VIP4, backend_address, backend_address6};
use crate::config::Config;
use crate::model::{NodeId, Role};
use crate::net::clock::Clock;
use crate::net::key;
use crate::status::Status;

/// How long a pair may take to settle, after a start as after a fault.
const SETTLE: Duration = Duration::from_secs(15);
/// Time between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// What to build.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// The program that the nodes run.
    pub binary: PathBuf,
    /// The configuration file's text; `@DIR@` stands for the lab's directory, where the key lies.
    pub config: String,
}

impl LabConfig {
    /// The default configuration.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            config: default_config(),
        }
    }

    /// The text, in this directory.
    pub(super) fn text(&self, dir: &Path) -> String {
        self.config.replace(DIR, &dir.display().to_string())
    }
}

/// The whole pair on one machine. Everything ends when this is dropped.
///
/// The order of the fields is the order of the end: processes, servers, network, pins, files.
#[derive(Debug)]
pub struct Lab {
    nodes: [NodeProcess; 2],
    backends: [Server; BACKENDS],
    network: Network,
    /// None where the host does not permit it.
    pins: Option<Pins>,
    scratch: Scratch,
    clock: Clock,
    /// What the backends note about uploads.
    board: Arc<Board>,
    /// After this long with or without a fault there is one owner again.
    pub(super) settling: Duration,
    /// Who was master when the last run ended.
    pub(super) last_master: Option<NodeId>,
}

impl Lab {
    /// Makes the network, starts the backends, writes key and configuration. The nodes are not
    /// started yet. Call [`enter`](super::enter) first thing in `main`.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn build(config: &LabConfig) -> Result<Self, LabError> {
        let clock = Clock::start();
        let scratch = Scratch::new().map_err(LabError::io("make the lab's directory"))?;
        key::generate(&scratch.path().join(KEY_FILE))?;
        let text = config.text(scratch.path());
        let written = scratch.write(CONFIG_FILE, &text);
        written.map_err(LabError::io(format!("write {CONFIG_FILE}")))?;
        let pins = match Pins::mount(scratch.path()) {
            Ok(pins) => Some(pins),
            // Without real root there is no relay, and all is proxied.
            Err(_) if !is_kernel_mode(&text) => None,
            Err(error) => {
                let what = "mount a bpf file system, which the kernel mode needs real root for";
                return Err(LabError::io(what)(error));
            }
        };
        let network = Network::build().await?;
        let board = Arc::new(Board::new(clock));
        let server = async |n: usize| {
            let addresses: [IpAddr; 2] = [backend_address(n).into(), backend_address6(n).into()];
            let addresses = addresses.map(|address| SocketAddr::new(address, PORT));
            let (host, name) = (&network.backends[n], backend_name(n));
            Server::start_with(host, &name, addresses.into(), board.clone()).await
        };
        let backends = [server(0).await?, server(1).await?, server(2).await?];
        let node = |id| {
            let mut node = NodeProcess::new(id, scratch.path(), &config.binary);
            if let Some(pins) = &pins {
                node.pin_to(pins.of(node.name()));
            }
            node
        };
        Ok(Self {
            nodes: NodeId::BOTH.map(node),
            backends,
            network,
            pins,
            scratch,
            clock,
            board,
            settling: settling(&text),
            last_master: None,
        })
    }

    /// Builds, starts both nodes and waits until the pair is settled.
    ///
    /// # Errors
    ///
    /// As [`Self::build`], [`Self::start`] and [`Self::settled`].
    pub async fn up(config: &LabConfig) -> Result<Self, LabError> {
        let mut lab = Self::build(config).await?;
        lab.start().await?;
        lab.settled().await?;
        Ok(lab)
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    ///
    /// If one cannot be started.
    pub async fn start(&mut self) -> Result<(), LabError> {
        for id in NodeId::BOTH {
            self.start_node(id).await?;
        }
        Ok(())
    }

    /// Starts this node, unless it runs.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub async fn start_node(&mut self, id: NodeId) -> Result<(), LabError> {
        self.nodes[id.index()].start(self.network.node(id)).await
    }

    /// Gives one node a configuration of its own, from its next start on. `@DIR@` stands for the
    /// lab's directory.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn configure(&mut self, id: NodeId, text: &str) -> Result<(), LabError> {
        let node = &mut self.nodes[id.index()];
        let file = format!("{}.toml", node.name());
        let dir = self.scratch.path();
        let text = text.replace(DIR, &dir.display().to_string());
        let written = std::fs::write(dir.join(&file), text);
        written.map_err(LabError::io(format!("write {file}")))?;
        node.read_from(&file);
        Ok(())
    }

    /// What the power takes with it when it goes: a node's pinned programs and maps.
    pub(super) fn forget_pins(&mut self, id: NodeId) -> Result<(), LabError> {
        let name = self.nodes[id.index()].name();
        let forgotten = self.pins.as_ref().map_or(Ok(()), |pins| pins.forget(name));
        forgotten.map_err(LabError::io(format!("remove the pins of {name}")))
    }

    /// A node.
    pub const fn node(&mut self, id: NodeId) -> &mut NodeProcess {
        &mut self.nodes[id.index()]
    }

    /// The network.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// The clock of everything that the lab measures.
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Where connections that stay are counted.
    pub(super) const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The n-th backend.
    pub const fn backend(&self, n: usize) -> &Server {
        &self.backends[n]
    }

    /// Closes the listener of the n-th backend; connections that stand go on.
    pub async fn stop_backend(&mut self, n: usize) {
        self.backends[n].stop().await;
    }

    /// Opens the listener of the n-th backend again.
    ///
    /// # Errors
    ///
    /// If its address cannot be bound.
    pub async fn start_backend(&mut self, n: usize) -> Result<(), LabError> {
        self.backends[n].resume(&self.network.backends[n]).await
    }

    /// Starts to probe the VIP from the client.
    pub fn load(&self) -> Load {
        let target = SocketAddr::new(VIP4.into(), PORT);
        Load::start(&self.network.client, target, self.clock)
    }

    /// Opens connections to the VIP from the client, and keeps using them.
    pub fn hold(&self) -> Held {
        let target = SocketAddr::new(VIP4.into(), PORT);
        Held::start(&self.network.client, target, self.clock)
    }

    /// Starts to watch who answers for the VIP.
    ///
    /// # Errors
    ///
    /// If the packet sockets cannot be opened.
    pub async fn watch(&self) -> Result<Watch, LabError> {
        Watch::start(&self.network.watch, self.clock).await
    }

    /// Every node's status, in the file's order; none of a node that does not answer.
    pub async fn statuses(&mut self) -> [Option<Status>; 2] {
        let mut all = [None, None];
        for (node, status) in self.nodes.iter_mut().zip(&mut all) {
            if node.is_running() {
                *status = node.status().await.ok();
            }
        }
        all
    }

    /// The nodes that say that they are master.
    pub async fn masters(&mut self) -> Vec<NodeId> {
        let statuses = self.statuses().await;
        let master = |id: &NodeId| role(&statuses[id.index()]) == Some(Role::Master);
        NodeId::BOTH.into_iter().filter(master).collect()
    }

    /// The nodes that ended although nobody ended them.
    pub(super) fn ended_by_themselves(&mut self) -> Vec<String> {
        let nodes = self.nodes.iter_mut();
        nodes.filter_map(NodeProcess::ended_by_itself).collect()
    }

    /// Waits until one node is master and holds every VIP, the other is its backup and in sync,
    /// and both see every backend up. Who is master.
    ///
    /// # Errors
    ///
    /// If that does not come about, or a node ended.
    pub async fn settled(&mut self) -> Result<NodeId, LabError> {
        let deadline = Instant::now() + SETTLE;
        loop {
            for node in &mut self.nodes {
                node.check()?;
            }
            let statuses = self.statuses().await;
            if let Some(master) = settled_master(&statuses) {
                return Ok(master);
            }
            if Instant::now() >= deadline {
                return Err(LabError::TooLate {
                    what: "a settled pair".to_owned(),
                    seconds: SETTLE.as_secs(),
                    state: describe(&statuses),
                });
            }
            sleep(LOOK).await;
        }
    }

    /// Waits until the master's status shows this; whether it did in time.
    pub async fn master_shows(
        &mut self,
        within: Duration,
        shown: impl Fn(&Status) -> bool,
    ) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let statuses = self.statuses().await;
            let mut masters = statuses.iter().flatten().filter(|s| s.role == Role::Master);
            if masters.any(&shown) {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }
}

fn role(status: &Option<Status>) -> Option<Role> {
    status.as_ref().map(|status| status.role)
}

/// What the nodes give a silent peer, and a little for everything else. A file that is wrong on
/// purpose settles nothing.
fn settling(text: &str) -> Duration {
    let silence = |config: Config| config.election.heartbeat * u32::from(config.election.misses);
    Config::parse(text).map_or(Duration::ZERO, silence) + Duration::from_millis(200)
}

fn settled_master(statuses: &[Option<Status>; 2]) -> Option<NodeId> {
    let at = |id: NodeId| statuses[id.index()].as_ref();
    NodeId::BOTH.into_iter().find(|id| {
        let (Some(master), Some(backup)) = (at(*id), at(id.peer())) else {
            return false;
        };
        let roles = (master.role, backup.role) == (Role::Master, Role::Backup);
        let holds = master.vips.iter().all(|vip| vip.held);
        let free = backup.vips.iter().all(|vip| !vip.held);
        let both = [master, backup];
        let in_sync = both
            .iter()
            .all(|s| s.replication.connected && s.replication.in_sync);
        roles && holds && free && in_sync && both.iter().all(|status| all_up(status))
    })
}

fn all_up(status: &Status) -> bool {
    let mut backends = status.services.iter().flat_map(|service| &service.backends);
    backends.all(|backend| backend.up || backend.leaving)
}

fn describe(statuses: &[Option<Status>; 2]) -> String {
    let words = statuses.iter().map(|status| match status {
        None => "no answer".to_owned(),
        Some(s) => format!(
            "{} is {}{}, {} of {} VIPs held, session {}, {}, backends {}",
            s.node,
            s.role,
            s.fault
                .as_ref()
                .map_or_else(String::new, |why| format!(" ({why})")),
            s.vips.iter().filter(|vip| vip.held).count(),
            s.vips.len(),
            if s.replication.connected {
                "up"
            } else {
                "down"
            },
            if s.replication.in_sync {
                "in sync"
            } else {
                "not in sync"
            },
            if all_up(s) { "up" } else { "not all up" },
        ),
    });
    words.collect::<Vec<_>>().join("; ")
}
