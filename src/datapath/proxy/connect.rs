//! From a client to its backend: try one after another until one takes the client's first bytes.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::flows::Flow;
use super::front::Intro;
use super::worker::Worker;
use crate::balance::flow::{FlowEvent, Unserved};
use crate::balance::stick::Advice;
use crate::balance::{Load, Picks};
use crate::model::ConnectFailure;

/// A backend took the client.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    pub(super) load: Load,
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

/// Asks the scheduler for one backend after another. `first` goes out at once when a connect
/// succeeds, behind the header that the backend is to get; a backend that refuses it counts as a failed connect, and the next one gets it.
pub(super) async fn connect(
    worker: &Worker,
    service: usize,
    intro: &Intro,
    flow: &Flow,
    first: &[u8],
) -> Result<Connected, Failed> {
    let routes = worker.shared.routes.load_full();
    let route = routes.pool(service, intro.pool);
    let limit = worker.shared.services[service].connect_timeout;
    let client = flow.client.get().ip();
    let sticky = worker.shared.services[service].sticky.as_deref();
    let choice = sticky.map(|it| it.choose(intro.stick, route, worker.shared.now()));
    let mut picks = match &choice {
        None => Picks::new(client),
        Some(choice) => choice.picks(client),
    };
    // Where nobody is tried although there is somebody, all are full.
    let refused = choice
        .as_ref()
        .is_some_and(|it| it.advice == Advice::Refuse);
    let mut why = match route.pool().is_empty() || refused {
        true => Unserved::NoBackend,
        false => Unserved::Limit,
    };
    loop {
        let now = worker.measured_at(route);
        let place = picks.next(route, now, &mut worker.rng.borrow_mut());
        let Some(place) = place else {
            return Err(Failed::Unserved(why));
        };
        let Some(load) = Load::on(&route.pool()[place]) else {
            continue;
        };
        let address = load.target().address;
        let started = Instant::now();
        match attempt(address, &intro.header, first, limit, flow).await {
            Ok((stream, sent)) => {
                if let (Some(sticky), Some(choice)) = (sticky, &choice) {
                    sticky.chosen(choice, load.target().id, worker);
                }
                return Ok(Connected {
                    stream,
                    load,
                    sent,
                    took: started.elapsed(),
                });
            }
            Err(Trouble::Cut) => return Err(Failed::Cut),
            Err(Trouble::Own(error)) => {
                tracing::debug!(%address, %error, "this host cannot connect");
            }
            Err(Trouble::Backend(failure)) => {
                why = Unserved::AllFailed;
                let backend = load.target().id;
                if let Some(gauge) = load.target().gauge() {
                    gauge.failed(limit, worker.shared.now());
                }
                worker.tell(|report| report.push(FlowEvent::ConnectFailed { backend, failure }));
            }
        }
    }
}

/// Why an attempt failed.
enum Trouble {
    Backend(ConnectFailure),
    Cut,
    /// Not the backend's fault: this host is out of descriptors, ports or memory.
    Own(io::Error),
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
            _ => Self::Backend(failure(&error)),
        }
    }
}

async fn attempt(
    address: SocketAddr,
    header: &[u8],
    first: &[u8],
    limit: Duration,
    flow: &Flow,
) -> Result<(TcpStream, usize), Trouble> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // As the client's: only an orderly end is no reset (`serve`).
    socket.set_linger(Some(Duration::ZERO))?;
    if !first.is_empty() || !header.is_empty() {
        // The handshake's last packet may wait for the bytes that follow at once.
        let _ = socket.set_tcp_quickack(false);
    }
    let connecting = match socket.connect(&address.into()) {
        Ok(()) => false,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
        Err(error) => return Err(error.into()),
    };
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
    let sent = if !header.is_empty() {
        headed(&stream, header, first)?
    } else if first.is_empty() {
        0
    } else {
        // Not through tokio, which may not have seen yet that the socket can be written.
        match SockRef::from(&stream).send_with_flags(first, libc::MSG_NOSIGNAL) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        }
    };
    Ok((stream, sent))
}

/// Sends the header at once (proxy-protocol.txt, 2), and what fits of the first bytes. An empty buffer
/// takes a header: 536 bytes, the text's limit, are less than the least that Linux gives.
fn headed(stream: &TcpStream, header: &[u8], first: &[u8]) -> Result<usize, Trouble> {
    let parts = [IoSlice::new(header), IoSlice::new(first)];
    let sent = SockRef::from(stream).send_vectored_with_flags(&parts, libc::MSG_NOSIGNAL)?;
    let rest = sent.checked_sub(header.len());
    rest.ok_or(Trouble::Backend(ConnectFailure::Other))
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
