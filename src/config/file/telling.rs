//! `[metrics]` and `[notify]`: whom a node tells how it is.

use std::net::SocketAddr;
use std::time::Duration;

use super::kinds::program;
use super::{List, Located, ms};
use crate::config::Command;
use crate::config::read::Section;
use crate::config::report::{Field, Reported};
use crate::config::units::{duration, listen_address};

/// Most addresses.
const MAX_LISTEN: usize = 8;
/// A notification takes as long at most.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `[metrics]`
pub(in crate::config) struct Metrics {
    pub(in crate::config) listen: Option<List<Located<SocketAddr>>>,
}

/// `[notify]`
pub(in crate::config) struct Notify {
    pub(in crate::config) command: Result<Command, Reported>,
    pub(in crate::config) timeout: Field<Duration>,
}

impl Metrics {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            listen: section.one_or_more("listen", 1..=MAX_LISTEN, listen_address),
        }
    }
}

impl Notify {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let example = r#"["/usr/local/bin/tandem-changed"]"#;
        Self {
            command: program(section, "command", example),
            timeout: section.or("timeout", TIMEOUT, duration(ms(10)..=super::HOUR)),
        }
    }
}
