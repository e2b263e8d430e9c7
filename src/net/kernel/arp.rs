//! What the kernel itself says in ARP about addresses of another device, by interface: the settings
//! `arp_announce` and `arp_ignore` (Documentation/networking/ip-sysctl.rst of Linux).
//!
//! Owns: those two settings; it writes the first one. Never: touches another setting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The best local address for the target, which is one of the interface, and never that of another
/// device.
const BEST_ADDRESS: u8 = 2;
const SETTINGS: &str = "/proc/sys/net/ipv4/conf";

/// What holds on an interface: the higher one of its own setting and that of all interfaces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// `arp_announce`: which sender the kernel's own questions name.
    pub announce: u8,
    /// `arp_ignore`: which questions the kernel answers.
    pub ignore: u8,
}

impl Arp {
    /// Reads what holds on this interface. It is IPv4's only: in IPv6 the kernel neither asks in the
    /// name of another device's address nor answers for it.
    ///
    /// # Errors
    ///
    /// There is no such interface, or nothing to read (`/proc` is not there).
    pub fn read(interface: &str) -> io::Result<Self> {
        let effective =
            |name| Ok::<u8, io::Error>(value("all", name)?.max(value(interface, name)?));
        Ok(Self {
            announce: effective("arp_announce")?,
            ignore: effective("arp_ignore")?,
        })
    }

    /// The kernel's questions may name a floating address as their sender: whoever hears one sends to
    /// this node from then on, master or not.
    pub const fn asks_as_others(self) -> bool {
        self.announce < BEST_ADDRESS
    }

    /// The kernel answers questions for addresses of another device, the private one too.
    pub const fn answers_for_others(self) -> bool {
        // 4 to 7 are reserved and mean 0 (`arp_ignore()` of the kernel's net/ipv4/arp.c).
        !matches!(self.ignore, 1 | 2 | 8)
    }
}

/// Has the kernel's own questions on this interface name an address of the interface. It stays so
/// when we are gone: the value from before might be put back under another program that relies on
/// this one.
///
/// # Errors
///
/// What [`Arp::read`] says, or it may not be written. Then [`remedy`] tells what to do.
pub(super) fn ask_as_itself(interface: &str) -> io::Result<()> {
    if Arp::read(interface)?.asks_as_others() {
        fs::write(file(interface, "arp_announce")?, BEST_ADDRESS.to_string())?;
    }
    Ok(())
}

/// What to write into a file of sysctl.d(5), or after `sysctl -w`.
pub fn remedy(interface: &str, setting: &str, value: u8) -> String {
    // A dot in a name is written as a slash there.
    let interface = interface.replace('.', "/");
    format!("net.ipv4.conf.{interface}.{setting}={value}")
}

fn value(interface: &str, setting: &str) -> io::Result<u8> {
    let text = fs::read_to_string(file(interface, setting)?)?;
    let unreadable = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    text.trim().parse().map_err(unreadable)
}

/// In this thread's network namespace.
fn file(interface: &str, setting: &str) -> io::Result<PathBuf> {
    if interface.is_empty() || interface.starts_with('.') || interface.contains('/') {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Path::new(SETTINGS).join(interface).join(setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_settings_give_an_address_away() {
        let arp = |announce, ignore| Arp { announce, ignore };
        let asks = [0, 1, 2].map(|announce| arp(announce, 0).asks_as_others());
        assert_eq!(asks, [true, true, false]);
        let answers = [0, 1, 2, 3, 4, 8].map(|ignore| arp(0, ignore).answers_for_others());
        assert_eq!(answers, [true, false, false, true, true, false]);
    }

    #[test]
    fn a_remedy_is_what_sysctl_understands() {
        let remedies = ["eth0", "eth0.10"].map(|name| remedy(name, "arp_announce", 2));
        let expected = [
            "net.ipv4.conf.eth0.arp_announce=2",
            "net.ipv4.conf.eth0/10.arp_announce=2",
        ];
        assert_eq!(remedies, expected);
    }

    #[test]
    fn no_name_leads_elsewhere() {
        for name in ["", ".", "..", "../../ipv6/conf/lo", "lo/..", "no-such-dev"] {
            let error = Arp::read(name).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
            assert!(ask_as_itself(name).is_err());
        }
        Arp::read("lo").unwrap();
    }
}
