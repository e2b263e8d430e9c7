//! What passes between the nodes.

use serde::{Deserialize, Serialize};

/// How the nodes hand each other what is not theirs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RelayStatus {
    /// The configuration's `cluster.relay`.
    pub wanted: bool,
    /// The program is at every interface that carries a VIP, and the peer is known there.
    pub works: bool,
    /// What is missing, or not as good as it could be.
    pub lacking: Option<String>,
    /// Each interface that carries a VIP.
    pub links: Vec<RelayLink>,
    /// As backup: what the master hands over is served here at once.
    pub accept: bool,
    /// As master: what nobody here knows goes to the peer.
    pub second_chance: bool,
    /// Neighbours that still send to this node, which is not master; the last ones.
    pub stale: Vec<StaleStatus>,
    /// How often such a neighbour was told where the address lives.
    pub reminded: u64,
}

/// A link that both nodes are on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RelayLink {
    /// This node's interface.
    pub interface: String,
    /// This node's address there.
    pub own: String,
    /// The peer's; none: it was not seen on this link.
    pub peer: Option<String>,
}

/// A neighbour that has not heard where an address lives.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StaleStatus {
    /// The address.
    pub vip: String,
    /// The neighbour: a client, or a router that speaks for many.
    pub mac: String,
    /// Who sent the packet.
    pub sender: String,
    /// When, last.
    pub unix_ms: u64,
}
