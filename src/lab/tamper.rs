//! What is done to hosts behind the pair's back: cables, network cards, addresses, a stranger.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::LinkUnspec;

use super::error::LabError;
use super::host::Host;
use super::topology::{Change, ETH0, Lan, Network, STRANGER, add_address};
use crate::model::Mac;

impl Network {
    /// Sets the longest packet of a host's cable, at both of its ends.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn set_mtu(&self, host: &Host, lan: Lan, mtu: u32) -> Result<(), LabError> {
        let set = |link: Change| link.mtu(mtu);
        self.set_port(host, lan, set, "set the MTU of").await?;
        let name = format!("{}'s interface on {}", host.name(), lan.name());
        let link = LinkUnspec::new_with_index(self.interface(host, lan));
        let done = host.netlink().link().set(link.mtu(mtu).build()).execute();
        let what = LabError::network(format!("set the MTU of {name}"));
        done.await.map_err(what)
    }

    /// Gives a host another Ethernet address on this LAN, as another network card would.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn set_mac(&self, host: &Host, lan: Lan, mac: Mac) -> Result<(), LabError> {
        let link = LinkUnspec::new_with_index(self.interface(host, lan));
        let link = link.address(mac.0.to_vec()).build();
        let what = LabError::network(format!("give {} the address {mac}", host.name()));
        host.netlink()
            .link()
            .set(link)
            .execute()
            .await
            .map_err(what)
    }

    /// One more host, on both LANs, that belongs to nobody's party.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn stranger(&self) -> Result<Host, LabError> {
        let host = Host::start("stranger").await?;
        self.plug(&host, Lan::Front, STRANGER, 0).await?;
        self.plug(&host, Lan::Back, STRANGER, 1).await?;
        Ok(host)
    }

    /// Puts an address on `eth0` of a host, as a program that fails over without care would.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn hold(&self, host: &Host, address: IpAddr) -> Result<(), LabError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        add_address(host, ETH0, address, prefix).await
    }

    /// Takes an address away from a host, wherever it has it, as an operator's slip would. Whether
    /// it was there.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn strip(&self, host: &Host, address: IpAddr) -> Result<bool, LabError> {
        let what = || LabError::network(format!("take {address} from {}", host.name()));
        let addresses = host.netlink().address();
        let mut found = addresses.get().set_address_filter(address).execute();
        let Some(message) = found.try_next().await.map_err(what())? else {
            return Ok(false);
        };
        addresses.del(message).execute().await.map_err(what())?;
        Ok(true)
    }
}
