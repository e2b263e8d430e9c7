//! The same tables in the kernel and in the reference, and frames that make sense there.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use tandem::balance::nat::leases::Rights;
use tandem::datapath::nat::layout::{
    Backend, Endpoint, FLOW_CLIENT, Flow, FlowKey, NO_BACKEND, OWNED_NAT, OWNED_REJECT,
    OWNED_SOURCE, OWNED_VIP, Owned, SERVICE_DNAT, SERVICE_REJECT, SERVICE_RETRY, SERVICE_SYNC,
    Service, Settings,
};
use tandem::datapath::nat::reference::Reference;
use tandem::datapath::nat::{Nat, NatError, Scheduler};

use crate::frames::{ACK, FIN, RST, SYN, Tcp, icmp};

/// Slots that belong to nobody, and that lie past the end.
const EMPTY: u32 = 60;
const PAST: u32 = 1_000_000;
/// More than a service's id is before its series.
const IDS: u32 = 16;
/// So few that the ports of a backend run out.
const OWN_PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_003;
const ALL_PORTS: std::ops::RangeInclusive<u16> = 20_000..=20_023;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn vip(six: bool) -> IpAddr {
    ip(if six {
        "2001:db8:1::100"
    } else {
        "192.0.2.100"
    })
}

/// One that is proxied.
pub(crate) fn other(six: bool) -> IpAddr {
    ip(if six {
        "2001:db8:1::101"
    } else {
        "192.0.2.101"
    })
}

fn source(six: bool) -> IpAddr {
    ip(if six {
        "2001:db8:2::100"
    } else {
        "198.51.100.100"
    })
}

pub(crate) fn client(rng: &mut Rng, six: bool) -> SocketAddr {
    let ips = if six {
        ["2001:db8:9::1", "2001:db8:9::2", "2001:db8:2::21"]
    } else {
        ["203.0.113.1", "203.0.113.2", "198.51.100.21"]
    };
    SocketAddr::new(ip(ips[rng.usize(..3)]), 40_000 + rng.u16(..8))
}

fn backend(n: u32) -> Backend {
    let six = n >= 4;
    let place = n % 4 + 21;
    let address = if six {
        format!("2001:db8:2::{place}")
    } else {
        format!("198.51.100.{place}")
    };
    Backend {
        address: ip(&address).into(),
        // Some share the client's side, some have an address of their own.
        source: if n.is_multiple_of(2) {
            vip(six)
        } else {
            source(six)
        }
        .into(),
        port: 8080.into(),
        id: 100 + n,
        ifindex: if n.is_multiple_of(3) { 7 } else { 0 },
        ..Backend::default()
    }
}

/// Port and shape of the services, which exist in both families.
fn services(six: bool) -> Vec<(u16, Service)> {
    let base = if six { 4 } else { 0 };
    let service = |id: u32, scheduler: Scheduler, flags: u32, first: u32, slots: u32| Service {
        id,
        flags,
        scheduler: scheduler.number(),
        first,
        slots,
        turn: id % 16,
        seed: id * 77,
        mss: if id.is_multiple_of(3) { 0 } else { 1_360 },
        source_rate: if id.is_multiple_of(3) { 2 } else { 0 },
    };
    let first = base * 4;
    vec![
        (
            80,
            service(1 + base, Scheduler::RoundRobin, SERVICE_REJECT, first, 4),
        ),
        (
            81,
            service(2 + base, Scheduler::Source, SERVICE_RETRY, first, 4),
        ),
        (
            82,
            service(
                3 + base,
                Scheduler::Tuple,
                SERVICE_SYNC | SERVICE_REJECT,
                first,
                3,
            ),
        ),
        (
            83,
            service(4 + base, Scheduler::RoundRobin, SERVICE_DNAT, first, 4),
        ),
        // Every slot names one backend, so that chance has no say.
        (
            84,
            service(9, Scheduler::Random, SERVICE_RETRY, 40 + base, 4),
        ),
        (
            85,
            service(10, Scheduler::RoundRobin, SERVICE_REJECT, first, 0),
        ),
        (86, service(11, Scheduler::Source, SERVICE_REJECT, EMPTY, 1)),
        (87, service(12, Scheduler::Source, 0, PAST, 3)),
    ]
}

/// What the reference may do, the program may.
pub(crate) fn give(nat: &Nat, reference: &Reference) -> Result<(), NatError> {
    nat.lease()?.set(Rights {
        until: reference.lease,
        waits: reference.waits,
        frozen: reference.frozen,
        offered: reference.offered,
        accept: reference.accept,
        second: reference.second,
    })
}

/// Fills both. The flows must be empty. `series`: a number of services' ids that was not used
/// before, so that nobody has opened flows of them yet. `rates`: some sources have a limit.
pub(crate) fn fill(
    nat: &mut Nat,
    lease: u64,
    series: u32,
    rates: bool,
) -> Result<Reference, NatError> {
    nat.lease()?.renew(lease)?;
    let tables = &mut nat.tables;
    let settings = Settings {
        range_first: *ALL_PORTS.start(),
        range_last: *ALL_PORTS.end(),
        own_first: *OWN_PORTS.start(),
        own_last: *OWN_PORTS.end(),
    };
    let mut reference = Reference {
        capacity: 100_000,
        slots: vec![0; 64],
        backends: vec![Backend::default(); 16],
        ports: vec![0; 16],
        turns: vec![0; 1024],
        settings,
        lease,
        waits: lease,
        ..Reference::default()
    };
    tables.set_settings(settings)?;
    for n in 0..8 {
        tables.set_backend(n, backend(n))?;
        tables.set_ports_tried(n, 0)?;
        reference.backends[n as usize] = backend(n);
    }
    for turn in 0..16 {
        tables.set_turns(turn, 0)?;
    }
    for (slot, index) in (0..32).map(|slot| (slot, slot / 16 * 4 + slot % 4)) {
        reference.slots[slot as usize] = index;
    }
    reference.slots[40..44].fill(1);
    reference.slots[44..48].fill(6);
    reference.slots[EMPTY as usize] = NO_BACKEND;
    tables.set_slots(0, &reference.slots)?;
    for six in [false, true] {
        for (port, mut service) in services(six) {
            service.id += IDS * series;
            if !rates {
                service.source_rate = 0;
            }
            let at = Endpoint::from(SocketAddr::new(vip(six), port));
            tables.set_service(at, service)?;
            reference.services.insert(at, service);
        }
        for (address, flags) in [
            (vip(six), OWNED_NAT | OWNED_SOURCE | OWNED_VIP),
            (
                source(six),
                OWNED_NAT | OWNED_SOURCE | OWNED_REJECT | OWNED_VIP,
            ),
            (other(six), OWNED_VIP),
        ] {
            let at = Endpoint::from(address);
            tables.set_address(at, Owned { flags })?;
            reference.addresses.insert(at, Owned { flags });
        }
    }
    Ok(reference)
}

/// A frame that may come now, often a strange one.
pub(crate) fn frame(rng: &mut Rng, reference: &Reference) -> Vec<u8> {
    let six = rng.bool();
    let mut frame = match rng.u8(..10) {
        0..2 => syn(rng, six),
        2..7 => match entry(rng, reference) {
            Some((key, flow)) => of_flow(rng, reference, &key, &flow),
            None => syn(rng, six),
        },
        7 => match entry(rng, reference) {
            Some((key, flow)) => error(rng, &key, &flow),
            None => syn(rng, six),
        },
        8 => stray(rng, six),
        _ => odd(rng, six),
    };
    if rng.u8(..100) < 15 {
        mutate(rng, &mut frame);
    }
    frame
}

fn entry(rng: &mut Rng, reference: &Reference) -> Option<(FlowKey, Flow)> {
    let count = reference.flows.len();
    let nth = (count > 0).then(|| rng.usize(..count))?;
    let entry = reference.flows.iter().nth(nth)?;
    Some((*entry.0, *entry.1))
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.u8(..12) {
        0 => rng.usize(..1_300),
        _ => rng.usize(..40),
    };
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

fn syn(rng: &mut Rng, six: bool) -> Vec<u8> {
    let port = if rng.u8(..8) == 0 {
        rng.u16(84..90)
    } else {
        rng.u16(80..86)
    };
    let mut tcp = Tcp::new(client(rng, six), SocketAddr::new(vip(six), port), SYN);
    tcp.seq = rng.u32(..4);
    tcp.announced = announced(rng);
    tcp.hops = if rng.u8(..30) == 0 { 1 } else { 64 };
    // One of our own, or none that a host has.
    if rng.u8(..25) == 0 {
        let v4 = [
            "192.0.2.100",
            "127.0.0.1",
            "224.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
        ];
        let v6 = ["2001:db8:2::100", "::1", "ff02::1", "::", "::2"];
        tcp.from
            .set_ip(ip(if six { v6 } else { v4 }[rng.usize(..5)]));
    }
    tcp.frame()
}

fn of_flow(rng: &mut Rng, reference: &Reference, key: &FlowKey, flow: &Flow) -> Vec<u8> {
    let flags = [
        ACK,
        ACK,
        ACK,
        SYN | ACK,
        SYN | ACK,
        FIN | ACK,
        RST,
        RST | ACK,
        SYN,
        0,
        FIN,
    ];
    let mut tcp = Tcp::new(key.from(), key.to(), flags[rng.usize(..flags.len())]);
    tcp.payload = payload(rng);
    tcp.hops = rng.u8(..).max(1);
    tcp.seq = match rng.u8(..8) {
        0..4 => flow.client_isn,
        4..7 => rng.u32(..4),
        _ => rng.u32(..),
    };
    let expected = flow.client_isn.wrapping_add(1);
    tcp.ack = if rng.u8(..4) == 0 {
        rng.u32(..)
    } else {
        expected
    };
    if let Some(pair) = reference.flows.get(&flow.opposite(key.family))
        && rng.bool()
    {
        fit(rng, &mut tcp, flow, pair);
    }
    let front = flow.flags & FLOW_CLIENT != 0;
    tcp.announced = announced(rng);
    // Handshakes must get through often enough.
    let asked = flow.state == 1 || flow.state == 2 && rng.u8(..3) == 0;
    if !front && asked && rng.bool() {
        tcp.flags = SYN | ACK;
        // With data of the SYN, or with more than it can have had.
        let data = [0, 0, 0, 0, 1, 65_535, 65_536][rng.usize(..7)];
        tcp.ack = expected.wrapping_add(data);
    }
    if reference.flows.len() > 60 && rng.bool() {
        tcp.flags = RST;
    }
    if rng.u8(..10) == 0 {
        tcp.options = vec![1; 4 * rng.usize(1..=10)];
        tcp.extensions = extensions(rng);
    }
    tcp.frame()
}

/// Numbers that its receiver may believe, and those next to them.
fn fit(rng: &mut Rng, tcp: &mut Tcp, flow: &Flow, pair: &Flow) {
    const FLIGHT: u32 = 1 << 22;
    let around = [
        0,
        0,
        0,
        0,
        1,
        u32::MAX,
        FLIGHT,
        FLIGHT + 1,
        0_u32.wrapping_sub(FLIGHT),
    ];
    let mut near =
        |numbers: [u32; 4]| numbers[rng.usize(..4)].wrapping_add(around[rng.usize(..around.len())]);
    tcp.seq = near([
        pair.ack,
        pair.ack,
        flow.seq,
        flow.client_isn.wrapping_add(1),
    ]);
    tcp.ack = near([
        pair.seq,
        pair.seq,
        pair.seq,
        flow.client_isn.wrapping_add(1),
    ]);
    // A FIN ends after its payload.
    if rng.bool() {
        tcp.payload.clear();
    }
    if rng.u8(..4) == 0 {
        tcp.flags = [FIN | ACK, RST, RST | ACK][rng.usize(..3)];
    }
}

/// The segment size among other options of a SYN, at any place.
fn announced(rng: &mut Rng) -> Vec<u8> {
    let size = [1_460_u16, 1_361, 1_360, 536, 0, 65_535][rng.usize(..6)].to_be_bytes();
    let mss = vec![2, 4, size[0], size[1]];
    let mut options = vec![
        mss,
        vec![1],
        vec![4, 2],
        vec![3, 3, 7],
        vec![8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    options.push([vec![0], vec![254, 0], vec![2, 3, 9], vec![1, 1, 1]][rng.usize(..4)].clone());
    rng.shuffle(&mut options);
    options.truncate(rng.usize(1..7));
    let mut bytes = options.concat();
    bytes.resize(bytes.len().next_multiple_of(4), 1);
    bytes
}

/// Some that are walked, some that are not.
fn extensions(rng: &mut Rng) -> Vec<Vec<u8>> {
    let count = rng.usize(1..8);
    let one = |rng: &mut Rng| {
        let mut header = vec![0; 8 * rng.usize(1..3)];
        header[0] = [0, 60, 60, 60, 43, 44, 51, 135][rng.usize(..8)];
        header[1] = u8::try_from(header.len() / 8 - 1).unwrap();
        match header[0] {
            43 => header[3] = rng.u8(..2),
            44 => header = vec![44, 0, 0, [0, 0, 0, 1, 8, 6][rng.usize(..6)], 1, 2, 3, 4],
            _ => {}
        }
        header
    };
    std::iter::repeat_with(|| one(rng)).take(count).collect()
}

/// An ICMP error about a packet of this entry's other direction, after its translation.
fn error(rng: &mut Rng, key: &FlowKey, flow: &Flow) -> Vec<u8> {
    // What left here looked like the answer's key turned around.
    let mut sent = Tcp::new(key.to(), key.from(), ACK);
    sent.payload = payload(rng);
    if rng.u8(..8) == 0 {
        sent.options = vec![1; 4 * rng.usize(1..=10)];
    }
    let packet = sent.packet();
    let least = if key.family == 4 { 28 } else { 48 } + sent.options.len();
    let length = match rng.u8(..3) {
        0 => least,
        1 => rng.usize(least.min(packet.len())..=packet.len()),
        _ => packet.len(),
    };
    let quote = &packet[..length.min(packet.len())];
    let (router, kinds): (_, &[u8]) = if key.family == 4 {
        (ip("203.0.113.254"), &[3, 3, 3, 11, 12, 5, 8])
    } else {
        (ip("2001:db8:9::fe"), &[2, 2, 1, 3, 4, 5, 128])
    };
    let router = if rng.bool() { router } else { key.from().ip() };
    // Sometimes to somebody whom the quote does not name.
    let to = if rng.u8(..10) == 0 {
        flow.opposite(key.family).to().ip()
    } else {
        key.to().ip()
    };
    let kind = kinds[rng.usize(..kinds.len())];
    icmp(router, to, kind, 4, 1_400, quote)
}

/// To an address of ours, and to nothing that is known there.
fn stray(rng: &mut Rng, six: bool) -> Vec<u8> {
    let to = if rng.bool() { vip(six) } else { source(six) };
    let port = [80, 82, 20_000, 20_005, 20_023, 20_024, 19_999, 443][rng.usize(..8)];
    let flags = [ACK, RST, SYN, FIN | ACK, SYN | FIN, SYN | ACK][rng.usize(..6)];
    let mut tcp = Tcp::new(client(rng, six), SocketAddr::new(to, port), flags);
    tcp.payload = payload(rng);
    tcp.seq = rng.u32(..);
    tcp.ack = rng.u32(..);
    tcp.frame()
}

/// Fragments, options, extension headers; sometimes to somebody else.
fn odd(rng: &mut Rng, six: bool) -> Vec<u8> {
    let to = if rng.u8(..4) == 0 {
        ip("203.0.113.77")
    } else {
        vip(false)
    };
    let to = if six { vip(true) } else { to };
    let flags = if rng.bool() { SYN } else { ACK };
    let mut tcp = Tcp::new(client(rng, six), SocketAddr::new(to, 80), flags);
    tcp.payload = payload(rng);
    tcp.fragment = [0, 0x2000, 0x2001, 0x0010, 0x8000, 0x4000][rng.usize(..6)];
    tcp.options = vec![1; 4 * rng.usize(..=10)];
    tcp.extensions = extensions(rng);
    tcp.frame()
}

/// Damage: bits, length, a byte in a header. The test run wants whole IP headers.
fn mutate(rng: &mut Rng, frame: &mut Vec<u8>) {
    match rng.u8(..4) {
        0 => {
            let at = rng.usize(..frame.len());
            frame[at] ^= 1 << rng.u8(..8);
        }
        1 => frame.truncate(rng.usize(54..=frame.len())),
        2 => frame.extend(std::iter::repeat_n(0, rng.usize(..60))),
        _ => {
            // In the headers, where it matters.
            let at = rng.usize(12..frame.len().min(70));
            frame[at] = [0, 1, 0x45, 0x46, 0xff, 6, 58, 44][rng.usize(..8)];
        }
    }
}
