//! Neighbours that never hear where a floating address lives.
//!
//! Some routers and clients ignore announcements. Here each host of a LAN gets a permanent entry for
//! each floating address, which no announcement and no answer changes (neighbour(7) of arp(7),
//! `NUD_PERMANENT`).

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::error::LabError;
use super::host::Host;
use super::topology::{Lan, Network, SOURCE4, SOURCE6, VIP4, VIP6};
use crate::model::{Mac, NodeId};

impl Network {
    /// From now on clients and backends have the floating addresses at this node, whatever they
    /// hear.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn freeze(&self, master: NodeId) -> Result<(), LabError> {
        for (host, lan) in self.outsiders() {
            let mac = lan.node_mac(master);
            for address in floating(lan) {
                let neighbours = host.netlink().neighbours();
                let entry = neighbours.add(self.interface(host, lan), address);
                let entry = entry.link_layer_address(&mac.0).replace();
                let what = format!("freeze {address} at {}", host.name());
                entry.execute().await.map_err(LabError::network(what))?;
            }
        }
        Ok(())
    }

    /// Clients and backends hear again.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn thaw(&self) -> Result<(), LabError> {
        for (host, lan) in self.outsiders() {
            for address in floating(lan) {
                let what = || LabError::network(format!("thaw {address} at {}", host.name()));
                if let Some(entry) = entry(host, address).await.map_err(what())? {
                    let removed = host.netlink().neighbours().del(entry).execute().await;
                    removed.map_err(what())?;
                }
            }
        }
        Ok(())
    }

    /// Where this host believes that an address lives.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn believes(&self, host: &Host, address: IpAddr) -> Result<Option<Mac>, LabError> {
        let what = LabError::network(format!("read the neighbours of {}", host.name()));
        let entry = entry(host, address).await.map_err(what)?;
        let attributes = entry.into_iter().flat_map(|entry| entry.attributes);
        Ok(attributes.into_iter().find_map(|it| match it {
            NeighbourAttribute::LinkLayerAddress(mac) => Some(Mac(mac.try_into().ok()?)),
            _ => None,
        }))
    }

    /// Who talks to the floating addresses, and on which LAN.
    fn outsiders(&self) -> impl Iterator<Item = (&Host, Lan)> {
        let clients = [&self.client, &self.watch];
        let clients = clients.into_iter().map(|host| (host, Lan::Front));
        clients.chain(self.backends.iter().map(|host| (host, Lan::Back)))
    }
}

fn floating(lan: Lan) -> [IpAddr; 2] {
    match lan {
        Lan::Front => [VIP4.into(), VIP6.into()],
        Lan::Back => [SOURCE4.into(), SOURCE6.into()],
    }
}

async fn entry(host: &Host, address: IpAddr) -> Result<Option<NeighbourMessage>, rtnetlink::Error> {
    let wanted = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    let wanted = NeighbourAttribute::Destination(wanted);
    let all: Vec<_> = host
        .netlink()
        .neighbours()
        .get()
        .execute()
        .try_collect()
        .await?;
    Ok(all.into_iter().find(|it| it.attributes.contains(&wanted)))
}
