//! `[service.health]`

use std::time::Duration;

use super::{HOUR, ms, s};
use crate::config::HealthKind;
use crate::config::read::Section;
use crate::config::report::Field;
use crate::config::units::{duration, number, word};

const HEALTH_KINDS: &[(&str, HealthKind)] = &[("tcp", HealthKind::Tcp)];

/// `[service.health]`
pub(in crate::config) struct Health {
    pub(in crate::config) kind: Field<HealthKind>,
    pub(in crate::config) interval: Field<Duration>,
    pub(in crate::config) timeout: Field<Duration>,
    pub(in crate::config) rise: Field<u8>,
    pub(in crate::config) fall: Field<u8>,
}

impl Health {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            kind: section.required("kind", r#""tcp""#, word(HEALTH_KINDS)),
            interval: section.or("interval", s(2), duration(ms(10)..=HOUR)),
            timeout: section.or("timeout", s(1), duration(ms(1)..=HOUR)),
            rise: section.or("rise", 2, number(1..=100)),
            fall: section.or("fall", 3, number(1..=100)),
        }
    }
}
