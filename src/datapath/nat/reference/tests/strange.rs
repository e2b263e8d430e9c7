//! What is no plain packet of a flow.

use super::*;

#[test]
fn without_a_lease_all_stays_here_and_nothing_changes() {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    world.lease = 0;
    let before = world.flows.clone();
    for frame in [
        syn(CLIENT, 7),
        syn("203.0.113.2:1", 7),
        frame(at(CLIENT), at(VIP), sent(ACK, 101, 901), b"x"),
        frame(theirs, ours, sent(RST, 901, 0), &[]),
        frame(
            theirs,
            SocketAddr::new(ours.ip(), 30_019),
            sent(ACK, 1, 1),
            &[],
        ),
    ] {
        assert_eq!(
            world.process(&frame, &arrival()),
            Verdict::Drop(Counter::Lease)
        );
    }
    assert_eq!(world.flows, before);
    assert!(world.refusals.is_empty());
}

#[test]
fn who_may_decide_nothing_forwards_what_is_there() {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    let closed = "203.0.113.3:1";
    through(&mut world, &syn(closed, 7));
    world.frozen = true;
    told(&mut world);
    let ack = frame(at(CLIENT), at(VIP), sent(ACK, 101, 901), b"x");
    let answer = frame(theirs, ours, sent(ACK, 901, 102), b"y");
    for known in [&ack, &answer] {
        assert!(matches!(
            world.process(known, &arrival()),
            Verdict::Redirect { .. }
        ));
    }
    let mut before = world.flows.clone();
    let stray = SocketAddr::new(ours.ip(), 30_019);
    for frame in [
        syn("203.0.113.2:1", 7),
        // A new connection on old ports: the old one is over, and the new one nobody's here.
        syn(closed, 8),
        frame(at("203.0.113.2:1"), at(VIP), sent(ACK, 101, 901), b"x"),
        frame(theirs, stray, sent(ACK, 1, 1), &[]),
    ] {
        assert_eq!(
            world.process(&frame, &arrival()),
            Verdict::Drop(Counter::Lease)
        );
    }
    let front = FlowKey::new(at(closed), at(VIP));
    let over = before.remove(&front).unwrap();
    before.remove(&over.opposite(V4)).unwrap();
    assert_eq!(world.flows, before);
    assert!(world.refusals.is_empty());
    assert_eq!(told(&mut world).len(), 1, "that it is over");
}

#[test]
fn what_matches_nothing_is_told_but_a_reset_is_not() {
    let mut world = world(0, Scheduler::RoundRobin);
    let unknown = frame(at(CLIENT), at(VIP), sent(FIN | ACK, 50, 60), b"abc");
    assert_eq!(
        world.process(&unknown, &arrival()),
        Verdict::Drop(Counter::Unknown)
    );
    let refusal = world.refusals.pop().unwrap();
    assert_eq!((refusal.seq, refusal.ack, refusal.length), (50, 60, 4));
    let reset = frame(at(CLIENT), at(VIP), sent(RST, 50, 0), &[]);
    assert_eq!(
        world.process(&reset, &arrival()),
        Verdict::Drop(Counter::Unknown)
    );
    assert!(world.refusals.is_empty());
    let to = |port| SocketAddr::new(at(SOURCE).ip(), port);
    let stray = |port| frame(backend(0), to(port), sent(ACK, 1, 1), &[]);
    assert_eq!(
        world.process(&stray(30_019), &arrival()),
        Verdict::Drop(Counter::Stray)
    );
    assert_eq!(world.process(&stray(30_020), &arrival()), Verdict::Pass);
    assert_eq!(world.refusals.len(), 1);
}

#[test]
fn no_client_has_such_an_address() {
    let mut world = world(0, Scheduler::RoundRobin);
    for from in [
        "127.0.0.1:1",
        "0.1.2.3:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        VIP,
        SOURCE,
    ] {
        let verdict = world.process(&syn(from, 1), &arrival());
        assert_eq!(verdict, Verdict::Drop(Counter::BadSource), "{from}");
    }
    assert!(world.flows.is_empty());
}

#[test]
fn fragments_of_tcp_stay_here_and_other_things_pass() {
    let mut world = world(0, Scheduler::RoundRobin);
    let mut fragment = syn(CLIENT, 1);
    fragment[L3 + 6] = 0x20;
    assert_eq!(
        world.process(&fragment, &arrival()),
        Verdict::Drop(Counter::Fragment)
    );
    fragment[L3 + 9] = 17;
    assert_eq!(world.process(&fragment, &arrival()), Verdict::Pass);
    let mut short = syn(CLIENT, 1);
    short.truncate(L3 + 39);
    assert_eq!(
        world.process(&short, &arrival()),
        Verdict::Drop(Counter::Malformed)
    );
    let foreign = Arrival {
        foreign: true,
        ..arrival()
    };
    assert_eq!(world.process(&syn(CLIENT, 1), &foreign), Verdict::Pass);
    let tagged = Arrival {
        tagged: true,
        ..arrival()
    };
    assert_eq!(world.process(&syn(CLIENT, 1), &tagged), Verdict::Pass);
    assert!(world.flows.is_empty());
}

#[test]
fn an_error_goes_to_whom_it_concerns() {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    let too_big = frame(ours, theirs, sent(ACK, 101, 901), &[7; 100]);
    let original = frame(at(CLIENT), at(VIP), sent(ACK, 101, 901), &[7; 100]);
    let mut error = Vec::new();
    let unreachable = etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: 1_400,
    };
    let octets = |at: SocketAddr| match at.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => panic!("IPv4 here"),
    };
    PacketBuilder::ethernet2([0; 6], [0; 6])
        .ipv4([198, 51, 100, 1], octets(ours), 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(unreachable))
        .write(&mut error, &too_big[L3..])
        .unwrap();
    let Verdict::Redirect { ifindex, frame } = world.process(&error, &arrival()) else {
        panic!("not forwarded: {:?}", world.counters);
    };
    assert_eq!(ifindex, 4);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let ip = packet
        .net
        .as_ref()
        .unwrap()
        .ipv4_ref()
        .unwrap()
        .header()
        .to_header();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(
        (ip.source, ip.destination),
        (octets(at(VIP)), octets(at(CLIENT)))
    );
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else {
        panic!("no ICMP");
    };
    assert_eq!(
        icmp.icmp_type().calc_checksum(icmp.payload()),
        icmp.checksum()
    );
    assert_eq!(
        icmp.payload(),
        &original[L3..],
        "the client's own packet comes back"
    );
}
