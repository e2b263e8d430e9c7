//! Counts frames on the lab's switch: who sends what to whom, so that a loop or a storm shows.
//!
//! Each frame is counted once, where it enters the switch: at the port of the host that sent it, in
//! the name of the Ethernet address that it bears. A super-frame of a sender with segmentation
//! offload is one frame. Owns: a packet socket and the thread that reads it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, SockFlag, recvfrom, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::error::LabError;
use super::packet;
use super::topology::{Lan, Network, SOURCE4, SOURCE6, VIP4, VIP6};
use crate::model::Mac;

/// Frames counted at most; a storm is one long before.
const MOST: u64 = 5_000_000;
/// Pairs of Ethernet addresses that are told apart.
const PAIRS: usize = 4_096;
/// Ethernet, IPv6 and TCP without options.
const READ: usize = 14 + 40 + 20;
/// What waits to be counted, in bytes.
const ROOM: usize = 64 << 20;
/// Time between two looks at whether it is over.
const LOOK: i64 = 50;
/// For the last frames to come out of the switch's queues.
const SETTLE: Duration = Duration::from_millis(100);

/// What a frame carries.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Carries {
    /// A packet to a floating address.
    ToVip,
    /// A packet from one.
    FromVip,
    /// Anything else.
    Other,
}

/// Frames of one kind from one Ethernet address to another.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// All.
    pub frames: u64,
    /// TCP segments among them that reset.
    pub resets: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pairs: BTreeMap<(Mac, Mac, Carries), Count>,
    /// So many were counted.
    pub total: u64,
    /// So many came and were not counted.
    pub missed: u64,
}

impl Counts {
    /// Frames of this kind that `from` sent to `to`; none stands for everybody.
    pub fn sum(&self, from: Option<Mac>, to: Option<Mac>, carries: Carries) -> Count {
        let matches = |wanted: Option<Mac>, is: Mac| wanted.is_none_or(|wanted| wanted == is);
        let all = self.pairs.iter();
        let of = all.filter(|((f, t, c), _)| matches(from, *f) && matches(to, *t) && *c == carries);
        of.fold(Count::default(), |sum, (_, count)| Count {
            frames: sum.frames + count.frames,
            resets: sum.resets + count.resets,
        })
    }

    fn add(&mut self, frame: &[u8], only: Option<IpAddr>) {
        let Some(seen) = look(frame) else {
            return;
        };
        if only.is_some_and(|only| seen.source != Some(only)) {
            return;
        }
        let full = self.pairs.len() >= PAIRS && !self.pairs.contains_key(&seen.pair);
        if self.total >= MOST || full {
            self.missed += 1;
            return;
        }
        self.total += 1;
        let count = self.pairs.entry(seen.pair).or_default();
        count.frames += 1;
        count.resets += u64::from(seen.resets);
    }
}

/// A counter at work. Ends when dropped.
#[derive(Debug)]
pub struct Tap {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Counts>>>,
}

impl Tap {
    /// Starts to count: all frames, or only IP packets whose source is this address, in whosever
    /// name they pass.
    ///
    /// # Errors
    ///
    /// If the packet socket cannot be opened.
    pub async fn start(network: &Network, only: Option<IpAddr>) -> Result<Self, LabError> {
        let opened = network.switch().run(async { open() }).await;
        let fd = opened.map_err(LabError::io("open a packet socket"))?;
        let over = Arc::<AtomicBool>::default();
        let told = over.clone();
        let thread = thread::Builder::new()
            .name("lab-tap".to_owned())
            .spawn(move || count(&fd, only, &told))
            .map_err(LabError::io("start the thread of a tap"))?;
        let thread = Some(thread);
        Ok(Self { over, thread })
    }

    /// Waits for frames that are under way, and gives what was counted.
    ///
    /// # Errors
    ///
    /// If the socket failed.
    pub async fn stop(mut self) -> Result<Counts, LabError> {
        tokio::time::sleep(SETTLE).await;
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only this ends it");
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        let counts = joined.expect("it waits").expect("it does not panic");
        counts.map_err(LabError::io("read a packet socket"))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn open() -> io::Result<OwnedFd> {
    let fd = packet::open(libc::ETH_P_ALL, 0, SockFlag::empty())?;
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and the pointer is to one that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(set)?;
    // Beyond what the host allows, where we may.
    if setsockopt(&fd, sockopt::RcvBufForce, &ROOM).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &ROOM)?;
    }
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK))?;
    Ok(fd)
}

fn count(fd: &OwnedFd, only: Option<IpAddr>, over: &AtomicBool) -> io::Result<Counts> {
    let bridges = Lan::BOTH.map(|lan| lan.bridge() as usize);
    let mut counts = Counts::default();
    let mut frame = [0; READ];
    loop {
        match recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut frame) {
            // A bridge's own device repeats what came in by one of its ports.
            Ok((_, Some(at))) if bridges.contains(&at.ifindex()) => {}
            Ok((length, _)) => counts.add(&frame[..length], only),
            Err(Errno::EAGAIN | Errno::EINTR) if over.load(Ordering::Relaxed) => break,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(errno) => return Err(errno.into()),
        }
        if counts.missed > MOST {
            break;
        }
    }
    counts.missed += u64::from(dropped(fd)?);
    Ok(counts)
}

/// Frames for which the socket had no room.
fn dropped(fd: &OwnedFd) -> io::Result<u32> {
    let mut stats = [0_u32; 2];
    let mut length = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the option is a tpacket_stats, two 32-bit numbers, and both pointers outlive the call.
    let got = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    Errno::result(got)?;
    Ok(stats[1])
}

/// What matters of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    pair: (Mac, Mac, Carries),
    /// Of the IP packet in it, if there is one.
    source: Option<IpAddr>,
    resets: bool,
}

fn look(frame: &[u8]) -> Option<Seen> {
    let mac = |at: usize| frame.get(at..at + 6)?.try_into().ok().map(Mac);
    let (to, from) = (mac(0)?, mac(6)?);
    let packet = packet(frame);
    Some(Seen {
        pair: (from, to, packet.map_or(Carries::Other, |it| it.0)),
        source: packet.map(|it| it.1),
        resets: packet.is_some_and(|it| it.2),
    })
}

/// What the IP packet in a frame is for the pair, where it comes from, and whether it is a segment
/// that resets.
fn packet(frame: &[u8]) -> Option<(Carries, IpAddr, bool)> {
    const TCP: u8 = 6;
    const RST: u8 = 4;
    let ip = frame.get(14..)?;
    let v4 = |at: usize| {
        let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(bytes)))
    };
    let v6 = |at: usize| {
        let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(bytes)))
    };
    let (from, to, protocol, next) = match frame.get(12..14)? {
        [8, 0] => (v4(12)?, v4(16)?, *ip.get(9)?, usize::from(ip[0] & 15) * 4),
        [0x86, 0xdd] => (v6(8)?, v6(24)?, *ip.get(6)?, 40),
        _ => return None,
    };
    let vips: [IpAddr; 4] = [VIP4.into(), VIP6.into(), SOURCE4.into(), SOURCE6.into()];
    let carries = match (vips.contains(&from), vips.contains(&to)) {
        (_, true) => Carries::ToVip,
        (true, false) => Carries::FromVip,
        (false, false) => Carries::Other,
    };
    let flags = ip.get(next + 13).copied().filter(|_| protocol == TCP);
    let reset = flags.is_some_and(|flags| flags & RST != 0);
    Some((carries, from, reset))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn frame(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, flags: u8) -> Vec<u8> {
        let mut ip = [0; 40];
        (ip[0], ip[9], ip[33]) = (0x45, protocol, flags);
        ip[12..16].copy_from_slice(&from.octets());
        ip[16..20].copy_from_slice(&to.octets());
        [&B.0[..], &A.0, &[8, 0], &ip].concat()
    }

    #[test]
    fn frames_are_counted_by_sender_receiver_and_what_they_carry() {
        let client = Ipv4Addr::new(192, 0, 2, 10);
        let mut counts = Counts::default();
        counts.add(&frame(client, VIP4, 6, 0x10), None);
        counts.add(&frame(client, VIP4, 6, 0x14), None);
        counts.add(&frame(client, VIP4, 17, 0x04), None);
        counts.add(&frame(VIP4, client, 6, 0x04), None);
        counts.add(&[&B.0[..], &A.0, &[8, 6], &[0; 28]].concat(), None);
        counts.add(&[0; 13], None);
        counts.add(&[0; 5], None);
        let sum = |carries| counts.sum(Some(A), Some(B), carries);
        let (frames, resets) = (3, 1);
        assert_eq!(sum(Carries::ToVip), Count { frames, resets });
        let (frames, resets) = (1, 1);
        assert_eq!(sum(Carries::FromVip), Count { frames, resets });
        assert_eq!(sum(Carries::Other).frames, 1);
        assert_eq!(counts.sum(None, None, Carries::Other).frames, 2);
        assert_eq!(counts.sum(Some(B), None, Carries::ToVip).frames, 0);
        assert_eq!(counts.total, 6);
        let mut counts = Counts::default();
        counts.add(&frame(client, VIP4, 6, 0x10), Some(client.into()));
        counts.add(&frame(VIP4, client, 6, 0x10), Some(client.into()));
        counts.add(
            &[&B.0[..], &A.0, &[8, 6], &[0; 28]].concat(),
            Some(client.into()),
        );
        assert_eq!(counts.total, 1, "of one sender only");
    }

    #[test]
    fn packets_of_the_other_family_are_known_too() {
        let mut ip = [0; 60];
        (ip[0], ip[6], ip[53]) = (0x60, 6, 4);
        ip[24..40].copy_from_slice(&VIP6.octets());
        let frame = [&B.0[..], &A.0, &[0x86, 0xdd], &ip].concat();
        let seen = Seen {
            pair: (A, B, Carries::ToVip),
            source: Some(Ipv6Addr::UNSPECIFIED.into()),
            resets: true,
        };
        assert_eq!(look(&frame), Some(seen));
    }

    #[test]
    fn a_storm_ends_in_numbers_not_in_memory() {
        let mut counts = Counts::default();
        for n in 0..=PAIRS as u16 {
            let [high, low] = n.to_be_bytes();
            counts.add(
                &[&[2, 0, 0, 0, high, low][..], &A.0, &[8, 6]].concat(),
                None,
            );
        }
        assert_eq!((counts.total, counts.missed), (PAIRS as u64, 1));
    }
}
