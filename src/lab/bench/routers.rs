//! Other ways from the client to the backends: a router between the two LANs, and one that
//! translates addresses by nftables.
//!
//! The router's way leads to addresses of the backends that lie in neither LAN, so that the direct
//! way stays.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use rtnetlink::RouteMessageBuilder;

use crate::lab::error::LabError;
use crate::lab::host::Host;
use crate::lab::topology::{BACKENDS, Lan, Network, add_address, backend_address};

/// A router's number, which is the last byte of its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(u8);

/// The one that only forwards.
pub(super) const FORWARD: Number = Number(14);
/// The one that translates.
const NFT: Number = Number(15);
/// Its first interface, as everybody's.
const ETH0: u32 = 2;

impl Number {
    /// Its address on the clients' LAN.
    pub(super) const fn front(self) -> Ipv4Addr {
        Lan::Front.v4(self.0)
    }

    const fn back(self) -> Ipv4Addr {
        Lan::Back.v4(self.0)
    }
}

/// The address of the n-th backend behind the router.
pub(super) const fn forward_address(n: usize) -> Ipv4Addr {
    let [.., last] = backend_address(n).octets();
    Ipv4Addr::new(203, 0, 113, last)
}

/// A host on both LANs that forwards.
pub(super) async fn router(
    network: &Network,
    name: &str,
    number: Number,
) -> Result<Host, LabError> {
    let host = Host::start(name).await?;
    network.plug(&host, Lan::Front, number.0, 0).await?;
    network.plug(&host, Lan::Back, number.0, 1).await?;
    host.sysctl("ipv4/ip_forward", "1").await;
    host.sysctl("ipv4/ip_local_port_range", "1024 65535").await;
    Ok(host)
}

impl Network {
    /// Gives the n-th backend its address behind the router.
    pub(super) async fn add_forward_address(&self, n: usize) -> Result<(), LabError> {
        add_address(&self.backends[n], ETH0, forward_address(n).into(), 32).await
    }

    /// Has the client reach these addresses through the router, and the backends the client.
    pub(super) async fn route_through(&self, router: &Host) -> Result<(), LabError> {
        let [a, b, c, _] = forward_address(0).octets();
        let behind = Ipv4Addr::new(a, b, c, 0);
        // An address there makes the router ask for the others on that LAN.
        let own = Ipv4Addr::new(a, b, c, FORWARD.0);
        add_address(router, ETH0 + 1, IpAddr::V4(own), 24).await?;
        add_route(&self.client, behind, FORWARD.front()).await?;
        for backend in &self.backends {
            add_route(backend, Lan::Front.v4(0), FORWARD.back()).await?;
        }
        Ok(())
    }
}

async fn add_route(host: &Host, to: Ipv4Addr, via: Ipv4Addr) -> Result<(), LabError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new();
    let route = route.destination_prefix(to, 24).gateway(via).build();
    let what = format!("give {} a route to {to}", host.name());
    let done = host.netlink().route().add(route).execute().await;
    done.map_err(LabError::network(what))
}

/// A router that spreads connections to its own address over the backends: its host, that address,
/// and nftables' version. None if that is not installed.
pub(super) async fn nft(
    network: &Network,
    port: u16,
) -> Result<Option<(Host, Ipv4Addr, String)>, LabError> {
    let Some(version) = nft_version() else {
        return Ok(None);
    };
    let host = router(network, "nft", NFT).await?;
    let rules = rules(port);
    let load = async move {
        let mut nft = Command::new("nft");
        let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = nft.stdin.take() {
            input.write_all(rules.as_bytes())?;
        }
        match nft.wait()?.success() {
            true => Ok(()),
            false => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    };
    let loaded = host.run(load).await;
    loaded.map_err(LabError::io("load the rules of nftables"))?;
    // By default a closed connection is kept for two minutes, one that was reset for ten seconds,
    // and the table is full within one minute.
    for state in [
        "netfilter/nf_conntrack_tcp_timeout_time_wait",
        "netfilter/nf_conntrack_tcp_timeout_close",
    ] {
        host.sysctl(state, "1").await;
    }
    Ok(Some((host, NFT.front(), version)))
}

fn nft_version() -> Option<String> {
    let output = Command::new("nft").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

fn rules(port: u16) -> String {
    let backends = (0..BACKENDS).map(|n| format!("{n} : {}", backend_address(n)));
    format!(
        "table ip lab {{\n  chain before {{\n    type nat hook prerouting priority dstnat;\n    \
         ip daddr {} tcp dport {port} dnat to numgen inc mod {BACKENDS} map {{ {} }}\n  }}\n  \
         chain after {{\n    type nat hook postrouting priority srcnat;\n    \
         oifname \"eth1\" snat to {}\n  }}\n}}\n",
        NFT.front(),
        backends.collect::<Vec<_>>().join(", "),
        NFT.back(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_spread_connections_and_bring_the_answers_back() {
        let text = rules(8_000);
        assert!(text.contains("tcp dport 8000 dnat to numgen inc mod 3 map { 0 : 198.51.100.21,"));
        assert!(text.contains("snat to 198.51.100.15"), "{text}");
    }
}
