//! What a backend that comes at run time must be, as `check` and `kernel` demand it of those in the file.

use std::net::{IpAddr, SocketAddr};

use super::units::{MAX_NAME, usable};
use super::{Backend, Config, Forward, KernelMode, Service};
use crate::model::Vip;

/// Backends of a service at most, over all its pools.
pub const MAX_BACKENDS: usize = 1_024;

impl Config {
    /// Whether this backend may be in this service.
    ///
    /// # Errors
    ///
    /// What is wrong, and what to write instead.
    pub fn admits(&self, service: &Service, backend: &Backend) -> Result<(), String> {
        let name = &backend.name;
        let good = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(good) {
            return Err(format!(
                "{name:?} is no name; write 1 to {MAX_NAME} of A-Z, a-z, 0-9, `.`, `_`, `-`"
            ));
        }
        if let Some(address) = backend.address.tcp() {
            reachable(service, address)?;
        }
        if !(1..=256).contains(&backend.weight.0) {
            return Err(format!("{} is no weight; write 1 to 256", backend.weight.0));
        }
        if backend.max_connections == Some(0) {
            return Err("max_connections is 0; write 1 or more".into());
        }
        match &service.kernel {
            Some(mode) => self.kernel_admits(service, mode, backend),
            None => Ok(()),
        }
    }

    fn kernel_admits(
        &self,
        service: &Service,
        mode: &KernelMode,
        backend: &Backend,
    ) -> Result<(), String> {
        let Some(ip) = backend.address.tcp().map(|address| address.ip()) else {
            return Err("a unix socket needs mode = \"proxy\"".into());
        };
        let same_family = |at: &SocketAddr| at.is_ipv4() == ip.is_ipv4();
        if backend.backup || backend.max_connections.is_some() {
            return Err("mode = \"kernel\" has no `backup` and no `max_connections` of a backend; leave it out".into());
        }
        if !service.listen.iter().any(same_family) {
            let (have, need) = match ip.is_ipv4() {
                true => ("IPv6", "IPv4"),
                false => ("IPv4", "IPv6"),
            };
            return Err(format!(
                "{have} to {need} needs mode = \"proxy\"; write an {have} address of the backend"
            ));
        }
        let own = self.nodes.iter().flat_map(|node| &node.addresses);
        let vips = self.vips.iter().map(Vip::ip);
        if own.copied().chain(vips).any(|own| own == ip) {
            return Err(format!(
                "{ip} is this pair's own: mode = \"kernel\" forwards to other hosts only"
            ));
        }
        match mode.forward {
            Forward::Dnat => self.has_way(ip),
            Forward::Nat => Ok(()),
        }
    }

    /// With dnat nothing but the VIPs says which interface leads to a backend.
    fn has_way(&self, ip: IpAddr) -> Result<(), String> {
        let family = |vip: &&Vip| vip.ip().is_ipv4() == ip.is_ipv4();
        let mut vips = self.vips.iter().filter(family);
        let first = vips.next().map(|vip| &vip.interface);
        let one = vips.all(|vip| Some(&vip.interface) == first);
        match one || self.vips.iter().any(|vip| vip.address.contains(&ip)) {
            true => Ok(()),
            false => Err(format!(
                "with forward = \"dnat\" {ip} must be in the network of a VIP, whose interface leads there"
            )),
        }
    }
}

fn reachable(service: &Service, address: SocketAddr) -> Result<(), String> {
    if address.port() == 0 {
        return Err(format!("{address} has no port; write 1 to 65535"));
    }
    usable(address.ip()).map_err(|fault| format!("{}; {}", fault.what, fault.remedy))?;
    if service.listen.contains(&address) {
        return Err(format!(
            "{address} is the service itself; write where the server behind it listens"
        ));
    }
    Ok(())
}
