//! The private device that carries the floating addresses.
//!
//! A TUN device that is not persistent: it lives as long as our descriptor, so the kernel removes
//! it, and the addresses with it, when the process dies. Nothing is ever sent through it; what the
//! kernel says on it by itself is thrown away.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};

use super::KernelError;
use super::netlink::Netlink;

const CLONE_DEVICE: &str = "/dev/net/tun";
/// How often, and how far apart, the start is tried while the name is taken.
const ATTEMPTS: u32 = 25;
const ATTEMPT: Duration = Duration::from_millis(20);
/// Packets thrown away at once.
const AT_ONCE: usize = 64;

nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);

/// The device.
#[derive(Debug)]
pub(super) struct Tun {
    file: File,
    index: u32,
}

impl Tun {
    /// Like [`create`](Self::create), but waits for a device of that name to go: our own of the
    /// life before, say, whose process the kernel is still taking apart.
    pub(super) fn create_patiently(
        netlink: &mut Netlink,
        name: &str,
        ipv6: bool,
    ) -> Result<Self, KernelError> {
        for _ in 0..ATTEMPTS {
            match Self::create(netlink, name, ipv6) {
                Err(KernelError::DeviceExists { .. }) => std::thread::sleep(ATTEMPT),
                result => return result,
            }
        }
        Self::create(netlink, name, ipv6)
    }

    /// Makes the device and brings it up.
    pub(super) fn create(
        netlink: &mut Netlink,
        name: &str,
        ipv6: bool,
    ) -> Result<Self, KernelError> {
        // std opens with O_CLOEXEC: a child that kept it would keep the addresses.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(CLONE_DEVICE)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KernelError::NoTun(error),
                Some(libc::EACCES | libc::EPERM) => KernelError::TunForbidden(error),
                _ => KernelError::io("open /dev/net/tun", error),
            })?;
        let request = request(name)?;
        // SAFETY: the request is a whole ifreq, and the kernel only reads and writes within it.
        unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }.map_err(|errno| {
            let device = name.to_owned();
            match errno {
                nix::Error::EBUSY => KernelError::DeviceExists { device },
                nix::Error::EPERM => KernelError::NoNetAdmin(errno.into()),
                _ => KernelError::io("create the device", errno.into()),
            }
        })?;
        let index = if_nametoindex(name)
            .map_err(|errno| KernelError::io("find the new device", errno.into()))?;
        let tun = Self { file, index };
        tun.configure(netlink, name, ipv6)?;
        Ok(tun)
    }

    fn configure(&self, netlink: &mut Netlink, name: &str, ipv6: bool) -> Result<(), KernelError> {
        let quiet = netlink.no_generated_addresses(self.index);
        if ipv6 {
            let switch = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
            let on = std::fs::read_to_string(Path::new(&switch));
            if !on.is_ok_and(|value| value.trim() == "0") {
                let device = name.to_owned();
                return Err(KernelError::NoIpv6 { device });
            }
            quiet.map_err(|error| KernelError::io("switch IPv6 autoconfiguration off", error))?;
        }
        netlink
            .set_up(self.index)
            .map_err(|error| KernelError::io("bring the device up", error))
    }

    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// Throws away what the kernel says. False: the device is gone.
    pub(super) fn drain(&mut self) -> bool {
        let mut packet = [0; 2_048];
        for _ in 0..AT_ONCE {
            match self.file.read(&mut packet) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => {
                    return matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    );
                }
            }
        }
        true
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Removes the device that a dead process left behind: a child of it may still hold the
/// descriptor. False: there is none. A device of another kind is not touched.
pub(super) fn remove_left_over(name: &str) -> Result<bool, KernelError> {
    let mut netlink = Netlink::open().map_err(|error| KernelError::io("open netlink", error))?;
    let (mut index, mut foreign) = (None, false);
    let look = netlink.links(|link| {
        let named = |attribute: &LinkAttribute| *attribute == LinkAttribute::IfName(name.into());
        if link.attributes.iter().any(named) {
            foreign = !link.attributes.iter().any(is_tun);
            index = Some(link.header.index);
        }
    });
    look.map_err(|error| KernelError::io("list the devices", error))?;
    let Some(index) = index else {
        return Ok(false);
    };
    if foreign {
        let device = name.to_owned();
        return Err(KernelError::DeviceExists { device });
    }
    match netlink.remove_link(index) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            // It went while we looked.
            Some(libc::ENODEV) => Ok(false),
            Some(libc::EPERM) => Err(KernelError::NoNetAdmin(error)),
            _ => Err(KernelError::io("remove the device", error)),
        },
    }
}

fn is_tun(attribute: &LinkAttribute) -> bool {
    let kind = LinkInfo::Kind(InfoKind::Tun);
    matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.contains(&kind))
}

fn request(name: &str) -> Result<libc::ifreq, KernelError> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        let device = name.to_owned();
        return Err(KernelError::BadName { device });
    }
    // Alone (`IFF_TUN_EXCL`): a device that somebody left behind is not taken over.
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: flags as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}
