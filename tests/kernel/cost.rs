//! What the program costs a packet. Run it alone, on a machine that is quiet:
//! `cargo test --test kernel cost -- --ignored --nocapture`.

use std::net::SocketAddr;

use tandem::datapath::nat::layout::{FLOW_CLIENT, Flow, FlowKey};
use tandem::datapath::nat::{Nat, NatError, State};

use crate::differential;
use crate::frames::{ACK, Tcp};

/// As many as hops allow: each run takes one of the frame that the run before left.
const RUNS: u32 = 250;
const ROUNDS: usize = 2_000;
const REDIRECT: i32 = 7;

/// A flow that is translated to itself, so that a frame may go through again and again.
fn frame(nat: &mut Nat, from: &str, to: &str) -> Result<Vec<u8>, NatError> {
    let [from, to]: [SocketAddr; 2] = [from, to].map(|at| at.parse().expect("an address"));
    let key = FlowKey::new(from, to);
    let flow = Flow {
        to_src: key.src,
        to_dst: key.dst,
        to_sport: key.sport,
        to_dport: key.dport,
        state: State::Established.number(),
        flags: FLOW_CLIENT,
        ..Flow::default()
    };
    nat.tables.set_flow(&key, &flow)?;
    let mut tcp = Tcp::new(from, to, ACK);
    tcp.hops = 255;
    tcp.payload = vec![7; 1_000];
    Ok(tcp.frame())
}

/// Prints nanoseconds a packet: the median of many rounds, and the quickest.
pub(crate) fn report() -> Result<(), String> {
    run().map_err(|error| error.to_string())?
}

fn run() -> Result<Result<(), String>, NatError> {
    let mut nat = differential::load()?;
    nat.lease()?.renew(u64::MAX)?;
    let pairs = [
        ("IPv4", "203.0.113.1:40000", "192.0.2.100:80"),
        ("IPv6", "[2001:db8:9::1]:40000", "[2001:db8:1::100]:80"),
    ];
    for (name, from, to) in pairs {
        let frame = frame(&mut nat, from, to)?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let (returned, time) = nat.time_frame(&frame, RUNS)?;
            if returned != REDIRECT {
                return Ok(Err(format!("{name}: not translated: {returned}")));
            }
            times.push(time.as_nanos());
        }
        times.sort_unstable();
        println!(
            "{name}: {} ns a packet, {} at best",
            times[ROUNDS / 2],
            times[0]
        );
    }
    Ok(Ok(()))
}
