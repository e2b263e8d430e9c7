//! Who only knows the addresses and ports of a connection does it no harm, and a client that uses
//! a port again gets its connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fastrand::Rng;
use tandem::datapath::nat::engine::Packet;
use tandem::datapath::nat::inject::Injector;
use tandem::datapath::nat::layout::SERVICE_REJECT;
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Cause, Counter, EventKind, State};
use tokio::net::{TcpSocket, TcpStream};

use crate::frames::{ACK, FIN, RST, SYN, Tcp};
use crate::rig::{Rig, best_hook, exchange, kinds};
use crate::traffic::{SHORT, expect, only};

type Outcome = Result<(), String>;

/// The client's port.
const FROM: u16 = 45_000;
/// A SYN that was lost comes again after a second.
const PROMPT: Duration = Duration::from_millis(900);

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// From the client's port; how long it took. The port may still be taken for a moment.
#[expect(clippy::disallowed_methods, reason = "it measures the kernel")]
async fn connect(rig: &Rig) -> Result<(TcpStream, Duration), String> {
    let (from, vip) = (
        SocketAddr::new(rig.line.client_ip(rig.six), FROM),
        rig.vip(),
    );
    let work = async move {
        for _ in 0..500 {
            let socket = if from.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            let begun = Instant::now();
            match socket.connect(vip).await {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                stream => return Ok((stream?, begun.elapsed())),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(io::Error::other("the port stays taken"))
    };
    rig.line.client().run(work).await.map_err(text)
}

async fn talk(rig: &Rig, mut stream: TcpStream) -> Result<TcpStream, String> {
    let work = async move {
        exchange(&mut stream, 3_000, 3_000).await?;
        Ok(stream)
    };
    rig.line.client().run(work).await
}

/// Why flows ended.
fn causes(told: &[Told]) -> Vec<u32> {
    let ends = told.iter().filter_map(|told| match told {
        Told::Event(event) if event.kind == EventKind::Closed.number() => Some(event.cause),
        _ => None,
    });
    ends.collect()
}

/// Sends segments of the client's connection with any numbers, as anybody could who may send with
/// its address.
async fn forge(rig: &Rig, flags: &[u8]) -> Outcome {
    let (from, to) = (
        SocketAddr::new(rig.line.client_ip(rig.six), FROM),
        rig.vip(),
    );
    let mut rng = Rng::with_seed(7);
    let packets: Vec<Packet> = flags
        .iter()
        .map(|flags| {
            let mut tcp = Tcp::new(from, to, *flags);
            (tcp.seq, tcp.ack) = (rng.u32(..), rng.u32(..));
            let bytes = tcp.packet();
            Packet { bytes, to: to.ip() }
        })
        .collect();
    let work = async move { Injector::open().map(|mut injector| injector.send(&packets)) };
    let sent = rig.line.client().run(work).await.map_err(text)?;
    expect("all were sent", sent == flags.len())
}

/// A silent connection's flow stays as it is, whatever is forged.
pub(crate) async fn ends_nothing(six: bool) -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, six, SERVICE_REJECT, best_hook()).await?;
    let (stream, _) = connect(&rig).await?;
    let mut stream = talk(&rig, stream).await?;
    rig.until(EventKind::Established, 1).await?;
    let before = rig.count(Counter::ToBackend)?;
    let flags = [SYN, RST, RST | ACK, FIN | ACK, FIN, SYN, RST].repeat(20);
    forge(&rig, &flags).await?;
    for _ in 0..500 {
        if rig.count(Counter::ToBackend)? >= before + flags.len() as u64 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told = rig.told();
    expect(&format!("told: {told:?}"), told.is_empty())?;
    for entry in rig.nat.tables.flows() {
        let (_, flow) = entry.map_err(text)?;
        let open = flow.state == State::Established.number() && flow.marks == 0;
        expect(&format!("{flow:?}"), open)?;
    }
    stream = talk(&rig, stream).await?;
    drop(stream);
    rig.until(EventKind::Closed, 1).await?;
    only(&rig, &[])
}

/// A client that has closed, as its server has, may begin anew at once.
pub(crate) async fn used_again(six: bool) -> Outcome {
    const ROUNDS: usize = 5;
    let mut rig = Rig::build(&SHORT, 1, six, SERVICE_REJECT, best_hook()).await?;
    // The client's own kernel would keep the port for a minute.
    let free = rig
        .line
        .client()
        .sysctl("ipv4/tcp_max_tw_buckets", "0")
        .await;
    expect("no TIME_WAIT at the client", free)?;
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let (stream, took) = connect(&rig).await?;
        longest = longest.max(took);
        drop(talk(&rig, stream).await?);
        while !causes(&rig.until(EventKind::Closed, 1).await?).contains(&Cause::Fin.number()) {}
    }
    println!("longest handshake: {longest:?}");
    expect(&format!("connected after {longest:?}"), longest < PROMPT)?;
    expect(
        "others made room",
        rig.count(Counter::Replaced)? as usize == ROUNDS - 1,
    )?;
    only(&rig, &[Counter::Replaced])
}

/// A client that lost its connection without a word, as one whose host was started again, gets a
/// new one from the same port: the old one's backend asks it first.
pub(crate) async fn forgotten(six: bool) -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, six, SERVICE_REJECT, best_hook()).await?;
    let (stream, _) = connect(&rig).await?;
    let stream = talk(&rig, stream).await?;
    let work = async move {
        // In repair mode a socket is closed without a word.
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int, which lives through the call.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        (set == 0)
            .then_some(())
            .ok_or_else(io::Error::last_os_error)
    };
    rig.line.client().run(work).await.map_err(text)?;
    rig.until(EventKind::Established, 1).await?;
    let (stream, took) = connect(&rig).await?;
    println!("new connection after {took:?}");
    drop(talk(&rig, stream).await?);
    let told = rig.until(EventKind::Closed, 3).await?;
    let causes = causes(&told);
    let expected = [Cause::ClientRst, Cause::Replaced, Cause::Fin].map(Cause::number);
    expect(&format!("ends: {causes:?}"), causes == expected)?;
    expect("a flow of its own", kinds(&told, EventKind::Opened) == 1)?;
    only(&rig, &[Counter::Replaced])
}
