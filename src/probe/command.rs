//! A program that checks: good is an exit code of 0.
//!
//! It runs as the user of this process, without a shell, with an environment of its own, in a process
//! group of its own; the whole group is killed when it has had its time, has written too much, or
//! has ended and left something behind.

use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process;

use super::plan::Case;
use super::progress::{Fail, Progress};
use crate::config::Command;
use crate::health::probe::{ProbeRequest, quoted};
use crate::model::BackendAddress;

/// Where programs that a program calls are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of its first line that an operator sees.
const SHOWN: usize = 80;

/// A process group that does not outlive this value.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already, mostly. A number is not given out again before all others were.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

pub(super) async fn check(
    command: &Command,
    case: &Case,
    request: &ProbeRequest,
    progress: &mut Progress,
) -> Result<(), Fail> {
    let program = &command.argv[0];
    // One pipe for both, so that what is shown is what came first.
    let pipes = || {
        let (writer, output) = pipe::pipe()?;
        let writer = writer.into_blocking_fd()?;
        Ok::<_, std::io::Error>((output, writer.try_clone()?, writer))
    };
    let (mut output, out, err) = pipes().map_err(|_| Fail::NoSocket)?;
    let mut child = {
        let (address, port) = match &request.address {
            BackendAddress::Tcp(at) => (at.ip().to_string(), at.port().to_string()),
            BackendAddress::Unix(path) => (path.to_string(), String::new()),
        };
        let mut command_line = process::Command::new(program);
        command_line
            .args(&command.argv[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("TANDEM_SERVICE", &case.plan.service)
            .env("TANDEM_BACKEND", &case.name)
            .env("TANDEM_ADDRESS", address)
            .env("TANDEM_PORT", port)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true);
        command_line
            .spawn()
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Fail::NoSocket,
                _ => Fail::Wrong(format!("{program} cannot be run: {error}")),
            })?
    };
    let _group = Group(child.id().map(|id| Pid::from_raw(id.cast_signed())));
    progress.waits(format!("{program} did not end"));

    let limit = command.output_limit as usize;
    let mut written = Vec::new();
    let read = async {
        let mut part = (&mut output).take(limit as u64 + 1);
        while part.read_buf(&mut written).await.is_ok_and(|got| got > 0) {}
        written.len() > limit
    };
    // What it leaves behind may keep the pipe open: its own end is the end.
    let status = tokio::select! {
        biased;
        too_much = read => match too_much {
            true => return Err(Fail::Wrong(format!("{program} wrote more than {limit} bytes"))),
            false => child.wait().await,
        },
        status = child.wait() => status,
    };
    let status = status.map_err(|_| Fail::NoSocket)?;
    if status.success() {
        return Ok(());
    }
    let how = status.to_string();
    let how = how
        .strip_prefix("exit status: ")
        .map_or_else(|| how.clone(), |code| format!("exit code {code}"));
    let first = written
        .split(|byte| *byte == b'\n')
        .find(|line| !line.is_empty());
    Err(Fail::Wrong(match first {
        Some(line) => format!("{how}: {}", quoted(line, SHOWN)),
        None => how,
    }))
}
