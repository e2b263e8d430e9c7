//! The data path in the kernel; absent where there is none.

use super::Kind::{Counter, Gauge};
use super::Unit::Seconds;
use super::{Metric, Samples, metric};
use crate::status::{NatStatus, Status};

fn one(s: &Status, out: &mut Samples, value: fn(&NatStatus) -> u64) {
    if let Some(nat) = &s.nat {
        out.one(value(nat) as f64);
    }
}

#[rustfmt::skip]
pub(super) const METRICS: &[Metric] = &[
    metric(Gauge, "kernel_forwarding", None, &[], "1: the lease holds, and this node forwards.",
        |s, out| one(s, out, |nat| nat.forwarding.into())),
    metric(Gauge, "kernel_lease_margin", Some(Seconds), &[],
        "What was left of the lease when it was renewed: the least within the last one to two minutes; absent while this node does not forward.",
        |s, out| if let Some(us) = s.nat.as_ref().and_then(|nat| nat.lease_margin_us) {
            out.one(us as f64 / 1e6);
        }),
    metric(Gauge, "kernel_flows", None, &[],
        "Connections in the kernel's table, ended ones that are still kept included.",
        |s, out| one(s, out, |nat| nat.flows)),
    metric(Gauge, "kernel_flows_limit", None, &[], "Most of them.",
        |s, out| one(s, out, |nat| nat.max_flows)),
    metric(Gauge, "kernel_flows_by_state", None, &["state"],
        "How far they are, as of the last walk through the table.",
        |s, out| for (state, count) in s.nat.iter().flat_map(|nat| &nat.states) {
            out.at([state.as_str()], *count as f64);
        }),
    metric(Gauge, "kernel_handshakes_waiting", None, &[],
        "Handshakes that wait for the standby's word.",
        |s, out| one(s, out, |nat| nat.waiting)),
    metric(Counter, "kernel_handshakes", None, &["released"],
        "Handshakes that went on: acknowledged by the standby, alone (none followed), late (without its word).",
        |s, out| if let Some(nat) = &s.nat {
            out.at(["acknowledged"], nat.released_acknowledged as f64);
            out.at(["alone"], nat.released_alone as f64);
            out.at(["late"], nat.released_late as f64);
        }),
    metric(Gauge, "kernel_degraded", None, &[],
        "1: the standby is late, and handshakes do not wait for it.",
        |s, out| one(s, out, |nat| nat.degraded.into())),
    metric(Counter, "kernel_retries", None, &[],
        "Connections that went to another backend before the handshake.",
        |s, out| one(s, out, |nat| nat.retries)),
    metric(Counter, "kernel_unserved", None, &[], "Connections that no backend took.",
        |s, out| one(s, out, |nat| nat.unserved)),
    metric(Counter, "kernel_resets", None, &[],
        "Resets sent to ends of connections that this node does not know or had to end.",
        |s, out| one(s, out, |nat| nat.resets)),
    metric(Counter, "kernel_probed", None, &[],
        "Connections whose ends were probed after a takeover.",
        |s, out| one(s, out, |nat| nat.probed)),
    metric(Counter, "kernel_rescans", None, &[],
        "Times the kernel's table was read whole because an event was lost.",
        |s, out| one(s, out, |nat| nat.rescans)),
    metric(Counter, "kernel_program", None, &["what"],
        "What the program counts, by name; as long as its pinned tables live.",
        |s, out| for (what, count) in s.nat.iter().flat_map(|nat| &nat.counters) {
            out.at([what.as_str()], *count as f64);
        }),
];
