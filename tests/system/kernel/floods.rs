//! Too many new connections: from one source, and from nowhere.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tandem::lab::{Host, Lab, LabError, VIP4, node_mac};
use tandem::model::Mac;
use tandem::net::clock::Clock;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, SOON, Service, config, nat, open, open_all, up};
use crate::balance::again;
use crate::packets::{Datagram, ETH0, Wire};
use crate::tools::{good, standing, until, vip, with};
use crate::{Test, test};

/// New connections a second from one source.
const RATE: usize = 20;
const MAX_FLOWS: u64 = 4_096;
/// Forged SYNs, and how many a second.
const FORGED: usize = 200_000;
const PACE: usize = 50_000;
/// When a client sends its SYN again (RFC 6298).
const SYN_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "kernel_a_source_over_its_rate_is_slowed_and_no_other",
            source_rate,
        ),
        test(
            "kernel_a_syn_flood_takes_room_from_new_connections_only",
            syn_flood,
        ),
    ]
}

/// How long each of so many connects at once took.
async fn connects(host: &Host, clock: Clock, count: usize) -> Vec<Duration> {
    let all: Vec<_> = (0..count)
        .map(|_| {
            host.spawn(async move {
                let began = clock.now();
                let done = timeout(SOON, TcpStream::connect(vip(80))).await;
                done.map(|done| done.map(|_| clock.now().since(began)))
            })
        })
        .collect();
    let mut times = Vec::new();
    for one in all {
        let done = one.await.expect("it does not panic");
        times.push(good("connect", done.expect("in time")));
    }
    times.sort_unstable();
    times
}

async fn source_rate() -> Result<(), LabError> {
    let rate = format!("source_rate = {RATE}\n");
    let mut lab = up(&[Service {
        keys: &rate,
        ..Service::default()
    }])
    .await?;
    let master = lab.settled().await?;
    let (network, clock) = (lab.network(), lab.clock());
    let (greedy, modest) = tokio::join!(
        connects(&network.client, clock, 2 * RATE),
        connects(&network.watch, clock, RATE / 2),
    );
    let slowed = greedy.iter().filter(|took| **took >= SYN_AGAIN).count();
    eprintln!(
        "source_rate: {slowed} of {} slowed, slowest {:?}",
        greedy.len(),
        greedy.last()
    );
    // A second may end between two of them, and then there is room for as many again.
    assert!((1..=RATE).contains(&slowed), "{greedy:?}");
    assert!(modest.iter().all(|took| *took < SYN_AGAIN), "{modest:?}");
    let dropped = nat(&mut lab, master).await.counters["drop_source_rate"];
    assert!(dropped >= slowed as u64, "{dropped}");
    Ok(())
}

async fn syn_flood() -> Result<(), LabError> {
    let text = config(&[Service::default()]);
    let text = format!("[kernel]\nmax_flows = {MAX_FLOWS}\nopening_timeout = \"1s\"\n\n{text}");
    let mut lab = Lab::up(&with(text)).await?;
    let master = lab.settled().await?;
    let all = open_all(&lab.network().client, vip(80), 9).await;
    let before = standing(&mut lab).await;

    // Everybody asks for a page, again and again.
    let (over, pages) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let held: Vec<_> = all
        .into_iter()
        .map(|(mut stream, _)| {
            let (over, pages) = (Arc::clone(&over), Arc::clone(&pages));
            lab.network().client.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    timeout(PATIENCE, again(&mut stream)).await??;
                    pages.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(20)).await;
                }
                Ok::<_, std::io::Error>(())
            })
        })
        .collect();
    let wire = Wire::tap(&lab.network().watch, ETH0).await;
    let frames = forged(node_mac(master));
    let flood = spawn_blocking(move || wire.pour(&frames, PACE));
    flood.await.expect("the flood ends");
    let answered = pages.load(Ordering::Relaxed);
    let counters = nat(&mut lab, master).await;
    over.store(true, Ordering::Relaxed);
    for one in held {
        good("it goes on", one.await.expect("it does not panic"));
    }
    eprintln!("a flood of {FORGED}: {answered} pages meanwhile, {counters:?}");
    assert!(answered > 100, "{answered}");
    assert!(
        counters.counters["drop_table_full"] > FORGED as u64 / 4,
        "{counters:?}"
    );
    assert!(counters.flows <= MAX_FLOWS, "{counters:?}");
    assert_eq!(standing(&mut lab).await, before, "nobody moved");

    until("there is room again", SOON, async || {
        let client = &lab.network().client;
        let one = client
            .run(timeout(Duration::from_millis(500), open(vip(80))))
            .await;
        one.is_ok_and(|one| one.is_ok()).then_some(())
    })
    .await;
    // And of the forged ones nothing is left.
    until("they are forgotten", 2 * SOON, async || {
        let after = nat(&mut lab, master).await;
        (after.flows < 50).then_some(())
    })
    .await;
    Ok(())
}

/// SYNs from everywhere in one network, no two alike.
fn forged(to: Mac) -> Vec<Vec<u8>> {
    let one = |n: usize| {
        let from = Ipv4Addr::new(203, 0, 113, (n % 256) as u8);
        let datagram = Datagram {
            macs: (Mac([2, 0, 0, 0, 0, 66]), to),
            from: (from, 1_024 + (n / 256) as u16),
            to: (VIP4, 80),
        };
        datagram.tcp((n as u32).wrapping_mul(2_654_435_761), None, &[])
    };
    (0..FORGED).map(one).collect()
}
