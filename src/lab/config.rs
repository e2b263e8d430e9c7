//! The pair's configuration in the lab.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::error::LabError;
use super::netns::Rights;
use super::shares::{Case, EVEN_PORT, FIRST_PORT, UNEVEN_PORT, WEIGHTS};
use super::topology::{
    BACKENDS, SOURCE4, SOURCE6, VIP4, VIP6, backend_address, backend_address6, node_addresses,
};
use crate::model::NodeId;

/// Port of the service.
pub const PORT: u16 = 80;
/// Name of the service.
pub const SERVICE: &str = "web";
/// Names of the nodes, in the file's order.
pub(super) const NODES: [&str; 2] = ["lb1", "lb2"];
/// The configuration's file, in the lab's directory.
pub(super) const CONFIG_FILE: &str = "tandem.toml";
/// The key's file, in the lab's directory.
pub(super) const KEY_FILE: &str = "key";
/// Stands for the lab's directory in the text of a configuration.
pub(super) const DIR: &str = "@DIR@";
/// Close together, so that whoever is backup waits about as long before it takes over.
const PRIORITIES: [u8; 2] = [200, 190];

/// The name of the n-th backend.
pub fn backend_name(n: usize) -> String {
    format!("b{}", n + 1)
}

/// The file that both nodes get unless a test says otherwise; `@DIR@` stands for the lab's
/// directory.
///
/// Defaults where they can show: 100 ms heartbeats, three may be missed. Health checks are faster
/// than by default, so that a demonstration need not wait for them.
pub fn default_config() -> String {
    let mut text = head();
    vip(&mut text, &format!("{VIP4}/24"), "eth0");
    vip(&mut text, &format!("{VIP6}/64"), "eth0");
    let listen = format!("\"{VIP4}:{PORT}\", \"[{VIP6}]:{PORT}\"");
    let keys = "balance = \"round_robin\"\nconnect_timeout = \"200ms\"\n";
    service(&mut text, SERVICE, &listen, keys, PORT, |n| {
        backend_address(n).into()
    });
    text
}

/// In which mode the lab has its services, where that is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// In kernel mode; a new connection waits until the backup knows it.
    Sync,
    /// In kernel mode; the backup learns of a new connection a little later.
    Async,
    /// In user space: connections end with the process that carries them.
    Proxy,
}

impl Mode {
    /// Its keys in a service with this source address.
    fn keys(self, source: IpAddr) -> String {
        let replication = match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Proxy => return "balance = \"round_robin\"\n".to_owned(),
        };
        format!(
            "balance = \"round_robin\"\nmode = \"kernel\"\nsource = \"{source}\"\n\
             replication = \"{replication}\"\n"
        )
    }

    /// Whether it needs programs in the kernel.
    pub const fn is_kernel(self) -> bool {
        matches!(self, Self::Sync | Self::Async)
    }

    /// Whether it can be had with these rights.
    ///
    /// # Errors
    ///
    /// The kernel mode's programs cannot be loaded in a user namespace.
    pub(super) fn allowed(self, rights: Rights) -> Result<(), LabError> {
        match rights {
            Rights::UserNamespace if self.is_kernel() => Err(LabError::NotAllowed {
                why: "the kernel takes no programs from a user namespace, so the kernel mode \
                      needs real root"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Its word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Proxy => "proxy",
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As the configuration has it, where `sync` is the default.
        if text == "kernel" {
            return Ok(Self::Sync);
        }
        let all = [Self::Sync, Self::Async, Self::Proxy];
        let found = all.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| "no such mode; write one of kernel, sync, async, proxy".to_owned())
    }
}

/// A pair with these services, each on a port of the VIPs: one for IPv4, and one for IPv6, whose
/// name ends with a 6. Their backends listen on `to`.
pub(super) fn mode_config(services: &[(&str, Mode, u16)], to: u16) -> String {
    let mut text = head();
    vip(&mut text, &format!("{VIP4}/24"), "eth0");
    vip(&mut text, &format!("{VIP6}/64"), "eth0");
    if services.iter().any(|(_, mode, _)| mode.is_kernel()) {
        vip(&mut text, &format!("{SOURCE4}/24"), "eth1");
        vip(&mut text, &format!("{SOURCE6}/64"), "eth1");
    }
    for (name, mode, port) in services {
        let (listen, keys) = (format!("\"{VIP4}:{port}\""), mode.keys(SOURCE4.into()));
        service(&mut text, name, &listen, &keys, to, |n| {
            backend_address(n).into()
        });
        let (listen, keys) = (format!("\"[{VIP6}]:{port}\""), mode.keys(SOURCE6.into()));
        service(&mut text, &format!("{name}6"), &listen, &keys, to, |n| {
            backend_address6(n).into()
        });
    }
    text
}

/// A pair with a proxied service for each of these cases (`shares`), on ports that follow each other.
pub(super) fn balance_config(cases: &[Case]) -> String {
    let mut text = head();
    vip(&mut text, &format!("{VIP6}/64"), "eth0");
    for (n, case) in cases.iter().enumerate() {
        let (balance, port) = (case.balance, FIRST_PORT + n as u16);
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{n}\"\nlisten = [\"[{VIP6}]:{port}\"]\nbalance = {balance}\n"
        );
        let to = match case.uneven {
            true => UNEVEN_PORT,
            false => EVEN_PORT,
        };
        for (n, weight) in WEIGHTS.iter().enumerate() {
            let (name, address) = (backend_name(n), backend_address6(n));
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"[{address}]:{to}\"\n\
                 weight = {weight}\n"
            );
        }
    }
    text
}

/// Whether a service of this file is in kernel mode. A file that is wrong on purpose has none.
pub(super) fn is_kernel_mode(text: &str) -> bool {
    let file: toml::Table = toml::from_str(text).unwrap_or_default();
    let services = file.get("service").and_then(toml::Value::as_array);
    let mut services = services.into_iter().flatten();
    services.any(|service| service.get("mode").and_then(toml::Value::as_str) == Some("kernel"))
}

/// Cluster, election and nodes.
fn head() -> String {
    let mut text = format!(
        "[cluster]\nname = \"lab\"\nkey_file = \"{DIR}/{KEY_FILE}\"\n\n\
         [election]\nheartbeat = \"100ms\"\nmisses = 3\n"
    );
    for (node, priority) in NodeId::BOTH.into_iter().zip(PRIORITIES) {
        let name = NODES[node.index()];
        let [front, back] = node_addresses(node);
        let _ = write!(
            text,
            "\n[[node]]\nname = \"{name}\"\npriority = {priority}\n\
             addresses = [\"{front}\", \"{back}\"]\n"
        );
    }
    text
}

fn vip(text: &mut String, address: &str, interface: &str) {
    let _ = write!(
        text,
        "\n[[vip]]\naddress = \"{address}\"\ninterface = \"{interface}\"\n"
    );
}

fn service(
    text: &mut String,
    name: &str,
    listen: &str,
    keys: &str,
    to: u16,
    backend: impl Fn(usize) -> IpAddr,
) {
    let _ = write!(
        text,
        "\n[[service]]\nname = \"{name}\"\nlisten = [{listen}]\n{keys}\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n\
         rise = 2\nfall = 2\n"
    );
    for n in 0..BACKENDS {
        let (name, address) = (backend_name(n), SocketAddr::new(backend(n), to));
        let _ = write!(
            text,
            "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_default_file_is_valid_and_says_what_the_lab_is() {
        let text = default_config().replace(DIR, "/tmp");
        let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.nodes.each_ref().map(|node| &*node.name), NODES);
        assert_eq!(config.paths().count(), 2);
        assert_eq!(config.vips.len(), 2);
        assert_eq!(config.services[0].backends.len(), BACKENDS);
    }

    #[test]
    fn there_is_a_service_for_every_scheduler_of_the_proxy() {
        let cases = super::super::shares::cases();
        let text = balance_config(&cases).replace(DIR, "/tmp");
        let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        let known: std::collections::BTreeSet<_> = config
            .services
            .iter()
            .map(|it| it.balance.scheduler)
            .collect();
        assert_eq!(known.len(), crate::model::Scheduler::WORDS.len());
    }

    #[test]
    fn services_of_a_mode_have_a_source_that_moves_with_the_address() {
        let services = [("web", Mode::Proxy, 80), ("other", Mode::Proxy, 81)];
        let text = mode_config(&services, PORT).replace(DIR, "/tmp");
        let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((config.vips.len(), config.services.len()), (2, 4));
        assert!(!is_kernel_mode(&text));

        for mode in [Mode::Sync, Mode::Async] {
            let text = mode_config(&[("web", mode, 80)], PORT).replace(DIR, "/tmp");
            let config = Config::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!((config.vips.len(), config.services.len()), (4, 2));
        }
        let text = mode_config(&[("web", Mode::Sync, 80)], PORT);
        assert!(is_kernel_mode(&text), "{text}");
        for line in [
            "mode = \"kernel\"",
            "address = \"198.51.100.100/24\"",
            "source = \"198.51.100.100\"",
            "source = \"2001:db8:2::100\"",
            "replication = \"sync\"",
            "listen = [\"[2001:db8:1::100]:80\"]",
            "address = \"[2001:db8:2::21]:80\"",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        assert!(!is_kernel_mode("mode = \"kernel\"") && !is_kernel_mode("["));
    }
}
