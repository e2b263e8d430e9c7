//! The prober: one new connection every few milliseconds, whatever became of the earlier ones.
//!
//! Open loop: an attempt never waits for another, so an outage shows as it is instead of slowing
//! the prober down until it looks short.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::host::Host;
use crate::net::clock::Clock;
use crate::time::Mono;

/// Time between two attempts.
pub(super) const EVERY: Duration = Duration::from_millis(2);
/// Time for one attempt.
const DEADLINE: Duration = Duration::from_secs(1);
/// Attempts at once. At one every 2 ms with 1 s each there can be 500.
const OUTSTANDING: usize = 1024;
/// Attempts kept; more than four minutes' worth.
const KEPT: usize = 1 << 17;
/// Longest answer read, in bytes.
const MAX_ANSWER: usize = 1024;
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: tandem.test\r\nConnection: close\r\n\r\n";

/// How an attempt failed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection ended before the answer was complete.
    Eof,
    /// Something else.
    Other,
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// No complete answer within a second.
    Timeout,
    /// No host has the address.
    Unreachable,
}

/// One attempt that is over.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began.
    pub start: Mono,
    /// When its outcome was known.
    pub end: Mono,
    /// The backend's name, or what went wrong.
    pub outcome: Result<String, Failure>,
}

/// Everything the prober saw.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// In the order in which they ended.
    pub attempts: Vec<Attempt>,
    /// Longest time between two starts: how long the prober itself was held up.
    pub stalled: Duration,
}

impl Record {
    /// Attempts that failed, by kind.
    pub fn failures(&self) -> BTreeMap<Failure, u64> {
        count(
            self.attempts
                .iter()
                .filter_map(|a| a.outcome.as_ref().err().copied()),
        )
    }

    /// Attempts that were answered, by backend.
    pub fn answers(&self) -> BTreeMap<String, u64> {
        count(
            self.attempts
                .iter()
                .filter_map(|a| a.outcome.as_ref().ok().cloned()),
        )
    }

    /// Longest time between two successive completed answers, of which the later came after
    /// `from`; and when it began.
    pub fn outage(&self, from: Mono) -> Option<(Mono, Duration)> {
        let mut ends: Vec<_> = self.successes().map(|attempt| attempt.end).collect();
        ends.sort_unstable();
        let pairs = ends.windows(2).filter(|pair| pair[1] > from);
        let gaps = pairs.map(|pair| (pair[0], pair[1].since(pair[0])));
        gaps.max_by_key(|(_, gap)| *gap)
    }

    /// The end of the first answer to an attempt that began at or after `from`.
    pub fn first_answer(&self, from: Mono) -> Option<Mono> {
        let later = self.successes().filter(|attempt| attempt.start >= from);
        later.map(|attempt| attempt.end).min()
    }

    fn successes(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.outcome.is_ok())
    }
}

fn count<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// A prober at work. Ends when dropped.
#[derive(Debug)]
pub struct Load {
    record: Arc<Mutex<Record>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts to probe the address from this host.
    pub fn start(host: &Host, target: SocketAddr, clock: Clock) -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let (stop, stopped) = oneshot::channel();
        let task = host.spawn(drive(target, clock, record.clone(), stopped));
        Self {
            record,
            stop: Some(stop),
            task,
        }
    }

    /// What was seen so far.
    pub fn peek<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts no more attempts, waits for those under way, and gives the record.
    pub async fn stop(mut self) -> Record {
        self.stop.take();
        let _ = (&mut self.task).await;
        self.peek(Clone::clone)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive(
    target: SocketAddr,
    clock: Clock,
    record: Arc<Mutex<Record>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(OUTSTANDING));
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = clock.now();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let start = clock.now();
        {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.stalled = record.stalled.max(start.since(last));
        }
        last = start;
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            continue;
        };
        let record = record.clone();
        tokio::spawn(async move {
            let outcome = match timeout(DEADLINE, attempt(target)).await {
                Ok(Ok(name)) => Ok(name),
                Ok(Err(error)) => Err(failure(&error)),
                Err(_) => Err(Failure::Timeout),
            };
            let end = clock.now();
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if record.attempts.len() < KEPT {
                record.attempts.push(Attempt {
                    start,
                    end,
                    outcome,
                });
            }
            drop(slot);
        });
    }
    // Every slot back means that every attempt is over.
    let _ = slots.acquire_many(OUTSTANDING as u32).await;
}

/// One request on a connection of its own; the backend's name.
async fn attempt(target: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    stream.write_all(GET).await?;
    let mut answer = Vec::with_capacity(256);
    while answer.len() < MAX_ANSWER {
        if let Some(name) = complete(&answer)? {
            return Ok(name);
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Err(ErrorKind::InvalidData.into())
}

/// The body, once head and body are there.
pub(super) fn complete(answer: &[u8]) -> io::Result<Option<String>> {
    let text = std::str::from_utf8(answer).map_err(|_| ErrorKind::InvalidData)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let length = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        let found = key.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse::<usize>().ok())?
    });
    match (head.starts_with("HTTP/1.1 200 "), length) {
        (true, Some(length)) if body.len() >= length => Ok(Some(body.trim_end().to_owned())),
        (true, Some(_)) => Ok(None),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

pub(super) fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::Reset,
        ErrorKind::UnexpectedEof => Failure::Eof,
        ErrorKind::TimedOut => Failure::Timeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::Unreachable,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(start: u64, end: u64) -> Attempt {
        Attempt {
            start: Mono::from_millis(start),
            end: Mono::from_millis(end),
            outcome: Ok("b1".to_owned()),
        }
    }

    #[test]
    fn the_outage_is_the_longest_gap_between_completed_answers_in_order_of_completion() {
        let mut record = Record {
            attempts: vec![
                answered(0, 1),
                answered(4, 40),
                answered(2, 3),
                answered(30, 31),
            ],
            ..Record::default()
        };
        record.attempts.push(Attempt {
            outcome: Err(Failure::Refused),
            ..answered(10, 11)
        });
        let expected = (Mono::from_millis(3), Duration::from_millis(28));
        assert_eq!(record.outage(Mono::ZERO), Some(expected));
        let later = record.outage(Mono::from_millis(31)).unwrap();
        assert_eq!(
            later.1,
            Duration::from_millis(9),
            "earlier gaps had another cause"
        );
        let first = record.first_answer(Mono::from_millis(4));
        assert_eq!(first, Some(Mono::from_millis(31)));
        assert_eq!(record.failures(), BTreeMap::from([(Failure::Refused, 1)]));
        assert_eq!(record.answers(), BTreeMap::from([("b1".to_owned(), 4)]));
    }

    #[test]
    fn an_answer_counts_when_it_is_complete() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(complete(head.as_bytes()).unwrap(), None);
        assert_eq!(complete(format!("{head}b1").as_bytes()).unwrap(), None);
        let whole = complete(format!("{head}b1\n").as_bytes()).unwrap();
        assert_eq!(whole.as_deref(), Some("b1"));
        assert!(complete(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
