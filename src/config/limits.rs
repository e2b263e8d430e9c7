//! Who may connect to a proxied service, how often backends are tried, and who waits for one.

use std::time::Duration;

use ipnet::IpNet;

use super::check::used;
use super::file::Service;
use super::report::{At, Report};
use super::service::OnDown;
use super::units::Fault;

/// A proxied service's limits, beyond `max_connections`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Clients that may connect. Empty: all that are not denied. Up to 256.
    pub allow: Vec<IpNet>,
    /// Clients that may not. Up to 256; none that is in `allow`.
    pub deny: Vec<IpNet>,
    /// New connections a second from one IPv4 address or one IPv6 /64; 0: any number. Default 0,
    /// up to 1,000,000.
    pub source_rate: u32,
    /// Backends tried after the first one failed. None: until all were tried. Up to 1,023.
    pub retries: Option<u16>,
    /// Time for all of them. None: any. 1 ms to 1 h.
    pub connect_deadline: Option<Duration>,
    /// Retries for a hundred connections. None: any number. 1 to 100.
    pub retry_budget: Option<u8>,
    /// Clients that wait while all backends of a pool are full. Default 0, up to 100,000.
    pub queue_size: u32,
    /// For how long. Default 5 s; 1 ms to 1 h.
    pub queue_timeout: Duration,
    /// What becomes of the connections of a backend that is judged down. Default `keep`.
    pub on_down: OnDown,
    /// When fewer than so many percent of a pool's backends serve, all are used. Default 0: never.
    pub panic_threshold: u8,
    /// How long a backend that came up gets a rising share. Default 0; up to 1 h.
    pub slow_start: Duration,
    /// Which connections are written to the log. Default `off`.
    pub log: Logged,
    /// One of so many of them. Default 1; up to 1,000,000.
    pub log_sample: u32,
}

/// Which connections are written to the log when they have ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Logged {
    /// All.
    All,
    /// Those that did not end in order.
    Errors,
    /// None.
    Off,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            source_rate: 0,
            retries: None,
            connect_deadline: None,
            retry_budget: None,
            queue_size: 0,
            queue_timeout: Duration::from_secs(5),
            on_down: OnDown::Keep,
            panic_threshold: 0,
            slow_start: Duration::ZERO,
            log: Logged::Off,
            log_sample: 1,
        }
    }
}

/// Reports what the keys of one service ask of each other.
pub(super) fn check(service: &Service, report: &Report<'_>) {
    let limits = &service.proxied.limits;
    let mut networks: Vec<(IpNet, &At)> = Vec::new();
    for net in [&limits.allow, &limits.deny]
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
    {
        match networks.iter().find(|(other, _)| *other == net.value) {
            Some((_, first)) => {
                let fault = used(
                    &net.value,
                    first,
                    "write each network once, in one of the lists",
                );
                report.fault(&net.at, fault);
            }
            None => networks.push((net.value, &net.at)),
        }
    }
    let queues = match &limits.queue_size {
        Some(Ok(size)) => size.value > 0,
        Some(Err(_)) => true,
        None => false,
    };
    if let Some(Ok(timeout)) = &limits.queue_timeout
        && !queues
    {
        let what = "without `queue_size` nobody waits";
        let remedy = "write queue_size = 1000, or remove `queue_timeout`";
        report.fault(&timeout.at, Fault::new(what, remedy));
    }
}
