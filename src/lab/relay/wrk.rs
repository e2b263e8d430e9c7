//! `wrk`, a load generator of others that keeps its connections: what it says of errors.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::lab::config::PORT;
use crate::lab::error::LabError;
use crate::lab::host::Host;
use crate::lab::topology::VIP4;

/// It ends by itself after this, should nobody end it. No run lasts longer.
const LONGEST: &str = "-d4h";
/// For it to say what it saw once it is told to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it saw.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Wrk {
    /// Answers.
    pub requests: u64,
    /// Connects, reads, writes and timeouts that failed, and answers other than 200.
    pub errors: u64,
}

/// It, at work. Killed when dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// Starts it on a host; none: it is not installed.
    pub(super) async fn start(host: &Host) -> Result<Option<Self>, LabError> {
        let mut command = Command::new("wrk");
        command
            .args(["-t1", "-c16", LONGEST, "--timeout", "3s"])
            .arg(format!("http://{VIP4}:{PORT}/"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        // SAFETY: prctl(2) is a bare system call, which is all that may happen between fork and
        // exec in a process with threads.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        match host.run(async move { command.spawn() }).await {
            Ok(child) => Ok(Some(Self(child))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LabError::io("start wrk")(error)),
        }
    }

    /// Ends it, and reads what it says.
    pub(super) async fn stop(self, host: &Host) -> Result<Wrk, LabError> {
        let what = || LabError::io("end wrk");
        let pid = self.0.id().ok_or(ErrorKind::NotFound);
        let pid = pid.map_err(|kind| what()(kind.into()))?;
        let pid = Pid::from_raw(i32::try_from(pid).expect("process ids are positive i32"));
        kill(pid, Signal::SIGINT).map_err(LabError::errno("end wrk"))?;
        let said = async move { timeout(PATIENCE, self.0.wait_with_output()).await? };
        let said = host.run(said).await.map_err(what())?;
        let text = String::from_utf8_lossy(&said.stdout);
        read(&text).ok_or_else(|| what()(ErrorKind::InvalidData.into()))
    }
}

/// From its words. It names errors only if there were any.
fn read(text: &str) -> Option<Wrk> {
    let number = |word: &str| {
        word.trim_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .ok()
    };
    let mut seen = None;
    let mut errors = 0;
    for line in text.lines().map(str::trim) {
        if let Some((requests, _)) = line.split_once(" requests in ") {
            seen = number(requests);
        } else if let Some(words) = line.strip_prefix("Socket errors:") {
            errors += words.split(',').filter_map(number).sum::<u64>();
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            errors += number(count)?;
        }
    }
    let requests = seen?;
    Some(Wrk { requests, errors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_are_understood() {
        let text = "Running 2m test @ http://192.0.2.100:80/\n  1 threads and 16 connections\n\
                    \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
                    \x20   Latency     1.20ms    2.00ms  40.00ms   90.00%\n\
                    \x20 6211 requests in 1.00s, 424.66KB read\n";
        let all_well = Wrk {
            requests: 6_211,
            errors: 0,
        };
        assert_eq!(read(text), Some(all_well));
        let text = format!(
            "{text}  Socket errors: connect 1, read 20, write 0, timeout 3\n\
             \x20 Non-2xx or 3xx responses: 5\nRequests/sec:   6200.00\n"
        );
        assert_eq!(read(&text).map(|wrk| wrk.errors), Some(29));
        assert_eq!(read("unable to connect to 192.0.2.100:80"), None);
    }
}
