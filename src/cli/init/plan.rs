//! What a new pair is to be, and the file that says so. Pure.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::cli::setup_args::{BackendArg, NodeArg, VipArg};

/// A new pair.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) cluster: String,
    pub(super) key: PathBuf,
    /// The preferred one first.
    pub(super) nodes: [NodeArg; 2],
    pub(super) vips: Vec<VipArg>,
    pub(super) service: String,
    pub(super) ports: Vec<u16>,
    /// Forwarded in the kernel.
    pub(super) kernel: bool,
    /// What backends see, if it is not where clients connect.
    pub(super) source: Vec<IpAddr>,
    pub(super) backends: Vec<BackendArg>,
}

impl Plan {
    /// The configuration.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a string takes all");
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        to.write_str(
            "# A pair of Tandem nodes. The same file on both; each finds itself by its host name.\n\
             # Every key: /usr/share/doc/tandem/configuration.md. After a change: `tandem check FILE`.\n\n",
        )?;
        writeln!(to, "[cluster]\nname = {}", quoted(&self.cluster))?;
        writeln!(
            to,
            "key_file = {}    # secret, mode 0600, the same on both nodes\n\
             #port = 7373                  # UDP and TCP between the nodes, on every path\n",
            quoted(&self.key.to_string_lossy())
        )?;
        self.nodes(to)?;
        to.write_str(
            "#[election]\n\
             #heartbeat = \"100ms\"\n\
             #misses = 3                   # silence of heartbeat x misses is death\n\
             #preempt = false              # whether the higher priority takes the mastership back\n\n",
        )?;
        for vip in &self.vips {
            writeln!(
                to,
                "[[vip]]\naddress = \"{}/{}\"\ninterface = {}\n",
                vip.address,
                vip.prefix,
                quoted(&vip.interface)
            )?;
        }
        self.service(to)
    }

    fn nodes(&self, to: &mut String) -> std::fmt::Result {
        to.write_str(
            "# An address of each node on each link between them: every link is a heartbeat path, and\n\
             # two are better than one. The same order on both.\n",
        )?;
        for (node, priority) in self.nodes.iter().zip([150, 100]) {
            writeln!(
                to,
                "[[node]]\nname = {}\npriority = {priority}\naddresses = [{}]\n",
                quoted(&node.name),
                list(&node.addresses)
            )?;
        }
        Ok(())
    }

    fn service(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "[[service]]\nname = {}", quoted(&self.service))?;
        writeln!(to, "listen = [{}]", list(self.listen()))?;
        if self.kernel {
            to.write_str(
                "mode = \"kernel\"              # connections outlive the master\n\
                 #fallback = \"refuse\"         # \"proxy\": do without on a host that cannot\n",
            )?;
            if !self.source.is_empty() {
                writeln!(
                    to,
                    "source = [{}]    # what backends see and answer",
                    list(&self.source)
                )?;
            }
        } else {
            to.write_str("#mode = \"kernel\"             # connections outlive the master\n")?;
        }
        to.write_str(
            "#balance = \"round_robin\"\n\n\
             [service.health]\n\
             kind = \"tcp\"                 # or http, tls, grpc, script, command\n\
             #interval = \"2s\"\n",
        )?;
        for (n, backend) in self.backends.iter().enumerate() {
            let name = backend
                .name
                .clone()
                .unwrap_or_else(|| format!("b{}", n + 1));
            writeln!(
                to,
                "\n[[service.backend]]\nname = {}\naddress = \"{}\"",
                quoted(&name),
                backend.address
            )?;
        }
        Ok(())
    }

    /// Every port at every address that is not only there for the backends.
    fn listen(&self) -> Vec<SocketAddr> {
        let front = |vip: &&VipArg| {
            let only = |other: &VipArg| {
                other.address.is_ipv4() != vip.address.is_ipv4() || other.address == vip.address
            };
            !self.source.contains(&vip.address) || self.vips.iter().all(only)
        };
        let at = |vip: &VipArg| {
            let address = vip.address;
            let ports = self.ports.iter();
            ports
                .map(|port| SocketAddr::new(address, *port))
                .collect::<Vec<_>>()
        };
        self.vips.iter().filter(front).flat_map(at).collect()
    }
}

/// Of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items = items.into_iter();
    let items: Vec<String> = items.map(|item| quoted(&item.to_string())).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn all<T: std::str::FromStr<Err = &'static str>>(texts: &[&str]) -> Vec<T> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn plan(vips: &[&str], kernel: bool, source: &[&str]) -> Plan {
        let nodes = all(&["lb1=192.0.2.11,203.0.113.11", "lb2=192.0.2.12,203.0.113.12"]);
        Plan {
            cluster: "pair".into(),
            key: "/etc/tandem/cluster.key".into(),
            nodes: nodes.try_into().unwrap(),
            vips: all(vips),
            service: "web".into(),
            ports: vec![80, 443],
            kernel,
            source: source.iter().map(|text| text.parse().unwrap()).collect(),
            backends: all(&["198.51.100.21:8080", "spare=[2001:db8::22]:8080"]),
        }
    }

    #[test]
    fn the_file_means_what_was_asked_for() {
        let plan = plan(
            &["192.0.2.100/24@eth0", "2001:db8::100/64@eth0"],
            false,
            &[],
        );
        let config = Config::parse(&plan.text()).unwrap();
        assert_eq!(config.nodes[1].name, "lb2");
        assert!(config.nodes[0].priority > config.nodes[1].priority);
        assert_eq!(config.nodes[0].addresses.len(), 2);
        assert_eq!(config.vips.len(), 2);
        let service = &config.services[0];
        assert_eq!((service.listen.len(), service.backends.len()), (4, 2));
        assert_eq!(service.backends[0].name, "b1");
        assert_eq!(service.backends[1].name, "spare");
        assert!(service.kernel.is_none() && service.health.is_some());
    }

    #[test]
    fn clients_do_not_connect_to_what_is_there_for_backends() {
        let mut plan = plan(
            &["192.0.2.100/24@eth0", "198.51.100.100/24@eth1"],
            true,
            &["198.51.100.100"],
        );
        plan.backends.pop();
        let config = Config::parse(&plan.text()).unwrap();
        assert!(config.services[0].kernel.is_some());
        let listen = &config.services[0].listen;
        assert!(listen.iter().all(|at| at.ip().to_string() == "192.0.2.100"));
        // One that is the only one of its version is there for both.
        plan.vips.remove(0);
        let config = Config::parse(&plan.text()).unwrap();
        assert_eq!(config.services[0].listen.len(), 2);
    }

    #[test]
    fn what_is_commented_out_is_valid_and_the_default() {
        let given = plan(&["192.0.2.100/24@eth0"], false, &[]).text();
        let on = given.replace("#[", "[").replace("#port", "port");
        let keys = ["heartbeat", "misses", "preempt", "balance", "interval"];
        let on = keys
            .iter()
            .fold(on, |text, key| text.replace(&format!("#{key}"), key));
        assert_ne!(given, on);
        let hash = |text: &str| Config::parse(text).unwrap().hash;
        assert_eq!(hash(&given), hash(&on));
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let mut plan = plan(&["192.0.2.100/24@eth0"], false, &[]);
        plan.cluster = "a\"\nname = \"b".into();
        let errors = Config::parse(&plan.text()).unwrap_err();
        assert_eq!(errors.0.len(), 1);
        assert_eq!(errors.0[0].key, "cluster.name");
    }
}
