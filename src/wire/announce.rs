//! Who owns a floating address, as neighbours say it to each other: ARP (RFC 826) and IPv6
//! neighbour discovery (RFC 4861), as whole Ethernet frames, byte for byte.
//!
//! Owns: the layout of what we say, and what is believed of what we hear. Never: sends, or knows
//! which addresses are ours. Parsing never panics and looks at a bounded number of bytes.
//!
//! Which form convinces whom (measured on Linux 6.18): a gratuitous *request* and a gratuitous
//! reply whose target hardware address is the sender's override a neighbour's entry at once; a
//! reply to ff:ff:ff:ff:ff:ff is not taken as gratuitous and loses against `arp_locktime`. An
//! ordinary question about somebody else does it too, even where `drop_gratuitous_arp` is set.
//! In IPv6 the override flag does it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet::packet::Packet;
use pnet::packet::arp::{ArpHardwareTypes, ArpOperations, ArpPacket, MutableArpPacket};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
use pnet::packet::icmpv6::ndp::{
    MutableNeighborAdvertPacket, MutableNeighborSolicitPacket, NeighborAdvertFlags,
    NeighborAdvertPacket, NeighborSolicitPacket,
};
use pnet::packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types, checksum};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv6::{Ipv6Packet, MutableIpv6Packet};
use pnet::util::MacAddr;

use crate::model::Mac;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
/// Fixed part of a solicitation and of an advertisement.
const NEIGHBOUR: usize = 24;
/// Link-layer address option.
const OPTION: usize = 8;
/// A packet that was forwarded by a router, or made by one who is not on the link, has less.
const HOP_LIMIT: u8 = 255;

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// An ARP packet in its Ethernet frame, not padded (the driver does that).
pub type ArpFrame = [u8; ETHERNET + 28];
/// A neighbour advertisement with one option in its Ethernet frame.
pub type AdvertFrame = [u8; ETHERNET + IPV6 + NEIGHBOUR + OPTION];

/// A solicitation without options in its Ethernet frame.
pub type SolicitFrame = [u8; ETHERNET + IPV6 + NEIGHBOUR];

/// Longest frame that [`hear`] looks at; the rest of a longer one is padding or options we do not
/// know.
pub const LONGEST: usize = 256;

/// "`vip` is at `mac`", as a broadcast request about itself.
pub fn gratuitous_request(vip: Ipv4Addr, mac: Mac) -> ArpFrame {
    arp(ArpOperations::Request, BROADCAST, mac, vip, BROADCAST, vip)
}

/// "`vip` is at `mac`", as a broadcast reply that nobody asked for.
pub fn gratuitous_reply(vip: Ipv4Addr, mac: Mac) -> ArpFrame {
    arp(ArpOperations::Reply, BROADCAST, mac, vip, mac, vip)
}

/// "Who has `target`? Tell `vip`": asks for one neighbour, and tells it in passing.
pub fn who_has(target: Ipv4Addr, vip: Ipv4Addr, mac: Mac) -> ArpFrame {
    let nobody = Mac::default();
    arp(ArpOperations::Request, BROADCAST, mac, vip, nobody, target)
}

/// The answer to an ARP question.
pub fn arp_answer(vip: Ipv4Addr, mac: Mac, asker: Ipv4Addr, asker_mac: Mac) -> ArpFrame {
    arp(ArpOperations::Reply, asker_mac, mac, vip, asker_mac, asker)
}

/// "`vip` is at `mac`", to all nodes, with the override flag (RFC 4861, 7.2.6).
pub fn advert(vip: Ipv6Addr, mac: Mac) -> AdvertFrame {
    neighbour_advert(vip, mac, ALL_NODES, multicast_mac(ALL_NODES), 0)
}

/// The answer to a solicitation (RFC 4861, 7.2.4). An asker that has no address yet (`::`, checking
/// for duplicates) is answered through all nodes.
pub fn advert_answer(vip: Ipv6Addr, mac: Mac, asker: Ipv6Addr, asker_mac: Mac) -> AdvertFrame {
    if asker.is_unspecified() {
        return advert(vip, mac);
    }
    neighbour_advert(vip, mac, asker, asker_mac, NeighborAdvertFlags::Solicited)
}

/// "`vip` is at `at`", to one neighbour (`to`), from another host than `at` (`from`): as a question
/// for `sender`, who answers to `at`. Without a sender the neighbour is a router, which would not take
/// a question for another host to heart at once: then as a gratuitous request.
pub fn reminder(vip: Ipv4Addr, at: Mac, sender: Option<Ipv4Addr>, to: Mac, from: Mac) -> ArpFrame {
    let (target_mac, target) = sender.map_or((BROADCAST, vip), |ip| (Mac::default(), ip));
    let request = ArpOperations::Request;
    let mut frame = arp(request, to, at, vip, target_mac, target);
    ethernet(&mut frame[..ETHERNET], to, from, EtherTypes::Arp);
    frame
}

/// The same in IPv6: an advertisement with the override flag. Without a sender, who then is not on
/// this link, it goes to all nodes in a frame for `to` only.
pub fn advert_reminder(
    vip: Ipv6Addr,
    at: Mac,
    sender: Option<Ipv6Addr>,
    to: Mac,
    from: Mac,
) -> AdvertFrame {
    let mut frame = neighbour_advert(vip, at, sender.unwrap_or(ALL_NODES), to, 0);
    ethernet(&mut frame[..ETHERNET], to, from, EtherTypes::Ipv6);
    frame
}

/// "Does anybody have `target`?", from one who has no address yet, so that nobody learns anything of
/// the asker (RFC 4862, 5.4.2). [`who_has`] with the unspecified address is the same in IPv4 (RFC 5227,
/// 2.1.1).
pub fn solicit(target: Ipv6Addr, mac: Mac) -> SolicitFrame {
    let to = solicited_node(target);
    let mut frame = [0; size_of::<SolicitFrame>()];
    let (header, rest) = frame.split_at_mut(ETHERNET);
    let (ip, body) = rest.split_at_mut(IPV6);
    ethernet(header, multicast_mac(to), mac, EtherTypes::Ipv6);
    ipv6(ip, body.len(), Ipv6Addr::UNSPECIFIED, to);
    let mut packet = MutableNeighborSolicitPacket::new(body).expect("24 bytes");
    packet.set_icmpv6_type(Icmpv6Types::NeighborSolicit);
    packet.set_target_addr(target);
    let icmp = Icmpv6Packet::new(body).expect("24 bytes");
    let sum = checksum(&icmp, &Ipv6Addr::UNSPECIFIED, &to);
    MutableNeighborSolicitPacket::new(body)
        .expect("24 bytes")
        .set_checksum(sum);
    frame
}

/// Where solicitations for this address are sent (RFC 4291, 2.7.1).
pub fn solicited_node(vip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = vip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

fn arp(
    operation: pnet::packet::arp::ArpOperation,
    to: Mac,
    sender: Mac,
    sender_ip: Ipv4Addr,
    target: Mac,
    target_ip: Ipv4Addr,
) -> ArpFrame {
    let mut frame = [0; size_of::<ArpFrame>()];
    let (header, body) = frame.split_at_mut(ETHERNET);
    ethernet(header, to, sender, EtherTypes::Arp);
    let mut packet = MutableArpPacket::new(body).expect("28 bytes");
    packet.set_hardware_type(ArpHardwareTypes::Ethernet);
    packet.set_protocol_type(EtherTypes::Ipv4);
    packet.set_hw_addr_len(6);
    packet.set_proto_addr_len(4);
    packet.set_operation(operation);
    packet.set_sender_hw_addr(sender.0.into());
    packet.set_sender_proto_addr(sender_ip);
    packet.set_target_hw_addr(target.0.into());
    packet.set_target_proto_addr(target_ip);
    frame
}

fn neighbour_advert(vip: Ipv6Addr, mac: Mac, to: Ipv6Addr, to_mac: Mac, flags: u8) -> AdvertFrame {
    let mut frame = [0; size_of::<AdvertFrame>()];
    let (header, rest) = frame.split_at_mut(ETHERNET);
    let (ip, body) = rest.split_at_mut(IPV6);
    ethernet(header, to_mac, mac, EtherTypes::Ipv6);

    ipv6(ip, NEIGHBOUR + OPTION, vip, to);

    body[NEIGHBOUR..NEIGHBOUR + 2].copy_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    body[NEIGHBOUR + 2..].copy_from_slice(&mac.0);
    let mut packet = MutableNeighborAdvertPacket::new(body).expect("24 bytes");
    packet.set_icmpv6_type(Icmpv6Types::NeighborAdvert);
    packet.set_flags(NeighborAdvertFlags::Override | flags);
    packet.set_target_addr(vip);
    let sum = checksum(&Icmpv6Packet::new(body).expect("24 bytes"), &vip, &to);
    MutableNeighborAdvertPacket::new(body)
        .expect("24 bytes")
        .set_checksum(sum);
    frame
}

fn ethernet(header: &mut [u8], to: Mac, from: Mac, kind: pnet::packet::ethernet::EtherType) {
    let mut packet = MutableEthernetPacket::new(header).expect("14 bytes");
    packet.set_destination(to.0.into());
    packet.set_source(from.0.into());
    packet.set_ethertype(kind);
}

/// The header of a message of neighbour discovery that is so long.
fn ipv6(header: &mut [u8], length: usize, from: Ipv6Addr, to: Ipv6Addr) {
    let mut packet = MutableIpv6Packet::new(header).expect("40 bytes");
    packet.set_version(6);
    packet.set_payload_length(length as u16);
    packet.set_next_header(IpNextHeaderProtocols::Icmpv6);
    packet.set_hop_limit(HOP_LIMIT);
    packet.set_source(from);
    packet.set_destination(to);
}

/// RFC 2464, 7.
fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// What a neighbour said. One packet can do both: every ARP question tells who asks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Heard {
    /// It says who owns an address.
    pub claim: Option<Claim>,
    /// It wants to know who owns an address.
    pub question: Option<Question>,
}

/// "`ip` is at `mac`."
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The address.
    pub ip: IpAddr,
    /// Its owner.
    pub mac: Mac,
}

/// "Who has `target`?"
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Question {
    /// The address in question.
    pub target: IpAddr,
    /// Who asks; unspecified if it has no address yet.
    pub asker: IpAddr,
    /// Where the answer goes.
    pub asker_mac: Mac,
}

/// Reads a frame. `None`: it is neither ARP nor neighbour discovery, or breaks a rule of theirs
/// (RFC 4861, 7.1).
pub fn hear(frame: &[u8]) -> Option<Heard> {
    let frame = EthernetPacket::new(frame.get(..LONGEST).unwrap_or(frame))?;
    let from = mac(frame.get_source());
    // Group addresses are nobody's.
    if from.0[0] & 1 != 0 {
        return None;
    }
    match frame.get_ethertype() {
        EtherTypes::Arp => hear_arp(frame.payload()),
        EtherTypes::Ipv6 => hear_neighbour(frame.payload(), from),
        _ => None,
    }
}

fn hear_arp(body: &[u8]) -> Option<Heard> {
    let packet = ArpPacket::new(body)?;
    let fits = packet.get_hardware_type() == ArpHardwareTypes::Ethernet
        && packet.get_protocol_type() == EtherTypes::Ipv4
        && packet.get_hw_addr_len() == 6
        && packet.get_proto_addr_len() == 4;
    if !fits {
        return None;
    }
    let sender = packet.get_sender_proto_addr();
    let sender_mac = mac(packet.get_sender_hw_addr());
    let target = packet.get_target_proto_addr();
    let claim = (!sender.is_unspecified()).then_some(Claim {
        ip: sender.into(),
        mac: sender_mac,
    });
    let question = match packet.get_operation() {
        // About itself: gratuitous.
        ArpOperations::Request if sender == target => None,
        ArpOperations::Request => Some(Question {
            target: target.into(),
            asker: sender.into(),
            asker_mac: sender_mac,
        }),
        ArpOperations::Reply => None,
        _ => return None,
    };
    Some(Heard { claim, question })
}

fn hear_neighbour(body: &[u8], from: Mac) -> Option<Heard> {
    let ip = Ipv6Packet::new(body)?;
    let fits = ip.get_version() == 6
        && ip.get_next_header() == IpNextHeaderProtocols::Icmpv6
        && ip.get_hop_limit() == HOP_LIMIT
        && ip.payload().len() == usize::from(ip.get_payload_length());
    if !fits {
        return None;
    }
    let message = Icmpv6Packet::new(ip.payload())?;
    let (source, destination) = (ip.get_source(), ip.get_destination());
    if message.get_icmpv6_code() != Icmpv6Code(0)
        || message.get_checksum() != checksum(&message, &source, &destination)
    {
        return None;
    }
    let options = message.packet().get(NEIGHBOUR..)?;
    match message.get_icmpv6_type() {
        Icmpv6Types::NeighborSolicit => {
            let target = NeighborSolicitPacket::new(message.packet())?.get_target_addr();
            let link = link_address(options, SOURCE_LINK_ADDRESS)?;
            if target.is_multicast() || (source.is_unspecified() && link.is_some()) {
                return None;
            }
            let question = Question {
                target: target.into(),
                asker: source.into(),
                asker_mac: from,
            };
            Some(Heard {
                claim: link.map(|mac| Claim {
                    ip: source.into(),
                    mac,
                }),
                question: Some(question),
            })
        }
        Icmpv6Types::NeighborAdvert => {
            let target = NeighborAdvertPacket::new(message.packet())?.get_target_addr();
            let link = link_address(options, TARGET_LINK_ADDRESS)?;
            (!target.is_multicast()).then(|| Heard {
                claim: Some(Claim {
                    ip: target.into(),
                    mac: link.unwrap_or(from),
                }),
                question: None,
            })
        }
        _ => None,
    }
}

/// The Ethernet address in the options, if there is one. The outer `None`: an option has no length
/// or is cut, so the packet is to be dropped (RFC 4861, 4.6).
fn link_address(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while let [option, length, ..] = *options {
        let length = usize::from(length) * 8;
        let whole = options.get(..length).filter(|whole| !whole.is_empty())?;
        if option == kind
            && let [_, _, mac @ ..] = whole
            && let Ok(mac) = mac.try_into()
        {
            found = Some(Mac(mac));
        }
        options = &options[length..];
    }
    options.is_empty().then_some(found)
}

fn mac(address: MacAddr) -> Mac {
    Mac(address.octets())
}

#[cfg(test)]
#[path = "announce_test.rs"]
mod tests;
