//! How a service chooses among its backends.

use std::time::Duration;

use crate::model::Scheduler;

/// A scheduler with its settings. Those that it does not have stay at their defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// Which. Default `round_robin`.
    pub scheduler: Scheduler,
    /// `maglev`: places in the table. Default 65,537; a prime from 251 to 262,139.
    pub table_size: u32,
    /// `source_hash`, `maglev`: how far above its share a backend may be, in hundredths. None:
    /// any number. 101 to 1,000.
    pub bounded_load: Option<u16>,
    /// `source_hash`, `maglev`: what the clients' addresses are hashed with. Default empty.
    pub hash_key: String,
    /// `least_response_time`, `adaptive`: how fast old measurements fade. Default 10 s, 100 ms to
    /// 10 min.
    pub decay: Duration,
    /// `adaptive`: the least that is left of a backend's weight, in hundredths. Default 10; 1 to
    /// 100.
    pub floor: u16,
}

impl Balance {
    /// Default size of Maglev's table, the smaller of the two that the paper tests.
    pub(super) const TABLE_SIZE: u32 = 65_537;
    /// Default time constant.
    pub(super) const DECAY: Duration = Duration::from_secs(10);
    /// Default floor, in hundredths.
    pub(super) const FLOOR: u16 = 10;
}

impl From<Scheduler> for Balance {
    fn from(scheduler: Scheduler) -> Self {
        Self {
            scheduler,
            table_size: Self::TABLE_SIZE,
            bounded_load: None,
            hash_key: String::new(),
            decay: Self::DECAY,
            floor: Self::FLOOR,
        }
    }
}
