//! The resolvers of a host, by its `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};

/// As many as the C library asks.
const MOST: usize = 3;
/// The port of DNS (RFC 1035, 4.2).
const PORT: u16 = 53;

/// The resolvers that this text names. None at all: the host itself, as the C library has it. An
/// address with a scope (`fe80::1%eth0`) is passed over.
pub fn resolvers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let addresses = named.filter_map(|word| word.parse::<IpAddr>().ok());
    let mut servers: Vec<_> = addresses.map(|ip| (ip, PORT).into()).take(MOST).collect();
    if servers.is_empty() {
        servers.push(([127, 0, 0, 1], PORT).into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_a_host() {
        let text = "# made by hand\n nameserver 192.0.2.1\nnameserver\t2001:db8::1 # two\n\
                    search example\noptions ndots:5\nnameserver fe80::1%eth0\n;nameserver 192.0.2.9\n\
                    nameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"];
        assert_eq!(resolvers(text), expected.map(|it| it.parse().unwrap()));
        assert_eq!(resolvers("nameserver"), ["127.0.0.1:53".parse().unwrap()]);
    }
}
