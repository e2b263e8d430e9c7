//! What real clients say first, whole and split at every byte.
//!
//! `hellos/*.hex` are the first bytes that a listener on loopback got from
//! * `openssl s_client` 3.0.22: `-servername shop.example -alpn h2,http/1.1` (`openssl-3`), `-servername
//!   shop.example -tls1_2` (`openssl-tls12`), `-noservername` (`openssl-nameless`);
//! * `curl` 7.88.1 with OpenSSL: `-sk --resolve shop.example:PORT:127.0.0.1 https://shop.example:PORT/`;
//! * `wget` 1.21.3 with GnuTLS (`gnutls`): `https://localhost:PORT/`;
//! * Go 1.19's `crypto/tls` (`go`): `ServerName: "shop.example"`, `NextProtos: "h2", "http/1.1"`.
//!
//! That of rustls is made by the crate itself.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{Look, look};

struct Hello {
    client: &'static str,
    bytes: Vec<u8>,
    name: Option<&'static str>,
    alpn: &'static [&'static str],
    /// It offers a session id (also for the compatibility of TLS 1.3).
    has_id: bool,
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn rustls() -> Vec<u8> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let roots = builder.with_root_certificates(RootCertStore::empty());
    let mut config = roots.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "shop.example".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn all() -> Vec<Hello> {
    let hello = |client, text, name, alpn, has_id| Hello {
        client,
        bytes: hex(text),
        name,
        alpn,
        has_id,
    };
    let shop = Some("shop.example");
    let both: &[&str] = &["h2", "http/1.1"];
    vec![
        hello(
            "openssl",
            include_str!("hellos/openssl-3.hex"),
            shop,
            both,
            true,
        ),
        hello(
            "openssl, TLS 1.2",
            include_str!("hellos/openssl-tls12.hex"),
            shop,
            &[],
            false,
        ),
        hello(
            "openssl, nameless",
            include_str!("hellos/openssl-nameless.hex"),
            None,
            &[],
            true,
        ),
        hello("curl", include_str!("hellos/curl.hex"), shop, both, true),
        hello(
            "wget, GnuTLS",
            include_str!("hellos/gnutls.hex"),
            Some("localhost"),
            &[],
            true,
        ),
        hello("Go", include_str!("hellos/go.hex"), shop, both, true),
        Hello {
            client: "rustls",
            bytes: rustls(),
            name: shop,
            alpn: &["h2"],
            has_id: true,
        },
    ]
}

/// Reads what a client wants, and compares it.
fn check(hello: &Hello, bytes: &[u8], how: &str) {
    let client = hello.client;
    let Look::Tls(read) = look(bytes) else {
        panic!("{client}, {how}: {:?}", look(bytes));
    };
    let name = read.server_name();
    assert_eq!(
        name.as_ref().map(|name| name.as_str()),
        hello.name,
        "{client}, {how}"
    );
    let alpn: Vec<_> = read
        .alpn()
        .map(|it| std::str::from_utf8(it).unwrap())
        .collect();
    assert_eq!(alpn, hello.alpn, "{client}, {how}");
    assert_eq!(
        !read.session_id().is_empty(),
        hello.has_id,
        "{client}, {how}"
    );
    assert!(!read.hides_its_name(), "{client}, {how}");
}

#[test]
fn real_clients_are_understood_split_at_every_byte() {
    for hello in all() {
        check(&hello, &hello.bytes, "whole");
        for at in 0..hello.bytes.len() {
            let begun = look(&hello.bytes[..at]);
            assert!(
                begun.wants_more(),
                "{}: {at} bytes: {begun:?}",
                hello.client
            );
        }
        // What follows a whole one changes nothing.
        let more = [&hello.bytes[..], b"more"].concat();
        check(&hello, &more, "with more behind it");
    }
}

#[test]
fn real_clients_are_understood_in_two_records_split_at_every_byte() {
    for hello in all() {
        let (head, body) = hello.bytes.split_at(5);
        assert_eq!(
            usize::from(u16::from_be_bytes([head[3], head[4]])),
            body.len()
        );
        for at in 1..body.len() {
            let record = |part: &[u8]| {
                let length = (part.len() as u16).to_be_bytes();
                [&head[..3], &length, part].concat()
            };
            let first = record(&body[..at]);
            assert!(look(&first).wants_more(), "{}: split at {at}", hello.client);
            let both = [first, record(&body[at..])].concat();
            check(&hello, &both, &format!("in two records, split at {at}"));
        }
    }
}
