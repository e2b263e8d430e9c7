//! Clients that come again: over reconnects, a killed master, and the next one.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{BACKENDS, Lab, LabError, VIP4, backend_address, default_config};
use tandem::model::{NodeId, Role};
use tandem::status::{ServiceStatus, Status};
use tandem::wire::admin::Remembered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::greeter::{line, of};
use super::limits::greeter_named;
use super::proxy_protocol::certificate;
use super::tools::{ask, command, output, restart, serve, shows, until, vip, with};
use super::{Test, test};

const PORT: u16 = 9_100;
const SOON: Duration = Duration::from_secs(10);
/// Clients, each with a cookie of its own.
const CLIENTS: usize = 24;

type Needed = &'static [&'static str];

pub(crate) fn tests() -> Vec<(Test, Needed)> {
    vec![
        (
            test(
                "affinity_cookies_lead_back_over_reconnects_and_failovers",
                cookies,
            ),
            &[],
        ),
        (
            test(
                "affinity_tls_sessions_lead_back_to_who_knows_them",
                sessions,
            ),
            &["openssl"],
        ),
        (
            test("affinity_users_of_remote_desktops_lead_back", desktops),
            &[],
        ),
    ]
}

/// A service with this affinity, at random over all backends.
fn sticky(name: &str, port: u16, by: &str) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"{name}\"\nlisten = [\"{VIP4}:{port}\"]\nbalance = \"random\"\n\
         [service.affinity]\nby = \"{by}\"\n\
         [service.health]\nkind = \"tcp\"\ninterval = \"250ms\"\ntimeout = \"200ms\"\n"
    );
    for n in 0..BACKENDS {
        let at = backend_address(n);
        text += &format!("[[service.backend]]\nname = \"{name}{n}\"\naddress = \"{at}:{port}\"\n");
    }
    text
}

/// OpenSSL on both ends, TLS 1.2 without tickets: the session's id is all that a client brings.
async fn sessions() -> Result<(), LabError> {
    const PORT: u16 = 9_110;
    let mut lab = Lab::build(&with(default_config() + &sticky("tls", PORT, "session_id"))).await?;
    let mut servers = Vec::new();
    for n in 0..BACKENDS {
        let name = format!("server{n}");
        let pem = certificate(&lab, &name).await;
        let accept = format!("{}:{PORT}", backend_address(n));
        let arguments = [
            "s_server",
            "-accept",
            &accept,
            "-cert",
            &pem,
            "-key",
            &pem,
            "-tls1_2",
            "-no_ticket",
            "-www",
            "-quiet",
        ];
        servers.push(serve(&lab.network().backends[n], command("openssl", &arguments)).await);
    }
    lab.start().await?;
    let master = lab.settled().await?;
    let connect = vip(PORT).to_string();
    let base = ["s_client", "-connect", &connect, "-tls1_2", "-no_ticket"];
    let hello = async |lab: &Lab, more: &[&str]| {
        let arguments = [&base[..], more].concat();
        let done = output(&lab.network().client, command("openssl", &arguments)).await;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let server = (0..BACKENDS).find(|n| said.contains(&format!("server{n}")));
        (server, said.contains("Reused, "))
    };
    let mut seen = BTreeSet::new();
    for client in 0..8 {
        let file = lab
            .dir()
            .join(format!("session{client}"))
            .display()
            .to_string();
        let (server, reused) = hello(&lab, &["-sess_out", &file]).await;
        assert!(server.is_some() && !reused, "{server:?}");
        seen.insert(server);
        for _ in 0..3 {
            assert_eq!(hello(&lab, &["-sess_in", &file]).await, (server, true));
        }
    }
    assert!(seen.len() > 1, "at random: {seen:?}");
    let known = |status: &Status| of(status, "tls").sticks.is_some_and(|it| it.hits >= 24);
    shows(&mut lab, master, "their sessions are known", SOON, known).await;
    Ok(())
}

/// The first request of a remote desktop client ([MS-RDPBCGR], 2.2.1.1), as its server answers nothing.
async fn desktops() -> Result<(), LabError> {
    const PORT: u16 = 9_120;
    let mut lab = Lab::build(&with(default_config() + &sticky("rdp", PORT, "rdp_cookie"))).await?;
    for (n, name) in ["zero", "one", "two"].into_iter().enumerate() {
        greeter_named(&lab.network().backends[n], n, PORT, name).await;
    }
    lab.start().await?;
    lab.settled().await?;
    let visit = async |lab: &Lab, user: &str| {
        let cookie = format!("Cookie: mstshash={user}\r\n");
        let length = 11 + cookie.len() as u8;
        let mut request = vec![3, 0, 0, length, length - 5, 0xe0, 0, 0, 0, 0, 0];
        request.extend_from_slice(cookie.as_bytes());
        let talk = lab.network().client.run(timeout(SOON, async move {
            let mut stream = TcpStream::connect(vip(PORT)).await?;
            stream.write_all(&request).await?;
            line(&mut stream).await
        }));
        talk.await.expect("in time").expect("an answer")
    };
    let mut seen = BTreeSet::new();
    for user in ["ann", "bob", "cem", "dana", "eve", "fay", "gus", "hua"] {
        let first = visit(&lab, user).await;
        for _ in 0..3 {
            assert_eq!(visit(&lab, user).await, first, "{user}");
        }
        seen.insert(first);
    }
    assert!(seen.len() > 1, "at random: {seen:?}");
    Ok(())
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

/// The remembered clients, as a node lists them: their keys.
async fn listed(lab: &mut Lab, node: NodeId) -> BTreeSet<String> {
    let done = ask(
        lab,
        node,
        &["affinity", "list", "--service", "shop", "--json"],
    )
    .await;
    assert!(done.status.success(), "{done:?}");
    let all: Vec<Remembered> = serde_json::from_slice(&done.stdout).expect("a list");
    all.into_iter().map(|client| client.key).collect()
}

/// One more client comes, and is forgotten on both nodes.
async fn forget_one(lab: &mut Lab, master: NodeId) {
    let known = listed(lab, master).await;
    assert_eq!(known.len(), CLIENTS);
    assert_eq!(known, listed(lab, master.peer()).await);
    let (_, cookie) = visit(lab, None).await.expect("a shop");
    let count = move |more| move |status: &Status| entries(status) == CLIENTS as u64 + more;
    for node in NodeId::BOTH {
        shows(lab, node, "it is known", SOON, count(1)).await;
    }
    let all = listed(lab, master).await;
    let key = all.difference(&known).next().expect("one more").clone();
    let refused = ask(lab, master.peer(), &["affinity", "clear", "--all"]).await;
    assert!(
        !refused.status.success(),
        "the master must be told: {refused:?}"
    );
    let done = ask(lab, master, &["affinity", "clear", "--key", &key]).await;
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(said, "1 client forgotten\n", "{done:?}");
    for node in NodeId::BOTH {
        shows(lab, node, "it is forgotten", SOON, count(0)).await;
        assert_eq!(listed(lab, node).await, known);
    }
    // No backend gives this cookie again, so that it is not learnt again.
    visit(lab, cookie.as_deref()).await.expect("a shop");
    assert_eq!(listed(lab, master).await, known);
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

    forget_one(&mut lab, first).await;
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
