//! The clients' part: connections that stay, each a task of its host's one thread.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::gauge::{Board, Kind};
use super::server::{HEAD, TICK, part, verdict};
use super::stream::{Check, MOST, end, slice};
use crate::lab::host::Host;

/// Longest wait for anything that is due. A connection that is slower is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Before a lost connection is opened again.
const AGAIN: Duration = Duration::from_millis(100);
/// Time between an answer and the next question.
const THINK: Duration = Duration::from_millis(20);
/// A message and its answer.
const MESSAGE: usize = 64;
/// Connections are opened, and idle ones speak, so many in a millisecond.
const AT_ONCE: usize = 2;
/// Room for what is read at once.
const READ: usize = 16 * 1024;

/// How many connections of each kind there are.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Crowd {
    /// That receive a stream.
    pub downloads: usize,
    /// That send one.
    pub uploads: usize,
    /// Of each of them: so many go as fast as they can.
    pub unpaced: usize,
    /// Bytes a second on each of the others.
    pub pace: u64,
    /// That ask and wait for the answer, again and again.
    pub requests: usize,
    /// That are silent until they are told to speak.
    pub idle: usize,
    /// New connections a second.
    pub new_rate: u32,
}

impl Crowd {
    pub(in crate::lab) const fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Download => self.downloads,
            Kind::Upload => self.uploads,
            Kind::Requests => self.requests,
            Kind::Idle => self.idle,
        }
    }

    /// Bytes a second on the n-th stream of a kind; 0: as fast as it goes.
    const fn rate(&self, n: usize) -> u64 {
        if n < self.unpaced { 0 } else { self.pace }
    }
}

/// What all clients are told.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    /// Idle ones speak when it changes.
    speak: u32,
    /// All come to a good end and are opened anew when it changes.
    renew: u32,
    /// Come to a good end.
    stop: bool,
}

/// Clients at work. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Clients {
    orders: watch::Sender<Orders>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Opens connections from the first host, and those that are not paced from the second: its
    /// thread is as busy as they can make it, and the others' stalls shall not be its.
    pub(super) fn start(
        hosts: [&Host; 2],
        crowd: &Crowd,
        targets: &[SocketAddr],
        board: &Arc<Board>,
    ) -> Self {
        let (orders, told) = watch::channel(Orders::default());
        board.pace(crowd.unpaced, TICK);
        let mut tasks = JoinSet::new();
        let mut nth = 0;
        for kind in Kind::ALL {
            for (n, target) in (0..crowd.of(kind)).zip(targets.iter().copied().cycle()) {
                let client = Client {
                    kind,
                    n,
                    target,
                    rate: crowd.rate(n),
                    board: board.clone(),
                    told: told.clone(),
                    round: 0,
                };
                let bulk = matches!(kind, Kind::Download | Kind::Upload) && crowd.rate(n) == 0;
                let host = hosts[usize::from(bulk)];
                tasks.spawn_on(client.keep(later(nth)), host.runtime());
                nth += 1;
            }
        }
        Self { orders, tasks }
    }

    /// Has idle connections speak once.
    pub(super) fn speak(&self) {
        self.orders.send_modify(|orders| orders.speak += 1);
    }

    /// Has each connection come to a good end, and opens another in its place.
    pub(super) fn renew(&self) {
        self.orders.send_modify(|orders| orders.renew += 1);
    }

    /// Has all connections come to a good end, and waits for it.
    pub(super) async fn stop(mut self) {
        self.orders.send_modify(|orders| orders.stop = true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The n-th one's delay, so that not all act in the same moment.
fn later(n: usize) -> Duration {
    Duration::from_millis((n / AT_ONCE) as u64)
}

/// One connection, and those that replace it when it is lost.
struct Client {
    kind: Kind,
    n: usize,
    target: SocketAddr,
    rate: u64,
    board: Arc<Board>,
    told: watch::Receiver<Orders>,
    /// The renewal after which its connection was opened.
    round: u32,
}

impl Client {
    async fn keep(mut self, first: Duration) {
        sleep(first).await;
        while !self.told.borrow().stop {
            self.round = self.told.borrow().renew;
            // Only a connection that stood can be lost.
            if let Ok(stream) = self.connect().await {
                self.board.of(self.kind).open(self.n);
                match self.work(stream).await {
                    Ok(()) => {
                        self.board.of(self.kind).close(self.n);
                        continue;
                    }
                    Err(error) => self.board.lost(self.kind, self.n, &error),
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether its connection shall come to a good end.
    fn enough(&self) -> bool {
        let told = self.told.borrow();
        told.stop || told.renew != self.round
    }

    /// Waits. Nothing is due meanwhile, so whatever comes is the connection's end.
    async fn pause(&self, stream: &mut TcpStream, time: Duration) -> io::Result<()> {
        let mut byte = [0];
        tokio::select! {
            () = sleep(time) => Ok(()),
            got = stream.read(&mut byte) => Err(self.unasked(got?)),
        }
    }

    /// So many bytes came that nobody asked for; none is the end.
    fn unasked(&self, got: usize) -> io::Error {
        match got {
            0 => ErrorKind::UnexpectedEof.into(),
            got => self.wrong(got as u64),
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut stream = within(TcpStream::connect(self.target)).await?;
        stream.set_nodelay(true)?;
        let (n, rate) = (self.n, self.rate);
        let what = match self.kind {
            Kind::Download => format!("GET /stream/{n}/{rate}"),
            Kind::Upload => format!("POST /store/{n}"),
            Kind::Requests | Kind::Idle => "GET /echo".to_owned(),
        };
        let request = format!("{what} HTTP/1.1\r\nHost: tandem.test\r\n\r\n");
        let mut head = [0; HEAD.len()];
        let ask = async {
            stream.write_all(request.as_bytes()).await?;
            stream.read_exact(&mut head).await
        };
        within(ask).await?;
        match head == HEAD {
            true => Ok(stream),
            false => Err(ErrorKind::InvalidData.into()),
        }
    }

    async fn work(&mut self, stream: TcpStream) -> io::Result<()> {
        match self.kind {
            Kind::Download => self.download(stream).await,
            Kind::Upload => self.upload(stream).await,
            Kind::Requests => self.requests(stream).await,
            Kind::Idle => self.idle(stream).await,
        }
    }

    fn expect(&self) {
        let now = self.board.clock.now();
        self.board.of(self.kind).expect(self.n, now);
    }

    fn wrong(&self, bytes: u64) -> io::Error {
        self.board.of(self.kind).wrong(bytes);
        ErrorKind::InvalidData.into()
    }

    async fn download(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut check = Check::new(self.n);
        let mut buffer = vec![0; if self.rate == 0 { MOST } else { READ }];
        let mut enough = false;
        self.expect();
        loop {
            match within(stream.read(&mut buffer)).await? {
                0 if check.is_whole() => return Ok(()),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                got => {
                    check.take(&buffer[..got]);
                    let now = self.board.beat();
                    self.board.of(self.kind).progress(self.n, got as u64, now);
                }
            }
            if check.wrong > 0 {
                return Err(self.wrong(check.wrong));
            }
            if self.enough() && !enough {
                stream.write_all(b".").await?;
                enough = true;
            }
        }
    }

    async fn upload(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent = 0;
        self.expect();
        while !self.enough() {
            let (mut read, mut write) = stream.split();
            let mut byte = [0];
            let most = match self.rate {
                0 => MOST,
                rate => part(rate),
            };
            let next = async {
                if self.rate > 0 {
                    ticks.tick().await;
                }
                within(write.write_all(slice(self.n, sent, most))).await
            };
            tokio::select! {
                done = next => done?,
                // Nothing is due before the end of the stream.
                got = read.read(&mut byte) => return Err(self.unasked(got?)),
            }
            sent += most as u64;
        }
        let mut answer = String::new();
        let last = async {
            stream.write_all(&end(sent)).await?;
            stream.read_to_string(&mut answer).await
        };
        within(last).await?;
        match answer == verdict(sent, 0, true) {
            true => Ok(()),
            false if answer.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            // Its server counted them: "N bytes, N wrong, ...".
            false => Err(self.wrong(
                answer
                    .split(' ')
                    .nth(2)
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(1),
            )),
        }
    }

    async fn requests(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut place = 0;
        while !self.enough() {
            self.exchange(&mut stream, place).await?;
            place += MESSAGE as u64;
            self.pause(&mut stream, THINK).await?;
        }
        farewell(stream).await
    }

    async fn idle(&mut self, mut stream: TcpStream) -> io::Result<()> {
        let mut place = 0;
        self.told.mark_unchanged();
        while !self.enough() {
            let mut byte = [0];
            tokio::select! {
                told = self.told.changed() => told.map_err(|_| ErrorKind::Other)?,
                // Nothing is due, so whatever this gives is the end.
                got = stream.read(&mut byte) => return Err(self.unasked(got?)),
            }
            self.pause(&mut stream, later(self.n)).await?;
            self.exchange(&mut stream, place).await?;
            place += MESSAGE as u64;
        }
        farewell(stream).await
    }

    /// One message each way.
    async fn exchange(&self, stream: &mut TcpStream, place: u64) -> io::Result<()> {
        let message = slice(self.n, place, MESSAGE);
        let mut answer = [0; MESSAGE];
        self.expect();
        let talk = async {
            stream.write_all(message).await?;
            stream.read_exact(&mut answer).await
        };
        within(talk).await?;
        let pairs = answer.iter().zip(message);
        let wrong = pairs.filter(|(got, sent)| got != sent).count();
        if wrong > 0 {
            return Err(self.wrong(wrong as u64));
        }
        let now = self.board.beat();
        self.board.of(self.kind).answered(self.n, now);
        Ok(())
    }
}

/// Closes the own half and waits for the other's, on which nothing more is due.
async fn farewell(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    match within(stream.read(&mut [0])).await? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await?
}
