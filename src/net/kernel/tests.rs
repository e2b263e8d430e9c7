//! The adapter in a real kernel, with a neighbour at the other end of the cable.

mod lan;
mod peer;
mod remind;
mod standing;
mod trouble;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use self::lan::{DEVICE, GATEWAY, LONG, NEIGHBOUR, NODE, listen, on_a_lan};
use super::packet::Port;
use crate::model::{Epoch, Mac, Vip};
use crate::vip::RENEWAL;
use crate::vip::kernel::KernelReport;
use crate::wire::announce::{self, Claim, Heard};

const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const ASKER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x77]);

fn vips() -> [Vip; 2] {
    ["192.0.2.100/24", "2001:db8::100/64"].map(|address| Vip {
        address: address.parse().unwrap(),
        interface: NODE.into(),
    })
}

fn ips() -> [IpAddr; 2] {
    [VIP4.into(), VIP6.into()]
}

/// A solicitation for the floating address, from a stranger or from one without an address.
fn solicitation(asker: Ipv6Addr) -> Vec<u8> {
    let to = announce::solicited_node(VIP6);
    let [.., a, b, c, d] = to.octets();
    solicitation_to(Mac([0x33, 0x33, a, b, c, d]), to, asker)
}

fn solicitation_to(mac: Mac, to: Ipv6Addr, asker: Ipv6Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(STRANGER.0, mac.0)
        .ipv6(asker.octets(), to.octets(), 255)
        .icmpv6(etherparse::Icmpv6Type::NeighborSolicitation)
        .write(&mut frame, &VIP6.octets())
        .unwrap();
    frame
}

/// Which addresses the node says are at `mac`, when asked.
fn answers(ear: &Port, mac: Mac, time: Duration) -> Vec<IpAddr> {
    ear.drain(|_| ());
    ear.send(&announce::who_has(VIP4, ASKER4, STRANGER))
        .unwrap();
    ear.send(&solicitation(ASKER6)).unwrap();
    let claims = |heard: &[Heard]| {
        let claims = heard.iter().filter_map(|heard| heard.claim);
        let mut ips: Vec<IpAddr> = claims
            .filter(|claim| claim.mac == mac)
            .map(|c| c.ip)
            .collect();
        ips.retain(|ip| self::ips().contains(ip));
        ips.sort();
        ips.dedup();
        ips
    };
    claims(&listen(ear, time, |heard| claims(heard).len() == 2))
}

#[test]
fn a_mastership_from_beginning_to_end() {
    on_a_lan(|lan| {
        // The kernel is not to help.
        std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1")
            .unwrap_or_else(|error| eprintln!("arp_ignore stays as it is: {error}"));
        let listeners: Vec<TcpListener> = ["0.0.0.0:7001", "[::]:7002"]
            .map(|at| TcpListener::bind(at).unwrap())
            .into();
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        assert!(lan.on_device().is_empty());
        assert!(answers(&ear, mac, Duration::from_millis(100)).is_empty());

        adapter.hold(1);
        adapter.expect_held(1);
        assert_eq!(lan.on_device(), ips());
        adapter.kept(1, || {
            assert_eq!(answers(&ear, mac, LONG), ips());
            // Known to the neighbour's kernel by our answers alone.
            for (ip, port) in ips().into_iter().zip([7001, 7002]) {
                let stream = lan.as_neighbour(|| {
                    TcpStream::connect_timeout(&SocketAddr::new(ip, port), LONG).unwrap()
                });
                assert_eq!(stream.peer_addr().unwrap().ip(), ip);
            }
        });
        drop(listeners);

        let mut expected = vec![
            announce::gratuitous_request(VIP4, mac).to_vec(),
            announce::gratuitous_reply(VIP4, mac).to_vec(),
            announce::who_has(GATEWAY.parse().unwrap(), VIP4, mac).to_vec(),
            announce::advert(VIP6, mac).to_vec(),
        ];
        adapter.kept(1, || {
            adapter.announce(1);
            lan.eventually("announced", || {
                ear.drain(|frame| expected.retain(|expected| expected != frame));
                expected.is_empty()
            });
        });

        adapter.release(1);
        adapter.expect(&KernelReport::Released { epoch: Epoch(1) });
        assert!(lan.on_device().is_empty());
        assert!(answers(&ear, mac, Duration::from_millis(100)).is_empty());
        adapter.announce(1);
        assert!(listen(&ear, Duration::from_millis(50), |_| false).is_empty());
        drop(adapter);
        assert!(nix::net::if_::if_nametoindex(DEVICE).is_err());
    });
}

#[test]
fn a_probe_for_duplicates_is_answered() {
    on_a_lan(|lan| {
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        ear.send(&solicitation(Ipv6Addr::UNSPECIFIED)).unwrap();
        ear.send(&announce::who_has(VIP4, Ipv4Addr::UNSPECIFIED, STRANGER))
            .unwrap();
        let claimed = |heard: &[Heard], ip| {
            let claim = Some(Claim { ip, mac });
            heard.iter().any(|heard| heard.claim == claim)
        };
        let both = |heard: &[Heard]| ips().into_iter().all(|ip| claimed(heard, ip));
        let heard = adapter.kept(1, || listen(&ear, LONG, both));
        assert!(both(&heard), "{heard:?}");
    });
}

#[test]
fn the_lease_ends_by_itself_and_is_taken_for_no_removal() {
    on_a_lan(|lan| {
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        for _ in 0..5 {
            adapter.hold(1);
            std::thread::sleep(RENEWAL);
            assert_eq!(lan.on_device(), ips());
        }
        adapter.expect_held(1);
        adapter.expect_silence();
        let until = tokio::time::Instant::now() + Duration::from_millis(2_500);
        // From here on nobody renews. We stop speaking for it before the kernel ends it.
        // The margin is for a busy machine, where the last command is carried out late.
        std::thread::sleep(super::addresses::TRUST - RENEWAL + Duration::from_millis(200));
        assert!(!answers(&ear, mac, Duration::from_millis(50)).contains(&VIP6.into()));
        lan.eventually("the kernel ends the lease", || lan.on_device().is_empty());
        assert!(tokio::time::Instant::now() < until);
        adapter.expect_silence();

        adapter.hold(1);
        adapter.expect_held(1);
        assert_eq!(lan.on_device(), ips());
    });
}

#[test]
fn commands_of_an_older_epoch_do_nothing() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(5);
        adapter.expect_held(5);
        adapter.release(4);
        adapter.hold(4);
        adapter.hold(6);
        adapter.expect_held(6);
        assert_eq!(lan.on_device(), ips());
        adapter.release(6);
        adapter.expect(&KernelReport::Released { epoch: Epoch(6) });
        adapter.hold(5);
        adapter.release(7);
        adapter.expect(&KernelReport::Released { epoch: Epoch(7) });
        assert!(lan.on_device().is_empty());
        assert!(adapter.kernel.dropped() >= 3);
    });
}

#[test]
fn a_rival_is_reported_but_not_our_own_voice() {
    on_a_lan(|lan| {
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        let claim = |from: Mac| {
            ear.send(&announce::gratuitous_request(VIP4, from)).unwrap();
            ear.send(&announce::advert(VIP6, from)).unwrap();
        };
        // Not while we do not hold.
        claim(STRANGER);
        // It must have been read by then, also on a busy machine.
        std::thread::sleep(Duration::from_millis(300));
        adapter.hold(1);
        adapter.expect_held(1);
        adapter.expect_silence();
        claim(mac);
        claim(STRANGER);
        let mut rivals = [adapter.report(), adapter.report()];
        rivals.sort_by_key(|report| format!("{report:?}"));
        let rival = |vip| KernelReport::Rival { vip, mac: STRANGER };
        assert_eq!(rivals, ips().map(rival));
        // A storm is no storm of reports. It comes when the last report is old enough for another.
        std::thread::sleep(Duration::from_millis(30));
        let began = tokio::time::Instant::now();
        for _ in 0..2_000 {
            ear.send(&announce::gratuitous_reply(VIP4, STRANGER))
                .unwrap();
        }
        // It listens before it is told to release, also on a busy machine.
        assert_eq!(adapter.report(), rival(VIP4.into()));
        std::thread::sleep(Duration::from_millis(50));
        let most = began.elapsed().as_millis() / 10 + 2;
        adapter.release(1);
        let mut reports = 1;
        while adapter.report() != (KernelReport::Released { epoch: Epoch(1) }) {
            reports += 1;
        }
        assert!((1..=most).contains(&reports), "{reports} of at most {most}");
    });
}

#[test]
fn links_are_followed_through_down_and_gone_and_back() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        lan.link(NEIGHBOUR, false);
        adapter.expect_link(false);
        lan.link(NEIGHBOUR, true);
        adapter.expect_link(true);
        lan.delete(NODE);
        adapter.expect_link(false);
        lan.plug_in();
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        adapter.kept(1, || assert_eq!(answers(&ear, mac, LONG), ips()));
    });
}

#[test]
fn an_interface_that_comes_later_is_served_then() {
    on_a_lan(|lan| {
        lan.delete(NODE);
        let mut adapter = lan.start(&vips());
        adapter.expect_link(false);
        adapter.hold(1);
        adapter.expect_held(1);
        lan.plug_in();
        adapter.expect_link(true);
        adapter.hold(1);
        let (mac, ear) = (lan.mac(NODE), lan.ear());
        adapter.kept(1, || assert_eq!(answers(&ear, mac, LONG), ips()));
    });
}

#[test]
fn no_child_inherits_a_descriptor() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        let (mut tuns, mut sockets) = (0, 0);
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let path = entry.unwrap().path();
            let Ok(target) = std::fs::read_link(&path) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let (tun, socket) = (target == "/dev/net/tun", target.starts_with("socket:"));
            let info = path.to_string_lossy().replace("/fd/", "/fdinfo/");
            let Ok(info) = std::fs::read_to_string(info) else {
                continue;
            };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
            if tun || socket {
                assert_ne!(flags & libc::O_CLOEXEC, 0, "{target}");
            }
            tuns += usize::from(tun);
            sockets += usize::from(socket);
        }
        assert!(tuns >= 1 && sockets >= 7, "{tuns} {sockets}");
    });
}
