use std::mem::offset_of;

use super::super::names::{Cause, Counter, EventKind, Scheduler, State};
use super::super::program::OBJECT;
use super::*;

const HEADER: &str = include_str!("bpf/layout.h");

/// `offsets.h`, in Rust.
fn expected() -> Vec<usize> {
    macro_rules! table {
        ($($name:ident { $($field:ident)* })*) => {
            vec![$(size_of::<$name>(), $(offset_of!($name, $field),)*)*]
        };
    }
    let mut table = table! {
        FlowKey { src dst sport dport family }
        Flow {
            to_src to_dst to_sport to_dport service backend ifindex client_isn backend_isn
            state flags marks mss opened seen packets bytes seq ack
        }
        Endpoint { address port family }
        Service { id flags scheduler first slots turn seed mss source_rate }
        Source { net service family }
        Window { start syns }
        Backend { address source port id ifindex }
        Owned { flags }
        Right { until waits frozen accept second }
        Neighbour { own peer }
        Life { dev ino pid dead }
        Stale { vip sender family ifindex mac }
        Settings { range_first range_last own_first own_last }
        Event { kind cause key flow back_packets back_bytes }
        Carried { event length packet }
        Refusal { key seq ack length reason flags }
    };
    table.extend([Counter::ALL.len(), SYN_MAX]);
    table
}

#[test]
fn the_object_was_compiled_with_this_layout() {
    let magic = b"tandem layout\0\0\0";
    let words: Vec<u8> = magic
        .chunks(4)
        .flat_map(|chunk| {
            // The object is for little-endian machines, and so are its words.
            u32::from_le_bytes(chunk.try_into().unwrap()).to_le_bytes()
        })
        .collect();
    let at = OBJECT
        .windows(words.len())
        .position(|window| window == words)
        .expect("the object has its table");
    let found: Vec<usize> = OBJECT[at + words.len()..]
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()) as usize)
        .take(expected().len())
        .collect();
    assert_eq!(found, expected());
}

/// The names in an enum of the header.
fn names(of: &str) -> Vec<&'static str> {
    let (_, body) = HEADER.split_once(&format!("enum {of} {{\n")).unwrap();
    let (body, _) = body.split_once("\n};").unwrap();
    body.lines()
        .map(|line| line.trim().split([' ', ',']).next().unwrap())
        .filter(|name| !name.is_empty() && *name != "COUNTERS")
        .collect()
}

#[test]
fn names_come_in_the_same_order() {
    assert_eq!(names("state"), State::NAMES);
    assert_eq!(names("scheduler"), Scheduler::NAMES);
    assert_eq!(names("event_kind"), EventKind::NAMES);
    assert_eq!(names("cause"), Cause::NAMES);
    assert_eq!(names("counter"), Counter::NAMES);
    assert_eq!(
        State::from_number(State::Opening.number()),
        Some(State::Opening)
    );
    assert_eq!(State::from_number(0), None);
    assert_eq!(State::from_number(6), None);
}

#[test]
fn flags_have_the_same_numbers() {
    let defined = |name: &str| -> u32 {
        let line = HEADER
            .lines()
            .find(|line| line.starts_with(&format!("#define {name} ")))
            .unwrap_or_else(|| panic!("no {name}"));
        let word = line.split_whitespace().nth(2).unwrap();
        word.strip_prefix("0x")
            .map_or_else(|| word.parse(), |hex| u32::from_str_radix(hex, 16))
            .unwrap()
    };
    macro_rules! same {
        ($($name:ident)*) => { $(assert_eq!(u32::try_from($name).unwrap(), defined(stringify!($name)));)* };
    }
    same! {
        FLOW_CLIENT FLOW_SYNC FLOW_RETRY FLOW_DNAT
        MARK_CLIENT_FIN MARK_BACKEND_FIN MARK_CLIENT_RST MARK_BACKEND_RST
        SERVICE_REJECT SERVICE_SYNC SERVICE_RETRY SERVICE_DNAT
        OWNED_SOURCE OWNED_REJECT OWNED_NAT OWNED_VIP NO_BACKEND SYN_MAX
    }
}

#[test]
fn no_padding() {
    let address = size_of::<Address>();
    assert_eq!(size_of::<FlowKey>(), 2 * address + 2 * 2 + 4);
    assert_eq!(
        size_of::<Flow>(),
        2 * address + 2 * 2 + 5 * 4 + 4 + 4 + 4 * 8 + 2 * 4
    );
    assert_eq!(size_of::<Endpoint>(), address + 2 + 2 + 4);
    assert_eq!(size_of::<Service>(), 9 * 4);
    assert_eq!(size_of::<Source>(), 8 + 2 * 4);
    assert_eq!(size_of::<Window>(), 2 * 8);
    assert_eq!(size_of::<Backend>(), 2 * address + 2 + 2 + 3 * 4);
    assert_eq!(size_of::<Right>(), 5 * 8);
    assert_eq!(size_of::<Neighbour>(), 6 + 6 + 4);
    assert_eq!(size_of::<Life>(), 2 * 8 + 2 * 4);
    assert_eq!(size_of::<Stale>(), 2 * address + 2 * 4 + 6 + 2);
    assert_eq!(size_of::<Settings>(), 4 * 2);
    let event = 2 * 4 + size_of::<FlowKey>() + size_of::<Flow>() + 2 * 8;
    assert_eq!(size_of::<Event>(), event);
    assert_eq!(size_of::<Carried>(), event + 2 * 4 + SYN_MAX);
    assert_eq!(
        size_of::<Refusal>(),
        size_of::<FlowKey>() + 3 * 4 + 2 + 1 + 1
    );
}

#[test]
fn addresses_survive_both_ways() {
    for text in ["192.0.2.1:80", "[2001:db8::1]:65535"] {
        let at: SocketAddr = text.parse().unwrap();
        let key = FlowKey::new(at, at);
        assert_eq!((key.from(), key.to()), (at, at));
    }
}
