//! Real TCP through the program.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem::datapath::nat::layout::{SERVICE_DNAT, SERVICE_REJECT, SERVICE_RETRY};
use tandem::datapath::nat::tables::Told;
use tandem::datapath::nat::{Cause, Counter, EventKind, Hook, State};

use tokio::net::TcpStream;

use crate::line::BACKENDS;
use crate::rig::{DEAD_SERVICE, Rig, best_hook, connect, exchange, kinds};

/// No routers: client, node, backend.
pub(crate) const SHORT: [u32; 2] = [1_500; 2];
/// A narrow link on one side, beyond the node's neighbours.
const NARROW_BACK: [u32; 4] = [1_500, 1_500, 1_400, 1_500];
const NARROW_FRONT: [u32; 4] = [1_500, 1_400, 1_500, 1_500];
/// The node's own link to the backends' router.
const NARROW_OWN: [u32; 3] = [1_500, 1_400, 1_500];

type Outcome = Result<(), String>;

pub(crate) fn expect(what: &str, right: bool) -> Outcome {
    right.then_some(()).ok_or_else(|| what.to_owned())
}

/// Nothing was dropped but for these reasons.
pub(crate) fn only(rig: &Rig, reasons: &[Counter]) -> Outcome {
    for counter in Counter::ALL {
        let expected = [
            Counter::BytesToBackend,
            Counter::BytesToClient,
            Counter::ToBackend,
            Counter::ToClient,
            Counter::Icmp,
            Counter::Opened,
        ];
        let count = rig.count(*counter)?;
        if count > 0 && !expected.contains(counter) && !reasons.contains(counter) {
            return Err(format!("{count} of {counter:?}"));
        }
    }
    Ok(())
}

/// Every connection works, is told of three times, and the backends share them alike.
pub(crate) async fn many_connections(six: bool) -> Outcome {
    const COUNT: usize = 600;
    let mut rig = Rig::build(&SHORT, 1, six, SERVICE_REJECT, best_hook()).await?;
    rig.exchanges(COUNT, 20, 200, 3_000).await?;
    let told = rig.until(EventKind::Closed, COUNT).await?;
    for kind in [EventKind::Opened, EventKind::Established, EventKind::Closed] {
        let count = kinds(&told, kind);
        expect(&format!("{count} of {kind:?}"), count == COUNT)?;
    }
    let mut shares = BTreeMap::new();
    for told in &told {
        if let Told::Carried(opened) = told {
            *shares.entry(opened.event.flow.backend).or_insert(0) += 1;
            let version = if six { 6 } else { 4 };
            expect(
                "the SYN is whole",
                opened.packet[0] >> 4 == version && opened.length >= 40,
            )?;
        }
    }
    let fair =
        shares.len() == usize::from(BACKENDS) && shares.values().all(|share| *share == COUNT / 3);
    expect(&format!("shares: {shares:?}"), fair)?;
    let entries: Result<Vec<_>, _> = rig.nat.tables.flows().collect();
    let entries = entries.map_err(|error| error.to_string())?;
    expect("two entries a connection", entries.len() == 2 * COUNT)?;
    let open = entries
        .iter()
        .filter(|(_, flow)| flow.state != State::Closed.number());
    expect("all are closed", open.count() == 0)?;
    let source = rig.line.source(six);
    let peers = rig.peers.lock().expect("no holder panics").clone();
    expect(
        "the backend sees the source address",
        peers.iter().all(|peer| peer.ip() == source),
    )?;
    only(&rig, &[])
}

/// Super-packets with unfinished checksums, both ways at once.
pub(crate) async fn bulk(six: bool) -> Outcome {
    const BYTES: u64 = 48 << 20;
    let mut rig = Rig::build(&SHORT, 1, six, 0, best_hook()).await?;
    rig.exchanges(4, 4, BYTES, BYTES).await?;
    let told = rig.until(EventKind::Closed, 4).await?;
    for told in &told {
        let Told::Event(event) = told else { continue };
        if event.kind == EventKind::Closed.number() {
            let flow = &event.flow;
            let whole = flow.bytes > BYTES && event.back_bytes > BYTES;
            expect("every byte is counted", whole)?;
            let long = flow.bytes / flow.packets > 3_000;
            expect("super-packets go through whole", long)?;
        }
    }
    only(&rig, &[])
}

/// A router among the backends says how large packets may be, and the client hears it.
pub(crate) async fn narrow_backend_side(six: bool) -> Outcome {
    let rig = Rig::build(&NARROW_BACK, 1, six, 0, best_hook()).await?;
    rig.exchanges(2, 2, 4 << 20, 0).await?;
    expect("an error was translated", rig.count(Counter::Icmp)? > 0)?;
    only(&rig, &[])
}

/// A router among the clients says it, and the backend hears it.
pub(crate) async fn narrow_client_side(six: bool) -> Outcome {
    let rig = Rig::build(&NARROW_FRONT, 3, six, 0, best_hook()).await?;
    rig.exchanges(2, 2, 0, 4 << 20).await?;
    expect("an error was translated", rig.count(Counter::Icmp)? > 0)?;
    only(&rig, &[])
}

/// A narrow link of the node itself: no router is there to tell, the segment size is lowered.
pub(crate) async fn narrow_own_link(six: bool) -> Outcome {
    let mut rig = Rig::build(&NARROW_OWN, 1, six, 0, best_hook()).await?;
    rig.limit_segments(1_400)?;
    let vip = rig.vip();
    let segment = rig.line.client().run(async move {
        let stream = connect(vip).await?;
        let segment = socket2::SockRef::from(&stream).tcp_mss();
        segment.map_err(|error| error.to_string())
    });
    let (segment, headers) = (segment.await?, if six { 60 } else { 40 });
    expect(
        &format!("segments of {segment}"),
        segment + headers <= 1_400,
    )?;
    rig.exchanges(2, 2, 1 << 20, 1 << 20).await?;
    expect("nobody had to be told", rig.count(Counter::Icmp)? == 0)?;
    only(&rig, &[])
}

/// The backend sees the client.
pub(crate) async fn client_preserved(six: bool) -> Outcome {
    preserved(&SHORT, six).await
}

/// The same with a router that leads the backends' answers to the node.
pub(crate) async fn client_preserved_behind_a_router(six: bool) -> Outcome {
    preserved(&[1_500; 3], six).await
}

async fn preserved(mtus: &[u32], six: bool) -> Outcome {
    let mut rig = Rig::build(mtus, 1, six, SERVICE_DNAT, best_hook()).await?;
    rig.exchanges(40, 10, 1_000, 100_000).await?;
    rig.until(EventKind::Closed, 40).await?;
    let client = rig.line.client_ip(six);
    let peers = rig.peers.lock().expect("no holder panics").clone();
    expect(
        "the backend sees the client",
        peers.iter().all(|peer| peer.ip() == client),
    )?;
    only(&rig, &[])
}

/// Where tcx is missing.
pub(crate) async fn classic_hook() -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, false, 0, Hook::Clsact).await?;
    rig.exchanges(40, 10, 1_000, 1 << 20).await?;
    rig.until(EventKind::Closed, 40).await?;
    only(&rig, &[])?;
    // The filter of a killed process: never dropped, so never detached.
    let successor = rig.successor().await?;
    std::mem::forget(std::mem::replace(&mut rig.nat, successor));
    rig.exchanges(10, 10, 1_000, 1_000).await?;
    expect(
        "the successor's program saw them",
        rig.count(Counter::Opened)? == 10,
    )?;
    rig.until(EventKind::Closed, 10).await?;
    let before = rig.count(Counter::Opened)?;
    let vip = rig.vip();
    let Rig { line, mut nat, .. } = rig;
    let detached = line
        .node()
        .run(async move { nat.detach().map(|()| nat) })
        .await;
    let nat = detached.map_err(|error| error.to_string())?;
    // Now the node's own stack answers: nobody listens there.
    let refused = line.client().run(connect(vip)).await;
    expect("the filter is gone", refused.is_err())?;
    let after = nat
        .tables
        .counter(Counter::Opened)
        .map_err(|error| error.to_string())?;
    expect("the program saw nothing more", after == before)
}

/// While the lease has lapsed nothing passes, nobody is told, and afterwards all goes on.
pub(crate) async fn lapsed_lease() -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, false, SERVICE_REJECT, best_hook()).await?;
    let vip = rig.vip();
    let client = rig.line.client();
    let mut stream = client.run(connect(vip)).await?;
    // The lease's keeper is not who owns the tables.
    let renew = |rig: &Rig, until| {
        let lease = rig.nat.lease();
        let renewed = lease.and_then(|mut lease| lease.renew(until));
        renewed.map_err(|error| error.to_string())
    };
    renew(&rig, 0)?;
    let mut pending = rig.line.client().spawn(async move {
        let done = exchange(&mut stream, 100_000, 100_000).await;
        done.map(|()| stream)
    });
    let early = tokio::time::timeout(Duration::from_millis(400), &mut pending).await;
    expect("nothing passes without a lease", early.is_err())?;
    expect("it is counted", rig.count(Counter::Lease)? > 0)?;
    renew(&rig, u64::MAX)?;
    let done = tokio::time::timeout(Duration::from_secs(20), pending).await;
    let done = done.map_err(|_| "the connection does not go on")?;
    done.map_err(|error| error.to_string())??;
    expect(
        "nobody was refused",
        rig.nat.tables.next_refusal().is_none(),
    )?;
    only(&rig, &[Counter::Lease])
}

/// A backend's RST goes to the client; with retry it is held, and user space is told.
pub(crate) async fn refusing_backend(retry: bool) -> Outcome {
    let flags = if retry { SERVICE_RETRY } else { 0 };
    let mut rig = Rig::build(&SHORT, 1, false, flags, best_hook()).await?;
    let vip = rig.line.vip(false, DEAD_SERVICE);
    let connecting = rig.line.client().spawn(TcpStream::connect(vip));
    let end = if retry {
        EventKind::Refused
    } else {
        EventKind::Closed
    };
    let told = rig.until(end, 1).await?;
    let Some(Told::Event(event)) = told.last() else {
        return Err(format!("told: {told:?}"));
    };
    expect("who refused", event.cause == Cause::BackendRst.number())?;
    if retry {
        expect("the client still waits", !connecting.is_finished())?;
        connecting.abort();
        expect("open", event.flow.state == State::Opening.number())?;
        return only(&rig, &[Counter::Held]);
    }
    let refused = connecting.await.map_err(|error| error.to_string())?;
    let kind = refused.err().map(|error| error.kind());
    let right = kind == Some(std::io::ErrorKind::ConnectionRefused);
    expect("the client is refused", right)?;
    only(&rig, &[])
}

/// The backend's own connections to the service work like anybody's.
pub(crate) async fn hairpin(six: bool) -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, six, 0, best_hook()).await?;
    let vip = rig.vip();
    let work = rig.line.backend().run(async move {
        let mut stream = connect(vip).await?;
        exchange(&mut stream, 100_000, 1 << 20).await
    });
    work.await?;
    rig.until(EventKind::Closed, 1).await?;
    only(&rig, &[])
}

/// What matches no flow is told, so that user space can refuse it.
pub(crate) async fn forgotten_flow() -> Outcome {
    let mut rig = Rig::build(&SHORT, 1, false, SERVICE_REJECT, best_hook()).await?;
    let vip = rig.vip();
    let mut stream = rig.line.client().run(connect(vip)).await?;
    let told = rig.told();
    let Some(Told::Carried(opened)) = told.first() else {
        return Err(format!("told: {told:?}"));
    };
    let key = opened.event.key;
    for key in [key, opened.event.flow.opposite(key.family)] {
        let removed = rig.nat.tables.remove_flow(&key);
        expect(
            "the flow is there",
            removed.map_err(|error| error.to_string())?,
        )?;
    }
    let sending = rig.line.client().spawn(async move {
        let _ = exchange(&mut stream, 10, 10).await;
    });
    for _ in 0..500 {
        if let Some(refusal) = rig.nat.tables.next_refusal() {
            sending.abort();
            expect("whose", refusal.key == key)?;
            expect("why", refusal.reason == Counter::Unknown.number() as u16)?;
            let next = opened.event.flow.client_isn.wrapping_add(1);
            expect("where it was", refusal.seq == next && refusal.length > 0)?;
            return only(&rig, &[Counter::Unknown]);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("no refusal was told".into())
}
