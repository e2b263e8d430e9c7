//! The pair that unit tests configure, where it does not matter which.

use super::Config;

const PAIR: &str = r#"
[cluster]
name = "edge"
key_file = "/etc/tandem/cluster.key"
[[node]]
name = "lb1"
priority = 200
addresses = ["192.0.2.11"]
[[node]]
name = "lb2"
priority = 100
addresses = ["192.0.2.12"]
[[vip]]
address = "192.0.2.100/24"
interface = "eth0"
"#;

/// Nodes `lb1` and `lb2`, the floating address 192.0.2.100 on `eth0`, and what is added: services at
/// least. Panics with the mistakes of the text.
pub(crate) fn pair(rest: &str) -> Config {
    let text = format!("{PAIR}{rest}");
    let parsed = Config::parse(&text);
    parsed.unwrap_or_else(|errors| panic!("{}", errors.render("fixture", &text, false)))
}
