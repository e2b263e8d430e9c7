//! What the node orders of the thread that serves the program, and how the thread is woken.
//!
//! Orders that come in crowds (what the standby acknowledges, what the master tells) do not wake a
//! thread that naps: they gather, and are done together when the nap is over. All others end it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fmt, io};

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::backlog::{Backlog, weight};
use crate::balance::nat::NatCommand;
use crate::status::NatStatus;
use crate::wire::admin::FlowStatus;

/// Items that are learned at once, about: a write to the table has so many.
const TOGETHER: usize = 4_096;

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Order {
    Command(NatCommand),
    Measure(Vec<FlowStatus>, Measured),
    /// Nobody is left who could order anything.
    Leave,
    Stop,
}

impl Order {
    /// Whether it can wait for the end of a nap, so that others like it gather.
    const fn comes_in_crowds(&self) -> bool {
        matches!(
            self,
            Self::Command(NatCommand::Acknowledged { .. } | NatCommand::Learn(_))
        )
    }
}

/// Takes connections back once what they moved is filled in.
pub(super) struct Measured(Box<dyn FnOnce(Vec<FlowStatus>) + Send>);

impl Measured {
    pub(super) fn with(self, flows: Vec<FlowStatus>) {
        (self.0)(flows);
    }
}

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Measured")
    }
}

/// What both ends have.
#[derive(Debug)]
struct Bell {
    event: EventFd,
    napping: AtomicBool,
    /// Orders that wait, and are not to.
    urgent: AtomicUsize,
    backlog: Backlog,
}

/// The orders' way out and in.
pub(super) fn open() -> io::Result<(Outbox, Inbox)> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let bell = Arc::new(Bell {
        event: EventFd::from_value_and_flags(0, flags)?,
        napping: AtomicBool::new(false),
        urgent: AtomicUsize::new(0),
        backlog: Backlog::default(),
    });
    let (orders, received) = mpsc::channel();
    let inbox = Inbox {
        orders: received,
        next: None,
        bell: Arc::clone(&bell),
    };
    Ok((Outbox { orders, bell }, inbox))
}

/// Where orders go in.
#[derive(Debug)]
pub(super) struct Outbox {
    orders: Sender<Order>,
    bell: Arc<Bell>,
}

impl Outbox {
    fn put(&self, order: Order) {
        let urgent = !order.comes_in_crowds();
        if let Order::Command(command) = &order {
            self.bell.backlog.add(weight(command));
        }
        self.bell.urgent.fetch_add(urgent.into(), Ordering::Relaxed);
        // The thread ends at our word only.
        let _ = self.orders.send(order);
        // Either this sees that the nap is over, or the round after the nap sees the order.
        fence(Ordering::SeqCst);
        if urgent || !self.bell.napping.load(Ordering::Relaxed) {
            // It fails only if the number is at its end: then it wakes already.
            let _ = self.bell.event.write(1);
        }
    }
}

/// Where the thread finds them.
#[derive(Debug)]
pub(super) struct Inbox {
    orders: Receiver<Order>,
    /// Came after what it could not be put together with.
    next: Option<Order>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// The next one, if there is one. What is to be learned comes together.
    pub(super) fn next(&mut self) -> Option<Order> {
        let mut order = self.next.take().or_else(|| self.receive())?;
        if let Order::Command(NatCommand::Learn(items)) = &mut order {
            while items.len() < TOGETHER {
                match self.receive() {
                    Some(Order::Command(NatCommand::Learn(more))) => items.extend(more),
                    next => {
                        self.next = next;
                        break;
                    }
                }
            }
        }
        let urgent = !order.comes_in_crowds();
        self.bell.urgent.fetch_sub(urgent.into(), Ordering::Relaxed);
        Some(order)
    }

    /// A command of this weight was carried out.
    pub(super) fn done(&self, weight: usize) {
        self.bell.backlog.done(weight);
    }

    fn receive(&self) -> Option<Order> {
        match self.orders.try_recv() {
            Ok(order) => Some(order),
            Err(TryRecvError::Disconnected) => Some(Order::Leave),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// Sleeps, unless something that is not to wait comes, or was left by a round that had enough.
    pub(super) fn nap(&self, time: Duration) {
        if self.bell.urgent.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.bell.napping.store(true, Ordering::Relaxed);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        // Whatever it says, the next round looks at everything.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(time)), None);
        self.bell.napping.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.woken();
    }

    /// Not readable any more; an order that comes after this makes it so again.
    pub(super) fn woken(&self) {
        let _ = self.bell.event.read();
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }
}

/// To the thread. Dropped without [`stop`](Self::stop), the thread ends and leaves the program
/// running under its lease, as a process that was killed does.
#[derive(Debug)]
pub struct NatHandle {
    orders: Option<Outbox>,
    status: Arc<ArcSwap<NatStatus>>,
    thread: Option<JoinHandle<()>>,
}

impl NatHandle {
    pub(super) const fn new(
        orders: Outbox,
        status: Arc<ArcSwap<NatStatus>>,
        thread: JoinHandle<()>,
    ) -> Self {
        Self {
            orders: Some(orders),
            status,
            thread: Some(thread),
        }
    }

    /// Never waits, and none is lost: take heed of [`is_behind`](Self::is_behind).
    pub fn command(&self, command: NatCommand) {
        self.order(Order::Command(command));
    }

    /// Much waits to be carried out: what leads to more is to wait until it has
    /// [`caught_up`](Self::caught_up).
    pub fn is_behind(&self) -> bool {
        let orders = self.orders.as_ref();
        orders.is_some_and(|orders| orders.bell.backlog.is_full())
    }

    /// See [`is_behind`](Self::is_behind).
    pub async fn caught_up(&self) {
        if let Some(orders) = &self.orders {
            orders.bell.backlog.room().await;
        }
    }

    /// Fills in what this node has forwarded of these connections, and gives them to `done`. Never
    /// waits.
    pub fn measure(
        &self,
        flows: Vec<FlowStatus>,
        done: impl FnOnce(Vec<FlowStatus>) + Send + 'static,
    ) {
        self.order(Order::Measure(flows, Measured(Box::new(done))));
    }

    /// How it is, or was within the last 200 ms. Never waits.
    pub fn status(&self) -> Arc<NatStatus> {
        self.status.load_full()
    }

    /// Takes the program off the interfaces, removes its tables, and waits until that is done.
    pub fn stop(mut self) {
        self.order(Order::Stop);
        self.end();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            orders.put(order);
        }
    }

    fn end(&mut self) {
        if let Some(orders) = self.orders.take() {
            orders.put(Order::Leave);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the kernel mode's thread had ended");
        }
    }
}

impl Drop for NatHandle {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::wire::replication::{Item, NatKey};

    const LONG: Duration = Duration::from_secs(60);

    fn learn() -> Order {
        let client = "203.0.113.1:1000".parse().unwrap();
        let service = "192.0.2.1:80".parse().unwrap();
        let key = NatKey { client, service };
        Order::Command(NatCommand::Learn(vec![Item::NatClose { key }]))
    }

    /// Whether a nap of this length was ended by what this puts into the box.
    #[expect(clippy::disallowed_methods, reason = "it measures the kernel")]
    fn ends_a_nap(time: Duration, orders: impl FnOnce(&Outbox) + Send) -> bool {
        let (outbox, mut inbox) = open().unwrap();
        let began = Instant::now();
        let bell = Arc::clone(&inbox.bell);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !bell.napping.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                orders(&outbox);
            });
            inbox.nap(time);
        });
        assert!(inbox.next().is_some());
        began.elapsed() < time
    }

    #[test]
    fn crowds_gather_and_the_rest_ends_a_nap() {
        assert!(ends_a_nap(LONG, |outbox| outbox.put(Order::Command(NatCommand::Lead))));
        assert!(ends_a_nap(LONG, |outbox| {
            outbox.put(learn());
            outbox.put(Order::Stop);
        }));
        assert!(!ends_a_nap(Duration::from_millis(50), |outbox| {
            outbox.put(learn());
        }));
    }

    #[test]
    fn what_a_round_left_over_is_not_slept_upon() {
        let (outbox, mut inbox) = open().unwrap();
        outbox.put(learn());
        outbox.put(Order::Command(NatCommand::Lead));
        // An earlier nap was ended by it already.
        inbox.woken();
        inbox.nap(LONG);
        assert!(matches!(
            inbox.next(),
            Some(Order::Command(NatCommand::Learn(_)))
        ));
        inbox.nap(LONG);
        assert!(matches!(
            inbox.next(),
            Some(Order::Command(NatCommand::Lead))
        ));
    }

    #[test]
    fn who_is_awake_hears_of_everything() {
        let (outbox, mut inbox) = open().unwrap();
        outbox.put(learn());
        let mut fds = [PollFd::new(inbox.as_fd(), PollFlags::POLLIN)];
        assert_eq!(ppoll(&mut fds, Some(Duration::ZERO.into()), None), Ok(1));
        drop(outbox);
        assert!(matches!(inbox.next(), Some(Order::Command(_))));
        assert!(matches!(inbox.next(), Some(Order::Leave)));
    }

    #[test]
    fn what_is_learned_comes_together_and_in_order() {
        let (outbox, mut inbox) = open().unwrap();
        let command = |command| outbox.put(Order::Command(command));
        outbox.put(learn());
        outbox.put(learn());
        command(NatCommand::SnapshotBegin);
        outbox.put(learn());
        command(NatCommand::Lead);
        let learned = |order| match order {
            Some(Order::Command(NatCommand::Learn(items))) => items.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(learned(inbox.next()), 2);
        let begin = inbox.next();
        assert!(matches!(
            begin,
            Some(Order::Command(NatCommand::SnapshotBegin))
        ));
        assert_eq!(learned(inbox.next()), 1);
        assert!(matches!(
            inbox.next(),
            Some(Order::Command(NatCommand::Lead))
        ));
        assert!(inbox.next().is_none());
    }
}
