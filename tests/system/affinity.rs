//! Clients that come again: over reconnects, a killed master, and the next one.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{BACKENDS, Lab, LabError, VIP4, backend_address, default_config};
use tandem::model::Role;
use tandem::status::{ServiceStatus, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::tools::{ask, restart, shows, until, vip, with};
use super::{Test, test};

const PORT: u16 = 9_100;
const SOON: Duration = Duration::from_secs(10);
/// Clients, each with a cookie of its own.
const CLIENTS: usize = 24;

pub(crate) fn tests() -> Vec<Test> {
    vec![test(
        "affinity_cookies_lead_back_over_reconnects_and_failovers",
        cookies,
    )]
}

/// A shop on the n-th backend: it gives a cookie to whoever has none, and tells its name.
async fn shop(lab: &Lab, n: usize) {
    let address = (backend_address(n), PORT);
    let host = &lab.network().backends[n];
    let customers = Arc::new(AtomicU32::new(0));
    let listener = host.run(TcpListener::bind(address)).await;
    let listener = listener.expect("the port is free");
    host.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let number = customers.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(sell(stream, n, number));
        }
    });
}

async fn sell(mut stream: TcpStream, n: usize, number: u32) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|at| at == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let set = match head.windows(4).any(|at| at == b"SID=") {
        true => String::new(),
        false => format!("Set-Cookie: SID=shop{n}-{number}; Path=/\r\n"),
    };
    let answer =
        format!("HTTP/1.1 200 OK\r\n{set}Content-Length: 2\r\nConnection: close\r\n\r\nb{n}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// A visit: the backend's name, and the cookie that it gave.
async fn visit(lab: &Lab, cookie: Option<&str>) -> io::Result<(String, Option<String>)> {
    let cookie = cookie.map_or(String::new(), |value| format!("Cookie: SID={value}\r\n"));
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{cookie}\r\n");
    let answer = lab.network().client.run(timeout(SOON, async move {
        let mut stream = TcpStream::connect(vip(PORT)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    }));
    let answer = answer.await.map_err(|_| io::ErrorKind::TimedOut)??;
    let given = answer.split_once("Set-Cookie: SID=");
    let given = given.and_then(|(_, rest)| Some(rest.split_once(';')?.0.to_owned()));
    let (_, name) = answer.rsplit_once("\r\n\r\n").unwrap_or_default();
    Ok((name.to_owned(), given))
}

/// Every client finds its backend.
async fn all_return(lab: &Lab, clients: &[(String, String)], when: &str) {
    for (name, cookie) in clients {
        let (found, given) = visit(lab, Some(cookie)).await.expect(when);
        assert_eq!((&found, given), (name, None), "{when}: {cookie}");
    }
}

fn web(status: &Status) -> &ServiceStatus {
    let found = status.services.iter().find(|it| it.name == "shop");
    found.expect("the service is there")
}

fn entries(status: &Status) -> u64 {
    web(status).sticks.map_or(0, |sticks| sticks.entries)
}

async fn cookies() -> Result<(), LabError> {
    let mut config = default_config();
    config += &format!(
        "\n[[service]]\nname = \"shop\"\nlisten = [\"{VIP4}:{PORT}\"]\nbalance = \"random\"\n\
         [service.affinity]\nby = \"cookie\"\ncookie = \"SID\"\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n"
    );
    for n in 0..BACKENDS {
        config += &format!(
            "[[service.backend]]\nname = \"s{n}\"\naddress = \"{}:{PORT}\"\n",
            backend_address(n)
        );
    }
    let mut lab = Lab::build(&with(config)).await?;
    for n in 0..BACKENDS {
        shop(&lab, n).await;
    }
    lab.start().await?;
    let first = lab.settled().await?;
    let up = |status: &Status| web(status).backends.iter().all(|backend| backend.up);
    shows(&mut lab, first, "all are up", SOON, up).await;

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (name, cookie) = visit(&lab, None).await.expect("a shop");
        clients.push((name, cookie.expect("a cookie for a new client")));
    }
    let names: BTreeSet<_> = clients.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), BACKENDS, "random backends: {clients:?}");
    all_return(&lab, &clients, "at a reconnect").await;
    let count = CLIENTS as u64;
    let known = move |status: &Status| entries(status) == count;
    let second = first.peer();
    shows(&mut lab, second, "the standby knows them", SOON, known).await;
    let said = ask(&mut lab, first, &["status"]).await;
    // Lines are broken where the terminal ends.
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = format!("{CLIENTS} clients remembered ({CLIENTS} hits, {CLIENTS} misses)");
    assert!(said.contains(&expected), "{said}");

    lab.node(first).signal(Signal::SIGKILL)?;
    let leads = |status: &Status| status.role == Role::Master;
    shows(&mut lab, second, "the standby leads", SOON, leads).await;
    shows(&mut lab, second, "all are up", SOON, up).await;
    until("the VIP answers", SOON, async || {
        visit(&lab, Some(&clients[0].1)).await.ok()
    })
    .await;
    all_return(&lab, &clients, "after the failover").await;

    // What a snapshot tells is as good.
    restart(&mut lab, first).await?;
    shows(&mut lab, first, "the old master knows them", SOON, known).await;
    let in_sync = |status: &Status| status.role == Role::Backup && status.replication.in_sync;
    shows(&mut lab, first, "it is in sync", SOON, in_sync).await;
    lab.node(second).signal(Signal::SIGKILL)?;
    shows(&mut lab, first, "it leads again", SOON, leads).await;
    shows(&mut lab, first, "all are up", SOON, up).await;
    until("the VIP answers", SOON, async || {
        visit(&lab, Some(&clients[0].1)).await.ok()
    })
    .await;
    all_return(&lab, &clients, "after the second failover").await;
    Ok(())
}
