//! Questions and answers, byte by byte.

use domain::base::iana::Opcode;
use domain::base::{Serial, message_builder::AnswerBuilder};
use proptest::prelude::*;

use super::*;

const NAME: &str = "web.example";

fn name(text: &str) -> Name<Vec<u8>> {
    Name::from_str(text).unwrap()
}

/// An answer to `web.example`.
fn answer(kind: Kind, code: Rcode, fill: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Vec<u8> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(7);
    message.header_mut().set_qr(true);
    message.header_mut().set_rcode(code);
    let mut message = message.question();
    message.push((name("WEB.example"), kind.rtype())).unwrap();
    let mut message = message.answer();
    fill(&mut message);
    message.finish()
}

fn a(message: &mut AnswerBuilder<Vec<u8>>, owner: &str, ttl: u32, last: u8) {
    let data = A::from_octets(192, 0, 2, last);
    let ttl = Ttl::from_secs(ttl);
    message.push((name(owner), Class::IN, ttl, data)).unwrap();
}

fn alias(message: &mut AnswerBuilder<Vec<u8>>, owner: &str, ttl: u32, target: &str) {
    let ttl = Ttl::from_secs(ttl);
    let data = Cname::new(name(target));
    message.push((name(owner), Class::IN, ttl, data)).unwrap();
}

fn read(bytes: &[u8], kind: Kind) -> Reply {
    reply(bytes, 7, NAME, kind)
}

fn addresses(bytes: &[u8]) -> (Vec<String>, u64) {
    match read(bytes, Kind::A) {
        Reply::Records(records) => {
            let all = records.addresses.iter().map(ToString::to_string);
            (all.collect(), records.ttl.as_secs())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_what_rfc_1035_says() {
    let plain = question(0x0102, NAME, Kind::Aaaa, false).unwrap();
    let expected =
        b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07example\x00\x00\x1c\x00\x01";
    assert_eq!(plain, expected);
    let extended = question(0x0102, NAME, Kind::A, true).unwrap();
    assert_eq!(extended[11], 1, "one additional record");
    assert_eq!(
        &extended[29..],
        b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
    );
    assert_eq!(question(1, &"a".repeat(64), Kind::A, true), None);
}

#[test]
fn addresses_of_the_name_count_and_no_others() {
    let bytes = answer(Kind::A, Rcode::NOERROR, |message| {
        a(message, "Web.Example", 30, 1);
        a(message, "other.example", 1, 2);
        a(message, "web.example", 20, 3);
    });
    let expected = vec!["192.0.2.1".to_owned(), "192.0.2.3".to_owned()];
    assert_eq!(addresses(&bytes), (expected, 20));
    let bytes = answer(Kind::A, Rcode::NOERROR, |message| {
        a(message, "c.example", 30, 1);
        a(message, NAME, 1, 9);
        alias(message, NAME, 25, "b.example");
        alias(message, "b.example", 10, "C.example");
    });
    assert_eq!(addresses(&bytes), (vec!["192.0.2.1".to_owned()], 10));
    let bytes = answer(Kind::A, Rcode::NOERROR, |message| {
        alias(message, NAME, 25, "b.example");
        alias(message, "b.example", 10, NAME);
    });
    assert_eq!(addresses(&bytes), (vec![], 0), "a loop");
}

#[test]
fn that_there_is_none_holds_as_long_as_the_zone_says() {
    for code in [Rcode::NOERROR, Rcode::NXDOMAIN] {
        let mut message = Vec::new();
        let bytes = answer(Kind::A, code, |_| ());
        message.extend_from_slice(&bytes);
        assert_eq!(addresses(&message), (vec![], 0));
        let soa = Soa::new(
            name("ns.example"),
            name("host.example"),
            Serial(1),
            Ttl::from_secs(1),
            Ttl::from_secs(1),
            Ttl::from_secs(1),
            Ttl::from_secs(50),
        );
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(7);
        builder.header_mut().set_qr(true);
        builder.header_mut().set_rcode(code);
        let mut builder = builder.question();
        builder.push((name(NAME), Rtype::A)).unwrap();
        let mut builder = builder.authority();
        let owner = name("example");
        builder
            .push((owner, Class::IN, Ttl::from_secs(300), soa))
            .unwrap();
        assert_eq!(addresses(&builder.finish()), (vec![], 50));
    }
}

#[test]
fn servers_are_read() {
    let bytes = answer(Kind::Srv, Rcode::NOERROR, |message| {
        for (weight, target) in [(5, "B1.example."), (0, ".")] {
            let data = Srv::new(10, weight, 8080, name(target));
            let ttl = Ttl::from_secs(9);
            message.push((name(NAME), Class::IN, ttl, data)).unwrap();
        }
    });
    let Reply::Records(records) = read(&bytes, Kind::Srv) else {
        panic!("{bytes:?}");
    };
    let targets: Vec<_> = records
        .servers
        .iter()
        .map(|it| it.target.as_str())
        .collect();
    assert_eq!(targets, ["b1.example", ""]);
    let first = &records.servers[0];
    assert_eq!((first.priority, first.weight, first.port), (10, 5, 8080));
    assert_eq!(records.ttl, Duration::from_secs(9));
}

#[test]
fn what_answers_something_else_is_passed_over() {
    let good = answer(Kind::A, Rcode::NOERROR, |message| a(message, NAME, 1, 1));
    assert!(matches!(read(&good, Kind::A), Reply::Records(_)));
    assert_eq!(reply(&good, 8, NAME, Kind::A), Reply::Alien, "another id");
    assert_eq!(
        reply(&good, 7, "b.example", Kind::A),
        Reply::Alien,
        "another name"
    );
    assert_eq!(read(&good, Kind::Aaaa), Reply::Alien, "another kind");
    assert_eq!(
        read(&question(7, NAME, Kind::A, true).unwrap(), Kind::A),
        Reply::Alien
    );
    assert_eq!(read(b"\x00\x07", Kind::A), Reply::Alien);
    let mut cut = good;
    cut[2] |= 2;
    assert_eq!(read(&cut, Kind::A), Reply::Truncated);
}

#[test]
fn what_a_resolver_cannot_do_it_says() {
    for (code, word) in [(Rcode::SERVFAIL, "SERVFAIL"), (Rcode::REFUSED, "REFUSED")] {
        let expected = Reply::Failed(format!("the resolver says {word}"));
        assert_eq!(read(&answer(Kind::A, code, |_| ()), Kind::A), expected);
    }
    let mut bare = MessageBuilder::new_vec();
    bare.header_mut().set_id(7);
    bare.header_mut().set_qr(true);
    bare.header_mut().set_opcode(Opcode::QUERY);
    bare.header_mut().set_rcode(Rcode::FORMERR);
    let expected = Reply::Failed("the resolver says FORMERR".into());
    assert_eq!(read(&bare.finish(), Kind::A), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(
        changes in prop::collection::vec((12..200_usize, any::<u8>()), 0..8),
        cut in 0..200_usize,
        kind in prop_oneof![Just(Kind::A), Just(Kind::Aaaa), Just(Kind::Srv)],
    ) {
        let mut bytes = answer(kind, Rcode::NOERROR, |message| {
            alias(message, NAME, 5, "b.example");
            a(message, "b.example", 5, 1);
            let srv = Srv::new(1, 2, 3, name("c.example"));
            message.push((name("b.example"), Class::IN, Ttl::from_secs(1), srv)).unwrap();
        });
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut).max(12));
        let _ = reply(&bytes, 7, NAME, kind);
    }
}
