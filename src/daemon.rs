//! The composition root: adapters meet the node.
//!
//! Owns: start and stop, and which thread runs what. Never: decides anything; the turn loop
//! (`turn`) carries inputs to the node and outputs to the adapters.
//!
//! ```text
//!   main thread, real-time if the host allows it         ordinary threads
//!  ┌──────────────────────────────────────────────┐
//!  │ turn loop ── Node                            │      tandem-proxy-N   connections
//!  │   heartbeats   session with the peer         │      tandem-kernel    addresses, ARP, ND
//!  │   lease of the kernel mode                   │      tandem-nat       kernel mode
//!  │   dead-man timer, watchdog                   │      tandem-control   control socket, checks, sources
//!  │                                              │      tandem-metrics   /metrics, /healthz
//!  │                                              │      tandem-notify    the program of `[notify]`
//!  │                                              │      tandem-reload    files: read again, pushed, keys
//!  └──────────────────────────────────────────────┘
//! ```
//!
//! Every arrow between threads is a bounded channel. The turn loop never waits for one: what does
//! not fit is dropped and counted, and each adapter's documentation says how that heals. The one to
//! `tandem-nat` drops nothing; while much waits in it nothing is taken from the session, which holds
//! up the peer.

mod fatal;
mod files;
mod kernel_mode;
mod pace;
mod pair;
mod reload;
mod state;
mod supervisor;
mod turn;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::control::{self, Asked};
use crate::datapath::Proxy;
use crate::exporter;
use crate::finder::Finder;
use crate::model::{NodeId, Secret};
use crate::net::clock::{self, Clock};
use crate::net::guard::{self, DeadMan};
use crate::net::heartbeat::Heartbeats;
use crate::net::kernel::Kernel;
use crate::net::key::{self, Keyring};
use crate::net::session::{Session, Settings};
use crate::node::io::Input;
use crate::node::{Identity, Node};
use crate::notify::{self, Notifier};
use crate::probe::{Plans, Prober};
use crate::time::Mono;
use crate::wire::admin::{Request, Response};
use crate::wire::replication::{Hello, PROTOCOL};
use crate::wire::seal::{Knock, stick_key};

pub use fatal::Fatal;
use fatal::system;
use kernel_mode::Started;
use reload::Reloader;
use state::Keeper;
use turn::{Adapters, Arrivals, TurnLoop};

/// Batches of flow events that wait for the turn loop.
const FLOW_BATCHES: usize = 1_024;
/// Reports, results and requests that wait for the turn loop, of each kind.
const QUEUE: usize = 1_024;
/// Events of the session that wait for the turn loop. Few: what waits was decoded, by the same thread,
/// whether it rests or not; and 1,024 frames of a snapshot are 50 MB.
const SESSION_EVENTS: usize = 16;
/// Reports of the kernel mode that wait for the turn loop: 12 MB at most. What does not fit gathers in
/// its thread.
const NAT_REPORTS: usize = 64;
/// SCHED_FIFO priority of the turn loop: above ordinary work, below the kernel's own threads.
pub const PRIORITY: i32 = 40;

/// What `tandem run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Name of this node; none: the host name.
    pub node: Option<String>,
    /// Where to put the control socket.
    pub control: PathBuf,
    /// Where the kernel mode pins its tables.
    pub pins: PathBuf,
    /// Where what operators said of backends is kept.
    pub state: PathBuf,
    /// Changes what is logged.
    pub log: LogLevel,
}

/// What a change of the log's level calls.
type SetLevel = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Changes what is logged.
#[derive(Clone)]
pub struct LogLevel(Arc<SetLevel>);

impl LogLevel {
    /// By calling this.
    pub fn new(set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(set))
    }

    fn set(&self, level: &str) -> Result<(), String> {
        (self.0)(level)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel(..)")
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
///
/// What kept it from starting.
pub fn run(options: &Options) -> Result<(), Fatal> {
    let config = Arc::new(read_config(&options.config)?);
    let me = find_node(&config, options.node.as_deref())?;
    let ring = key::load(&config.cluster.key_file)?;
    for what in guard::prepare().shortfalls {
        tracing::warn!("{what}");
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the turn loop's runtime"))?;
    runtime.block_on(start(&config, me, &ring, options))
}

/// Reads and checks a configuration file.
///
/// # Errors
///
/// It cannot be read, or it has mistakes.
pub fn read_config(path: &Path) -> Result<Config, Fatal> {
    check_config(path, &read_text(path)?)
}

fn read_text(path: &Path) -> Result<String, Fatal> {
    std::fs::read_to_string(path).map_err(|source| Fatal::ConfigFile {
        path: path.to_owned(),
        source,
    })
}

/// Checks the text of this file.
fn check_config(path: &Path, text: &str) -> Result<Config, Fatal> {
    Config::parse(text)
        .map_err(|errors| Fatal::Config(errors.render(&path.display().to_string(), text, false)))
}

/// The node that this host is: the one of this name, or else of the host's own.
///
/// # Errors
///
/// There is none.
pub fn find_node(config: &Config, name: Option<&str>) -> Result<NodeId, Fatal> {
    let host = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let name = match name {
        Some(name) => name.to_owned(),
        None => host().map_err(|errno| system("read the host name")(errno.into()))?,
    };
    let known = || NodeId::BOTH.map(|id| format!("{:?}", config.node(id).name));
    config.node_named(&name).ok_or_else(|| Fatal::Nameless {
        known: known().join(" and "),
        name,
    })
}

/// Starts the adapters and turns until the node has stopped.
///
/// The order: the device of the addresses first, so that its descriptor is the lowest and closes
/// last when the process dies (`net::kernel`); listeners before the first heartbeat, so that a
/// node that may become master can serve; real-time priority last, so that no other thread
/// inherits it.
async fn start(
    config: &Arc<Config>,
    me: NodeId,
    ring: &Keyring,
    options: &Options,
) -> Result<(), Fatal> {
    let clock = Clock::start();
    let incarnation = clock::incarnation();
    let seed = u64::from_le_bytes(clock::entropy());

    let (reports, kernel_reports) = mpsc::channel(QUEUE);
    let kernel = Kernel::start(config, me, reports).await?;
    let (events, flows) = mpsc::channel(FLOW_BATCHES);
    let (nat_reports, nat) = mpsc::channel(NAT_REPORTS);
    let started = kernel_mode::start(config, me, &options.pins, seed, nat_reports)?;
    let file = (**config).clone();
    let config = &started.config;
    let (secret, name) = (&ring.first, &config.cluster.name);
    let stick_key = ring.affinity.unwrap_or_else(|| stick_key(secret, name));
    let proxy = Proxy::start(&kernel_mode::proxied(config), me, events, seed, stick_key)?;
    let rejected = Arc::new(AtomicU64::new(0));
    let (asks, requests) = mpsc::channel(QUEUE);
    let (results, probes) = mpsc::channel(QUEUE);
    let plans = Plans::load(config)?;
    let prober = Checkers {
        limit: config.health.concurrency.into(),
        plans,
        results,
    };
    let (tell_found, found) = mpsc::channel(QUEUE);
    let find = || Finder::run(config, seed, &tell_found);
    let (prober, finder) =
        start_control(options, asks.clone(), Arc::clone(&rejected), prober, find)?;
    // Its tasks have senders of their own.
    drop(tell_found);
    let second = ring.second.as_ref().map(|(_, second)| second);
    let last = second.unwrap_or(secret);
    let knocks = [secret, last].map(|secret| Knock::new(secret, name, me.peer()));
    let (heartbeats, datagrams) = Heartbeats::open(&paths(config, me).collect::<Vec<_>>(), knocks);
    let (session_events, session_arrivals) = mpsc::channel(SESSION_EVENTS);
    let hello = Hello {
        protocol: PROTOCOL,
        node: me,
        incarnation,
        config_hash: config.hash,
    };
    serve_metrics(config, &asks)?;
    let notifier = notifier(config, me)?;
    let session = Session::start(
        Settings {
            me,
            paths: paths(config, me)
                .map(|(_, here, there)| (here, there))
                .collect(),
            cluster: config.cluster.name.clone(),
            secret: secret.clone(),
            hello,
        },
        session_events,
    );
    let secrets: Vec<Secret> = [secret].into_iter().chain(second).cloned().collect();
    session.rekey(&secrets);

    if let Err(what) = guard::real_time(PRIORITY) {
        tracing::warn!("{what}");
    }
    let dead_man =
        DeadMan::arm(config.election.dead_man).map_err(system("arm the dead-man timer"))?;
    let identity = Identity {
        node: me,
        incarnation,
        started_unix_ms: clock.started_unix_ms(),
    };
    let mut node = Node::new(Arc::clone(config), identity, secret, seed, clock.now());
    node.rekey(&secrets);
    let mut fallback = BTreeSet::new();
    if let Some(fell_back) = &started.fallback {
        fallback.clone_from(&fell_back.services);
        let text = fell_back.note.clone();
        node.handle(Input::Note { text }, clock.now());
    }
    let (said, trouble) = state::recall(&options.state);
    if let Some(text) = trouble {
        node.handle(Input::Note { text }, clock.now());
    }
    node.handle(Input::Recall(said), clock.now());
    let keeper = Keeper::start(&options.state).map_err(system("start the state's thread"))?;
    let (tell_wishes, wishes) = mpsc::channel(1);
    let path = options.config.clone();
    let fell_back = started.fallback.is_some();
    let reloader = Reloader::start(path, me, file, fell_back, tell_wishes)
        .map_err(system("start the thread that reloads"))?;
    relay(&mut node, &started, &kernel, clock.now());
    for text in proxy.notes() {
        let text = text.clone();
        node.handle(Input::Note { text }, clock.now());
    }
    tracing::info!(
        node = %config.node(me).name,
        cluster = %config.cluster.name,
        config = %config.hash,
        life = %incarnation,
        "started"
    );
    let turn_loop = TurnLoop::new(
        node,
        clock,
        dead_man,
        Adapters {
            fallback,
            finder,
            heartbeats,
            keeper,
            kernel,
            kernel_mode: started.mode,
            lacking: started.lacking,
            log: options.log.clone(),
            notifier,
            prober,
            proxy,
            rejected,
            reloader,
            session,
        },
    )
    .map_err(system("listen for signals"))?;
    let arrivals = Arrivals {
        datagrams,
        flows,
        found,
        kernel_reports,
        nat,
        probes,
        requests,
        session: session_arrivals,
        wishes,
    };
    turn_loop.run(arrivals).await;
    tracing::info!("stopped");
    Ok(())
}

/// Where the program is, the addresses stand on this node whether it is master or not.
fn relay(node: &mut Node, started: &Started, kernel: &Kernel, now: Mono) {
    if !started.config.cluster.relay {
        return;
    }
    if started.mode.is_some() {
        kernel.stand();
        node.handle(Input::Relaying(true), now);
    }
    if let Some(what) = &started.lacking {
        let text = match started.mode {
            Some(_) => format!("the relay starts late when this process dies: {what}"),
            None => format!(
                "no relay: {what}; a switchover or a death of this process resets proxied connections"
            ),
        };
        node.handle(Input::Note { text }, now);
    }
}

/// The thread that tells of changes of role, if somebody wants to know.
fn notifier(config: &Config, me: NodeId) -> Result<Option<Notifier>, Fatal> {
    let Some(notify) = &config.notify else {
        return Ok(None);
    };
    let who = notify::Who {
        cluster: config.cluster.name.clone(),
        node: config.node(me).name.clone(),
        vips: config.vips.iter().map(|vip| vip.ip().to_string()).collect(),
    };
    let started = Notifier::start(notify, who).map_err(system("start the notifier's thread"))?;
    Ok(Some(started))
}

/// Whoever watches this node asks it as operators do.
fn serve_metrics(config: &Config, asks: &mpsc::Sender<Asked>) -> Result<(), Fatal> {
    let asks = asks.clone();
    let ask = move || {
        let asks = asks.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            let request = Request::Status;
            asks.send(Asked { request, reply }).await.ok()?;
            match answer.await.ok()? {
                Response::Status { status } => Some(*status),
                _ => None,
            }
        }
    };
    exporter::start(&config.metrics.listen, ask).map_err(system("start the metrics' thread"))
}

fn paths(
    config: &Config,
    me: NodeId,
) -> impl Iterator<
    Item = (
        crate::model::PathId,
        std::net::SocketAddr,
        std::net::SocketAddr,
    ),
> {
    let port = config.cluster.port;
    let (mine, peers) = (config.node(me), config.node(me.peer()));
    config
        .paths()
        .zip(mine.addresses.iter().zip(&peers.addresses))
        .map(move |(path, (here, there))| (path, (*here, port).into(), (*there, port).into()))
}

/// What the prober is started with.
struct Checkers {
    limit: usize,
    plans: Plans,
    results: mpsc::Sender<crate::health::probe::ProbeResult>,
}

/// The thread of what may be slow: operators, health checks, and sources of backends.
fn start_control(
    options: &Options,
    asks: mpsc::Sender<Asked>,
    rejected: Arc<AtomicU64>,
    checks: Checkers,
    find: impl FnOnce() -> Finder,
) -> Result<(Prober, Finder), Fatal> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the control runtime"))?;
    let _inside = runtime.enter();
    let server = control::Server::bind(&options.control)?;
    let prober = Prober::start(checks.plans, checks.results, checks.limit);
    let finder = find();
    thread::Builder::new()
        .name("tandem-control".into())
        .spawn(move || runtime.block_on(server.serve(asks, rejected)))
        .map_err(system("start the control thread"))?;
    Ok((prober, finder))
}
