//! What was found becomes backends: their names, which of them may be, and how many.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::balance::{Found, Member};
use crate::config::{Config, DEFAULT_POOL, Discover, Forward, Service, unusable};
use crate::model::{NodeId, ServiceId};

/// A found backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name, if the source gives it one.
    pub name: Option<String>,
    /// Its share, 1 to 256.
    pub weight: u16,
}

/// A source, and what it gave last.
#[derive(Debug)]
pub struct Source {
    service: ServiceId,
    pool: String,
    label: String,
    most: usize,
    guard: Guard,
    last: Option<Vec<Member>>,
    /// Why not all that was found is used.
    left_out: Option<String>,
}

/// What cannot be a backend of the service.
#[derive(Debug)]
struct Guard {
    listen: BTreeSet<SocketAddr>,
    /// None: the service is proxied.
    kernel: Option<Kernel>,
}

#[derive(Debug)]
struct Kernel {
    v4: bool,
    v6: bool,
    /// The nodes and the VIPs: the kernel forwards to other hosts only.
    own: BTreeSet<IpAddr>,
    /// With dnat and several interfaces: the networks whose interface is known.
    networks: Option<Vec<IpNet>>,
}

impl Source {
    /// A source of this service that has given nothing yet.
    pub fn new(config: &Config, service: &Service, discover: &Discover) -> Self {
        Self {
            service: service.id,
            pool: service.pool_name(discover.pool).to_owned(),
            label: discover.origin.to_string(),
            most: discover.max_backends.into(),
            guard: Guard::new(config, service),
            last: None,
            left_out: None,
        }
    }

    /// Its pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// As the status shows it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Backends that it gave last.
    pub fn count(&self) -> usize {
        self.last.as_ref().map_or(0, Vec::len)
    }

    /// Why not all that was found is used.
    pub fn left_out(&self) -> Option<&str> {
        self.left_out.as_deref()
    }

    /// Takes all that was found; the backends, if they are not those that it gave last.
    pub fn gather(&mut self, found: &BTreeMap<SocketAddr, Entry>) -> Option<Found> {
        let mut why = None;
        let refused = |address: &SocketAddr| {
            let reason = self.guard.refuses(*address);
            match &reason {
                Some(reason) => {
                    why.get_or_insert_with(|| format!("{address} is left out: it {reason}"));
                    false
                }
                None => true,
            }
        };
        let mut good: Vec<SocketAddr> = found.keys().copied().collect();
        good.retain(refused);
        if good.len() > self.most {
            let (count, most) = (good.len(), self.most);
            why = Some(format!(
                "{count} addresses; `max_backends` allows {most} of them"
            ));
            // Those that are in use stay, whatever the order of an answer.
            let used: BTreeSet<_> = self.last.iter().flatten().map(|it| it.address).collect();
            good.sort_by_key(|address| (!used.contains(address), *address));
            good.truncate(most);
            good.sort_unstable();
        }
        self.left_out = why;
        let members: Vec<_> = good
            .into_iter()
            .map(|address| {
                let entry = &found[&address];
                Member {
                    name: entry.name.clone().unwrap_or_else(|| self.name(&address)),
                    address,
                    weight: entry.weight,
                }
            })
            .collect();
        if self.last.as_ref() == Some(&members) {
            return None;
        }
        self.last = Some(members.clone());
        Some(Found {
            service: self.service,
            pool: self.pool.clone(),
            source: self.label.clone(),
            members,
        })
    }

    /// The name of a backend that has none: the same on both nodes, and another one in each pool of
    /// the service. No name of the configuration has a colon.
    fn name(&self, address: &SocketAddr) -> String {
        match self.pool.as_str() {
            DEFAULT_POOL => address.to_string(),
            pool => format!("{pool}/{address}"),
        }
    }
}

impl Guard {
    fn new(config: &Config, service: &Service) -> Self {
        let kernel = service.kernel.as_ref().map(|kernel| {
            let nodes = NodeId::BOTH.map(|node| config.node(node).addresses.iter().copied());
            let vips = config.vips.iter().map(crate::model::Vip::ip);
            let several = kernel.forward == Forward::Dnat && config.interfaces().len() > 1;
            Kernel {
                v4: service.listen.iter().any(SocketAddr::is_ipv4),
                v6: service.listen.iter().any(SocketAddr::is_ipv6),
                own: nodes.into_iter().flatten().chain(vips).collect(),
                networks: several.then(|| config.vips.iter().map(|vip| vip.address).collect()),
            }
        });
        Self {
            listen: service.listen.iter().copied().collect(),
            kernel,
        }
    }

    fn refuses(&self, address: SocketAddr) -> Option<&'static str> {
        let ip = address.ip();
        if let Some(why) = unusable(ip) {
            return Some(why);
        }
        if address.port() == 0 {
            return Some("has no port");
        }
        if self.listen.contains(&address) {
            return Some("is the service itself");
        }
        let kernel = self.kernel.as_ref()?;
        let near = |net: &IpNet| net.contains(&ip);
        if kernel.own.contains(&ip) {
            Some("is a node or a VIP, and mode = \"kernel\" forwards to other hosts only")
        } else if !(if ip.is_ipv4() { kernel.v4 } else { kernel.v6 }) {
            Some("is of another IP version than `listen`, which needs mode = \"proxy\"")
        } else if kernel
            .networks
            .as_ref()
            .is_some_and(|all| !all.iter().any(near))
        {
            Some("is in no VIP's network, whose interface would lead there with forward = \"dnat\"")
        } else {
            None
        }
    }
}
