//! The balancers that are compared, and what the kernel says they used.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::lab::error::LabError;
use crate::lab::host::Host;
use crate::lab::topology::{BACKENDS, backend_address};

/// Time for a balancer to answer after its start.
const START: Duration = Duration::from_secs(5);
/// Time between two looks at it meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What stands between client and backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Nothing.
    Direct,
    /// This program.
    Tandem,
    /// HAProxy in TCP mode, as it comes.
    Haproxy,
    /// HAProxy, told to splice always and through large pipes.
    Tuned,
    /// A router.
    Forward,
    /// A router that translates addresses, by nftables.
    Nft,
    /// This program with a standby, in proxy mode.
    Proxy,
    /// This program with a standby, in kernel mode.
    Async,
    /// The same; a new connection waits until the standby knows it.
    Sync,
    /// A pair of this program that does not relay.
    Without,
    /// The same pair with `cluster.relay`, as it comes.
    Relay,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tandem => "tandem",
            Self::Haproxy => "haproxy",
            Self::Tuned => "haproxy_tuned",
            Self::Forward => "forward",
            Self::Nft => "nft",
            Self::Proxy => "proxy",
            Self::Async => "async",
            Self::Sync => "sync",
            Self::Without => "without",
            Self::Relay => "relay",
        }
    }
}

/// One of them, running.
#[derive(Clone, Debug)]
pub(super) struct Rival {
    pub(super) kind: Kind,
    /// Where clients go.
    pub(super) to: Vec<SocketAddr>,
    pub(super) pid: Option<u32>,
}

/// Whose time on a CPU is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cost {
    /// The balancer's process's.
    Process,
    /// Everybody's who takes part, clients and servers included: the kernel forwards in the time of
    /// whoever sends. What else the machine does is not in it.
    Lab,
}

impl Rival {
    /// Time used so far.
    pub(super) fn used(&self, cost: Cost) -> Result<Duration, LabError> {
        match cost {
            Cost::Process => self.cpu(),
            Cost::Lab => lab().map_err(LabError::io("read the CPU time of the lab")),
        }
    }

    /// Time on a CPU of all its threads since its start, kernel's work for it included
    /// (`/proc/PID/schedstat` in proc(5)).
    fn cpu(&self) -> Result<Duration, LabError> {
        let Some(pid) = self.pid else {
            return Ok(Duration::ZERO);
        };
        let what = || LabError::io(format!("read the CPU time of {}", self.kind.name()));
        cpu(pid).map_err(what())
    }

    /// Bytes of memory that it has written to: program and libraries do not count.
    pub(super) fn memory(&self) -> Result<u64, LabError> {
        let Some(pid) = self.pid else {
            return Ok(0);
        };
        let what = || LabError::io(format!("read the memory of {}", self.kind.name()));
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(what())?;
        anonymous(&text).ok_or_else(|| what()(ErrorKind::InvalidData.into()))
    }
}

fn cpu(pid: u32) -> io::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let run = text.split(' ').next().and_then(|word| word.parse().ok());
        sum += run.unwrap_or(0_u64);
    }
    Ok(Duration::from_nanos(sum))
}

/// Time of this process, of all that descend from it, and of the threads in which the kernel
/// forwards what it puts off.
fn lab() -> io::Result<Duration> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // One that ended meanwhile, or no process at all.
        let text = fs::read_to_string(path.join("stat")).unwrap_or_default();
        processes.extend(Process::read(&text));
    }
    let mut family = vec![std::process::id()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        let children = processes.iter().filter(|p| p.parent == parent);
        family.extend(children.map(|process| process.pid));
        next += 1;
    }
    let softirqs = processes.iter().filter(|p| p.is_softirq);
    family.extend(softirqs.map(|process| process.pid));
    family.into_iter().map(cpu).sum()
}

/// A line of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Process {
    pid: u32,
    parent: u32,
    is_softirq: bool,
}

impl Process {
    fn read(text: &str) -> Option<Self> {
        // A name may hold blanks and brackets.
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let parent = rest.split(' ').nth(1)?.parse().ok()?;
        Some(Self {
            pid: pid.parse().ok()?,
            parent,
            // The kernel's own threads have the second process of all as their parent.
            is_softirq: parent == 2 && name.starts_with("ksoftirqd/"),
        })
    }
}

/// Time that all processors worked since the machine started.
pub(super) fn machine() -> Result<Duration, LabError> {
    let text = fs::read_to_string("/proc/stat");
    let time = text.and_then(|text| busy(&text).ok_or_else(|| ErrorKind::InvalidData.into()));
    time.map_err(LabError::io("read /proc/stat"))
}

/// Everything but idle, iowait and stolen time, in hundredths of a second (proc_stat(5)).
fn busy(text: &str) -> Option<Duration> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Option<Vec<u64>> = line.split_whitespace().map(|w| w.parse().ok()).collect();
    let times = times?;
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|n| times.get(*n)).sum();
    Some(Duration::from_millis(10 * busy))
}

fn anonymous(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The version of the installed HAProxy; none if there is none.
pub(super) fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().nth(2).map(str::to_owned)
}

/// A running HAProxy. Killed when dropped.
#[derive(Debug)]
pub(super) struct Haproxy(Child);

impl Haproxy {
    /// Starts it on this host and waits until `client` can connect to it. Its backends listen on
    /// port `to`.
    pub(super) async fn start(
        kind: Kind,
        dir: &Path,
        host: &Host,
        client: &Host,
        listen: SocketAddr,
        to: u16,
    ) -> Result<(Self, Rival), LabError> {
        let what = || LabError::io(format!("start {}", kind.name()));
        let file = dir.join(format!("{}.cfg", kind.name()));
        let log = dir.join(format!("{}.log", kind.name()));
        fs::write(&file, config(kind, listen, to, cpus())).map_err(what())?;
        let log = File::create(log).map_err(what())?;
        let mut command = Command::new("haproxy");
        command
            .args(["-db", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(what())?)
            .stderr(log);
        // SAFETY: prctl(2) is a bare system call, which is all that may happen between fork and
        // exec in a process with threads.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        let child = host.run(async move { command.spawn() }).await;
        let haproxy = Self(child.map_err(what())?);
        let deadline = Instant::now() + START;
        while client.run(TcpStream::connect(listen)).await.is_err() {
            if Instant::now() >= deadline {
                return Err(LabError::TooLate {
                    what: format!("the start of {}", kind.name()),
                    seconds: START.as_secs(),
                    state: fs::read_to_string(dir.join(format!("{}.log", kind.name())))
                        .unwrap_or_default(),
                });
            }
            sleep(LOOK).await;
        }
        let rival = Rival {
            kind,
            to: vec![listen],
            pid: Some(haproxy.0.id()),
        };
        Ok((haproxy, rival))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processors, which is also how many workers each balancer gets.
pub(super) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The same service as ours, with the same checks.
fn config(kind: Kind, listen: SocketAddr, to: u16, threads: usize) -> String {
    let (global, defaults) = match kind {
        Kind::Tuned => (
            "  tune.pipesize 262144\n",
            "  option splice-request\n  option splice-response\n",
        ),
        _ => ("", ""),
    };
    let mut text = format!(
        "global\n  nbthread {threads}\n  maxconn 5000\n{global}\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         {defaults}\
         frontend front\n  bind {listen}\n  default_backend back\n\
         backend back\n  balance roundrobin\n"
    );
    for n in 0..BACKENDS {
        let address = backend_address(n);
        text += &format!("  server b{n} {address}:{to} check inter 250ms\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  19 kB\nAnonymous:    12 kB\n";
        assert_eq!(anonymous(text), Some(12 << 10));
        assert_eq!(anonymous("Rss: 1 kB\n"), None);
        let text = "cpu  10 2 3 1000 50 4 1 70 5 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(busy(text), Some(Duration::from_millis(200)));
        assert_eq!((busy("cpu"), busy("cpu  x\n")), (None, None));
        let mine = std::process::id();
        assert!(cpu(mine).unwrap() > Duration::ZERO);
        assert!(lab().unwrap() >= cpu(mine).unwrap() / 2);
        let process = |pid, parent, is_softirq| Process {
            pid,
            parent,
            is_softirq,
        };
        for (text, wanted) in [
            ("7 (a) b (c) S 5 7 7 0", Some(process(7, 5, false))),
            ("14 (ksoftirqd/0) S 2 0 0", Some(process(14, 2, true))),
            ("15 (ksoftirqd/0) S 3 0 0", Some(process(15, 3, false))),
            ("7 (a", None),
            ("", None),
        ] {
            assert_eq!(Process::read(text), wanted, "{text}");
        }
    }

    #[test]
    fn only_the_tuned_one_is_tuned() {
        let listen = "192.0.2.12:80".parse().unwrap();
        assert!(!config(Kind::Haproxy, listen, 80, 2).contains("splice"));
        let tuned = config(Kind::Tuned, listen, 80, 2);
        assert!(tuned.contains("splice-response") && tuned.contains("tune.pipesize"));
    }
}
