//! How a proxied service's sockets are made: from where it reaches its backends, by what means, and
//! what becomes of silent peers.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tandem::dial;
use tandem::lab::{
    Host, Lab, LabError, Lan, SOURCE4, SOURCE6, backend_address, backend_address6, default_config,
    node_addresses,
};
use tandem::model::NodeId;
use tandem::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::greeter::{
    SOON, at, greet, greeter, greeting, line, listening, of, peer, plain, service, up,
};
use super::tools::{command, good, notes, printed, shows, status, until, vip, vip6, with};
use super::{Test, test};

type Needed = &'static [&'static str];

/// More than any of the limits here, less than the idle timeout.
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test(
                "sockets_have_the_source_and_the_mark_of_their_service",
                ways,
            ),
            &["nft"],
        ),
        (
            test("sockets_in_the_file_system_serve_and_are_checked", unix),
            &[],
        ),
        (
            test("sockets_transparent_show_backends_the_clients", transparent),
            &["ip"],
        ),
        (test("sockets_of_dead_peers_are_given_up", dead_peers), &[]),
        (
            test(
                "sockets_of_multipath_tcp_are_ordinary_where_there_is_none",
                multipath,
            ),
            &[],
        ),
        (test("sockets_open_fast_on_both_sides", fast), &[]),
    ]
}

/// The pair's addresses on the backends' LAN.
fn back_vips() -> String {
    format!(
        "\n[[vip]]\naddress = \"{SOURCE4}/24\"\ninterface = \"eth1\"\n\
         [[vip]]\naddress = \"{SOURCE6}/64\"\ninterface = \"eth1\"\n"
    )
}

/// The sum of these counters of a host.
async fn counter(host: &Host, file: &'static str, name: &'static str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = host.run(async move { fs::read_to_string(path) }).await;
    let text = good("read the counters", text);
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks(2).filter(|pair| pair.len() == 2);
    let all = pairs.flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()));
    let found = all.filter(|(word, _)| *word == name);
    found
        .map(|(_, value)| value.parse::<u64>().expect("a number"))
        .sum()
}

async fn ways() -> Result<(), LabError> {
    let own: Vec<String> = (NodeId::BOTH.iter())
        .map(|node| format!("\"{}\"", node_addresses(*node)[1]))
        .collect();
    let own = format!("source = [{}]", own.join(", "));
    let mut config = default_config() + &back_vips();
    config += &service(
        "vip",
        vip(9_201),
        &format!("source = \"{SOURCE4}\""),
        &at(0, 9_201).to_string(),
    );
    config += &service("own", vip(9_202), &own, &at(0, 9_202).to_string());
    config += &service("mark", vip(9_203), "mark = 0x2a", &at(0, 9_203).to_string());
    let six = SocketAddr::new(backend_address6(0).into(), 9_204);
    config += &service(
        "six",
        vip6(9_204),
        &format!("source = \"{SOURCE6}\""),
        &six.to_string(),
    );
    let mut lab = Lab::build(&with(config)).await?;
    let host = &lab.network().backends[0];
    for port in 9_201..=9_203 {
        greeter(host, plain(at(0, port))).await;
    }
    greeter(host, plain(six)).await;
    // The standby's checks of `own` come from its own address: only that is let in.
    for node in NodeId::BOTH {
        let rules = "add table inet t; \
            add chain inet t out { type filter hook output priority 0; }; \
            add rule inet t out tcp dport 9203 meta mark 0x2a counter; \
            add rule inet t out tcp dport 9203 ip daddr 198.51.100.21 meta mark != 0x2a counter drop";
        printed(lab.network().node(node), command("nft", &[rules])).await;
    }
    lab.start().await?;
    let master = lab.settled().await?;
    for node in NodeId::BOTH {
        for name in ["vip", "own", "mark", "six"] {
            shows(&mut lab, node, name, SOON, up(name, true)).await;
        }
    }
    assert_eq!(peer(&lab, vip(9_201)).await, SOURCE4.to_string());
    assert_eq!(peer(&lab, vip6(9_204)).await, SOURCE6.to_string());
    let expected = node_addresses(master)[1].to_string();
    assert_eq!(peer(&lab, vip(9_202)).await, expected);
    peer(&lab, vip(9_203)).await;
    for node in NodeId::BOTH {
        let list = command("nft", &["list", "chain", "inet", "t", "out"]);
        let text = printed(lab.network().node(node), list).await;
        let mut counts = text
            .lines()
            .filter_map(|line| line.split_once("counter packets "));
        let mut next = || {
            counts
                .next()
                .expect(&text)
                .1
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
        };
        assert!(next().unwrap() > 0, "checks and clients are marked: {text}");
        assert_eq!(next().unwrap(), 0, "all are: {text}");
    }
    // Of a VIP each node has half of the ports, so that the two never meet; older kernels have no such
    // halves.
    let read = async { fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") };
    let range = lab.network().node(master).run(read).await.unwrap();
    let mut range = range
        .split_whitespace()
        .map(|port| port.parse::<u16>().unwrap());
    let (low, high) = (range.next().unwrap(), range.next().unwrap());
    let middle = low + (high - low - 1) / 2;
    for _ in 0..8 {
        let (said, _) = good("connect", greeting(&lab, vip(9_201)).await);
        let port: u16 = said.split_once(' ').unwrap().1.parse().unwrap();
        let lower = port <= middle;
        assert!((low..=high).contains(&port), "{port}");
        assert_eq!(lower, master == NodeId::First, "{port} of {low}-{high}");
    }
    Ok(())
}

/// A greeter at a path.
async fn at_path(host: &Host, path: &Path) -> JoinHandle<()> {
    let place = path.to_owned();
    let listener = host.run(async move { UnixListener::bind(place) }).await;
    let listener = listener.expect("the path is free");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    host.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(greet(stream, "unix 0".into()));
        }
    })
}

async fn unix() -> Result<(), LabError> {
    let config = default_config() + &service("local", vip(9_211), "", "unix:@DIR@/local.sock");
    let mut lab = Lab::build(&with(config)).await?;
    let path = lab.dir().join("local.sock");
    let server = at_path(&lab.network().client, &path).await;
    lab.start().await?;
    let master = lab.settled().await?;
    let status = shows(&mut lab, master, "it is up", SOON, up("local", true)).await;
    let backend = &of(&status, "local").backends[0];
    assert_eq!(backend.address, format!("unix:{}", path.display()));

    // Both directions, more than a pipe holds, and the end from either side.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = bytes.clone();
    let talk = lab.network().client.run(timeout(LONG, async move {
        let mut stream = TcpStream::connect(vip(9_211)).await?;
        let said = line(&mut stream).await?;
        let (mut read, mut write) = stream.split();
        let mut got = Vec::new();
        let send = async {
            write.write_all(&sent).await?;
            write.shutdown().await
        };
        let (sent, read) = tokio::join!(send, read.read_to_end(&mut got));
        sent?;
        read?;
        Ok::<_, io::Error>((said, got))
    }));
    let (said, got) = good("talk to it", talk.await.expect("in time"));
    assert_eq!(said, "unix 0");
    assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());

    server.abort();
    fs::remove_file(&path).unwrap();
    shows(&mut lab, master, "it is down", SOON, up("local", false)).await;
    let refused = greeting(&lab, vip(9_211)).await;
    assert!(refused.is_err(), "{refused:?}");
    at_path(&lab.network().client, &path).await;
    shows(&mut lab, master, "it is up again", SOON, up("local", true)).await;
    assert_eq!(peer(&lab, vip(9_211)).await, "unix");
    Ok(())
}

async fn transparent() -> Result<(), LabError> {
    let keys = "transparent = true";
    let six = SocketAddr::new(backend_address6(0).into(), 9_222);
    let mut config = default_config() + &back_vips();
    config += &service("seen", vip(9_221), keys, &at(0, 9_221).to_string());
    config += &service("six", vip6(9_222), keys, &six.to_string());
    // These are of no use to anybody else.
    for (address, port) in [
        (SocketAddr::from((SOURCE4, 9_223)), 9_223),
        ((SOURCE6, 9_224).into(), 9_224),
    ] {
        let n: IpAddr = match address.is_ipv4() {
            true => backend_address(0).into(),
            false => backend_address6(0).into(),
        };
        config += &service(
            &format!("gate{port}"),
            address,
            "",
            &SocketAddr::new(n, port).to_string(),
        );
    }
    let mut lab = Lab::build(&with(config)).await?;
    let ip = async |host: &Host, line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        printed(host, command("ip", &words)).await;
    };
    // The backend's way to the clients leads through the master.
    let host = &lab.network().backends[0];
    ip(host, &format!("route add 192.0.2.0/24 via {SOURCE4}")).await;
    ip(host, &format!("-6 route add 2001:db8:1::/64 via {SOURCE6}")).await;
    // As docs/configuration.md says.
    for node in NodeId::BOTH {
        let host = lab.network().node(node);
        for (version, port) in [("", 9_221), ("-6 ", 9_222)] {
            ip(
                host,
                &format!("{version}rule add iif eth1 ipproto tcp sport {port} lookup 100"),
            )
            .await;
            ip(
                host,
                &format!("{version}route add local default dev lo table 100"),
            )
            .await;
        }
    }
    for port in [9_223, 9_224] {
        let six = SocketAddr::new(backend_address6(0).into(), port);
        let make = if port == 9_223 {
            plain(at(0, port))
        } else {
            plain(six)
        };
        greeter(&lab.network().backends[0], make).await;
    }
    greeter(&lab.network().backends[0], plain(at(0, 9_221))).await;
    greeter(&lab.network().backends[0], plain(six)).await;
    lab.start().await?;
    let first = lab.settled().await?;
    for node in NodeId::BOTH {
        shows(
            &mut lab,
            node,
            "checks have our own address",
            SOON,
            up("seen", true),
        )
        .await;
        shows(&mut lab, node, "the same for IPv6", SOON, up("six", true)).await;
    }
    assert_eq!(peer(&lab, vip(9_221)).await, "192.0.2.10");
    assert_eq!(peer(&lab, vip6(9_222)).await, "2001:db8:1::10");

    // The routes lead to the next master, too.
    lab.node(first).signal(nix::sys::signal::Signal::SIGKILL)?;
    let leads = |status: &Status| status.role == tandem::model::Role::Master;
    shows(&mut lab, first.peer(), "the standby leads", SOON, leads).await;
    assert_eq!(peer(&lab, vip(9_221)).await, "192.0.2.10");
    Ok(())
}

/// Waits for the end of a connection, of whichever kind.
async fn ended(lab: &Lab, mut stream: TcpStream, speaks: bool) -> bool {
    let wait = async move {
        if speaks {
            let _ = stream.write_all(b"is anybody there?").await;
        }
        let mut buffer = [0; 64];
        matches!(stream.read(&mut buffer).await, Ok(0) | Err(_))
    };
    let done = lab.network().client.run(timeout(LONG, wait)).await;
    done.is_ok_and(|ended| ended)
}

async fn dead_peers() -> Result<(), LabError> {
    let keepalive = "keepalive = { idle = \"1s\", interval = \"1s\", count = 2 }";
    let (asks, gives_up) = (vip(9_231), vip(9_232));
    let mut config = default_config();
    config += &service("asks", asks, keepalive, &at(0, 9_231).to_string());
    config += &service(
        "gives-up",
        gives_up,
        "user_timeout = \"1s\"",
        &at(0, 9_232).to_string(),
    );
    let mut lab = Lab::build(&with(config)).await?;
    greeter(&lab.network().backends[0], plain(at(0, 9_231))).await;
    greeter(&lab.network().backends[0], plain(at(0, 9_232))).await;
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "it is up", SOON, up("asks", true)).await;
    shows(&mut lab, master, "it is up", SOON, up("gives-up", true)).await;

    let mut connections = Vec::new();
    for (address, speaks) in [(asks, false), (gives_up, true)] {
        let (_, stream) = good("connect", greeting(&lab, address).await);
        connections.push((stream, speaks));
    }
    // The other side is alive: nothing ends it within some questions.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let now = status(&mut lab, master).await;
    assert_eq!(
        (
            of(&now, "asks").connections,
            of(&now, "gives-up").connections
        ),
        (1, 1)
    );

    let backend = &lab.network().backends[0];
    lab.network().detach(backend, Lan::Back).await?;
    for (stream, speaks) in connections {
        assert!(ended(&lab, stream, speaks).await, "the client is told");
    }
    lab.network()
        .attach(&lab.network().backends[0], Lan::Back)
        .await?;
    shows(&mut lab, master, "it is up again", SOON, up("asks", true)).await;

    // The same on the client's side, which only the node can tell.
    let (_, stream) = good("connect", greeting(&lab, asks).await);
    let client = &lab.network().client;
    lab.network().detach(client, Lan::Front).await?;
    let none = |status: &Status| of(status, "asks").connections == 0;
    shows(&mut lab, master, "the client is given up", LONG, none).await;
    drop(stream);
    Ok(())
}

async fn multipath() -> Result<(), LabError> {
    let config = default_config()
        + &service(
            "paths",
            vip(9_241),
            "mptcp = \"both\"",
            &at(0, 9_241).to_string(),
        );
    for has in [true, false] {
        let mut lab = Lab::build(&with(config.clone())).await?;
        let network = lab.network();
        let enabled = if has { "1" } else { "0" };
        let mut known = true;
        for node in NodeId::BOTH {
            known &= network.node(node).sysctl("mptcp/enabled", enabled).await;
        }
        if !known {
            eprintln!("this kernel has no Multipath TCP");
        }
        let host = &network.backends[0];
        let protocol = if known {
            Protocol::MPTCP
        } else {
            Protocol::TCP
        };
        greeter(host, move || listening(at(0, 9_241), protocol, |_| Ok(()))).await;
        lab.start().await?;
        let master = lab.settled().await?;
        shows(&mut lab, master, "it is up", SOON, up("paths", true)).await;
        let talk = lab.network().client.run(timeout(LONG, async move {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
            socket.connect(&vip(9_241).into())?;
            socket.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(socket.into())?;
            stream.write_all(&[7; 300_000]).await?;
            line(&mut stream).await?;
            let mut echo = vec![0; 300_000];
            stream.read_exact(&mut echo).await?;
            Ok::<_, io::Error>(echo == [7; 300_000])
        }));
        assert!(good("talk", talk.await.expect("in time")));
        let node = lab.network().node(master);
        let from_client = counter(node, "netstat", "MPCapableACKRX").await;
        let at_backend = counter(&lab.network().backends[0], "netstat", "MPCapableACKRX").await;
        let said = notes(&mut lab, master).await?;
        let told = said
            .iter()
            .any(|note| note.contains("no Multipath TCP") && note.contains("paths"));
        match has && known {
            true => assert!(
                from_client > 0 && at_backend > 0 && !told,
                "{from_client} {at_backend} {said:?}"
            ),
            false => assert!(
                from_client == 0 && at_backend == 0 && told,
                "{from_client} {at_backend} {said:?}"
            ),
        }
    }
    Ok(())
}

async fn fast() -> Result<(), LabError> {
    let keys = "fast_open = 64\nfast_open_backends = true";
    let mut config =
        default_config() + &service("fast", vip(9_251), keys, &at(0, 9_251).to_string());
    config += &format!(
        "[[service.backend]]\nname = \"fast2\"\naddress = \"{}\"\n",
        at(1, 9_251)
    );
    let mut lab = Lab::build(&with(config)).await?;
    for host in lab.network().hosts() {
        assert!(host.sysctl("ipv4/tcp_fastopen", "3").await);
    }
    let make = |n| {
        move || {
            listening(at(n, 9_251), Protocol::TCP, |socket| {
                dial::accept_fast(socket, 64)
            })
        }
    };
    let first = greeter(&lab.network().backends[0], make(0)).await;
    greeter(&lab.network().backends[1], make(1)).await;
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "both are up", SOON, up("fast", true)).await;
    let said = notes(&mut lab, master).await?;
    assert!(
        !said.iter().any(|note| note.contains("fast open")),
        "{said:?}"
    );
    let visit = async || {
        let talk = lab.network().client.run(timeout(SOON, async move {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
            socket.connect(&vip(9_251).into())?;
            socket.send(&[7; 2_000])?;
            socket.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(socket.into())?;
            line(&mut stream).await?;
            let mut echo = vec![0; 2_000];
            stream.read_exact(&mut echo).await?;
            Ok::<_, io::Error>(echo == [7; 2_000])
        }));
        talk.await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    };
    // The first connection to each host brings a cookie, the next ones use it.
    let node = lab.network().node(master);
    until("bytes in a SYN both ways", LONG, async || {
        assert!(good("visit", visit().await));
        let passive = counter(node, "netstat", "TCPFastOpenPassive").await;
        let active = counter(node, "netstat", "TCPFastOpenActive").await;
        (passive > 0 && active > 0).then_some(())
    })
    .await;
    // A backend that refuses what came in the SYN is followed by the next one.
    first.abort();
    for _ in 0..6 {
        assert!(good("the other one has it", visit().await));
    }
    Ok(())
}
