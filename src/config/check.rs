//! What no single value can show: names used twice, addresses that contradict each other, timers
//! that cannot work together.
//!
//! A check that lacks a value, because it was wrong by itself, says nothing: one mistake is
//! reported once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use humantime::format_duration;
use ipnet::IpNet;

use super::file::{Election, File, Node, Service, Vip};
use super::report::{At, Field, List, Located, Report};
use super::units::Fault;
use super::{kernel, rules};
use crate::model::{BackendId, ServiceId};

/// Most addresses that a remedy lists.
const LISTED: usize = 8;

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    let check = Check { file, report };
    check.nodes();
    if let Ok(election) = &file.election {
        check.dead_man(election);
    }
    check.vips();
    check.service_names();
    check.listen();
    for service in file.services.iter().flatten() {
        check.service(service);
    }
    check.backend_ids();
    kernel::check(file, report);
    rules::check(file, report);
    super::schedulers::check(file, report);
    super::sources::check(file, report);
    super::sockets::check(file, report);
    super::stick::check(file, report);
}

struct Check<'f> {
    file: &'f File,
    report: &'f Report<'f>,
}

impl<'f> Check<'f> {
    fn nodes(&self) {
        self.distinct(
            self.file.nodes.iter().flatten().flat_map(|node| &node.name),
            String::clone,
            |name, first| used(&name.value, &first.at, "give each node its own name"),
        );
        self.distinct(
            self.node_addresses(),
            |address| *address,
            |address, first| used(&address.value, &first.at, "each path needs its own address"),
        );
        if let [Ok(first), Ok(second)] = self.file.nodes.as_slice() {
            self.paths(first, second);
        }
    }

    /// The n-th addresses of both nodes are the two ends of one path.
    fn paths(&self, first: &Node, second: &Node) {
        for (near, far) in first.addresses.iter().zip(&second.addresses) {
            if let (Ok(near), Ok(far)) = (near, far)
                && near.value.is_ipv4() != far.value.is_ipv4()
            {
                let what = format!(
                    "{} cannot reach {} ({})",
                    far.value, near.value, near.at.key
                );
                let remedy = "write the addresses of both nodes in the same order, \
                              IPv4 beside IPv4 and IPv6 beside IPv6";
                self.report.fault(&far.at, Fault::new(what, remedy));
            }
        }
        let (near, far) = (&first.addresses, &second.addresses);
        if whole(near)
            && whole(far)
            && near.len() != far.len()
            && let Some(Ok(end)) = far.last()
        {
            let at = At {
                place: end.at.place,
                key: format!("{}.addresses", second.at.key),
            };
            let what = format!("{} here, but {} in {}", far.len(), near.len(), first.at.key);
            let remedy = "write one address for each path, in the same order on both nodes";
            self.report.fault(&at, Fault::new(what, remedy));
        }
    }

    fn dead_man(&self, election: &Election) {
        let (Ok(heartbeat), Ok(misses), Some(Ok(dead_man))) =
            (&election.heartbeat, &election.misses, &election.dead_man)
        else {
            return;
        };
        let least = heartbeat.value;
        let most = least * u32::from(misses.value);
        if dead_man.value <= least || dead_man.value >= most {
            let what = format!(
                "{} does not fit the heartbeats",
                format_duration(dead_man.value)
            );
            let remedy = format!(
                "write more than one heartbeat ({}) and less than heartbeat x misses ({}), \
                 or leave it out",
                format_duration(least),
                format_duration(most)
            );
            self.report.fault(&dead_man.at, Fault::new(what, remedy));
        }
    }

    fn vips(&self) {
        self.distinct(self.vip_addresses(), IpNet::addr, |net, first| {
            used(&net.value.addr(), &first.at, "write each VIP once")
        });
        let own: BTreeMap<_, _> = self
            .node_addresses()
            .map(|address| (address.value, &address.at.key))
            .collect();
        for vip in self.vip_addresses() {
            if let Some(node) = own.get(&vip.value.addr()) {
                let what = format!("{} is also {node}", vip.value.addr());
                let remedy = "a VIP moves between the nodes: write an address that neither owns";
                self.report.fault(&vip.at, Fault::new(what, remedy));
            }
        }
        let Ok(Ok(device)) = self.file.cluster.as_ref().map(|cluster| &cluster.device) else {
            return;
        };
        for interface in self.vip_sections().flat_map(|vip| &vip.interface) {
            if interface.value == device.value {
                let what = format!("`{}` is cluster.device", interface.value);
                let remedy = "write the interface towards the clients";
                self.report.fault(&interface.at, Fault::new(what, remedy));
            }
        }
    }

    fn service_names(&self) {
        self.distinct(
            self.services().flat_map(|service| &service.name),
            |name| ServiceId::of(name),
            |name, first| {
                if name.value == first.value {
                    used(&name.value, &first.at, "give each service its own name")
                } else {
                    same_id(&name.value, &first.at)
                }
            },
        );
    }

    /// Listen addresses and VIPs belong together.
    fn listen(&self) {
        let listen = || {
            self.services()
                .flat_map(|service| &service.listen)
                .flatten()
        };
        self.distinct(
            listen(),
            |address| *address,
            |address, first| {
                used(
                    &address.value,
                    &first.at,
                    "one service listens at one address",
                )
            },
        );
        if let Some(vips) = vips(self.file) {
            for address in listen().filter(|address| !vips.contains(&address.value.ip())) {
                self.report
                    .fault(&address.at, no_vip(address.value.ip(), &vips));
            }
        }
        let sources = |service: &'f Service| service.kernel.source.iter().flatten();
        let known =
            |service: &'f Service| whole(&service.listen) && sources(service).all(Result::is_ok);
        if whole(&self.file.services) && self.services().all(known) {
            let sources = self.services().flat_map(sources).flatten();
            let used: BTreeSet<IpAddr> = listen()
                .map(|address| address.value.ip())
                .chain(sources.map(|address| address.value))
                .collect();
            for vip in self.vip_addresses() {
                let address = vip.value.addr();
                if !used.contains(&address) {
                    let what = format!("no service listens on {address} or has it as `source`");
                    let remedy = format!("add \"{address}:PORT\" to a service, or remove the VIP");
                    self.report.fault(&vip.at, Fault::new(what, remedy));
                }
            }
        }
    }

    fn service(&self, service: &'f Service) {
        for health in service.all_health() {
            self.timeout(&health.interval, &health.timeout);
        }
        if let Some(Ok(agent)) = &service.agent {
            self.timeout(&agent.interval, &agent.timeout);
        }
        self.elsewhere(service);
        let backends = || service.all_backends();
        self.distinct(
            backends().flat_map(|backend| &backend.name),
            String::clone,
            |name, first| used(&name.value, &first.at, "give each backend its own name"),
        );
        for address in backends().flat_map(|backend| &backend.address) {
            let own = service.listen.iter().flatten();
            if let Some(own) = own
                .clone()
                .find(|own| address.value.tcp() == Some(own.value))
            {
                let what = format!("{} is the service itself ({})", address.value, own.at.key);
                let remedy = "write where the server behind the service listens";
                self.report.fault(&address.at, Fault::new(what, remedy));
            }
        }
    }

    /// Where a backend is checked matters only if it is.
    fn elsewhere(&self, service: &Service) {
        let backends = service.backends.iter().flatten();
        for (key, section, at) in backends.flat_map(|backend| backend.elsewhere.written()) {
            let asked = match section {
                "agent" => service.agent.is_some(),
                _ => service.health.is_some(),
            };
            if !asked {
                let what = format!("`{key}` in a service without [service.{section}]");
                let remedy = format!("add [service.{section}], or remove the key");
                self.report.fault(&at, Fault::new(what, remedy));
            }
        }
    }

    /// A check must have ended when the next one is due.
    fn timeout(&self, interval: &Field<Duration>, timeout: &Field<Duration>) {
        let (Ok(interval), Ok(timeout)) = (interval, timeout) else {
            return;
        };
        if timeout.value > interval.value {
            // The one of the two that was written stands after the section's beginning.
            let at = match timeout.at.place > interval.at.place {
                true => &timeout.at,
                false => &interval.at,
            };
            let most = format_duration(interval.value);
            let what = format!(
                "a timeout of {} is longer than the interval of {most}",
                format_duration(timeout.value)
            );
            let remedy = format!("write a timeout of at most \"{most}\", or a longer interval");
            self.report.fault(at, Fault::new(what, remedy));
        }
    }

    /// Two backends with one id, over all services. Equal names are reported where they stand.
    fn backend_ids(&self) {
        let mut names = BTreeMap::new();
        for service in self.services() {
            for backend in service.all_backends() {
                if let (Ok(service), Ok(backend)) = (&service.name, &backend.name) {
                    let name = (service.value.as_str(), backend.value.as_str());
                    names.entry(name).or_insert(&backend.at);
                }
            }
        }
        let names: Vec<_> = names
            .into_iter()
            .map(|(value, at)| Located {
                value,
                at: at.clone(),
            })
            .collect();
        self.distinct(
            &names,
            |(service, backend)| BackendId::of(service, backend),
            |name, first| same_id(name.value.1, &first.at),
        );
    }

    /// Reports every value whose key came before.
    fn distinct<'l, T: 'l, K: Ord>(
        &self,
        located: impl IntoIterator<Item = &'l Located<T>>,
        key: impl Fn(&T) -> K,
        fault: impl Fn(&Located<T>, &Located<T>) -> Fault,
    ) {
        let mut seen = BTreeMap::new();
        for this in located {
            let first = *seen.entry(key(&this.value)).or_insert(this);
            if !std::ptr::eq(first, this) {
                self.report.fault(&this.at, fault(this, first));
            }
        }
    }

    fn node_addresses(&self) -> impl Iterator<Item = &'f Located<IpAddr>> {
        let nodes = self.file.nodes.iter().flatten();
        nodes.flat_map(|node| &node.addresses).flatten()
    }

    fn vip_sections(&self) -> impl Iterator<Item = &'f Vip> {
        self.file.vips.iter().flatten()
    }

    fn vip_addresses(&self) -> impl Iterator<Item = &'f Located<IpNet>> {
        self.vip_sections().flat_map(|vip| &vip.address)
    }

    fn services(&self) -> impl Iterator<Item = &'f Service> {
        self.file.services.iter().flatten()
    }
}

/// The floating addresses, if all are known.
pub(super) fn vips(file: &File) -> Option<BTreeSet<IpAddr>> {
    let address =
        |vip: &Result<Vip, _>| Some(vip.as_ref().ok()?.address.as_ref().ok()?.value.addr());
    file.vips.iter().map(address).collect()
}

/// An address that should be one of them is not.
pub(super) fn no_vip(address: IpAddr, vips: &BTreeSet<IpAddr>) -> Fault {
    let known: Vec<_> = vips.iter().take(LISTED).map(IpAddr::to_string).collect();
    let remedy = format!("write a [[vip]]'s address: {}", known.join(", "));
    Fault::new(format!("{address} is no VIP"), remedy)
}

/// Whether nothing of a list is missing.
pub(super) fn whole<T>(list: &List<T>) -> bool {
    list.iter().all(Result::is_ok)
}

/// A value that was used before.
pub(super) fn used(value: &impl fmt::Display, first: &At, remedy: &str) -> Fault {
    let what = format!(
        "{value} is already {} (line {})",
        first.key, first.place.line
    );
    Fault::new(what, remedy)
}

fn same_id(name: &str, first: &At) -> Fault {
    let what = format!(
        "`{name}` has the same id (a hash of the name) as {} (line {})",
        first.key, first.place.line
    );
    Fault::new(what, "write another name")
}
