//! What goes wrong between user space and the program, for the operator.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::tc::TcError;

/// The kernel mode could not start, or a map refused.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// The process lacks the right.
    #[error(
        "the kernel does not let this process {what}: {source}; give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON outside of any user namespace (or run it as root), or use mode = \"proxy\""
    )]
    NotAllowed {
        /// What it tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel lacks something.
    #[error(
        "this kernel cannot {what}: {source}; Linux 5.15 or later with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS is needed, or use mode = \"proxy\""
    )]
    Missing {
        /// What it cannot do.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The tables do not fit.
    #[error("no memory to {what}: {source}; lower the number of flows")]
    NoMemory {
        /// What it was for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's verifier refused the program.
    #[error(
        "this kernel's verifier refuses the program: {reason}; use mode = \"proxy\", and report the kernel's version"
    )]
    Refused {
        /// The end of what the verifier said.
        reason: String,
    },
    /// The program cannot be put on an interface.
    #[error("cannot attach to {interface}: {source}; {remedy}")]
    Attach {
        /// Which.
        interface: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A map refused.
    #[error("cannot {what}: {source}")]
    Map {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A map is full.
    #[error("cannot {what}: the table is full; raise its size")]
    Full {
        /// What was tried.
        what: &'static str,
    },
    /// Another process has the pins.
    #[error(
        "another process runs the program pinned at {}; stop it, or name another directory", dir.display()
    )]
    InUse {
        /// Their directory.
        dir: PathBuf,
    },
    /// The pins cannot be kept.
    #[error("cannot {what} {}: {source}; {remedy}", path.display())]
    Pins {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A socket that sends packets cannot be opened.
    #[error("cannot {what}: {source}; give the process CAP_NET_RAW")]
    Raw {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else.
    #[error("cannot {what}: {reason}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

pub(super) fn by_errno(what: &'static str, source: io::Error) -> NatError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NatError::NotAllowed { what, source },
        Some(libc::ENOMEM | libc::E2BIG) => NatError::NoMemory { what, source },
        _ => NatError::Missing { what, source },
    }
}

pub(super) fn load_error(error: EbpfError) -> NatError {
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => {
            by_errno("make the tables", io_error)
        }
        EbpfError::MapError(MapError::SyscallError(error)) => {
            by_errno("make the tables", error.io_error)
        }
        EbpfError::MapError(MapError::PinError {
            error: PinError::SyscallError(error),
            ..
        }) => by_errno("pin the tables", error.io_error),
        EbpfError::ProgramError(error) => program_error("load the program", error),
        error => NatError::Other {
            what: "read the program's object",
            reason: chain(&error),
        },
    }
}

/// An error and what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(super) fn program_error(what: &'static str, error: ProgramError) -> NatError {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            // No log: the kernel never came to read the program.
            if log.trim().is_empty() || io_error.raw_os_error() == Some(libc::EPERM) {
                return by_errno(what, io_error);
            }
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(VERIFIER_LINES)..];
            NatError::Refused {
                reason: format!("{io_error}: {}", last.join(" | ")),
            }
        }
        ProgramError::SyscallError(error) => by_errno(what, error.io_error),
        error => NatError::Other {
            what,
            reason: error.to_string(),
        },
    }
}

/// Lines of the verifier's log that are shown: the reason is at its end.
const VERIFIER_LINES: usize = 6;

/// Whether there is one already.
pub(super) fn taken(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

pub(super) fn attach_error(interface: &str, error: ProgramError) -> NatError {
    let source = match error {
        ProgramError::SyscallError(error) => error.io_error,
        ProgramError::TcError(TcError::IoError(error)) => error,
        ProgramError::TcError(TcError::NetlinkError(error)) => match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(error.to_string()),
        },
        error => io::Error::other(error.to_string()),
    };
    let remedy = match source.raw_os_error() {
        Some(libc::ENODEV) => "name an interface that exists",
        Some(libc::EPERM | libc::EACCES) => "give the process CAP_NET_ADMIN",
        Some(libc::EEXIST | libc::EBUSY) => {
            "another process has its filter in our place; stop it or remove the filter"
        }
        _ => "see what else is attached there (tc filter show, bpftool net)",
    };
    NatError::Attach {
        interface: interface.to_owned(),
        source,
        remedy,
    }
}
