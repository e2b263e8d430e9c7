//! The examples of the protocol's text, and what is none.

use std::net::SocketAddr;

use super::*;

fn header(bytes: &[u8]) -> Header<'_> {
    match decode(bytes) {
        Ok(Decoded::Header(header)) => header,
        other => panic!("{other:?} of {}", bytes.escape_ascii()),
    }
}

fn pair(source: &str, destination: &str) -> Addresses {
    Addresses {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// Every beginning needs more, and what follows changes nothing.
fn whole(bytes: &[u8]) {
    for end in 0..bytes.len() {
        let part = &bytes[..end];
        assert_eq!(decode(part), Ok(Decoded::More), "{}", part.escape_ascii());
    }
    let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
    assert_eq!(header(&more), header(bytes));
    assert_eq!(header(bytes).length, bytes.len());
}

fn v2(command: u8, kind: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [
        &b"\r\n\r\n\0\r\nQUIT\n"[..],
        &[0x20 | command, kind],
        &length,
        block,
    ]
    .concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

const BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb];

#[test]
fn the_lines_of_the_text() {
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    whole(line);
    let expected = pair("192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(header(line).addresses, Some(expected));
    let longest = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
    assert_eq!(longest.len(), 56);
    whole(longest);
    let ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY TCP6 {ip} {ip} 65535 65535\r\n");
    assert_eq!(longest.len(), 104);
    whole(longest.as_bytes());
    whole(b"PROXY UNKNOWN\r\n");
    assert_eq!(header(b"PROXY UNKNOWN\r\n").addresses, None);
    let longest = format!("PROXY UNKNOWN {ip} {ip} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    whole(longest.as_bytes());
    whole(b"PROXY UNKNOWN \xff anything\r\n");
}

#[test]
fn lines_that_are_none() {
    use Malformed::{Line, NoHeader, Words};
    let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
    let rows = [
        ("GET / HTTP/1.1\r\n", NoHeader),
        ("PROXYTCP4", NoHeader),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx", Line),
        (long.as_str(), Line),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", Words),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", Words),
        ("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", Words),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", Words),
        ("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", Words),
        ("PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", Words),
        ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", Words),
        ("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", Words),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", Words),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", Words),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", Words),
        ("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", Words),
        ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", Words),
        ("PROXY UNKNOWNS\r\n", Words),
        ("PROXY \r\n", Words),
    ];
    for (line, expected) in rows {
        assert_eq!(decode(line.as_bytes()), Err(expected), "{line:?}");
    }
}

#[test]
fn binary_headers() {
    let bytes = v2(1, 0x11, &BLOCK);
    whole(&bytes);
    let expected = pair("192.0.2.1:56324", "198.51.100.2:443");
    assert_eq!(header(&bytes).addresses, Some(expected));
    let mut block = [0; 36];
    block[..2].copy_from_slice(&[0x20, 1]);
    block[15] = 1;
    block[31] = 2;
    block[33] = 5;
    let bytes = v2(1, 0x21, &block);
    whole(&bytes);
    assert_eq!(
        header(&bytes).addresses,
        Some(pair("[2001::1]:5", "[::2]:0"))
    );
    // LOCAL, whatever else it says; unspecified; UDP; unix sockets.
    for bytes in [
        v2(0, 0, &[]),
        v2(0, 0xff, b"whatever"),
        v2(0, 0x11, &BLOCK),
        v2(1, 0, b"ignored"),
        v2(1, 0x10, b"ignored"),
        v2(1, 0x12, &BLOCK),
        v2(1, 0x31, &[7; 216]),
    ] {
        whole(&bytes);
        assert_eq!(header(&bytes).addresses, None);
    }
}

#[test]
fn binary_headers_that_are_none() {
    use Malformed::{Kind, Length, NoHeader};
    let mut version = v2(1, 0x11, &BLOCK);
    version[12] = 0x31;
    let rows = [
        (version, Kind),
        (v2(2, 0x11, &BLOCK), Kind),
        (v2(1, 0x41, &BLOCK), Kind),
        (v2(1, 0x13, &BLOCK), Kind),
        (v2(1, 0x11, &BLOCK[..11]), Length),
        (v2(1, 0x21, &BLOCK), Length),
        (v2(1, 0x31, &[0; 215]), Length),
        (v2(1, 0x11, &[&BLOCK[..], &[4, 0]].concat()), Length),
        (v2(1, 0x11, &[&BLOCK[..], &[4, 0, 1]].concat()), Length),
        (
            v2(1, 0x11, &[&BLOCK[..], &tlv(5, &[0; 129])].concat()),
            Length,
        ),
        (
            v2(1, 0x11, &[&BLOCK[..], &tlv(3, &[0; 3])].concat()),
            Length,
        ),
        (v2(1, 0x11, &[0; MAX_HEADER]), Length),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NoHeader),
        (b"\x16\x03\x01".to_vec(), NoHeader),
    ];
    for (bytes, expected) in rows {
        assert_eq!(decode(&bytes), Err(expected), "{}", bytes.escape_ascii());
    }
    // Known to be wrong before it is whole.
    assert_eq!(decode(&v2(3, 0x11, &BLOCK)[..13]), Err(Kind));
}

#[test]
fn tlvs_are_read_and_unknown_ones_skipped() {
    let tlvs = [
        tlv(4, b"padding"),
        tlv(0x20, &[1, 0, 0, 0, 0]),
        tlv(2, b"api.example.com"),
        tlv(0xe3, b""),
        tlv(5, b"\x01id"),
        tlv(1, b"\x02h2"),
        tlv(2, b"second.example"),
    ]
    .concat();
    let bytes = v2(1, 0x11, &[&BLOCK[..], &tlvs].concat());
    whole(&bytes);
    let header = header(&bytes);
    assert_eq!(header.authority, Some("api.example.com"));
    assert_eq!(header.unique_id, Some(&b"\x01id"[..]));
    assert_eq!(header.alpn, Some(&b"\x02h2"[..]));
}

/// RFC 3720, B.4.
#[test]
fn checksums_of_the_rfc() {
    let sum = |bytes: &[u8]| {
        let mut crc = crc32c::Crc32c::new();
        crc.add(bytes);
        crc.sum()
    };
    assert_eq!(sum(b"123456789"), 0xe306_9283);
    assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
    let up: Vec<u8> = (0..32).collect();
    assert_eq!(sum(&up), 0x46dd_794e);
}

fn outgoing<'a>(version: Version, addresses: Option<Addresses>) -> Outgoing<'a> {
    Outgoing {
        version,
        addresses,
        authority: None,
        unique_id: None,
        crc32c: false,
    }
}

#[test]
fn what_is_written_is_read() {
    let pairs = [
        pair("192.0.2.1:56324", "198.51.100.2:443"),
        pair("[2001:db8::1]:1", "[2001:db8::2]:65535"),
    ];
    for addresses in pairs {
        let line = encode(&outgoing(Version::V1, Some(addresses)));
        whole(&line);
        assert_eq!(header(&line).addresses, Some(addresses));
        let full = Outgoing {
            authority: Some("api.example.com"),
            unique_id: Some(b"one"),
            crc32c: true,
            ..outgoing(Version::V2, Some(addresses))
        };
        let bytes = encode(&full);
        whole(&bytes);
        let read = header(&bytes);
        assert_eq!(read.addresses, Some(addresses));
        assert_eq!(read.authority, full.authority);
        assert_eq!(read.unique_id, full.unique_id);
        // Any single byte that changes is seen.
        for at in 16..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes).is_err() || at >= bytes.len() - 7, "{at}");
        }
    }
    let line = encode(&outgoing(Version::V1, Some(pairs[0])));
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
    assert_eq!(encode(&outgoing(Version::V2, None)), v2(0, 0, &[]));
    assert_eq!(encode(&outgoing(Version::V1, None)), b"PROXY UNKNOWN\r\n");
    let bytes = encode(&outgoing(Version::V2, Some(pairs[0])));
    assert_eq!(bytes, v2(1, 0x11, &BLOCK));
}

#[test]
fn the_longest_header_fits_the_smallest_segment() {
    let bytes = encode(&Outgoing {
        authority: Some(&"a".repeat(MAX_AUTHORITY)),
        unique_id: Some(&[7; MAX_UNIQUE_ID]),
        crc32c: true,
        ..outgoing(
            Version::V2,
            Some(pair("[2001:db8::1]:1", "[2001:db8::2]:2")),
        )
    });
    assert!(bytes.len() <= 536, "{}", bytes.len());
    let bytes = encode(&Outgoing {
        authority: Some(&"a".repeat(MAX_AUTHORITY + 1)),
        unique_id: Some(&[7; MAX_UNIQUE_ID + 1]),
        ..outgoing(Version::V2, Some(pair("192.0.2.1:1", "192.0.2.2:2")))
    });
    assert_eq!(bytes.len(), 28);
}

#[test]
fn ipv4_in_disguise_is_written_as_ipv4() {
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
    let both = Addresses {
        source: mapped,
        destination: "192.0.2.2:6".parse().unwrap(),
    };
    let line = encode(&outgoing(Version::V1, Some(both)));
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n");
    let mixed = pair("192.0.2.1:5", "[2001:db8::1]:6");
    let line = encode(&outgoing(Version::V1, Some(mixed)));
    assert_eq!(line, b"PROXY TCP6 ::ffff:c000:201 2001:db8::1 5 6\r\n");
    whole(&line);
}

#[test]
fn mutated_headers_are_refused_or_read_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(20_261_126);
    let addresses = Some(pair("192.0.2.1:56324", "198.51.100.2:443"));
    let samples = [
        encode(&outgoing(Version::V1, addresses)),
        b"PROXY UNKNOWN\r\n".to_vec(),
        encode(&Outgoing {
            authority: Some("api.example.com"),
            unique_id: Some(b"one"),
            crc32c: true,
            ..outgoing(Version::V2, addresses)
        }),
        v2(1, 0x31, &[7; 216]),
    ];
    let (mut read, mut refused, mut more) = (0, 0, 0);
    for round in 0..10_000 {
        let mut bytes = samples[round % samples.len()].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes.insert(at, random.u8(..)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        match decode(&bytes) {
            Ok(Decoded::Header(header)) => {
                assert!(header.length <= bytes.len());
                read += 1;
            }
            Ok(Decoded::More) => {
                assert!(bytes.len() < MAX_HEADER);
                more += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(
        read > 100 && refused > 1_000 && more > 100,
        "{read} {refused} {more}"
    );
}
