//! What only a proxied service can have: it needs the bytes, and the kernel mode sees packets.

use std::time::Duration;

use ipnet::IpNet;

/// How a proxied service treats its connections, beyond what every service has.
#[derive(Clone, Debug, PartialEq)]
pub struct Proxied {
    /// From these networks only are connections accepted, and each begins with a header of the
    /// PROXY protocol. Empty: no connection does. Up to 64.
    pub accept_proxy: Vec<IpNet>,
    /// Time for that header to arrive. Default 3 s (proxy-protocol.txt, 2: long enough for one
    /// retransmission), 10 ms to 1 min.
    pub accept_proxy_timeout: Duration,
    /// What is sent to a backend before the client's bytes; none: nothing.
    pub send_proxy: Option<SendProxy>,
    /// How long the first bytes may take until they tell what a rule asks. Default 5 s, 10 ms to
    /// 1 min.
    pub inspect_timeout: Duration,
    /// How many of them are looked at. Default 16,384; 512 to 65,536.
    pub inspect_bytes: u32,
}

/// The header of the PROXY protocol that backends get.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SendProxy {
    /// Its form.
    pub version: ProxyVersion,
    /// With the name that the client asked for (version 2).
    pub authority: bool,
    /// With a name for the connection that no other one has (version 2).
    pub unique_id: bool,
    /// With a checksum (version 2).
    pub crc32c: bool,
}

/// The two forms of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary, with room for more than the addresses.
    V2,
}

impl Default for Proxied {
    fn default() -> Self {
        Self {
            accept_proxy: Vec::new(),
            accept_proxy_timeout: Duration::from_secs(3),
            send_proxy: None,
            inspect_timeout: Duration::from_secs(5),
            inspect_bytes: 16 << 10,
        }
    }
}
