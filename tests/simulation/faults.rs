//! Which faults a run has. Each seed switches a random subset on (swarm testing).

use super::rng::Rng;

/// One kind of fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// Datagrams are lost, up to 30 %.
    Loss,
    /// Datagrams come twice, late and out of order.
    Reorder,
    /// One direction of a path is cut for a while.
    OneWay,
    /// Everything between the nodes is cut for a while.
    Partition,
    /// Datagrams are damaged, recorded and replayed; resets and port-unreachables are forged.
    Attacker,
    /// The process is killed and started again.
    Crash,
    /// The process stands still; the dead-man timer may end it.
    Hang,
    /// The whole machine stands still and its clock with it.
    MachinePause,
    /// The machine loses power: its kernel's state is gone too.
    PowerLoss,
    /// An interface goes down and up.
    LinkFlap,
    /// The kernel refuses for a while, or somebody removes the address.
    Kernel,
    /// Operators switch over, drain and enable.
    Operator,
    /// Announcements are lost.
    LostAnnouncements,
    /// Clocks run up to 5 % fast or slow.
    Drift,
    /// Backends go down and up.
    Backends,
}

/// A set of kinds.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Faults(u32);

impl Faults {
    pub const KINDS: [Kind; 15] = [
        Kind::Loss,
        Kind::Reorder,
        Kind::OneWay,
        Kind::Partition,
        Kind::Attacker,
        Kind::Crash,
        Kind::Hang,
        Kind::MachinePause,
        Kind::PowerLoss,
        Kind::LinkFlap,
        Kind::Kernel,
        Kind::Operator,
        Kind::LostAnnouncements,
        Kind::Drift,
        Kind::Backends,
    ];
    pub const NONE: Self = Self(0);

    /// Every eighth seed is free of faults, every eighth has them all.
    pub fn of_seed(seed: u64) -> Self {
        match seed % 8 {
            0 => Self::NONE,
            1 => Self(u32::MAX),
            _ => Self(Rng::new(seed ^ 0xfa_17).next() as u32),
        }
    }

    pub const fn has(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    pub const fn without(self, kind: Kind) -> Self {
        Self(self.0 & !(1 << kind as u8))
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = Self::KINDS.into_iter().filter(|kind| self.has(*kind));
        f.debug_set().entries(kinds).finish()
    }
}
