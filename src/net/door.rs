//! The door: the kernel's filter of a heartbeat socket.
//!
//! Lets in what begins with the magic and the peer's knock. A peer with another key, or of another
//! cluster, knocks otherwise, and the operator must be told; so one in [`STRANGERS`] of those
//! that have the magic alone comes in too, drawn by lot. Everything else takes no room.
//!
//! Owns: the program. Never: authenticates; the seal does (`wire::seal`).

use socket2::SockFilter;

use crate::wire::seal::{Knock, MAGIC};

/// One in so many datagrams with the magic and another knock comes in; a power of two.
///
/// Of 20 heartbeats a second (two paths, 100 ms) the first comes in after 1.6 s on average, and one
/// within 11 s in all but 1 of 1,000 cases. Of a flood of 250,000 a second, 8,000 come in: a few per
/// cent of a processor.
pub(super) const STRANGERS: u32 = 32;

/// Offsets in the datagram, which a UDP socket's filter sees from its header on.
const AT_MAGIC: u32 = 8;
const AT_KNOCK: u32 = AT_MAGIC + 4;
/// Not an offset but a random number (linux/filter.h).
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;

/// Classic BPF (socket(7), `SO_ATTACH_FILTER`; Linux's networking/filter.rst). A datagram that is
/// too short for a load is dropped. There are two knocks while a key takes another's place; else they
/// are the same one.
pub(super) fn filter(knocks: [Knock; 2]) -> [SockFilter; 14] {
    let load = |at| {
        SockFilter::new(
            (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
            0,
            0,
            at,
        )
    };
    // Where to go on if so, and if not: so many instructions are skipped.
    let jump = |test: u32, so: u8, not: u8, value| {
        SockFilter::new((libc::BPF_JMP | test | libc::BPF_K) as u16, so, not, value)
    };
    let accept = |bytes| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, bytes);
    let words = |knock: Knock| {
        let [a, b, c, d, e, f, g, h] = knock.0;
        [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
    };
    let [first, second] = knocks.map(words);
    [
        load(AT_MAGIC),
        jump(libc::BPF_JEQ, 0, 11, u32::from_be_bytes(MAGIC)),
        load(AT_KNOCK),
        jump(libc::BPF_JEQ, 0, 2, first[0]),
        load(AT_KNOCK + 4),
        jump(libc::BPF_JEQ, 6, 0, first[1]),
        load(AT_KNOCK),
        jump(libc::BPF_JEQ, 0, 2, second[0]),
        load(AT_KNOCK + 4),
        jump(libc::BPF_JEQ, 2, 0, second[1]),
        load(RANDOM),
        jump(libc::BPF_JSET, 1, 0, STRANGERS - 1),
        accept(u32::MAX),
        accept(0),
    ]
}
