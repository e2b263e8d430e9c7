//! Affinity on loopback: clients that come again, and whose backend may be gone.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use super::rig::{Rig, backend, config, id, nobody, read_out};
use crate::balance::flow::{FlowEvent, Unserved};
use crate::balance::stick::{Hasher, Stick};
use crate::config::{Affinity, Config, StickBy, StickFallback, StickHow};
use crate::model::{BackendId, Scheduler, ServiceId};
use crate::status::StickStatus;
use crate::wire::replication::StickKey;

/// Writes so that the other side reads it in pieces.
fn write_split(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    for piece in text.as_bytes().chunks(11) {
        stream.write_all(piece)?;
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A shop that gives each new customer the cookie `SID=sN`, and tells its name.
fn shop(n: usize) -> SocketAddr {
    backend(move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let known = head.windows(4).any(|at| at == b"SID=");
        let set = match known {
            true => String::new(),
            false => format!("Set-Cookie: SID=s{n}; Path=/; HttpOnly\r\n"),
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 2\r\n\r\nb{n}");
        write_split(&mut stream, &answer)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// A visit with this cookie: the backend's name.
fn visit(rig: &Rig, cookie: Option<&str>) -> String {
    let mut stream = rig.connect();
    let cookie = cookie.map_or(String::new(), |value| {
        format!("Cookie: other=1; SID={value}\r\n")
    });
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{cookie}\r\n");
    write_split(&mut stream, &request).unwrap();
    let answer = String::from_utf8(read_out(&mut stream).0).unwrap();
    answer[answer.len().saturating_sub(2)..].to_owned()
}

fn affine(backends: &[SocketAddr], by: StickBy, fallback: StickFallback) -> Config {
    let mut config = config(backends);
    let how = StickHow::Table {
        size: 10,
        ttl: Duration::from_secs(600),
        fallback,
    };
    config.services[0].proxied.affinity = Some(Affinity { by, how });
    config
}

fn cookies(backends: &[SocketAddr], fallback: StickFallback) -> Config {
    affine(backends, StickBy::Cookie("SID".into()), fallback)
}

fn stuck(events: &[FlowEvent]) -> Vec<(u64, BackendId)> {
    let stuck = |event: &FlowEvent| match event {
        FlowEvent::Stuck { key, backend } => Some((key.hash, *backend)),
        _ => None,
    };
    events.iter().filter_map(stuck).collect()
}

fn hash(value: &[u8]) -> u64 {
    Hasher::new([7; 16], ServiceId::of("web")).hash(value)
}

fn status(rig: &Rig) -> StickStatus {
    rig.proxy.sticks()[0].1
}

#[test]
fn a_cookie_is_learnt_from_a_reply_in_pieces_and_leads_back() {
    let mut rig = Rig::of(&cookies(
        &[shop(0), shop(1), shop(2)],
        StickFallback::Reassign,
    ));
    let names: Vec<_> = (0..3).map(|_| visit(&rig, None)).collect();
    assert_eq!(names, ["b0", "b1", "b2"]);
    for n in [2, 0, 1, 1, 2, 0] {
        assert_eq!(visit(&rig, Some(&format!("s{n}"))), format!("b{n}"));
    }
    rig.until("three are told", |seen| stuck(seen).len() == 3);
    let told = (0..3).map(|n| (hash(format!("s{n}").as_bytes()), id(n)));
    assert_eq!(stuck(&rig.seen), told.collect::<Vec<_>>());
    // One that no backend gave is not kept.
    assert_eq!(visit(&rig, Some("invented")), "b0");
    assert_eq!(visit(&rig, Some("invented")), "b1");
    let expected = StickStatus {
        entries: 3,
        hits: 6,
        misses: 5,
    };
    assert_eq!(status(&rig), expected);
}

#[test]
fn a_client_whose_backend_is_gone_moves_and_stays() {
    let mut rig = Rig::of(&cookies(&[shop(0), shop(1)], StickFallback::Reassign));
    assert_eq!(visit(&rig, None), "b0");
    rig.proxy.publish(&BTreeSet::from([id(1)]));
    assert_eq!(visit(&rig, Some("s0")), "b1");
    rig.proxy.publish(&BTreeSet::from([id(0), id(1)]));
    for _ in 0..3 {
        assert_eq!(visit(&rig, Some("s0")), "b1");
    }
    let key = hash(b"s0");
    rig.until("the move is told", |seen| {
        stuck(seen) == [(key, id(0)), (key, id(1))]
    });
}

#[test]
fn a_client_whose_backend_does_not_answer_moves_too() {
    let rig = Rig::of(&cookies(&[nobody(), shop(1)], StickFallback::Reassign));
    let key = StickKey {
        service: ServiceId::of("web"),
        hash: hash(b"s0"),
    };
    let entry = Some((id(0), 5_000));
    assert!(rig.proxy.adopt(vec![Stick { key, entry }]));
    while status(&rig).entries == 0 {
        sleep(Duration::from_millis(1));
    }
    assert_eq!(visit(&rig, Some("s0")), "b1");
}

#[test]
fn a_client_may_be_refused_instead() {
    let mut rig = Rig::of(&cookies(&[shop(0), shop(1)], StickFallback::Refuse));
    assert_eq!(visit(&rig, None), "b0");
    rig.proxy.publish(&BTreeSet::from([id(1)]));
    assert_eq!(visit(&rig, Some("s0")), "");
    assert_eq!(visit(&rig, None), "b1", "others are served");
    rig.until("the refusal", |seen| {
        let refused = |event: &FlowEvent| {
            matches!(event, FlowEvent::Unserved { why, .. } if *why == Unserved::NoBackend)
        };
        seen.iter().any(refused)
    });
    rig.proxy.publish(&BTreeSet::from([id(0), id(1)]));
    assert_eq!(visit(&rig, Some("s0")), "b0");
}

#[test]
fn what_the_master_says_is_kept_and_forgotten() {
    let rig = Rig::of(&cookies(&[shop(0), shop(1)], StickFallback::Reassign));
    let stick = |entry| Stick {
        key: StickKey {
            service: ServiceId::of("web"),
            hash: hash(b"theirs"),
        },
        entry,
    };
    assert!(
        rig.proxy
            .adopt(vec![stick(Some((id(1), 599_000 - 60_000)))])
    );
    while status(&rig).entries == 0 {
        sleep(Duration::from_millis(1));
    }
    for _ in 0..3 {
        assert_eq!(visit(&rig, Some("theirs")), "b1");
    }
    assert!(rig.proxy.adopt(vec![stick(None)]));
    while status(&rig).entries > 0 {
        sleep(Duration::from_millis(1));
    }
    assert_eq!(visit(&rig, Some("theirs")), "b0");
}

#[test]
fn an_address_needs_no_byte_of_the_clients() {
    let greet = |n: usize| {
        backend(move |mut stream| {
            stream.write_all(format!("b{n}").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        })
    };
    let by = StickBy::Source {
        prefix4: 8,
        prefix6: 64,
    };
    let config = affine(&[greet(0), greet(1), greet(2)], by, StickFallback::Reassign);
    let mut rig = Rig::of(&config);
    for _ in 0..5 {
        let (said, _) = read_out(&mut rig.connect());
        assert_eq!(said, b"b0");
    }
    rig.until("it is told", |seen| !stuck(seen).is_empty());
    // The network, not the client, who has another hash.
    assert_eq!(stuck(&rig.seen), [(hash(&[127, 0, 0, 0]), id(0))]);
}

#[test]
fn without_a_table_the_scheduler_hashes_the_cookie() {
    let shops: Vec<_> = (0..3).map(shop).collect();
    let mut config = cookies(&shops, StickFallback::Reassign);
    let service = &mut config.services[0];
    service.balance = Scheduler::Maglev.into();
    service.proxied.affinity.as_mut().unwrap().how = StickHow::Hash;
    let rig = Rig::of(&config);
    let visits = |_| -> Vec<String> {
        let values = (0..12).map(|n| n.to_string());
        values.map(|value| visit(&rig, Some(&value))).collect()
    };
    let both: Vec<_> = (0..2).map(visits).collect();
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].iter().collect::<BTreeSet<_>>().len(), 3);
    assert!(rig.proxy.sticks().is_empty());
}
