//! The interfaces whose neighbours are to know the floating addresses: their state, announcements,
//! answers, who else claims an address, and where the peer is.
//!
//! We answer ourselves, since the kernel does not for an address of another device: never for IPv6,
//! and for ARP not under `arp_ignore` 1, 2 and 8. Where it does too, both answers are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

use super::arp::{self, Arp};
use super::interface::{Interface, Link, ask_as_itself};
use super::netlink::Netlink;
use super::outbox::Outbox;
use super::packet::Port;
use super::peer::{Peer, is_host};
use crate::model::{Mac, Stale, Vip};
use crate::time::Mono;
use crate::vip::kernel::KernelReport;
use crate::wire::announce::{self, Claim, Heard, Question};

/// At most one report of a rival in this time, for each address.
const RIVAL_GAP: Duration = Duration::from_millis(10);

/// All links of the host, and what we do on some of them.
#[derive(Debug)]
pub(super) struct Neighbours {
    links: BTreeMap<u32, Link>,
    interfaces: BTreeMap<String, Interface>,
    rivals: BTreeMap<IpAddr, Mono>,
    peer: Peer,
    /// The addresses are on the device of every node, whoever is master.
    standing: bool,
    /// Interfaces without floating addresses that were warned of.
    warned: BTreeSet<String>,
}

impl Neighbours {
    pub(super) const fn new(peer: Peer) -> Self {
        Self {
            links: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            rivals: BTreeMap::new(),
            peer,
            standing: false,
            warned: BTreeSet::new(),
        }
    }

    /// These are the addresses from now on.
    pub(super) fn serve(&mut self, netlink: &mut Netlink, vips: &[Vip], outbox: &mut Outbox) {
        let mut wanted: BTreeMap<&str, Vec<Vip>> = BTreeMap::new();
        for vip in vips {
            let vips = wanted.entry(&vip.interface).or_default();
            vips.push(vip.clone());
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
                interface.vips = vips;
                interface.on = None;
                interface.quiet = None;
            }
        }
        self.refresh(netlink, outbox);
    }

    /// Forgets all links and reads them anew.
    pub(super) fn reread(&mut self, netlink: &mut Netlink, outbox: &mut Outbox) {
        let before = std::mem::take(&mut self.links);
        if let Err(error) = netlink.links(|message| self.learn(&message)) {
            tracing::warn!(%error, "cannot read the links of the host");
            self.links = before;
        }
        self.look_again();
        self.refresh(netlink, outbox);
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
                port: false,
            })
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => {
                    link.name.clone_from(name);
                    // This message names everything.
                    let controller = |other| matches!(other, &LinkAttribute::Controller(_));
                    link.port = message.attributes.iter().any(controller);
                }
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
    pub(super) fn refresh(&mut self, netlink: &mut Netlink, outbox: &mut Outbox) {
        for (name, interface) in &mut self.interfaces {
            let link = self.links.iter().find(|(_, link)| link.name == *name);
            interface.follow(name, link);
            let up = link.is_some_and(|(_, link)| link.up);
            if interface.up != Some(up) {
                interface.up = Some(up);
                let interface = name.clone();
                outbox.tell(KernelReport::Link { interface, up });
            }
            let Some((&index, link)) = link.filter(|(_, link)| link.ethernet) else {
                continue;
            };
            if interface.looked != Some(index) {
                interface.looked = Some(index);
                for seen in self.peer.look(netlink, index) {
                    interface.see(seen, &self.links);
                }
            }
            interface.tell(name, index, link.mac, outbox);
            if self.standing && interface.quiet != Some(index) && interface.has_ipv4() {
                interface.quiet = Some(index);
                ask_as_itself(name);
            }
        }
        if self.standing {
            self.warn_of_answers();
        }
    }

    /// The addresses stay on the device from now on: what the kernel says of them by itself matters.
    pub(super) fn stand(&mut self, netlink: &mut Netlink, outbox: &mut Outbox) {
        self.standing = true;
        self.refresh(netlink, outbox);
    }

    fn warn_of_answers(&mut self) {
        let found = self.others_that_answer().map(str::to_owned);
        let new: Vec<String> = found.filter(|name| !self.warned.contains(name)).collect();
        for name in new {
            let remedy = arp::remedy(&name, "arp_ignore", 1);
            tracing::warn!(
                interface = name,
                "the kernel would answer ARP for the floating \
                 addresses there, also while the peer is master; if clients or routers are on that \
                 network, set {remedy}"
            );
            self.warned.insert(name);
        }
    }

    /// The interfaces without floating addresses on which the kernel answers ARP for them where they
    /// stand. On those with some the program at ingress keeps it from that; here nothing does.
    pub(super) fn others_that_answer(&self) -> impl Iterator<Item = &str> {
        let ipv4 = self.interfaces.values().any(Interface::has_ipv4);
        let others = self.links.values().filter(move |link| {
            let hears = link.ethernet && link.up && !link.port;
            ipv4 && hears && !self.interfaces.contains_key(&link.name)
        });
        others
            .map(|link| link.name.as_str())
            .filter(|name| Arp::read(name).is_ok_and(Arp::answers_for_others))
    }

    /// Takes what the kernel says of the peer.
    pub(super) fn watch(&mut self, netlink: &mut Netlink, outbox: &mut Outbox) {
        let (interfaces, links) = (&mut self.interfaces, &self.links);
        let whole = self.peer.drain(|seen| {
            let on = |interface: &&mut Interface| interface.looked == Some(seen.index);
            if let Some(interface) = interfaces.values_mut().find(on) {
                interface.see(seen, links);
            }
        });
        if !whole {
            tracing::debug!("changes of neighbours were lost; looking anew");
            self.look_again();
            return self.refresh(netlink, outbox);
        }
        for (name, interface) in &mut self.interfaces {
            if let Some((index, mac)) = interface.on
                && interface.looked == Some(index)
            {
                interface.tell(name, index, mac, outbox);
            }
        }
    }

    fn look_again(&mut self) {
        for interface in self.interfaces.values_mut() {
            interface.looked = None;
        }
    }

    /// To be polled for reading.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ports = self
            .interfaces
            .values()
            .flat_map(|interface| &interface.port);
        let peer = std::iter::once(self.peer.as_fd());
        ports.flat_map(Port::fds).chain(peer)
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

    /// Tells one neighbour that the address lives at `at`, another host.
    pub(super) fn remind(&self, stale: &Stale, at: Mac) {
        let mut interfaces = self.interfaces.values();
        let there = |interface: &&Interface| interface.index() == Some(stale.index);
        let Some(interface) = interfaces.find(there) else {
            return;
        };
        let vip = interface.vips.iter().find(|vip| vip.ip() == stale.vip);
        let (Some(vip), Some((_, own)), Some(port)) = (vip, interface.on, &interface.port) else {
            return;
        };
        // Never to a group, and never in our own name: we do not hold it.
        let ours = |mac: Mac| self.links.values().any(|link| link.mac == mac);
        if !is_host(&stale.mac) || !is_host(&at) || ours(at) {
            return;
        }
        let sent = match (stale.vip, stale.sender) {
            (IpAddr::V4(ip), IpAddr::V4(sender)) => {
                let on_link = vip.address.contains(&stale.sender);
                let sender = on_link.then_some(sender);
                port.send(&announce::reminder(ip, at, sender, stale.mac, own))
            }
            (IpAddr::V6(ip), IpAddr::V6(sender)) => {
                let on_link = vip.address.contains(&stale.sender) || sender.is_unicast_link_local();
                let sender = on_link.then_some(sender);
                port.send(&announce::advert_reminder(ip, at, sender, stale.mac, own))
            }
            // Nobody sends across families.
            _ => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(%vip, %error, "reminder not sent; its packets will call for another");
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
            let ours = |ip: IpAddr| vips.iter().any(|vip| vip.ip() == ip) && holds(ip);
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
