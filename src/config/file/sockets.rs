//! Those keys of `[[service]]` that say how a proxied service's sockets are made.

use std::time::Duration;

use toml::de::DeValue;

use super::service::at;
use super::{HOUR, ms, s};
use crate::config::Mptcp;
use crate::config::read::Section;
use crate::config::report::{At, Field, Reported};
use crate::config::units::{Fault, Read, boolean, duration, number, word};

/// The longest that the kernel takes is 32,767 s (`MAX_TCP_KEEPIDLE`).
const MAX_KEEPALIVE: Duration = HOUR.saturating_mul(9);

const MPTCPS: &[(&str, Mptcp)] = &[
    ("off", Mptcp::Off),
    ("clients", Mptcp::Clients),
    ("backends", Mptcp::Backends),
    ("both", Mptcp::Both),
];

/// None: not written.
pub(in crate::config) struct Sockets {
    pub(in crate::config) transparent: Option<Field<bool>>,
    pub(in crate::config) mark: Option<Field<u32>>,
    pub(in crate::config) keepalive: Option<Result<Keepalive, Reported>>,
    pub(in crate::config) user_timeout: Option<Field<Duration>>,
    pub(in crate::config) mptcp: Option<Field<Mptcp>>,
    pub(in crate::config) fast_open: Option<Field<u16>>,
    pub(in crate::config) fast_open_backends: Option<Field<bool>>,
}

/// `[service.keepalive]`
pub(in crate::config) struct Keepalive {
    pub(in crate::config) idle: Field<Duration>,
    pub(in crate::config) interval: Field<Duration>,
    pub(in crate::config) count: Field<u8>,
    pub(in crate::config) at: At,
}

impl Sockets {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            transparent: section.optional("transparent", boolean),
            mark: section.optional("mark", number(1..=u32::MAX)),
            keepalive: section.table("keepalive", Keepalive::read),
            user_timeout: section.optional("user_timeout", duration(ms(100)..=HOUR)),
            mptcp: section.optional("mptcp", word(MPTCPS)),
            fast_open: section.optional("fast_open", number(0..=u16::MAX)),
            fast_open_backends: section.optional("fast_open_backends", boolean),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(super) fn written(&self) -> [(&'static str, Option<At>); 7] {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            transparent,
            mark,
            keepalive,
            user_timeout,
            mptcp,
            fast_open,
            fast_open_backends,
        } = self;
        let keepalive = keepalive.iter().flatten().next();
        [
            ("transparent", at(transparent)),
            ("mark", at(mark)),
            ("keepalive", keepalive.map(|section| section.at.clone())),
            ("user_timeout", at(user_timeout)),
            ("mptcp", at(mptcp)),
            ("fast_open", at(fast_open)),
            ("fast_open_backends", at(fast_open_backends)),
        ]
    }
}

impl Keepalive {
    fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            idle: section.or("idle", s(60), whole_seconds),
            interval: section.or("interval", s(10), whole_seconds),
            count: section.or("count", 3, number(1..=127)),
            at: section.at(),
        }
    }
}

/// The kernel counts them in seconds.
fn whole_seconds(value: &DeValue<'_>) -> Read<Duration> {
    let read = duration(s(1)..=MAX_KEEPALIVE)(value)?;
    if read.subsec_nanos() > 0 {
        let what = "the kernel counts these in whole seconds";
        let remedy = format!("write \"{}s\"", read.as_secs());
        return Err(Fault::new(what, remedy));
    }
    Ok(read)
}
