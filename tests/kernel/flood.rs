//! Floods of SYNs: who has a flow notices nothing, and who asks too often is not heard.

use std::net::SocketAddr;
use std::time::Duration;

use tandem::datapath::nat::layout::{Endpoint, FlowKey, Service};
use tandem::datapath::nat::{Counter, Nat, NatError, Scheduler, State};
use tokio::time::Instant;

use crate::frames::{ACK, SYN, Tcp};
use crate::limits::{DROP, REDIRECT, is, load, service, vip};

fn client(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, host], port))
}

fn send(nat: &mut Nat, tcp: &Tcp) -> Result<i32, NatError> {
    nat.try_frame(&tcp.frame()).map(|(returned, _)| returned)
}

fn knock(nat: &mut Nat, from: SocketAddr) -> Result<i32, NatError> {
    send(nat, &Tcp::new(from, vip(), SYN))
}

/// A connection up to here; where the backend is, and where it sees the client.
pub(crate) fn establish(
    nat: &mut Nat,
    from: SocketAddr,
) -> Result<(SocketAddr, SocketAddr), NatError> {
    let key = FlowKey::new(from, vip());
    knock(nat, from)?;
    let flow = nat.tables.flow(&key)?.unwrap_or_default();
    let (theirs, ours) = (flow.opposite(4).from(), flow.opposite(4).to());
    let mut answer = Tcp::new(theirs, ours, SYN | ACK);
    answer.ack = answer.seq + 1;
    send(nat, &answer)?;
    send(nat, &Tcp::new(from, vip(), ACK))?;
    Ok((theirs, ours))
}

/// A flood fills the table, and far more: flows go on both ways, and end in time.
pub(crate) fn established_flows_go_on() -> Result<(), String> {
    run_established_flows_go_on().map_err(|error| error.to_string())?
}

fn run_established_flows_go_on() -> Result<Result<(), String>, NatError> {
    const FLOWS: u32 = 64;
    const FLOOD: u16 = 2_000;
    let mut nat = load(FLOWS, 1 << 16, Scheduler::RoundRobin)?;
    let from = client(1, 1);
    let (theirs, ours) = establish(&mut nat, from)?;
    let mut opened = 0_u32;
    for n in 0..FLOOD {
        opened += u32::from(knock(&mut nat, client(2, 1_000 + n))? == REDIRECT);
        let up = send(&mut nat, &Tcp::new(from, vip(), ACK))?;
        let down = send(&mut nat, &Tcp::new(theirs, ours, ACK))?;
        if (up, down) != (REDIRECT, REDIRECT) {
            return Ok(Err(format!(
                "SYN {n}: the flow does not go on: {up} {down}"
            )));
        }
    }
    let flow = nat
        .tables
        .flow(&FlowKey::new(from, vip()))?
        .unwrap_or_default();
    let dropped = nat.tables.counter(Counter::TableFull)?;
    let entries = nat.tables.flows().count();
    Ok(is("established", &flow.state, &State::Established.number())
        .and_then(|()| is("its packets", &flow.packets, &(u64::from(FLOOD) + 2)))
        .and_then(|()| is("opened", &opened, &(FLOWS - 1)))
        .and_then(|()| is("dropped", &dropped, &u64::from(u32::from(FLOOD) - opened)))
        .and_then(|()| is("entries", &entries, &(2 * FLOWS as usize))))
}

/// A source that asks too often is dropped until its second is over; others are not.
pub(crate) fn source_rate() -> Result<(), String> {
    run_source_rate().map_err(|error| error.to_string())?
}

fn run_source_rate() -> Result<Result<(), String>, NatError> {
    const RATE: u32 = 5;
    const SECOND: Duration = Duration::from_secs(1);
    let mut nat = load(1_000, 1 << 16, Scheduler::RoundRobin)?;
    let limited = Service {
        source_rate: RATE,
        ..service(Scheduler::RoundRobin)
    };
    nat.tables.set_service(Endpoint::from(vip()), limited)?;
    // On a machine that stood still meanwhile the second was over: another source.
    for host in 1..=20 {
        let begin = Instant::now();
        let mut verdicts = Vec::new();
        for port in 0..8 {
            verdicts.push(knock(&mut nat, client(host, 1_000 + port))?);
        }
        verdicts.push(knock(&mut nat, client(host + 100, 1_000))?);
        if begin.elapsed() > SECOND / 2 {
            continue;
        }
        let mut expected = vec![REDIRECT; RATE as usize];
        expected.extend([DROP, DROP, DROP, REDIRECT]);
        let dropped = nat.tables.counter(Counter::SourceRate)?;
        // The program's clock ticks every ten milliseconds at worst.
        std::thread::sleep(SECOND + Duration::from_millis(50));
        let later = knock(&mut nat, client(host, 2_000))?;
        return Ok(is("verdicts", &verdicts, &expected)
            .and_then(|()| is("counted", &(dropped >= 3), &true))
            .and_then(|()| is("a second later", &later, &REDIRECT)));
    }
    Ok(Err("this machine is too slow to tell".into()))
}
