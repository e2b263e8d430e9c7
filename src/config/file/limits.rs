//! Those keys of `[[service]]` that limit a proxied service.

use std::time::Duration;

use ipnet::IpNet;

use super::proxied::network;
use super::service::{at, at_list};
use super::{HOUR, ms};
use crate::config::Logged;
use crate::config::read::Section;
use crate::config::report::{At, Field, List, Located};
use crate::config::units::{duration, number, word};

/// Most networks in one access list.
const MAX_ACCESS: usize = 256;
/// Most retries: a pool has one backend more.
const MAX_RETRIES: u16 = 1_023;
/// Most clients that wait for one pool.
const MAX_QUEUE: u32 = 100_000;

const LOGGED: &[(&str, Logged)] = &[
    ("all", Logged::All),
    ("errors", Logged::Errors),
    ("off", Logged::Off),
];

/// None: not written.
pub(in crate::config) struct Limits {
    pub(in crate::config) allow: Option<List<Located<IpNet>>>,
    pub(in crate::config) deny: Option<List<Located<IpNet>>>,
    pub(in crate::config) retries: Option<Field<u16>>,
    pub(in crate::config) connect_deadline: Option<Field<Duration>>,
    pub(in crate::config) retry_budget: Option<Field<u8>>,
    pub(in crate::config) queue_size: Option<Field<u32>>,
    pub(in crate::config) queue_timeout: Option<Field<Duration>>,
    pub(in crate::config) panic_threshold: Option<Field<u8>>,
    pub(in crate::config) slow_start: Option<Field<Duration>>,
    pub(in crate::config) log: Option<Field<Logged>>,
    pub(in crate::config) log_sample: Option<Field<u32>>,
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            allow: section.one_or_more("allow", 1..=MAX_ACCESS, network),
            deny: section.one_or_more("deny", 1..=MAX_ACCESS, network),
            retries: section.optional("retries", number(0..=MAX_RETRIES)),
            connect_deadline: section.optional("connect_deadline", duration(ms(1)..=HOUR)),
            retry_budget: section.optional("retry_budget", number(1..=100)),
            queue_size: section.optional("queue_size", number(0..=MAX_QUEUE)),
            queue_timeout: section.optional("queue_timeout", duration(ms(1)..=HOUR)),
            panic_threshold: section.optional("panic_threshold", number(0..=100)),
            slow_start: section.optional("slow_start", duration(ms(0)..=HOUR)),
            log: section.optional("log", word(LOGGED)),
            log_sample: section.optional("log_sample", number(1..=1_000_000)),
        }
    }

    /// What is written, in the order of the documentation: the key and its place.
    pub(super) fn written(&self) -> [(&'static str, Option<At>); 11] {
        // Named one by one, so that a new key cannot be forgotten here.
        let Self {
            allow,
            deny,
            retries,
            connect_deadline,
            retry_budget,
            queue_size,
            queue_timeout,
            panic_threshold,
            slow_start,
            log,
            log_sample,
        } = self;
        [
            ("allow", at_list(allow)),
            ("deny", at_list(deny)),
            ("retries", at(retries)),
            ("connect_deadline", at(connect_deadline)),
            ("retry_budget", at(retry_budget)),
            ("queue_size", at(queue_size)),
            ("queue_timeout", at(queue_timeout)),
            ("panic_threshold", at(panic_threshold)),
            ("slow_start", at(slow_start)),
            ("log", at(log)),
            ("log_sample", at(log_sample)),
        ]
    }
}
