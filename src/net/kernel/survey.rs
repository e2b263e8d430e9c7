//! What an operator asks of a host before a node runs there: its links, and who on them answers for
//! an address.
//!
//! Owns: questions that nobody learns anything from (no sender's address). Never: claims an address.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};

use super::netlink::Netlink;
use super::packet::Port;
use crate::model::Mac;
use crate::net::clock::monotonic;
use crate::wire::announce;

/// Times that each question is asked: one frame may be lost.
const TIMES: u32 = 3;

/// A link of this thread's network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Ethernet address.
    pub mac: Mac,
    /// It has neighbours that can be asked.
    pub ethernet: bool,
    /// It is switched on.
    pub on: bool,
    /// It is switched on and has a carrier.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
}

/// Every link.
///
/// # Errors
///
/// The kernel does not say.
pub fn links() -> io::Result<Vec<Seen>> {
    let mut found = Vec::new();
    Netlink::open()?.links(|message| {
        let flags = message.header.flags;
        let mut link = Seen {
            index: message.header.index,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            on: flags.contains(LinkFlags::Up),
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            ..Seen::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().map(Mac).unwrap_or_default();
                }
                _ => {}
            }
        }
        found.push(link);
    })?;
    Ok(found)
}

/// Who answers for these addresses on this link, within `patience`. This host's own kernel is not
/// heard.
///
/// # Errors
///
/// Packet sockets cannot be opened.
pub fn who_answers(
    link: &Seen,
    ips: &[IpAddr],
    patience: Duration,
) -> io::Result<BTreeMap<IpAddr, BTreeSet<Mac>>> {
    let port = Port::open(link.index, &[])?;
    let mut found: BTreeMap<IpAddr, BTreeSet<Mac>> = BTreeMap::new();
    for _ in 0..TIMES {
        for ip in ips {
            // One that is lost is asked for again.
            let _ = match ip {
                IpAddr::V4(ip) => {
                    port.send(&announce::who_has(*ip, Ipv4Addr::UNSPECIFIED, link.mac))
                }
                IpAddr::V6(ip) => port.send(&announce::solicit(*ip, link.mac)),
            };
        }
        let until = monotonic() + patience / TIMES;
        loop {
            let left = until.saturating_sub(monotonic());
            if left.is_zero() {
                break;
            }
            let mut fds = port.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let left = PollTimeout::try_from(left + Duration::from_millis(1));
            poll(&mut fds, left.unwrap_or(PollTimeout::MAX))?;
            port.drain(|frame| {
                let claim = announce::hear(frame).and_then(|heard| heard.claim);
                if let Some(claim) = claim
                    && ips.contains(&claim.ip)
                    && claim.mac != link.mac
                {
                    found.entry(claim.ip).or_default().insert(claim.mac);
                }
            });
        }
    }
    Ok(found)
}
