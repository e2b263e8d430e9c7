//! Hosts in a line, each plugged into its neighbours; one of them is the node.
//!
//! ```text
//!   client ── router ... ── node ── router ... ── backend
//!          0          1  ..      n           ..            links, 192.0.2.(16 n)/28, 2001:db8:n::/64
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::rule::RuleAction;
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use tandem::lab::Host;

/// Numbers of the devices of every host.
const LEFT: u32 = 2;
const RIGHT: u32 = 3;
/// Names of the node's devices.
pub(crate) const NODE_LEFT: &str = "left";
pub(crate) const NODE_RIGHT: &str = "right";

/// How many addresses the backend's host has.
pub(crate) const BACKENDS: u8 = 3;
pub(crate) const PORT: u16 = 8080;

/// Last parts of addresses on a link.
const TO_LEFT: u8 = 1;
const TO_RIGHT: u8 = 2;
/// The backends' next ones, and the node's floating ones.
const FLOATING: u8 = 10;

/// The line.
#[derive(Debug)]
pub(crate) struct Line {
    hosts: Vec<Host>,
    node: usize,
}

fn failed(what: &str) -> impl FnOnce(rtnetlink::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// An address on a link.
fn address(six: bool, link: usize, place: u8) -> IpAddr {
    let link = u8::try_from(link).expect("a short line");
    if six {
        Ipv6Addr::new(0x2001, 0xdb8, link.into(), 0, 0, 0, 0, place.into()).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 16 * link + place).into()
    }
}

impl Line {
    /// Links with these MTUs; the node is that many links from the client.
    pub(crate) async fn build(mtus: &[u32], node: usize) -> Result<Self, String> {
        let mut hosts = Vec::new();
        for n in 0..=mtus.len() {
            let name = format!("host{n}");
            let host = Host::start(&name)
                .await
                .map_err(|error| error.to_string())?;
            // Or new addresses wait for a second until they may be used.
            host.sysctl("ipv6/conf/all/accept_dad", "0").await;
            host.sysctl("ipv6/conf/default/accept_dad", "0").await;
            let router = n != 0 && n != node && n != mtus.len();
            if router {
                host.sysctl("ipv4/ip_forward", "1").await;
                host.sysctl("ipv6/conf/all/forwarding", "1").await;
            }
            hosts.push(host);
        }
        let line = Self { hosts, node };
        for (link, mtu) in mtus.iter().enumerate() {
            line.plug(link, *mtu).await?;
        }
        for host in 0..=mtus.len() {
            for link in 0..mtus.len() {
                line.route(host, link).await?;
            }
        }
        for six in [false, true] {
            let (last, end) = (mtus.len() - 1, mtus.len());
            for n in 1..BACKENDS {
                line.add(end, LEFT, address(six, last, TO_RIGHT + n))
                    .await?;
            }
            line.add(node, LEFT, line.vip(six, 0).ip()).await?;
            line.add(node, RIGHT, line.source(six)).await?;
        }
        Ok(line)
    }

    pub(crate) fn client(&self) -> &Host {
        &self.hosts[0]
    }

    pub(crate) fn node(&self) -> &Host {
        &self.hosts[self.node]
    }

    pub(crate) fn backend(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    pub(crate) fn client_ip(&self, six: bool) -> IpAddr {
        address(six, 0, TO_LEFT)
    }

    /// Where clients find the service.
    pub(crate) fn vip(&self, six: bool, port: u16) -> SocketAddr {
        SocketAddr::new(address(six, self.node - 1, FLOATING), port)
    }

    /// The node's address towards the backends.
    pub(crate) fn source(&self, six: bool) -> IpAddr {
        address(six, self.node, FLOATING)
    }

    pub(crate) fn backend_at(&self, six: bool, n: u8) -> SocketAddr {
        SocketAddr::new(address(six, self.hosts.len() - 2, TO_RIGHT + n), PORT)
    }

    /// The node's device that leads to the backends.
    pub(crate) const fn to_backends() -> u32 {
        RIGHT
    }

    async fn plug(&self, link: usize, mtu: u32) -> Result<(), String> {
        let (left, right) = (&self.hosts[link], &self.hosts[link + 1]);
        let mut far = LinkUnspec::new_with_index(LEFT)
            .name(NODE_LEFT)
            .mtu(mtu)
            .build();
        far.attributes.push(LinkAttribute::NetNsFd(right.netns()));
        let mut cable = LinkVeth::new(NODE_RIGHT, "far")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .mtu(mtu)
            .build();
        cable.header.index = RIGHT;
        let links = left.netlink().link();
        links.add(cable).execute().await.map_err(failed("plug"))?;
        for (host, device) in [(left, RIGHT), (right, LEFT)] {
            let up = LinkUnspec::new_with_index(device).up().build();
            let set = host.netlink().link().set(up).execute();
            set.await.map_err(failed("bring up"))?;
        }
        for six in [false, true] {
            self.add(link, RIGHT, address(six, link, TO_LEFT)).await?;
            self.add(link + 1, LEFT, address(six, link, TO_RIGHT))
                .await?;
        }
        Ok(())
    }

    /// Another device under the name of the node's device to the backends, without addresses.
    pub(crate) async fn replug(&self) -> Result<(), String> {
        let name = String::from(NODE_RIGHT);
        let links = self.node().netlink().link();
        let index = self
            .node()
            .run(async { nix::net::if_::if_nametoindex(NODE_RIGHT) })
            .await
            .map_err(|errno| errno.to_string())?;
        let removed = links.del(index).execute().await;
        removed.map_err(failed("unplug"))?;
        let cable = LinkVeth::new(&name, "other").up().build();
        let links = self.node().netlink().link();
        links
            .add(cable)
            .execute()
            .await
            .map_err(failed("plug again"))
    }

    /// How many filters of ours a device of the node has.
    pub(crate) async fn filters(&self, interface: &'static str) -> Result<usize, String> {
        // As the program's filters are numbered.
        let ours = TcHandle::from(0x007a_007a);
        let index = self
            .node()
            .run(async { nix::net::if_::if_nametoindex(interface) });
        let index = index.await.map_err(|errno| errno.to_string())?;
        let netlink = self.node().netlink().clone();
        let mut filters = netlink.traffic_filter(index.cast_signed());
        let found = filters.get().ingress().execute();
        let found: Vec<_> = found.try_collect().await.map_err(failed("read filters"))?;
        let handles = found.iter().map(|filter| filter.header.handle);
        Ok(handles.filter(|handle| *handle == ours).count())
    }

    /// Another address of the backend's, which nobody has a route to.
    pub(crate) async fn add_far(&self, ip: IpAddr) -> Result<(), String> {
        self.add(self.hosts.len() - 1, LEFT, ip).await
    }

    /// The node's packets of these senders, and only theirs, have a route to an address.
    pub(crate) async fn route_by_policy(
        &self,
        senders: &[IpAddr],
        to: IpAddr,
        gateway: IpAddr,
        table: u32,
    ) -> Result<(), String> {
        let netlink = self.node().netlink();
        for sender in senders {
            let rule = netlink
                .rule()
                .add()
                .table_id(table)
                .action(RuleAction::ToTable);
            let added = match *sender {
                IpAddr::V4(ip) => rule.v4().source_prefix(ip, 32).execute().await,
                IpAddr::V6(ip) => rule.v6().source_prefix(ip, 128).execute().await,
            };
            added.map_err(failed("add a rule"))?;
        }
        let prefix = if to.is_ipv4() { 32 } else { 128 };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, prefix)
            .and_then(|route| route.gateway(gateway))
            .map_err(|error| format!("a route: {error:?}"))?;
        let add = netlink.route().add(route.table_id(table).build());
        add.execute().await.map_err(failed("add a route"))
    }

    async fn add(&self, host: usize, device: u32, ip: IpAddr) -> Result<(), String> {
        let prefix = if ip.is_ipv4() { 28 } else { 64 };
        let mut request = self.hosts[host].netlink().address().add(device, ip, prefix);
        if ip.is_ipv6() {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        request.execute().await.map_err(failed("add an address"))
    }

    /// How a host reaches a link: by its neighbour on that side.
    async fn route(&self, host: usize, link: usize) -> Result<(), String> {
        if link == host || link + 1 == host {
            return Ok(());
        }
        for six in [false, true] {
            let gateway = if link < host {
                address(six, host - 1, TO_LEFT)
            } else {
                address(six, host, TO_RIGHT)
            };
            let prefix = if six { 64 } else { 28 };
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(address(six, link, 0), prefix)
                .and_then(|route| route.gateway(gateway))
                .map_err(|error| format!("a route: {error:?}"))?;
            let add = self.hosts[host].netlink().route().add(route.build());
            add.execute().await.map_err(failed("add a route"))?;
        }
        Ok(())
    }
}
