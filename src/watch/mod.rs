//! Asks a service again and again, and tells when it did not answer: what clients of a pair notice.
//!
//! Owns: the sockets of `tandem watch`. Never: knows anything of nodes; it is a client like any other.
//!
//! Open loop: a new connection begins every [`Plan::every`], whatever became of the earlier ones, so an
//! outage shows as it is. A thousand connections at once are the most.

pub mod tally;
mod target;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::probe::exchange::{Io, beside};
use tally::{Outage, Tally};

pub use target::{NoTarget, Target};

/// New connections at once.
const OUTSTANDING: usize = 1_024;
/// Bytes of an answer's body that are read.
const MAX_BODY: usize = 16 << 20;

/// What to ask, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked.
    pub target: Target,
    /// Where that is.
    pub address: SocketAddr,
    /// From the beginning of one new connection to that of the next, and between two questions on a
    /// kept one.
    pub every: Duration,
    /// How many connections are kept. None where the target is not HTTP.
    pub keep: u32,
    /// How long a new connection, and a question on a kept one, may take.
    pub patience: Duration,
}

/// One thing that happened.
enum Seen {
    Begun(u64),
    New(Result<Duration, String>),
    Kept(Result<Duration, String>),
}

/// A watching that goes on.
#[derive(Debug)]
pub struct Watch {
    tasks: JoinSet<()>,
    seen: UnboundedReceiver<Seen>,
    tally: Arc<Mutex<Tally>>,
    begin: Instant,
}

impl Watch {
    /// Begins. Within a tokio runtime.
    pub fn begin(plan: Plan) -> Self {
        let (tell, seen) = unbounded_channel();
        let plan = Arc::new(plan);
        let mut tasks = JoinSet::new();
        let mut tally = Tally::default();
        if plan.target.is_http() {
            tally.kept.open = plan.keep.into();
            for _ in 0..plan.keep {
                tasks.spawn(keep(Arc::clone(&plan), tell.clone()));
            }
        }
        tasks.spawn(open(plan, tell));
        Self {
            tasks,
            seen,
            tally: Arc::new(Mutex::new(tally)),
            begin: Instant::now(),
        }
    }

    /// The next outage that is over. Ends when nothing is watched any more, that is never by itself.
    pub async fn outage(&mut self) -> Option<Outage> {
        while let Some(seen) = self.seen.recv().await {
            let now = self.begin.elapsed();
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            match seen {
                Seen::Begun(skipped) => tally.begun(skipped),
                Seen::New(Ok(took)) => {
                    if let Some(outage) = tally.answered(took, now) {
                        return Some(outage);
                    }
                }
                Seen::New(Err(why)) => tally.failed(&why),
                Seen::Kept(Ok(took)) => tally.kept_answered(took),
                Seen::Kept(Err(why)) => tally.kept_lost(&why),
            }
        }
        None
    }

    /// Ends it. What was seen, and the outage that lasts.
    pub fn end(mut self) -> (Tally, Option<Outage>) {
        self.tasks.abort_all();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let last = tally.ended(self.begin.elapsed());
        (std::mem::take(&mut tally), last)
    }
}

async fn open(plan: Arc<Plan>, tell: UnboundedSender<Seen>) {
    let room = Arc::new(Semaphore::new(OUTSTANDING));
    let mut ticks = interval(plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tasks = JoinSet::new();
    let mut due = Instant::now();
    loop {
        let tick = ticks.tick().await;
        let missed = tick.saturating_duration_since(due).as_nanos() / plan.every.as_nanos().max(1);
        due = tick + plan.every;
        while tasks.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let _ = tell.send(Seen::Begun(missed as u64));
        let (plan, tell) = (Arc::clone(&plan), tell.clone());
        tasks.spawn(async move {
            let began = Instant::now();
            let asked = timeout(plan.patience, once(&plan)).await;
            let result = asked.unwrap_or_else(|_| Err("timed out".into()));
            let _ = tell.send(Seen::New(result.map(|()| began.elapsed())));
            drop(place);
        });
    }
}

async fn once(plan: &Plan) -> Result<(), String> {
    let stream = connect(plan).await?;
    if !plan.target.is_http() {
        return Ok(());
    }
    let (mut sender, connection) = speak(stream).await?;
    let asked = ask(&mut sender, &plan.target, "close");
    beside(connection, asked).await
}

/// A connection that is opened again whenever it ends.
async fn keep(plan: Arc<Plan>, tell: UnboundedSender<Seen>) {
    loop {
        if let Err(why) = kept(&plan, &tell).await {
            let _ = tell.send(Seen::Kept(Err(why)));
        }
        sleep(plan.every).await;
    }
}

async fn kept(plan: &Plan, tell: &UnboundedSender<Seen>) -> Result<(), String> {
    // That none can be opened is told of by the new ones.
    let Ok(Ok(stream)) = timeout(plan.patience, connect(plan)).await else {
        return Ok(());
    };
    let (mut sender, connection) = speak(stream).await?;
    let asking = async {
        loop {
            let began = Instant::now();
            let asked = ask(&mut sender, &plan.target, "keep-alive");
            timeout(plan.patience, asked)
                .await
                .unwrap_or_else(|_| Err("timed out".into()))?;
            let _ = tell.send(Seen::Kept(Ok(began.elapsed())));
            sleep(plan.every).await;
        }
    };
    beside(connection, asking).await
}

async fn connect(plan: &Plan) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(plan.address).await;
    let stream = stream.map_err(|error| in_words(&error))?;
    stream.set_nodelay(true).map_err(|error| in_words(&error))?;
    Ok(stream)
}

type Connection = http1::Connection<Io<TcpStream>, Empty<Bytes>>;

async fn speak(stream: TcpStream) -> Result<(SendRequest<Empty<Bytes>>, Connection), String> {
    let spoken = http1::handshake(Io(stream)).await;
    spoken.map_err(|error| explain(&error))
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    target: &Target,
    connection: &str,
) -> Result<(), String> {
    let request = Request::builder()
        .uri(&target.path)
        .header("host", &target.authority)
        .header("user-agent", "tandem-watch")
        .header("connection", connection)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| explain(&error))?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| explain(&error))?;
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_BODY {
            return Err("an answer without end".into());
        }
    }
    if status < StatusCode::INTERNAL_SERVER_ERROR {
        return Ok(());
    }
    Err(format!("status {}", status.as_u16()))
}

fn explain(error: &hyper::Error) -> String {
    let io = std::error::Error::source(error).and_then(|error| error.downcast_ref::<io::Error>());
    match io {
        Some(error) => in_words(error),
        None if error.is_canceled() => "closed".into(),
        None if error.is_incomplete_message() => "ended before the answer".into(),
        None => error.to_string(),
    }
}

/// Few words, since they are counted by them.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable".into(),
        kind => kind.to_string(),
    }
}
