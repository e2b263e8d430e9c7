//! A node and one neighbour, each in a network namespace, with a cable between them.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::Kernel;
use super::super::netlink::Netlink;
use super::super::packet::Port;
use crate::model::{Epoch, Mac, Vip};
use crate::vip::kernel::{KernelCommand, KernelReport};
use crate::wire::announce::{Heard, hear};

pub(super) const NODE: &str = "node0";
pub(super) const NEIGHBOUR: &str = "lan0";
pub(super) const DEVICE: &str = "tandem0";
/// Nobody has it and nobody else asks for it.
pub(super) const GATEWAY: &str = "192.0.2.254";
/// Nothing here takes this long, even on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(10);

pub(super) struct Lan {
    pub(super) rt: Runtime,
    node: File,
    neighbour: File,
    at_node: Handle,
    at_neighbour: Handle,
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Runs a test on a thread of its own, since a namespace belongs to a thread. It goes with it.
pub(super) fn on_a_lan(test: impl FnOnce(Lan) + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            eprintln!("SKIPPED, needs root: unshare: {errno}");
            return;
        }
        let node = here();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let neighbour = here();
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connect = || {
            let _guard = rt.enter();
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            rt.spawn(connection);
            handle
        };
        let at_neighbour = connect();
        setns(&node, CloneFlags::CLONE_NEWNET).unwrap();
        let at_node = connect();
        let lan = Lan {
            rt,
            node,
            neighbour,
            at_node,
            at_neighbour,
        };
        lan.plug_in();
        test(lan);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Lan {
    /// Lays the cable, with addresses and a default route.
    pub(super) fn plug_in(&self) {
        let neighbour = self.neighbour.as_raw_fd();
        self.rt.block_on(async {
            let cable = LinkVeth::new(NODE, NEIGHBOUR).build();
            self.at_node.link().add(cable).execute().await.unwrap();
            let far = LinkUnspec::new_with_name(NEIGHBOUR).setns_by_fd(neighbour);
            let far = far.build();
            self.at_node.link().set(far).execute().await.unwrap();
        });
        for (name, ips) in [
            (
                NODE,
                [("192.0.2.1", 24), ("2001:db8::1", 64), ("fe80::1", 64)],
            ),
            (
                NEIGHBOUR,
                [("192.0.2.9", 24), ("2001:db8::9", 64), ("fe80::9", 64)],
            ),
        ] {
            let index = self.index(name);
            // A generated link-local address would be checked for duplicates for two seconds, and
            // until then the kernel asks no neighbour.
            let quiet = || {
                Netlink::open()
                    .unwrap()
                    .no_generated_addresses(index)
                    .unwrap();
            };
            if name == NEIGHBOUR {
                self.as_neighbour(quiet);
            } else {
                quiet();
            }
            self.link(name, true);
            for (ip, prefix) in ips {
                self.add(name, index, ip.parse().unwrap(), prefix);
            }
        }
        let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .gateway(GATEWAY.parse().unwrap())
            .build();
        let added = self.at_node.route().add(route);
        self.rt.block_on(added.execute()).unwrap();
    }

    pub(super) fn add(&self, name: &str, index: u32, ip: IpAddr, prefix: u8) {
        use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
        let mut message = match ip {
            IpAddr::V4(ip) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .address(ip, prefix)
                .index(index)
                .build(),
            IpAddr::V6(ip) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .address(ip, prefix)
                .index(index)
                .build(),
        };
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        message.attributes.push(flags);
        let mut request = self.handle(name).address().add(index, ip, prefix);
        *request.message_mut() = message;
        self.rt.block_on(request.execute()).unwrap();
    }

    fn handle(&self, name: &str) -> &Handle {
        if name == NEIGHBOUR {
            &self.at_neighbour
        } else {
            &self.at_node
        }
    }

    pub(super) fn link(&self, name: &str, up: bool) {
        let link = LinkUnspec::new_with_name(name);
        let link = if up { link.up() } else { link.down() };
        let set = self.handle(name).link().set(link.build());
        self.rt.block_on(set.execute()).unwrap();
    }

    pub(super) fn delete(&self, name: &str) {
        let deleted = self.handle(name).link().del(self.index(name));
        self.rt.block_on(deleted.execute()).unwrap();
    }

    pub(super) fn index(&self, name: &str) -> u32 {
        let index = || nix::net::if_::if_nametoindex(name).unwrap();
        if name == NEIGHBOUR {
            self.as_neighbour(index)
        } else {
            index()
        }
    }

    pub(super) fn mac(&self, name: &str) -> Mac {
        let mut found = None;
        let index = self.index(name);
        let mut look = || {
            let mut netlink = Netlink::open().unwrap();
            netlink
                .links(|link| {
                    use rtnetlink::packet_route::link::LinkAttribute::Address;
                    if link.header.index == index {
                        found = link
                            .attributes
                            .iter()
                            .find_map(|attribute| match attribute {
                                Address(mac) => mac.as_slice().try_into().ok(),
                                _ => None,
                            });
                    }
                })
                .unwrap();
        };
        if name == NEIGHBOUR {
            self.as_neighbour(look);
        } else {
            look();
        }
        Mac(found.unwrap())
    }

    /// What is done here is done in the neighbour's namespace; sockets stay there.
    pub(super) fn as_neighbour<T>(&self, act: impl FnOnce() -> T) -> T {
        setns(&self.neighbour, CloneFlags::CLONE_NEWNET).unwrap();
        let result = act();
        setns(&self.node, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// The neighbour's ear and mouth.
    pub(super) fn ear(&self) -> Port {
        let index = self.index(NEIGHBOUR);
        self.as_neighbour(|| Port::open(index, &[]).unwrap())
    }

    pub(super) fn start(&self, vips: &[Vip]) -> Adapter<'_> {
        let (reports, receiver) = mpsc::channel(64);
        let kernel = self
            .rt
            .block_on(Kernel::start_on(DEVICE, vips, reports))
            .unwrap();
        Adapter {
            lan: self,
            kernel,
            receiver,
            vips: vips.to_vec(),
        }
    }

    /// Addresses on the private device.
    pub(super) fn on_device(&self) -> Vec<IpAddr> {
        let Ok(index) = nix::net::if_::if_nametoindex(DEVICE) else {
            return Vec::new();
        };
        let mut found = Netlink::open().unwrap().addresses(index).unwrap();
        found.sort();
        found
    }

    /// Waits until this holds.
    pub(super) fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..LONG.as_millis() / 5 {
            if holds() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("never: {what}");
    }
}

/// The thing under test.
pub(super) struct Adapter<'a> {
    lan: &'a Lan,
    pub(super) kernel: Kernel,
    receiver: mpsc::Receiver<KernelReport>,
    pub(super) vips: Vec<Vip>,
}

impl Adapter<'_> {
    pub(super) fn hold(&self, epoch: u64) {
        self.kernel.command(KernelCommand::Hold {
            epoch: Epoch(epoch),
            vips: self.vips.clone().into(),
        });
    }

    pub(super) fn announce(&self, epoch: u64) {
        self.kernel.command(KernelCommand::Announce {
            epoch: Epoch(epoch),
            vips: self.vips.clone().into(),
        });
    }

    pub(super) fn release(&self, epoch: u64) {
        self.kernel.command(KernelCommand::Release {
            epoch: Epoch(epoch),
        });
    }

    /// Does something while the lease is renewed, as often as it takes.
    pub(super) fn kept<T>(&self, epoch: u64, act: impl FnOnce() -> T) -> T {
        let (kernel, vips) = (&self.kernel, &self.vips);
        let (done, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let pause = Duration::from_millis(100);
                while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    kernel.command(KernelCommand::Hold {
                        epoch: Epoch(epoch),
                        vips: vips.clone().into(),
                    });
                }
            });
            // Also if it panics.
            let _done = done;
            act()
        })
    }

    pub(super) fn report(&mut self) -> KernelReport {
        let next = async { tokio::time::timeout(LONG, self.receiver.recv()).await };
        let next = self.lan.rt.block_on(next);
        next.expect("no report came").expect("the adapter ended")
    }

    /// The next report is this one.
    pub(super) fn expect(&mut self, report: &KernelReport) {
        assert_eq!(self.report(), *report);
    }

    pub(super) fn expect_held(&mut self, epoch: u64) {
        let epoch = Epoch(epoch);
        self.expect(&KernelReport::Held { epoch });
    }

    pub(super) fn expect_link(&mut self, up: bool) {
        let interface = NODE.to_owned();
        self.expect(&KernelReport::Link { interface, up });
    }

    /// No report is there.
    pub(super) fn expect_silence(&mut self) {
        let report = self.receiver.try_recv();
        assert!(report.is_err(), "{report:?}");
    }
}

/// Everything heard within a time, or until enough was heard.
pub(super) fn listen(
    ear: &Port,
    time: Duration,
    mut enough: impl FnMut(&[Heard]) -> bool,
) -> Vec<Heard> {
    let mut all = Vec::new();
    for _ in 0..time.as_millis() {
        ear.drain(|frame| all.extend(hear(frame)));
        if enough(&all) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    all
}
