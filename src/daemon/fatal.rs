//! Why a node does not start, and the exit code that says so.

use std::path::PathBuf;

use crate::control;
use crate::datapath::{self, DatapathError};
use crate::dial::DialError;
use crate::net::kernel::KernelError;
use crate::net::key;
use crate::probe::PlanError;

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// A file that a health check needs.
    #[error(transparent)]
    Checks(#[from] PlanError),
    /// The configuration, rendered with its places.
    #[error("{0}")]
    Config(String),
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ConfigFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// The data path.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The cluster key.
    #[error(transparent)]
    Key(#[from] key::KeyError),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel mode.
    #[error(
        "no kernel mode for {services}: {source}; `fallback = \"proxy\"` lets a service do without"
    )]
    KernelMode {
        /// The services that cannot do without.
        services: String,
        /// Why.
        source: Box<datapath::nat::NatError>,
    },
    /// The configuration has no node of this name.
    #[error("no [[node]] is named {name:?}; there are {known}: name this node with --node")]
    Nameless {
        /// What was looked for.
        name: String,
        /// Those of the file.
        known: String,
    },
    /// The operating system refused something that nothing works without.
    #[error("cannot {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Fatal {
    /// The process's exit code (sysexits.h).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Checks(PlanError::File { .. })
            | Self::Config(_)
            | Self::ConfigFile { .. }
            | Self::Key(_)
            | Self::Nameless { .. } => 64,
            Self::Kernel(
                KernelError::NoNetAdmin(_)
                | KernelError::NoNetRaw(_)
                | KernelError::TunForbidden(_),
            ) => 77,
            Self::KernelMode { source, .. } => match **source {
                datapath::nat::NatError::NotAllowed { .. } => 77,
                _ => 70,
            },
            Self::Checks(PlanError::Dial(DialError::Forbidden { .. }))
            | Self::Datapath(DatapathError::Dial(DialError::Forbidden { .. })) => 77,
            Self::Checks(PlanError::Dial(_))
            | Self::Control(_)
            | Self::Datapath(_)
            | Self::Kernel(_)
            | Self::System { .. } => 70,
        }
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(std::io::Error) -> Fatal {
    move |source| Fatal::System { what, source }
}
