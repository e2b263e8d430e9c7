//! Floating addresses: what is wanted, against what the kernel says is there.
//!
//! Owns: the lease's renewal, the schedule of announcements, the counts. Never: talks to the
//! kernel; it says what the kernel adapter is to do ([`KernelCommand`]).
//!
//! Level-triggered: while the addresses are wanted, `Hold` is repeated for ever and the kernel
//! adapter makes it so each time; nothing depends on an event that could be missed.
//!
//! Announcements go out at once and again after 10 ms, 100 ms, 1.1 s (old kernels ignore a change
//! within a second, `arp_locktime`), 5 s, and then every minute, since a rival may have announced
//! unheard.

pub mod kernel;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Epoch, Mac, Vip};
use crate::time::{Mono, TimerTable};
use kernel::{KernelCommand, KernelReport};

/// How often the lease is renewed; it lasts 1 s (the kernel's granularity).
pub const RENEWAL: Duration = Duration::from_millis(250);
/// Distances between announcements; the last one repeats for ever.
const ANNOUNCEMENTS: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(90),
    Duration::from_millis(1_000),
    Duration::from_millis(3_900),
    Duration::from_secs(60),
];
/// A schedule that is started again keeps this distance from the last announcement, so that two
/// masters cannot answer each other in a storm.
const MIN_GAP: Duration = Duration::from_millis(10);
/// A rival's claim is answered at once, and further ones once in this time for as long as they come
/// (RFC 5227, 2.4, `DEFEND_INTERVAL`): two masters that hear each other's announcements but not
/// their heartbeats would otherwise pull the clients to and fro.
const DEFENCE_GAP: Duration = Duration::from_secs(10);
/// A claim that is heard so soon after the takeover is the former owner's, and no rival's.
const SUCCESSION: Duration = Duration::from_secs(1);
/// If the kernel has not got the addresses after this long, the node is unfit.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Timer {
    Announce,
    /// The next answer to a rival may be given.
    Defend,
    Patience,
    Renew,
}

/// What the keeper noticed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// Every address is there (first time in this mastership).
    Held,
    /// Somebody else claims an address.
    Rival(IpAddr, Mac),
    /// The addresses of this mastership are gone.
    Released(Epoch),
    /// Somebody had removed an address; it is back.
    Restored(IpAddr),
    /// The kernel does not give us the addresses.
    Unfit(String),
}

/// Counts for one address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Announcements sent.
    pub announcements: u64,
    /// Times it was put back.
    pub restored: u64,
    /// Claims of somebody else.
    pub rivals: u64,
}

/// Keeps the floating addresses where they belong.
#[derive(Debug)]
pub struct VipKeeper {
    vips: Arc<[Vip]>,
    wanted: Option<Epoch>,
    /// When they began to be wanted.
    since: Mono,
    /// Somebody else is about to announce the addresses, in order: no word against it.
    hushed: bool,
    held: bool,
    ownerships: u32,
    last_error: String,
    step: usize,
    last_announced: Option<Mono>,
    /// A rival claimed an address after the last answer.
    challenged: bool,
    counts: BTreeMap<IpAddr, Counts>,
    timers: TimerTable<Timer>,
    commands: VecDeque<KernelCommand>,
    notices: VecDeque<Notice>,
}

impl VipKeeper {
    /// A keeper of these addresses; it wants none of them yet.
    pub fn new(vips: &[Vip]) -> Self {
        Self {
            vips: vips.into(),
            wanted: None,
            since: Mono::ZERO,
            hushed: false,
            held: false,
            ownerships: 0,
            last_error: String::new(),
            step: 0,
            last_announced: None,
            challenged: false,
            counts: vips
                .iter()
                .map(|vip| (vip.ip(), Counts::default()))
                .collect(),
            timers: TimerTable::default(),
            commands: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// The addresses are wanted, and all there.
    pub const fn held(&self) -> bool {
        self.wanted.is_some() && self.held
    }

    /// The addresses are wanted.
    pub const fn wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// How many times they were gained in this life.
    pub const fn ownerships(&self) -> u32 {
        self.ownerships
    }

    /// Counts for this address.
    pub fn counts(&self, vip: IpAddr) -> Counts {
        self.counts.get(&vip).copied().unwrap_or_default()
    }

    /// From now on the addresses are wanted.
    pub fn hold(&mut self, epoch: Epoch, now: Mono) {
        self.wanted = Some(epoch);
        self.since = now;
        self.hushed = false;
        self.held = false;
        self.challenged = false;
        self.timers.stop(Timer::Defend);
        self.timers.set(Timer::Patience, now + PATIENCE);
        self.renew(epoch, now);
    }

    /// From now on they are not.
    pub fn release(&mut self) {
        if let Some(epoch) = self.wanted.take() {
            self.held = false;
            self.timers = TimerTable::default();
            // What has not left yet must not: an announcement now would call clients to nowhere.
            self.commands.clear();
            self.commands.push_back(KernelCommand::Release { epoch });
        }
    }

    /// The addresses are being handed over: announce no more, and let the successor announce.
    /// `reannounce` takes it back.
    pub fn hush(&mut self) {
        self.hushed = true;
        self.challenged = false;
        self.timers.stop(Timer::Announce);
        self.timers.stop(Timer::Defend);
    }

    /// Start the announcements again: somebody may have told the neighbours otherwise.
    pub fn reannounce(&mut self, now: Mono) {
        self.hushed = false;
        if self.held() {
            self.step = 0;
            let at = self.last_announced.map_or(now, |last| last + MIN_GAP);
            self.timers.set(Timer::Announce, at.max(now));
            self.handle_timeout(now);
        }
    }

    /// The kernel adapter reports.
    pub fn handle_report(&mut self, report: &KernelReport, now: Mono) {
        let current = self.wanted;
        match report {
            KernelReport::Held { epoch } if current == Some(*epoch) => {
                self.timers.stop(Timer::Patience);
                if !self.held {
                    self.held = true;
                    self.ownerships = self.ownerships.wrapping_add(1);
                    self.last_announced = None;
                    self.notices.push_back(Notice::Held);
                    self.reannounce(now);
                }
            }
            KernelReport::Failed { epoch, what } if current == Some(*epoch) => {
                self.last_error.clone_from(what);
                if self.timers.at(Timer::Patience).is_none() {
                    self.timers.set(Timer::Patience, now + PATIENCE);
                }
            }
            KernelReport::Restored { vip } if current.is_some() => {
                self.counts.entry(*vip).or_default().restored += 1;
                self.notices.push_back(Notice::Restored(*vip));
                if !self.hushed {
                    self.reannounce(now);
                }
            }
            KernelReport::Rival { vip, mac } if current.is_some() && !self.hushed => {
                // Whoever had the address may answer for it until it has heard of us.
                if now.since(self.since) > SUCCESSION {
                    self.counts.entry(*vip).or_default().rivals += 1;
                    self.notices.push_back(Notice::Rival(*vip, *mac));
                }
                if self.timers.at(Timer::Defend).is_none() {
                    self.defend(now);
                } else {
                    self.challenged = true;
                }
            }
            KernelReport::Released { epoch } if current.is_none() => {
                self.notices.push_back(Notice::Released(*epoch));
            }
            // Reports on a mastership that has ended meanwhile; links are the node's business.
            _ => {}
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Mono) {
        while let Some(timer) = self.timers.pop_due(now) {
            let Some(epoch) = self.wanted else { return };
            match timer {
                Timer::Renew => self.renew(epoch, now),
                Timer::Announce => self.announce(epoch, now),
                Timer::Defend if self.challenged => self.defend(now),
                Timer::Defend => {}
                Timer::Patience => {
                    let what = if self.last_error.is_empty() {
                        "no answer of the kernel adapter"
                    } else {
                        &self.last_error
                    };
                    self.notices.push_back(Notice::Unfit(what.to_owned()));
                }
            }
        }
    }

    /// When to be woken.
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// What the kernel adapter is to do next.
    pub fn poll_command(&mut self) -> Option<KernelCommand> {
        self.commands.pop_front()
    }

    /// What was noticed.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn renew(&mut self, epoch: Epoch, now: Mono) {
        let vips = Arc::clone(&self.vips);
        self.commands.push_back(KernelCommand::Hold { epoch, vips });
        self.timers.set(Timer::Renew, now + RENEWAL);
    }

    fn defend(&mut self, now: Mono) {
        self.challenged = false;
        self.timers.set(Timer::Defend, now + DEFENCE_GAP);
        self.reannounce(now);
    }

    fn announce(&mut self, epoch: Epoch, now: Mono) {
        let vips = Arc::clone(&self.vips);
        for count in self.counts.values_mut() {
            count.announcements += 1;
        }
        self.commands
            .push_back(KernelCommand::Announce { epoch, vips });
        self.last_announced = Some(now);
        self.timers
            .set(Timer::Announce, now + ANNOUNCEMENTS[self.step]);
        self.step = (self.step + 1).min(ANNOUNCEMENTS.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: &str = "192.0.2.100/24";

    fn keeper() -> VipKeeper {
        VipKeeper::new(&[Vip {
            address: VIP.parse().unwrap(),
            interface: "eth0".into(),
        }])
    }

    fn run(keeper: &mut VipKeeper, from: u64, to: u64) -> (Vec<u64>, usize) {
        let (mut announced, mut holds) = (Vec::new(), 0);
        for ms in from..to {
            keeper.handle_timeout(Mono::from_millis(ms));
            while let Some(command) = keeper.poll_command() {
                match command {
                    KernelCommand::Announce { .. } => announced.push(ms),
                    KernelCommand::Hold { .. } => holds += 1,
                    KernelCommand::Release { .. } | KernelCommand::Remind { .. } => {}
                }
            }
        }
        (announced, holds)
    }

    fn held(epoch: u64) -> KernelReport {
        KernelReport::Held {
            epoch: Epoch(epoch),
        }
    }

    #[test]
    fn announcements_follow_the_schedule_and_the_lease_is_renewed() {
        let mut keeper = keeper();
        keeper.hold(Epoch(1), Mono::ZERO);
        keeper.handle_report(&held(1), Mono::ZERO);
        let (announced, holds) = run(&mut keeper, 0, 70_000);
        assert_eq!(announced, [0, 10, 100, 1_100, 5_000, 65_000]);
        assert_eq!(holds, 280);
    }

    #[test]
    fn nothing_is_announced_before_the_kernel_has_the_address() {
        let mut keeper = keeper();
        keeper.hold(Epoch(1), Mono::ZERO);
        keeper.handle_report(&held(0), Mono::ZERO);
        assert_eq!(run(&mut keeper, 0, 900).0, [0; 0]);
        assert_eq!(keeper.poll_notice(), None);
        run(&mut keeper, 900, 1_001);
        assert!(matches!(keeper.poll_notice(), Some(Notice::Unfit(_))));
    }

    #[test]
    fn a_rival_is_answered_at_once_and_then_every_ten_seconds_while_it_claims() {
        let mut keeper = keeper();
        keeper.hold(Epoch(1), Mono::ZERO);
        keeper.handle_report(&held(1), Mono::ZERO);
        run(&mut keeper, 0, 10_000);
        let mut announced = Vec::new();
        for ms in 10_000..45_000 {
            let now = Mono::from_millis(ms);
            let rival = KernelReport::Rival {
                vip: VIP.parse::<ipnet::IpNet>().unwrap().addr(),
                mac: Mac([2; 6]),
            };
            if ms < 31_000 {
                keeper.handle_report(&rival, now);
            }
            announced.extend(run(&mut keeper, ms, ms + 1).0);
        }
        let burst = |at: u64| [0, 10, 100, 1_100, 5_000].map(|after| at + after);
        let bursts = [10_000, 20_000, 30_000, 40_000].map(burst);
        assert_eq!(announced, bursts.as_flattened()[..19]);
    }

    #[test]
    fn the_successor_of_a_handover_is_not_contradicted() {
        let mut keeper = keeper();
        keeper.hold(Epoch(1), Mono::ZERO);
        keeper.handle_report(&held(1), Mono::ZERO);
        run(&mut keeper, 0, 2_000);
        keeper.notices.clear();
        keeper.hush();
        let rival = KernelReport::Rival {
            vip: "192.0.2.100".parse().unwrap(),
            mac: Mac([2; 6]),
        };
        keeper.handle_report(&rival, Mono::from_millis(2_000));
        assert_eq!(run(&mut keeper, 2_000, 9_000).0, [0; 0]);
        assert_eq!(keeper.poll_notice(), None);
        // The successor did not come: everything as before.
        keeper.reannounce(Mono::from_millis(9_000));
        assert_eq!(run(&mut keeper, 9_000, 9_200).0, [9_000, 9_010, 9_100]);
        keeper.handle_report(&rival, Mono::from_millis(9_200));
        assert!(matches!(keeper.poll_notice(), Some(Notice::Rival(..))));
    }

    #[test]
    fn after_release_nothing_is_held_or_announced() {
        let mut keeper = keeper();
        keeper.hold(Epoch(1), Mono::ZERO);
        keeper.handle_report(&held(1), Mono::ZERO);
        run(&mut keeper, 0, 50);
        keeper.reannounce(Mono::from_millis(50));
        keeper.release();
        assert_eq!(
            keeper.poll_command(),
            Some(KernelCommand::Release { epoch: Epoch(1) }),
            "and no announcement before it"
        );
        keeper.handle_report(&held(1), Mono::from_millis(51));
        assert!(!keeper.held());
        assert_eq!(run(&mut keeper, 51, 2_000), (vec![], 0));
    }
}
