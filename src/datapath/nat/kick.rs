//! What a process leaves behind that is killed: handshakes whose answers waited in it for the
//! standby's word. Its program would let them pass now, but nobody repeats them before a second has
//! passed.
//!
//! The new master has them repeated at once, and so has a standby whose master has been silent for as
//! long as a living one never is: it asks the dead node's program for the SYN of each
//! (`packet::kick`), whose backend then sends the answer again. The frames go straight to the peer, to
//! a VIP that is on this node as well.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::ops::Range;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::packet;
use super::reference::RECENT;
use crate::config::{Acknowledge, Config};
use crate::model::Neighbour;

/// Frames of one go: the youngest handshakes come first, and are those of a quick takeover.
const AT_ONCE: u32 = 64;
/// Asked for in any case.
const LEAST: u32 = 128;
/// New connections of so many nanoseconds may wait at the end of a process that hung.
const HUNG: u64 = 500_000_000;
const SECOND: u64 = 1_000_000_000;
/// The second time of asking: a backend that remembers an older connection was told to forget it at the
/// first (`bpf/nat.bpf.c`, `forget`).
const NEXT: u64 = 20_000_000;
/// The third: the peer may have died only after this node took over.
const AGAIN: u64 = 200_000_000;
/// How often a peer that may be dead is asked, and for how many: most of it is in vain, and both hosts
/// have connections to serve.
const EVERY: u64 = 5_000_000;
const EACH: u32 = 2 * AT_ONCE;

/// Asks the peer.
#[derive(Debug)]
pub(super) struct Kicker {
    /// None: no service waits for the standby, or there is no such socket.
    socket: Option<Socket>,
    /// An address of each family, and the interface that carries it.
    vips: Vec<(IpAddr, String)>,
    neighbours: BTreeMap<String, Neighbour>,
    rounds: Rounds,
}

/// When it is asked, and for how many. Times are nanoseconds of one clock.
#[derive(Debug, Default)]
struct Rounds {
    /// When each round begins, and the number it has come to.
    times: VecDeque<(u64, u32)>,
    /// How many there are to ask for.
    count: u32,
    /// A round follows on each, since the peer may be dead.
    asking: bool,
    /// New connections of so many nanoseconds may wait where it hangs.
    hangs: u64,
    rate: Rate,
}

impl Rounds {
    /// This node has just become master.
    fn begin(&mut self, now: u64) {
        self.asking = false;
        self.set(HUNG, now);
        self.times
            .extend([NEXT, AGAIN].map(|after| (now + after, 0)));
    }

    /// The peer may be dead, or is known to live.
    fn ask(&mut self, asks: bool, now: u64) {
        if asks == self.asking {
            return;
        }
        self.asking = asks;
        self.times.clear();
        if asks {
            self.set(self.hangs, now);
        }
    }

    fn set(&mut self, wait: u64, now: u64) {
        self.rate.count(0, now);
        let likely = self.rate.now.max(self.rate.before) * wait / SECOND;
        let likely = u32::try_from(likely).unwrap_or(u32::MAX);
        self.count = (likely.saturating_add(LEAST)).min(RECENT as u32);
        self.times = [(now, 0)].into();
    }

    fn end(&mut self) {
        self.times.clear();
        self.asking = false;
    }

    /// Those that are to be asked for now.
    fn due(&mut self, now: u64) -> Range<u32> {
        let Some((at, from)) = self.times.front_mut().filter(|(at, _)| now >= *at) else {
            return 0..0;
        };
        let numbers = *from..(*from + AT_ONCE).min(self.count);
        *from = numbers.end;
        if self.asking && numbers.end.is_multiple_of(EACH) {
            *at = now + EVERY;
        }
        if numbers.end == self.count {
            self.times.pop_front();
            if self.asking {
                self.times.push_back((now + EVERY, 0));
            }
        }
        numbers
    }
}

/// New connections that the master told in this second and in the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    since: u64,
    now: u64,
    before: u64,
}

impl Rate {
    const fn count(&mut self, new: u64, now: u64) {
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
        // Those of its last turn, and of the time in which it might have turned yet.
        let hangs = config.election.heartbeat + config.election.stall();
        Self {
            socket,
            vips,
            neighbours: BTreeMap::new(),
            rounds: Rounds {
                hangs: hangs.as_nanos() as u64,
                ..Rounds::default()
            },
        }
    }

    /// Where the peer is.
    pub(super) fn meet(&mut self, interface: String, at: Neighbour) {
        self.neighbours.insert(interface, at);
    }

    /// The master told of so many new connections.
    pub(super) const fn learned(&mut self, new: u64, now: u64) {
        self.rounds.rate.count(new, now);
    }

    /// As backup: the master may be dead, or is known to live.
    pub(super) fn ask(&mut self, asks: bool, now: u64) {
        self.rounds.ask(asks, now);
    }

    /// This node has just become master.
    pub(super) fn begin(&mut self, now: u64) {
        self.rounds.begin(now);
    }

    /// This node is master no more.
    pub(super) fn end(&mut self) {
        self.rounds.end();
    }

    /// When there is something to do.
    pub(super) fn timeout(&self) -> Option<u64> {
        let (at, _) = self
            .rounds
            .times
            .front()
            .filter(|_| self.socket.is_some())?;
        Some(*at)
    }

    /// Asks for some of them.
    pub(super) fn kick(&mut self, now: u64) {
        let numbers = self.rounds.due(now);
        if numbers.is_empty() {
            return;
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

#[cfg(test)]
#[path = "kick_test.rs"]
mod tests;
