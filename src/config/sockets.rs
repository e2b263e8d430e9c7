//! The sockets of a proxied service: from where, and by what means, it reaches its backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::check::{vips, whole};
use super::file::{self, File, Mode, Service};
use super::health::HealthKind;
use super::report::{At, Located, Report};
use super::units::Fault;
use crate::model::BackendAddress;

/// How the sockets of a proxied service are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sockets {
    /// Our addresses towards the backends; up to 4. For each IP version a VIP, or addresses of the
    /// nodes, of which each has one. None for a version: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// Backends see the client's address. Default false.
    pub transparent: bool,
    /// The mark (`SO_MARK`) of packets towards backends. None: none.
    pub mark: Option<u32>,
    /// Questions to silent peers, on both sides; none: none.
    pub keepalive: Option<Keepalive>,
    /// How long sent bytes may stay unacknowledged, on both sides (`TCP_USER_TIMEOUT`, RFC 5482).
    /// None: as long as the kernel goes on trying. 100 ms to 1 h.
    pub user_timeout: Option<Duration>,
    /// Which sides may use several paths at once (RFC 8684). Default none.
    pub mptcp: Mptcp,
    /// How many clients may be in their handshake with bytes at hand (RFC 7413); 0: none. Default 0,
    /// up to 65,535.
    pub fast_open: u16,
    /// A client's first bytes may travel in the SYN to its backend (RFC 7413). Default false.
    pub fast_open_backends: bool,
}

/// When a silent peer is asked whether it is there (RFC 1122, 4.2.3.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keepalive {
    /// Silence before the first question. Default 60 s; 1 s to 9 h, whole seconds.
    pub idle: Duration,
    /// Time between questions. Default 10 s; 1 s to 9 h, whole seconds.
    pub interval: Duration,
    /// Questions without an answer that end a connection. Default 3; 1 to 127.
    pub count: u8,
}

/// Where Multipath TCP is offered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mptcp {
    /// Nowhere.
    #[default]
    Off,
    /// To backends.
    Backends,
    /// To both.
    Both,
    /// To clients.
    Clients,
}

impl Mptcp {
    /// Listeners take it.
    pub const fn to_clients(self) -> bool {
        matches!(self, Self::Both | Self::Clients)
    }

    /// Backends are asked for it.
    pub const fn to_backends(self) -> bool {
        matches!(self, Self::Both | Self::Backends)
    }
}

/// Reports every contradiction.
pub(super) fn check(file: &File, report: &Report<'_>) {
    for service in file.services.iter().flatten() {
        unix(service, report);
        if matches!(&service.mode, Ok(mode) if mode.value == Mode::Proxy) {
            sources(service, file, report);
            transparent(service, report);
        }
    }
}

const fn version(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// The IP versions of the backends; none: not all are known.
fn versions(service: &Service) -> Option<BTreeSet<&'static str>> {
    let pools = service.proxied.pools.iter().flatten();
    if !whole(&service.backends) || !pools.flatten().all(|pool| whole(&pool.backends)) {
        return None;
    }
    let all: Option<Vec<_>> = (service.all_backends())
        .map(|backend| Some(&backend.address.as_ref().ok()?.value))
        .collect();
    let hosts = all?.into_iter().filter_map(BackendAddress::tcp);
    Some(hosts.map(|host| version(host.ip())).collect())
}

/// A VIP is on the master, whichever that is; of all others each node has its own.
fn sources(service: &Service, file: &File, report: &Report<'_>) {
    let (vips, versions) = (vips(file), versions(service));
    let mut first: BTreeMap<&str, (&At, bool, usize)> = BTreeMap::new();
    for source in service.kernel.source.iter().flatten().flatten() {
        let own = version(source.value);
        let Some(vips) = &vips else { continue };
        let is_vip = vips.contains(&source.value);
        if let Some((at, vip, count)) = first.get_mut(own) {
            *count += 1;
            let what = match (is_vip || *vip, *count > 2) {
                (true, _) => format!(
                    "{} beside {}: a VIP serves both nodes",
                    source.value, at.key
                ),
                (false, true) => format!("a third {own} address, for two nodes"),
                (false, false) => continue,
            };
            let remedy = "write for each IP version one VIP, or one address of each node";
            report.fault(&source.at, Fault::new(what, remedy));
            continue;
        }
        first.insert(own, (&source.at, is_vip, 1));
        if versions.as_ref().is_some_and(|them| !them.contains(own)) {
            let what = format!(
                "no backend has an {own} address, so that {} is of no use",
                source.value
            );
            report.fault(&source.at, Fault::new(what, "remove it"));
        }
    }
}

/// A client's address can only be kept where there is one of the same kind.
fn transparent(service: &Service, report: &Report<'_>) {
    let Some(Ok(Located { value: true, .. })) = &service.proxied.sockets.transparent else {
        return;
    };
    let listen: Vec<_> = service.listen.iter().flatten().collect();
    for address in service.all_backends().flat_map(|it| &it.address) {
        let Some(host) = address.value.tcp() else {
            let what = "a unix socket cannot see the client's address, as `transparent` wants";
            let remedy = "write send_proxy = \"v2\" instead of `transparent`";
            report.fault(&address.at, Fault::new(what, remedy));
            continue;
        };
        let own = version(host.ip());
        let other = listen.iter().find(|it| version(it.value.ip()) != own);
        if let Some(other) = other {
            let what = format!(
                "with `transparent` an {own} backend cannot serve {} clients ({})",
                version(other.value.ip()),
                other.at.key
            );
            let remedy = "write a service for each IP version, or send_proxy = \"v2\" instead";
            report.fault(&address.at, Fault::new(what, remedy));
            return;
        }
    }
}

/// A socket in the file system has neither address nor port, nor a name for certificates.
fn unix(service: &Service, report: &Report<'_>) {
    let own = (service.backends.iter(), service.health.as_ref());
    let pools = service.proxied.pools.iter().flatten().flatten();
    let pools = pools.map(|pool| {
        (
            pool.backends.iter(),
            pool.health.as_ref().or(service.health.as_ref()),
        )
    });
    for (backends, health) in std::iter::once(own).chain(pools) {
        let health = health.and_then(|health| health.as_ref().ok());
        for backend in backends.flatten() {
            if let Ok(address) = &backend.address
                && address.value.tcp().is_none()
            {
                checked(service, backend, health, &address.at, report);
            }
        }
    }
}

fn checked(
    service: &Service,
    backend: &file::Backend,
    health: Option<&file::Health>,
    at: &At,
    report: &Report<'_>,
) {
    let elsewhere = &backend.elsewhere;
    if let Some(health) = health {
        let address = elsewhere.check_address.is_some() || health.address.is_some();
        let port = elsewhere.check_port.is_some() || health.port.is_some();
        if address != port {
            let (has, lacks) = match address {
                true => ("an address", "check_port"),
                false => ("a port", "check_address"),
            };
            let what =
                format!("its check has {has} of its own, and a unix socket gives no other half");
            let remedy = format!("add {lacks}, or let the check go to the socket");
            report.fault(at, Fault::new(what, remedy));
        }
        if !address && nameless(health) {
            let what = "a check over TLS has no name to verify at a unix socket";
            report.fault(at, Fault::new(what, "add `sni` to the health check"));
        }
    }
    if let Some(Ok(agent)) = &service.agent
        && agent.address.is_none()
        && elsewhere.agent_address.is_none()
    {
        let what = "a unix socket has no address at which its agent could be asked";
        report.fault(at, Fault::new(what, "add agent_address"));
    }
}

/// It verifies a certificate for the address.
fn nameless(health: &file::Health) -> bool {
    let tls = match &health.kind {
        Ok(HealthKind::Tls(tls)) => Some(tls),
        Ok(HealthKind::Http(http)) => http.tls.as_ref(),
        Ok(HealthKind::Grpc(grpc)) => grpc.tls.as_ref(),
        _ => None,
    };
    tls.is_some_and(|tls| tls.sni.is_none())
}
