//! Health probes with deadlines.
//!
//! Owns: the sockets of health checks. Never: judges a backend (`health` does).
//! Invariant: each request is answered once, or counted as dropped.
//!
//! A check is a TCP connect. It is closed in the ordinary way, with FIN: a reset would be cheaper
//! here (no `TIME_WAIT`), but servers log it, and some count the client as an abuser. The price is
//! one socket in `TIME_WAIT` for each check of the last minute, towards an address of its own, so
//! that it costs a little memory and never a port that proxied connections need.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::health::probe::{ANSWER_SLACK, ProbeOutcome, ProbeRequest, ProbeResult};
use crate::model::ConnectFailure;

/// Requests that may wait for their turn; more are dropped.
pub const QUEUE: usize = 1_024;

/// Makes checks. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Prober {
    waiting: Sender<Waiting>,
    dropped: Arc<AtomicU64>,
}

/// A request, and since when it waits.
#[derive(Debug)]
struct Waiting {
    request: ProbeRequest,
    since: Instant,
}

impl Prober {
    /// A prober that makes at most `limit` checks at once (at least one), on the runtime that
    /// calls. It ends with its last clone, or when nobody wants results any more.
    ///
    /// # Panics
    ///
    /// Outside of a runtime with IO and time.
    pub fn start(results: Sender<ProbeResult>, limit: usize) -> Self {
        let (waiting, requests) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let checks = Checks {
            results,
            dropped: Arc::clone(&dropped),
        };
        tokio::spawn(checks.run(requests, limit));
        Self { waiting, dropped }
    }

    /// Asks for a check. Never blocks; may be called from any thread.
    pub fn probe(&self, request: ProbeRequest) {
        let waiting = Waiting {
            request,
            since: Instant::now(),
        };
        if self.waiting.try_send(waiting).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests that were not answered: too many waited, one waited so long that its answer would
    /// come too late, or this host had no socket for it (which says nothing of the backend).
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What the tasks share.
#[derive(Clone)]
struct Checks {
    results: Sender<ProbeResult>,
    dropped: Arc<AtomicU64>,
}

impl Checks {
    async fn run(self, mut requests: Receiver<Waiting>, limit: usize) {
        let turns = Arc::new(Semaphore::new(limit));
        loop {
            // The turn first: so a request that waits is in the queue, where it is counted.
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else {
                return;
            };
            tokio::select! {
                () = self.results.closed() => return,
                next = requests.recv() => match next {
                    Some(next) => drop(tokio::spawn(self.clone().make(next, turn))),
                    None => return,
                },
            }
        }
    }

    async fn make(self, Waiting { request, since }: Waiting, turn: OwnedSemaphorePermit) {
        let outcome = if since.elapsed() < ANSWER_SLACK {
            check(request).await
        } else {
            None
        };
        let answered = match outcome {
            Some(outcome) => {
                let result = ProbeResult {
                    backend: request.backend,
                    token: request.token,
                    outcome,
                };
                self.results.send(result).await.is_ok()
            }
            None => false,
        };
        if !answered {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(turn);
    }
}

/// Connects; none if this host could not even try.
async fn check(request: ProbeRequest) -> Option<ProbeOutcome> {
    let start = Instant::now();
    let connect = TcpStream::connect(request.address);
    match tokio::time::timeout(request.timeout, connect).await {
        Ok(Ok(_closed_on_drop)) => {
            let took = start.elapsed();
            Some(ProbeOutcome::Good { took })
        }
        Ok(Err(error)) => failure(&error).map(|failure| ProbeOutcome::Bad { failure }),
        Err(_elapsed) => {
            let failure = ConnectFailure::Timeout;
            Some(ProbeOutcome::Bad { failure })
        }
    }
}

/// What an error of `connect(2)` says of the backend; none if it only says something of this host.
fn failure(error: &io::Error) -> Option<ConnectFailure> {
    let errno = error.raw_os_error().map(Errno::from_raw);
    if matches!(
        errno,
        Some(
            Errno::EADDRNOTAVAIL
                | Errno::EAGAIN
                | Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
        )
    ) {
        return None;
    }
    Some(match error.kind() {
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::TimedOut => ConnectFailure::Timeout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    })
}

#[cfg(test)]
#[path = "probe_test.rs"]
mod tests;
