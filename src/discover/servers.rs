//! The servers of a service, by its SRV records (RFC 2782).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::wire::dns::Server;

/// Most targets that are looked up for one name.
const MOST: usize = 64;
/// The highest weight of a backend.
const HEAVIEST: u16 = 256;

/// The records whose targets are worth a question, best first; of very many the first ones.
pub fn first_servers(mut servers: Vec<Server>) -> Vec<Server> {
    // "." says that there is no such service.
    servers.retain(|server| !server.target.is_empty() && server.port > 0);
    servers.sort_unstable();
    servers.dedup();
    servers.truncate(MOST);
    servers
}

/// The backends: the servers of the lowest priority that has an address. Each address of a target
/// has the target's weight. Weights are as written, or, if one is above 256, in proportion to it; where
/// none is written (all are 0), this one. A single 0 is 1.
pub fn members_of(
    servers: &[Server],
    addresses: &BTreeMap<String, Vec<IpAddr>>,
    weight: u16,
) -> BTreeMap<SocketAddr, u16> {
    let none = Vec::new();
    let of = |server: &Server| addresses.get(&server.target).unwrap_or(&none).iter();
    let served = servers.iter().filter(|server| of(server).len() > 0);
    let Some(first) = served.clone().map(|server| server.priority).min() else {
        return BTreeMap::new();
    };
    let chosen = || served.clone().filter(|server| server.priority == first);
    let heaviest = chosen().map(|server| server.weight).max().unwrap_or(0);
    let share = |written: u16| {
        let scaled = u32::from(written) * u32::from(HEAVIEST) / u32::from(heaviest.max(1));
        match heaviest {
            0 => weight,
            1..=HEAVIEST => written.max(1),
            _ => (scaled as u16).max(1),
        }
    };
    let mut members = BTreeMap::new();
    for server in chosen() {
        for address in of(server) {
            members.insert((*address, server.port).into(), share(server.weight));
        }
    }
    members
}
