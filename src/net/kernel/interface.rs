//! One interface that carries floating addresses: its sockets, and where the peer is on it.
//!
//! Owns: the packet sockets, and what was last said of the interface. Never: decides when to speak.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::arp;
use super::outbox::Outbox;
use super::packet::Port;
use super::peer::Sighting;
use crate::model::{Mac, Neighbour, Vip};
use crate::vip::kernel::KernelReport;
use crate::wire::announce;

#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) ethernet: bool,
    pub(super) up: bool,
    /// A bridge or a bond takes what it receives.
    pub(super) port: bool,
}

/// An interface that carries floating addresses. It need not exist.
#[derive(Debug, Default)]
pub(super) struct Interface {
    pub(super) vips: Vec<Vip>,
    /// Index and address of the link on which `port` was opened.
    pub(super) on: Option<(u32, Mac)>,
    pub(super) port: Option<Port>,
    /// What was said of it.
    pub(super) up: Option<bool>,
    /// Where each of the peer's addresses was last, and the newest word of them.
    sightings: BTreeMap<IpAddr, Mac>,
    peer: Option<Mac>,
    /// The link on which the peer was looked for.
    pub(super) looked: Option<u32>,
    /// The link on which the kernel's questions were seen to.
    pub(super) quiet: Option<u32>,
    told: Option<Neighbour>,
}

impl Interface {
    /// Has the sockets on this link, whichever it is now.
    pub(super) fn follow(&mut self, name: &str, link: Option<(&u32, &Link)>) {
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
        let groups = self.vips.iter().filter_map(|vip| match vip.ip() {
            IpAddr::V4(_) => None,
            IpAddr::V6(vip) => Some(announce::solicited_node(vip)),
        });
        groups.collect()
    }

    pub(super) fn index(&self) -> Option<u32> {
        self.on.map(|(index, _)| index)
    }

    pub(super) fn has_ipv4(&self) -> bool {
        self.vips.iter().any(|vip| vip.ip().is_ipv4())
    }

    /// The newest word counts, of whichever of the peer's addresses. One that says what it said before
    /// is no word.
    pub(super) fn see(&mut self, seen: Sighting, links: &BTreeMap<u32, Link>) {
        // Our own hardware address can only be a mistake, and packets would go round.
        let ours = links.values().any(|link| link.mac == seen.mac);
        if !ours && self.sightings.insert(seen.ip, seen.mac) != Some(seen.mac) {
            self.peer = Some(seen.mac);
        }
    }

    pub(super) fn tell(&mut self, name: &str, index: u32, own: Mac, outbox: &mut Outbox) {
        let peer = self.peer;
        let neighbour = Neighbour { index, own, peer };
        if self.told != Some(neighbour) {
            self.told = Some(neighbour);
            outbox.tell(KernelReport::Neighbour {
                interface: name.to_owned(),
                neighbour,
            });
        }
    }
}

pub(super) fn ask_as_itself(interface: &str) {
    if let Err(error) = arp::ask_as_itself(interface) {
        let remedy = arp::remedy(interface, "arp_announce", 2);
        tracing::warn!(interface, %error, "cannot set arp_announce: while connections of this node \
             go on under another master, the kernel's own ARP questions turn their clients back; set \
             {remedy}");
    }
}
