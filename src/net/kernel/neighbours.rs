//! The interfaces whose neighbours are to know the floating addresses: their state, announcements,
//! answers, and who else claims an address.
//!
//! We answer ourselves, since the kernel does not for an address of another device: never for IPv6,
//! and for ARP not under `arp_ignore` 1, 2 and 8. Where it does too, both answers are the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::netlink::Netlink;
use super::outbox::Outbox;
use super::packet::Port;
use crate::model::{Mac, Vip};
use crate::time::Mono;
use crate::vip::kernel::KernelReport;
use crate::wire::announce::{self, Claim, Heard, Question};

/// At most one report of a rival in this time, for each address.
const RIVAL_GAP: Duration = Duration::from_millis(10);

/// All links of the host, and what we do on some of them.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    links: BTreeMap<u32, Link>,
    interfaces: BTreeMap<String, Interface>,
    rivals: BTreeMap<IpAddr, Mono>,
}

#[derive(Clone, Debug)]
struct Link {
    name: String,
    mac: Mac,
    ethernet: bool,
    up: bool,
}

/// An interface that carries floating addresses. It need not exist.
#[derive(Debug, Default)]
struct Interface {
    vips: Vec<IpAddr>,
    /// Index and address of the link on which `port` was opened.
    on: Option<(u32, Mac)>,
    port: Option<Port>,
    /// What was said of it.
    up: Option<bool>,
}

impl Neighbours {
    /// These are the addresses from now on.
    pub(super) fn serve(&mut self, vips: &[Vip], outbox: &mut Outbox) {
        let mut wanted: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for vip in vips {
            wanted.entry(&vip.interface).or_default().push(vip.ip());
        }
        let same = wanted.len() == self.interfaces.len()
            && wanted.iter().all(|(name, vips)| {
                let known = self.interfaces.get(*name);
                known.is_some_and(|interface| interface.vips == *vips)
            });
        if same {
            return;
        }
        self.interfaces
            .retain(|name, _| wanted.contains_key(name.as_str()));
        for (name, vips) in wanted {
            let interface = self.interfaces.entry(name.to_owned()).or_default();
            if interface.vips != vips {
                // Opened again, with the groups of the new addresses.
                *interface = Interface {
                    vips,
                    up: interface.up,
                    ..Interface::default()
                };
            }
        }
        self.refresh(outbox);
    }

    /// Forgets all links and reads them anew.
    pub(super) fn reread(&mut self, netlink: &mut Netlink, outbox: &mut Outbox) {
        let before = std::mem::take(&mut self.links);
        if let Err(error) = netlink.links(|message| self.learn(&message)) {
            tracing::warn!(%error, "cannot read the links of the host");
            self.links = before;
        }
        self.refresh(outbox);
    }

    /// A link is there, or is otherwise than it was. Call [`refresh`](Self::refresh) afterwards.
    pub(super) fn learn(&mut self, message: &LinkMessage) {
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        let known = self.links.remove(&message.header.index);
        let mut link = Link {
            up: message.header.flags.contains(up),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            // Some messages name only what changed.
            ..known.unwrap_or_else(|| Link {
                name: String::new(),
                mac: Mac::default(),
                ethernet: false,
                up: false,
            })
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().map(Mac).unwrap_or_default();
                }
                _ => {}
            }
        }
        self.links.insert(message.header.index, link);
    }

    /// A link is gone. Call [`refresh`](Self::refresh) afterwards.
    pub(super) fn forget(&mut self, index: u32) {
        self.links.remove(&index);
    }

    /// Opens, closes and reports what the links now call for.
    pub(super) fn refresh(&mut self, outbox: &mut Outbox) {
        for (name, interface) in &mut self.interfaces {
            let link = self.links.iter().find(|(_, link)| link.name == *name);
            interface.follow(name, link);
            let up = link.is_some_and(|(_, link)| link.up);
            if interface.up != Some(up) {
                interface.up = Some(up);
                let interface = name.clone();
                outbox.tell(KernelReport::Link { interface, up });
            }
        }
    }

    /// To be polled for reading.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ports = self
            .interfaces
            .values()
            .flat_map(|interface| &interface.port);
        ports.flat_map(Port::fds)
    }

    /// Tells the neighbours, once, where these addresses live.
    pub(super) fn announce(&self, netlink: &mut Netlink, vips: &[Vip]) {
        for (vip, port, mac, _) in self.places(vips) {
            let sent = match vip {
                IpAddr::V4(vip) => port
                    .send(&announce::gratuitous_request(vip, mac))
                    .and_then(|()| port.send(&announce::gratuitous_reply(vip, mac))),
                IpAddr::V6(vip) => port.send(&announce::advert(vip, mac)),
            };
            if let Err(error) = sent {
                tracing::debug!(%vip, %error, "announcement not sent; it is repeated");
            }
        }
        // The one neighbour that speaks for all others, by a packet that it must answer.
        for (vip, port, mac, index) in self.places(vips) {
            if let IpAddr::V4(vip) = vip
                && let Ok(Some(gateway)) = netlink.gateway(index)
                && gateway != vip
            {
                // Like the others, it is repeated.
                let _ = port.send(&announce::who_has(gateway, vip, mac));
            }
        }
    }

    fn places(&self, vips: &[Vip]) -> impl Iterator<Item = (IpAddr, &Port, Mac, u32)> {
        vips.iter().filter_map(|vip| {
            let interface = self.interfaces.get(&vip.interface)?;
            let (index, mac) = interface.on?;
            Some((vip.ip(), interface.port.as_ref()?, mac, index))
        })
    }

    /// Takes what neighbours said: answers questions and reports rivals, for addresses that we hold
    /// now.
    pub(super) fn hear(&mut self, holds: impl Fn(IpAddr) -> bool, now: Mono, outbox: &mut Outbox) {
        for interface in self.interfaces.values() {
            let Interface {
                vips,
                on: Some((_, mac)),
                port: Some(port),
                ..
            } = interface
            else {
                continue;
            };
            let ours = |ip: IpAddr| vips.contains(&ip) && holds(ip);
            port.drain(|frame| {
                let Some(Heard { claim, question }) = announce::hear(frame) else {
                    return;
                };
                if let Some(question) = question.filter(|question| ours(question.target)) {
                    // The asker asks again.
                    let _ = answer(port, *mac, question);
                }
                // From another of our own interfaces on the same link, it is no rival.
                let rival = |claim: &Claim| {
                    ours(claim.ip) && self.links.values().all(|link| link.mac != claim.mac)
                };
                if let Some(Claim { ip: vip, mac }) = claim.filter(rival) {
                    let last = self.rivals.get(&vip);
                    if last.is_none_or(|last| now.since(*last) >= RIVAL_GAP) {
                        self.rivals.insert(vip, now);
                        outbox.tell(KernelReport::Rival { vip, mac });
                    }
                }
            });
        }
    }
}

impl Interface {
    /// Has the sockets on this link, whichever it is now.
    fn follow(&mut self, name: &str, link: Option<(&u32, &Link)>) {
        let index = self.on.map(|(index, _)| index);
        let Some((&new, link)) = link else {
            self.on = None;
            self.port = None;
            return;
        };
        if index != Some(new) {
            self.port = None;
            if link.ethernet {
                self.port = Port::open(new, &self.groups())
                    .inspect_err(|error| {
                        tracing::warn!(interface = name, %error, "cannot open packet sockets; \
                             neighbours are not told");
                    })
                    .ok();
            } else {
                tracing::warn!(
                    interface = name,
                    "not an Ethernet; there are no neighbours to tell"
                );
            }
        }
        self.on = Some((new, link.mac));
    }

    fn groups(&self) -> Vec<Ipv6Addr> {
        let groups = self.vips.iter().filter_map(|vip| match vip {
            IpAddr::V4(_) => None,
            IpAddr::V6(vip) => Some(announce::solicited_node(*vip)),
        });
        groups.collect()
    }
}

fn answer(port: &Port, mac: Mac, question: Question) -> std::io::Result<()> {
    let to = question.asker_mac;
    match (question.target, question.asker) {
        (IpAddr::V4(vip), IpAddr::V4(asker)) => {
            port.send(&announce::arp_answer(vip, mac, asker, to))
        }
        (IpAddr::V6(vip), IpAddr::V6(asker)) => {
            port.send(&announce::advert_answer(vip, mac, asker, to))
        }
        // Nobody asks across families.
        _ => Ok(()),
    }
}
