//! The kernel adapter for floating addresses: puts them on a device, tells the neighbours, answers
//! them, and reports what others do.
//!
//! Owns: the private TUN device, netlink, and the raw sockets, all on an OS thread of its own,
//! `tandem-kernel`. A netlink request can wait for a lock that anybody on the host may hold, and the
//! turn loop must not: its heartbeats would stop. Never: decides whether an address is wanted.
//!
//! Invariants:
//! * The addresses live on a device that dies with the process, and on a lease of one second that
//!   only a repeated `Hold` renews. A crash ends them by the first, a hang by the second (and by the
//!   dead-man timer, which makes it a crash). [`Kernel::stand`] is the exception; see below.
//! * A question is answered only while the address is there, the node holds it, and 900 ms have not
//!   passed since the last `Hold`.
//! * Commands of an epoch older than one seen are not carried out.
//! * No `ip` program, nothing left on the host afterwards, nothing removed that is not ours. No sysctl,
//!   but for `arp_announce` of the interfaces that carry an address where the addresses stand.
//!
//! # Addresses that stand
//!
//! After [`Kernel::stand`] the addresses are on the device for as long as it lives, held or not, so that
//! a packet that the peer hands over finds a listener at once. That two nodes have one address is safe,
//! because having it is no longer what makes a node its owner:
//!
//! * *Who gets packets.* The program at ingress of every interface that carries an address sees each
//!   packet to it before the kernel does, and lets it through by the node's lease, not by the address.
//! * *Who is asked.* The program makes an ARP question for the address one to another host, at which the
//!   kernel does not look; for IPv6 it never answers on another device's behalf. Packet sockets hear the
//!   questions all the same, and we answer while we hold. An interface without an address has no program;
//!   we warn if the kernel would answer there (`arp_ignore`).
//! * *Who speaks in its name.* IPv4 addresses have link scope there, which the kernel passes over when it
//!   chooses a source; IPv6 addresses are deprecated, so they come last, after every address of the host
//!   that fits. `arp_announce` 2 keeps them out of the kernel's own ARP questions; without it one question
//!   for a client of a connection that goes on here would bring the client's packets back here.
//! * *The end.* The device dies with the process, and all that stood on it.
//!
//! # Order of closing
//!
//! The kernel closes the files of a dying process from the highest descriptor down (measured, see
//! `net::CloseOrder`). Start this adapter before any listener or connection of the
//! data path: then clients that wait are told (reset) while the address can still send, and the
//! address goes after them, some milliseconds later. Within the adapter the device is opened last,
//! since closing a packet socket takes milliseconds, for which the address would stay.

mod addresses;
pub mod arp;
mod inbox;
mod interface;
mod monitor;
mod neighbours;
mod netlink;
mod outbox;
mod packet;
mod peer;
pub mod survey;
mod tun;
mod worker;

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::model::{NodeId, Vip};
use crate::vip::kernel::{KernelCommand, KernelReport};
use inbox::Inbox;
use outbox::Outbox;

/// Why the adapter cannot start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The name cannot be an interface's (`IFNAMSIZ`).
    #[error("cluster.device = {device:?} is no interface name; use 1 to 15 characters")]
    BadName {
        /// The name.
        device: String,
    },
    /// A device of this name is there already.
    #[error(
        "device {device} exists already: another tandem runs here, or somebody made it; stop the \
         other one, or remove the device (ip link del {device}), or choose another name in \
         cluster.device"
    )]
    DeviceExists {
        /// The name.
        device: String,
    },
    /// Something that normally works.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },
    /// IPv6 is off on the new device, and there are IPv6 addresses.
    #[error(
        "IPv6 is switched off on {device}, and there are IPv6 addresses in [[vip]]; set \
         net.ipv6.conf.default.disable_ipv6 to 0, or remove those addresses"
    )]
    NoIpv6 {
        /// The device.
        device: String,
    },
    /// The process may not make network devices.
    #[error("cannot create a network device: {0}; give the process CAP_NET_ADMIN")]
    NoNetAdmin(#[source] io::Error),
    /// The process may not open raw sockets.
    #[error("cannot open a packet socket: {0}; give the process CAP_NET_RAW")]
    NoNetRaw(#[source] io::Error),
    /// There is no TUN driver.
    #[error(
        "cannot open /dev/net/tun: {0}; load the module (modprobe tun), or give the container the \
         device"
    )]
    NoTun(#[source] io::Error),
    /// The process may not use the TUN driver.
    #[error(
        "cannot open /dev/net/tun: {0}; allow it in the unit file (DeviceAllow=/dev/net/tun rw) or \
         give the container the device"
    )]
    TunForbidden(#[source] io::Error),
}

impl KernelError {
    const fn io(what: &'static str, source: io::Error) -> Self {
        Self::Io { what, source }
    }
}

/// The adapter. Dropping it removes the device, and with it the addresses.
#[derive(Debug)]
pub struct Kernel {
    inbox: Arc<Inbox>,
    wake: UnixStream,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    /// Opens the device, netlink and the raw sockets, and tells the state of every interface that
    /// carries an address ([`KernelReport::Link`]) and where the peer of `me` is on it
    /// ([`KernelReport::Neighbour`]). No address is added yet.
    ///
    /// The thread takes a real-time priority below the turn loop's, where the host permits it.
    ///
    /// # Errors
    ///
    /// What the host lacks, with the remedy. An interface that is not there is no error: it is
    /// reported as down, and served when it comes.
    pub async fn start(
        config: &Config,
        me: NodeId,
        reports: mpsc::Sender<KernelReport>,
    ) -> Result<Self, KernelError> {
        let peer = &config.node(me.peer()).addresses;
        Self::start_on(&config.cluster.device, &config.vips, peer, reports).await
    }

    async fn start_on(
        device: &str,
        vips: &[Vip],
        peer: &[IpAddr],
        reports: mpsc::Sender<KernelReport>,
    ) -> Result<Self, KernelError> {
        let inbox = Arc::new(Inbox::default());
        let dropped = Arc::new(AtomicU64::new(0));
        let (wake, woken) =
            UnixStream::pair().map_err(|error| KernelError::io("open a socket pair", error))?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true)
                .map_err(|error| KernelError::io("set up a socket pair", error))?;
        }
        let start = worker::Start {
            device: device.to_owned(),
            vips: vips.into(),
            peer: peer.to_vec(),
            inbox: Arc::clone(&inbox),
            wake: woken,
            outbox: Outbox::new(reports, Arc::clone(&dropped)),
        };
        let (ready, outcome) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("tandem-kernel".to_owned())
            .spawn(move || worker::run(start, ready))
            .map_err(|error| KernelError::io("start the kernel thread", error))?;
        let kernel = Self {
            inbox,
            wake,
            dropped,
            thread: Some(thread),
        };
        let died = || KernelError::io("start the kernel thread", io::ErrorKind::BrokenPipe.into());
        outcome.await.map_err(|_| died())??;
        Ok(kernel)
    }

    /// Has the addresses stay on the device from now on, soon, whether this node holds them or not;
    /// never waits. Call it where a program at ingress decides which packets get to them, before the
    /// first `Hold`; there is no way back.
    ///
    /// What cannot be added is said in the log and tried again.
    pub fn stand(&self) {
        if self.inbox.stand() {
            self.wake_up();
        }
    }

    /// Carries out a command, soon; never waits. Of each kind the latest counts, and of reminders
    /// each.
    pub fn command(&self, command: KernelCommand) {
        if self.inbox.push(command) {
            self.wake_up();
        }
    }

    fn wake_up(&self) {
        // If it is full, there is a wake under way.
        let _ = (&self.wake).write(&[1]);
    }

    /// Commands that a later one replaced before they were carried out, that were of an older epoch or
    /// had no room, and reports that the turn loop had no room for.
    pub fn dropped(&self) -> u64 {
        self.inbox.superseded() + self.dropped.load(Ordering::Relaxed)
    }
}

/// Removes the device of the floating addresses, and them with it, if a process that died left it
/// behind. False: there is nothing to remove, as it should be.
///
/// # Errors
///
/// The device is of another kind, or the kernel refuses.
pub fn remove_left_over(device: &str) -> Result<bool, KernelError> {
    tun::remove_left_over(device)
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The thread reads the end and ends.
        let _ = self.wake.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
