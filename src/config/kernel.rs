//! What the kernel mode asks of a service, beyond what every service must have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use humantime::format_duration;
use ipnet::IpNet;

use super::Forward;
use super::check::{no_vip, vips, whole};
use super::file::{File, Mode, Service, Vip};
use super::report::{At, Located, Report};
use super::units::Fault;
use crate::model::{BackendAddress, Scheduler};

/// A client's kernel sends a SYN again after this long (RFC 6298, 2.1). It must not meet a backend
/// that the first one was not sent to.
const SYN_TIMER: Duration = Duration::from_secs(1);

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    let check = Check {
        file,
        report,
        vips: vips(file),
    };
    for service in check.services() {
        match mode(service) {
            Some(Mode::Kernel) => check.kernel(service),
            Some(Mode::Proxy) => check.proxied(service),
            None => {}
        }
    }
    check.ports();
}

/// Keys among the kernel mode's that proxied services have, too.
const BOTH: &[&str] = &["on_down", "source", "source_rate"];

struct Check<'f> {
    file: &'f File,
    report: &'f Report<'f>,
    /// None: not all are known.
    vips: Option<BTreeSet<IpAddr>>,
}

impl<'f> Check<'f> {
    fn proxied(&self, service: &Service) {
        let shared = |(key, _): &(&str, _)| !BOTH.contains(key);
        for (key, at) in service.kernel.written().into_iter().filter(shared) {
            let what = format!("mode = \"proxy\" has no `{key}`");
            let remedy = "write mode = \"kernel\" in this service, or remove the key";
            self.report.fault(&at, Fault::new(what, remedy));
        }
    }

    fn kernel(&self, service: &Service) {
        for (key, at) in service.proxied.written() {
            let what = format!("mode = \"kernel\" has no `{key}`");
            let remedy = "write mode = \"proxy\" in this service, or remove the key";
            self.report.fault(&at, Fault::new(what, remedy));
        }
        if let Ok(timeout) = &service.connect_timeout
            && timeout.value >= SYN_TIMER
        {
            let what = format!(
                "{} is too long for mode = \"kernel\": a client's kernel sends its SYN again after \
                 1 s (RFC 6298), and another backend must have been tried by then",
                format_duration(timeout.value)
            );
            let remedy = "write less than \"1s\"; the default here is \"250ms\"";
            self.report.fault(&timeout.at, Fault::new(what, remedy));
        }
        self.balance(service);
        self.sources(service);
        self.ways(service);
        self.own_backends(service);
        if whole(&service.listen) {
            self.families(service);
        }
    }

    /// What the program in the kernel can choose by.
    fn balance(&self, service: &Service) {
        let Ok(balance) = &service.balance else {
            return;
        };
        if let Ok(scheduler) = &balance.scheduler
            && !scheduler.value.in_kernel()
        {
            let what = format!("mode = \"kernel\" has no scheduler `{}`", scheduler.value);
            let words = Scheduler::WORDS.iter().filter(|(_, word)| word.in_kernel());
            let words: Vec<_> = words.map(|(word, _)| format!("\"{word}\"")).collect();
            let remedy = format!("write {}, or mode = \"proxy\"", words.join(" or "));
            self.report.fault(&scheduler.at, Fault::new(what, remedy));
        }
        for backend in service.backends.iter().flatten() {
            if let Some(Ok(backup)) = &backend.backup {
                let what = "mode = \"kernel\" has no `backup`";
                let remedy = "write mode = \"proxy\" in this service, or remove the key";
                self.report.fault(&backup.at, Fault::new(what, remedy));
            }
            if let Some(Ok(limit)) = &backend.max_connections {
                let what = "mode = \"kernel\" has no `max_connections` of a backend";
                let remedy = "write it in the service, or write mode = \"proxy\"";
                self.report.fault(&limit.at, Fault::new(what, remedy));
            }
        }
    }

    fn sources(&self, service: &Service) {
        let sources = || service.kernel.source.iter().flatten().flatten();
        if forward(service) == Some(Forward::Dnat) {
            if let Some(source) = sources().next() {
                let what =
                    "with forward = \"dnat\" backends see the clients' addresses, not `source`";
                let remedy = "remove `source`, or write forward = \"nat\"";
                self.report.fault(&source.at, Fault::new(what, remedy));
            }
            return;
        }
        let mut first: BTreeMap<Family, &At> = BTreeMap::new();
        for source in sources() {
            let family = Family::of(source.value);
            if let Some(first) = first.get(&family) {
                let what = format!("a second {family} address, after {}", first.key);
                let remedy = "write one address for each IP version";
                self.report.fault(&source.at, Fault::new(what, remedy));
                continue;
            }
            first.insert(family, &source.at);
            if let Some(vips) = &self.vips
                && !vips.contains(&source.value)
            {
                self.report.fault(&source.at, no_vip(source.value, vips));
            } else if whole(&service.listen) && !listens(service, family) {
                let what = format!(
                    "`listen` has no {family} address that would use {}",
                    source.value
                );
                let remedy = format!("remove it, or add an {family} address to `listen`");
                self.report.fault(&source.at, Fault::new(what, remedy));
            }
        }
    }

    /// With dnat nothing but the VIPs says which interface leads to a backend, and sees its answers.
    fn ways(&self, service: &Service) {
        let Some(networks) = networks(self.file) else {
            return;
        };
        if forward(service) != Some(Forward::Dnat) {
            return;
        }
        for (address, ip) in hosts(service) {
            let family = networks
                .iter()
                .filter(|(net, _)| net.addr().is_ipv4() == ip.is_ipv4());
            let interfaces: BTreeSet<&str> = family.map(|(_, interface)| *interface).collect();
            if interfaces.len() < 2 || networks.iter().any(|(net, _)| net.contains(&ip)) {
                continue;
            }
            let interfaces: Vec<&str> = interfaces.into_iter().collect();
            let what = format!(
                "with forward = \"dnat\" {ip} must be in the network of a VIP, whose interface leads \
                 there: VIPs are on {}",
                interfaces.join(" and ")
            );
            let remedy = "add a VIP in its network, or write forward = \"nat\" with a `source`";
            self.report.fault(&address.at, Fault::new(what, remedy));
        }
    }

    /// The kernel forwards to other hosts only.
    fn own_backends(&self, service: &Service) {
        for address in backends(service).filter(|address| address.value.tcp().is_none()) {
            let what = "mode = \"kernel\" forwards packets, and a unix socket gets none";
            let remedy = "write the address and port of a host, or mode = \"proxy\"";
            self.report.fault(&address.at, Fault::new(what, remedy));
        }
        for (address, ip) in hosts(service) {
            if listen(service).any(|own| Some(own.value) == address.value.tcp()) {
                continue;
            }
            let nodes = self.file.nodes.iter().flatten();
            let mut own = nodes.flat_map(|node| &node.addresses).flatten();
            let whose = if self.vips.as_ref().is_some_and(|vips| vips.contains(&ip)) {
                "a VIP".to_owned()
            } else if let Some(own) = own.find(|own| own.value == ip) {
                own.at.key.clone()
            } else {
                continue;
            };
            let what = format!("{ip} is {whose}: mode = \"kernel\" forwards to other hosts only");
            let remedy = "write the address of another host, or mode = \"proxy\"";
            self.report.fault(&address.at, Fault::new(what, remedy));
        }
    }

    /// There is no translation between the IP versions.
    fn families(&self, service: &Service) {
        let mut served = BTreeSet::new();
        let mut alien = false;
        for (address, ip) in hosts(service) {
            let family = Family::of(ip);
            served.insert(family);
            if !listens(service, family) {
                alien = true;
                let what = format!("{} to {family} needs mode = \"proxy\"", family.other());
                let remedy = format!(
                    "write an {} address of the backend, or mode = \"proxy\"",
                    family.other()
                );
                self.report.fault(&address.at, Fault::new(what, remedy));
            }
        }
        // A backend whose address is wrong may be the one that is missed here.
        let known = |backend: &super::file::Backend| backend.address.is_ok();
        if alien
            || service.discover.is_some()
            || !service
                .backends
                .iter()
                .all(|backend| backend.as_ref().is_ok_and(known))
        {
            return;
        }
        let mut missed = BTreeSet::new();
        for address in listen(service) {
            let family = Family::of(address.value.ip());
            if !served.contains(&family) && missed.insert(family) {
                let what = format!(
                    "no backend has an {family} address: {family} to {} needs mode = \"proxy\"",
                    family.other()
                );
                let remedy = format!("add an {family} backend, or write mode = \"proxy\"");
                self.report.fault(&address.at, Fault::new(what, remedy));
            }
        }
    }

    /// Ports of a source address belong to connections towards backends. (The kernel mode's own
    /// listeners are looked up before them.)
    fn ports(&self) {
        let Some(range) = self
            .file
            .kernel
            .as_ref()
            .ok()
            .and_then(|kernel| kernel.ports.as_ref().ok())
        else {
            return;
        };
        let mut users = BTreeMap::new();
        for service in self
            .services()
            .filter(|service| mode(service) == Some(Mode::Kernel))
        {
            if forward(service) == Some(Forward::Nat) {
                for source in taken(service) {
                    users.entry(source).or_insert(service);
                }
            }
        }
        let proxied = || {
            let all = self.services();
            all.filter(|service| mode(service) == Some(Mode::Proxy))
        };
        for source in proxied().flat_map(|it| it.kernel.source.iter().flatten().flatten()) {
            if let Some(user) = users.get(&source.value) {
                let name = user.name.as_ref().map_or("", |name| &name.value);
                let ip = source.value;
                let what = format!(
                    "service {name} in mode = \"kernel\" reaches its backends from {ip}, whose ports are its own"
                );
                let remedy = "write another VIP, or addresses of the nodes";
                self.report.fault(&source.at, Fault::new(what, remedy));
            }
        }
        for address in proxied().flat_map(listen) {
            let (ip, port) = (address.value.ip(), address.value.port());
            let Some(user) = users.get(&ip).filter(|_| range.value.contains(&port)) else {
                continue;
            };
            let name = user.name.as_ref().map_or("", |name| &name.value);
            let (low, high) = (range.value.start(), range.value.end());
            let what = format!(
                "port {port} of {ip} is taken: service {name} reaches its backends from ports \
                 {low}-{high} of this address"
            );
            let remedy = format!(
                "write a port below {low}, other kernel.ports, or another `source` in service {name}"
            );
            self.report.fault(&address.at, Fault::new(what, remedy));
        }
    }

    fn services(&self) -> impl Iterator<Item = &'f Service> + use<'f> {
        self.file.services.iter().flatten()
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The VIPs' networks and interfaces, if all are known.
fn networks(file: &File) -> Option<Vec<(IpNet, &str)>> {
    file.vips.iter().map(network).collect()
}

fn network<E>(vip: &Result<Vip, E>) -> Option<(IpNet, &str)> {
    let Vip { address, interface } = vip.as_ref().ok()?;
    let interface = interface.as_ref().ok()?;
    Some((address.as_ref().ok()?.value, interface.value.as_str()))
}

fn mode(service: &Service) -> Option<Mode> {
    service.mode.as_ref().ok().map(|mode| mode.value)
}

/// How it forwards, if that is known.
fn forward(service: &Service) -> Option<Forward> {
    match &service.kernel.forward {
        Some(forward) => forward.as_ref().ok().map(|forward| forward.value),
        None => Some(Forward::Nat),
    }
}

fn listen(service: &Service) -> impl Iterator<Item = &Located<SocketAddr>> {
    service.listen.iter().flatten()
}

fn backends(service: &Service) -> impl Iterator<Item = &Located<BackendAddress>> {
    let backends = service.backends.iter().flatten();
    backends.flat_map(|backend| &backend.address)
}

/// Backends on hosts, with the hosts' addresses.
fn hosts(service: &Service) -> impl Iterator<Item = (&Located<BackendAddress>, IpAddr)> {
    backends(service).filter_map(|address| Some((address, address.value.tcp()?.ip())))
}

fn listens(service: &Service, family: Family) -> bool {
    listen(service).any(|address| Family::of(address.value.ip()) == family)
}

/// The addresses from which a service reaches its backends.
fn taken(service: &Service) -> BTreeSet<IpAddr> {
    let written = service.kernel.source.iter().flatten().flatten();
    let written: BTreeSet<IpAddr> = written.map(|source| source.value).collect();
    let has = |family| written.iter().any(|source| Family::of(*source) == family);
    let own = listen(service).map(|address| address.value.ip());
    let own = own.filter(|address| !has(Family::of(*address)));
    own.chain(written.iter().copied()).collect()
}
