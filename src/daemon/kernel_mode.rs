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
use crate::balance::nat::leases::Leases;
use crate::balance::nat::{NatCommand, NatReport};
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
    leases: Leases,
    margin: Margin,
}

/// The least that was left of a lease when it was renewed: within this minute, and within the last one.
#[derive(Debug, Default)]
struct Margin {
    since: Duration,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Margin {
    const WINDOW: Duration = Duration::from_mins(1);

    fn add(&mut self, left: Option<Duration>, now: Duration) {
        if now >= self.since + Self::WINDOW {
            self.since = now;
            self.before = self.now.take();
        }
        self.now = self.now.into_iter().chain(left).min();
    }

    fn least(&self) -> Option<Duration> {
        self.now.into_iter().chain(self.before).min()
    }
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
                leases: Leases::start(
                    lease_length(config),
                    config.election.stall(),
                    led,
                    clock::monotonic(),
                ),
                margin: Margin::default(),
            };
            mode.write();
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
    Ok(Arc::new(all_proxied(config)))
}

/// The same configuration with every service proxied.
pub(super) fn all_proxied(config: &Config) -> Config {
    let mut config = config.clone();
    for service in &mut config.services {
        service.kernel = None;
    }
    config
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
        self.leases.command(&command, clock::monotonic());
        self.write();
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

    /// The node has made a turn, and is this now.
    pub(super) fn turned(&mut self, role: Role) {
        let now = clock::monotonic();
        let until = Duration::from_nanos(self.leases.rights().until);
        let leads = role == Role::Master && !until.is_zero();
        self.margin
            .add(leads.then(|| until.saturating_sub(now)), now);
        self.leases.turned(role, now);
        self.write();
    }

    /// What fails is tried again at the next turn.
    fn write(&mut self) {
        if let Err(error) = self.lease.set(self.leases.rights()) {
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
            lease_margin_us: self.margin.least().map(|left| left.as_micros() as u64),
            forwarding: clock::monotonic().as_nanos() < self.leases.rights().until.into(),
            ..(*self.handle.status()).clone()
        }
    }

    /// Takes everything out of the kernel.
    pub(super) fn stop(self) {
        self.handle.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_margin_is_forgotten_after_two_minutes() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let mut margin = Margin::default();
        margin.add(None, s(1));
        assert_eq!(margin.least(), None);
        for (left, at, least) in [
            (200, 2, 200),
            (3, 3, 3),
            (190, 61, 3),
            (180, 122, 180),
            (195, 200, 180),
            (195, 290, 195),
        ] {
            margin.add(Some(ms(left)), s(at));
            assert_eq!(margin.least(), Some(ms(least)), "{at}");
        }
    }
}
