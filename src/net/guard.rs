//! What keeps a stalled or dying process from harming the pair: the dead-man timer, and the limits
//! that make death quick and the turn loop punctual.
//!
//! Owns: the timer, the process's limits, a thread's scheduling. Never: decides when the node is
//! alive. Nothing here is fatal except a dead-man timer that cannot be armed: what the host does
//! not permit is given back as text for the log.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Kills this process, by the kernel's hand, when nobody says for a while that it is alive.
///
/// A POSIX timer whose signal is `SIGKILL` (timer_create(2)): it needs no thread of ours to run, so
/// it ends even a stopped process, and with the process go its floating addresses. A hang is then
/// the same as a crash. Counts `CLOCK_MONOTONIC`, so a suspended host does not kill on waking.
#[derive(Debug)]
pub struct DeadMan {
    timer: libc::timer_t,
    limit: libc::itimerspec,
}

// SAFETY: a timer id belongs to the process (timer_create(2)), not to a thread, and is only read.
unsafe impl Send for DeadMan {}
// SAFETY: as above; timer_settime(2) is thread-safe (attributes(7)).
unsafe impl Sync for DeadMan {}

impl DeadMan {
    /// Arms the timer: from now on [`alive`](Self::alive) must be called within each `limit`.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a limit of zero, which would disarm it; otherwise the errno of
    /// timer_create(2).
    pub fn arm(limit: Duration) -> io::Result<Self> {
        if limit.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the dead-man timer needs a limit above zero",
            ));
        }
        // SAFETY: all-zero bytes are a valid sigevent.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to live values of the right type.
        let created =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        Errno::result(created)?;
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let dead_man = Self {
            timer,
            limit: libc::itimerspec {
                it_interval: zero,
                it_value: libc::timespec {
                    tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                    tv_nsec: limit.subsec_nanos().into(),
                },
            },
        };
        dead_man.set()?;
        Ok(dead_man)
    }

    /// The process has made progress: the time begins anew.
    pub fn alive(&self) {
        // It was set once with the same arguments, so it can be again; if not, it fires, and that
        // is the safe side.
        let _ = self.set();
    }

    fn set(&self) -> io::Result<()> {
        // SAFETY: the timer lives until drop; the old value is not asked for.
        let set =
            unsafe { libc::timer_settime(self.timer, 0, &raw const self.limit, ptr::null_mut()) };
        Errno::result(set)?;
        Ok(())
    }
}

impl Drop for DeadMan {
    fn drop(&mut self) {
        // SAFETY: made by timer_create, and deleted only here.
        unsafe { libc::timer_delete(self.timer) };
    }
}

/// What [`prepare`] reached.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prepared {
    /// Descriptors that the process may open now.
    pub descriptors: u64,
    /// What was not possible, each with the remedy.
    pub shortfalls: Vec<String>,
}

/// Sets the process's limits. Once, early, before descriptors are placed and threads started.
///
/// * Descriptors: up to the hard limit.
/// * No core dump: the addresses of a dying process live as long as its dump is written.
/// * Memory locked, so that the turn loop never waits for a disk. Pages are locked when they are
///   first touched (`MCL_ONFAULT`), which keeps the process small, and with it its death short.
pub fn prepare() -> Prepared {
    let mut prepared = Prepared::default();
    let mut attempt = |what: &str, result: nix::Result<()>, remedy: &str| {
        if let Err(errno) = result {
            let text = format!("{what}: {}; {remedy}", errno.desc());
            prepared.shortfalls.push(text);
        }
    };
    attempt(
        "cannot raise the limit of open files",
        raise(Resource::RLIMIT_NOFILE),
        "set LimitNOFILE in the unit file",
    );
    attempt(
        "cannot switch core dumps off",
        setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| prctl::set_dumpable(false)),
        "set LimitCORE=0 in the unit file; a crash takes longer to be noticed",
    );
    attempt(
        "cannot lock memory",
        lock_memory(),
        "set LimitMEMLOCK=infinity in the unit file; heartbeats may be late while the host swaps",
    );
    prepared.descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    prepared
}

fn raise(limit: Resource) -> nix::Result<()> {
    let (_, hard) = getrlimit(limit)?;
    setrlimit(limit, hard, hard)
}

/// Only without a limit: under one, a later allocation would fail instead.
fn lock_memory() -> nix::Result<()> {
    if getrlimit(Resource::RLIMIT_MEMLOCK)?.0 != RLIM_INFINITY {
        setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault)
}

/// Wakes the calling thread within a microsecond of its timers, and gives it real-time priority
/// (`SCHED_FIFO`, 1 to 99; sched(7)). Threads and processes that it starts do not inherit either.
///
/// # Errors
///
/// What was not possible, with the remedy; the thread runs on as it was.
pub fn real_time(priority: i32) -> Result<(), String> {
    // Of ordinary scheduling; a real-time thread has none.
    prctl::set_timerslack(1).map_err(|errno| format!("cannot set the timer slack: {errno}"))?;
    let param = libc::sched_param {
        sched_priority: priority,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the pointer is to a live value; 0 is the calling thread.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    Errno::result(set).map(drop).map_err(|errno| {
        format!(
            "no real-time priority: {}; set LimitRTPRIO={priority} or CAP_SYS_NICE in the unit \
             file; until then do not set heartbeat x misses below 250 ms",
            errno.desc()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus, Stdio};
    use std::thread::sleep;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    /// Set in children: which part they play.
    const PART: &str = "TANDEM_TEST_GUARD";
    /// How a child says that it played its part to the end.
    const PLAYED: i32 = 42;
    const LIMIT: Duration = Duration::from_millis(500);

    /// This same test in a process of its own. The clean-up kills only our own child.
    fn child(test: &str, part: &str) -> std::process::Child {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                &format!("net::guard::tests::{test}"),
            ])
            .env(PART, part)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The calling thread's real-time priority; `None` if it has ordinary scheduling.
    fn priority() -> Option<i32> {
        // SAFETY: takes no pointer; 0 is the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        if policy & !libc::SCHED_RESET_ON_FORK != libc::SCHED_FIFO {
            return None;
        }
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is to a live value.
        let got = unsafe { libc::sched_getparam(0, &raw mut param) };
        (got == 0).then_some(param.sched_priority)
    }

    fn part() -> Option<String> {
        std::env::var(PART).ok()
    }

    fn within(seconds: u32, child: &mut std::process::Child) -> Option<ExitStatus> {
        for _ in 0..seconds * 100 {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status);
            }
            sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    #[test]
    fn a_stopped_process_dies() {
        if part().is_some() {
            let dead_man = DeadMan::arm(LIMIT).unwrap();
            loop {
                dead_man.alive();
                sleep(LIMIT / 50);
            }
        }
        let mut child = child("a_stopped_process_dies", "alive");
        // Several limits long it says that it lives.
        sleep(LIMIT * 3);
        assert_eq!(child.try_wait().unwrap(), None);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGSTOP).unwrap();
        let status = within(10, &mut child).expect("it is stopped and lives");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn dropping_the_timer_disarms_it() {
        if part().is_some() {
            drop(DeadMan::arm(Duration::from_millis(50)).unwrap());
            sleep(Duration::from_millis(300));
            std::process::exit(PLAYED);
        }
        let mut child = child("dropping_the_timer_disarms_it", "drop");
        assert_eq!(within(10, &mut child).unwrap().code(), Some(PLAYED));
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        let error = DeadMan::arm(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn limits_are_set_or_spoken_of() {
        // In a process of its own, since it changes the process.
        if part().is_none() {
            let mut child = child("limits_are_set_or_spoken_of", "limits");
            assert_eq!(within(20, &mut child).unwrap().code(), Some(PLAYED));
            return;
        }
        let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
        let prepared = prepare();
        assert_eq!(prepared.descriptors, hard);
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        assert!(!prctl::get_dumpable().unwrap());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status
            .lines()
            .find(|line| line.starts_with("VmLck:"))
            .and_then(|line| line.split_whitespace().nth(1))
            .unwrap()
            .to_owned();
        assert_eq!(
            locked == "0",
            prepared.shortfalls.len() == 1,
            "{prepared:?}"
        );
        std::process::exit(PLAYED);
    }

    #[test]
    fn real_time_is_for_this_thread_only() {
        std::thread::spawn(|| {
            assert_eq!(priority(), None);
            match real_time(3) {
                Ok(()) => {
                    assert_eq!(priority(), Some(3));
                    assert_eq!(std::thread::spawn(priority).join().unwrap(), None);
                }
                Err(text) => {
                    eprintln!("SKIPPED, needs CAP_SYS_NICE: {text}");
                    assert!(text.contains("LimitRTPRIO=3"));
                }
            }
        })
        .join()
        .unwrap();
    }
}
