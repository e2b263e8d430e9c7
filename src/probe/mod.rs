//! Health probes with deadlines.
//!
//! Owns: the sockets of health checks. Never: judges a backend (`health` does).
//! Invariant: each request is answered once, or counted as dropped.
//!
//! Each kind of check has a module of its own. All of them are bounded: in time by the request, in
//! what they read by the configuration. Their connections are closed in the ordinary way, with FIN: a
//! reset would be cheaper here (no `TIME_WAIT`), but servers log it, and some count the client as an
//! abuser. The price is one socket in `TIME_WAIT` for each check of the last minute, towards an address
//! of its own, so that it costs a little memory and never a port that proxied connections need.

mod agent;
mod command;
pub(crate) mod exchange;
mod grpc;
mod http;
mod plan;
mod progress;
mod script;
mod tcp;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use self::plan::{Case, Kind};
use self::progress::{Fail, Progress, wrong};
use crate::config::Config;
use crate::health::probe::{ANSWER_SLACK, ProbeOutcome, ProbeRequest, ProbeResult, Whom};

pub use self::plan::{PlanError, Plans};

/// Requests that may wait for their turn; more are dropped.
pub const QUEUE: usize = 1_024;

/// Makes checks. Clones share the limit.
#[derive(Clone, Debug)]
pub struct Prober {
    waiting: Sender<Waiting>,
    dropped: Arc<AtomicU64>,
    plans: Plans,
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
    pub fn start(plans: Plans, results: Sender<ProbeResult>, limit: usize) -> Self {
        let (waiting, requests) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let checks = Checks {
            plans: plans.clone(),
            results,
            dropped: Arc::clone(&dropped),
        };
        tokio::spawn(checks.run(requests, limit));
        Self {
            waiting,
            dropped,
            plans,
        }
    }

    /// Pools are checked as these plans have it, once backends are told. Never blocks.
    pub fn replan(&self, plans: &Plans) {
        self.plans.adopt(plans);
    }

    /// The backends are these from now on; how their pools are checked stays. Never blocks.
    pub fn configure(&self, config: &Config) {
        self.plans.assign(config);
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
    plans: Plans,
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
            check(&self.plans, &request).await
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

/// Makes a check; none if this host could not even try.
async fn check(plans: &Plans, request: &ProbeRequest) -> Option<ProbeOutcome> {
    let start = Instant::now();
    let case = plans.of(request.backend)?;
    let plan = &*case.plan;
    let way = tcp::Way {
        address: &request.address,
        dialer: &plan.dialer,
        header: match request.whom {
            Whom::Agent => None,
            Whom::Backend => case.header,
        },
    };
    let mut progress = Progress::default();
    let work = async {
        match request.whom {
            Whom::Agent => match &plan.agent {
                Some(agent) => {
                    let answer = agent::ask(agent, way, &mut progress).await?;
                    Ok(ProbeOutcome::Agent(answer))
                }
                None => Err(Fail::NoSocket),
            },
            Whom::Backend => {
                let warning = by_kind(&case, request, way, &mut progress).await?;
                let took = start.elapsed();
                Ok(match warning {
                    Some(what) => ProbeOutcome::Warned { took, what },
                    None => ProbeOutcome::Good { took },
                })
            }
        }
    };
    let done = tokio::time::timeout(request.timeout, work).await;
    match done {
        Ok(Ok(outcome)) => Some(outcome),
        Ok(Err(Fail::Connect(failure))) => Some(ProbeOutcome::Bad { failure }),
        Ok(Err(Fail::Wrong(what))) => Some(wrong(&what)),
        Ok(Err(Fail::NoSocket)) => None,
        Err(_elapsed) => Some(progress.late(request.timeout)),
    }
}

/// The check of the backend itself, and what an operator should know.
async fn by_kind(
    case: &Case,
    request: &ProbeRequest,
    way: tcp::Way<'_>,
    progress: &mut Progress,
) -> Result<Option<String>, Fail> {
    match &case.plan.kind {
        Kind::Command(command) => command::check(command, case, request, progress)
            .await
            .map(|()| None),
        Kind::Grpc(grpc, tls) => grpc::check(grpc, tls.as_ref(), way, progress).await,
        Kind::Http(http, tls) => http::check(http, tls.as_ref(), way, progress).await,
        Kind::Script(script) => script::check(script, way, progress).await.map(|()| None),
        Kind::Tcp => tcp::dial(way).await.map(|_closed_on_drop| None),
        Kind::Tls(tls) => tls::check(tls, way, progress).await,
    }
}

#[cfg(test)]
#[path = "header_test.rs"]
mod header_tests;

#[cfg(test)]
#[path = "prober_test.rs"]
mod tests;

#[cfg(test)]
#[path = "testbed_test.rs"]
mod testbed;

#[cfg(test)]
#[path = "plain_test.rs"]
mod plain_tests;

#[cfg(test)]
#[path = "web_test.rs"]
mod web_tests;
