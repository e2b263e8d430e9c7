//! New connections at a steady rate: connect, one question, its answer, close.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::clients::PATIENCE;
use super::ends::Trouble;
use super::gauge::Board;
use crate::lab::host::Host;
use crate::lab::load::{complete, failure};
use crate::lab::verdict::ms;

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);
/// Most attempts that a look makes good for: a tool that was held up does not make up for it in a
/// burst that nobody would send.
const BURST: u32 = 50;
/// Attempts under way at once.
const OUTSTANDING: usize = 8 * 1024;
/// A handshake that is slower lost a segment: TCP waits a second before it sends it again.
const DELAYED: Duration = Duration::from_millis(500);
/// A client may notice that its connection took longer.
const LATE: Duration = Duration::from_millis(100);
/// The client closes, so that ports in TIME_WAIT are the client's.
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: tandem.test\r\n\r\n";

/// At work. Ends when dropped.
#[derive(Debug)]
pub(super) struct Newcomers {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Newcomers {
    /// Opens so many connections a second from this host.
    pub(super) fn start(
        host: &Host,
        rate: u32,
        targets: Vec<SocketAddr>,
        board: Arc<Board>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = host.spawn(drive(rate, targets, board, stopped));
        Self {
            stop: Some(stop),
            task,
        }
    }

    /// Opens no more, and waits for those under way.
    pub(super) async fn stop(mut self) {
        self.stop.take();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Newcomers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(
    rate: u32,
    targets: Vec<SocketAddr>,
    board: Arc<Board>,
    mut stopped: oneshot::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(OUTSTANDING));
    let mut targets = targets.into_iter().cycle();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = board.clock.now();
    let mut due = 0.0;
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let now = board.clock.now();
        let gone = now.since(last);
        last = now;
        board.stalled(gone.saturating_sub(TICK));
        due = f64::min(due + gone.as_secs_f64() * f64::from(rate), f64::from(BURST));
        while due >= 1.0 {
            due -= 1.0;
            let Some(target) = targets.next() else { break };
            match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let board = board.clone();
                    tokio::spawn(async move {
                        attempt(target, &board).await;
                        drop(slot);
                    });
                }
                Err(_) => board.new_ones().skipped += 1,
            }
        }
    }
    // Every slot back means that every attempt is over.
    let _ = slots.acquire_many(OUTSTANDING as u32).await;
}

async fn attempt(target: SocketAddr, board: &Board) {
    let began = board.clock.now();
    let connected = within(TcpStream::connect(target)).await;
    let stands = board.clock.now();
    let handshake = stands.since(began);
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            let failure = failure(&error);
            board.troubled(Trouble {
                began,
                ended: stands,
                failure: Some(failure),
                port: None,
            });
            let mut tally = board.new_ones();
            tally.attempts += 1;
            *tally.failed.entry(failure).or_default() += 1;
            return;
        }
    };
    board.beat();
    let port = stream.local_addr().ok().map(|address| address.port());
    let answered = within(ask(stream)).await;
    let now = board.clock.now();
    let failure = answered.err().map(|error| failure(&error));
    if failure.is_some() || handshake > LATE {
        board.troubled(Trouble {
            began,
            ended: now,
            failure,
            port,
        });
    }
    let mut tally = board.new_ones();
    tally.attempts += 1;
    tally.delayed += u64::from(handshake > DELAYED);
    tally.late += u64::from(handshake > LATE);
    tally.handshake_ms = tally.handshake_ms.max(ms(handshake));
    match failure {
        None => {
            tally.answer_ms = tally.answer_ms.max(ms(now.since(stands)));
            drop(tally);
            board.beat();
        }
        Some(failure) => *tally.lost.entry(failure).or_default() += 1,
    }
}

async fn ask(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GET).await?;
    let mut answer = Vec::with_capacity(256);
    while complete(&answer)?.is_none() {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await?
}
