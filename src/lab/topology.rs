//! The network of the lab: one switch with two LANs, two nodes, three backends, two clients.
//!
//! ```text
//!            client .10   watch .13   (front: 192.0.2.0/24, 2001:db8:1::/64)
//!               │            │
//!        ═══════╧═══ front ══╧═══════════
//!            │ eth0              │ eth0
//!           lb1 .11             lb2 .12      VIP: 192.0.2.100, 2001:db8:1::100
//!            │ eth1              │ eth1
//!        ════╧══════ back ═══════╧═══════   (back: 198.51.100.0/24, 2001:db8:2::/64)
//!               │        │        │
//!            b1 .21   b2 .22   b3 .23
//! ```
//!
//! Owns: every link, address and rule of the lab. Never: starts a program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};

use super::error::LabError;
use super::host::Host;
use crate::model::{Mac, NodeId};

/// The floating addresses; both live on the front LAN.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// See [`VIP4`].
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100);
/// What a service in kernel mode has as its source address towards the backends: it lives on their
/// LAN, and moves with [`VIP4`].
pub const SOURCE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);
/// See [`SOURCE4`].
pub const SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100);

/// How many backends there are.
pub const BACKENDS: usize = 3;

/// Number of the first interface of every host; the second follows.
pub(super) const ETH0: u32 = 2;

/// Last byte of the addresses of each host.
const CLIENT: u8 = 10;
const NODES: [u8; 2] = [11, 12];
const WATCH: u8 = 13;
pub(super) const STRANGER: u8 = 14;
const BACKEND: [u8; BACKENDS] = [21, 22, 23];

/// One of the two LANs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lan {
    /// Where the clients are.
    Front,
    /// Where the backends are.
    Back,
}

impl Lan {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Front, Self::Back];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    /// Number of the bridge's device in the namespace of the switch.
    pub(super) const fn bridge(self) -> u32 {
        10 + self as u32
    }

    /// The address of the host with this last byte.
    pub(super) const fn v4(self, host: u8) -> Ipv4Addr {
        match self {
            Self::Front => Ipv4Addr::new(192, 0, 2, host),
            Self::Back => Ipv4Addr::new(198, 51, 100, host),
        }
    }

    /// The same in the other family: `.11` is `::11`.
    fn v6(self, host: u8) -> Ipv6Addr {
        let low = u16::from_str_radix(&host.to_string(), 16);
        let low = low.expect("decimal digits are hex digits");
        Ipv6Addr::new(0x2001, 0xdb8, 1 + self as u16, 0, 0, 0, 0, low)
    }

    /// A node's Ethernet address on this LAN.
    pub const fn node_mac(self, node: NodeId) -> Mac {
        self.mac(NODES[node.index()])
    }

    /// Ethernet address of the host with this last byte: locally administered, easy to read.
    const fn mac(self, host: u8) -> Mac {
        Mac([2, 0, 0, 0, self as u8, host])
    }
}

/// The heartbeat addresses of a node, one a path.
pub fn node_addresses(node: NodeId) -> [Ipv4Addr; 2] {
    Lan::BOTH.map(|lan| lan.v4(NODES[node.index()]))
}

/// A node's Ethernet address on the front LAN: the one that answers for the VIP.
pub const fn node_mac(node: NodeId) -> Mac {
    Lan::Front.node_mac(node)
}

/// The address of the n-th backend.
pub const fn backend_address(n: usize) -> Ipv4Addr {
    Lan::Back.v4(BACKEND[n])
}

/// The same in the other family.
pub fn backend_address6(n: usize) -> Ipv6Addr {
    Lan::Back.v6(BACKEND[n])
}

/// Address and Ethernet address from which the owner of the VIP is asked for.
pub(super) fn watch_addresses() -> (Ipv4Addr, Ipv6Addr, Mac) {
    (
        Lan::Front.v4(WATCH),
        Lan::Front.v6(WATCH),
        Lan::Front.mac(WATCH),
    )
}

/// All hosts, wired.
#[derive(Debug)]
pub struct Network {
    /// Asks the balancers for pages.
    pub client: Host,
    /// Asks who owns the VIP.
    pub watch: Host,
    /// `lb1` and `lb2`.
    pub nodes: [Host; 2],
    /// `b1` to `b3`.
    pub backends: [Host; BACKENDS],
    /// Holds both bridges. The last field: links end with the hosts, the switch goes last.
    switch: Host,
}

impl Network {
    /// Makes the hosts and plugs them in.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn build() -> Result<Self, LabError> {
        let network = Self {
            client: Host::start("client").await?,
            watch: Host::start("watch").await?,
            nodes: [Host::start("lb1").await?, Host::start("lb2").await?],
            backends: [
                Host::start("b1").await?,
                Host::start("b2").await?,
                Host::start("b3").await?,
            ],
            switch: Host::start("switch").await?,
        };
        // For its first second an interface looks for duplicates and asks for no IPv6 neighbour.
        for host in network.hosts() {
            host.sysctl("ipv6/conf/default/accept_dad", "0").await;
        }
        for lan in Lan::BOTH {
            network.bridge(lan).await?;
        }
        network.plug(&network.client, Lan::Front, CLIENT, 0).await?;
        network.plug(&network.watch, Lan::Front, WATCH, 0).await?;
        for (host, number) in network.nodes.iter().zip(NODES) {
            network.plug(host, Lan::Front, number, 0).await?;
            network.plug(host, Lan::Back, number, 1).await?;
        }
        for (host, number) in network.backends.iter().zip(BACKEND) {
            network.plug(host, Lan::Back, number, 0).await?;
        }
        // The prober opens hundreds of connections a second; the default range lasts for a minute.
        for host in [&network.client].into_iter().chain(&network.nodes) {
            host.sysctl("ipv4/ip_local_port_range", "1024 65535").await;
        }
        Ok(network)
    }

    /// Gives the client a second interface, on the LAN of the backends: a way past the balancers.
    pub(super) async fn plug_client_into_back(&self) -> Result<(), LabError> {
        self.plug(&self.client, Lan::Back, CLIENT, 1).await
    }

    /// The host of a node.
    pub const fn node(&self, node: NodeId) -> &Host {
        &self.nodes[node.index()]
    }

    /// Where every frame passes.
    pub(super) const fn switch(&self) -> &Host {
        &self.switch
    }

    /// Every host but the switch.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> + Clone {
        [&self.client, &self.watch]
            .into_iter()
            .chain(&self.nodes)
            .chain(&self.backends)
    }

    /// A bridge that forwards from the first frame on (no spanning tree, no delay) and floods
    /// multicast.
    async fn bridge(&self, lan: Lan) -> Result<(), LabError> {
        let bridge = LinkBridge::new(lan.name())
            .index(lan.bridge())
            .forward_delay(0)
            .mcast_snooping(false);
        self.switch
            .netlink()
            .link()
            .add(bridge.build())
            .execute()
            .await
            .map_err(LabError::network(format!("make bridge {}", lan.name())))
    }

    /// Runs a cable from the host to a LAN, and gives the host its address there.
    pub(super) async fn plug(
        &self,
        host: &Host,
        lan: Lan,
        number: u8,
        nth: u32,
    ) -> Result<(), LabError> {
        let what = || LabError::network(format!("plug {} into {}", host.name(), lan.name()));
        let index = ETH0 + nth;
        let mut far = LinkUnspec::new_with_index(index)
            .name(format!("eth{nth}"))
            .address(lan.mac(number).0.to_vec())
            .build();
        far.attributes.push(LinkAttribute::NetNsFd(host.netns()));
        let cable = LinkVeth::new(&port(host, lan), "far")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .controller(lan.bridge())
            .up();
        let links = self.switch.netlink().link();
        links.add(cable.build()).execute().await.map_err(what())?;
        // A veth end cannot be made and brought up in one message: its other end is not there yet.
        let up = LinkUnspec::new_with_index(index).up().build();
        let done = host.netlink().link().set(up).execute().await;
        done.map_err(what())?;
        add_address(host, index, lan.v4(number).into(), 24).await?;
        add_address(host, index, lan.v6(number).into(), 64).await
    }

    /// Takes a host's port out of its LAN: nothing passes, the carrier stays (a cable cut beyond
    /// the first switch).
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn detach(&self, host: &Host, lan: Lan) -> Result<(), LabError> {
        self.set_port(host, lan, Change::nocontroller, "detach")
            .await
    }

    /// Puts a host's port back into its LAN.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn attach(&self, host: &Host, lan: Lan) -> Result<(), LabError> {
        self.set_port(host, lan, |link| link.controller(lan.bridge()), "attach")
            .await
    }

    /// Takes the host's carrier away, or gives it back.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn set_carrier(&self, host: &Host, lan: Lan, up: bool) -> Result<(), LabError> {
        let set = |link: Change| if up { link.up() } else { link.down() };
        self.set_port(host, lan, set, "set the carrier of").await
    }

    /// Whether the kernel of this host sees a carrier on its first interface.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn has_carrier(&self, host: &Host) -> Result<bool, LabError> {
        let mut links = host.netlink().link().get().match_index(ETH0).execute();
        let link = links.try_next().await;
        let link = link.map_err(LabError::network(format!("look at {}", host.name())))?;
        let attributes = link.map(|link| link.attributes).unwrap_or_default();
        Ok(attributes.contains(&LinkAttribute::Carrier(1)))
    }

    pub(super) async fn set_port(
        &self,
        host: &Host,
        lan: Lan,
        set: impl FnOnce(Change) -> Change,
        what: &str,
    ) -> Result<(), LabError> {
        let port = port(host, lan);
        let link = set(LinkUnspec::new_with_name(&port));
        let links = self.switch.netlink().link();
        let done = links.set(link.build()).execute().await;
        done.map_err(LabError::network(format!("{what} {port}")))
    }

    /// The number of a host's interface on this LAN. Backends have but one.
    pub(super) fn interface(&self, host: &Host, lan: Lan) -> u32 {
        let backend = self.backends.iter().any(|known| std::ptr::eq(known, host));
        if backend { ETH0 } else { ETH0 + lan as u32 }
    }
}

pub(super) type Change = rtnetlink::LinkMessageBuilder<LinkUnspec>;

/// The name of a host's port in the namespace of the switch.
fn port(host: &Host, lan: Lan) -> String {
    format!("{}-{}", lan.name(), host.name())
}

/// Gives a host an address at once (without duplicate address detection).
pub(super) async fn add_address(
    host: &Host,
    index: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), LabError> {
    let mut request = host.netlink().address().add(index, address, prefix);
    if address.is_ipv6() {
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        request.message_mut().attributes.push(flags);
    }
    let what = format!("give {} the address {address}", host.name());
    request.execute().await.map_err(LabError::network(what))
}
