//! Flows that a standby has to know first: their SYN-ACK waits, and whoever reads of it wakes.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tandem::datapath::nat::layout::{Carried, Endpoint, SERVICE_RETRY, SERVICE_SYNC, Service};
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Counter, EventKind, Nat, Scheduler, State};
use tokio::time::Instant;

use crate::frames::{ACK, RST, SYN, Tcp};
use crate::limits::{load, service, vip};
use crate::rig::{Rig, best_hook, connect, exchange};
use crate::traffic::{SHORT, expect, only};

type Outcome = Result<(), String>;

/// How long a reader sleeps that nobody wakes.
const SLEEP: Duration = Duration::from_millis(600);

/// A service's port, and what it asks of new flows.
const PLAIN: (u16, u32) = (80, 0);
const SYNC: (u16, u32) = (81, SERVICE_SYNC);
const RETRY: (u16, u32) = (82, SERVICE_RETRY);

fn at((port, _): (u16, u32)) -> SocketAddr {
    SocketAddr::new(vip().ip(), port)
}

fn client(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], port))
}

fn send(nat: &mut Nat, tcp: &Tcp) -> Outcome {
    let sent = nat.try_frame(&tcp.frame());
    sent.map(|_| ()).map_err(|error| error.to_string())
}

/// Whether these wake a reader that sleeps, having read all. What they told is read afterwards.
fn wakes(nat: &mut Nat, frames: &[Tcp]) -> Result<bool, String> {
    while nat.tables.next_event().is_some() {}
    let fd = nat.tables.events_fd().try_clone_to_owned();
    let fd = fd.map_err(|error| error.to_string())?;
    let (tell, told) = mpsc::channel();
    let reader = thread::spawn(move || {
        tell.send(nix::unistd::gettid()).expect("the test waits");
        let begin = Instant::now();
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&fd),
            PollFlags::POLLIN,
        )];
        let timeout = PollTimeout::try_from(SLEEP).expect("short");
        // At the end of its time it finds what is there, so the time has to tell.
        poll(&mut fds, timeout).map(|_| begin.elapsed() < SLEEP)
    });
    let id = told.recv().map_err(|error| error.to_string())?;
    let asleep = || {
        let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat"));
        stat.is_ok_and(|stat| stat.contains(") S "))
    };
    while !asleep() && !reader.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
    for tcp in frames {
        send(nat, tcp)?;
    }
    let woken = reader.join().map_err(|_| "the reader panicked")?;
    woken.map_err(|error| error.to_string())
}

/// Records that somebody waits for wake the reader, also behind some that did not; others do not.
pub(crate) fn waking() -> Outcome {
    let mut nat = load(100, 1 << 16, Scheduler::RoundRobin).map_err(|error| error.to_string())?;
    for (port, flags) in [PLAIN, SYNC, RETRY] {
        let service = Service {
            flags,
            ..service(Scheduler::RoundRobin)
        };
        let set = nat
            .tables
            .set_service(Endpoint::from(at((port, flags))), service);
        set.map_err(|error| error.to_string())?;
    }
    let mut ports = 1_000..;
    let mut syn = |service| {
        let from = client(ports.next().unwrap_or_default());
        Tcp::new(from, at(service), SYN)
    };
    // What the backend answers to the flow opened last.
    let answer = |nat: &mut Nat, flags| -> Result<Tcp, String> {
        let told = std::iter::from_fn(|| nat.tables.next_event()).last();
        let Some(Told::Carried(carried)) = told else {
            return Err(format!("told: {told:?}"));
        };
        let key = carried.event.flow.opposite(carried.event.key.family);
        let mut tcp = Tcp::new(key.from(), key.to(), flags);
        tcp.ack = carried.event.flow.client_isn.wrapping_add(1);
        Ok(tcp)
    };
    let mut woken = Vec::new();
    woken.push(wakes(&mut nat, &[syn(PLAIN), syn(PLAIN)])?);
    woken.push(wakes(&mut nat, &[syn(SYNC)])?);
    let waits = answer(&mut nat, SYN | ACK)?;
    woken.push(wakes(&mut nat, &[waits])?);
    woken.push(wakes(&mut nat, &[syn(PLAIN), syn(SYNC)])?);
    woken.push(wakes(&mut nat, &[syn(PLAIN), syn(PLAIN)])?);
    send(&mut nat, &syn(RETRY))?;
    let refusal = answer(&mut nat, RST | ACK)?;
    woken.push(wakes(&mut nat, &[syn(PLAIN), refusal])?);
    let expected = [false, true, true, true, false, true];
    expect(&format!("woken: {woken:?}"), woken == expected)
}

/// The packet of the last event.
fn carried(told: &[Told]) -> Result<Box<Carried>, String> {
    match told.last() {
        Some(Told::Carried(carried)) => Ok(carried.clone()),
        told => Err(format!("told: {told:?}")),
    }
}

/// The SYN-ACK as the client is to have it.
fn translated(carried: &Carried) -> Result<Vec<u8>, String> {
    let bytes = &carried.packet[..carried.length as usize];
    let (key, flow) = (carried.event.key, carried.event.flow);
    let (ip, tcp) = bytes.split_at_checked(20).ok_or("no IPv4 header")?;
    let header = tcp.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let options = tcp.get(20..header).ok_or("no whole TCP header")?;
    expect("IPv4 and SYN-ACK", ip[0] == 0x45 && tcp[13] == SYN | ACK)?;
    expect(
        "its number is known",
        flow.backend_isn.to_be_bytes() == tcp[4..8],
    )?;
    let mut answer = Tcp::new(key.to(), key.from(), SYN | ACK);
    answer.seq = flow.backend_isn;
    answer.ack = flow.client_isn.wrapping_add(1);
    answer.announced = options.to_vec();
    Ok(answer.packet())
}

/// The client waits until user space sends what the backend answered, and then all is as ever.
pub(crate) async fn waiting_answer() -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, false, SERVICE_SYNC, best_hook()).await?;
    let connecting = rig.line.client().spawn(connect(rig.vip()));
    let first = carried(&rig.until(EventKind::Established, 1).await?)?;
    // The backend asks again after a second.
    let again = carried(&rig.until(EventKind::Established, 1).await?)?;
    let same = first.event.flow.backend_isn == again.event.flow.backend_isn;
    expect("the same answer", same)?;
    expect(
        "it waits",
        again.event.flow.state == State::Answered.number(),
    )?;
    expect("the client still waits", !connecting.is_finished())?;
    let (packet, to) = (translated(&again)?, again.event.key.from());
    let release = async move {
        let socket = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )?;
        socket.send_to(&packet, &SockAddr::from(to))
    };
    let released = rig.line.node().run(release).await;
    released.map_err(|error| format!("send the answer: {error}"))?;
    let stream = connecting.await.map_err(|error| error.to_string())?;
    let mut stream = stream?;
    let work = async move { exchange(&mut stream, 100_000, 1 << 20).await };
    rig.line.client().run(work).await?;
    rig.until(EventKind::Closed, 1).await?;
    only(&rig, &[Counter::Waiting])
}
