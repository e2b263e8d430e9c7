//! The one place that reads clocks and entropy.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::model::Incarnation;
use crate::time::Mono;

/// The node's clock: `CLOCK_BOOTTIME` since the process started, so that suspended time counts.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            start: read(ClockId::CLOCK_BOOTTIME),
        }
    }

    /// Time since the start.
    pub fn now(self) -> Mono {
        Mono::ZERO + read(ClockId::CLOCK_BOOTTIME).saturating_sub(self.start)
    }

    /// The time of day at this clock's zero, in milliseconds since 1970.
    pub fn started_unix_ms(self) -> u64 {
        let since = read(ClockId::CLOCK_BOOTTIME).saturating_sub(self.start);
        read(ClockId::CLOCK_REALTIME)
            .saturating_sub(since)
            .as_millis() as u64
    }
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock)
        .map(Duration::from)
        .expect("Linux has this clock since 2.6.39")
}

/// `CLOCK_MONOTONIC`, which programs in the kernel read too.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The time of day, since 1970, which operators and NTP may set; and the time for which this host was
/// suspended since it started.
pub fn wall() -> (Duration, Duration) {
    let suspended = read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic());
    (read(ClockId::CLOCK_REALTIME), suspended)
}

/// Random bytes from the operating system.
pub fn entropy<const N: usize>() -> [u8; N] {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("getrandom(2) works on Linux");
    bytes
}

/// The id of this process lifetime.
pub fn incarnation() -> Incarnation {
    Incarnation(u128::from_le_bytes(entropy()))
}
