//! Both directions of one connection, until it ends.
//!
//! An end is passed on as an end, once everything before it was passed on. A reset or an error is
//! passed on as a reset, so that a cut answer never looks complete.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::direction::{Buffers, Direction, Fault};
use super::flows::Flow;
use super::sticky::Tap;
use super::watch::Watch;
use crate::balance::flow::FlowEnd;

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ending {
    pub(super) end: FlowEnd,
    /// Both sockets are to be reset, not closed.
    pub(super) reset: bool,
}

impl Ending {
    pub(super) const fn reset(end: FlowEnd) -> Self {
        Self { end, reset: true }
    }
}

/// Both directions.
struct Pump<'a> {
    client: ReadHalf<'a>,
    backend: ReadHalf<'a>,
    up: Direction,
    down: Direction,
    /// The backend refused bytes of the client's after it had said everything.
    refused: bool,
    flow: &'a Flow,
    /// Until the first byte of the answer, for a scheduler that wants to know.
    watch: Option<Box<Watch<'a>>>,
    buffers: &'a Buffers,
}

/// Moves bytes until the connection ends, or until the flow is cut. `up` may begin with bytes that
/// were read already; `tap` sees the answer's first ones.
///
/// Not an `async fn`: that would keep room for its arguments beside what is made of them.
pub(super) fn run<'a>(
    client: &'a mut TcpStream,
    backend: &'a mut TcpStream,
    up: Direction,
    tap: Option<Box<Tap>>,
    flow: &'a Flow,
    watch: Option<Box<Watch<'a>>>,
    buffers: &'a Buffers,
) -> impl Future<Output = Ending> + 'a {
    let (client, client_side) = client.split();
    let (backend, backend_side) = backend.split();
    let mut pump = Pump {
        client,
        backend,
        up,
        down: Direction::new(Vec::new(), 0, false).tapped(tap),
        refused: false,
        flow,
        watch,
        buffers,
    };
    async move {
        let ending = match poll_fn(|cx| pump.poll(cx, Until::HalfClosed)).await {
            Some(ending) => ending,
            None => {
                // Boxed, because most connections spend no time in this state, and those that live
                // long before it should not carry it. The side whose end was read is not read any
                // more, so that its reset must be looked for.
                let watched = if pump.up.is_done() {
                    client_side.as_ref()
                } else {
                    backend_side.as_ref()
                };
                Box::pin(pump.rest(watched)).await
            }
        };
        if let Some(watch) = pump.watch.take() {
            watch.end(ending);
        }
        pump.up.release(buffers);
        pump.down.release(buffers);
        ending
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Until {
    HalfClosed,
    End,
}

impl Pump<'_> {
    /// From the end of one direction to the end of the other.
    async fn rest(&mut self, watched: &TcpStream) -> Ending {
        let mut trouble = pin!(watched.ready(Interest::ERROR));
        let mut quiet = true;
        let ending = poll_fn(|cx| {
            // What was said before the trouble is passed on first.
            if let Poll::Ready(ending) = self.poll(cx, Until::End) {
                return Poll::Ready(ending);
            }
            if quiet && trouble.as_mut().poll(cx).is_ready() {
                quiet = false;
                if self.up.is_done() {
                    return Poll::Ready(Some(Ending::reset(FlowEnd::ClientError)));
                }
                // The backend had said everything. Its client may read that in peace.
                self.refuse();
                return self.poll(cx, Until::End);
            }
            Poll::Pending
        });
        // "Until the end" always has an ending.
        ending.await.unwrap_or(Ending::reset(FlowEnd::Dropped))
    }

    fn refuse(&mut self) {
        self.refused = true;
        self.up.discard(self.buffers);
    }

    /// `None`: one direction is done and the other one is not.
    fn poll(&mut self, cx: &mut Context<'_>, until: Until) -> Poll<Option<Ending>> {
        let reset = |end| Poll::Ready(Some(Ending::reset(end)));
        if let Some(end) = self.flow.is_cut(cx) {
            return reset(end);
        }
        if self.flow.should_look() {
            self.up.look();
            self.down.look();
        }
        match self.poll_up(cx) {
            Poll::Ready(Err(Fault::Source)) => return reset(FlowEnd::ClientError),
            Poll::Ready(Err(Fault::Target)) => return reset(FlowEnd::BackendError),
            Poll::Ready(Err(Fault::TargetClosed)) => {
                self.refuse();
                if self.poll_up(cx) == Poll::Ready(Err(Fault::Source)) {
                    return reset(FlowEnd::ClientError);
                }
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        self.look_at_watch();
        let down = self.down.poll(
            cx,
            &mut self.backend,
            self.client.as_ref(),
            &self.flow.down,
            self.up.is_done(),
            self.buffers,
        );
        self.look_at_watch();
        match down {
            Poll::Ready(Err(Fault::Source)) => return reset(FlowEnd::BackendError),
            Poll::Ready(Err(_)) => return reset(FlowEnd::ClientError),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        match (self.up.is_done(), self.down.is_done()) {
            (true, true) if self.refused => Poll::Ready(Some(Ending {
                end: FlowEnd::BackendError,
                reset: false,
            })),
            (true, true) => Poll::Ready(Some(Ending {
                end: FlowEnd::Complete,
                reset: false,
            })),
            (false, false) => Poll::Pending,
            _ if until == Until::HalfClosed => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }

    fn look_at_watch(&mut self) {
        if let Some(watch) = &mut self.watch
            && watch.look(self.flow)
        {
            self.watch = None;
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.up.poll(
            cx,
            &mut self.client,
            self.backend.as_ref(),
            &self.flow.up,
            self.down.is_done(),
            self.buffers,
        )
    }
}
