//! The adapter against a resolver that the test plays, by UDP and TCP, and against a file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, Rtype, Ttl};
use domain::rdata::{A, Srv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::*;

/// What the resolver knows, and how it behaves.
#[derive(Default)]
struct Zone {
    addresses: BTreeMap<String, Vec<u8>>,
    servers: BTreeMap<String, Vec<(u16, u16, u16, String)>>,
    /// It says SERVFAIL.
    fails: bool,
    /// By UDP it says that the answer is too long.
    truncates: bool,
    asked: usize,
}

type Known = Arc<Mutex<Zone>>;

fn answer(zone: &mut Zone, question: &[u8], tcp: bool) -> Vec<u8> {
    let question = Message::from_octets(question.to_vec()).unwrap();
    let asked = question.sole_question().unwrap();
    let name = asked.qname().to_string().to_ascii_lowercase();
    zone.asked += 1;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(question.header().id());
    message.header_mut().set_qr(true);
    message.header_mut().set_tc(zone.truncates && !tcp);
    if zone.fails {
        message.header_mut().set_rcode(Rcode::SERVFAIL);
    }
    let owner = Name::<Vec<u8>>::from_str(&name).unwrap();
    let mut message = message.question();
    message.push((&owner, asked.qtype())).unwrap();
    let mut message = message.answer();
    let ttl = Ttl::from_secs(1);
    if zone.fails || (zone.truncates && !tcp) {
        return message.finish();
    }
    if asked.qtype() == Rtype::A {
        for host in zone.addresses.get(&name).into_iter().flatten() {
            let data = A::from_octets(192, 0, 2, *host);
            message.push((&owner, Class::IN, ttl, data)).unwrap();
        }
    }
    if asked.qtype() == Rtype::SRV {
        for (priority, weight, port, target) in zone.servers.get(&name).into_iter().flatten() {
            let target = Name::<Vec<u8>>::from_str(target).unwrap();
            let data = Srv::new(*priority, *weight, *port, target);
            message.push((&owner, Class::IN, ttl, data)).unwrap();
        }
    }
    message.finish()
}

/// A resolver on both transports of one port.
async fn resolver() -> (SocketAddr, Known) {
    let zone = Known::default();
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let known = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut bytes = [0; 2_000];
        while let Ok((length, from)) = udp.recv_from(&mut bytes).await {
            // What comes before the answer and is none.
            let _ = udp.send_to(b"no answer at all", from).await;
            let reply = answer(&mut known.lock().unwrap(), &bytes[..length], false);
            let mut forged = reply.clone();
            forged[0] ^= 1;
            let _ = udp.send_to(&forged, from).await;
            let _ = udp.send_to(&reply, from).await;
        }
    });
    let known = Arc::clone(&zone);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let reply = answer(&mut known.lock().unwrap(), &bytes, true);
            let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            stream.write_all(&framed).await.unwrap();
        }
    });
    (address, zone)
}

fn config(servers: &[SocketAddr], source: &str) -> Arc<Config> {
    let servers: Vec<_> = servers.iter().map(|it| format!("\"{it}\"")).collect();
    let text = format!(
        "[cluster]\nname = \"edge\"\nkey_file = \"/k\"\n\
         [[node]]\nname = \"lb1\"\npriority = 2\naddresses = [\"192.0.2.11\"]\n\
         [[node]]\nname = \"lb2\"\npriority = 1\naddresses = [\"192.0.2.12\"]\n\
         [dns]\nservers = [{}]\ntimeout = \"200ms\"\nattempts = 2\n\
         [[vip]]\naddress = \"192.0.2.100/24\"\ninterface = \"eth0\"\n\
         [[service]]\nname = \"web\"\nlisten = [\"192.0.2.100:80\"]\n\
         [[service.discover]]\n{source}\n",
        servers.join(", ")
    );
    Arc::new(Config::parse(&text).unwrap())
}

/// The backends that are told next.
async fn told(found: &mut Receiver<Found>) -> String {
    let next = timeout(Duration::from_secs(20), found.recv()).await;
    let found = next.expect("in time").expect("it goes on");
    let all = found.members.iter();
    let all: Vec<_> = all.map(|it| format!("{}*{}", it.name, it.weight)).collect();
    all.join(" ")
}

fn start(config: &Arc<Config>) -> (Finder, Receiver<Found>) {
    let (tell, found) = mpsc::channel(4);
    (Finder::run(config, 7, &tell), found)
}

async fn shows(finder: &Finder, shown: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
    for _ in 0..2_000 {
        let all = finder.status(ServiceId::of("web"));
        if shown(&all[0]) {
            return all[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", finder.status(ServiceId::of("web")));
}

#[tokio::test]
async fn addresses_are_followed_and_stay_while_nobody_answers() {
    let (address, zone) = resolver().await;
    let set = |hosts: &[u8]| {
        let mut zone = zone.lock().unwrap();
        zone.addresses.insert("web.example".into(), hosts.to_vec());
    };
    set(&[1, 2]);
    let source = "dns = \"web.example:80\"\nmin_ttl = \"1s\"";
    let (finder, mut found) = start(&config(&[address], source));
    assert_eq!(told(&mut found).await, "192.0.2.1:80*1 192.0.2.2:80*1");
    let well = shows(&finder, |it| {
        it.answered_ms_ago.is_some() && it.error.is_none()
    })
    .await;
    assert_eq!(
        (well.source.as_str(), well.backends),
        ("dns web.example:80", 2)
    );
    set(&[3, 2]);
    assert_eq!(told(&mut found).await, "192.0.2.2:80*1 192.0.2.3:80*1");
    zone.lock().unwrap().fails = true;
    let ill = shows(&finder, |it| it.error.is_some()).await;
    let expected = format!("{address}, web.example A: the resolver says SERVFAIL");
    let other = format!("{address}, web.example AAAA: the resolver says SERVFAIL");
    assert!([expected, other].contains(&ill.error.unwrap()));
    assert_eq!(ill.backends, 2);
    assert!(found.try_recv().is_err(), "nothing was taken away");
    zone.lock().unwrap().fails = false;
    set(&[4]);
    assert_eq!(told(&mut found).await, "192.0.2.4:80*1");
    shows(&finder, |it| it.error.is_none()).await;
}

#[tokio::test]
async fn long_answers_come_by_tcp_and_dead_resolvers_are_passed_over() {
    let (address, zone) = resolver().await;
    zone.lock().unwrap().truncates = true;
    let many: Vec<u8> = (101..=250).collect();
    let name = "web.example".to_owned();
    zone.lock().unwrap().addresses.insert(name, many);
    // One that takes questions and never answers, and one that is not there.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = [
        silent.local_addr().unwrap(),
        gone.local_addr().unwrap(),
        address,
    ];
    drop(gone);
    let source = "dns = \"web.example:80\"\nmax_backends = 100\nfamily = \"ipv4\"";
    let (finder, mut found) = start(&config(&servers, source));
    let names = told(&mut found).await;
    assert_eq!(names.split(' ').count(), 100, "{names}");
    let shown = shows(&finder, |it| it.error.is_some()).await;
    let said = "150 addresses; `max_backends` allows 100 of them";
    assert_eq!(shown.error.as_deref(), Some(said));
}

#[tokio::test]
async fn servers_have_their_ports_and_weights() {
    let (address, zone) = resolver().await;
    {
        let mut zone = zone.lock().unwrap();
        zone.addresses.insert("a.example".into(), vec![1]);
        zone.addresses.insert("b.example".into(), vec![2, 3]);
        let server = |priority, weight, port, name: &str| (priority, weight, port, name.to_owned());
        let servers = vec![
            server(1, 3, 81, "a.example"),
            server(1, 2, 82, "b.example"),
            server(1, 9, 83, "gone.example"),
            server(2, 1, 84, "a.example"),
        ];
        zone.servers.insert("_web._tcp.example".into(), servers);
    }
    let (_finder, mut found) = start(&config(&[address], "dns_srv = \"_web._tcp.example\""));
    let expected = "192.0.2.1:81*3 192.0.2.2:82*2 192.0.2.3:82*2";
    assert_eq!(told(&mut found).await, expected);
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.toml");
    let write = |text: &str| {
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let source = format!("backends_file = \"{}\"\nweight = 5", path.display());
    let (finder, mut found) = start(&config(&["127.0.0.1:9".parse().unwrap()], &source));
    let ill = shows(&finder, |it| it.error.is_some()).await;
    assert!(ill.error.unwrap().contains("No such file"));
    write("[[backend]]\naddress = \"192.0.2.1:80\"\nname = \"b1\"\n");
    assert_eq!(told(&mut found).await, "b1*5");
    shows(&finder, |it| it.error.is_none() && it.backends == 1).await;
    write("[[backend]]\naddress = \"192.0.2.1\"\n");
    let ill = shows(&finder, |it| it.error.is_some()).await;
    assert!(ill.error.unwrap().starts_with("2:11: an address is"));
    assert_eq!(ill.backends, 1);
    std::fs::remove_file(&path).unwrap();
    let gone = |it: &SourceStatus| it.error.as_ref().is_some_and(|it| it.contains("No such"));
    assert_eq!(shows(&finder, gone).await.backends, 1);
    assert!(found.try_recv().is_err(), "nothing was taken away");
    write("backend = []\n");
    assert_eq!(told(&mut found).await, "");
}
