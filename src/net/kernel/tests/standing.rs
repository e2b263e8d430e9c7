//! Addresses that stay on the device while another node owns them.
//!
//! At a real node a program at ingress keeps ARP questions for them from the kernel
//! (`tests/system/silence.rs`). Here is no program, and with `arp_ignore` 0 the kernel would answer them;
//! so that setting does the program's part.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use rtnetlink::packet_route::neighbour::NeighbourState;
use socket2::Socket;

use super::super::arp::Arp;
use super::super::neighbours::Neighbours;
use super::super::netlink::Netlink;
use super::super::outbox::Outbox;
use super::super::packet;
use super::super::peer::Peer;
use super::lan::{Adapter, DEVICE, LONG, Lan, NEIGHBOUR, NODE, on_a_lan};
use super::{
    ASKER4, ASKER6, STRANGER, VIP4, VIP6, answers, ips, solicitation, solicitation_to, vips,
};
use crate::model::Epoch;
use crate::vip::RENEWAL;
use crate::vip::kernel::KernelReport;
use crate::wire::announce;

/// Writes a setting of IPv4, or says that the test cannot be made.
fn set(interface: &str, setting: &str, value: &str) -> bool {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/{setting}");
    std::fs::write(path, value)
        .inspect_err(|error| eprintln!("SKIPPED, needs a writable /proc/sys: {error}"))
        .is_ok()
}

/// With the kernel silent in ARP, and its questions as they are unless somebody sees to them.
fn stand(lan: &Lan) -> Option<Adapter<'_>> {
    // A namespace begins with the host's settings.
    let fresh = ["all", "default", NODE]
        .iter()
        .all(|interface| set(interface, "arp_announce", "0"));
    if !fresh || !set(NODE, "arp_ignore", "1") {
        return None;
    }
    let mut adapter = lan.start(&vips());
    adapter.expect_link(true);
    assert!(lan.on_device().is_empty());
    adapter.kernel.stand();
    lan.eventually("they stand", || lan.on_device() == ips());
    Some(adapter)
}

/// Everything on the cable, from now on.
fn capture(lan: &Lan) -> Socket {
    let index = lan.index(NEIGHBOUR);
    lan.as_neighbour(|| packet::listen(index, libc::ETH_P_ALL, &[]).unwrap())
}

/// In whose name the node sent what was captured: the sender of an IP packet, of an ARP question, or
/// whose address is advertised. And what the frames were, with the kind of ICMPv6.
fn names(lan: &Lan, captured: &Socket) -> Vec<(IpAddr, u16)> {
    let us = lan.mac(NODE).0;
    let mut names = Vec::new();
    let mut room = [0; 2_048];
    while let Ok(length) = (&mut &*captured).read(&mut room) {
        let frame = &room[..length];
        if frame[6..12] != us {
            continue;
        }
        let kind = u16::from_be_bytes([frame[12], frame[13]]);
        let field = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap();
        match kind {
            0x0800 => names.push((field(26).into(), kind)),
            0x0806 => names.push((field(28).into(), kind)),
            0x86dd => {
                let source = <[u8; 16]>::try_from(&frame[22..38]).unwrap();
                let solicits = frame[20] == 58 && frame[54] == 135;
                names.push((source.into(), if solicits { 135 } else { kind }));
            }
            _ => {}
        }
        names.extend(
            announce::hear(frame)
                .and_then(|heard| heard.claim)
                .map(|claim| (claim.ip, kind)),
        );
    }
    names
}

fn is_vip(ip: IpAddr) -> bool {
    ips().contains(&ip)
}

#[test]
fn standing_is_silent_and_holding_speaks() {
    on_a_lan(|lan| {
        let Some(mut adapter) = stand(&lan) else {
            return;
        };
        let (mac, ear, captured) = (lan.mac(NODE), lan.ear(), capture(&lan));
        let silent = |adapter: &Adapter<'_>| {
            for _ in 0..50 {
                for asker in [ASKER4, "0.0.0.0".parse().unwrap()] {
                    ear.send(&announce::who_has(VIP4, asker, STRANGER)).unwrap();
                }
                ear.send(&solicitation(ASKER6)).unwrap();
                ear.send(&solicitation("::".parse().unwrap())).unwrap();
                // As who knows the address checks whether it is still there.
                ear.send(&solicitation_to(mac, VIP6, ASKER6)).unwrap();
                let mut question = announce::who_has(VIP4, ASKER4, STRANGER);
                question[..6].copy_from_slice(&mac.0);
                ear.send(&question).unwrap();
            }
            adapter.announce(1);
            assert!(answers(&ear, mac, Duration::from_millis(200)).is_empty());
            let named = names(&lan, &captured);
            assert!(!named.iter().any(|(ip, _)| is_vip(*ip)), "{named:?}");
        };
        silent(&adapter);
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.kept(1, || {
            assert_eq!(answers(&ear, mac, LONG), ips());
            adapter.announce(1);
            let announced = announce::gratuitous_request(VIP4, mac);
            lan.eventually("it announces", || {
                let mut heard = false;
                ear.drain(|frame| heard |= frame == announced);
                heard
            });
        });
        adapter.release(1);
        adapter.expect(&KernelReport::Released { epoch: Epoch(1) });
        assert_eq!(lan.on_device(), ips());
        names(&lan, &captured);
        silent(&adapter);
        // Again, under the next epoch, and a stranger on the device goes as ever.
        lan.add(DEVICE, lan.index(DEVICE), "192.0.2.55".parse().unwrap(), 32);
        adapter.hold(2);
        adapter.expect_held(2);
        lan.eventually("no strays", || lan.on_device() == ips());
        adapter.settle(2);
        // Twice is once.
        adapter.kernel.stand();
        adapter.settle(2);
        assert_eq!(lan.on_device(), ips());
        adapter.expect_silence();
        drop(adapter);
        assert!(nix::net::if_::if_nametoindex(DEVICE).is_err());
    });
}

#[test]
fn a_packet_that_is_handed_over_finds_a_listener() {
    on_a_lan(|lan| {
        let Some(_adapter) = stand(&lan) else {
            return;
        };
        for (ip, port) in ips().into_iter().zip([7_011, 7_012]) {
            let at = SocketAddr::new(ip, port);
            let _listener = TcpListener::bind(at).unwrap();
            // As the peer's program hands it over, or a neighbour that has not heard.
            lan.believe(NEIGHBOUR, ip, lan.mac(NODE), NeighbourState::Permanent);
            lan.as_neighbour(|| TcpStream::connect_timeout(&at, LONG).unwrap());
        }
    });
}

#[test]
fn trust_ends_and_the_addresses_stay() {
    on_a_lan(|lan| {
        let Some(mut adapter) = stand(&lan) else {
            return;
        };
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        adapter.hold(1);
        adapter.expect_held(1);
        let trust = super::super::addresses::TRUST;
        // The margin is for a busy machine.
        std::thread::sleep(trust + Duration::from_millis(200));
        assert!(answers(&ear, mac, Duration::from_millis(100)).is_empty());
        // Longer than the kernel's lease would have been.
        std::thread::sleep(trust);
        assert_eq!(lan.on_device(), ips());
        adapter.expect_silence();
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.kept(1, || assert_eq!(answers(&ear, mac, LONG), ips()));
    });
}

/// A lease that runs when the addresses are told to stand does not end them.
#[test]
fn what_is_held_can_begin_to_stand() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.kernel.stand();
        std::thread::sleep(Duration::from_millis(2_500));
        assert_eq!(lan.on_device(), ips());
        adapter.expect_silence();
    });
}

#[test]
fn what_somebody_removes_comes_back_and_only_a_holder_is_told() {
    on_a_lan(|lan| {
        let Some(mut adapter) = stand(&lan) else {
            return;
        };
        let remove = |ip: IpAddr| {
            let mut netlink = Netlink::open().unwrap();
            netlink.remove(lan.index(DEVICE), &[ip]).unwrap();
        };
        let all = || lan.eventually("back", || lan.on_device() == ips());
        for ip in ips() {
            remove(ip);
            all();
        }
        // The kernel removes IPv6 addresses from a device that goes down.
        lan.link(DEVICE, false);
        all();
        let before = lan.index(DEVICE);
        lan.delete(DEVICE);
        all();
        assert_ne!(lan.index(DEVICE), before);
        adapter.settle(1);
        adapter.expect_silence();

        for vip in ips() {
            // Carried out before the address is removed.
            adapter.hold(2);
            if vip == ips()[0] {
                adapter.expect_held(2);
            }
            std::thread::sleep(RENEWAL / 4);
            remove(vip);
            adapter.expect(&KernelReport::Restored { vip });
            assert_eq!(lan.on_device(), ips());
        }
        adapter.settle(2);
        remove(ips()[1]);
        all();
        adapter.settle(3);
        adapter.expect_silence();
    });
}

#[test]
fn what_cannot_stand_yet_stands_later() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        let switch = format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6");
        if let Err(error) = std::fs::write(&switch, "1") {
            eprintln!("SKIPPED, needs a writable /proc/sys: {error}");
            return;
        }
        adapter.kernel.stand();
        lan.eventually("one", || lan.on_device() == [IpAddr::V4(VIP4)]);
        adapter.hold(1);
        assert!(matches!(adapter.report(), KernelReport::Failed { .. }));
        std::fs::write(&switch, "0").unwrap();
        // Nobody asks for it again.
        lan.eventually("both", || lan.on_device() == ips());
        adapter.settle(1);
        adapter.expect_silence();
    });
}

#[test]
fn what_this_host_sends_does_not_go_in_their_name() {
    on_a_lan(|lan| {
        let Some(_adapter) = stand(&lan) else {
            return;
        };
        let captured = capture(&lan);
        let scope = lan.index(NODE);
        for (to, own) in [
            ("192.0.2.9:9".to_owned(), "192.0.2.1"),
            ("203.0.113.9:9".to_owned(), "192.0.2.1"),
            ("255.255.255.255:9".to_owned(), "192.0.2.1"),
            ("[2001:db8::9]:9".to_owned(), "2001:db8::1"),
            (format!("[ff02::1%{scope}]:9"), "fe80::1"),
        ] {
            let from = if to.starts_with('[') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(from).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.connect(&to).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), own, "{to}");
            socket.send(b"hello").unwrap();
        }
        let mut named = Vec::new();
        lan.eventually("all of it", || {
            named.extend(names(&lan, &captured));
            // IPv4, ARP, IPv6, and a solicitation.
            [0x0800, 0x0806, 0x86dd, 135]
                .iter()
                .all(|kind| named.iter().any(|(_, seen)| seen == kind))
        });
        assert!(!named.iter().any(|(ip, _)| is_vip(*ip)), "{named:?}");
    });
}

/// Where the way out has no address, the kernel takes one of another device: for IPv4 not these, for
/// IPv6 any other before these.
#[test]
fn where_the_way_out_has_no_address_another_one_is_taken() {
    on_a_lan(|lan| {
        let Some(_adapter) = stand(&lan) else {
            return;
        };
        lan.unnumber();
        let source = |from: &str, to: &str| {
            let socket = UdpSocket::bind(from).unwrap();
            // Without any address it is refused, or sent without one.
            let _ = socket.connect(to);
            socket.local_addr().unwrap().ip()
        };
        let without = source("0.0.0.0:0", "203.0.113.9:9");
        assert!(without.is_unspecified(), "{without}");
        // Of the host, but nearer to the target is the floating one.
        let own = "2001:db8:ffff::1".parse().unwrap();
        lan.link("lo", true);
        lan.add("lo", lan.index("lo"), own, 128);
        assert_eq!(source("[::]:0", "[2001:db8::9]:9"), own);
    });
}

/// Connections that this node carries go on under another master: their packets have the address, the
/// kernel's questions about their clients must not.
#[test]
fn questions_for_a_client_of_a_floating_address_are_asked_in_our_own_name() {
    on_a_lan(|lan| {
        let announce = || Arp::read(NODE).unwrap().announce;
        let Some(mut adapter) = stand(&lan) else {
            return;
        };
        assert_eq!(announce(), 2);
        let captured = capture(&lan);
        for (ip, port) in ips().into_iter().zip([7_013, 7_014]) {
            let at = SocketAddr::new(ip, port);
            let listener = TcpListener::bind(at).unwrap();
            lan.believe(NEIGHBOUR, ip, lan.mac(NODE), NeighbourState::Permanent);
            let mut client = lan.as_neighbour(|| TcpStream::connect_timeout(&at, LONG).unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let named = names(&lan, &captured);
        let asked: Vec<_> = named
            .iter()
            .filter(|(_, kind)| [0x0806, 135].contains(kind))
            .collect();
        assert!(asked.iter().any(|(ip, _)| ip.is_ipv4()), "{named:?}");
        assert!(asked.iter().any(|(ip, _)| ip.is_ipv6()), "{named:?}");
        assert!(!asked.iter().any(|(ip, _)| is_vip(*ip)), "{named:?}");
        assert!(named.iter().any(|(ip, _)| *ip == VIP6), "the data");
        // An interface that comes back is another one.
        lan.delete(NODE);
        adapter.expect_link(false);
        lan.plug_in();
        adapter.expect_link(true);
        lan.eventually("set there too", || announce() == 2);
    });
}

/// No program keeps the kernel silent on an interface without floating addresses.
#[test]
fn interfaces_where_the_kernel_would_answer_are_found() {
    on_a_lan(|lan| {
        // A namespace begins with the host's settings.
        let fresh = ["all", "default", NODE];
        if !fresh.iter().all(|name| set(name, "arp_ignore", "0")) {
            return;
        }
        let (mut netlink, mut outbox) = (Netlink::open().unwrap(), no_outbox());
        let mut neighbours = Neighbours::new(Peer::open(Vec::new()).unwrap());
        neighbours.serve(&mut netlink, &vips(), &mut outbox);
        let mut found = || {
            neighbours.reread(&mut netlink, &mut outbox);
            let names = neighbours.others_that_answer().map(str::to_owned);
            names.collect::<BTreeSet<_>>()
        };
        assert!(found().is_empty(), "not where the program is");
        lan.cable("other0", "other1");
        assert!(found().is_empty(), "not while it is down");
        lan.link("lo", true);
        lan.link("other0", true);
        assert!(found().is_empty(), "not without a carrier");
        lan.link("other1", true);
        assert_eq!(found(), ["other0", "other1"].map(str::to_owned).into());
        for (value, answers) in [("1", false), ("3", true), ("8", false)] {
            assert!(set("other0", "arp_ignore", value));
            assert_eq!(found().contains("other0"), answers, "{value}");
        }
    });
}

fn no_outbox() -> Outbox {
    let (reports, _) = tokio::sync::mpsc::channel(1);
    Outbox::new(reports, std::sync::Arc::default())
}

#[test]
fn without_standing_no_setting_is_touched() {
    on_a_lan(|lan| {
        let before = Arp::read(NODE).unwrap();
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.settle(1);
        assert_eq!(Arp::read(NODE).unwrap(), before);
        assert!(lan.on_device().is_empty());
    });
}
