//! The floating addresses on the private device: what was commanded, made so.
//!
//! Level-triggered: each `Hold` and each hint that somebody touched the device compares what the
//! kernel has with what is wanted. The kernel's own lease ends every address by itself if we stop
//! renewing; we trust it for a little less than it lasts, so that its end is never taken for
//! somebody's removal.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::netlink::Netlink;
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

/// The addresses and their device.
#[derive(Debug)]
pub(super) struct Addresses {
    device: String,
    ipv6: bool,
    /// `None` while it could not be made anew after somebody removed it.
    tun: Option<Tun>,
    holding: Option<Holding>,
    releasing: Option<(Epoch, Mono)>,
}

#[derive(Debug)]
struct Holding {
    epoch: Epoch,
    wanted: Vec<IpAddr>,
    present: BTreeSet<IpAddr>,
    until: Mono,
    told: bool,
    failure: String,
}

impl Addresses {
    pub(super) const fn new(device: String, ipv6: bool, tun: Tun) -> Self {
        Self {
            device,
            ipv6,
            tun: Some(tun),
            holding: None,
            releasing: None,
        }
    }

    pub(super) const fn tun(&self) -> Option<&Tun> {
        self.tun.as_ref()
    }

    /// The address is on the device, and the lease runs.
    pub(super) fn holds(&self, ip: IpAddr, now: Mono) -> bool {
        let holding = self.holding.as_ref().filter(|holding| now < holding.until);
        holding.is_some_and(|holding| holding.present.contains(&ip))
    }

    /// Every address of this mastership is there, and the lease runs.
    pub(super) fn holds_all(&self, epoch: Epoch, now: Mono) -> bool {
        let holding = self.holding.as_ref().filter(|holding| now < holding.until);
        holding.is_some_and(|holding| holding.epoch == epoch && holding.told)
    }

    /// When to try again to remove what would not go.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.releasing.map(|(_, at)| at)
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
        let holding = match self.holding.take() {
            Some(holding) if holding.epoch == epoch && now < holding.until => holding,
            // A new mastership, or one whose lease ran out: it is told again that it holds.
            _ => Holding {
                epoch,
                wanted: Vec::new(),
                present: BTreeSet::new(),
                until: Mono::ZERO,
                told: false,
                failure: String::new(),
            },
        };
        let renewal = holding.told;
        let holding = self.holding.insert(Holding {
            wanted: wanted.clone(),
            until: now + TRUST,
            ..holding
        });
        holding.present.retain(|ip| wanted.contains(ip));
        // A first `Hold` is in a hurry and looks later.
        let before = renewal.then(|| self.there(netlink)).flatten();
        let missing = before.as_ref().map(|there| self.missing(there));
        self.put(netlink, outbox, &wanted);
        self.tell_restored(outbox, &missing.unwrap_or_default());
        let Some(there) = before.or_else(|| self.there(netlink)) else {
            return;
        };
        let strays: Vec<IpAddr> = there
            .into_iter()
            .filter(|ip| !wanted.contains(ip))
            .collect();
        if let Some(tun) = self.tun.as_ref().filter(|_| !strays.is_empty())
            && let Err(error) = netlink.remove(tun.index(), &strays)
        {
            tracing::warn!(device = self.device, ?strays, %error, "cannot remove addresses");
        }
    }

    /// Has none of them.
    pub(super) fn release(
        &mut self,
        netlink: &mut Netlink,
        outbox: &mut Outbox,
        epoch: Epoch,
        now: Mono,
    ) {
        self.holding = None;
        self.releasing = None;
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
    }

    /// Somebody may have touched the device: put back what is missing.
    pub(super) fn check(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, now: Mono) {
        let told = self.holding.as_ref().is_some_and(|holding| holding.told);
        if !told
            || self
                .holding
                .as_ref()
                .is_some_and(|holding| holding.until <= now)
        {
            return;
        }
        if let Some(there) = self.there(netlink) {
            let missing = self.missing(&there);
            if !missing.is_empty() {
                self.put_back(netlink, outbox, &missing);
            }
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
    fn there(&self, netlink: &mut Netlink) -> Option<Vec<IpAddr>> {
        let Some(tun) = &self.tun else {
            return Some(Vec::new());
        };
        match netlink.addresses(tun.index()) {
            Ok(there) => Some(there),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Some(Vec::new()),
            Err(error) => {
                tracing::warn!(device = self.device, %error, "cannot read the addresses");
                None
            }
        }
    }

    fn missing(&self, there: &[IpAddr]) -> Vec<IpAddr> {
        let present = self.holding.iter().flat_map(|holding| &holding.present);
        present.filter(|ip| !there.contains(ip)).copied().collect()
    }

    /// Puts these back. If the device turns out to be gone, all of them go on a new one.
    fn put_back(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, missing: &[IpAddr]) {
        let device = self.tun.as_ref().map(Tun::index);
        self.put(netlink, outbox, missing);
        if self.tun.as_ref().map(Tun::index) == device {
            self.tell_restored(outbox, missing);
        } else if let Some(holding) = &self.holding {
            let wanted = holding.wanted.clone();
            self.put(netlink, outbox, &wanted);
            self.tell_restored(outbox, &wanted);
        }
    }

    /// Adds or renews these, and says how it went.
    fn put(&mut self, netlink: &mut Netlink, outbox: &mut Outbox, ips: &[IpAddr]) {
        let mut results = self.try_put(netlink, ips);
        // Somebody removed the device; once more, with a new one.
        let gone = |result: &io::Result<()>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::ENODEV));
        if matches!(&results, Ok(results) if results.iter().any(gone)) {
            self.tun = None;
            results = self.try_put(netlink, ips);
        }
        let Some(holding) = &mut self.holding else {
            return;
        };
        let mut failures = Vec::new();
        match results {
            Ok(results) => {
                for (&ip, result) in ips.iter().zip(results) {
                    match result {
                        Ok(()) => {
                            holding.present.insert(ip);
                        }
                        Err(error) => {
                            holding.present.remove(&ip);
                            failures.push(failure(ip, &self.device, &error));
                        }
                    }
                }
            }
            Err(text) => {
                holding.present.clear();
                failures.push(text);
            }
        }
        let epoch = holding.epoch;
        let all = holding.wanted.iter().all(|ip| holding.present.contains(ip));
        if all && !holding.told {
            holding.told = true;
            holding.failure.clear();
            outbox.tell(KernelReport::Held { epoch });
        } else if !failures.is_empty() {
            holding.told = false;
            let what = failures.join("; ");
            // Said once, not with every attempt.
            if holding.failure != what {
                holding.failure.clone_from(&what);
                outbox.tell(KernelReport::Failed { epoch, what });
            }
        }
    }

    fn try_put(
        &mut self,
        netlink: &mut Netlink,
        ips: &[IpAddr],
    ) -> Result<Vec<io::Result<()>>, String> {
        let device = self.device(netlink)?;
        Ok(netlink.put(device, ips, LEASE))
    }

    fn tell_restored(&self, outbox: &mut Outbox, missing: &[IpAddr]) {
        let back = |ip: &&IpAddr| {
            let holding = self.holding.as_ref();
            holding.is_some_and(|holding| holding.present.contains(*ip))
        };
        for &vip in missing.iter().filter(back) {
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
