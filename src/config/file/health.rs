//! `[service.health]`: what every kind has. The keys of each kind: `kinds`.

use std::net::IpAddr;
use std::time::Duration;

use super::kinds;
use super::{DAY, HOUR, MINUTE, ms, s};
use crate::config::read::Section;
use crate::config::report::{Field, Located, Reported};
use crate::config::units::{Fault, check_address, duration, number, word};
use crate::config::{Flap, HealthKind, Observe, Start};

const STARTS: &[(&str, Start)] = &[
    ("check", Start::Check),
    ("up", Start::Up),
    ("down", Start::Down),
];
const OBSERVE: &[(&str, Observe)] = &[
    ("connects", Observe::Connects),
    ("first_byte", Observe::FirstByte),
    ("nothing", Observe::Nothing),
];

/// `[service.health]`
pub(in crate::config) struct Health {
    pub(in crate::config) kind: Result<HealthKind, Reported>,
    pub(in crate::config) interval: Field<Duration>,
    pub(in crate::config) fast_interval: Option<Field<Duration>>,
    pub(in crate::config) down_interval: Option<Field<Duration>>,
    pub(in crate::config) timeout: Field<Duration>,
    pub(in crate::config) rise: Field<u8>,
    pub(in crate::config) fall: Field<u8>,
    pub(in crate::config) start: Field<Start>,
    pub(in crate::config) observe: Field<Observe>,
    pub(in crate::config) address: Option<Field<IpAddr>>,
    pub(in crate::config) port: Option<Field<u16>>,
    pub(in crate::config) flap: Result<Option<Flap>, Reported>,
}

/// `[service.agent]`
pub(in crate::config) struct Agent {
    pub(in crate::config) address: Option<Field<IpAddr>>,
    pub(in crate::config) port: Field<u16>,
    pub(in crate::config) interval: Field<Duration>,
    pub(in crate::config) timeout: Field<Duration>,
    pub(in crate::config) send: Result<Vec<u8>, Reported>,
}

/// `[health]`
pub(in crate::config) struct Checks {
    pub(in crate::config) concurrency: Field<u16>,
}

impl Health {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let kind = kinds::kind(section);
        let interval = || duration(ms(10)..=HOUR);
        Self {
            interval: section.or("interval", s(2), interval()),
            fast_interval: section.optional("fast_interval", interval()),
            down_interval: section.optional("down_interval", interval()),
            timeout: section.or("timeout", s(1), duration(ms(1)..=HOUR)),
            rise: section.or("rise", 2, number(1..=100)),
            fall: section.or("fall", 3, number(1..=100)),
            start: section.or("start", Start::Check, word(STARTS)),
            observe: section.or("observe", Observe::Connects, word(OBSERVE)),
            address: section.optional("address", check_address),
            port: section.optional("port", number(1..=u16::MAX)),
            flap: flap(section),
            kind: kinds::read(section, kind),
        }
    }
}

/// The keys of flap damping; the others mean nothing without a limit.
fn flap(section: &mut Section<'_, '_>) -> Result<Option<Flap>, Reported> {
    let limit = section.or("flap_limit", 0_u8, number(0..=100));
    let damped = !limit.as_ref().is_ok_and(|limit| limit.value == 0);
    if !damped {
        for key in ["flap_window", "flap_hold", "flap_hold_max"] {
            let what = format!("`{key}` means nothing without `flap_limit`");
            section.refuse(key, || {
                Fault::new(what, "add flap_limit = 5, or remove the key")
            });
        }
        return Ok(None);
    }
    let window = section.or("flap_window", MINUTE, duration(s(1)..=HOUR));
    let hold = section.or("flap_hold", s(10), duration(s(1)..=HOUR));
    let hold_max = section.or("flap_hold_max", 5 * MINUTE, duration(s(1)..=DAY));
    let (limit, window, hold, hold_max) = (limit?, window?, hold?, hold_max?);
    if hold_max.value < hold.value {
        let what = "shorter than `flap_hold`";
        let fault = Fault::new(
            what,
            "write a longer `flap_hold_max`, or a shorter `flap_hold`",
        );
        return Err(section.fault(&hold_max.at, fault));
    }
    Ok(Some(Flap {
        limit: limit.value,
        window: window.value,
        hold: hold.value,
        hold_max: hold_max.value,
    }))
}

impl Agent {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            address: section.optional("address", check_address),
            port: section.required("port", "8081", number(1..=u16::MAX)),
            interval: section.or("interval", s(2), duration(ms(10)..=HOUR)),
            timeout: section.or("timeout", s(1), duration(ms(1)..=HOUR)),
            send: kinds::bytes(section, "send", "send_hex").map(Option::unwrap_or_default),
        }
    }
}

impl Checks {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            concurrency: section.or(
                "concurrency",
                crate::config::Checks::CONCURRENCY,
                number(1..=4_096),
            ),
        }
    }
}

/// The bare value of a field that may be left out.
pub(super) fn bare<T>(field: Option<Field<T>>) -> Result<Option<T>, Reported> {
    field
        .transpose()
        .map(|field| field.map(|located: Located<T>| located.value))
}
