//! The command line of what is done once for a host: `init`, `doctor`, completions, manual pages.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::Shell;

use super::args::{CONFIG, Control, PINS};

/// Where the pair's key is, unless said otherwise.
pub(super) const KEY: &str = "/etc/tandem/cluster.key";

/// Arguments of `init`.
#[derive(Args, Debug)]
pub struct Init {
    /// A node and its address on each heartbeat path; twice, the preferred one first.
    #[arg(long = "node", value_name = "NAME=ADDRESS[,ADDRESS]")]
    pub nodes: Vec<NodeArg>,

    /// A floating address, its subnet and its interface; may be repeated.
    #[arg(long = "vip", value_name = "ADDRESS/PREFIX@INTERFACE")]
    pub vips: Vec<VipArg>,

    /// A server; may be repeated. Without a name: b1, b2 and so on.
    #[arg(long = "backend", value_name = "[NAME=]ADDRESS:PORT")]
    pub backends: Vec<BackendArg>,

    /// Port of the service at the floating addresses; may be repeated. Default: 80.
    #[arg(long = "port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ports: Vec<u16>,

    /// Proxied, or forwarded in the kernel: then connections outlive the master. Default: proxy.
    #[arg(long, value_name = "MODE", value_parser = ["proxy", "kernel"])]
    pub mode: Option<String>,

    /// Kernel mode: the floating address that backends see, if it is not the one that clients
    /// connect to; one for each IP version.
    #[arg(long, value_name = "ADDRESS")]
    pub source: Vec<IpAddr>,

    /// Name of the pair.
    #[arg(long, value_name = "NAME", default_value = "pair")]
    pub cluster: String,

    /// Name of the service.
    #[arg(long, value_name = "NAME", default_value = "web")]
    pub service: String,

    /// The configuration to write.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// The key: made if it is not there.
    #[arg(long, value_name = "FILE", default_value = KEY)]
    pub key: PathBuf,

    /// Replace a configuration that is there. Never the key.
    #[arg(long)]
    pub force: bool,
}

/// `NAME=ADDRESS[,ADDRESS]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeArg {
    /// Its name.
    pub name: String,
    /// Its address on each heartbeat path.
    pub addresses: Vec<IpAddr>,
}

impl FromStr for NodeArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "write the host's name, =, and its addresses with commas between them, \
                            for example lb1=192.0.2.11,203.0.113.11";
        let (name, addresses) = text.split_once('=').ok_or(HELP)?;
        let addresses: Result<Vec<IpAddr>, _> = addresses
            .split(',')
            .map(|address| address.trim().parse())
            .collect();
        Ok(Self {
            name: some(name).ok_or(HELP)?,
            addresses: addresses.map_err(|_| HELP)?,
        })
    }
}

/// `ADDRESS/PREFIX@INTERFACE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VipArg {
    /// The address.
    pub address: IpAddr,
    /// Its subnet's prefix.
    pub prefix: u8,
    /// The interface.
    pub interface: String,
}

impl FromStr for VipArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "write the address, its subnet's prefix and the interface, for example \
                            192.0.2.100/24@eth0";
        let (address, interface) = text.split_once('@').ok_or(HELP)?;
        let (address, prefix) = address.split_once('/').ok_or(HELP)?;
        Ok(Self {
            address: address.trim().parse().map_err(|_| HELP)?,
            prefix: prefix.parse().map_err(|_| HELP)?,
            interface: some(interface).ok_or(HELP)?,
        })
    }
}

/// `[NAME=]ADDRESS:PORT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendArg {
    /// Its name, if it has been given one.
    pub name: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl FromStr for BackendArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "write the address and the port, for example 198.51.100.21:8080 or \
                            b1=[2001:db8::21]:8080";
        let (name, address) = match text.split_once('=') {
            Some((name, address)) => (Some(some(name).ok_or(HELP)?), address),
            None => (None, text),
        };
        let address = address.trim().parse().map_err(|_| HELP)?;
        Ok(Self { name, address })
    }
}

fn some(name: &str) -> Option<String> {
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct Doctor {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Which `[[node]]` of the configuration this host is. Default: the one that has the host's
    /// name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Where the kernel mode pins its tables.
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pub pins: PathBuf,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL", value_parser = shell())]
    pub shell: Shell,
}

fn shell() -> impl TypedValueParser<Value = Shell> {
    let known = PossibleValuesParser::new(["bash", "fish", "zsh"]);
    known.map(|name| name.parse().expect("clap_complete knows these three"))
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Where to: a directory that is there.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_name_and_addresses() {
        let node: NodeArg = "lb1=192.0.2.11, 2001:db8::11".parse().unwrap();
        assert_eq!(node.name, "lb1");
        let addresses: [IpAddr; 2] = [
            "192.0.2.11".parse().unwrap(),
            "2001:db8::11".parse().unwrap(),
        ];
        assert_eq!(node.addresses, addresses);
        for bad in [
            "",
            "lb1",
            "lb1=",
            "=192.0.2.11",
            "lb1=192.0.2.11,",
            "lb1=host",
        ] {
            assert!(bad.parse::<NodeArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_vip_has_a_subnet_and_an_interface() {
        let vip: VipArg = "2001:db8::100/64@eth0".parse().unwrap();
        assert_eq!((vip.prefix, vip.interface.as_str()), (64, "eth0"));
        for bad in [
            "",
            "192.0.2.100",
            "192.0.2.100/24",
            "192.0.2.100@eth0",
            "192.0.2.100/24@",
            "x/24@eth0",
        ] {
            assert!(bad.parse::<VipArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backend_may_have_a_name() {
        let backend: BackendArg = "b7=[2001:db8::21]:80".parse().unwrap();
        assert_eq!(backend.name.as_deref(), Some("b7"));
        let backend: BackendArg = "198.51.100.21:80".parse().unwrap();
        assert_eq!((backend.name, backend.address.port()), (None, 80));
        for bad in ["", "198.51.100.21", "=198.51.100.21:80", "host:80"] {
            assert!(bad.parse::<BackendArg>().is_err(), "{bad}");
        }
    }
}
