//! The program in the kernel, in a daemon: it is started, or done without; and the leases by which it
//! forwards, accepts and hands over.
//!
//! It translates where a service is in kernel mode, and relays on every pair.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Fatal;
use crate::balance::nat::{NatCommand, NatReport, Relay};
use crate::config::{Config, Fallback};
use crate::datapath::nat::{self, Lease, NatError, NatHandle, NatOptions, Running};
use crate::model::{NodeId, Role};
use crate::net::clock;
use crate::status::NatStatus;
use crate::wire::admin::FlowStatus;

/// The program's clock lags by a jiffy, 10 ms at most.
const JIFFY: Duration = Duration::from_millis(10);

/// The running kernel mode.
pub(super) struct KernelMode {
    handle: NatHandle,
    lease: Lease,
    /// For how long the lease is given.
    length: Duration,
    /// Until when it holds, on `CLOCK_MONOTONIC`; none: this node may not forward.
    until: Option<Duration>,
    /// The process that was here before led. As long as nobody knows who leads now, its connections
    /// go on, and none begins: where its peer leads, no packet comes here.
    frozen: bool,
    /// Until when this node accepts, and gives a second chance; as `until`.
    accept: Option<Duration>,
    second: Option<Duration>,
    /// This node hands over: it decides nothing any more.
    yields: bool,
}

/// What became of the wish for it.
pub(super) struct Started {
    /// What this host can run: services that may are proxied where the kernel mode is not to be had.
    pub config: Arc<Config>,
    pub mode: Option<KernelMode>,
    /// What the relay lacks; with no mode it does not work at all.
    pub lacking: Option<String>,
    pub fallback: Option<FellBack>,
}

/// Services do without the kernel mode.
pub(super) struct FellBack {
    /// Their names.
    pub services: BTreeSet<String>,
    /// Why, for the timeline.
    pub note: String,
}

/// Starts the program if a service is in kernel mode, or the pair relays.
///
/// # Errors
///
/// It is not to be had, and a service does not want to be proxied.
pub(super) fn start(
    config: &Arc<Config>,
    me: NodeId,
    pins: &Path,
    seed: u64,
    reports: mpsc::Sender<NatReport>,
) -> Result<Started, Fatal> {
    let without_mode = |config, lacking, fallback| Started {
        config,
        mode: None,
        lacking,
        fallback,
    };
    let off = || Some("`cluster.relay` is false".to_owned());
    let needed = config.services.iter().any(|s| s.kernel.is_some());
    if !needed && !config.cluster.relay {
        sweep(pins);
        return Ok(without_mode(Arc::clone(config), off(), None));
    }
    let options = NatOptions {
        pins: pins.to_owned(),
        lease: lease_length(config),
        seed,
    };
    match nat::start(config, me, &options, reports) {
        Ok(Running {
            handle,
            lease,
            unwatched,
        }) => {
            let led = lease.until().is_ok_and(|until| until > 0);
            let mut mode = KernelMode {
                handle,
                lease,
                length: lease_length(config),
                until: None,
                frozen: led,
                accept: None,
                second: None,
                yields: false,
            };
            if led {
                mode.renew(clock::monotonic());
            }
            Ok(Started {
                config: Arc::clone(config),
                mode: Some(mode),
                lacking: if config.cluster.relay {
                    unwatched
                } else {
                    off()
                },
                fallback: None,
            })
        }
        Err(error) if !needed => {
            sweep(pins);
            let config = Arc::clone(config);
            Ok(without_mode(config, Some(error.to_string()), None))
        }
        Err(error) => {
            let lacking = Some(error.to_string());
            let services = config.services.iter().filter(|s| s.kernel.is_some());
            let fallback = FellBack {
                services: services.map(|service| service.name.clone()).collect(),
                note: format!(
                    "no kernel mode: {error}; its services are proxied, as their `fallback` says"
                ),
            };
            let config = without(config, error)?;
            sweep(pins);
            Ok(without_mode(config, lacking, Some(fallback)))
        }
    }
}

/// Takes out of the kernel what an earlier life left there: its program would drop what is proxied
/// now.
fn sweep(pins: &Path) {
    if !pins.exists() {
        return;
    }
    match nat::cleanup(pins) {
        Ok(removed) => {
            for what in removed {
                tracing::info!("removed {what}, which an earlier life of this node left");
            }
        }
        Err(error) => tracing::warn!("{error}"),
    }
}

/// A node that does not turn for so long may not forward any more. Its peer takes over after
/// heartbeat x misses at the earliest, and the program stops a jiffy late.
fn lease_length(config: &Config) -> Duration {
    let election = &config.election;
    let silence = election.heartbeat * u32::from(election.misses);
    election.dead_man.min(silence.saturating_sub(2 * JIFFY))
}

/// The same configuration with every service proxied, if they all may be.
fn without(config: &Config, error: NatError) -> Result<Arc<Config>, Fatal> {
    let refuses = |mode: &crate::config::KernelMode| mode.fallback == Fallback::Refuse;
    let services = config.services.iter();
    let stuck: Vec<&str> = services
        .filter(|service| service.kernel.as_ref().is_some_and(refuses))
        .map(|service| service.name.as_str())
        .collect();
    if !stuck.is_empty() {
        return Err(Fatal::KernelMode {
            services: stuck.join(", "),
            source: Box::new(error),
        });
    }
    let mut config = config.clone();
    for service in &mut config.services {
        service.kernel = None;
    }
    Ok(Arc::new(config))
}

/// The services that are proxied.
pub(super) fn proxied(config: &Config) -> Config {
    let mut config = config.clone();
    config.services.retain(|service| service.kernel.is_none());
    config
}

impl KernelMode {
    /// Carries out what the node wants. The lease changes hands at once, ahead of what the thread
    /// has still to do.
    pub(super) fn command(&mut self, command: NatCommand) {
        match command {
            NatCommand::Lead => {
                self.frozen = false;
                self.renew(clock::monotonic());
            }
            NatCommand::Yield => self.lapse(),
            NatCommand::Relay(relay) => self.relay(relay, clock::monotonic()),
            _ => {}
        }
        self.handle.command(command);
    }

    /// The thread has much to learn still: nothing is to be taken from the session until it has
    /// [`caught_up`](Self::caught_up).
    pub(super) fn is_behind(&self) -> bool {
        self.handle.is_behind()
    }

    /// See [`is_behind`](Self::is_behind).
    pub(super) async fn caught_up(&self) {
        self.handle.caught_up().await;
    }

    /// The node has made a turn, and is this now. A quarter of the lease may pass before it is
    /// renewed.
    pub(super) fn turned(&mut self, role: Role) {
        // A master leads once its addresses are there.
        if self.frozen && !matches!(role, Role::Initialize | Role::Master) {
            self.lapse();
        }
        let now = clock::monotonic();
        let least = self.length * 3 / 4;
        let due =
            |until: Option<Duration>| until.is_some_and(|until| until.saturating_sub(now) < least);
        if due(self.accept) || due(self.second) {
            let relay = Relay {
                accept: self.accept.is_some(),
                asks: false,
                second_chance: self.second.is_some(),
                yields: self.yields,
            };
            self.relay(relay, now);
        }
        if due(self.until) {
            self.renew(now);
        }
    }

    /// Begins these, or goes on with them.
    fn relay(&mut self, relay: Relay, now: Duration) {
        let until = |on: bool| on.then_some(now + self.length);
        (self.accept, self.second) = (until(relay.accept), until(relay.second_chance));
        if std::mem::replace(&mut self.yields, relay.yields) != relay.yields && self.until.is_some()
        {
            self.renew(now);
        }
        let nanos = |until: Option<Duration>| until.map_or(0, |until| until.as_nanos() as u64);
        let set = self
            .lease
            .accept(nanos(self.accept))
            .and_then(|()| self.lease.second_chance(nanos(self.second)));
        if let Err(error) = set {
            tracing::error!("{error}");
        }
    }

    fn renew(&mut self, now: Duration) {
        let until = now + self.length;
        self.until = Some(until);
        self.set(until);
    }

    fn lapse(&mut self) {
        (self.until, self.frozen, self.yields) = (None, false, false);
        self.set(Duration::ZERO);
    }

    fn set(&mut self, until: Duration) {
        let until = until.as_nanos() as u64;
        let set = match self.frozen || self.yields {
            true => self.lease.freeze(until),
            false => self.lease.renew(until),
        };
        if let Err(error) = set {
            tracing::error!("{error}");
        }
    }

    /// Fills in what this node has forwarded of these connections.
    pub(super) fn measure(
        &self,
        flows: Vec<FlowStatus>,
        done: impl FnOnce(Vec<FlowStatus>) + Send + 'static,
    ) {
        self.handle.measure(flows, done);
    }

    /// How it is.
    pub(super) fn status(&self) -> NatStatus {
        NatStatus {
            forwarding: self.until.is_some_and(|until| clock::monotonic() < until),
            ..(*self.handle.status()).clone()
        }
    }

    /// Takes everything out of the kernel.
    pub(super) fn stop(self) {
        self.handle.stop();
    }
}
