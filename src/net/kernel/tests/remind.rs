//! A neighbour that still sends to a node that is not master.

use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::lan::{Adapter, Lan, NEIGHBOUR, NODE, on_a_lan};
use super::{VIP4, VIP6, ips, vips};
use crate::model::{Epoch, Mac, Stale};
use crate::vip::kernel::KernelCommand;

/// Where the address lives now.
const MASTER: Mac = Mac([2, 0, 0, 0, 0, 0x88]);

fn stale(lan: &Lan, vip: IpAddr, sender: &str) -> Stale {
    Stale {
        index: lan.index(NODE),
        vip,
        sender: sender.parse().unwrap(),
        mac: lan.mac(NEIGHBOUR),
    }
}

fn remind(adapter: &Adapter<'_>, stale: Stale, at: Mac) {
    let epoch = Epoch(1);
    adapter
        .kernel
        .command(KernelCommand::Remind { epoch, stale, at });
}

#[test]
fn a_stale_neighbour_is_turned_to_the_master() {
    on_a_lan(|lan| {
        let adapter = lan.start(&vips());
        let us = lan.mac(NODE);
        for (vip, sender) in [
            (IpAddr::V4(VIP4), "192.0.2.9"),
            // Behind a router, which the neighbour is then.
            (IpAddr::V4(VIP4), "203.0.113.9"),
            (IpAddr::V6(VIP6), "2001:db8::9"),
            (IpAddr::V6(VIP6), "fe80::9"),
            (IpAddr::V6(VIP6), "2001:db8:1::9"),
        ] {
            lan.believe(NEIGHBOUR, vip, us, NeighbourState::Reachable);
            assert_eq!(lan.belief(NEIGHBOUR, vip), Some(us));
            remind(&adapter, stale(&lan, vip, sender), MASTER);
            lan.eventually("it believes us", || {
                lan.belief(NEIGHBOUR, vip) == Some(MASTER)
            });
        }
        // Some hosts ignore what was not asked for. A question they cannot.
        let switch = format!("/proc/sys/net/ipv4/conf/{NEIGHBOUR}/drop_gratuitous_arp");
        if lan.as_neighbour(|| std::fs::write(switch, "1")).is_ok() {
            lan.believe(NEIGHBOUR, VIP4.into(), us, NeighbourState::Reachable);
            remind(&adapter, stale(&lan, VIP4.into(), "192.0.2.9"), MASTER);
            lan.eventually("it believes a question", || {
                lan.belief(NEIGHBOUR, VIP4.into()) == Some(MASTER)
            });
        }
    });
}

#[test]
fn nobody_is_reminded_of_what_is_ours_or_of_what_cannot_be() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        let us = lan.mac(NODE);
        for vip in ips() {
            lan.believe(NEIGHBOUR, vip, us, NeighbourState::Permanent);
        }
        // A permanent entry is not turned, so what is said is listened to.
        let ear = lan.ear();
        let good = stale(&lan, VIP4.into(), "192.0.2.9");
        let foreign = Stale {
            vip: "192.0.2.101".parse().unwrap(),
            ..good
        };
        let elsewhere = Stale {
            index: 9_999,
            ..good
        };
        let group = Stale {
            mac: Mac([0xff; 6]),
            ..good
        };
        let mixed = Stale {
            sender: "2001:db8::9".parse().unwrap(),
            ..good
        };
        for stale in [foreign, elsewhere, group, mixed] {
            remind(&adapter, stale, MASTER);
        }
        remind(&adapter, good, us);
        remind(&adapter, good, Mac::default());
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.kept(1, || {
            for vip in ips() {
                remind(&adapter, stale(&lan, vip, "192.0.2.9"), MASTER);
                remind(&adapter, stale(&lan, vip, "2001:db8::9"), MASTER);
            }
            let heard = super::listen(&ear, Duration::from_millis(200), |_| false);
            assert!(heard.is_empty(), "{heard:?}");
        });
        adapter.settle(1);
        remind(&adapter, good, MASTER);
        let said = |heard: &[super::Heard]| {
            heard
                .iter()
                .any(|heard| heard.claim.is_some_and(|claim| claim.mac == MASTER))
        };
        assert!(said(&super::listen(&ear, super::LONG, said)));
    });
}
