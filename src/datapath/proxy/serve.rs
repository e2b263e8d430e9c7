//! One connection's life, from its acceptance to its end.
//!
//! Both sockets are born to be reset when they close (`SO_LINGER` with zero, socket(7)), and only
//! an orderly end takes that back. So when the process dies in the middle, neither side takes what
//! it got for all there was, and nothing is left in the kernel that would go on speaking in the
//! VIP's name while another node owns it.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connect::{Connected, Failed, connect};
use super::direction::Direction;
use super::front::{First, Intro, Stop};
use super::log::{Phase, Record, Why};
use super::pump;
use super::sticky::Tap;
use super::watch::Watch;
use super::worker::{Guest, Worker};
use crate::balance::flow::{FlowEvent, Unserved};

/// Bytes that are read before there is a backend to take them.
const FIRST: usize = 16 << 10;

/// Serves one client.
pub(super) async fn serve(guest: Guest, mut client: TcpStream) {
    let Guest { worker, flow, .. } = &guest;
    let diary = Diary::new(&guest);
    // Boxed, because a connection spends a moment here and should not carry that for life.
    let (mut backend, first) = match Box::pin(reach(&guest, &client)).await {
        Ok(reached) => reached,
        Err(Failed::Unserved(why)) => {
            diary.end(Why::Unserved(why), Duration::ZERO);
            let service = flow.service;
            worker.tell(|report| report.push(FlowEvent::Unserved { service, why }));
            return;
        }
        Err(Failed::Cut) => {
            diary.end(flow.why_cut().map_or(Why::Left, Why::Ended), Duration::ZERO);
            return;
        }
    };
    let waited = diary.now();
    flow.phase.set(Phase::Data);
    flow.opened
        .set(Some((backend.load.target().id, backend.took)));
    flow.up.set(backend.sent as u64);
    worker.tell(|report| report.opened(flow));
    let up = Direction::new(first.bytes, backend.sent, first.ended);
    let tap = Tap::new(
        worker,
        guest.known().sticky.as_ref(),
        backend.load.target().id,
    );
    let limit = guest.known().connect_timeout;
    let watch = Watch::new(&backend.load, &worker.shared, limit, backend.took);
    let stream = &mut backend.stream;
    let ending = pump::run(&mut client, stream, up, tap, flow, watch, &worker.buffers).await;
    if !ending.reset {
        close_in_order(&client);
        close_in_order(&backend.stream);
    }
    diary.end(Why::Ended(ending.end), waited);
    worker.tell(|report| report.closed(flow, ending.end));
}

/// What the log of connections needs; nothing where there is none.
struct Diary<'a> {
    guest: &'a Guest,
    began: Option<Instant>,
}

impl<'a> Diary<'a> {
    fn new(guest: &'a Guest) -> Self {
        let began = guest.known().log.is_some().then(Instant::now);
        Self { guest, began }
    }

    /// Time since the acceptance.
    fn now(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// The connection has ended. `waited`: until a backend had it; zero: none had.
    fn end(&self, why: Why, waited: Duration) {
        if self.began.is_none() {
            return;
        }
        let Guest { worker, flow, .. } = self.guest;
        let total = self.now();
        worker.log(self.guest.known(), why, || {
            let opened = flow.opened.get();
            Record {
                service: flow.service,
                client: flow.client.get(),
                backend: opened.map(|(backend, _)| backend),
                phase: flow.phase.get(),
                why,
                up: flow.up.get(),
                down: flow.down.get(),
                wait: opened.map_or(total, |_| waited),
                connect: opened.map_or(Duration::ZERO, |(_, connect)| connect),
                total,
            }
        });
    }
}

/// Finds a backend, and what the client has said until then.
async fn reach(guest: &Guest, client: &TcpStream) -> Result<(Connected, First), Failed> {
    let Guest { worker, flow, .. } = guest;
    // Reset by the client before it said anything.
    let mut first = first_bytes(worker, client).map_err(|_| Failed::Cut)?;
    let (known, service) = (guest.known(), guest.service());
    let intro = match &known.front {
        None => Intro::default(),
        Some(front) => match Box::pin(front.receive(worker, flow, client, &mut first)).await {
            Ok(intro) => intro,
            Err(Stop::Header) => return Err(Failed::Unserved(Unserved::Header)),
            Err(Stop::Refused(why)) => return Err(Failed::Unserved(why)),
            Err(Stop::Gone) => return Err(Failed::Cut),
        },
    };
    let connected = connect(worker, (known, service), &intro, flow, (client, &first)).await?;
    Ok((connected, first))
}

/// Closing this socket will send what waits and then the end.
fn close_in_order(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// What the client has said already.
fn first_bytes(worker: &Worker, client: &TcpStream) -> io::Result<First> {
    let mut scratch = worker.buffers.scratch.borrow_mut();
    // Not through tokio, which has not looked at this socket yet.
    let (got, ended) = match io::Read::read(&mut &*SockRef::from(client), &mut scratch[..FIRST]) {
        Ok(got) => (got, got == 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, false),
        Err(error) => return Err(error),
    };
    if got < FIRST {
        empty(client);
    }
    Ok(First {
        bytes: scratch[..got].to_vec(),
        ended,
    })
}

/// Tells tokio that there is nothing to read (yet). It takes every accepted socket for readable and
/// would try, in vain. What has come since then, the end included, epoll will still say.
fn empty(client: &TcpStream) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = client.try_io(Interest::READABLE, nothing);
}
