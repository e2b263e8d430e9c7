//! What goes wrong on the host: removals, refusals, deaths.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use tokio::sync::mpsc;

use super::super::netlink::Netlink;
use super::super::tun::Tun;
use super::super::{Kernel, KernelError, remove_left_over};
use super::lan::{Adapter, DEVICE, LONG, Lan, NODE, on_a_lan};
use super::{VIP4, VIP6, ips, vips};
use crate::model::Epoch;
use crate::vip::RENEWAL;
use crate::vip::kernel::{KernelCommand, KernelReport};

/// Set in the child that is killed.
const VICTIM: &str = "TANDEM_TEST_KERNEL_VICTIM";

#[test]
fn what_a_killed_process_held_goes_with_it() {
    if let Some(how) = std::env::var_os(VICTIM) {
        // In the namespace of the thread that started us.
        let rt = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (reports, _receiver) = mpsc::channel(8);
        let vips = vips();
        let start = Kernel::start_on(DEVICE, &vips, &[], reports);
        let kernel = rt.block_on(start).unwrap();
        if how == "stands" {
            kernel.stand();
        }
        loop {
            kernel.command(KernelCommand::Hold {
                epoch: Epoch(1),
                vips: vips.clone().into(),
            });
            std::thread::sleep(RENEWAL);
        }
    }
    for how in ["holds", "stands"] {
        on_a_lan(move |lan| kill(&lan, how));
    }
}

fn kill(lan: &Lan, how: &str) {
    let name = "net::kernel::tests::trouble::what_a_killed_process_held_goes_with_it";
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(VICTIM, how)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    lan.eventually("it holds", || lan.on_device() == ips());
    victim.kill().unwrap();
    victim.wait().unwrap();
    lan.eventually("the device goes", || {
        nix::net::if_::if_nametoindex(DEVICE).is_err()
    });
    // And the next life starts at once.
    let mut adapter = lan.start(&vips());
    adapter.expect_link(true);
    adapter.hold(1);
    adapter.expect_held(1);
}

#[test]
fn what_somebody_else_removes_comes_back() {
    // Carried out before anything is removed; what is removed in the middle of a renewal comes back
    // with it, unnoticed.
    let renew = |adapter: &Adapter<'_>| {
        adapter.hold(1);
        std::thread::sleep(RENEWAL / 4);
    };
    on_a_lan(move |lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        adapter.hold(1);
        adapter.expect_held(1);
        for vip in ips() {
            renew(&adapter);
            let mut netlink = Netlink::open().unwrap();
            netlink.remove(lan.index(DEVICE), &[vip]).unwrap();
            adapter.expect(&KernelReport::Restored { vip });
            assert_eq!(lan.on_device(), ips());
        }
        // The kernel removes IPv6 addresses from a device that goes down.
        renew(&adapter);
        lan.link(DEVICE, false);
        adapter.expect(&KernelReport::Restored { vip: VIP6.into() });
        lan.eventually("up again", || lan.on_device() == ips());
        let listener = TcpListener::bind("[::]:7003").unwrap();
        for vip in ips() {
            let at = SocketAddr::new(vip, 7003);
            adapter.kept(1, || {
                lan.as_neighbour(|| TcpStream::connect_timeout(&at, LONG).unwrap())
            });
        }
        drop(listener);
        // The whole device.
        renew(&adapter);
        let before = lan.index(DEVICE);
        lan.delete(DEVICE);
        for vip in ips() {
            adapter.expect(&KernelReport::Restored { vip });
        }
        assert_ne!(lan.index(DEVICE), before);
        assert_eq!(lan.on_device(), ips());
        // Somebody's own address on our device goes with the next renewal.
        lan.add(DEVICE, lan.index(DEVICE), "192.0.2.55".parse().unwrap(), 32);
        adapter.hold(1);
        lan.eventually("no strays", || lan.on_device() == ips());
        adapter.expect_silence();
    });
}

/// As `tandem release` does it, when something that the dead process started holds the descriptor.
#[test]
fn a_device_that_was_left_behind_is_removed_and_nothing_else_is() {
    on_a_lan(|lan| {
        assert!(!remove_left_over(DEVICE).unwrap());
        assert!(matches!(
            remove_left_over(NODE),
            Err(KernelError::DeviceExists { .. })
        ));
        let mut netlink = Netlink::open().unwrap();
        let _held = Tun::create(&mut netlink, DEVICE, true).unwrap();
        lan.add(DEVICE, lan.index(DEVICE), VIP4.into(), 32);
        assert!(remove_left_over(DEVICE).unwrap());
        assert!(nix::net::if_::if_nametoindex(DEVICE).is_err());
        assert!(nix::net::if_::if_nametoindex(NODE).is_ok());
    });
}

#[test]
fn what_hinders_the_start_is_said() {
    on_a_lan(|lan| {
        let start = |device: &str| {
            let (reports, _receiver) = mpsc::channel(8);
            lan.rt
                .block_on(Kernel::start_on(device, &vips(), &[], reports))
        };
        let first = start(DEVICE).unwrap();
        assert!(matches!(
            start(DEVICE),
            Err(KernelError::DeviceExists { .. })
        ));
        assert!(matches!(start(NODE), Err(KernelError::DeviceExists { .. })));
        assert!(matches!(
            start("a-name-of-16-chr"),
            Err(KernelError::BadName { .. })
        ));
        drop(first);
        drop(start(DEVICE).unwrap());
        if std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").is_ok() {
            assert!(matches!(start(DEVICE), Err(KernelError::NoIpv6 { .. })));
        }
    });
}

#[test]
fn a_refusal_is_reported_once_with_a_remedy_and_tried_again() {
    on_a_lan(|lan| {
        let mut adapter = lan.start(&vips());
        adapter.expect_link(true);
        let switch = format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6");
        if let Err(error) = std::fs::write(&switch, "1") {
            eprintln!("SKIPPED, needs a writable /proc/sys: {error}");
            return;
        }
        adapter.hold(1);
        match adapter.report() {
            KernelReport::Failed { epoch, what } => {
                assert_eq!(epoch, Epoch(1));
                assert!(what.contains("disable_ipv6"), "{what}");
            }
            other => panic!("{other:?}"),
        }
        adapter.hold(1);
        lan.eventually("the other one", || lan.on_device() == [IpAddr::V4(VIP4)]);
        adapter.expect_silence();
        std::fs::write(&switch, "0").unwrap();
        adapter.hold(1);
        adapter.expect_held(1);
    });
}
