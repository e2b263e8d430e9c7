//! What a process leaves behind that is killed: handshakes whose answers waited in it for the
//! standby's word. Its program would let them pass now, but nobody repeats them before a second has
//! passed.
//!
//! The new master has them repeated at once: it asks the dead node's program for the SYN of each
//! (`packet::kick`), whose backend then sends the answer again. The frames go straight to the peer, to
//! a VIP that is on this node as well.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::packet;
use super::reference::RECENT;
use crate::config::{Acknowledge, Config};
use crate::model::Neighbour;

/// Frames of one round: the youngest handshakes come first, and are those of a quick takeover.
const AT_ONCE: u32 = 64;
/// Asked for in any case.
const LEAST: u32 = 128;
/// New connections of so many nanoseconds may wait at the end of a process that hung.
const HUNG: u64 = 500_000_000;
const SECOND: u64 = 1_000_000_000;
/// The second time of asking: the peer may have died only after this node took over.
const AGAIN: u64 = 200_000_000;

/// Asks the peer.
#[derive(Debug)]
pub(super) struct Kicker {
    /// None: no service waits for the standby, or there is no such socket.
    socket: Option<Socket>,
    /// An address of each family, and the interface that carries it.
    vips: Vec<(IpAddr, String)>,
    neighbours: BTreeMap<String, Neighbour>,
    /// When each time of asking begins, and the number it has come to.
    times: VecDeque<(u64, u32)>,
    /// How many there are to ask for.
    count: u32,
    /// New connections that the master told in this second and in the one before.
    rate: Rate,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    since: u64,
    now: u64,
    before: u64,
}

impl Rate {
    fn count(&mut self, new: u64, now: u64) {
        let seconds = now.saturating_sub(self.since) / SECOND;
        if seconds > 0 {
            self.before = if seconds == 1 { self.now } else { 0 };
            (self.since, self.now) = (now, 0);
        }
        self.now += new;
    }
}

impl Kicker {
    pub(super) fn open(config: &Config) -> Self {
        let mut vips: Vec<(IpAddr, String)> = Vec::new();
        for vip in &config.vips {
            if vips
                .iter()
                .all(|(ip, _)| ip.is_ipv4() != vip.ip().is_ipv4())
            {
                vips.push((vip.ip(), vip.interface.clone()));
            }
        }
        let sync = config.services.iter().any(|service| {
            let mode = service.kernel.as_ref();
            mode.is_some_and(|mode| mode.replication == Acknowledge::Sync)
        });
        let socket = (sync && config.cluster.relay).then(open);
        let socket = socket.and_then(|socket| {
            let warn = |error: &io::Error| {
                tracing::warn!(
                    "cannot open a packet socket: {error}; handshakes in a master that \
                     is killed take a second"
                );
            };
            socket.inspect_err(warn).ok()
        });
        Self {
            socket,
            vips,
            neighbours: BTreeMap::new(),
            times: VecDeque::new(),
            count: 0,
            rate: Rate::default(),
        }
    }

    /// Where the peer is.
    pub(super) fn meet(&mut self, interface: String, at: Neighbour) {
        self.neighbours.insert(interface, at);
    }

    /// The master told of so many new connections.
    pub(super) fn learned(&mut self, new: u64, now: u64) {
        self.rate.count(new, now);
    }

    /// This node has just become master.
    pub(super) fn begin(&mut self, now: u64) {
        self.rate.count(0, now);
        let likely = self.rate.now.max(self.rate.before) * HUNG / SECOND;
        let likely = u32::try_from(likely).unwrap_or(u32::MAX);
        self.count = (likely.saturating_add(LEAST)).min(RECENT as u32);
        self.times = [(now, 0), (now + AGAIN, 0)].into();
    }

    /// This node is master no more.
    pub(super) fn end(&mut self) {
        self.times.clear();
    }

    /// When there is something to do.
    pub(super) fn timeout(&self) -> Option<u64> {
        let (at, _) = self.times.front().filter(|_| self.socket.is_some())?;
        Some(*at)
    }

    /// Asks for some of them.
    pub(super) fn kick(&mut self, now: u64) {
        let Some((at, from)) = self.times.front_mut() else {
            return;
        };
        if now < *at {
            return;
        }
        let numbers = *from..(*from + AT_ONCE).min(self.count);
        *from = numbers.end;
        if numbers.end == self.count {
            self.times.pop_front();
        }
        let Some(socket) = &self.socket else { return };
        for (vip, interface) in &self.vips {
            let at = self.neighbours.get(interface);
            let Some((index, peer, own)) = at.and_then(|at| Some((at.index, at.peer?, at.own)))
            else {
                continue;
            };
            let kind: [u8; 2] = if vip.is_ipv4() {
                [0x08, 0x00]
            } else {
                [0x86, 0xdd]
            };
            let to = address(index);
            for number in numbers.clone() {
                let mut frame = [&peer.0[..], &own.0, &kind].concat();
                frame.extend(packet::kick(*vip, *vip, number).bytes);
                // The client asks again by itself, after a second.
                if socket.send_to(&frame, &to).is_err() {
                    return;
                }
            }
        }
    }
}

/// Receives nothing (packet(7): protocol 0).
fn open() -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))
}

fn address(interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types of this platform, and all-zero is valid.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_ifindex = interface as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: a whole sockaddr_ll was written above.
    unsafe { SockAddr::new(storage, length) }
}
