//! Access lists: who may connect at all.
//!
//! The most specific network that an address is in decides. In none: refused if there is an
//! `allow`, else let in.

use std::net::IpAddr;

use ipnet::IpNet;

/// The two lists of one service.
#[derive(Clone, Debug)]
pub struct Access {
    /// Longest prefixes first; true: allowed.
    rules: Box<[(IpNet, bool)]>,
    otherwise: bool,
}

impl Access {
    /// None: everybody may. No network is in both lists.
    pub fn new(allow: &[IpNet], deny: &[IpNet]) -> Option<Self> {
        let allowed = allow.iter().map(|net| (*net, true));
        let denied = deny.iter().map(|net| (*net, false));
        let mut rules: Box<[_]> = allowed.chain(denied).collect();
        rules.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        (!rules.is_empty()).then_some(Self {
            rules,
            otherwise: allow.is_empty(),
        })
    }

    /// Whether this client may connect.
    pub fn permits(&self, client: IpAddr) -> bool {
        // A listener for both versions gives IPv4 clients in disguise (RFC 4291, 2.5.5.2).
        let client = client.to_canonical();
        let rule = self.rules.iter().find(|(net, _)| net.contains(&client));
        rule.map_or(self.otherwise, |(_, allowed)| *allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn permits(allow: &[&str], deny: &[&str], client: &str) -> bool {
        let access = Access::new(&nets(allow), &nets(deny)).unwrap();
        access.permits(client.parse().unwrap())
    }

    #[test]
    fn the_most_specific_network_decides() {
        let (allow, deny) = (
            ["192.0.2.0/24", "203.0.113.7/32"],
            ["192.0.2.128/25", "203.0.113.0/24"],
        );
        for (client, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.129", false),
            ("203.0.113.7", true),
            ("203.0.113.8", false),
            ("198.51.100.1", false),
            ("2001:db8::1", false),
            ("::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.129", false),
        ] {
            assert_eq!(permits(&allow, &deny, client), expected, "{client}");
        }
    }

    #[test]
    fn with_deny_alone_others_may() {
        assert!(permits(&[], &["2001:db8:1::/48"], "2001:db8:2::1"));
        assert!(!permits(&[], &["2001:db8:1::/48"], "2001:db8:1::1"));
        assert!(permits(&[], &["2001:db8:1::/48"], "192.0.2.1"));
        assert!(Access::new(&[], &[]).is_none());
    }
}
