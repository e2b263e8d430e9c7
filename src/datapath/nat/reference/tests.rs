//! One client, one service, three backends.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, SlicedPacket, TcpSlice, TransportSlice};

use super::super::layout::{MARK_CLIENT_RST, SERVICE_DNAT, SERVICE_RETRY, SERVICE_SYNC};
use super::super::names::Scheduler;
use super::*;

mod flood;
mod forged;
mod relay;
mod sequence;
mod strange;

const CLIENT: &str = "203.0.113.1:40000";
const VIP: &str = "192.0.2.100:80";
const SOURCE: &str = "198.51.100.100:0";
const NOW: u64 = 1_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn backend(n: u32) -> SocketAddr {
    at(&format!("198.51.100.{}:8080", 21 + n))
}

fn world(flags: u32, scheduler: Scheduler) -> Reference {
    let service = Service {
        id: 7,
        flags: flags | SERVICE_REJECT,
        scheduler: scheduler.number(),
        slots: 3,
        ..Service::default()
    };
    let one = |n| Backend {
        address: backend(n).ip().into(),
        source: at(SOURCE).ip().into(),
        port: 8080.into(),
        id: n,
        ifindex: 5,
        ..Backend::default()
    };
    let owned = |text: &str, flags| (Endpoint::from(at(text).ip()), Owned { flags });
    Reference {
        capacity: 1_000,
        services: [(Endpoint::from(at(VIP)), service)].into(),
        addresses: [
            owned(VIP, OWNED_NAT),
            owned(SOURCE, OWNED_NAT | OWNED_SOURCE | OWNED_REJECT),
        ]
        .into(),
        slots: vec![0, 1, 2],
        backends: (0..3).map(one).collect(),
        ports: vec![0; 3],
        turns: vec![0],
        settings: Settings {
            range_first: 30_000,
            range_last: 30_019,
            own_first: 30_000,
            own_last: 30_009,
        },
        lease: u64::MAX,
        waits: u64::MAX,
        ..Reference::default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    flags: u8,
    seq: u32,
    ack: u32,
}

const fn sent(flags: u8, seq: u32, ack: u32) -> Sent {
    Sent { flags, seq, ack }
}

fn frame(from: SocketAddr, to: SocketAddr, sent: Sent, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else {
        panic!("IPv4 here");
    };
    let builder = PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4(src.octets(), dst.octets(), 64);
    let mut tcp = builder.tcp(from.port(), to.port(), sent.seq, 65_535);
    for (bit, set) in [(SYN, 0), (FIN, 1), (RST, 2)] {
        if sent.flags & bit != 0 {
            tcp = match set {
                0 => tcp.syn(),
                1 => tcp.fin(),
                _ => tcp.rst(),
            };
        }
    }
    if sent.flags & ACK != 0 {
        tcp = tcp.ack(sent.ack);
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, payload).unwrap();
    bytes
}

fn arrival() -> Arrival {
    Arrival {
        ifindex: 4,
        now: NOW,
        ..Arrival::default()
    }
}

/// Sends a packet through; who sends it to whom then. Its sums must be right.
fn through(world: &mut Reference, frame: &[u8]) -> (SocketAddr, SocketAddr, u32) {
    let Verdict::Redirect { ifindex, frame } = world.process(frame, &arrival()) else {
        panic!("not forwarded: {:?}", world.counters);
    };
    let (from, to) = checked(&frame);
    (from, to, ifindex)
}

/// Who sends it to whom. Its sums must be right.
fn checked(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let ip = packet
        .net
        .as_ref()
        .unwrap()
        .ipv4_ref()
        .unwrap()
        .header()
        .to_header();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP");
    };
    right(&ip, &tcp);
    let from = SocketAddr::new(IpAddr::from(ip.source), tcp.source_port());
    let to = SocketAddr::new(IpAddr::from(ip.destination), tcp.destination_port());
    (from, to)
}

fn right(ip: &etherparse::Ipv4Header, tcp: &TcpSlice<'_>) {
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(ip.time_to_live, 63);
    let sum = tcp.calc_checksum_ipv4(ip.source, ip.destination).unwrap();
    assert_eq!(tcp.checksum(), sum);
}

fn syn(from: &str, isn: u32) -> Vec<u8> {
    frame(at(from), at(VIP), sent(SYN, isn, 0), &[])
}

/// A connection up to here; where the backend sees it, and which backend.
fn established(world: &mut Reference) -> (SocketAddr, SocketAddr) {
    let (ours, theirs, _) = through(world, &syn(CLIENT, 100));
    through(world, &frame(theirs, ours, sent(SYN | ACK, 900, 101), &[]));
    through(world, &frame(at(CLIENT), at(VIP), sent(ACK, 101, 901), &[]));
    (ours, theirs)
}

fn state(world: &Reference) -> State {
    let flow = &world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
    let other = &world.flows[&flow.opposite(V4)];
    assert_eq!(
        (flow.state, flow.marks),
        (other.state, other.marks),
        "one flow, one state"
    );
    State::from_number(flow.state).unwrap()
}

const V4: u32 = super::super::layout::V4;

/// What user space was told since the last time.
fn told(world: &mut Reference) -> Vec<(EventKind, Cause)> {
    let events = world.events.drain(..).map(|told| match told {
        Told::Carried(carried) => carried.event,
        Told::Event(event) => event,
    });
    let names = events.map(|event| {
        let kind = EventKind::from_number(event.kind).unwrap();
        (kind, Cause::from_number(event.cause).unwrap())
    });
    names.collect()
}

#[test]
fn a_connection_from_its_syn_to_its_end() {
    let mut world = world(0, Scheduler::RoundRobin);
    let source = SocketAddr::new(at(SOURCE).ip(), 30_000);
    assert_eq!(
        through(&mut world, &syn(CLIENT, 100)),
        (source, backend(0), 5)
    );
    assert_eq!(state(&world), State::Opening);
    let answer = frame(backend(0), source, sent(SYN | ACK, 900, 101), &[]);
    assert_eq!(through(&mut world, &answer), (at(VIP), at(CLIENT), 4));
    assert_eq!(state(&world), State::Answered);
    let ack = |flags, payload: &[u8]| frame(at(CLIENT), at(VIP), sent(flags, 101, 901), payload);
    assert_eq!(
        through(&mut world, &ack(ACK, b"hello")),
        (source, backend(0), 5)
    );
    assert_eq!(state(&world), State::Established);
    through(&mut world, &ack(FIN | ACK, &[]));
    assert_eq!(state(&world), State::Closing);
    through(
        &mut world,
        &frame(backend(0), source, sent(FIN | ACK, 901, 107), &[]),
    );
    assert_eq!(state(&world), State::Closed);
    through(&mut world, &ack(ACK, &[]));
    assert_eq!(state(&world), State::Closed);
    let story = [
        (EventKind::Opened, Cause::None),
        (EventKind::Established, Cause::None),
        (EventKind::Closed, Cause::Fin),
    ];
    assert_eq!(told(&mut world), story);
    let flow = world.flows[&FlowKey::new(at(CLIENT), at(VIP))];
    assert_eq!((flow.client_isn, flow.backend_isn), (100, 900));
    assert_eq!((flow.packets, flow.bytes), (4, 4 * 40 + 5));
}

#[test]
fn the_event_of_a_new_flow_has_the_syn_as_it_came() {
    let mut world = world(0, Scheduler::RoundRobin);
    let syn = syn(CLIENT, 100);
    through(&mut world, &syn);
    let Some(Told::Carried(carried)) = world.events.first() else {
        panic!("nothing told");
    };
    assert_eq!(carried.packet[..carried.length as usize], syn[L3..]);
}

#[test]
fn a_syn_again_is_the_same_flow_and_another_isn_is_a_new_one() {
    let mut world = world(0, Scheduler::RoundRobin);
    let first = through(&mut world, &syn(CLIENT, 100));
    assert_eq!(through(&mut world, &syn(CLIENT, 100)), first);
    assert_eq!(world.flows.len(), 2);
    let second = through(&mut world, &syn(CLIENT, 5_000));
    assert_eq!(second.1, backend(1));
    assert_eq!(world.flows.len(), 2, "the old entries are gone");
    assert_eq!(told(&mut world)[1], (EventKind::Closed, Cause::Replaced));
}

#[test]
fn a_reset_ends_a_flow_unless_its_sender_goes_on() {
    let mut world = world(0, Scheduler::RoundRobin);
    let (ours, theirs) = established(&mut world);
    told(&mut world);
    through(
        &mut world,
        &frame(at(CLIENT), at(VIP), sent(RST, 101, 0), &[]),
    );
    assert_eq!(state(&world), State::Closed);
    // The other side does not know yet.
    through(
        &mut world,
        &frame(theirs, ours, sent(ACK, 901, 101), b"data"),
    );
    assert_eq!(state(&world), State::Closed);
    through(
        &mut world,
        &frame(at(CLIENT), at(VIP), sent(ACK, 101, 905), &[]),
    );
    assert_eq!(state(&world), State::Established);
    let marks = world.flows[&FlowKey::new(at(CLIENT), at(VIP))].marks;
    assert_eq!(marks & MARK_CLIENT_RST, 0);
    let story = [
        (EventKind::Closed, Cause::ClientRst),
        (EventKind::Revived, Cause::None),
    ];
    assert_eq!(told(&mut world), story);
}

#[test]
fn a_refusing_backend_is_hidden_if_another_is_to_be_tried() {
    for answer in [RST | ACK, ACK] {
        let mut world = world(SERVICE_RETRY, Scheduler::RoundRobin);
        let (ours, theirs, _) = through(&mut world, &syn(CLIENT, 100));
        let refusal = frame(theirs, ours, sent(answer, 0, 101), &[]);
        assert_eq!(
            world.process(&refusal, &arrival()),
            Verdict::Drop(Counter::Held)
        );
        assert_eq!(state(&world), State::Opening);
        assert_eq!(told(&mut world)[1].0, EventKind::Refused);
    }
}

#[test]
fn ports_rotate_within_the_own_half_and_run_out() {
    let mut world = world(0, Scheduler::Source);
    let mut ports = Vec::new();
    for n in 0..10 {
        let (ours, theirs, _) = through(&mut world, &syn(&format!("203.0.113.1:{}", 1_000 + n), n));
        assert_eq!(
            theirs,
            backend(theirs_of(&world)),
            "one client, one backend"
        );
        ports.push(ours.port());
    }
    assert_eq!(ports, (30_000..30_010).collect::<Vec<_>>());
    let more = syn("203.0.113.1:2000", 1);
    assert_eq!(
        world.process(&more, &arrival()),
        Verdict::Drop(Counter::NoPort)
    );
    assert_eq!(
        world.flows.len(),
        20,
        "nothing is left of the one that failed"
    );
}

#[test]
fn a_run_of_taken_ports_is_leapt_over() {
    let mut world = world(0, Scheduler::Source);
    world.settings.own_last = 30_399;
    // Another service, or a round of the counter long ago, has the first 240 of 400 ports.
    for n in 0..240 {
        through(&mut world, &syn(&format!("203.0.113.1:{}", 1_000 + n), n));
    }
    world.ports.fill(0);
    let mut ports = BTreeSet::new();
    for n in 240..390 {
        let (ours, ..) = through(&mut world, &syn(&format!("203.0.113.1:{}", 1_000 + n), n));
        ports.insert(ours.port());
    }
    assert_eq!(ports.len(), 150, "no port twice");
    assert_eq!(ports.first(), Some(&30_248), "behind the run");
}

/// The backend that all flows go to.
fn theirs_of(world: &Reference) -> u32 {
    let mut backends: Vec<_> = world.flows.values().map(|flow| flow.backend).collect();
    backends.dedup();
    assert_eq!(backends.len(), 1);
    backends[0]
}

#[test]
fn schedulers_share_as_they_say() {
    let shares = |scheduler: Scheduler| {
        let mut world = world(SERVICE_DNAT, scheduler);
        let mut shares = [0; 3];
        for n in 0..300_u32 {
            let [high, low] = [n / 20, n % 20];
            let from = format!("203.0.113.{}:{}", 1 + high, 1_000 + low);
            let arrival = Arrival {
                random: n * 7,
                ..arrival()
            };
            let verdict = world.process(&syn(&from, n), &arrival);
            assert!(matches!(verdict, Verdict::Redirect { .. }));
            let flow = world.flows[&FlowKey::new(at(&from), at(VIP))];
            shares[flow.backend as usize] += 1;
        }
        shares
    };
    assert_eq!(shares(Scheduler::RoundRobin), [100; 3]);
    assert_eq!(shares(Scheduler::Random), [100; 3]);
    assert!(
        shares(Scheduler::Tuple)
            .iter()
            .all(|share| (70..130).contains(share))
    );
    // Fifteen clients of twenty connections each.
    assert!(
        shares(Scheduler::Source)
            .iter()
            .all(|share| *share > 0 && share % 20 == 0)
    );
}

#[test]
fn a_client_keeps_its_address_if_the_service_says_so() {
    let mut world = world(SERVICE_DNAT, Scheduler::RoundRobin);
    assert_eq!(
        through(&mut world, &syn(CLIENT, 1)),
        (at(CLIENT), backend(0), 5)
    );
    let answer = frame(backend(0), at(CLIENT), sent(SYN | ACK, 9, 2), &[]);
    assert_eq!(through(&mut world, &answer), (at(VIP), at(CLIENT), 4));
    // The second backend as its own client: it would answer itself.
    let own = syn("198.51.100.22:5000", 1);
    assert_eq!(
        world.process(&own, &arrival()),
        Verdict::Drop(Counter::Hairpin)
    );
}
