//! The pair's configuration in the lab.

use std::fmt::Write;

use super::topology::{BACKENDS, VIP4, VIP6, backend_address, node_addresses};
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
    for vip in [format!("{VIP4}/24"), format!("{VIP6}/64")] {
        let _ = write!(
            text,
            "\n[[vip]]\naddress = \"{vip}\"\ninterface = \"eth0\"\n"
        );
    }
    let _ = write!(
        text,
        "\n[[service]]\nname = \"{SERVICE}\"\nlisten = [\"{VIP4}:{PORT}\", \"[{VIP6}]:{PORT}\"]\n\
         balance = \"round_robin\"\nconnect_timeout = \"200ms\"\n\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n\
         rise = 2\nfall = 2\n"
    );
    for n in 0..BACKENDS {
        let (name, address) = (backend_name(n), backend_address(n));
        let _ = write!(
            text,
            "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}:{PORT}\"\n"
        );
    }
    text
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
}
