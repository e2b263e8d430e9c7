//! New connections as fast as they can be had: one thread, plain epoll(7), nothing allocated for a
//! connection. What client and server cost is in everybody's figures, and hides what a balancer
//! costs; a task of a runtime for each connection cost four times as much as the way through the
//! kernel.
//!
//! A connection is: connect, the request together with the end of the handshake, the answer, a
//! reset. By the reset (`SO_LINGER` of 0, socket(7)) nobody is left with a `TIME_WAIT`, and ports
//! do not run out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::Instant;

use super::client::{Meter, same};
use super::server::{ANSWER, KEEP};
use crate::lab::host::Host;

/// A connection without an answer for so long is an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks for such connections.
const LOOK: Duration = Duration::from_millis(100);
/// Events that one call asks for.
pub(super) const BATCH: usize = 256;
/// Says among the events that the thread is to end.
pub(super) const STOP: u64 = u64::MAX;

/// What a [`Worker`] does until it is told [`STOP`].
pub(super) type Work = Box<dyn FnOnce(Epoll) + Send>;

/// A thread that waits for events. Ends when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread on this host.
    pub(super) async fn start<F>(host: &Host, name: &str, prepare: F) -> io::Result<Self>
    where
        F: FnOnce(&Epoll) -> io::Result<Work> + Send + 'static,
    {
        let name = format!("lab-{}-{name}", host.name());
        host.run(async move { Self::begin(name, prepare) }).await
    }

    /// Starts a thread in the namespace of the caller's.
    fn begin(name: String, prepare: impl FnOnce(&Epoll) -> io::Result<Work>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        let work = prepare(&epoll)?;
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn(move || work(epoll))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only a counter that is full cannot be written to, and that one has woken the thread.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects again and again until it is dropped; so many connections at once, in turns to these
/// addresses.
pub(super) async fn connections(
    host: &Host,
    count: usize,
    to: &[SocketAddr],
    meter: Arc<Meter>,
) -> io::Result<Worker> {
    let to: Vec<_> = to.iter().copied().cycle().take(count).collect();
    Worker::start(host, "connect", move |_| Ok(connecting(to, meter))).await
}

fn connecting(to: Vec<SocketAddr>, meter: Arc<Meter>) -> Work {
    Box::new(move |epoll| {
        if let Err(error) = connect_all(&epoll, &to, &meter) {
            meter.fail(error);
        }
    })
}

/// One connection at a time.
struct Slot {
    domain: Domain,
    to: SockAddr,
    socket: Option<Socket>,
    since: Instant,
    asked: bool,
}

fn connect_all(epoll: &Epoll, to: &[SocketAddr], meter: &Meter) -> io::Result<()> {
    let now = Instant::now();
    let slot = |to: &SocketAddr| Slot {
        domain: Domain::for_address(*to),
        to: (*to).into(),
        socket: None,
        since: now,
        asked: false,
    };
    let mut slots: Vec<_> = to.iter().map(slot).collect();
    for (n, slot) in slots.iter_mut().enumerate() {
        slot.open(epoll, n as u64)?;
    }
    let mut events = [EpollEvent::empty(); BATCH];
    let mut look = now + LOOK;
    loop {
        for event in wait(epoll, &mut events, Some(LOOK))? {
            if event.data() == STOP {
                return Ok(());
            }
            let Some(slot) = slots.get_mut(event.data() as usize) else {
                continue;
            };
            if slot.step(event.events())? {
                meter.answered(slot.since);
                slot.open(epoll, event.data())?;
            }
        }
        if Instant::now() >= look {
            look = Instant::now() + LOOK;
            if slots.iter().any(|slot| slot.since.elapsed() > PATIENCE) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Slot {
    /// Ends the connection, if there is one, and begins the next.
    fn open(&mut self, epoll: &Epoll, n: u64) -> io::Result<()> {
        // First: with the descriptor open the next would be another one.
        self.socket = None;
        self.since = Instant::now();
        self.asked = false;
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(self.domain, kind, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&self.to) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            _ => {}
        }
        // Told once of each change: none of them need be asked for or taken back.
        let changes = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&socket, EpollEvent::new(changes, n))?;
        self.socket = Some(socket);
        Ok(())
    }

    /// Does what can be done now. Whether the answer is there.
    fn step(&mut self, events: EpollFlags) -> io::Result<bool> {
        let Some(mut socket) = self.socket.as_ref() else {
            return Ok(false);
        };
        if !self.asked {
            // Also where the connect failed: it says why.
            self.asked = match socket.write(KEEP) {
                Ok(sent) if sent == KEEP.len() => true,
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => false,
                Err(error) => return Err(error),
            };
            return Ok(false);
        }
        let told = EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        if !events.intersects(told) {
            return Ok(false);
        }
        let mut answer = [0; 2 * ANSWER.len()];
        match socket.read(&mut answer) {
            Ok(got) => same(&answer[..got]).map(|()| true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Waits for events, or for the end of this time.
pub(super) fn wait<'a>(
    epoll: &Epoll,
    events: &'a mut [EpollEvent; BATCH],
    time: Option<Duration>,
) -> io::Result<&'a [EpollEvent]> {
    let time = time.map(|time| time.as_millis() as u16);
    match epoll.wait(events, time) {
        Ok(count) => Ok(&events[..count]),
        Err(Errno::EINTR) => Ok(&[]),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Block, serving};
    use super::*;

    const CONNECTIONS: u64 = 500;

    fn loopback() -> SocketAddr {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    }

    #[tokio::test]
    async fn connections_are_counted_and_everything_ends() {
        let address = loopback();
        let (block, bulk) = (Block::new().unwrap(), tokio::runtime::Handle::current());
        let serve = |epoll: &Epoll| serving(epoll, vec![address], block, bulk);
        let server = Worker::begin("serve".to_owned(), serve).unwrap();
        let meter = Arc::<Meter>::default();
        let connect = connecting(vec![address; 8], Arc::clone(&meter));
        let client = Worker::begin("connect".to_owned(), |_| Ok(connect)).unwrap();
        let start = Instant::now();
        while meter.amount() < CONNECTIONS && start.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(client);
        drop(server);
        assert!(meter.trouble().is_none());
        assert!(meter.amount() >= CONNECTIONS, "{}", meter.amount());
        assert_eq!(meter.latencies().len() as u64, meter.amount());
    }

    #[test]
    fn nobody_at_home_is_an_error() {
        let meter = Arc::<Meter>::default();
        let connect = connecting(vec![loopback()], Arc::clone(&meter));
        let mut client = Worker::begin("connect".to_owned(), |_| Ok(connect)).unwrap();
        client.thread.take().unwrap().join().unwrap();
        let kind = meter.trouble().unwrap().kind();
        assert_eq!((kind, meter.amount()), (ErrorKind::ConnectionRefused, 0));
    }
}
