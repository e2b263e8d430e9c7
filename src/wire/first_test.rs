//! First bytes: of real clients, built ones, cut and mutated ones.

use super::http::Reply;
use super::tls::{ClientHello, ServerHello};
use super::*;

/// What `openssl s_client -servername api.example.com -alpn h2,http/1.1` (OpenSSL 3.0) sent.
const OPENSSL: &str = "160301014e0100014a03036e7769c350c9a16eebd15d5142bdfba4ac3f261c6e97ac0fff72592b0321161d208476a99185ebff45e350b1b0e6166f6c4d5fac54da77ea8e63294a4c63d28c03003e130213031301c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000c300000014001200000f6170692e6578616d706c652e636f6d000b000403000102000a00160014001d0017001e0019001801000101010201030104002300000010000e000c02683208687474702f312e310016000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602002b0009080304030303020301002d00020101003300260024001d002020a158da1673d8a1afda1530db3101c6768f37538999725403b015ce28224e38";
/// The same with `-tls1_2` and no protocols: no session, an empty ticket.
const OPENSSL_12: &str = "16030100cf010000cb03036003dff42198e75b2c9582a4b3ed0293e95cf8dff316fc59d94cfc34db2b5807000038c02cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff0100006a00000014001200000f6170692e6578616d706c652e636f6d000b000403000102000a000c000a001d0017001e00190018002300000016000000170000000d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602";

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn vector8(value: &[u8]) -> Vec<u8> {
    [&[value.len() as u8], value].concat()
}

fn vector16(value: &[u8]) -> Vec<u8> {
    [&(value.len() as u16).to_be_bytes()[..], value].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(value)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0], &vector16(name)[..]].concat()))
}

fn alpn(protocols: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = protocols
        .iter()
        .flat_map(|it| vector8(it.as_bytes()))
        .collect();
    extension(16, &vector16(&list))
}

/// A ClientHello with this session and these extensions.
fn hello(session: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &vector8(session),
        // GREASE, and a real suite.
        &vector16(&[0x0a, 0x0a, 0x13, 0x01]),
        &vector8(&[0]),
        &vector16(&extensions.concat()),
    ]
    .concat();
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// In records of at most this many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &vector16(part)].concat();
    message.chunks(size).flat_map(record).collect()
}

/// As a browser sends it: GREASE everywhere.
fn browser(more: &[Vec<u8>]) -> Vec<u8> {
    let mut extensions = vec![
        extension(0x2a2a, &[]),
        server_name(b"Shop.Example.COM"),
        extension(43, &vector8(&[0x5a, 0x5a, 3, 4, 3, 3])),
        alpn(&["\u{1a}", "h2", "http/1.1"]),
        extension(0xbaba, &[0]),
    ];
    extensions.extend_from_slice(more);
    hello(&[9; 32], &extensions)
}

fn tls(bytes: &[u8]) -> ClientHello<'_> {
    match look(bytes) {
        Look::Tls(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn name(look: &Look<'_>) -> Option<String> {
    look.name().map(|name| name.as_str().to_ascii_lowercase())
}

fn protocols(hello: &ClientHello<'_>) -> Vec<Vec<u8>> {
    hello.alpn().map(<[u8]>::to_vec).collect()
}

#[test]
fn real_clients_are_read() {
    let bytes = hex(OPENSSL);
    let hello = tls(&bytes);
    assert_eq!(hello.server_name().unwrap().as_str(), "api.example.com");
    assert_eq!(protocols(&hello), [&b"h2"[..], b"http/1.1"]);
    assert_eq!(hello.session_id().len(), 32);
    let bytes = hex(OPENSSL_12);
    let hello = tls(&bytes);
    assert_eq!(hello.server_name().unwrap().as_str(), "api.example.com");
    assert_eq!(protocols(&hello), Vec::<Vec<u8>>::new());
    assert_eq!((hello.session_id(), hello.ticket()), (&[][..], &[][..]));
    // Cut at every byte, and told in records of every size.
    for sample in [OPENSSL, OPENSSL_12] {
        let bytes = hex(sample);
        for end in 0..bytes.len() {
            assert_eq!(look(&bytes[..end]), Look::More, "{end}");
        }
        let expected = tls(&bytes);
        for size in 1..bytes.len() {
            assert_eq!(tls(&records(&bytes[5..], size)), expected, "{size}");
        }
    }
}

#[test]
fn sessions_and_tickets_are_read() {
    let bytes = records(&hello(b"session", &[extension(35, b"ticket")]), 1 << 14);
    let hello = tls(&bytes);
    assert_eq!(hello.session_id(), b"session");
    assert_eq!(hello.ticket(), b"ticket");
    assert!(hello.server_name().is_none());
    let reply = |extensions: &[u8]| {
        let body = [
            &[3, 3][..],
            &[8; 32],
            &vector8(b"given"),
            &[0x13, 1, 0],
            extensions,
        ]
        .concat();
        records(&message(2, &body), 20)
    };
    let session = |bytes: &[u8]| match tls::server_hello(bytes) {
        tls::Reply::Hello(hello) => ServerHello::session_id(&hello).to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(session(&reply(&[])), b"given");
    // TLS 1.3 repeats what the client made up.
    let version = vector16(&extension(43, &[3, 4]));
    let bytes = reply(&version);
    assert_eq!(session(&bytes), b"");
    for end in 0..bytes.len() {
        assert_eq!(tls::server_hello(&bytes[..end]), tls::Reply::More, "{end}");
    }
    assert_eq!(tls::server_hello(b"220 mail"), tls::Reply::Unknown);
}

#[test]
fn split_over_records_and_segments_it_is_the_same() {
    let plain = browser(&[]);
    let expected = records(&plain, 1 << 14);
    let expected = tls(&expected);
    for size in [1, 2, 3, 4, 5, 7, 64, 100, plain.len() - 1, plain.len()] {
        let mut bytes = records(&plain, size);
        for end in 0..bytes.len() {
            assert_eq!(
                look(&bytes[..end]),
                Look::More,
                "{end} of records of {size}"
            );
        }
        assert_eq!(tls(&bytes), expected, "records of {size}");
        // What follows means nothing.
        bytes.extend_from_slice(b"\x17\x03\x03");
        assert_eq!(tls(&bytes), expected);
    }
    assert_eq!(expected.server_name().unwrap().as_str(), "Shop.Example.COM");
    assert_eq!(protocols(&expected)[1..], [&b"h2"[..], b"http/1.1"]);
}

#[test]
fn a_hidden_name_is_unknown() {
    let bytes = records(&browser(&[extension(0xfe0d, &[0; 40])]), 1 << 14);
    let hello = tls(&bytes);
    assert!(hello.hides_its_name());
    assert!(hello.server_name().is_none());
    assert_eq!(hello.outer_name().unwrap().as_str(), "Shop.Example.COM");
    assert!(protocols(&hello).contains(&b"h2".to_vec()));
}

#[test]
fn what_servers_could_read_in_two_ways_is_unknown() {
    let twice = |kind: fn() -> Vec<u8>| records(&hello(&[], &[kind(), kind()]), 1 << 14);
    assert_eq!(look(&twice(|| server_name(b"a.example"))), Look::Unknown);
    assert_eq!(look(&twice(|| alpn(&["h2"]))), Look::Unknown);
    for bad in [
        &b"a b.example"[..],
        b"",
        b"a\0.example",
        b"[2001:db8::1]",
        b"a..example",
        b"\xff",
    ] {
        let bytes = records(&hello(&[], &[server_name(bad)]), 1 << 14);
        assert!(tls(&bytes).server_name().is_none(), "{bad:?}");
    }
}

#[test]
fn other_protocols_are_known_at_once() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2p1\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x16\x03\x01\x00\x05\x01\x02\x00\x00",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"EHLO mail.example.com\r\n",
        b"get / HTTP/1.1\r\n",
        b"\x03\x01",
        b"GET / HTTP/2.0\r\n",
        b"GET /\r\n",
        b"THIS-METHOD-IS-MUCH-TOO-LONG / HTTP/1.1\r\n",
    ] {
        assert_eq!(look(bytes), Look::Unknown, "{}", bytes.escape_ascii());
    }
}

const REQUEST: &str = "GET /a?b HTTP/1.1\r\nhost: Www.Example.com:8080\r\nAccept: */*\r\n\
                       Cookie: a=1; SERVER=s%201; b=\r\ncookie: SERVER=other; c = 3\r\n\r\n";

#[test]
fn a_request_tells_host_and_cookies() {
    let Look::Http(request) = look(REQUEST.as_bytes()) else {
        panic!()
    };
    assert_eq!(request.host().unwrap().as_str(), "Www.Example.com");
    assert_eq!(request.cookie("SERVER"), Some(&b"s%201"[..]));
    assert_eq!(request.cookie("b"), Some(&b""[..]));
    assert_eq!(request.cookie("c"), Some(&b"3"[..]));
    assert_eq!(request.cookie("server"), None);
    for end in 0..REQUEST.len() {
        assert_eq!(look(&REQUEST.as_bytes()[..end]), Look::More, "{end}");
    }
    let body = format!("{REQUEST}Host: x\r\n\r\n");
    assert_eq!(name(&look(body.as_bytes())).unwrap(), "www.example.com");
    let bare = REQUEST.replace("\r\n", "\n");
    assert_eq!(name(&look(bare.as_bytes())).unwrap(), "www.example.com");
}

#[test]
fn a_host_is_only_known_if_it_is_said_in_one_way() {
    let rows = [
        ("GET / HTTP/1.1|Host: a.example", Some("a.example")),
        ("GET / HTTP/1.0|Host: a.example.", Some("a.example")),
        ("GET / HTTP/1.1|HOST:a.example:80", Some("a.example")),
        (
            "GET / HTTP/1.1|Host: [2001:db8::1]:80",
            Some("[2001:db8::1]"),
        ),
        ("GET / HTTP/1.1|Host: 192.0.2.1", Some("192.0.2.1")),
        ("GET http://a.example/b HTTP/1.1", Some("a.example")),
        (
            "GET http://a.example:80 HTTP/1.1|Host: A.example",
            Some("a.example"),
        ),
        ("GET http://a.example/ HTTP/1.1|Host: b.example", None),
        (
            "CONNECT a.example:443 HTTP/1.1|Host: a.example",
            Some("a.example"),
        ),
        ("OPTIONS * HTTP/1.1|Host: a.example", Some("a.example")),
        ("GET a.example HTTP/1.1|Host: a.example", None),
        ("GET / HTTP/1.1|Host: a.example|Host: a.example", None),
        ("GET / HTTP/1.1|Host: a.example, b.example", None),
        ("GET / HTTP/1.1|Host: u@a.example", None),
        ("GET / HTTP/1.1|Host: a.example:b", None),
        ("GET / HTTP/1.1|Host:", None),
        ("GET / HTTP/1.1|Hosts: a.example", None),
        ("GET / HTTP/1.1", None),
    ];
    for (lines, expected) in rows {
        let text = format!("{}\r\n\r\n", lines.replace('|', "\r\n"));
        let look = look(text.as_bytes());
        assert!(look.http().is_some(), "{lines}");
        assert_eq!(name(&look).as_deref(), expected, "{lines}");
    }
    for lines in [
        "GET / HTTP/1.1|Host : a.example",
        "GET / HTTP/1.1|Host: a.example| b",
        "GET / HTTP/1.1|Host: a.example\rHost: b.example",
        "GET / HTTP/1.1|no colon",
        "GET  / HTTP/1.1|Host: a.example",
        "PRI * HTTP/2.0",
    ] {
        let text = format!("{}\r\n\r\n", lines.replace('|', "\r\n"));
        assert_eq!(look(text.as_bytes()), Look::Unknown, "{lines}");
    }
}

#[test]
fn a_reply_tells_the_cookies_that_it_sets() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nset-cookie: a=1; Path=/\r\n\
                Set-Cookie: SERVER=old\r\nSet-Cookie: SERVER = new ; HttpOnly\r\n\r\nSet-Cookie: x=y\r\n";
    let Reply::Head(head) = http::reply(text.as_bytes()) else {
        panic!()
    };
    assert_eq!(head.set_cookie("SERVER"), Some(&b"new"[..]));
    assert_eq!(head.set_cookie("a"), Some(&b"1"[..]));
    assert_eq!(head.set_cookie("x"), None);
    let end = text.len() - "Set-Cookie: x=y\r\n".len();
    for end in 0..end {
        assert_eq!(http::reply(&text.as_bytes()[..end]), Reply::More, "{end}");
    }
    for bad in ["HTTP/2 200\r\n\r\n", "SSH-2.0", "HTTP/1.1 20\r\n\r\n"] {
        assert_eq!(http::reply(bad.as_bytes()), Reply::Unknown, "{bad}");
    }
}

/// A connection request with this variable part.
fn desktop(variable: &[u8]) -> Vec<u8> {
    let rest = [&[0xe0, 0, 0, 0, 0, 0][..], variable].concat();
    let x224 = vector8(&rest);
    [&[3, 0][..], &(x224.len() as u16 + 4).to_be_bytes(), &x224].concat()
}

#[test]
fn a_remote_desktop_tells_its_user_or_its_token() {
    let ask = [1, 0, 8, 0, 3, 0, 0, 0];
    let bytes = desktop(&[b"Cookie: mstshash=eltons\r\n", &ask[..]].concat());
    let look_at = look(&bytes);
    assert_eq!(look_at.rdp().unwrap().user, Some(&b"eltons"[..]));
    for end in 0..bytes.len() {
        assert_eq!(look(&bytes[..end]), Look::More, "{end}");
    }
    let bytes = desktop(b"Cookie: msts=3640205228.15629.0000\r\n");
    let request = *look(&bytes).rdp().unwrap();
    assert_eq!(request.token, Some(&b"3640205228.15629.0000"[..]));
    assert_eq!(request.server().unwrap().to_string(), "172.31.249.216:3389");
    let bytes = desktop(&ask);
    assert_eq!(look(&bytes), Look::Rdp(rdp::Request::default()));
    assert_eq!(look(&[3, 0, 0, 11, 7, 0xe0]), Look::Unknown);
}

#[test]
fn a_client_is_known_again_by_a_mark() {
    let hello = records(&browser(&[]), 1 << 14);
    let desktop = desktop(b"Cookie: mstshash=eltons\r\n");
    let cookie = |name: &str| Mark::Cookie(name.into());
    let rows = [
        (Mark::ServerName, &hello[..], Some(&b"shop.example.com"[..])),
        (Mark::SessionId, &hello, Some(&[9; 32])),
        (Mark::Host, REQUEST.as_bytes(), Some(b"www.example.com")),
        (cookie("SERVER"), REQUEST.as_bytes(), Some(b"s%201")),
        (cookie("b"), REQUEST.as_bytes(), None),
        (Mark::ServerName, REQUEST.as_bytes(), None),
        (Mark::Host, &hello, None),
        (Mark::RdpUser, &desktop, Some(b"eltons")),
        (Mark::RdpToken, &desktop, None),
    ];
    for (mark, bytes, expected) in rows {
        assert_eq!(mark.of(&look(bytes)).as_deref(), expected, "{mark:?}");
    }
}

#[test]
fn names_and_patterns() {
    let matches = |name: &str, pattern| Name::of(name.as_bytes()).unwrap().matches(pattern);
    assert!(matches("API.example.com", "api.example.com"));
    assert!(matches("api.example.com.", "api.example.com"));
    assert!(!matches("xapi.example.com", "api.example.com"));
    assert!(matches("a.example.com", "*.example.com"));
    assert!(matches("a.b.EXAMPLE.com", "*.example.com"));
    assert!(!matches("example.com", "*.example.com"));
    assert!(!matches("badexample.com", "*.example.com"));
    assert!(!matches("example.com.evil", "*.example.com"));
}

#[test]
fn mutated_bytes_are_read_or_not_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(20_261_126);
    let set_cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n".to_vec();
    let samples = [
        hex(OPENSSL),
        hex(OPENSSL_12),
        records(&browser(&[]), 60),
        REQUEST.as_bytes().to_vec(),
        set_cookie,
        desktop(b"Cookie: mstshash=eltons\r\n"),
    ];
    let mut known = 0;
    for round in 0..30_000 {
        let mut bytes = samples[round % samples.len()].clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes.insert(at, random.u8(..)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let found = look(&bytes);
        let _ = (found.name(), http::reply(&bytes), tls::server_hello(&bytes));
        if let Some(hello) = found.tls() {
            let _ = (hello.alpn().count(), hello.session_id(), hello.ticket());
        }
        if let Some(request) = found.http() {
            let _ = request.cookie("SERVER");
        }
        known += usize::from(!matches!(found, Look::Unknown | Look::More));
    }
    assert!(known > 1_000, "{known}");
}
