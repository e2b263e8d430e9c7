//! Arguments of `tandem flows`.

use std::net::IpAddr;

use clap::Args;
use ipnet::IpNet;

use super::Control;

/// Arguments of `flows`.
#[derive(Args, Debug)]
pub struct Flows {
    /// Only those of this service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,

    /// Only those of the backends with this name.
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,

    /// Only those whose client is in this network, or has this address.
    #[arg(long, value_name = "NET", value_parser = network)]
    pub client: Option<IpNet>,

    /// Only those of this mode.
    #[arg(long, value_name = "MODE", value_parser = ["kernel", "proxy"])]
    pub mode: Option<String>,

    /// At most so many. Default: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,

    /// Only how many there are.
    #[arg(long, conflicts_with = "limit")]
    pub count: bool,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// An address is a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, &'static str> {
    let one = |address: IpAddr| IpNet::from(address);
    text.parse()
        .or_else(|_| text.parse().map(one))
        .map_err(|_| "write an address or a network, for example 203.0.113.7 or 203.0.113.0/24")
}
