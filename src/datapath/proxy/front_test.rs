//! The beginning of connections on loopback: headers in and out, rules, and clients that are slow.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use tokio::time::Instant;

use super::rig::{
    Rig, accept, assert_reset, backend, config, echo, listener, live, nobody, ping, read_out,
};
use crate::balance::flow::{FlowEnd, FlowEvent, Unserved};
use crate::config::{Backend, Config, Pool, ProxyVersion, Rule, SendProxy};
use crate::model::{BackendId, Scheduler, Weight};
use crate::wire::proxy_header::{Addresses, Decoded, Header, Outgoing, Version, decode, encode};

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 203.0.113.100 40000 443\r\n";

/// Loopback speaks the PROXY protocol.
fn accepting(backends: &[SocketAddr]) -> Config {
    let mut config = config(backends);
    config.services[0].proxied.accept_proxy = vec!["127.0.0.0/8".parse().unwrap()];
    config
}

fn sending(backends: &[SocketAddr], version: ProxyVersion) -> Config {
    let mut config = config(backends);
    let all = version == ProxyVersion::V2;
    config.services[0].proxied.send_proxy = Some(SendProxy {
        version,
        authority: false,
        unique_id: all,
        crc32c: all,
    });
    config
}

/// A second pool with this backend, and a rule to it.
fn ruled(config: &mut Config, address: SocketAddr, rule: Rule) {
    let service = &mut config.services[0];
    let place = service.proxied.pools.len() as u16;
    let name = format!("p{place}");
    service.backends.push(Backend {
        max_connections: None,
        backup: false,
        check_address: None,
        check_port: None,
        agent_address: None,
        agent_port: None,
        id: BackendId::of("web", &name),
        name: name.clone(),
        address: address.into(),
        weight: Weight(1),
        pool: Some(place),
    });
    service.proxied.pools.push(Pool {
        name,
        balance: Scheduler::Random.into(),
        health: None,
    });
    service.proxied.rules.push(Rule {
        pool: Some(place),
        ..rule
    });
}

fn host(pattern: &str) -> Rule {
    Rule {
        host: vec![pattern.into()],
        ..Rule::default()
    }
}

/// A backend that sends this, and listens until its client has ended, so that it resets nobody.
fn named(name: &'static str) -> SocketAddr {
    backend(move |mut stream| {
        stream.write_all(name.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

fn answer(stream: &mut TcpStream) -> String {
    String::from_utf8(read_out(stream).0).unwrap()
}

fn clients(events: &[FlowEvent]) -> Vec<SocketAddr> {
    let client = |event: &FlowEvent| match event {
        FlowEvent::Opened { client, .. } => Some(*client),
        _ => None,
    };
    events.iter().filter_map(client).collect()
}

fn bad_headers(events: &[FlowEvent]) -> usize {
    let bad = |event: &&FlowEvent| matches!(event, FlowEvent::Unserved { why, .. } if *why == Unserved::Header);
    events.iter().filter(bad).count()
}

/// Reads a header and leaves what follows.
fn read_header(stream: &mut TcpStream, check: impl Fn(Header<'_>)) {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while matches!(decode(&bytes), Ok(Decoded::More)) {
        stream.read_exact(&mut byte).unwrap();
        bytes.extend_from_slice(&byte);
    }
    match decode(&bytes) {
        Ok(Decoded::Header(header)) => check(header),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_headers_client_is_the_client_and_the_header_is_no_byte() {
    let v2 = encode(&Outgoing {
        version: Version::V2,
        addresses: Some(Addresses {
            source: "[2001:db8::7]:40000".parse().unwrap(),
            destination: "[2001:db8::1]:443".parse().unwrap(),
        }),
        authority: Some("www.example.com"),
        unique_id: None,
        crc32c: true,
    });
    for (header, expected) in [(V1, "203.0.113.7:40000"), (&v2, "[2001:db8::7]:40000")] {
        for split in [1, 5, header.len() - 1, header.len()] {
            let mut rig = Rig::of(&accepting(&[echo()]));
            let mut client = rig.connect();
            client.write_all(&header[..split]).unwrap();
            sleep(Duration::from_millis(20));
            client.write_all(&header[split..]).unwrap();
            ping(&mut client);
            drop(client);
            assert_eq!(rig.ends(1), [(FlowEnd::Complete, 4, 4)]);
            assert_eq!(clients(&rig.seen), [expected.parse().unwrap()]);
        }
    }
}

#[test]
fn a_header_comes_with_the_first_bytes_or_long_before_them() {
    let mut rig = Rig::of(&accepting(&[echo()]));
    let mut client = rig.connect();
    client.write_all(&[V1, b"ping"].concat()).unwrap();
    let mut word = [0; 4];
    client.read_exact(&mut word).unwrap();
    // A server that speaks first does so once the header has come.
    let mut rig_first = Rig::of(&accepting(&[named("220 mail")]));
    let mut silent = rig_first.connect();
    silent.write_all(V1).unwrap();
    assert_eq!(answer(&mut silent), "220 mail");
    drop(silent);
    rig.until("the opening", |seen| live(seen) == 1);
    rig_first.ends(1);
}

#[test]
fn without_addresses_the_client_is_the_peer() {
    let local = encode(&Outgoing {
        version: Version::V2,
        addresses: None,
        authority: None,
        unique_id: None,
        crc32c: false,
    });
    for header in [&b"PROXY UNKNOWN\r\n"[..], &local] {
        let mut rig = Rig::of(&accepting(&[echo()]));
        let mut client = rig.connect();
        client.write_all(header).unwrap();
        ping(&mut client);
        rig.until("the opening", |seen| live(seen) == 1);
        assert_eq!(clients(&rig.seen), [client.local_addr().unwrap()]);
    }
}

#[test]
fn what_is_no_header_is_reset_and_counted() {
    let bad: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 203.0.113.100 40000\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"PROXY TCP4 203.0.113.7",
    ];
    let mut rig = Rig::of(&accepting(&[echo()]));
    for bytes in bad {
        let mut client = rig.connect();
        client.write_all(bytes).unwrap();
        // The last one is only known to be none by its end; others may be reset already.
        let _ = client.shutdown(Shutdown::Write);
        assert_reset(&mut client);
    }
    rig.until("the news", |seen| bad_headers(seen) == bad.len());
    assert_eq!(live(&rig.seen), 0);
}

#[test]
fn a_header_that_does_not_come_in_time_is_refused() {
    let mut config = accepting(&[echo()]);
    config.services[0].proxied.accept_proxy_timeout = Duration::from_millis(200);
    let mut rig = Rig::of(&config);
    let mut silent = rig.connect();
    let mut slow = rig.connect();
    let started = Instant::now();
    // A byte now and then does not lengthen the time.
    for byte in V1 {
        if slow.write_all(&[*byte]).is_err() {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    assert_reset(&mut silent);
    // Whose reset a write may have met already.
    let _ = slow.read(&mut [0]);
    assert!(started.elapsed() >= Duration::from_millis(200));
    rig.until("the news", |seen| bad_headers(seen) == 2);
}

#[test]
fn from_elsewhere_not_even_a_header_helps() {
    let mut config = config(&[echo()]);
    config.services[0].proxied.accept_proxy = vec!["203.0.113.0/24".parse().unwrap()];
    let mut rig = Rig::of(&config);
    let mut client = rig.connect();
    // The reset may meet the write already.
    let _ = client.write_all(V1);
    let _ = client.read(&mut [0]);
    rig.until("the news", |seen| bad_headers(seen) == 1);
}

#[test]
fn each_tried_backend_gets_a_header_and_it_is_no_byte() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let (server, address) = listener();
        let mut rig = Rig::of(&sending(&[nobody(), address], version));
        let mut client = rig.connect();
        let expected = Addresses {
            source: client.local_addr().unwrap(),
            destination: rig.address(),
        };
        // Nothing was said yet: the header comes all the same.
        let mut served = accept(&server);
        read_header(&mut served, |header| {
            assert_eq!(header.addresses, Some(expected));
            assert_eq!(header.unique_id.is_some(), version == ProxyVersion::V2);
        });
        client.write_all(b"up").unwrap();
        let mut word = [0; 2];
        served.read_exact(&mut word).unwrap();
        served.write_all(b"down").unwrap();
        drop(served);
        assert_eq!(answer(&mut client), "down");
        drop(client);
        assert_eq!(rig.ends(1), [(FlowEnd::Complete, 2, 4)]);
    }
}

#[test]
fn a_header_is_passed_on_as_it_came() {
    let (server, address) = listener();
    let mut config = sending(&[address], ProxyVersion::V2);
    config.services[0].proxied.accept_proxy = vec!["127.0.0.0/8".parse().unwrap()];
    if let Some(send) = &mut config.services[0].proxied.send_proxy {
        send.authority = true;
    }
    let rig = Rig::of(&config);
    let mut client = rig.connect();
    let addresses = Some(Addresses {
        source: "203.0.113.7:40000".parse().unwrap(),
        destination: "203.0.113.100:443".parse().unwrap(),
    });
    let outgoing = Outgoing {
        version: Version::V2,
        addresses,
        authority: Some("www.example.com"),
        unique_id: Some(b"theirs"),
        crc32c: false,
    };
    client.write_all(&encode(&outgoing)).unwrap();
    client.write_all(b"\0bytes").unwrap();
    let mut served = accept(&server);
    read_header(&mut served, |header| {
        assert_eq!(header.addresses, addresses);
        assert_eq!(header.authority, Some("www.example.com"));
        assert_eq!(header.unique_id, Some(&b"theirs"[..]));
    });
    let mut word = [0; 6];
    served.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"\0bytes");
}

#[test]
fn rules_lead_to_pools_however_the_bytes_come() {
    let mut config = config(&[named("default")]);
    ruled(&mut config, named("api"), host("api.example.com"));
    ruled(&mut config, named("all"), host("*.example.com"));
    let mut rig = Rig::of(&config);
    let rows = [
        ("api.example.com", "api"),
        ("www.example.com", "all"),
        ("example.com", "default"),
    ];
    for (host, expected) in rows {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut client = rig.connect();
        client.write_all(request.as_bytes()).unwrap();
        assert_eq!(answer(&mut client), expected);
        let mut slow = rig.connect();
        for byte in request.as_bytes() {
            slow.write_all(&[*byte]).unwrap();
            sleep(Duration::from_millis(1));
        }
        assert_eq!(answer(&mut slow), expected);
    }
    // What cannot be parsed does not wait.
    let mut other = rig.connect();
    other.write_all(b"SSH-2.0-x\r\n").unwrap();
    assert_eq!(answer(&mut other), "default");
    drop(other);
    rig.ends(7);
}

#[test]
fn bytes_that_were_looked_at_reach_the_backend_whole() {
    let mut config = config(&[echo()]);
    ruled(&mut config, nobody(), host("api.example.com"));
    config.services[0].proxied.inspect_bytes = 512;
    let rig = Rig::of(&config);
    // A head that is longer than what is looked at, and a body behind it.
    let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2_000));
    let bytes = [request.as_bytes(), &[7; 100_000][..]].concat();
    let mut client = rig.connect();
    let mut reader = client.try_clone().unwrap();
    let expected = bytes.clone();
    let read = std::thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == expected);
    });
    client.write_all(&bytes).unwrap();
    read.join().unwrap();
}

#[test]
fn a_client_that_says_nothing_goes_to_the_default_pool_in_time() {
    let mut config = config(&[named("default")]);
    ruled(&mut config, nobody(), host("api.example.com"));
    config.services[0].proxied.inspect_timeout = Duration::from_millis(200);
    let mut rig = Rig::of(&config);
    let started = Instant::now();
    let mut silent = rig.connect();
    assert_eq!(answer(&mut silent), "default");
    assert!(started.elapsed() >= Duration::from_millis(200));
    drop(silent);
    rig.ends(1);
    // One that ends is not waited for.
    config.services[0].proxied.inspect_timeout = Duration::from_secs(60);
    rig = Rig::of(&config);
    let mut ended = rig.connect();
    ended.write_all(b"GET").unwrap();
    ended.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut ended), "default");
}

#[test]
fn clients_that_wait_are_dropped_with_the_others() {
    let mut config = accepting(&[echo()]);
    config.services[0].proxied.accept_proxy_timeout = Duration::from_secs(60);
    let rig = Rig::of(&config);
    let mut client = rig.connect();
    sleep(Duration::from_millis(50));
    rig.proxy.drop_flows();
    assert_reset(&mut client);
}

#[test]
fn the_source_of_a_rule_is_that_of_the_header() {
    let mut config = accepting(&[named("default")]);
    let rule = Rule {
        source: vec!["203.0.113.0/24".parse().unwrap()],
        ..Rule::default()
    };
    ruled(&mut config, named("near"), rule);
    let rig = Rig::of(&config);
    let mut near = rig.connect();
    near.write_all(V1).unwrap();
    assert_eq!(answer(&mut near), "near");
    let mut far = rig.connect();
    far.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.100 40000 443\r\n")
        .unwrap();
    assert_eq!(answer(&mut far), "default");
}

#[test]
fn a_pool_without_an_eligible_backend_borrows_none() {
    let mut config = config(&[named("default")]);
    ruled(&mut config, named("api"), host("api.example.com"));
    let mut rig = Rig::of(&config);
    let own = [BackendId::of("web", "b0")].into();
    rig.proxy.publish(&own);
    let mut client = rig.connect();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
        .unwrap();
    assert_reset(&mut client);
    let none = |event: &FlowEvent| matches!(event, FlowEvent::Unserved { why, .. } if *why == Unserved::NoBackend);
    rig.until("the news", |seen| seen.iter().any(none));
}

#[test]
fn mutated_headers_are_refused_or_served() {
    let mut random = fastrand::Rng::with_seed(20_261_126);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            drop(stream);
        }
    });
    let mut config = accepting(&[address]);
    config.services[0].proxied.accept_proxy_timeout = Duration::from_millis(100);
    let mut rig = Rig::of(&config);
    // A few of them; the parser's own test has ten thousand.
    let mut refused = 0;
    for _ in 0..200 {
        let mut bytes = V1.to_vec();
        let at = random.usize(..bytes.len());
        bytes[at] = random.u8(..);
        refused += usize::from(!matches!(decode(&bytes), Ok(Decoded::Header(_))));
        let mut client = rig.connect();
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        // An end or a reset, but an end of some kind.
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest);
    }
    assert!(refused > 100, "{refused}");
    rig.until("the news", |seen| bad_headers(seen) == refused);
}
