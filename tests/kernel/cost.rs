//! What the program costs a packet. Run it alone, on a machine that is quiet:
//! `cargo test --test kernel cost -- --ignored --nocapture`.

use std::net::SocketAddr;

use tandem::datapath::nat::layout::{FLOW_CLIENT, Flow, FlowKey, Neighbour, OWNED_VIP, Owned};
use tandem::datapath::nat::{Nat, NatError, State};

use crate::differential;
use crate::frames::{ACK, Tcp};

/// As many as hops allow: each run takes one of the frame that the run before left.
const RUNS: u32 = 250;
const ROUNDS: usize = 2_000;
const REDIRECT: i32 = 7;
const PASS: i32 = -1;
/// Floating addresses without a service of the kernel mode.
const PROXIED: [&str; 2] = ["192.0.2.101:80", "[2001:db8:1::101]:80"];

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

/// The median and the quickest of many rounds; or what the program returned instead.
fn timed(nat: &mut Nat, frame: &[u8], verdict: i32) -> Result<Result<String, i32>, NatError> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let (returned, time) = nat.time_frame(frame, RUNS)?;
        if returned != verdict {
            return Ok(Err(returned));
        }
        times.push(time.as_nanos());
    }
    times.sort_unstable();
    let text = format!("{} ns a packet, {} at best", times[ROUNDS / 2], times[0]);
    Ok(Ok(text))
}

fn run() -> Result<Result<(), String>, NatError> {
    let mut nat = differential::load()?;
    nat.lease()?.renew(u64::MAX)?;
    let pairs = [
        ("IPv4", "203.0.113.1:40000", "192.0.2.100:80"),
        ("IPv6", "[2001:db8:9::1]:40000", "[2001:db8:1::100]:80"),
    ];
    for (name, from, to) in pairs {
        let translated = frame(&mut nat, from, to)?;
        let [from, proxied, foreign]: [SocketAddr; 3] =
            [from, PROXIED[usize::from(name == "IPv6")], to]
                .map(|at| at.parse().expect("an address"));
        let flags = OWNED_VIP;
        nat.tables
            .set_address(proxied.ip().into(), Owned { flags })?;
        let segment = |to: SocketAddr| {
            let mut tcp = Tcp::new(from, to, ACK);
            tcp.payload = vec![7; 1_000];
            tcp.frame()
        };
        // Another port of an address that is not ours.
        let passing = segment(SocketAddr::new(foreign.ip(), 81));
        for (what, frame, verdict) in [
            ("translated", translated, REDIRECT),
            (
                "of a proxied service, on the master",
                segment(proxied),
                PASS,
            ),
            ("not ours", passing, PASS),
        ] {
            match timed(&mut nat, &frame, verdict)? {
                Ok(times) => println!("{name}, {what}: {times}"),
                Err(got) => return Ok(Err(format!("{name}, {what}: the program returned {got}"))),
            }
        }
        nat.lease()?.renew(0)?;
        let at = Neighbour {
            own: [3; 6],
            peer: [2; 6],
            zero: 0,
        };
        nat.tables.set_neighbour(1, Some(at))?;
        let mut relayed = segment(proxied);
        relayed[6..12].fill(9);
        match timed(&mut nat, &relayed, REDIRECT)? {
            Ok(times) => println!("{name}, relayed: {times}"),
            Err(got) => return Ok(Err(format!("{name}: not relayed: {got}"))),
        }
        nat.lease()?.renew(u64::MAX)?;
    }
    Ok(Ok(()))
}
