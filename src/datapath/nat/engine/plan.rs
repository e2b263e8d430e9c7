//! What a configuration comes to: the maps' fixed entries, and where each service's slots are.
//!
//! A service has one *outlet* for each address of ours that its backends see (or, if they see the
//! client's, each family): its own pool, slots and rotation.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use super::super::layout::{
    self, Endpoint, FLOW_DNAT, FLOW_RETRY, FLOW_SYNC, OWNED_NAT, OWNED_REJECT, OWNED_SOURCE,
    OWNED_VIP, Owned, SERVICE_DNAT, SERVICE_REJECT, SERVICE_RETRY, SERVICE_SYNC, Settings,
};
use super::super::names;
use super::Links;
use crate::config::{Acknowledge, Config, Forward, Kernel, KernelMode, OnDown, Stray};
use crate::model::{BackendId, NodeId, Scheduler, ServiceId, Vip};

/// Slots of a rotation at most. A longer one is replaced by weights that are rounded to it.
pub(super) const MOST_SLOTS: u32 = 4_096;
/// Slots that the weights of a rounded rotation share; each backend has one at least.
pub(super) const ROUNDED: u32 = 3_072;
/// Backends of a service at most (`config`), each of which has a slot of a rotation.
const MOST_BACKENDS: u32 = 1_024;
/// Entries of the kernel's array of backends at least.
const LEAST_ARRAY: u32 = 1_024;
/// Connections that a publication by load places at least.
const LEAST_SLOTS: u32 = 256;

/// A service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) id: ServiceId,
    /// `SERVICE_*`.
    pub(super) flags: u32,
    pub(super) balance: Scheduler,
    /// Nanoseconds, as all times here.
    pub(super) connect: u64,
    pub(super) idle: u64,
    pub(super) max_connections: u32,
    pub(super) reset_on_down: bool,
    /// Their places in [`Plan::backends`].
    pub(super) backends: Vec<usize>,
    pub(super) outlets: Range<usize>,
}

impl Service {
    /// `FLOW_*` of its flows, but for `FLOW_CLIENT`.
    pub(super) const fn flow_flags(&self) -> u8 {
        flag(self.flags, SERVICE_DNAT, FLOW_DNAT)
            | flag(self.flags, SERVICE_SYNC, FLOW_SYNC)
            | flag(self.flags, SERVICE_RETRY, FLOW_RETRY)
    }
}

const fn flag(flags: u32, service: u32, flow: u8) -> u8 {
    if flags & service == 0 { 0 } else { flow }
}

/// A backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) id: BackendId,
    pub(super) service: usize,
    pub(super) weight: u16,
}

/// Where a service's clients of one kind go out to its backends.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) service: usize,
    /// Where clients connect.
    pub(super) endpoints: Vec<Endpoint>,
    /// Places in [`Plan::backends`], and indices in the kernel's array.
    pub(super) pool: Vec<(usize, u32)>,
    /// Its entry, without slots.
    pub(super) entry: layout::Service,
    /// Our address, as its backends see it.
    pub(super) source: IpAddr,
    /// Its first slot, how many each half uses at most, and how many it could.
    pub(super) first: u32,
    pub(super) half: u32,
    pub(super) room: u32,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) addresses: BTreeMap<Endpoint, Owned>,
    pub(super) services: Vec<Service>,
    pub(super) backends: Vec<Backend>,
    pub(super) outlets: Vec<Outlet>,
    /// The kernel's array of backends.
    pub(super) array: Vec<layout::Backend>,
    /// How many of them were there at the start.
    planned: u32,
    /// Slots of all outlets.
    pub(super) slots: u32,
    /// Entries of `array` that nobody uses any more, and since when.
    pub(super) unused: VecDeque<(u64, u32)>,
    /// The same of `backends`.
    pub(super) vacant: VecDeque<usize>,
    /// Backends that found no entry.
    pub(super) no_room: u64,
    by_service: BTreeMap<u32, usize>,
    pub(super) by_backend: BTreeMap<u32, usize>,
    by_endpoint: BTreeMap<Endpoint, usize>,
    /// Where each VIP is.
    devices: BTreeMap<IpAddr, u32>,
    networks: Vec<(ipnet::IpNet, u32)>,
    least_mtu: Option<u32>,
}

/// Nanoseconds.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The ports of both nodes, and this one's half.
fn settings(kernel: &Kernel, node: NodeId) -> Settings {
    let (first, last) = (kernel.first_port, kernel.last_port);
    let half = last.saturating_sub(first).div_ceil(2);
    let (own_first, own_last) = match node {
        NodeId::First => (first, (first + half).saturating_sub(1).max(first)),
        NodeId::Second => (first + half, last),
    };
    Settings {
        range_first: first,
        range_last: last,
        own_first,
        own_last,
    }
}

impl Plan {
    pub(super) fn new(config: &Config, node: NodeId, links: &Links) -> Self {
        let mut plan = Self {
            settings: settings(&config.kernel, node),
            least_mtu: links.interfaces.values().map(|link| link.mtu).min(),
            ..Self::default()
        };
        for Vip { address, interface } in &config.vips {
            let ifindex = links.interfaces.get(interface).map_or(0, |it| it.ifindex);
            plan.devices.insert(address.addr(), ifindex);
            plan.networks.push((address.trunc(), ifindex));
            if config.cluster.relay {
                plan.own(address.addr(), OWNED_VIP);
            }
        }
        for service in &config.services {
            if let Some(mode) = &service.kernel {
                plan.service(service, mode);
            }
        }
        plan.planned = plan.array.len() as u32;
        plan
    }

    fn service(&mut self, service: &crate::config::Service, mode: &KernelMode) {
        let number = self.services.len();
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let reject = mode.stray == Stray::Reset;
        let dnat = mode.forward == Forward::Dnat;
        let first_backend = self.backends.len();
        for backend in &service.backends {
            self.by_backend.insert(backend.id.0, self.backends.len());
            self.backends.push(Backend {
                id: backend.id,
                service: number,
                weight: backend.weight.0.max(1),
            });
        }
        let first_outlet = self.outlets.len();
        self.by_service.insert(service.id.0, number);
        self.services.push(Service {
            id: service.id,
            flags: flag(reject, SERVICE_REJECT)
                | flag(mode.replication == Acknowledge::Sync, SERVICE_SYNC)
                | SERVICE_RETRY
                | flag(dnat, SERVICE_DNAT),
            balance: service.balance.scheduler,
            connect: nanos(service.connect_timeout),
            idle: nanos(service.idle_timeout),
            max_connections: service.max_connections,
            reset_on_down: mode.on_down == OnDown::Reset,
            backends: (first_backend..self.backends.len()).collect(),
            outlets: first_outlet..first_outlet,
        });
        let mut sources: BTreeMap<IpAddr, Vec<SocketAddr>> = BTreeMap::new();
        for listen in &service.listen {
            let mut named = mode.sources.iter().copied();
            let source = match named.find(|ip| ip.is_ipv4() == listen.is_ipv4()) {
                // Backends see the client's.
                _ if dnat => any(listen.ip()),
                Some(named) => named,
                None => listen.ip(),
            };
            sources.entry(source).or_default().push(*listen);
            self.own(listen.ip(), OWNED_NAT);
            if !dnat {
                self.own(
                    source,
                    OWNED_NAT | OWNED_SOURCE | flag(reject, OWNED_REJECT),
                );
            }
        }
        for (source, listen) in sources {
            self.outlet(service, mode, source, &listen);
        }
        self.services[number].outlets.end = self.outlets.len();
    }

    fn own(&mut self, ip: IpAddr, flags: u32) {
        self.addresses.entry(ip.into()).or_default().flags |= flags;
    }

    fn outlet(
        &mut self,
        service: &crate::config::Service,
        mode: &KernelMode,
        source: IpAddr,
        listen: &[SocketAddr],
    ) {
        let number = self.services.len() - 1;
        let outlet = self.outlets.len();
        let flags = self.services[number].flags;
        let mut pool = Vec::new();
        for (place, backend) in
            (self.services[number].backends.clone().into_iter()).zip(&service.backends)
        {
            let address = backend.address.tcp();
            let Some(address) = address.filter(|it| it.is_ipv4() == source.is_ipv4()) else {
                continue;
            };
            pool.push((place, self.array.len() as u32));
            self.array
                .push(self.entry(source, flags, backend.id, address));
        }
        let scheduler = match service.balance.scheduler {
            Scheduler::Random => names::Scheduler::Random,
            _ => names::Scheduler::RoundRobin,
        };
        // IP and TCP without options (RFC 9293, section 3.7.1).
        let headers = if source.is_ipv4() { 40 } else { 60 };
        let half = self.half(service.balance.scheduler, &pool);
        let room = half.max(match service.balance.scheduler {
            Scheduler::RoundRobin => MOST_BACKENDS,
            _ => MOST_SLOTS,
        });
        let endpoints: Vec<Endpoint> = listen.iter().map(|at| (*at).into()).collect();
        self.by_endpoint
            .extend(endpoints.iter().map(|at| (*at, outlet)));
        self.outlets.push(Outlet {
            service: number,
            endpoints,
            pool,
            entry: layout::Service {
                id: service.id.0,
                flags,
                scheduler: scheduler.number(),
                turn: outlet as u32,
                seed: service.id.0,
                mss: self.least_mtu.map_or(0, |mtu| mtu.saturating_sub(headers)),
                source_rate: mode.source_rate,
                ..layout::Service::default()
            },
            source,
            first: self.slots,
            half,
            room,
        });
        self.slots += 2 * room;
    }

    /// A backend in the kernel's array. `flags`: of its service.
    pub(super) fn entry(
        &self,
        source: IpAddr,
        flags: u32,
        id: BackendId,
        address: SocketAddr,
    ) -> layout::Backend {
        layout::Backend {
            address: address.ip().into(),
            source: source.into(),
            port: address.port().into(),
            id: id.0,
            ifindex: self.device(source, address.ip(), flags & SERVICE_DNAT != 0),
            ..layout::Backend::default()
        }
    }

    /// Entries that the kernel's array has: those of the configuration's file, and as many again for
    /// backends that come at run time. Grows in large steps, since tables of another size are begun
    /// anew at a restart.
    pub(super) fn array_room(&self) -> u32 {
        (2 * self.planned).next_power_of_two().max(LEAST_ARRAY)
    }

    /// Slots that this pool needs at most, whoever of it is eligible.
    pub(super) fn half(&self, balance: Scheduler, pool: &[(usize, u32)]) -> u32 {
        let weights = pool.iter().map(|(at, _)| self.backends[*at].weight);
        half(balance, &weights.collect::<Vec<_>>())
    }

    /// The device that leads to a backend; 0: the one by which the client came.
    pub(super) fn device(&self, source: IpAddr, target: IpAddr, dnat: bool) -> u32 {
        if !dnat {
            return self.devices.get(&source).copied().unwrap_or(0);
        }
        let near = self
            .networks
            .iter()
            .filter(|(net, _)| net.contains(&target));
        if let Some((_, ifindex)) = near.max_by_key(|(net, _)| net.prefix_len()) {
            return *ifindex;
        }
        // It is behind a router, on the only interface that there is (`config::kernel`).
        let family = self
            .networks
            .iter()
            .filter(|(net, _)| net.addr().is_ipv4() == target.is_ipv4());
        let mut ways = family.map(|(_, ifindex)| *ifindex);
        let first = ways.next().unwrap_or(0);
        if ways.all(|it| it == first) { first } else { 0 }
    }

    /// The device of a VIP, by which its clients are answered.
    pub(super) fn device_of(&self, vip: IpAddr) -> u32 {
        self.devices.get(&vip).copied().unwrap_or(0)
    }

    /// The place of the service with this id.
    pub(super) fn place_of(&self, service: ServiceId) -> Option<usize> {
        self.by_service.get(&service.0).copied()
    }

    /// The service with this id.
    pub(super) fn service_with(&self, id: u32) -> Option<&Service> {
        self.by_service.get(&id).map(|place| &self.services[*place])
    }

    /// The place of the backend with this id.
    pub(super) fn backend_with(&self, id: u32) -> Option<usize> {
        self.by_backend.get(&id).copied()
    }

    /// Where clients of this endpoint go out.
    pub(super) fn outlet_at(&self, at: Endpoint) -> Option<&Outlet> {
        self.by_endpoint.get(&at).map(|place| &self.outlets[*place])
    }
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Slots that this pool needs at most, whoever of it is eligible: a part of a pool never has a
/// longer rotation than the whole.
fn half(balance: Scheduler, weights: &[u16]) -> u32 {
    let count = weights.len() as u32;
    match balance {
        Scheduler::RoundRobin => count,
        Scheduler::LeastConnections => (4 * count).clamp(LEAST_SLOTS, MOST_SLOTS),
        // The configuration refuses the others.
        _ => {
            let rotation = crate::balance::scheduler::Rotation::weighted(weights);
            rotation.period().min(u64::from(MOST_SLOTS)) as u32
        }
    }
}
