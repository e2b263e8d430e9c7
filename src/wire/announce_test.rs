use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv6};
use proptest::prelude::*;

use super::*;

const MAC: Mac = Mac([0x72, 0xff, 0xf8, 0x40, 0x71, 0x6e]);
const ASKER: Mac = Mac([0x36, 0x4a, 0x4c, 0x62, 0xcd, 0x8e]);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);

fn vip6() -> Ipv6Addr {
    "fd99::100".parse().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Captured from keepalived 2.2.7.
const KEEPALIVED_GARP: &str = "ffffffffffff 72fff840716e 0806 0001 0800 06 04 0001 \
     72fff840716e 0a630064 ffffffffffff 0a630064";
const KEEPALIVED_NA: &str = "333300000001 72fff840716e 86dd 60000000 0020 3a ff \
     fd990000000000000000000000000100 ff020000000000000000000000000001 8800 7cbd 20000000 \
     fd990000000000000000000000000100 0201 72fff840716e";

#[test]
fn announcements_are_those_of_keepalived() {
    assert_eq!(
        gratuitous_request(VIP, MAC).as_slice(),
        hex(KEEPALIVED_GARP)
    );
    assert_eq!(advert(vip6(), MAC).as_slice(), hex(KEEPALIVED_NA));
}

#[test]
fn the_other_arp_forms() {
    let reply = "ffffffffffff 72fff840716e 0806 0001 0800 06 04 0002 \
         72fff840716e 0a630064 72fff840716e 0a630064";
    assert_eq!(gratuitous_reply(VIP, MAC).as_slice(), hex(reply));
    let question = "ffffffffffff 72fff840716e 0806 0001 0800 06 04 0001 \
         72fff840716e 0a630064 000000000000 0a630001";
    let gateway = Ipv4Addr::new(10, 99, 0, 1);
    assert_eq!(who_has(gateway, VIP, MAC).as_slice(), hex(question));
    let answer = "364a4c62cd8e 72fff840716e 0806 0001 0800 06 04 0002 \
         72fff840716e 0a630064 364a4c62cd8e 0a630001";
    assert_eq!(arp_answer(VIP, MAC, gateway, ASKER).as_slice(), hex(answer));
}

/// Our own address is in the Ethernet header only: what is claimed is the master's.
#[test]
fn a_reminder_speaks_for_another_host() {
    const US: Mac = Mac([2, 0, 0, 0, 0, 7]);
    let question = "364a4c62cd8e 020000000007 0806 0001 0800 06 04 0001 \
         72fff840716e 0a630064 000000000000 0a630001";
    let sender = Ipv4Addr::new(10, 99, 0, 1);
    let said = reminder(VIP, MAC, Some(sender), ASKER, US);
    assert_eq!(said.as_slice(), hex(question));
    let gratuitous = "364a4c62cd8e 020000000007 0806 0001 0800 06 04 0001 \
         72fff840716e 0a630064 ffffffffffff 0a630064";
    let said = reminder(VIP, MAC, None, ASKER, US);
    assert_eq!(said.as_slice(), hex(gratuitous));

    // To all nodes it is the announcement, but for the Ethernet header.
    let said = advert_reminder(vip6(), MAC, None, ASKER, US);
    assert_eq!(said[..12], [ASKER.0, US.0].concat());
    assert_eq!(said[12..], advert(vip6(), MAC)[12..]);
    let sender: Ipv6Addr = "fd99::1".parse().unwrap();
    let said = advert_reminder(vip6(), MAC, Some(sender), ASKER, US);
    let claim = Claim {
        ip: vip6().into(),
        mac: MAC,
    };
    assert_eq!(said[ETHERNET + 24..ETHERNET + 40], sender.octets());
    assert_eq!(hear(&said).unwrap().claim, Some(claim), "the checksum fits");
}

#[test]
fn an_answer_to_a_solicitation_agrees_with_another_parser() {
    let asker: Ipv6Addr = "fe80::1".parse().unwrap();
    let frame = advert_answer(vip6(), MAC, asker, ASKER);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else {
        panic!("{packet:?}")
    };
    let header = ip.header().to_header();
    assert_eq!(header.hop_limit, 255);
    assert_eq!(header.source_addr(), vip6());
    assert_eq!(header.destination_addr(), asker);
    let Some(TransportSlice::Icmpv6(message)) = &packet.transport else {
        panic!("{packet:?}")
    };
    assert!(message.is_checksum_valid(header.source, header.destination));
    let Icmpv6Type::NeighborAdvertisement(flags) = message.icmp_type() else {
        panic!("{message:?}")
    };
    let expected = icmpv6::NeighborAdvertisementHeader {
        router: false,
        solicited: true,
        r#override: true,
    };
    assert_eq!(flags, expected);
    assert_eq!(frame[..6], ASKER.0);
}

#[test]
fn a_solicitation_for_duplicates_is_answered_to_all() {
    let answer = advert_answer(vip6(), MAC, Ipv6Addr::UNSPECIFIED, ASKER);
    assert_eq!(answer, advert(vip6(), MAC));
}

#[test]
fn the_group_of_an_address() {
    let address = "2001:db8::12:3456".parse().unwrap();
    let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
    assert_eq!(solicited_node(address), group);
}

#[test]
fn what_we_say_is_heard() {
    let claim = |ip: IpAddr| Some(Claim { ip, mac: MAC });
    let only = |ip: IpAddr| Heard {
        claim: claim(ip),
        question: None,
    };
    let heard = |frame: &[u8]| hear(frame).unwrap();
    assert_eq!(heard(&gratuitous_request(VIP, MAC)), only(VIP.into()));
    assert_eq!(heard(&gratuitous_reply(VIP, MAC)), only(VIP.into()));
    assert_eq!(heard(&advert(vip6(), MAC)), only(vip6().into()));
    let gateway = Ipv4Addr::new(10, 99, 0, 1);
    let question = Question {
        target: gateway.into(),
        asker: VIP.into(),
        asker_mac: MAC,
    };
    let both = Heard {
        claim: claim(VIP.into()),
        question: Some(question),
    };
    assert_eq!(heard(&who_has(gateway, VIP, MAC)), both);
}

fn solicitation(source: &str, options: &[u8], hop_limit: u8) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let to = solicited_node(vip6());
    let mut payload = vip6().octets().to_vec();
    payload.extend(options);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ASKER.0, multicast_mac(to).0)
        .ipv6(source.octets(), to.octets(), hop_limit)
        .icmpv6(Icmpv6Type::NeighborSolicitation)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

#[test]
fn solicitations_made_by_another_builder() {
    let plain = hear(&solicitation("fe80::1", &[], 255)).unwrap();
    let question = Question {
        target: vip6().into(),
        asker: "fe80::1".parse().unwrap(),
        asker_mac: ASKER,
    };
    assert_eq!(plain.question, Some(question));
    assert_eq!(plain.claim, None);

    let with_link = hear(&solicitation("fe80::1", &[1, 1, 2, 3, 4, 5, 6, 7], 255)).unwrap();
    let claim = Claim {
        ip: "fe80::1".parse().unwrap(),
        mac: Mac([2, 3, 4, 5, 6, 7]),
    };
    assert_eq!(with_link.claim, Some(claim));

    // A nonce (RFC 7527) in front is stepped over.
    let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
    assert!(hear(&solicitation("::", &nonce, 255)).is_some());
}

#[test]
fn broken_rules_are_silence() {
    for (why, frame) in [
        ("forwarded", solicitation("fe80::1", &[], 254)),
        (
            "no length",
            solicitation("fe80::1", &[1, 0, 0, 0, 0, 0, 0, 0], 255),
        ),
        (
            "cut option",
            solicitation("fe80::1", &[1, 2, 0, 0, 0, 0, 0, 0], 255),
        ),
        ("half an option", solicitation("fe80::1", &[1], 255)),
        (
            "no address, yet a link",
            solicitation("::", &[1, 1, 2, 3, 4, 5, 6, 7], 255),
        ),
    ] {
        assert_eq!(hear(&frame), None, "{why}");
    }
    let mut frame = solicitation("fe80::1", &[], 255);
    frame[ETHERNET + IPV6 + 2] ^= 1;
    assert_eq!(hear(&frame), None, "checksum");
    let mut frame = gratuitous_request(VIP, MAC);
    frame[ETHERNET + 4] = 8;
    assert_eq!(hear(&frame), None, "hardware address length");
}

/// Frames that pass the first checks, so that the later ones are reached too.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just(Vec::new()),
        Just(gratuitous_request(VIP, MAC).to_vec()),
        Just(advert(vip6(), MAC).to_vec()),
        Just(solicitation("fe80::1", &[1, 1, 2, 3, 4, 5, 6, 7], 255)),
    ];
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (
        starts,
        prop::collection::vec(change, 0..4),
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(mut frame, changes, tail)| {
            for (at, value) in changes {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
            }
            frame.extend(tail);
            frame
        })
}

proptest! {
    #[test]
    fn no_frame_panics(frame in frames(), cut in any::<prop::sample::Index>()) {
        hear(&frame);
        hear(&frame[..cut.index(frame.len() + 1)]);
    }

    #[test]
    fn no_options_panic(options in prop::collection::vec(any::<u8>(), 0..64)) {
        link_address(&options, SOURCE_LINK_ADDRESS);
    }
}

#[test]
fn a_question_from_nobody_tells_nothing_of_the_asker() {
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let target: Ipv6Addr = "2001:db8::100".parse().unwrap();
    let heard = hear(&solicit(target, mac)).expect("it keeps the rules of RFC 4861, 7.1.1");
    let question = Question {
        target: target.into(),
        asker: Ipv6Addr::UNSPECIFIED.into(),
        asker_mac: mac,
    };
    assert_eq!((heard.claim, heard.question), (None, Some(question)));
    let vip = Ipv4Addr::new(192, 0, 2, 100);
    let heard = hear(&who_has(vip, Ipv4Addr::UNSPECIFIED, mac)).unwrap();
    assert_eq!(heard.claim, None);
    assert_eq!(
        heard.question.map(|question| question.target),
        Some(vip.into())
    );
}
