//! Where the peer is, as the kernel's table of neighbours has it. The neighbour is the peer here.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::super::netlink::Netlink;
use super::super::peer::Peer;
use super::lan::{Adapter, Lan, NEIGHBOUR, NODE, on_a_lan};
use super::{STRANGER, vips};
use crate::model::{Mac, Neighbour};
use crate::wire::announce;

const PEER4: &str = "192.0.2.9";
const PEER6: &str = "2001:db8::9";
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);

fn peer() -> [IpAddr; 2] {
    [PEER4, PEER6].map(|ip| ip.parse().unwrap())
}

/// As the heartbeats do.
fn speak(to: &str) {
    let from = if to.contains(':') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(from).unwrap();
    socket.send_to(b"heartbeat", (to, 9)).unwrap();
}

fn here(lan: &Lan, peer: Option<Mac>) -> Neighbour {
    Neighbour {
        index: lan.index(NODE),
        own: lan.mac(NODE),
        peer,
    }
}

/// Waits for this; what comes on the way to it may come.
fn until(adapter: &mut Adapter<'_>, expected: Neighbour) {
    while adapter.neighbour() != expected {}
}

#[test]
fn the_peer_is_unknown_until_it_is_spoken_to() {
    for to in [PEER4, PEER6] {
        on_a_lan(move |lan| {
            let mut adapter = lan.start_with_peer(&vips(), &peer());
            adapter.expect_link(true);
            assert_eq!(adapter.neighbour(), here(&lan, None));
            speak(to);
            let known = here(&lan, Some(lan.mac(NEIGHBOUR)));
            assert_eq!(adapter.neighbour(), known);
            // Its other address says nothing new.
            speak(PEER4);
            speak(PEER6);
            adapter.settle(1);
            adapter.expect_no_neighbour();
        });
    }
}

#[test]
fn what_the_kernel_knows_at_the_start_is_known() {
    on_a_lan(|lan| {
        lan.believe(NODE, peer()[0], OTHER, NeighbourState::Stale);
        let mut adapter = lan.start_with_peer(&vips(), &peer());
        adapter.expect_link(true);
        assert_eq!(adapter.neighbour(), here(&lan, Some(OTHER)));
    });
}

#[test]
fn another_address_of_the_peer_is_told_and_an_end_is_not() {
    on_a_lan(|lan| {
        let ear = lan.ear();
        let mut adapter = lan.start_with_peer(&vips(), &peer());
        adapter.expect_link(true);
        speak(PEER4);
        let known = here(&lan, Some(lan.mac(NEIGHBOUR)));
        until(&mut adapter, known);
        // Its card is replaced.
        lan.readdress(NEIGHBOUR, OTHER);
        let ip = PEER4.parse().unwrap();
        ear.send(&announce::gratuitous_request(ip, OTHER)).unwrap();
        assert_eq!(adapter.neighbour(), here(&lan, Some(OTHER)));
        // The entry fails. It is known where it was.
        lan.believe(NODE, ip.into(), STRANGER, NeighbourState::Failed);
        adapter.settle(1);
        adapter.expect_no_neighbour();
        // All entries go.
        lan.link(NODE, false);
        adapter.expect_link(false);
        lan.link(NODE, true);
        adapter.expect_link(true);
        assert_eq!(lan.belief(NODE, ip.into()), None);
        adapter.settle(2);
        adapter.expect_no_neighbour();
    });
}

#[test]
fn our_own_card_may_change_too() {
    on_a_lan(|lan| {
        let mut adapter = lan.start_with_peer(&vips(), &peer());
        adapter.expect_link(true);
        speak(PEER6);
        let there = lan.mac(NEIGHBOUR);
        until(&mut adapter, here(&lan, Some(there)));
        lan.readdress(NODE, OTHER);
        let known = here(&lan, Some(there));
        assert_eq!(known.own, OTHER);
        until(&mut adapter, known);
        let before = known.index;
        lan.delete(NODE);
        adapter.expect_link(false);
        lan.plug_in();
        adapter.expect_link(true);
        let known = here(&lan, Some(there));
        assert_ne!(known.index, before);
        until(&mut adapter, known);
        speak(PEER6);
        until(&mut adapter, here(&lan, Some(lan.mac(NEIGHBOUR))));
    });
}

#[test]
fn only_on_the_interface_with_floating_addresses() {
    on_a_lan(|lan| {
        lan.cable("other0", "other1");
        lan.link("other0", true);
        let mut adapter = lan.start_with_peer(&vips(), &peer());
        adapter.expect_link(true);
        assert_eq!(adapter.neighbour(), here(&lan, None));
        lan.believe("other0", peer()[0], OTHER, NeighbourState::Permanent);
        // A mistake, and packets for the peer would come back to us.
        lan.believe(NODE, peer()[0], lan.mac(NODE), NeighbourState::Permanent);
        adapter.settle(1);
        adapter.expect_no_neighbour();
        lan.believe(NODE, peer()[1], OTHER, NeighbourState::Permanent);
        assert_eq!(adapter.neighbour(), here(&lan, Some(OTHER)));
    });
}

/// A host may have thousands of neighbours that come and go.
#[test]
fn other_neighbours_do_not_wake_us() {
    on_a_lan(|lan| {
        let mut ear = Peer::open(peer().to_vec()).unwrap();
        let readable = |ear: &Peer| {
            let mut fds = [PollFd::new(ear.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        for n in 1..250_u8 {
            let [mut other4, mut other6] = [[192, 0, 2, n], [192, 0, n, 9]];
            if n == 9 {
                (other4, other6) = ([198, 51, 100, 9], [203, 0, 113, 9]);
            }
            for ip in [other4, other6] {
                if ip != [192, 0, 2, 9] {
                    lan.believe(NODE, ip.into(), STRANGER, NeighbourState::Permanent);
                }
            }
            let ip = format!("2001:db8::{n:x}:9").parse().unwrap();
            lan.believe(NODE, ip, STRANGER, NeighbourState::Permanent);
        }
        assert!(!readable(&ear));
        for ip in peer() {
            lan.believe(NODE, ip, OTHER, NeighbourState::Permanent);
        }
        assert!(readable(&ear));
        let mut seen = Vec::new();
        assert!(ear.drain(|sighting| seen.push((sighting.ip, sighting.mac))));
        assert_eq!(seen, peer().map(|ip| (ip, OTHER)));
        assert!(!readable(&ear));
    });
}

#[test]
fn after_too_many_changes_it_looks_anew() {
    on_a_lan(|lan| {
        let mut ear = Peer::open(peer().to_vec()).unwrap();
        let ip = peer()[0];
        for n in 0..=3_000_u16 {
            let [high, low] = n.to_be_bytes();
            let mac = Mac([2, 0, 0, 0, high, low]);
            lan.believe(NODE, ip, mac, NeighbourState::Permanent);
        }
        let (mut whole, mut seen) = (true, 0);
        for _ in 0..100 {
            whole &= ear.drain(|_| seen += 1);
        }
        assert!(!whole && seen < 3_000, "{seen}");
        let mut netlink = Netlink::open().unwrap();
        let known = ear.look(&mut netlink, lan.index(NODE));
        let [high, low] = 3_000_u16.to_be_bytes();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].mac, Mac([2, 0, 0, 0, high, low]));
    });
}
