//! The command line of `tandem backend`. No logic.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Control;

/// What to do with backends.
#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// List backends with their origin. Works on either node.
    #[command(after_help = "\
Example:
  tandem backend list
  tandem backend list --service web --json | jq -r '.[].name'")]
    List(List),

    /// Add a backend. It has its pool's settings.
    #[command(after_help = "\
It begins as its health check's `start` says. A service in kernel mode has no
pools, and its backends no --backup and no --max-connections.

Example:
  tandem backend add web/b4 192.0.2.14:8080
  tandem backend add web/b5 192.0.2.15:8080 --weight 2 --pool static")]
    Add(Add),

    /// Remove a backend, also one of the file: it drains, and then it is forgotten.
    #[command(after_help = "\
It gets no new connections; those that it has go on until they end, or until the
deadline. To have one of the file again: tandem backend reset.

Example:
  tandem backend remove web/b1
  tandem backend remove web/b1 --wait --deadline 30s")]
    Remove(Ending),

    /// Change a backend's weight, 1 to 256.
    #[command(after_help = "Example:\n  tandem backend weight web/b1 4")]
    Weight(Weigh),

    /// Give a backend no new connections; those that it has go on.
    #[command(after_help = "\
Example:
  tandem backend drain web/b1
  tandem backend drain web/b1 --wait --deadline 5m")]
    Drain(Ending),

    /// Give a backend new connections again, and check it.
    #[command(after_help = "Example:\n  tandem backend enable web/b1")]
    Enable(BackendArgs),

    /// Drain a backend, and do not check it.
    #[command(after_help = "\
Example:
  tandem backend maintenance web/b1 --wait
  tandem backend enable web/b1")]
    Maintenance(Ending),

    /// Take back what was said of a backend at run time: it is as the file says.
    #[command(after_help = "\
One that is not in the file goes, unless a source has it.

Example:
  tandem backend reset web/b1")]
    Reset(BackendArgs),
}

/// Arguments of `list`.
#[derive(Args, Debug)]
pub struct List {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `add`.
#[derive(Args, Debug)]
pub struct Add {
    /// The service and the new backend's name.
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendName,

    /// Where it listens.
    #[arg(value_name = "ADDRESS:PORT", value_parser = address)]
    pub address: SocketAddr,

    /// Its share, 1 to 256. Default: 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub weight: Option<u16>,

    /// Its pool. Default: the service's own.
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,

    /// Connections at once. Default: as many as the service may have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_connections: Option<u32>,

    /// It gets connections only while no other backend of its pool serves.
    #[arg(long)]
    pub backup: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of what ends connections.
#[derive(Args, Debug)]
pub struct Ending {
    /// The service and its backend.
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendName,

    /// Reset what is left after so long: 30s, 5m. Default: never.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub deadline: Option<Duration>,

    /// Wait until it has no connections left.
    #[arg(long)]
    pub wait: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `weight`.
#[derive(Args, Debug)]
pub struct Weigh {
    /// The service and its backend.
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendName,

    /// Its share from now on.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub weight: u16,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "write an address and a port, for example 192.0.2.14:8080 or [2001:db8::14]:80",
    )
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "write a time with its unit, for example 30s or 5m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_and_no_time_is_refused() {
        assert!(address("192.0.2.14:8080").is_ok() && address("[2001:db8::14]:80").is_ok());
        for bad in ["192.0.2.14", "b4:80", "2001:db8::14", "192.0.2.14:70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        for bad in ["30", "-1s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}

/// Arguments of `drain` and `enable`.
#[derive(Args, Debug)]
pub struct BackendArgs {
    /// The service and its backend.
    #[arg(value_name = "SERVICE/BACKEND")]
    pub backend: BackendName,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// `SERVICE/BACKEND`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendName {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
}

impl FromStr for BackendName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((service, backend))
                if !service.is_empty() && !backend.is_empty() && !backend.contains('/') =>
            {
                Ok(Self {
                    service: service.into(),
                    backend: backend.into(),
                })
            }
            _ => Err("write the service, a slash and the backend, for example web/b1"),
        }
    }
}
