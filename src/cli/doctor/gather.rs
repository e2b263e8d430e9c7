//! Looks at the host. Changes nothing on it, and leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::statfs::{FsType, statfs};
use socket2::{Domain, Protocol, Socket, Type};

use super::facts::{Answers, Facts, PathFacts, Program, Settings, Tcp, Tun, Udp};
use crate::cli::setup_args::Doctor;
use crate::config::Config;
use crate::control::client::{self, CallError};
use crate::daemon::PRIORITY;
use crate::datapath::nat;
use crate::model::NodeId;
use crate::net::kernel::arp::Arp;
use crate::net::kernel::survey::{self, Seen};
use crate::net::{clock, guard, key};
use crate::wire::admin::{Request, Response};
use crate::wire::seal::{Knock, MAGIC, MAX_DATAGRAM};

const TUN: &str = "/dev/net/tun";
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// For how long neighbours are waited for.
const NEIGHBOURS: Duration = Duration::from_millis(600);
/// For how long a connection to the peer is waited for: a lost SYN is sent again after 1 s.
const CONNECT: Duration = Duration::from_millis(1_500);
/// How often a timer is tried, and how far ahead.
const TICKS: u32 = 500;
const TICK: Duration = Duration::from_millis(2);

/// Everything that can be known of this host, given this configuration of it, if there is one.
pub(super) fn gather(args: &Doctor, config: Option<(&Config, NodeId)>) -> Facts {
    let (wall, start) = (clock::wall().0, clock::monotonic());
    let mut facts = Facts::default();
    match client::call(&args.control.path, &Request::Status) {
        Ok(Response::Status { status }) => facts.running = Some(status),
        Err(CallError::NotRunning { .. }) => {}
        Ok(other) => facts.mute = Some(format!("it answers {other:?}")),
        Err(error) => facts.mute = Some(error.to_string()),
    }
    let runs = facts.running.is_some() || facts.mute.is_some();
    thread::scope(|scope| {
        // Each of these waits, for different things; none of them for the others.
        let timer = scope.spawn(timer);
        let paths = scope.spawn(|| match config {
            Some((config, me)) if !runs => paths(config, me),
            _ => Vec::new(),
        });
        facts.tun = tun();
        facts.ipv6_off = ["all", "default"].iter().any(|which| {
            setting(&format!("ipv6/conf/{which}/disable_ipv6")).is_ok_and(|value| value == 1)
        });
        let links = survey::links().map_err(|error| error.to_string());
        if let Ok(links) = &links {
            facts.settings = settings(links);
            if let Some((config, me)) = config {
                facts.answers = answers(config, me, links);
            }
        }
        facts.links = links;
        if let Some((config, _)) = config
            && !runs
        {
            facts.lacking = lacking(config);
            let wanted = config.cluster.relay || config.services.iter().any(|s| s.kernel.is_some());
            facts.program = wanted.then(|| program(&args.pins));
        }
        facts.paths = paths.join().unwrap_or_default();
        (facts.real_time, facts.timer) = timer.join().unwrap_or((Ok(()), None));
    });
    let (now, suspended) = clock::wall();
    facts.suspended = suspended;
    facts.clock_jump = now.abs_diff(wall + (clock::monotonic() - start));
    facts
}

/// Names and bits of the capabilities that a node with this configuration needs (capability.h).
fn lacking(config: &Config) -> Vec<&'static str> {
    let low = config.services.iter().flat_map(|service| &service.listen);
    let low = low.clone().any(|at| at.port() < 1_024);
    let needed = [
        (12, "CAP_NET_ADMIN", true),
        (13, "CAP_NET_RAW", true),
        (10, "CAP_NET_BIND_SERVICE", low),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let have = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    // Where it cannot be read, what fails will tell.
    let have = have.unwrap_or(u64::MAX);
    let needed = needed.into_iter().filter(|(_, _, needed)| *needed);
    needed
        .filter(|(bit, _, _)| have & (1 << bit) == 0)
        .map(|(_, name, _)| name)
        .collect()
}

fn tun() -> Tun {
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Err(error) => Tun::Fails(error.to_string()),
        Ok(_) => match fs::metadata(TUN).map(|data| data.permissions().mode() & 0o777) {
            Ok(mode) if mode & 0o006 != 0o006 => Tun::Closed(mode),
            _ => Tun::Works,
        },
    }
}

/// Of this thread's network namespace.
fn setting(name: &str) -> io::Result<u8> {
    let text = fs::read_to_string(Path::new("/proc/sys/net").join(name))?;
    text.trim()
        .parse()
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

fn settings(links: &[Seen]) -> BTreeMap<String, Settings> {
    let rp_filter = |name: &str| setting(&format!("ipv4/conf/{name}/rp_filter"));
    let of = |name: &str| {
        Ok::<_, io::Error>(Settings {
            arp: Arp::read(name)?,
            // The higher one holds (ip-sysctl.rst).
            rp_filter: rp_filter("all")?.max(rp_filter(name)?),
        })
    };
    let read = links.iter().map(|link| (link.name.clone(), of(&link.name)));
    read.filter_map(|(name, settings)| Some((name, settings.ok()?)))
        .collect()
}

/// Asks on each link with floating addresses for them and for the peer.
fn answers(
    config: &Config,
    me: NodeId,
    links: &[Seen],
) -> BTreeMap<String, Result<Answers, String>> {
    let peer = &config.node(me.peer()).addresses;
    let ask = |name: &str| {
        let link = links.iter().find(|link| link.name == name)?;
        if !(link.up && link.ethernet) {
            return None;
        }
        let vips = config.vips.iter().filter(|vip| vip.interface == name);
        let ips: Vec<IpAddr> = vips
            .map(crate::model::Vip::ip)
            .chain(peer.iter().copied())
            .collect();
        let answers = survey::who_answers(link, &ips, NEIGHBOURS);
        Some((name.to_owned(), answers.map_err(|error| error.to_string())))
    };
    let interfaces = config.interfaces();
    thread::scope(|scope| {
        let asked: Vec<_> = interfaces
            .into_iter()
            .map(|name| scope.spawn(move || ask(name)))
            .collect();
        asked
            .into_iter()
            .filter_map(|one| one.join().ok().flatten())
            .collect()
    })
}

fn program(pins: &Path) -> Program {
    let mut program = Program::default();
    match nat::rehearse() {
        Ok(late) => program.late = late,
        Err(error) => program.fails = Some(error.to_string()),
    }
    // The directory itself is made at the start.
    let place = [Some(pins), pins.parent()].into_iter().flatten();
    let place = place.map(statfs).find_map(Result::ok);
    program.no_pins = place.is_none_or(|place| place.filesystem_type() != BPF_FS);
    program
}

fn timer() -> (Result<(), String>, Option<(Duration, Duration)>) {
    let real_time = guard::real_time(PRIORITY);
    let mut late: Vec<Duration> = (0..TICKS)
        .map(|_| {
            let until = clock::monotonic() + TICK;
            thread::sleep(TICK);
            clock::monotonic().saturating_sub(until)
        })
        .collect();
    late.sort_unstable();
    let worst = late.last().copied();
    (real_time, worst.map(|worst| (worst, late[late.len() / 2])))
}

/// All at once: each may take as long as its peer is silent.
fn paths(config: &Config, me: NodeId) -> Vec<PathFacts> {
    let port = config.cluster.port;
    let (mine, peers) = (config.node(me), config.node(me.peer()));
    let knock = key::load(&config.cluster.key_file).ok();
    let knock = knock.map(|ring| Knock::new(&ring.first, &config.cluster.name, me.peer()));
    let patience = (config.election.heartbeat * 2).max(Duration::from_secs(1));
    thread::scope(|scope| {
        let pairs = mine.addresses.iter().zip(&peers.addresses);
        let tried: Vec<_> = pairs
            .map(|(&local, &remote)| {
                scope.spawn(move || {
                    let (local, remote) = ((local, port).into(), (remote, port).into());
                    let mut path = PathFacts {
                        local,
                        remote,
                        udp: Udp::Silent,
                        tcp: None,
                    };
                    path.udp = listen(&path, knock, patience);
                    if path.udp == Udp::Silent {
                        path.tcp = Some(connect(&path));
                    }
                    path
                })
            })
            .collect();
        tried
            .into_iter()
            .filter_map(|path| path.join().ok())
            .collect()
    })
}

/// Sends one datagram, which no node takes for a heartbeat, and hears what comes.
fn listen(path: &PathFacts, knock: Option<Knock>, patience: Duration) -> Udp {
    let heard = || -> io::Result<bool> {
        let socket = UdpSocket::bind(path.local)?;
        socket.connect(path.remote)?;
        socket.send(b"tandem doctor")?;
        let until = clock::monotonic() + patience;
        let mut room = [0; MAX_DATAGRAM];
        loop {
            let left = until.saturating_sub(clock::monotonic());
            if left.is_zero() {
                return Err(ErrorKind::WouldBlock.into());
            }
            socket.set_read_timeout(Some(left))?;
            let length = socket.recv(&mut room)?;
            if let Some(theirs) = room[..length].strip_prefix(&MAGIC) {
                return Ok(knock.is_none_or(|knock| theirs.starts_with(&knock.0)));
            }
        }
    };
    match heard() {
        Ok(true) => Udp::Heard,
        Ok(false) => Udp::Stranger,
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Udp::Silent,
            ErrorKind::ConnectionRefused => Udp::Closed,
            ErrorKind::AddrNotAvailable => Udp::NoAddress,
            // Such as "no route" from a router, or from a firewall of this host.
            _ => Udp::Fails(error.to_string()),
        },
    }
}

fn connect(path: &PathFacts) -> Tcp {
    let connected = || -> io::Result<()> {
        let domain = Domain::for_address(path.local);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(path.local.ip(), 0).into())?;
        socket.connect_timeout(&path.remote.into(), CONNECT)
    };
    match connected() {
        Ok(()) => Tcp::Open,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Tcp::Refused,
        Err(_) => Tcp::Silent,
    }
}
