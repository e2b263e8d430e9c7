//! The clients of a measurement: what they do, and what they count.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::lean::{self, Worker};
use super::server::{ANSWER, Block, DOWN, Drain, KEEP, UP};
use crate::lab::error::LabError;
use crate::lab::host::Host;

/// Connections that ask at a fixed rate, together 2,000 times a second, and the time between two
/// requests on one of them.
const PACED: usize = 20;
const PACE: Duration = Duration::from_millis(10);

/// What clients do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Receive bytes.
    Down,
    /// Send bytes.
    Up,
    /// Ask again as soon as they are answered.
    Requests,
    /// Open a connection, ask, read the answer, reset it; again.
    Connections,
    /// Ask 2,000 times a second.
    Paced,
}

/// So many of one kind, at the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) kind: Kind,
    pub(super) clients: usize,
}

impl Work {
    /// [`Kind::Paced`] comes in a fixed number.
    pub(super) const PACED: Self = Self::new(Kind::Paced, PACED);

    pub(super) const fn new(kind: Kind, clients: usize) -> Self {
        Self { kind, clients }
    }
}

/// What they count.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Bytes, requests or connections.
    amount: AtomicU64,
    /// From request to answer.
    latencies: Mutex<Vec<Duration>>,
    trouble: Mutex<Option<io::Error>>,
}

impl Meter {
    pub(super) fn amount(&self) -> u64 {
        self.amount.load(Ordering::Relaxed)
    }

    /// Those since the last call.
    pub(super) fn latencies(&self) -> Vec<Duration> {
        std::mem::take(
            &mut *self
                .latencies
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The first error, once.
    pub(super) fn trouble(&self) -> Option<io::Error> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take()
    }

    pub(super) fn answered(&self, asked: Instant) {
        self.add(1);
        let mut latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        latencies.push(asked.elapsed());
    }

    /// Only the first one is kept.
    pub(super) fn fail(&self, error: io::Error) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.get_or_insert(error);
    }

    fn add(&self, amount: usize) {
        self.amount.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

/// Clients at work. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) meter: Arc<Meter>,
    tasks: JoinSet<()>,
    /// Does the work of [`Kind::Connections`].
    _worker: Option<Worker>,
}

impl Clients {
    /// Starts them on this host. They take turns among the addresses.
    pub(super) async fn start(
        host: &Host,
        work: Work,
        to: &[SocketAddr],
        block: &Block,
    ) -> Result<Self, LabError> {
        let meter = Arc::<Meter>::default();
        let mut tasks = JoinSet::new();
        if work.kind == Kind::Connections {
            let worker = lean::connections(host, work.clients, to, Arc::clone(&meter)).await;
            let worker = worker.map_err(LabError::io("start the thread that connects"))?;
            return Ok(Self {
                meter,
                tasks,
                _worker: Some(worker),
            });
        }
        for (n, address) in (0..work.clients).zip(to.iter().copied().cycle()) {
            let (meter, block) = (Arc::clone(&meter), block.clone());
            let client = async move {
                let Err(error) = client(work.kind, n, address, &block, &meter).await else {
                    return;
                };
                meter.fail(error);
            };
            tasks.spawn_on(client, host.runtime());
        }
        Ok(Self {
            meter,
            tasks,
            _worker: None,
        })
    }

    /// Ends them; when this returns, their sockets are closed.
    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn client(
    kind: Kind,
    n: usize,
    address: SocketAddr,
    block: &Block,
    meter: &Meter,
) -> io::Result<()> {
    match kind {
        Kind::Down => receive(address, meter).await,
        Kind::Up => send(address, block, meter).await,
        Kind::Requests => {
            let mut stream = connect(address).await?;
            loop {
                let asked = Instant::now();
                ask(&mut stream).await?;
                meter.answered(asked);
            }
        }
        Kind::Paced => paced(n, address, meter).await,
        Kind::Connections => unreachable!("a thread of its own does these"),
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn receive(address: SocketAddr, meter: &Meter) -> io::Result<()> {
    let mut stream = connect(address).await?;
    stream.write_all(DOWN).await?;
    let mut drain = Drain::new();
    loop {
        match drain.take(&stream).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            got => meter.add(got),
        }
    }
}

async fn send(address: SocketAddr, block: &Block, meter: &Meter) -> io::Result<()> {
    let mut stream = connect(address).await?;
    stream.write_all(UP).await?;
    loop {
        meter.add(block.send(&stream).await?);
    }
}

/// One request and its answer on a connection that stays.
async fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(KEEP).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await?;
    same(&answer)
}

pub(super) fn same(answer: &[u8]) -> io::Result<()> {
    match answer == ANSWER {
        true => Ok(()),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Asks at a fixed pace, by a timer of the kernel: tokio's count whole milliseconds, and would have
/// all clients ask in the same moment.
async fn paced(n: usize, address: SocketAddr, meter: &Meter) -> io::Result<()> {
    let mut stream = connect(address).await?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    let first = PACE + PACE * n as u32 / PACED as u32;
    let times = Expiration::IntervalDelayed(TimeSpec::from(first), TimeSpec::from(PACE));
    timer.set(times, TimerSetTimeFlags::empty())?;
    // SAFETY: an `OwnedFd` is one descriptor, open until it is dropped.
    let timer = unsafe { AsyncFd::register(OwnedFd::from(timer))? };
    loop {
        let mut ready = timer.readable().await?;
        let tick = |timer: &AsyncFd<OwnedFd>| Ok(nix::unistd::read(timer.get_ref(), &mut [0; 8])?);
        match ready.try_io(tick) {
            Ok(read) => read?,
            Err(_too_early) => continue,
        };
        let asked = Instant::now();
        ask(&mut stream).await?;
        meter.answered(asked);
    }
}

/// Connections that asked once and are idle now.
pub(super) async fn idle(
    host: &Host,
    to: Vec<SocketAddr>,
    count: usize,
) -> io::Result<Vec<TcpStream>> {
    let open = async move {
        let mut streams = Vec::with_capacity(count);
        for address in to.into_iter().cycle().take(count) {
            let mut stream = connect(address).await?;
            ask(&mut stream).await?;
            streams.push(stream);
        }
        Ok(streams)
    };
    host.run(open).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_the_one_that_the_table_names() {
        let rate = Work::PACED.clients as f64 / PACE.as_secs_f64();
        assert_eq!(rate.round() as u64, 2_000);
    }

    #[test]
    fn only_the_whole_answer_is_one() {
        assert!(same(ANSWER).is_ok());
        assert!(same(&ANSWER[1..]).is_err() && same(b"").is_err());
    }
}
