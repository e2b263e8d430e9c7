//! The program in the kernel: loading, attaching, and what went wrong.

use std::fmt;
use std::io;
use std::time::Duration;

use aya::maps::MapError;
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
    qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader, TestRun, TestRunOptions};

use super::tables::Tables;

/// The compiled program; `.ci/bpf` makes it from its sources and compares.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!("bpf/nat.bpf.o");

const PROGRAM: &str = "tandem_nat";
/// The filter's place where tcx is missing: ahead of others', and easy to recognise.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0x7a, 0x7a);

/// How large the maps are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// Connections; each takes two entries of 208 bytes, allocated at once.
    pub flows: u32,
    /// Slots of all services; two parts a service, so that one can be filled while the other is
    /// read.
    pub slots: u32,
    /// Backends of all services.
    pub backends: u32,
    /// Bytes of the ring of events: a power of two and of pages. A connection takes about
    /// 660, with a SYN-ACK that waits about 800.
    pub events: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: 65_536,
            slots: 65_344,
            backends: 4_096,
            events: 4 << 20,
        }
    }
}

/// Where the kernel calls the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// Linux 6.6 and later. Ends with its link.
    Tcx,
    /// The classic way. Outlives a process that is killed.
    Clsact,
}

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
    /// Something else.
    #[error("cannot {what}: {reason}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// The loaded program and its maps. Dropping it detaches.
pub struct Nat {
    ebpf: Ebpf,
    /// Its maps.
    pub tables: Tables,
    attached: Vec<(String, Hook, SchedClassifierLinkId)>,
}

impl fmt::Debug for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.attached.iter().map(|(name, hook, _)| (name, hook));
        f.debug_map().entries(places).finish()
    }
}

impl Nat {
    /// Makes the maps and loads the program. The lease is at 0: nothing is forwarded yet.
    ///
    /// # Errors
    ///
    /// What is missing, and what to do.
    pub fn load(sizes: &Sizes) -> Result<Self, NatError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("flows", sizes.flows.saturating_mul(2))
            .map_max_entries("slots", sizes.slots)
            .map_max_entries("backends", sizes.backends)
            .map_max_entries("ports", sizes.backends)
            .map_max_entries("events", sizes.events)
            .load(OBJECT)
            .map_err(load_error)?;
        let tables = Tables::take(&mut ebpf)?;
        let mut nat = Self {
            ebpf,
            tables,
            attached: Vec::new(),
        };
        nat.program()?
            .load()
            .map_err(|error| program_error("load the program", error))?;
        Ok(nat)
    }

    pub(super) fn program(&mut self) -> Result<&mut SchedClassifier, NatError> {
        let missing = || NatError::Other {
            what: "load the program",
            reason: format!("the object has no classifier {PROGRAM}"),
        };
        let program = self.ebpf.program_mut(PROGRAM).ok_or_else(missing)?;
        program.try_into().map_err(|_| missing())
    }

    /// Runs the program on a frame, and sends nothing (`BPF_PROG_TEST_RUN`). What the program
    /// returned, and the frame as it left it.
    ///
    /// # Errors
    ///
    /// The kernel wants at least an IP header, and at most a page.
    pub fn try_frame(&mut self, frame: &[u8]) -> Result<(i32, Vec<u8>), NatError> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let ran = self.program()?.test_run(options);
        let ran = ran.map_err(|error| program_error("try a frame", error))?;
        Ok((ran.return_value.cast_signed(), out))
    }

    /// Runs the program so many times, on one frame as the run before left it. What the last run
    /// returned, and how long one took on average.
    ///
    /// # Errors
    ///
    /// As [`try_frame`](Self::try_frame).
    pub fn time_frame(&mut self, frame: &[u8], runs: u32) -> Result<(i32, Duration), NatError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: runs,
            ..TestRunOptions::default()
        };
        let ran = self.program()?.test_run(options);
        let ran = ran.map_err(|error| program_error("time a frame", error))?;
        Ok((ran.return_value.cast_signed(), ran.duration))
    }

    /// Has the kernel call the program for what comes in by this interface: by tcx, or where the
    /// kernel has none, by a filter of a clsact queueing discipline.
    ///
    /// # Errors
    ///
    /// [`NatError::Attach`].
    pub fn attach(&mut self, interface: &str) -> Result<Hook, NatError> {
        match self.attach_by(interface, Hook::Tcx) {
            Err(NatError::Attach { source, .. })
                if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                self.attach_by(interface, Hook::Clsact)
            }
            attached => attached,
        }
    }

    /// [`attach`](Self::attach) in this way and no other.
    ///
    /// # Errors
    ///
    /// [`NatError::Attach`].
    pub fn attach_by(&mut self, interface: &str, hook: Hook) -> Result<Hook, NatError> {
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Hook::Clsact => {
                if let Err(error) = qdisc_add_clsact(interface)
                    && !taken(&error)
                {
                    return Err(attach_error(interface, error.into()));
                }
                TcAttachOptions::Netlink(NlOptions {
                    priority: PRIORITY,
                    handle: HANDLE,
                    classid: None,
                })
            }
        };
        let program = self.program()?;
        let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
        let attached = match attached {
            // A life before this one was killed: its filter is replaced in one step.
            Err(ProgramError::TcError(error)) if taken(&error) => {
                let ingress = TcAttachType::Ingress;
                SchedClassifierLink::attached(interface, ingress, PRIORITY, HANDLE, None)
                    .map_err(|error| ProgramError::TcError(TcError::IoError(error)))
                    .and_then(|stale| program.attach_to_link(stale))
            }
            attached => attached,
        };
        let link = attached.map_err(|error| attach_error(interface, error))?;
        self.attached.push((interface.to_owned(), hook, link));
        Ok(hook)
    }

    /// Takes the program off every interface.
    ///
    /// # Errors
    ///
    /// The first interface that did not let it go; the others are done nevertheless.
    pub fn detach(&mut self) -> Result<(), NatError> {
        let mut first = Ok(());
        for (interface, _, link) in std::mem::take(&mut self.attached) {
            let detached = self
                .program()?
                .detach(link)
                .map_err(|error| attach_error(&interface, error));
            first = first.and(detached);
        }
        first
    }
}

fn by_errno(what: &'static str, source: io::Error) -> NatError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NatError::NotAllowed { what, source },
        Some(libc::ENOMEM | libc::E2BIG) => NatError::NoMemory { what, source },
        _ => NatError::Missing { what, source },
    }
}

fn load_error(error: EbpfError) -> NatError {
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) => {
            by_errno("make the tables", io_error)
        }
        EbpfError::MapError(MapError::SyscallError(error)) => {
            by_errno("make the tables", error.io_error)
        }
        EbpfError::ProgramError(error) => program_error("load the program", error),
        error => NatError::Other {
            what: "read the program's object",
            reason: chain(&error),
        },
    }
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn program_error(what: &'static str, error: ProgramError) -> NatError {
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
fn taken(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

fn attach_error(interface: &str, error: ProgramError) -> NatError {
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
