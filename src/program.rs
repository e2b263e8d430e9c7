//! A program that a node runs and that must not get in its way.
//!
//! It runs as the user of this process, without a shell, with an environment of its own, in a process
//! group of its own; the whole group is killed when it has written too much, when it has ended and left
//! something behind, and when whoever waits for it gives up.

use std::io;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process;

use crate::config::Command;

/// Where programs that a program calls are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// Why there is no result.
#[derive(Debug)]
pub enum Trouble {
    /// This host is out of descriptors, processes or memory.
    NoRoom,
    /// It cannot be run.
    NotRun(io::Error),
    /// It wrote more than it may.
    TooMuch,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code or signal.
    pub status: ExitStatus,
    /// What it wrote.
    pub written: Vec<u8>,
}

impl Ended {
    /// How, in words: `exit code 3`, `signal: 9 (SIGKILL)`.
    pub fn how(&self) -> String {
        let how = self.status.to_string();
        match how.strip_prefix("exit status: ") {
            Some(code) => format!("exit code {code}"),
            None => how,
        }
    }

    /// Its first line that says something.
    pub fn first_line(&self) -> Option<&[u8]> {
        let mut lines = self.written.split(|byte| *byte == b'\n');
        lines.find(|line| !line.is_empty())
    }
}

/// Runs it to its end, with these variables. Dropping the future kills it.
///
/// # Errors
///
/// See [`Trouble`].
pub async fn run(
    command: &Command,
    environment: &[(&'static str, String)],
) -> Result<Ended, Trouble> {
    // One pipe for both, so that what is shown is what came first.
    let pipes = || {
        let (writer, output) = pipe::pipe()?;
        let writer = writer.into_blocking_fd()?;
        Ok::<_, io::Error>((output, writer.try_clone()?, writer))
    };
    let (mut output, out, err) = pipes().map_err(|_| Trouble::NoRoom)?;
    let mut child = {
        let mut command_line = process::Command::new(&command.argv[0]);
        command_line
            .args(&command.argv[1..])
            .env_clear()
            .env("PATH", PATH)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .kill_on_drop(true);
        command_line
            .spawn()
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Trouble::NoRoom,
                _ => Trouble::NotRun(error),
            })?
    };
    let _group = Group(child.id().map(|id| Pid::from_raw(id.cast_signed())));

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
            true => return Err(Trouble::TooMuch),
            false => child.wait().await,
        },
        status = child.wait() => status,
    };
    let status = status.map_err(|_| Trouble::NoRoom)?;
    Ok(Ended { status, written })
}
