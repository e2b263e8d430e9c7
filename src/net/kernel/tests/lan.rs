//! A node and one neighbour, each in a network namespace, with a cable between them.

use std::collections::VecDeque;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::super::Kernel;
use super::super::netlink::Netlink;
use super::super::packet::Port;
use super::super::peer::Peer;
use crate::model::{Epoch, Mac, Neighbour, Vip};
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

    /// Another cable, both ends at the node.
    pub(super) fn cable(&self, one: &str, other: &str) {
        let cable = LinkVeth::new(one, other).build();
        let added = self.at_node.link().add(cable);
        self.rt.block_on(added.execute()).unwrap();
    }

    /// Removes the node's own addresses and has it send to their networks, and to 203.0.113.0/24, by
    /// its cable all the same.
    pub(super) fn unnumber(&self) {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let index = self.index(NODE);
        let four = AddressMessageBuilder::<Ipv4Addr>::new()
            .address([192, 0, 2, 1].into(), 24)
            .index(index);
        let six = AddressMessageBuilder::<Ipv6Addr>::new()
            .address("2001:db8::1".parse().unwrap(), 64)
            .index(index);
        for address in [four.build(), six.build()] {
            let removed = self.at_node.address().del(address);
            self.rt.block_on(removed.execute()).unwrap();
        }
        let four = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix([203, 0, 113, 0].into(), 24)
            .output_interface(index);
        let six = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix("2001:db8::".parse().unwrap(), 64)
            .output_interface(index);
        for route in [four.build(), six.build()] {
            let added = self.at_node.route().add(route);
            self.rt.block_on(added.execute()).unwrap();
        }
    }

    pub(super) fn handle(&self, name: &str) -> &Handle {
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

    /// Another hardware address.
    pub(super) fn readdress(&self, name: &str, mac: Mac) {
        let link = LinkUnspec::new_with_name(name).address(mac.0.to_vec());
        let set = self.handle(name).link().set(link.build());
        self.rt.block_on(set.execute()).unwrap();
    }

    /// Has the host of this interface believe that `ip` is at `mac`.
    pub(super) fn believe(&self, name: &str, ip: IpAddr, mac: Mac, state: NeighbourState) {
        let add = self.handle(name).neighbours().add(self.index(name), ip);
        let add = add.link_layer_address(&mac.0).state(state).replace();
        self.rt.block_on(add.execute()).unwrap();
    }

    /// Where the host of this interface believes that `ip` is.
    pub(super) fn belief(&self, name: &str, ip: IpAddr) -> Option<Mac> {
        let index = self.index(name);
        let look = || {
            let mut netlink = Netlink::open().unwrap();
            let peer = Peer::open(vec![ip]).unwrap();
            peer.look(&mut netlink, index).first().map(|seen| seen.mac)
        };
        if name == NEIGHBOUR {
            self.as_neighbour(look)
        } else {
            look()
        }
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
        self.start_with_peer(vips, &[])
    }

    pub(super) fn start_with_peer(&self, vips: &[Vip], peer: &[IpAddr]) -> Adapter<'_> {
        let (reports, receiver) = mpsc::channel(64);
        let kernel = self
            .rt
            .block_on(Kernel::start_on(DEVICE, vips, peer, reports))
            .unwrap();
        Adapter {
            lan: self,
            kernel,
            receiver,
            neighbours: VecDeque::new(),
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
    /// Reports of where the peer is; they come between the others.
    neighbours: VecDeque<Neighbour>,
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
        loop {
            match self.any_report() {
                KernelReport::Neighbour { neighbour, .. } => self.neighbours.push_back(neighbour),
                report => return report,
            }
        }
    }

    /// The next word of where the peer is.
    pub(super) fn neighbour(&mut self) -> Neighbour {
        if let Some(neighbour) = self.neighbours.pop_front() {
            return neighbour;
        }
        match self.any_report() {
            KernelReport::Neighbour { neighbour, .. } => neighbour,
            other => panic!("{other:?}"),
        }
    }

    fn any_report(&mut self) -> KernelReport {
        let next = async { tokio::time::timeout(LONG, self.receiver.recv()).await };
        let next = self.lan.rt.block_on(next);
        next.expect("no report came").expect("the adapter ended")
    }

    /// Everything that was commanded before has been carried out.
    pub(super) fn settle(&mut self, epoch: u64) {
        self.release(epoch);
        let epoch = Epoch(epoch);
        self.expect(&KernelReport::Released { epoch });
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
        while let Ok(report) = self.receiver.try_recv() {
            match report {
                KernelReport::Neighbour { neighbour, .. } => self.neighbours.push_back(neighbour),
                other => panic!("{other:?}"),
            }
        }
    }

    /// No word of the peer is there either.
    pub(super) fn expect_no_neighbour(&mut self) {
        self.expect_silence();
        assert!(self.neighbours.is_empty(), "{:?}", self.neighbours);
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
