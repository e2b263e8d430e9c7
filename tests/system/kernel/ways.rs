//! The ways of packets: the client's own address at the backends, both families, and a backend that
//! is a client.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::survive::Plan;
use tandem::lab::{BACKENDS, Host, Lab, LabError, Mode, SOURCE4, VIP4, backend_address};
use tandem::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{PATIENCE, SOON, Service, add_route, head, open, open_all};
use crate::http::get;
use crate::tools::{good, shows, tandem, vip, vip6, with};
use crate::{Test, test};

/// Where a server says whom it sees.
const PORT: u16 = 7_000;
/// The LAN of the clients.
const FRONT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
/// A takeover and a retransmission or two, on a machine that does other things too.
const STALL: Duration = Duration::from_secs(5);

pub(super) fn tests() -> Vec<Test> {
    vec![
        test("kernel_dnat_shows_the_client_and_outlives_the_master", dnat),
        test(
            "kernel_serves_both_families_and_its_own_backends",
            families_and_hairpin,
        ),
    ]
}

/// A server that says whom it sees, and then what it is told.
async fn mirror(host: &Host, address: SocketAddr) {
    let listener = host.run(TcpListener::bind(address)).await;
    let listener = good("listen", listener);
    host.spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(format!("{peer}\n").as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
}

async fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(text),
            byte => text.push(byte.into()),
        }
    }
}

async fn dnat() -> Result<(), LabError> {
    let service = Service {
        keys: "forward = \"dnat\"\n",
        to: PORT,
        ..Service::default()
    };
    // The backends' way back is an address that moves, too.
    let text = head() + &service.text("", &[VIP4, SOURCE4]);
    let mut lab = Lab::build(&with(text)).await?;
    for n in 0..BACKENDS {
        let host = &lab.network().backends[n];
        add_route(host, FRONT, SOURCE4).await;
        mirror(host, (backend_address(n), PORT).into()).await;
    }
    lab.start().await?;
    let master = lab.settled().await?;
    let mut held = Vec::new();
    for _ in 0..2 * BACKENDS {
        let connect = async {
            let mut stream = TcpStream::connect(vip(80)).await?;
            let seen = line(&mut stream).await?;
            Ok::<_, io::Error>((stream, seen))
        };
        let client = &lab.network().client;
        let (stream, seen) = good("connect", client.run(connect).await);
        assert_eq!(seen, good("ask", stream.local_addr()).to_string());
        held.push(stream);
    }
    lab.node(master).signal(Signal::SIGKILL)?;
    // At first the dead node's kernel goes on, until its lease has run out.
    let held = answered(&lab, held).await;
    let backup = master.peer();
    let leads = |status: &Status| status.nat.as_ref().is_some_and(|nat| nat.forwarding);
    shows(&mut lab, backup, "it takes over", SOON, leads).await;
    let clock = lab.clock();
    let began = clock.now();
    let held = answered(&lab, held).await;
    eprintln!(
        "dnat: the new master's first answers took {:.1?}",
        clock.now().since(began)
    );
    shows(&mut lab, backup, "it knows them all", SOON, |status| {
        let known = status.services[0].connections;
        known == held.len() as u64 && status.nat.as_ref().is_some_and(|nat| nat.flows == known)
    })
    .await;
    Ok(())
}

/// Every mirror says what it is told.
async fn answered(lab: &Lab, held: Vec<TcpStream>) -> Vec<TcpStream> {
    let tell = |mut stream: TcpStream| async move {
        stream.write_all(b"still there\n").await?;
        let answer = timeout(STALL, line(&mut stream)).await??;
        Ok::<_, io::Error>((stream, answer))
    };
    let client = &lab.network().client;
    let asked: Vec<_> = held.into_iter().map(|it| client.spawn(tell(it))).collect();
    let mut held = Vec::new();
    for one in asked {
        let one = one.await.expect("it does not panic");
        let (stream, answer) = good("it survives", one);
        assert_eq!(answer, "still there");
        held.push(stream);
    }
    held
}

async fn families_and_hairpin() -> Result<(), LabError> {
    let plan = Plan::new(Mode::Async);
    let mut lab = Lab::build(&with(plan.lab(tandem()).config)).await?;
    for host in &lab.network().backends {
        add_route(host, FRONT, SOURCE4).await;
    }
    lab.start().await?;
    let master = lab.settled().await?;
    let client = &lab.network().client;
    for at in [vip(80), vip6(80)] {
        open_all(client, at, 2 * BACKENDS).await;
        let half = 500_000;
        let page = good("a page", get(client, at, &format!("/bytes/{half}")).await);
        assert_eq!(page.len(), half, "of {at}");
    }
    // Each backend meets all of them, itself too.
    for host in &lab.network().backends {
        let mut met = Vec::new();
        for _ in 0..BACKENDS {
            let one = host
                .run(timeout(PATIENCE, open(vip(80))))
                .await
                .expect("in time");
            met.push(good("connect", one).1);
        }
        met.sort_unstable();
        assert_eq!(met, [1, 2, 3], "{}", host.name());
    }
    let total = (2 * BACKENDS + 1 + BACKENDS * BACKENDS) as u64;
    shows(&mut lab, master, "all are counted", PATIENCE, |status| {
        let totals: Vec<u64> = status
            .services
            .iter()
            .map(|service| service.total)
            .collect();
        totals == [total, 2 * BACKENDS as u64 + 1]
    })
    .await;
    Ok(())
}
