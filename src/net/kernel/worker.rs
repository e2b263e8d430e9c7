//! The kernel thread: one loop over everything that can happen.
//!
//! After each wake it looks at every source. All of them are non-blocking, and one that has nothing
//! costs less than keeping a list of those that have. Neighbours come before commands, so that what
//! was said before a `Hold` (by the old master, say) is not taken for a rival of the new one.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_route::link::LinkFlags;
use tokio::sync::oneshot;

use super::KernelError;
use super::addresses::Addresses;
use super::inbox::{Inbox, Work};
use super::monitor::{Change, Monitor};
use super::neighbours::Neighbours;
use super::netlink::Netlink;
use super::outbox::Outbox;
use super::packet;
use super::peer::Peer;
use super::tun::Tun;
use crate::model::Vip;
use crate::net::clock::Clock;
use crate::net::guard;
use crate::time::Mono;
use crate::vip::kernel::KernelCommand;

/// Real-time priority, below the turn loop's, so that a storm of questions cannot keep heartbeats
/// waiting.
const PRIORITY: i32 = 20;
/// Pause before the turn loop is offered again what did not fit.
const OUTBOX_RETRY: Duration = Duration::from_millis(5);

/// What the thread is started with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) device: String,
    pub(super) vips: Arc<[Vip]>,
    /// The peer's node addresses.
    pub(super) peer: Vec<IpAddr>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) wake: UnixStream,
    pub(super) outbox: Outbox,
}

/// The thread's main function.
pub(super) fn run(start: Start, ready: oneshot::Sender<Result<(), KernelError>>) {
    // Where that is not permitted, the turn loop says so for the whole process.
    if let Err(text) = guard::real_time(PRIORITY) {
        tracing::debug!("kernel thread: {text}");
    }
    match Worker::open(start) {
        // If nobody waits for the news, the wake socket is closed too and the loop ends.
        Ok(worker) => {
            let _ = ready.send(Ok(()));
            worker.run();
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
}

/// Fields close in this order; see `mod.rs`.
struct Worker {
    addresses: Addresses,
    neighbours: Neighbours,
    netlink: Netlink,
    monitor: Monitor,
    vips: Arc<[Vip]>,
    changes: Vec<Change>,
    inbox: Arc<Inbox>,
    outbox: Outbox,
    wake: UnixStream,
    clock: Clock,
}

impl Worker {
    fn open(start: Start) -> Result<Self, KernelError> {
        let Start {
            device,
            vips,
            peer,
            inbox,
            wake,
            mut outbox,
        } = start;
        let mut netlink =
            Netlink::open().map_err(|error| KernelError::io("open netlink", error))?;
        let monitor =
            Monitor::open().map_err(|error| KernelError::io("listen on netlink", error))?;
        let peer = Peer::open(peer)
            .map_err(|error| KernelError::io("listen for neighbours on netlink", error))?;
        packet::permitted()?;
        // After both listen, so that no change falls between.
        let mut neighbours = Neighbours::new(peer);
        neighbours.reread(&mut netlink, &mut outbox);
        neighbours.serve(&mut netlink, &vips, &mut outbox);
        // Last, so that its descriptor is the highest of ours and closes first; see `mod.rs`.
        let ipv6 = vips.iter().any(|vip| vip.ip().is_ipv6());
        let tun = Tun::create_patiently(&mut netlink, &device, ipv6)?;
        Ok(Self {
            addresses: Addresses::new(device, ipv6, tun),
            neighbours,
            netlink,
            monitor,
            vips,
            changes: Vec::new(),
            inbox,
            outbox,
            wake,
            clock: Clock::start(),
        })
    }

    fn run(mut self) {
        while self.wait() {
            let now = self.clock.now();
            let addresses = &self.addresses;
            let holds = |ip| addresses.holds(ip, now);
            self.neighbours.hear(holds, now, &mut self.outbox);
            let Work { stand, commands } = self.inbox.take();
            if stand {
                self.stand();
            }
            for command in commands {
                self.carry_out(command);
            }
            let now = self.clock.now();
            self.monitor.drain(&mut self.changes);
            self.handle_changes(now);
            self.neighbours.watch(&mut self.netlink, &mut self.outbox);
            self.addresses
                .drain(&mut self.netlink, &mut self.outbox, now);
            self.addresses
                .handle_timeout(&mut self.netlink, &mut self.outbox, now);
        }
    }

    /// Sleeps until something happens. False: it is time to end.
    fn wait(&mut self) -> bool {
        let now = self.clock.now();
        let retry = (!self.outbox.flush()).then(|| now + OUTBOX_RETRY);
        let deadline = self.addresses.deadline().into_iter().chain(retry).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |at| until(at, now));
        let tun = self.addresses.tun().map(AsFd::as_fd);
        let mut fds: Vec<PollFd<'_>> = [self.wake.as_fd(), self.monitor.as_fd()]
            .into_iter()
            .chain(tun)
            .chain(self.neighbours.fds())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // Interrupted, or out of memory for a moment: all sources are looked at anyway.
        let _ = poll(&mut fds, timeout);
        drop(fds);
        let mut bytes = [0; 64];
        match self.wake.read(&mut bytes) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => {
                let kind = error.kind();
                matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    fn stand(&mut self) {
        let now = self.clock.now();
        let (netlink, outbox) = (&mut self.netlink, &mut self.outbox);
        // The settings first: from the first moment on the kernel is to be silent.
        self.neighbours.stand(netlink, outbox);
        self.addresses.stand(netlink, outbox, &self.vips, now);
    }

    fn carry_out(&mut self, command: KernelCommand) {
        let now = self.clock.now();
        let Self {
            addresses,
            neighbours,
            netlink,
            outbox,
            ..
        } = self;
        match command {
            KernelCommand::Hold { epoch, vips } => {
                addresses.hold(netlink, outbox, epoch, &vips, now);
                neighbours.serve(netlink, &vips, outbox);
            }
            KernelCommand::Announce { epoch, vips } => {
                if addresses.holds_all(epoch, now) {
                    neighbours.announce(netlink, &vips);
                }
            }
            KernelCommand::Release { epoch } => addresses.release(netlink, outbox, epoch, now),
            KernelCommand::Remind { stale, at, .. } => {
                if !addresses.holds(stale.vip, now) {
                    neighbours.remind(&stale, at);
                }
            }
        }
    }

    fn handle_changes(&mut self, now: Mono) {
        let device = self.addresses.tun().map(Tun::index);
        let (mut links, mut reread, mut check, mut down) = (false, false, false, false);
        for change in self.changes.drain(..) {
            match change {
                Change::AddressGone(index) => check |= Some(index) == device,
                Change::Link(link) => {
                    let ours = Some(link.header.index) == device;
                    down |= ours && !link.header.flags.contains(LinkFlags::Up);
                    self.neighbours.learn(&link);
                    links = true;
                }
                Change::LinkGone(index) => {
                    self.neighbours.forget(index);
                    links = true;
                }
                Change::Overrun => reread = true,
            }
        }
        let (netlink, outbox) = (&mut self.netlink, &mut self.outbox);
        if reread {
            tracing::warn!("netlink changes were lost; reading links and addresses anew");
            self.neighbours.reread(netlink, outbox);
        } else if links {
            self.neighbours.refresh(netlink, outbox);
        }
        if down || reread {
            self.addresses.device_down(netlink, outbox, now);
        } else if check {
            self.addresses.check(netlink, outbox, now);
        }
    }
}

/// Rounded up, so that it is not woken too early.
fn until(at: Mono, now: Mono) -> PollTimeout {
    let millis = at.since(now).as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}
