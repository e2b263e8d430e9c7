//! A node of the pair: the real program in a process of its own, in its host's namespace.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::config::{CONFIG_FILE, NODES};
use super::error::LabError;
use super::host::Host;
use crate::control::client;
use crate::model::NodeId;
use crate::net::clock::Clock;
use crate::status::{Event, Status};
use crate::time::Mono;
use crate::wire::admin::{Request, Response};

/// Time between two looks at a process that ends.
const LOOK: Duration = Duration::from_millis(1);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 12;

/// A node that runs, or ran. Killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    id: NodeId,
    dir: PathBuf,
    binary: PathBuf,
    /// The configuration's file, in the directory.
    config: String,
    /// Where it pins its programs, if it has any.
    pins: Option<PathBuf>,
    child: Option<Child>,
    /// A signal was sent that may end it.
    harmed: bool,
}

impl NodeProcess {
    pub(super) fn new(id: NodeId, dir: &Path, binary: &Path) -> Self {
        Self {
            id,
            dir: dir.to_owned(),
            binary: binary.to_owned(),
            config: CONFIG_FILE.to_owned(),
            pins: None,
            child: None,
            harmed: false,
        }
    }

    /// Its name in the configuration.
    pub const fn name(&self) -> &'static str {
        NODES[self.id.index()]
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}.sock", self.name()))
    }

    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name()))
    }

    /// From its next start on it reads this file, in the lab's directory.
    pub(super) fn read_from(&mut self, file: &str) {
        file.clone_into(&mut self.config);
    }

    /// From its next start on it pins its programs and maps in this directory.
    pub(super) fn pin_to(&mut self, dir: PathBuf) {
        self.pins = Some(dir);
    }

    /// Starts the program, unless it runs.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub async fn start(&mut self, host: &Host) -> Result<(), LabError> {
        if self.is_running() {
            return Ok(());
        }
        let what = format!("start {} as {}", self.binary.display(), self.name());
        let mut command = self.command().map_err(LabError::io(&*what))?;
        // The host's thread lives in the namespace, and so do its children. They get the death
        // signal when that thread ends, which is when the lab does.
        let child = host.run(async move { command.spawn() }).await;
        self.child = Some(child.map_err(LabError::io(what))?);
        self.harmed = false;
        Ok(())
    }

    fn command(&self) -> io::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        if let Some(dir) = &self.pins {
            fs::create_dir_all(dir)?;
        }
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--config", &self.config, "--node", self.name()])
            .arg("--control")
            .arg(self.socket())
            .arg("--state")
            .arg(self.dir.join(format!("{}.state", self.name())))
            .args(
                self.pins
                    .iter()
                    .flat_map(|dir| [OsStr::new("--pins"), dir.as_os_str()]),
            )
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: prctl(2) is a bare system call, which is all that may happen between fork and
        // exec in a process with threads.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        Ok(command)
    }

    /// Whether the process is there, running or stopped.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// How it ended, if it did so although no signal was sent to it.
    pub(super) fn ended_by_itself(&mut self) -> Option<String> {
        let status = self.ended().filter(|_| !self.harmed)?;
        Some(match status.signal() {
            Some(signal) => format!("{} ended by signal {signal}", self.name()),
            None => format!("{} ended with {status}", self.name()),
        })
    }

    /// Process id, while it runs.
    pub fn pid(&mut self) -> Option<u32> {
        self.is_running()
            .then(|| self.child.as_ref().map(Child::id))?
    }

    /// Waits for the end of the process, with all its threads and everything that it held; when
    /// that was, to a millisecond or two.
    pub(super) fn death(&mut self, clock: Clock) -> impl Future<Output = Mono> + Send + use<> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok());
        async move {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            // Whoever waits for it in earnest shall find it, so this only looks.
            while let Some(pid) = pid
                && waitid(Id::Pid(Pid::from_raw(pid)), flags) == Ok(WaitStatus::StillAlive)
            {
                sleep(LOOK).await;
            }
            clock.now()
        }
    }

    /// Sends a signal: `SIGKILL` (power off), `SIGSTOP` (hang), `SIGCONT`, `SIGTERM` (stop).
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        let what = format!("send {signal} to {}", self.name());
        // Not yet waited for, so that the number cannot have been given to another process.
        let pid = self.pid().ok_or(io::ErrorKind::NotFound);
        let pid = pid.map_err(|kind| LabError::io(&*what)(kind.into()))?;
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are positive i32"));
        self.harmed |= signal != Signal::SIGCONT;
        kill(pid, signal).map_err(LabError::errno(what))
    }

    /// An error, if it ended although nobody ended it.
    pub(super) fn check(&mut self) -> Result<(), LabError> {
        let Some(status) = self.ended() else {
            return Ok(());
        };
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        Err(LabError::NodeEnded {
            node: self.name().to_owned(),
            status: match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("{status}"),
            },
            log: lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"),
        })
    }

    /// Sends a request to its control socket.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, or refuses.
    pub async fn call(&self, request: &Request) -> Result<Response, LabError> {
        let (socket, request) = (self.socket(), request.clone());
        // The client blocks, and a node that hangs would hold up the lab.
        let answer = spawn_blocking(move || client::call(&socket, &request)).await;
        match answer.expect("the client does not panic")? {
            Response::Error { message } => Err(self.refused(message)),
            response => Ok(response),
        }
    }

    /// What it says of itself and of its peer.
    ///
    /// # Errors
    ///
    /// If it cannot be reached.
    pub async fn status(&self) -> Result<Status, LabError> {
        match self.call(&Request::Status).await? {
            Response::Status { status } => Ok(*status),
            other => Err(self.refused(format!("{other:?}"))),
        }
    }

    /// Its timeline, oldest first.
    ///
    /// # Errors
    ///
    /// If it cannot be reached.
    pub async fn events(&self) -> Result<Vec<Event>, LabError> {
        match self.call(&Request::Events).await? {
            Response::Events { events } => Ok(events),
            other => Err(self.refused(format!("{other:?}"))),
        }
    }

    fn refused(&self, message: String) -> LabError {
        let node = self.name().to_owned();
        LabError::Refused { node, message }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
