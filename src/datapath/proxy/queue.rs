//! Clients that wait while all backends of their pool are full.
//!
//! A place that becomes free is given to the client who came first, and only that one wakes. While
//! anybody waits, no newcomer takes a place. Who gives a place up looks whether somebody waits, and
//! who begins to wait looks whether there is a place, each after its own word is written: so one of
//! them sees the other (the fences below).

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::connect::{Failed, uncut};
use super::flows::Flow;
use super::front::First;
use super::shared::Shared;
use crate::balance::flow::Unserved;
use crate::balance::queue::{Offer, Queue};
use crate::balance::{Load, Picks, Routes};
use crate::config::Limits;

/// Those who wait for one pool.
#[derive(Debug)]
pub(super) struct Line {
    /// In milliseconds.
    timeout: AtomicU64,
    inner: Mutex<Inner>,
    /// How many wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    queue: Queue<Waiting>,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Waiting {
    client: IpAddr,
    picks: Picks,
    /// What `picks` chooses from.
    routes: Arc<Routes>,
    turn: Option<oneshot::Sender<Turn>>,
}

/// A client's place on a backend.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) picks: Picks,
    pub(super) routes: Arc<Routes>,
    pub(super) load: Load,
}

/// A pool of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) service: usize,
    pub(super) pool: Option<u16>,
}

/// A connection's weight on its backend. Without it somebody who waits may have the place.
#[derive(Debug)]
pub(super) struct Held {
    /// None while it is dropped.
    load: Option<Load>,
    /// None: nobody ever waits here. Boxed, since every connection carries this.
    line: Option<Box<(Arc<Shared>, Place)>>,
}

impl Held {
    pub(super) fn new(load: Load, shared: &Arc<Shared>, place: Place) -> Self {
        let line = shared
            .line(place)
            .map(|_| Box::new((Arc::clone(shared), place)));
        Self {
            load: Some(load),
            line,
        }
    }
}

impl Deref for Held {
    type Target = Load;

    fn deref(&self) -> &Load {
        self.load.as_ref().expect("taken by drop only")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.load = None;
        let Some((shared, place)) = self.line.as_deref() else {
            return;
        };
        if let Some(line) = shared.line(*place) {
            line.advance(shared, *place);
        }
    }
}

impl Line {
    /// None: nobody waits.
    pub(super) fn of(limits: &Limits) -> Option<Self> {
        (limits.queue_size > 0).then(|| Self {
            timeout: AtomicU64::new(limits.queue_timeout.as_millis() as u64),
            inner: Mutex::new(Inner {
                queue: Queue::new(limits.queue_size as usize),
                rng: fastrand::Rng::with_seed(limits.queue_size.into()),
            }),
            waiting: AtomicUsize::new(0),
        })
    }

    /// These are the limits for those who come from now on.
    pub(super) fn set(&self, limits: &Limits) {
        let timeout = limits.queue_timeout.as_millis() as u64;
        self.timeout.store(timeout, Ordering::Relaxed);
        self.lock().queue.resize(limits.queue_size as usize);
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// There may be places: those who wait get them, in their order.
    pub(super) fn advance(&self, shared: &Shared, place: Place) {
        fence(Ordering::SeqCst);
        if !self.is_empty() {
            self.serve(&mut self.lock(), shared, place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, inner: &mut Inner, shared: &Shared, place: Place) {
        let routes = shared.routes.load_full();
        let route = routes.pool(place.service, place.pool);
        let now = match route.needs_time() {
            true => shared.now(),
            false => Duration::ZERO,
        };
        let Inner { queue, rng } = inner;
        queue.serve(|one| {
            if !Arc::ptr_eq(&one.routes, &routes) {
                let old = one.routes.pool(place.service, place.pool);
                one.picks.move_on(old, route);
                one.routes = Arc::clone(&routes);
            }
            loop {
                let Some(chosen) = one.picks.next(route, now, rng) else {
                    return match one.picks.takes_any() {
                        true => Offer::NothingLeft,
                        false => Offer::NotForIt,
                    };
                };
                let Some(load) = Load::on(&route.pool()[chosen]) else {
                    one.picks.untried();
                    continue;
                };
                let fresh = Picks::new(one.client);
                let turn = Turn {
                    picks: std::mem::replace(&mut one.picks, fresh),
                    routes: Arc::clone(&routes),
                    load,
                };
                // Who has left meanwhile gives the place back, and the next one is asked.
                let _ = one.turn.take().map(|sender| sender.send(turn));
                return Offer::Taken;
            }
        });
        self.waiting.store(queue.len(), Ordering::Relaxed);
    }

    /// Waits for a place.
    pub(super) async fn wait(
        &self,
        shared: &Arc<Shared>,
        place: Place,
        (picks, routes): (Picks, Arc<Routes>),
        flow: &Flow,
        (client, first): (&TcpStream, &First),
    ) -> Result<Turn, Failed> {
        let timeout = Duration::from_millis(self.timeout.load(Ordering::Relaxed));
        let deadline = Instant::now() + timeout;
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut inner = self.lock();
            let one = Waiting {
                client: flow.client.get().ip(),
                picks,
                routes,
                turn: Some(sender),
            };
            let Some(number) = inner.queue.enter(one) else {
                return Err(Failed::Unserved(Unserved::Limit));
            };
            self.waiting.store(inner.queue.len(), Ordering::Relaxed);
            fence(Ordering::SeqCst);
            self.serve(&mut inner, shared, place);
            number
        };
        let mut stay = Stay {
            line: self,
            shared,
            place,
            number,
            receiver,
        };
        let turn = async {
            tokio::select! {
                biased;
                turn = &mut stay.receiver => turn.map_err(|_| Failed::Cut),
                () = gone(client, first) => Err(Failed::Cut),
                () = sleep_until(deadline) => Err(Failed::Unserved(Unserved::QueueTimeout)),
            }
        };
        uncut(flow, turn).await.unwrap_or(Err(Failed::Cut))
    }
}

/// Leaves the line, however the waiting ends.
struct Stay<'a> {
    line: &'a Line,
    shared: &'a Arc<Shared>,
    place: Place,
    number: u64,
    receiver: oneshot::Receiver<Turn>,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let left = {
            let mut inner = self.line.lock();
            let left = inner.queue.leave(self.number);
            self.line
                .waiting
                .store(inner.queue.len(), Ordering::Relaxed);
            left
        };
        // The turn came at the moment of leaving: it is somebody else's.
        if left.is_none()
            && let Ok(turn) = self.receiver.try_recv()
        {
            drop(Held::new(turn.load, self.shared, self.place));
        }
    }
}

/// Waits until the client has left: it reset the connection, or ended it without having said
/// anything. One that said something and then ended may still want its answer (RFC 9293, 3.6).
async fn gone(client: &TcpStream, first: &First) {
    let mut spoke = !first.bytes.is_empty();
    if first.ended && !spoke {
        return;
    }
    while !spoke {
        let Ok(ready) = client.ready(Interest::READABLE | Interest::ERROR).await else {
            return;
        };
        if ready.is_error() {
            return;
        }
        let peek = || SockRef::from(client).peek(&mut [std::mem::MaybeUninit::uninit()]);
        match client.try_io(Interest::READABLE, peek) {
            Ok(0) => return,
            Ok(_) => spoke = true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    let _ = client.ready(Interest::ERROR).await;
}
