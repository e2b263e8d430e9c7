//! How the program knows that the process which leads it has died: it goes on without us, and must
//! not take a dead node for the master.
//!
//! | sign | how | when |
//! |---|---|---|
//! | pulse | a socket of ours in a SOCKMAP: closing it removes it | once its files are closed: after the memory is given back (27 ms for each GB), and after every higher descriptor |
//! | watch | a tracepoint of the main thread's exit | tens of microseconds after a SIGKILL |
//!
//! A process that hangs has both signs of life; that is what the lease is for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use aya::Ebpf;
use aya::maps::{Array, Map, MapError, SockMap};
use aya::programs::RawTracePoint;
use socket2::{Domain, Socket, Type};

use super::error::NatError;
use super::layout::Life;
use super::tables::map_error;

/// The program behind `watch`, and where the kernel calls it.
const PROGRAM: &str = "tandem_sign";
const TRACEPOINT: &str = "sched_process_exit";
/// Files of a dying process are closed from the highest descriptor down: the pulse ends before most.
const HIGH: libc::c_int = 4_000;

/// The socket.
#[derive(Debug)]
pub(super) struct Pulse {
    _socket: OwnedFd,
}

impl Pulse {
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self, NatError> {
        let socket = quiet().and_then(high).map_err(|error| NatError::Other {
            what: "open a socket as sign of life",
            reason: error.to_string(),
        })?;
        let map: Result<SockMap<_>, MapError> = found(ebpf, "pulse")?.try_into();
        let mut map = map.map_err(map_error("open a table"))?;
        let set = map.set(0, &socket, 0);
        set.map_err(map_error("give a sign of life"))?;
        Ok(Self { _socket: socket })
    }
}

/// A UDP socket that nobody can reach. It has to be bound: the map takes no other.
fn quiet() -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind_device(Some(b"lo"))?;
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
    socket.bind(&any.into())?;
    Ok(socket.into())
}

/// The same socket at a high descriptor, where the limit allows one.
fn high(socket: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor is open.
    let moved = unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) };
    if moved < 0 {
        return match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINVAL | libc::EMFILE) => Ok(socket),
            _ => Err(io::Error::last_os_error()),
        };
    }
    // SAFETY: fcntl made it just now, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Has the program notice the end of this process's main thread. Why it will not, if it will not.
pub(super) fn watch(ebpf: &mut Ebpf) -> Result<(), String> {
    write(ebpf).map_err(|error| error.to_string())?;
    let program = ebpf.program_mut(PROGRAM);
    let program: &mut RawTracePoint = program
        .ok_or_else(|| format!("the object has no program {PROGRAM}"))?
        .try_into()
        .map_err(|error: aya::programs::ProgramError| error.to_string())?;
    if program.fd().is_ok() {
        return Ok(());
    }
    let watched = program.load().and_then(|()| program.attach(TRACEPOINT));
    watched.map(drop).map_err(|error| {
        format!("no tracepoint {TRACEPOINT}: {error}; give the process CAP_PERFMON and CAP_BPF")
    })
}

/// Who we are. What the process before left unanswered, a walk through the flows finds; its sign of
/// death goes last.
fn write(ebpf: &mut Ebpf) -> Result<(), NatError> {
    let other = |error: io::Error| NatError::Other {
        what: "find this process's namespace",
        reason: error.to_string(),
    };
    let namespace = std::fs::metadata("/proc/self/ns/pid").map_err(other)?;
    let life = Life {
        dev: namespace.dev(),
        ino: namespace.ino(),
        pid: std::process::id(),
        dead: 0,
    };
    let map: Result<Array<_, u64>, MapError> = found(ebpf, "opened")?.try_into();
    let mut map = map.map_err(map_error("open a table"))?;
    map.set(0, 0, 0).map_err(map_error("say who leads"))?;
    let map: Result<Array<_, Life>, MapError> = found(ebpf, "life")?.try_into();
    let mut map = map.map_err(map_error("open a table"))?;
    map.set(0, life, 0).map_err(map_error("say who leads"))
}

fn found<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Map, NatError> {
    ebpf.map_mut(name).ok_or_else(|| NatError::Other {
        what: "read the program's object",
        reason: format!("it has no map {name}"),
    })
}
