//! What is known of a host. Whatever could not be looked at is not there, or says why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::model::Mac;
use crate::net::kernel::arp::Arp;
use crate::net::kernel::survey::Seen;
use crate::status::Status;

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// What the node says, if one runs here.
    pub(super) running: Option<Box<Status>>,
    /// Why the node that seems to run here does not answer.
    pub(super) mute: Option<String>,
    /// Capabilities that a node needs and this process lacks.
    pub(super) lacking: Vec<&'static str>,
    /// The TUN driver.
    pub(super) tun: Tun,
    /// The links, or why they could not be read.
    pub(super) links: Result<Vec<Seen>, String>,
    /// By link; IPv4's.
    pub(super) settings: BTreeMap<String, Settings>,
    /// IPv6 is switched off on new devices.
    pub(super) ipv6_off: bool,
    /// By link: who answers for addresses of the pair; or why nobody could be asked.
    pub(super) answers: BTreeMap<String, Result<Answers, String>>,
    /// The heartbeat paths, if no node runs here.
    pub(super) paths: Vec<PathFacts>,
    /// The kernel program, if one is wanted and no node runs here.
    pub(super) program: Option<Program>,
    /// Real-time priority, or why not.
    pub(super) real_time: Result<(), String>,
    /// How late a timer was, at worst and in the middle.
    pub(super) timer: Option<(Duration, Duration)>,
    /// By how much the time of day jumped while this was watched.
    pub(super) clock_jump: Duration,
    /// For how long the host was suspended since it started.
    pub(super) suspended: Duration,
}

impl Default for Facts {
    /// A host on which all is well and nothing was looked at.
    fn default() -> Self {
        Self {
            running: None,
            mute: None,
            lacking: Vec::new(),
            tun: Tun::Works,
            links: Ok(Vec::new()),
            settings: BTreeMap::new(),
            ipv6_off: false,
            answers: BTreeMap::new(),
            paths: Vec::new(),
            program: None,
            real_time: Ok(()),
            timer: None,
            clock_jump: Duration::ZERO,
            suspended: Duration::ZERO,
        }
    }
}

/// Who answers for what.
pub(super) type Answers = BTreeMap<IpAddr, BTreeSet<Mac>>;

/// What holds on a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) arp: Arp,
    pub(super) rp_filter: u8,
}

/// `/dev/net/tun`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Tun {
    Works,
    /// It opens for this user, and not for everybody.
    Closed(u32),
    /// It does not.
    Fails(String),
}

/// One heartbeat path, as tried.
#[derive(Clone, Debug)]
pub(super) struct PathFacts {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) udp: Udp,
    /// Tried where UDP stayed silent.
    pub(super) tcp: Option<Tcp>,
}

/// What came on a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Udp {
    /// A heartbeat with the peer's knock.
    Heard,
    /// A heartbeat of one with another key or cluster name.
    Stranger,
    /// The peer's kernel says that nobody listens: datagrams get there and answers come back.
    Closed,
    /// Nothing.
    Silent,
    /// This host does not have the address.
    NoAddress,
    /// Something else in the way here.
    Fails(String),
}

/// What became of a connection to the same port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tcp {
    Open,
    Refused,
    Silent,
}

/// A rehearsal of the start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Program {
    /// Why it does not load.
    pub(super) fails: Option<String>,
    /// Why the death of a process would be noticed late.
    pub(super) late: Option<String>,
    /// The pins' place is in no BPF file system.
    pub(super) no_pins: bool,
}
