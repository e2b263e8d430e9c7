//! The owner watch: asks the LAN every few milliseconds who has the VIP, and notes every answer.
//!
//! The client's kernel cannot tell: it believes one answer and forgets the others. Two hosts that
//! both answer are what a failover must never leave behind.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, SockFlag, recv, send};
use std::os::fd::AsRawFd;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::error::LabError;
use super::host::Host;
use super::packet;
use super::topology::{VIP4, VIP6, watch_addresses};
use crate::model::Mac;
use crate::net::clock::Clock;
use crate::time::Mono;

/// Time between two questions.
const EVERY: Duration = Duration::from_millis(5);
/// Answers within this time of each other count as given at the same time.
pub(super) const WINDOW: Duration = Duration::from_millis(20);
/// Answers kept; several minutes' worth.
const KEPT: usize = 1 << 18;
/// `eth0` of every host.
const INTERFACE: u32 = 2;
const MAX_FRAME: usize = 2048;

/// Which of the two floating addresses.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// Asked by ARP.
    V4,
    /// Asked by neighbor solicitation.
    V6,
}

/// Somebody said that it has the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// When it came.
    pub at: Mono,
    /// What it was about.
    pub family: Family,
    /// Who says that it has the address.
    pub owner: Mac,
    /// It answered our question; otherwise it spoke unasked (an announcement, or a question of its
    /// own in the address's name), which moves the neighbours' caches just as well.
    pub asked: bool,
}

/// Everything that was said, in the order in which it came.
#[derive(Clone, Debug, Default)]
pub struct Sightings(pub Vec<Sighting>);

impl Sightings {
    /// The largest number of hosts that answered for one address within 20 ms, looking at the
    /// time from `from` to `until`.
    pub fn owners_max(&self, from: Mono, until: Mono) -> usize {
        let inside = |family| {
            let all = self.0.iter().filter(move |seen| seen.family == family);
            all.filter(|seen| seen.asked && from <= seen.at && seen.at < until)
                .collect::<Vec<_>>()
        };
        let most = |seen: Vec<&Sighting>| {
            (0..seen.len())
                .map(|first| {
                    let window = seen[first..].iter();
                    let window = window.take_while(|other| other.at.since(seen[first].at) < WINDOW);
                    let mut owners: Vec<_> = window.map(|seen| seen.owner).collect();
                    owners.sort_unstable();
                    owners.dedup();
                    owners.len()
                })
                .max()
        };
        let families = [Family::V4, Family::V6].map(|family| most(inside(family)));
        families.into_iter().flatten().max().unwrap_or(0)
    }

    /// When this host last claimed the address, asked or unasked.
    pub fn last_of(&self, owner: Mac) -> Option<Mono> {
        self.of(owner).last()
    }

    /// When this host first claimed the address at or after `from`.
    pub fn first_of(&self, owner: Mac, from: Mono) -> Option<Mono> {
        self.of(owner).find(|at| *at >= from)
    }

    fn of(&self, owner: Mac) -> impl Iterator<Item = Mono> {
        let own = self.0.iter().filter(move |seen| seen.owner == owner);
        own.map(|seen| seen.at)
    }
}

/// A watch at work. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    sightings: Arc<Mutex<Sightings>>,
    task: JoinHandle<io::Result<()>>,
}

impl Watch {
    /// Starts to ask, from the lab's watch host.
    ///
    /// # Errors
    ///
    /// If the host's packet sockets cannot be opened.
    pub async fn start(host: &Host, clock: Clock) -> Result<Self, LabError> {
        let sightings = Arc::<Mutex<Sightings>>::default();
        let open = || Ok::<_, io::Error>((open(libc::ETH_P_ARP)?, open(libc::ETH_P_IPV6)?));
        let (arp, ndp) = host
            .run(async move { open() })
            .await
            .map_err(LabError::io("open packet sockets"))?;
        let task = host.spawn(drive(arp, ndp, clock, sightings.clone()));
        Ok(Self { sightings, task })
    }

    /// What was seen so far.
    pub fn peek<T>(&self, look: impl FnOnce(&Sightings) -> T) -> T {
        look(
            &self
                .sightings
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Everything that was seen.
    pub fn stop(self) -> Sightings {
        self.task.abort();
        self.peek(Clone::clone)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A packet socket that gets the frames of this protocol on `eth0`.
fn open(protocol: i32) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = packet::open(protocol, INTERFACE, SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the descriptor is owned, so it stays open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

async fn drive(
    arp: AsyncFd<OwnedFd>,
    ndp: AsyncFd<OwnedFd>,
    clock: Clock,
    sightings: Arc<Mutex<Sightings>>,
) -> io::Result<()> {
    let (who_has, solicitation) = (who_has(), solicitation());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let seen = tokio::select! {
            _ = ticks.tick() => {
                // A full queue or a missing carrier loses a question; the next one comes in 5 ms.
                let _ = send(arp.as_raw_fd(), &who_has, MsgFlags::MSG_DONTWAIT);
                let _ = send(ndp.as_raw_fd(), &solicitation, MsgFlags::MSG_DONTWAIT);
                continue;
            }
            frame = receive(&arp) => (Family::V4, arp_owner(&frame?)),
            frame = receive(&ndp) => (Family::V6, ndp_owner(&frame?)),
        };
        if let (family, Some((owner, asked))) = seen {
            let at = clock.now();
            let seen = Sighting {
                at,
                family,
                owner,
                asked,
            };
            let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
            if sightings.0.len() < KEPT {
                sightings.0.push(seen);
            }
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; MAX_FRAME];
    loop {
        let mut ready = socket.readable().await?;
        let got = ready.try_io(|fd| Ok(recv(fd.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT)?));
        match got {
            Ok(Ok(length)) => {
                frame.truncate(length);
                return Ok(frame);
            }
            // The interface went down and said so once; it may come back.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

const BROADCAST: [u8; 6] = [0xff; 6];
const ARP_REQUEST: &[u8] = &[0, 1, 8, 0, 6, 4, 0, 1];
const ARP_REPLY: &[u8] = &[0, 1, 8, 0, 6, 4, 0, 2];
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// `who-has VIP tell watch` (RFC 826), to everybody.
fn who_has() -> Vec<u8> {
    let (ours, _, mac) = watch_addresses();
    let ethernet = [&BROADCAST[..], &mac.0, &[8, 6]];
    let arp = [ARP_REQUEST, &mac.0, &ours.octets(), &[0; 6], &VIP4.octets()];
    [ethernet.concat(), arp.concat()].concat()
}

/// Who says in this frame that it has the VIP, and whether it says so to our question.
fn arp_owner(frame: &[u8]) -> Option<(Mac, bool)> {
    let (ours, _, _) = watch_addresses();
    let arp = frame.get(ETHERNET..ETHERNET + 28)?;
    let asked = arp.starts_with(ARP_REPLY) && arp[24..28] == ours.octets();
    let owner = Mac(arp[8..14].try_into().expect("six bytes"));
    (arp[14..18] == VIP4.octets()).then_some((owner, asked))
}

/// A neighbor solicitation for the VIP (RFC 4861, 4.3) to its solicited-node group.
fn solicitation() -> Vec<u8> {
    let (_, ours, mac) = watch_addresses();
    let target = VIP6.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&target[13..]);
    let source_link_layer = [&[1, 1][..], &mac.0].concat();
    let mut icmp = [
        &[SOLICITATION, 0, 0, 0, 0, 0, 0, 0][..],
        &target,
        &source_link_layer,
    ]
    .concat();
    let pseudo = [
        &ours.octets()[..],
        &group,
        &(icmp.len() as u32).to_be_bytes(),
        &[0, 0, 0, 58],
    ]
    .concat();
    let sum = checksum(&[&pseudo[..], &icmp].concat());
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let ethernet = [&[0x33, 0x33, 0xff][..], &group[13..], &mac.0, &[0x86, 0xdd]].concat();
    let length = (icmp.len() as u16).to_be_bytes();
    let header = [
        &[0x60, 0, 0, 0][..],
        &length,
        &[58, 255],
        &ours.octets(),
        &group,
    ]
    .concat();
    [ethernet, header, icmp].concat()
}

/// Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks_exact(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// As [`arp_owner`], from a neighbor advertisement with its target's address (RFC 4861, 4.4).
fn ndp_owner(frame: &[u8]) -> Option<(Mac, bool)> {
    let (_, ours, _) = watch_addresses();
    let header = frame.get(ETHERNET..ETHERNET + IPV6)?;
    let icmp = frame.get(ETHERNET + IPV6..ETHERNET + IPV6 + 32)?;
    let claims = header[6] == 58
        && icmp[0] == ADVERTISEMENT
        && icmp[8..24] == VIP6.octets()
        && icmp[24..26] == [2, 1];
    let owner = Mac(icmp[26..32].try_into().expect("six bytes"));
    claims.then_some((owner, header[24..40] == ours.octets()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 11]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 12]);

    fn seen(ms: u64, family: Family, owner: Mac) -> Sighting {
        let at = Mono::from_millis(ms);
        Sighting {
            at,
            family,
            owner,
            asked: true,
        }
    }

    fn most(sightings: &[Sighting], from: u64) -> usize {
        let sightings = Sightings(sightings.to_vec());
        sightings.owners_max(Mono::from_millis(from), Mono::from_millis(1_000))
    }

    #[test]
    fn two_owners_are_two_answers_for_one_address_close_to_each_other() {
        use Family::{V4, V6};
        assert_eq!(most(&[], 0), 0);
        assert_eq!(most(&[seen(1, V4, A), seen(2, V4, A)], 0), 1);
        assert_eq!(most(&[seen(1, V4, A), seen(20, V4, B)], 0), 2);
        assert_eq!(
            most(&[seen(1, V4, A), seen(21, V4, B)], 0),
            1,
            "one after the other"
        );
        assert_eq!(
            most(&[seen(1, V4, A), seen(2, V6, B)], 0),
            1,
            "different addresses"
        );
        assert_eq!(
            most(&[seen(1, V4, A), seen(9, V4, B)], 5),
            1,
            "before it settled"
        );
    }

    #[test]
    fn answers_are_told_from_announcements_and_from_other_traffic() {
        let (ours, ..) = watch_addresses();
        let frame = |kind: &[u8], vip: [u8; 4], to: [u8; 4]| {
            [&[0; ETHERNET], kind, &A.0, &vip, &[0; 6], &to].concat()
        };
        let (vip, ours) = (VIP4.octets(), ours.octets());
        assert_eq!(arp_owner(&frame(ARP_REPLY, vip, ours)), Some((A, true)));
        assert_eq!(arp_owner(&frame(ARP_REPLY, vip, vip)), Some((A, false)));
        assert_eq!(arp_owner(&frame(ARP_REQUEST, vip, vip)), Some((A, false)));
        assert_eq!(
            arp_owner(&frame(ARP_REQUEST, ours, vip)),
            None,
            "a question"
        );
        assert_eq!(
            arp_owner(&frame(ARP_REPLY, ours, ours)),
            None,
            "another address"
        );
        assert_eq!(arp_owner(&[0; 20]), None);
        assert_eq!(ndp_owner(&solicitation()), None);
    }
}
