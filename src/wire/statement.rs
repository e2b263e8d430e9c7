//! What operators say of backends at run time: each of these things with the moment when it was said, so
//! that of two statements about the same thing the later one holds, on both nodes and after a split.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{AdminState, NodeId, ServiceId};

/// When something was said: milliseconds since 1970 by the master's clock, times two, plus the place of
/// its node. Later than everything that the master knew, whatever its clock shows.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The stamp of what this node says now. `newest`: the latest that it knows.
    #[must_use]
    pub const fn after(newest: Self, node: NodeId, unix_ms: u64) -> Self {
        let next = (newest.0 >> 1) + 1;
        let at = if unix_ms > next { unix_ms } else { next };
        // Two nodes that speak in the same millisecond differ in the last bit.
        Self((at << 1) | node.index() as u64)
    }
}

/// One thing that was said of a backend.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Statement {
    /// Its service.
    pub service: ServiceId,
    /// Its name.
    pub name: String,
    /// When.
    pub at: Stamp,
    /// What.
    pub said: Said,
}

/// What can be said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Said {
    /// Whether it is there.
    Presence(Presence),
    /// Its weight; none: as it is configured.
    Weight(Option<u16>),
    /// Whether it gets new connections.
    State {
        /// What holds.
        state: AdminState,
        /// When connections that are left are reset, milliseconds since 1970; none: never.
        cut_ms: Option<u64>,
    },
}

/// Whether a backend is there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Presence {
    /// As the file and the sources say.
    Unsaid,
    /// It is.
    Added(Addition),
    /// It is not.
    Removed {
        /// When connections that are left are reset, milliseconds since 1970; none: never.
        cut_ms: Option<u64>,
    },
}

/// A backend that an operator added. What is not said here is as its pool has it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Addition {
    /// Name of its pool; none: the service's own.
    pub pool: Option<String>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share, 1 to 256.
    pub weight: u16,
    /// Connections at once, in proxy mode; none: as many as the service may have.
    pub max_connections: Option<u32>,
    /// It gets connections only while no other backend of its pool serves.
    pub backup: bool,
}

/// What a statement is about: one holds for each of a backend's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Aspect {
    /// [`Said::Presence`]
    Presence,
    /// [`Said::Weight`]
    Weight,
    /// [`Said::State`]
    State,
}

impl Said {
    /// What it is about.
    pub const fn aspect(&self) -> Aspect {
        match self {
            Self::Presence(_) => Aspect::Presence,
            Self::Weight(_) => Aspect::Weight,
            Self::State { .. } => Aspect::State,
        }
    }

    /// It takes back what was said before.
    pub const fn is_nothing(&self) -> bool {
        matches!(
            self,
            Self::Presence(Presence::Unsaid)
                | Self::Weight(None)
                | Self::State {
                    state: AdminState::Enabled,
                    ..
                }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_later_has_a_later_stamp() {
        let [first, second] = NodeId::BOTH;
        let one = Stamp::after(Stamp::default(), first, 1_000);
        assert_eq!(one, Stamp(2_000));
        // The clock stands still, or was set back: still later.
        let two = Stamp::after(one, first, 1_000);
        let three = Stamp::after(two, first, 5);
        assert!(one < two && two < three);
        // At the same moment on both nodes: never equal.
        assert_ne!(Stamp::after(one, first, 7), Stamp::after(one, second, 7));
        assert!(Stamp::after(one, first, 9_000) > Stamp::after(three, second, 8_000));
    }
}
