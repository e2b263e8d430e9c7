//! A million of everything that is not ours, on every door of a node that serves clients.
//!
//! Only counters may move: no role, no address, no client's request.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, Lan, VIP4, VIP6, default_config, node_addresses, node_mac};
use tandem::model::{Mac, NodeId};
use tandem::status::Counters;
use tandem::wire::seal::{KNOCK, MAGIC};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::packets::{Datagram, ETH0, Segment, Wire, payload, segment, speaks_for};
use super::tools::{
    FIRST, SECOND, all_answered, good, shows, standing, status, until, vip, vip6, with,
};
use super::{Test, test};

/// How much of it.
const MILLION: usize = 1_000_000;

/// The same of lines, each of which a node answers: in an unoptimised build a quarter of it, unless
/// `TANDEM_FULL` is set.
fn million_lines() -> usize {
    let whole = !cfg!(debug_assertions) || std::env::var_os("TANDEM_FULL").is_some();
    if whole { MILLION } else { MILLION / 4 }
}
/// Datagrams a second: more would show how fast the lab's switch is.
const RATE: usize = 250_000;
/// What an eavesdropper sends: a hundred times what the pair sends over its two paths, for longer
/// than a master may be silent. A node reads each of them, so at some rate it could not, and how
/// soon is the machine's: `docs/architecture.md`, "What two nodes can and cannot promise".
const HEARD: usize = 5_000;
const HEARD_RATE: usize = 2_000;
/// Whoever sends the forged frames.
const ATTACKER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
/// Heartbeats and sessions.
const PORT: u16 = 7373;
const SOON: Duration = Duration::from_secs(5);
/// How long a process may take to die on a busy machine.
const GHOST: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test(
            "garbage_1_000_000_random_datagrams_from_the_peer_s_address",
            || datagrams(Target::Master, Begins::With(b"")),
        ),
        test("garbage_datagrams_that_begin_like_heartbeats", || {
            datagrams(Target::Master, Begins::With(&MAGIC))
        }),
        test(
            "garbage_like_heartbeats_on_both_paths_of_the_backup",
            || datagrams(Target::Backup, Begins::With(&MAGIC)),
        ),
        test(
            "garbage_from_an_eavesdropper_at_100_times_the_pair_s_rate",
            || datagrams(Target::Backup, Begins::AsHeard),
        ),
        test(
            "garbage_1_000_000_messages_on_the_replication_port",
            messages,
        ),
        test("garbage_lines_on_the_control_socket", lines),
        test("garbage_a_forged_reset_of_the_session_moves_nothing", reset),
        test(
            "garbage_a_dead_master_sends_no_frame_in_the_vip_s_name",
            silence,
        ),
    ]
}

/// A settled pair under load must go through this with nothing but its counters changed.
async fn unmoved(
    harm: impl AsyncFnOnce(&mut Lab, NodeId),
    check: impl FnOnce(NodeId, [Counters; 2], [Counters; 2]),
) -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let counters = async |lab: &mut Lab| {
        [
            status(lab, FIRST).await.counters,
            status(lab, SECOND).await.counters,
        ]
    };
    let (before, counted) = (standing(&mut lab).await, counters(&mut lab).await);
    let load = lab.load();
    let clock = lab.clock();
    let began = clock.now();
    harm(&mut lab, master).await;
    let took = clock.now().since(began);
    sleep(Duration::from_millis(300)).await;
    let record = load.stop().await;
    let after = counters(&mut lab).await;
    eprintln!("{took:.1?}, {} requests meanwhile", record.attempts.len());
    assert_eq!(standing(&mut lab).await, before);
    lab.settled().await?;
    all_answered(&record);
    for counters in &after {
        assert_eq!(counters.pauses, 0, "{counters:?}");
    }
    check(master, counted, after);
    Ok(())
}

/// Where a flood goes.
#[derive(Clone, Copy)]
enum Target {
    /// The master's path on the clients' LAN.
    Master,
    /// Both paths of the backup, which must not take the flood for its master's silence.
    Backup,
}

/// How its datagrams begin; the rest is random.
#[derive(Clone, Copy)]
enum Begins {
    /// As anybody can guess.
    With(&'static [u8]),
    /// As the peer's heartbeats do, up to the sender's number: the attacker hears them.
    AsHeard,
}

async fn datagrams(target: Target, begins: Begins) -> Result<(), LabError> {
    let (count, rate) = match begins {
        Begins::With(_) => (MILLION, RATE),
        Begins::AsHeard => (HEARD, HEARD_RATE),
    };
    let victim = |master: NodeId| match target {
        Target::Master => master,
        Target::Backup => master.peer(),
    };
    let harm = async |lab: &mut Lab, master: NodeId| {
        let victim = victim(master);
        let network = lab.network();
        // Not from the client: its thread is busy with clients.
        let ways = [
            (&network.watch, Lan::Front),
            (&network.backends[2], Lan::Back),
        ];
        let ways = match target {
            Target::Master => &ways[..1],
            Target::Backup => &ways[..],
        };
        let prefix = match begins {
            Begins::With(bytes) => bytes.to_vec(),
            // Magic, knock and sender.
            Begins::AsHeard => {
                let mut bytes = heard(lab, victim.peer()).await;
                bytes.truncate(MAGIC.len() + KNOCK + 1);
                bytes
            }
        };
        let mut floods = Vec::new();
        for (path, (host, lan)) in ways.iter().enumerate() {
            let wire = Wire::tap(host, ETH0).await;
            let datagram = Datagram {
                macs: (ATTACKER, lan.node_mac(victim)),
                from: (node_addresses(victim.peer())[path], PORT),
                to: (node_addresses(victim)[path], PORT),
            };
            let (count, rate) = (count / ways.len(), rate / ways.len());
            let prefix = prefix.clone();
            floods.push(spawn_blocking(move || {
                wire.flood(&datagram, &prefix, count, rate);
            }));
        }
        for flood in floods {
            flood.await.expect("the flood ends");
        }
    };
    unmoved(harm, |master, before, after| {
        let [before, after] =
            [&before, &after].map(|c| c[victim(master).index()].heartbeats_rejected);
        eprintln!("rejected {} of {count}", after - before);
        assert!(after - before >= count as u64 / 2, "{before} -> {after}");
    })
    .await
}

/// A node's heartbeat, from the wire.
pub(crate) async fn heard(lab: &Lab, node: NodeId) -> Vec<u8> {
    let ears = Wire::tap(lab.network().node(node), ETH0).await;
    let from = (node_addresses(node)[0], PORT);
    let clock = lab.clock();
    let listening = spawn_blocking(move || {
        let began = clock.now();
        while clock.now().since(began) < SOON {
            match ears.frame().as_deref().and_then(payload) {
                Some((sender, bytes)) if sender == from => return bytes,
                _ => {}
            }
        }
        panic!("no heartbeat from {from:?}");
    });
    listening.await.expect("a heartbeat is heard")
}

/// Bytes of a message.
const MESSAGE: usize = 64;
/// Messages on one connection.
const MESSAGES: usize = 1_000;
/// Half from the peer's address, half from a stranger's.
const CONNECTIONS: usize = MILLION / MESSAGES / 2;

async fn messages() -> Result<(), LabError> {
    let harm = async |lab: &mut Lab, _master: NodeId| {
        // The second node listens.
        let to = SocketAddr::new(node_addresses(SECOND)[0].into(), PORT);
        let network = lab.network();
        let peer = network.node(FIRST).spawn(shout(to));
        let stranger = network.watch.spawn(shout(to));
        good("the peer's address", peer.await.expect("no panic"));
        good("a stranger", stranger.await.expect("no panic"));
    };
    unmoved(harm, |_, before, after| {
        let [before, after] = [&before, &after].map(|c| c[SECOND.index()].session_faults);
        eprintln!("faults {}", after - before);
        assert!(after - before >= CONNECTIONS as u64, "{before} -> {after}");
    })
    .await
}

/// Sends half a million random messages, on one connection after another, each until it is full
/// or closed.
async fn shout(to: SocketAddr) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; MESSAGE * MESSAGES];
    let mut left = MILLION / 2 * MESSAGE;
    while left > 0 {
        random.fill(&mut bytes);
        let stream = TcpStream::connect(to).await?;
        // All at once, so that all is on its way before the node can close the connection.
        socket2::SockRef::from(&stream).set_send_buffer_size(1 << 20)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    left = left.saturating_sub(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_closed) => break,
            }
        }
    }
    Ok(())
}

async fn lines() -> Result<(), LabError> {
    const CLIENTS: usize = 4;
    let harm = async |lab: &mut Lab, master: NodeId| {
        let socket = lab.node(master).socket();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let mutter = mutter(socket.clone(), million_lines() / CLIENTS, n as u64);
                lab.network().watch.spawn(mutter)
            })
            .collect();
        for client in clients {
            good("a client", client.await.expect("no panic"));
        }
    };
    unmoved(harm, |master, before, after| {
        let [before, after] = [&before, &after].map(|c| c[master.index()].control_rejected);
        assert_eq!(after - before, million_lines() as u64);
    })
    .await
}

/// Bytes of a line, and lines that are sent at once.
const LINE: usize = 12;
const LINES: usize = 500;

/// Sends random lines on one connection; each must be answered by an error.
async fn mutter(socket: PathBuf, lines: usize, seed: u64) -> io::Result<()> {
    let (mut read, mut write) = UnixStream::connect(socket).await?.into_split();
    let writer = async move {
        let mut random = fastrand::Rng::with_seed(seed);
        for batch in 0..lines.div_ceil(LINES) {
            let mut bytes = vec![0; LINES.min(lines - batch * LINES) * LINE];
            random.fill(&mut bytes);
            for line in bytes.chunks_exact_mut(LINE) {
                let (end, inside) = line.split_last_mut().expect("a line has an end");
                for byte in inside {
                    // As many lines as were meant.
                    *byte ^= u8::from(*byte == b'\n');
                }
                *end = b'\n';
            }
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let reader = async move {
        let mut buffer = vec![0; 1 << 16];
        let mut answers = 0;
        loop {
            let count = read.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, io::Error>(answers);
            }
            answers += buffer[..count].split(|byte| *byte == b'\n').count() - 1;
        }
    };
    let (written, answers) = tokio::join!(writer, reader);
    written?;
    assert_eq!(answers?, lines, "each line has its answer");
    Ok(())
}

async fn reset() -> Result<(), LabError> {
    let harm = async |lab: &mut Lab, _master: NodeId| {
        let sessions = |status: &tandem::status::Status| status.counters.sessions;
        let before = sessions(&status(lab, FIRST).await);
        // The session may stand on either path.
        let network = lab.network();
        let hands = [
            Wire::tap(&network.watch, ETH0).await,
            Wire::tap(&network.backends[2], ETH0).await,
        ];
        let eyes = Wire::tap(network.node(FIRST), 0).await;
        let forger = Arc::new((eyes, hands));
        // What the session says changes all the time under load, so a guess may come too late.
        until("the session is cut", SOON * 3, async || {
            let forger = Arc::clone(&forger);
            spawn_blocking(move || forge(&forger.0, &forger.1))
                .await
                .expect("the forger does not panic");
            (sessions(&status(lab, FIRST).await) > before).then_some(())
        })
        .await;
        shows(lab, FIRST, "it is in sync again", SOON, |status| {
            status.replication.in_sync
        })
        .await;
    };
    unmoved(harm, |_, before, after| {
        let alarms: [u64; 2] = [0, 1].map(|n| after[n].false_alarms - before[n].false_alarms);
        eprintln!("false alarms: {alarms:?}");
        assert!(alarms.iter().any(|alarms| *alarms > 0), "{alarms:?}");
    })
    .await
}

/// Sends the first node one reset in the second one's name, where and when the session's next
/// segment is seen.
fn forge(eyes: &Wire, hands: &[Wire; 2]) {
    let theirs = [0, 1].map(|path| (node_addresses(SECOND)[path], PORT));
    // Not what has been waiting: it is too old.
    while eyes.waiting().is_some() {}
    let fresh = (0..1_000).filter_map(|_| segment(&eyes.frame()?));
    let on = |seen: Segment| Some((seen, theirs.iter().position(|end| *end == seen.from)?));
    if let Some((seen, path)) = fresh.filter_map(on).next() {
        let packet = Datagram {
            macs: (ATTACKER, [Lan::Front, Lan::Back][path].node_mac(FIRST)),
            from: seen.from,
            to: seen.to,
        };
        hands[path].send(&packet.reset(seen.next));
    }
}

/// A master that dies in the middle of transfers has much in its kernel's queues.
async fn silence() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let wire = Wire::tap(lab.network().node(master), ETH0).await;
    let clock = lab.clock();
    let dead = node_mac(master).0;
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let listening = spawn_blocking(move || {
        let (mut before, mut last) = (0, None);
        while !told.load(Ordering::Relaxed) {
            let Some(frame) = wire.frame() else { continue };
            let ours = [VIP4.into(), VIP6.into()];
            if frame[6..12] == dead && ours.iter().any(|vip| speaks_for(&frame, *vip)) {
                before += 1;
                last = Some(clock.now());
            }
        }
        (before, last)
    });
    let mut slow = Vec::new();
    for vip in [vip(80), vip6(80)].repeat(10) {
        // Asks for much and reads nothing.
        slow.push(good("ask", lab.network().client.run(ask(vip)).await));
    }
    sleep(Duration::from_millis(800)).await;
    lab.node(master).signal(Signal::SIGKILL)?;
    let killed = clock.now();
    shows(&mut lab, master.peer(), "it takes over", SOON, |status| {
        status.vips.iter().all(|vip| vip.held)
    })
    .await;
    // What its clients got does not look complete to them.
    for mut stream in slow.drain(..) {
        let rest = lab
            .network()
            .client
            .run(async move { timeout(SOON, stream.read_to_end(&mut Vec::new())).await });
        let error = rest
            .await
            .expect("in time")
            .expect_err("it was not all there was");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    sleep(Duration::from_secs(2)).await;
    over.store(true, Ordering::Relaxed);
    let (frames, last) = listening.await.expect("the ear does not panic");
    let last = last.expect("it spoke while it lived");
    let after = last.since(killed);
    eprintln!("{frames} frames in the VIP's name, the last {after:.1?} after the kill");
    assert!(frames > 20, "{frames}");
    assert!(after < GHOST, "{after:?}");
    Ok(())
}

async fn ask(vip: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(vip).await?;
    stream
        .write_all(b"GET /bytes/100000000 HTTP/1.1\r\n\r\n")
        .await?;
    Ok(stream)
}
