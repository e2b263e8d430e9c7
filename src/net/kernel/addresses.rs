//! The floating addresses on the private device: what was commanded, made so.
//!
//! Level-triggered: each `Hold` and each hint that somebody touched the device compares what the
//! kernel has with what is wanted. The kernel's own lease ends every address by itself if we stop
//! renewing; we trust it for a little less than it lasts, so that its end is never taken for
//! somebody's removal.
//!
//! Once they are told to stand, the addresses are there without a lease, held or not, and a `Hold` only
//! says for how long we may speak for them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::netlink::{Netlink, Stay};
use super::outbox::Outbox;
use super::tun::Tun;
use crate::model::{Epoch, Vip};
use crate::time::Mono;
use crate::vip::kernel::KernelReport;

/// What the kernel is told. Its granularity is a second, and it may be half a second late.
const LEASE: Duration = Duration::from_secs(1);
/// How long after a `Hold` the addresses are ours to speak for. Shorter than the lease, which the
/// kernel ends up to a fiftieth of a second early.
pub(super) const TRUST: Duration = Duration::from_millis(900);
/// Distance between attempts to remove an address that would not go.
const RETRY: Duration = Duration::from_millis(50);
/// Distance between attempts to have an address stand that nobody holds. Nothing waits for it.
const STAND_RETRY: Duration = Duration::from_secs(1);

/// The addresses and their device.
#[derive(Debug)]
pub(super) struct Addresses {
    device: String,
    ipv6: bool,
    /// `None` while it could not be made anew after somebody removed it.
    tun: Option<Tun>,
    /// What was put on the device, and not seen to be gone.
    present: BTreeSet<IpAddr>,
    holding: Option<Holding>,
    releasing: Option<(Epoch, Mono)>,
    standing: Option<Standing>,
}

#[derive(Debug)]
struct Holding {
    epoch: Epoch,
    wanted: Vec<IpAddr>,
    until: Mono,
    told: bool,
    failure: String,
}

/// The addresses are on the device whether this node holds them or not.
#[derive(Debug)]
struct Standing {
    wanted: Vec<IpAddr>,
    /// When to try again what failed.
    retry: Option<Mono>,
    failure: String,
}

impl Addresses {
    pub(super) const fn new(device: String, ipv6: bool, tun: Tun) -> Self {
        Self {
            device,
            ipv6,
            tun: Some(tun),
            present: BTreeSet::new(),
            holding: None,
            releasing: None,
            standing: None,
        }
    }

    pub(super) const fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref()
    }

    /// The address is ours to speak for: it is on the device, and the lease runs.
    pub(super) fn holds(&self, ip: IpAddr, now: Mono) -> bool {
        let holding = self.current(now);
        holding.is_some_and(|holding| holding.wanted.contains(&ip)) && self.present.contains(&ip)
    }

    /// Every address of this mastership is there, and the lease runs.
    pub(super) fn holds_all(&self, epoch: Epoch, now: Mono) -> bool {
        let holding = self.current(now);
        holding.is_some_and(|holding| holding.epoch == epoch && holding.told)
    }

    fn current(&self, now: Mono) -> Option<&Holding> {
        self.holding.as_ref().filter(|holding| now < holding.until)
    }

    /// When to try again what failed.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let release = self.releasing.map(|(_, at)| at);
        let stand = self.standing.as_ref().and_then(|standing| standing.retry);
        release.into_iter().chain(stand).min()
    }

    /// From now on the addresses stay on the device: these, until a `Hold` names others.
    pub(super) fn stand(
        &mut self,
        netlink: &mut Netlink,
        outbox: &mut Outbox,
        vips: &[Vip],
        now: Mono,
    ) {
        let held = self.current(now).map(|holding| holding.wanted.clone());
        let wanted = held.unwrap_or_else(|| vips.iter().map(Vip::ip).collect());
        self.standing = Some(Standing {
            wanted: wanted.clone(),
            retry: None,
            failure: String::new(),
        });
        self.put(netlink, outbox, &wanted, now);
        // What would not go may stay now.
        if let Some((epoch, _)) = self.releasing.take() {
            outbox.tell(KernelReport::Released { epoch });
        }
    }

    /// Has exactly these addresses for one lease from now.
    pub(super) fn hold(
        &mut self,
        netlink: &mut Netlink,
        outbox: &mut Outbox,
        epoch: Epoch,
        vips: &[Vip],
        now: Mono,
    ) {
        self.releasing = None;
        let wanted: Vec<IpAddr> = vips.iter().map(Vip::ip).collect();
        let renewed = self
            .holding
            .take()
            .filter(|holding| holding.epoch == epoch && now < holding.until);
        if renewed.is_none() && self.standing.is_none() {
            self.present.clear();
        }
        // A new mastership, or one whose lease ran out: it is told again that it holds.
        let (told, failure) = renewed.map_or((false, String::new()), |holding| {
            (holding.told, holding.failure)
        });
        self.holding = Some(Holding {
            epoch,
            wanted: wanted.clone(),
            until: now + TRUST,
            told,
            failure,
        });
        self.present.retain(|ip| wanted.contains(ip));
        if let Some(standing) = &mut self.standing {
            standing.wanted.clone_from(&wanted);
        }
        let stand = self.standing.is_some() && self.missing(&self.present).is_empty();
        let there = if stand {
            // At once; whether somebody has removed one a moment ago is looked up afterwards.
            self.judge(outbox, &[], now);
            let there = self.there(netlink, now);
            if let Some(there) = &there {
                self.put_back(netlink, outbox, there, now);
            }
            there
        } else {
            // A first `Hold` is in a hurry and looks later.
            let before = told.then(|| self.there(netlink, now)).flatten();
            let lost = before.as_ref().map(|there| self.lost(there));
            self.put(netlink, outbox, &wanted, now);
            self.tell_restored(outbox, &lost.unwrap_or_default(), now);
            before.or_else(|| self.there(netlink, now))
        };
        let strays: Vec<IpAddr> = there
            .into_iter()
            .flatten()
            .filter(|ip| !wanted.contains(ip))
            .collect();
        if let Some(tun) = self.tun.as_ref().filter(|_| !strays.is_empty())
            && let Err(error) = netlink.remove(tun.index(), &strays)
        {
            tracing::warn!(device = self.device, ?strays, %error, "cannot remove addresses");
        }
    }

    /// Speaks for none of them, and has none of them unless they stand.
    pub(super) fn release(
        &mut self,
        netlink: &mut Netlink,
        outbox: &mut Outbox,
        epoch: Epoch,
        now: Mono,
    ) {
        self.holding = None;
        self.releasing = None;
        if self.standing.is_some() {
            outbox.tell(KernelReport::Released { epoch });
            return;
        }
        let removed = self.tun.as_ref().map_or(Ok(()), |tun| {
            let there = netlink.addresses(tun.index())?;
            netlink.remove(tun.index(), &there)
        });
        match removed {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                let what = format!(
                    "remove the floating addresses from {}: {error}; trying again, and the kernel \
                     removes them within {} s by itself",
                    self.device,
                    LEASE.as_secs() + 1
                );
                outbox.tell(KernelReport::Failed { epoch, what });
                self.releasing = Some((epoch, now + RETRY));
            }
            // Without the device there is no address.
            _ => outbox.tell(KernelReport::Released { epoch }),
        }
    }

    /// Time passed.
    pub(super) fn handle_timeout(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, now: Mono) {
        if let Some((epoch, at)) = self.releasing
            && at <= now
        {
            self.release(netlink, outbox, epoch, now);
        }
        if let Some(standing) = &mut self.standing
            && standing.retry.is_some_and(|at| at <= now)
        {
            standing.retry = None;
            self.check(netlink, outbox, now);
        }
    }

    /// Somebody may have touched the device: put back what is missing.
    pub(super) fn check(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, now: Mono) {
        let held = self.current(now).is_some_and(|holding| holding.told);
        if !held && self.standing.is_none() {
            return;
        }
        if let Some(there) = self.there(netlink, now) {
            self.put_back(netlink, outbox, &there, now);
        }
    }

    /// Somebody took the device down; that took the addresses out of service.
    pub(super) fn device_down(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, now: Mono) {
        if let Some(tun) = &self.tun
            && let Err(error) = netlink.set_up(tun.index())
        {
            tracing::warn!(device = self.device, %error, "cannot bring the device up again");
        }
        self.check(netlink, outbox, now);
    }

    /// Throws away what the kernel sends through the device, and makes it anew if it is gone.
    pub(super) fn drain(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, now: Mono) {
        let gone = self.tun.as_mut().is_some_and(|tun| !tun.drain());
        if gone {
            tracing::warn!(device = self.device, "somebody removed the device");
            self.tun = None;
            if let Err(error) = self.device(netlink) {
                tracing::warn!(%error, "cannot make it anew");
            }
            self.check(netlink, outbox, now);
        }
    }

    /// The device's index; it is made if it is not there.
    fn device(&mut self, netlink: &mut Netlink) -> Result<u32, String> {
        let tun = match self.tun.take() {
            Some(tun) => tun,
            None => {
                Tun::create(netlink, &self.device, self.ipv6).map_err(|error| error.to_string())?
            }
        };
        Ok(self.tun.insert(tun).index())
    }

    /// What is on the device; `None` if the kernel does not say.
    fn there(&mut self, netlink: &mut Netlink, now: Mono) -> Option<BTreeSet<IpAddr>> {
        let Some(tun) = &self.tun else {
            return Some(BTreeSet::new());
        };
        match netlink.addresses(tun.index()) {
            Ok(there) => Some(there.into_iter().collect()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Some(BTreeSet::new()),
            Err(error) => {
                tracing::warn!(device = self.device, %error, "cannot read the addresses");
                if let Some(standing) = &mut self.standing {
                    standing.retry = Some(now + STAND_RETRY);
                }
                None
            }
        }
    }

    /// What is to be on the device.
    fn wanted(&self) -> &[IpAddr] {
        match (&self.standing, &self.holding) {
            (Some(standing), _) => &standing.wanted,
            (None, Some(holding)) => &holding.wanted,
            (None, None) => &[],
        }
    }

    fn missing(&self, there: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let wanted = self.wanted().iter().copied();
        wanted.filter(|ip| !there.contains(ip)).collect()
    }

    /// What somebody removed.
    fn lost(&self, there: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        self.present.difference(there).copied().collect()
    }

    /// Puts back what is missing. If the device turns out to be gone, all of them go on a new one.
    fn put_back(
        &mut self,
        netlink: &mut Netlink,
        outbox: &mut Outbox,
        there: &BTreeSet<IpAddr>,
        now: Mono,
    ) {
        let missing = self.missing(there);
        if missing.is_empty() {
            return;
        }
        let mut lost = self.lost(there);
        let before: Vec<IpAddr> = self.present.iter().copied().collect();
        let device = self.tun.as_ref().map(Tun::index);
        self.put(netlink, outbox, &missing, now);
        if self.tun.as_ref().map(Tun::index) != device {
            let wanted = self.wanted().to_vec();
            self.put(netlink, outbox, &wanted, now);
            lost = before;
        }
        if self.current(now).is_some() {
            self.tell_restored(outbox, &lost, now);
        } else if !lost.is_empty() {
            tracing::warn!(
                device = self.device,
                ?lost,
                "addresses were removed; put back"
            );
        }
    }

    /// Adds or renews these, and says how it went.
    fn put(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, ips: &[IpAddr], now: Mono) {
        let mut results = self.try_put(netlink, ips);
        // Somebody removed the device; once more, with a new one.
        let gone = |result: &io::Result<()>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::ENODEV));
        if matches!(&results, Ok(results) if results.iter().any(gone)) {
            self.tun = None;
            results = self.try_put(netlink, ips);
        }
        let mut failures = Vec::new();
        match results {
            Ok(results) => {
                for (&ip, result) in ips.iter().zip(results) {
                    match result {
                        Ok(()) => {
                            self.present.insert(ip);
                        }
                        Err(error) => {
                            self.present.remove(&ip);
                            failures.push(failure(ip, &self.device, &error));
                        }
                    }
                }
            }
            Err(text) => {
                self.present.clear();
                failures.push(text);
            }
        }
        self.judge(outbox, &failures, now);
    }

    /// Tells what became of an attempt: to who holds, else to the log.
    fn judge(&mut self, outbox: &mut Outbox, failures: &[String], now: Mono) {
        let failed = !failures.is_empty();
        let what = failures.join("; ");
        let all = |wanted: &[IpAddr]| wanted.iter().all(|ip| self.present.contains(ip));
        let holding = self.holding.as_mut();
        let holding = holding.filter(|holding| now < holding.until);
        let held = holding.is_some();
        if let Some(holding) = holding {
            let epoch = holding.epoch;
            if all(&holding.wanted) && !holding.told {
                holding.told = true;
                holding.failure.clear();
                outbox.tell(KernelReport::Held { epoch });
            } else if failed {
                holding.told = false;
                // Said once, not with every attempt.
                if holding.failure != what {
                    holding.failure.clone_from(&what);
                    let what = what.clone();
                    outbox.tell(KernelReport::Failed { epoch, what });
                }
            }
        }
        if let Some(standing) = &mut self.standing {
            standing.retry = failed.then(|| now + STAND_RETRY);
            if failed && !held && standing.failure != what {
                tracing::warn!("the floating addresses cannot stand yet: {what}");
            }
            standing.failure = what;
        }
    }

    fn try_put(
        &mut self,
        netlink: &mut Netlink,
        ips: &[IpAddr],
    ) -> Result<Vec<io::Result<()>>, String> {
        let device = self.device(netlink)?;
        let stay = match self.standing {
            Some(_) => Stay::Forever,
            None => Stay::Lease(LEASE),
        };
        Ok(netlink.put(device, ips, stay))
    }

    fn tell_restored(&self, outbox: &mut Outbox, lost: &[IpAddr], now: Mono) {
        for &vip in lost.iter().filter(|ip| self.holds(**ip, now)) {
            outbox.tell(KernelReport::Restored { vip });
        }
    }
}

fn failure(ip: IpAddr, device: &str, error: &io::Error) -> String {
    let remedy = match (error.raw_os_error(), ip) {
        (Some(libc::EPERM), _) => "give the process CAP_NET_ADMIN".to_owned(),
        (Some(libc::EACCES), IpAddr::V6(_)) => {
            format!("IPv6 is switched off: set net.ipv6.conf.{device}.disable_ipv6 to 0")
        }
        (Some(libc::EAFNOSUPPORT), IpAddr::V6(_)) => {
            "the kernel has no IPv6: remove the IPv6 addresses from [[vip]]".to_owned()
        }
        _ => "see dmesg; it is tried again with every renewal".to_owned(),
    };
    format!("add {ip} to {device}: {error}; {remedy}")
}
