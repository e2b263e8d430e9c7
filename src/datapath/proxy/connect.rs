//! From a client to its backend: try one after another until one takes the client's first bytes.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::flows::Flow;
use super::front::{First, Intro};
use super::log::Phase;
use super::queue::{Held, Place};
use super::shared::{Known, Shared, Tries};
use super::worker::Worker;
use crate::balance::flow::{FlowEvent, Unserved};
use crate::balance::stick::Advice;
use crate::balance::{Load, Picks, Route};
use crate::dial::{self, Dialer};
use crate::model::{BackendAddress, ConnectFailure};

/// Between two rounds while this host's network is away.
const NETWORK_PAUSE: Duration = Duration::from_millis(50);

/// A backend took the client.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    pub(super) load: Held,
    /// First bytes that it already has, a header not counted.
    pub(super) sent: usize,
    pub(super) took: Duration,
}

/// No backend did.
pub(super) enum Failed {
    Unserved(Unserved),
    /// The flow was cut meanwhile.
    Cut,
}

/// Asks the scheduler for one backend after another. What the client has said goes out at once when a
/// connect succeeds, behind the header that the backend is to get; a backend that refuses it counts as
/// a failed connect, and the next one gets it. Where all are full, the client may have to wait.
pub(super) async fn connect(
    worker: &Worker,
    (known, service): (&Known, usize),
    intro: &Intro,
    flow: &Flow,
    (client, first): (&TcpStream, &First),
) -> Result<Connected, Failed> {
    let shared = &worker.shared;
    let place = Place {
        service,
        pool: intro.pool,
    };
    flow.phase.set(Phase::Connect);
    let mut routes = shared.routes.load_full();
    let address = flow.client.get().ip();
    let sticky = known.sticky.as_deref();
    let route = routes.pool(service, intro.pool);
    let choice = sticky.map(|it| it.choose(intro.stick, route, shared.now()));
    let begin = || match &choice {
        None => Picks::new(address),
        Some(choice) => choice.picks(address),
    };
    let mut picks = begin();
    let refused = (choice.as_ref()).is_some_and(|it| it.advice == Advice::Refuse);
    let mut patience = Patience::new(&known.tries, shared);
    loop {
        let (route, line) = (routes.pool(service, intro.pool), shared.line(place));
        // Who waits goes before who comes.
        let others = line
            .as_ref()
            .is_some_and(|line| picks.none_tried() && !line.is_empty());
        let load = match others {
            true => None,
            false => choose(worker, route, &mut picks),
        };
        let load = match (load, line) {
            (Some(load), _) => load,
            (None, Some(line)) if !picks.all_tried(route) => {
                let state = (picks, routes);
                flow.phase.set(Phase::Queue);
                let turn = line
                    .wait(shared, place, state, flow, (client, first))
                    .await?;
                (picks, routes) = (turn.picks, turn.routes);
                turn.load
            }
            (None, _) => {
                // Where nobody was tried although there is somebody, all are full.
                return Err(Failed::Unserved(match route.pool().is_empty() || refused {
                    true => Unserved::NoBackend,
                    false if patience.tried || patience.no_way => Unserved::AllFailed,
                    false => Unserved::Limit,
                }));
            }
        };
        let load = Held::new(load, shared, place);
        flow.phase.set(Phase::Connect);
        let started = Instant::now();
        let limit = patience.next_try(known.connect_timeout, started);
        let way = Way {
            dialer: &known.dialer,
            address: &load.target().address,
            header: &intro.header,
        };
        let trouble = match attempt(way, &first.bytes, limit, flow).await {
            Ok((stream, sent)) => {
                let took = started.elapsed();
                load.target().connects.add(took);
                if let (Some(sticky), Some(choice)) = (sticky, &choice) {
                    sticky.chosen(choice, load.target().id, worker);
                }
                return Ok(Connected {
                    stream,
                    load,
                    sent,
                    took,
                });
            }
            Err(trouble) => trouble,
        };
        let counts = match trouble {
            Trouble::Cut => return Err(Failed::Cut),
            Trouble::Own(error) => {
                let address = &load.target().address;
                tracing::debug!(%address, %error, "this host cannot connect");
                let no_way = is_of_the_network(&error);
                if no_way {
                    patience.had_no_way();
                }
                !no_way
            }
            Trouble::Backend(failure) => {
                patience.tried = true;
                let backend = load.target().id;
                if let Some(gauge) = load.target().gauge() {
                    gauge.failed(known.connect_timeout, shared.now());
                }
                worker.tell(|report| report.push(FlowEvent::ConnectFailed { backend, failure }));
                true
            }
        };
        drop(load);
        let route = routes.pool(service, intro.pool);
        if picks.all_tried(route) {
            if patience.waits_for_a_way(known.connect_timeout) {
                let pause = sleep(NETWORK_PAUSE);
                uncut(flow, pause).await.ok_or(Failed::Cut)?;
                (picks, routes) = (begin(), shared.routes.load_full());
            }
        } else if counts {
            if !patience.another(shared) {
                return Err(Failed::Unserved(Unserved::AllFailed));
            }
            known.retried.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The next backend that has room.
fn choose(worker: &Worker, route: &Route, picks: &mut Picks) -> Option<Load> {
    let now = worker.measured_at(route);
    loop {
        let place = picks.next(route, now, &mut worker.rng.borrow_mut())?;
        if let Some(load) = Load::on(&route.pool()[place]) {
            return Some(load);
        }
        // Another worker took the last place: whether it has one again is asked anew.
        picks.untried();
    }
}

/// How long one client's backends are tried.
struct Patience<'a> {
    tries: &'a Tries,
    /// Tries that have begun.
    begun: u16,
    /// A backend has failed.
    tried: bool,
    /// This host had no way to a backend: its network is made anew, as by a restart of the service
    /// that has configured it.
    no_way: bool,
    /// When the first one began.
    began: Option<Instant>,
}

impl<'a> Patience<'a> {
    fn new(tries: &'a Tries, shared: &Shared) -> Self {
        if let Some(budget) = &tries.budget {
            budget.connection(shared.now());
        }
        Self {
            tries,
            begun: 0,
            tried: false,
            no_way: false,
            began: None,
        }
    }

    /// How long the next try may take.
    fn next_try(&mut self, limit: Duration, now: Instant) -> Duration {
        self.begun = self.begun.saturating_add(1);
        let began = *self.began.get_or_insert(now);
        let left = |total| (began + total).saturating_duration_since(now);
        self.tries
            .deadline
            .map_or(limit, |total| limit.min(left(total)))
    }

    /// A try that was none.
    const fn had_no_way(&mut self) {
        self.begun = self.begun.saturating_sub(1);
        self.no_way = true;
    }

    /// Whether all may be tried again in a moment: for as long as one connect may take, and only
    /// while no backend was reached, which says that the network is there.
    fn waits_for_a_way(&self, limit: Duration) -> bool {
        let limit = self.tries.deadline.map_or(limit, |total| total.min(limit));
        self.no_way && !self.tried && self.took() < limit
    }

    fn took(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Whether there may be another one.
    fn another(&self, shared: &Shared) -> bool {
        let Tries {
            retries, budget, ..
        } = self.tries;
        retries.is_none_or(|retries| self.begun <= retries)
            && self.tries.deadline.is_none_or(|total| self.took() < total)
            && budget.as_ref().is_none_or(|it| it.retry(shared.now()))
    }
}

/// Why an attempt failed.
enum Trouble {
    Backend(ConnectFailure),
    Cut,
    /// Not the backend's fault: this host is out of descriptors, ports or memory, or has no way there.
    Own(io::Error),
}

/// This host has no route there (connect(2)).
fn is_of_the_network(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    matches!(errno, Some(libc::ENETUNREACH | libc::ENETDOWN))
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN,
            ) => Self::Own(error),
            _ if is_of_the_network(&error) => Self::Own(error),
            _ => Self::Backend(failure(&error)),
        }
    }
}

/// Where an attempt goes.
#[derive(Clone, Copy)]
struct Way<'a> {
    dialer: &'a Dialer,
    address: &'a BackendAddress,
    header: &'a [u8],
}

/// A socket in the file system is used like one of TCP: nothing on its way asks for its addresses.
async fn attempt(
    way: Way<'_>,
    first: &[u8],
    limit: Duration,
    flow: &Flow,
) -> Result<(TcpStream, usize), Trouble> {
    let Way {
        dialer,
        address,
        header,
    } = way;
    let client = flow.client.get().ip();
    let (socket, to) = dialer.open(address, Some(client)).map_err(Trouble::Own)?;
    let tells = !first.is_empty() || !header.is_empty();
    let mut opens_fast = false;
    if address.tcp().is_some() {
        socket.set_tcp_nodelay(true)?;
        // As the client's: only an orderly end is no reset (`serve`).
        socket.set_linger(Some(Duration::ZERO))?;
        if tells {
            // The handshake's last packet may wait for the bytes that follow at once.
            let _ = socket.set_tcp_quickack(false);
        }
        opens_fast = tells && dialer.opens_fast() && dial::connect_fast(&socket).is_ok();
    }
    let mut connecting = dial::begin(&socket, &to)?;
    let mut early = None;
    if opens_fast && !connecting {
        // It is not there: the SYN goes with the bytes. That one was answered shows as without them.
        early = Some(tell(&socket, header, first)?);
        connecting = true;
    }
    let stream = TcpStream::from_std(socket.into()).map_err(Trouble::Own)?;
    if connecting {
        let ready = stream.ready(Interest::WRITABLE | Interest::ERROR);
        let Ok(ready) = timeout(limit, uncut(flow, ready)).await else {
            return Err(Trouble::Backend(ConnectFailure::Timeout));
        };
        if ready.ok_or(Trouble::Cut)?.map_err(Trouble::Own)?.is_error() {
            let error = stream.take_error().map_err(Trouble::Own)?;
            return Err(error.map_or(Trouble::Backend(ConnectFailure::Other), Trouble::from));
        }
    }
    let sent = match early {
        Some(sent) if sent > 0 => sent,
        // Not through tokio, which may not have seen yet that the socket can be written.
        _ if tells => tell(&SockRef::from(&stream), header, first)?,
        _ => 0,
    };
    // The header goes at once (proxy-protocol.txt, 2). An empty buffer takes one: 536 bytes, the text's
    // limit, are less than the least that Linux gives, and than a SYN's room.
    let rest = sent.checked_sub(header.len());
    Ok((stream, rest.ok_or(Trouble::Backend(ConnectFailure::Other))?))
}

/// Sends what fits of both.
fn tell(socket: &Socket, header: &[u8], first: &[u8]) -> Result<usize, Trouble> {
    let parts = [IoSlice::new(header), IoSlice::new(first)];
    let parts = match header.is_empty() {
        true => &parts[1..],
        false => &parts[..],
    };
    match socket.send_vectored_with_flags(parts, libc::MSG_NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn failure(error: &io::Error) -> ConnectFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        io::ErrorKind::TimedOut => ConnectFailure::Timeout,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => ConnectFailure::Unreachable,
        _ => ConnectFailure::Other,
    }
}

/// The future's result, unless the flow is cut first.
pub(super) async fn uncut<F: Future>(flow: &Flow, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match flow.is_cut(cx) {
        Some(_) => Poll::Ready(None),
        None => future.as_mut().poll(cx).map(Some),
    })
    .await
}
