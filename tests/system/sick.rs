//! Backends that are sick in ways that no connect shows: the clients of the others see nothing of it.

use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::time::Duration;

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use tandem::lab::{BACKENDS, Host, Lab, LabError, backend_address, default_config};
use tandem::model::NodeId;
use tandem::status::{Status, What};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::greeter::{SOON, at, greeter, plain, service, up};
use super::tools::{all_answered, default_but, good, shows, status, vip, with};
use super::{Test, test};

/// Clients at a time, half of them on the sick backend.
const CLIENTS: usize = 40;
/// Within this a well backend's client has its answer; the machine may be busy.
const BOUND: Duration = Duration::from_secs(5);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("sick_backend_that_never_answers", || beside(Sick::Silent)),
        test("sick_backend_that_resets_at_once", || beside(Sick::Resets)),
        test("sick_backend_that_sends_a_byte_a_second", || {
            beside(Sick::Drips)
        }),
        test("sick_backend_that_floods", || beside(Sick::Floods)),
        test("sick_host_whose_network_is_made_anew", network_is_made_anew),
    ]
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sick {
    Drips,
    Floods,
    Resets,
    Silent,
}

async fn sicken(host: &Host, port: u16, how: Sick) {
    if how == Sick::Floods {
        // Threads of its own, in this host's namespace: the host's other server is not to be flooded.
        let listener = host
            .run(async move { std::net::TcpListener::bind(at(1, port)) })
            .await;
        let listener = listener.expect("the port is free");
        let flood = move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || while stream.write_all(&[b'x'; 65_536]).is_ok() {});
            }
        };
        std::thread::spawn(flood);
        return;
    }
    let listener = host.run(TcpListener::bind(at(1, port))).await;
    let listener = listener.expect("the port is free");
    host.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(suffer(stream, how));
        }
    });
}

async fn suffer(mut stream: TcpStream, how: Sick) -> io::Result<()> {
    match how {
        Sick::Silent => stream.read_to_end(&mut Vec::new()).await.map(drop),
        Sick::Resets => stream.set_zero_linger(),
        Sick::Drips => loop {
            stream.write_all(b"x").await?;
            sleep(Duration::from_secs(1)).await;
        },
        Sick::Floods => Ok(()),
    }
}

/// What a client saw.
#[derive(Debug, Eq, PartialEq)]
enum Saw {
    /// The greeting, and its question again.
    Answer,
    /// Something else, or nothing in time.
    Trouble,
}

/// Asks, and reads what comes: a flood, too, for a while.
async fn ask(port: u16) -> (Saw, Duration) {
    let began = Instant::now();
    let talk = async {
        let mut stream = TcpStream::connect(vip(port)).await?;
        stream.write_all(b"?").await?;
        let mut said = Vec::new();
        while !said.ends_with(b"\n?") {
            said.clear();
            let mut buffer = [0; 4_096];
            let mut got = 0;
            while got < 64 && !buffer[..got].ends_with(b"\n?") {
                match stream.read(&mut buffer[got..]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    more => got += more,
                }
            }
            said.extend_from_slice(&buffer[..got]);
            if got >= 64 {
                // A flood is held back by its reader: all hosts of the test share few cores.
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok::<_, io::Error>(())
    };
    let saw = match timeout(BOUND, talk).await {
        Ok(Ok(())) => Saw::Answer,
        _ => Saw::Trouble,
    };
    (saw, began.elapsed())
}

async fn beside(how: Sick) -> Result<(), LabError> {
    const PORT: u16 = 9_301;
    let mut config = default_config() + &service("ward", vip(PORT), "", &at(0, PORT).to_string());
    config += &format!(
        "[[service.backend]]\nname = \"ward2\"\naddress = \"{}\"\n",
        at(1, PORT)
    );
    let mut lab = Lab::build(&with(config)).await?;
    greeter(&lab.network().backends[0], plain(at(0, PORT))).await;
    sicken(&lab.network().backends[1], PORT, how).await;
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "both are up", SOON, up("ward", true)).await;
    let load = lab.load();
    let ask_all = async move {
        let all: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(ask(PORT))).collect();
        let mut seen = Vec::new();
        for one in all {
            seen.push(one.await.map_err(io::Error::other)?);
        }
        Ok::<_, io::Error>(seen)
    };
    let seen = good("ask", lab.network().client.run(ask_all).await);
    let well: Vec<_> = seen.iter().filter(|(saw, _)| *saw == Saw::Answer).collect();
    // Turns are exact, and checks take none. Only who is reset before the first byte was sent goes on to
    // the other backend.
    match how {
        Sick::Resets => assert!(well.len() >= CLIENTS / 2, "{seen:?}"),
        _ => assert_eq!(well.len(), CLIENTS / 2, "{how:?}: {seen:?}"),
    }
    let record = load.stop().await;
    all_answered(&record);
    eprintln!(
        "{how:?}: the slowest of {} took {:?}",
        well.len(),
        well.iter().map(|(_, took)| took).max()
    );
    Ok(())
}

/// For a moment the master has no route to any backend, as when the service that configures its
/// network restarts: clients wait, and no backend is thought down.
async fn network_is_made_anew() -> Result<(), LabError> {
    let text = default_but("fall = 2", "fall = 5");
    let text = text.replace("connect_timeout = \"200ms\"", "connect_timeout = \"1s\"");
    let mut lab = Lab::up(&with(text)).await?;
    let master = lab.settled().await?;
    let load = lab.load();
    for _ in 0..3 {
        let routes = lab.network().node(master).netlink().route();
        for n in 0..BACKENDS {
            let added = routes.add(no_way_to(backend_address(n))).execute().await;
            added.expect("a route is added");
        }
        sleep(Duration::from_millis(400)).await;
        for n in 0..BACKENDS {
            let removed = routes.del(no_way_to(backend_address(n))).execute().await;
            removed.expect("a route is removed");
        }
        sleep(Duration::from_millis(600)).await;
    }
    let record = load.stop().await;
    all_answered(&record);
    let took = record.attempts.iter().map(|it| it.end.since(it.start));
    let longest = took.max();
    assert!(longest > Some(Duration::from_millis(200)), "{longest:?}");
    let now = status(&mut lab, master).await;
    let web = &now.services[0];
    assert_eq!((web.failed, web.retries), (0, 0), "{now:#?}");
    let events = lab.node(master).events().await?;
    let fell = |what: &What| matches!(what, What::Backend { up: false, .. });
    let fell = events.iter().any(|event| fell(&event.what));
    assert!(!fell, "{events:#?}");
    one_is_away(&mut lab, master).await
}

/// There is no way to one backend, and the others refuse: nothing is waited for.
async fn one_is_away(lab: &mut Lab, master: NodeId) -> Result<(), LabError> {
    let refused = |status: &Status| -> u64 {
        let backends = status.services[0].backends.iter();
        backends.map(|it| it.failures.refused).sum()
    };
    lab.stop_backend(1).await;
    lab.stop_backend(2).await;
    let routes = lab.network().node(master).netlink().route();
    let added = routes.add(no_way_to(backend_address(0))).execute().await;
    added.expect("a route is added");
    let before = refused(&status(lab, master).await);
    let client = &lab.network().client;
    let served = client.run(super::balance::keep()).await;
    assert!(served.is_err(), "{served:?}");
    let told = |status: &Status| status.services[0].failed > 0;
    let after = shows(lab, master, "its end is told", SOON, told).await;
    assert_eq!(refused(&after) - before, 2, "each was asked once");
    Ok(())
}

/// As if the routing tables had nothing for it (ip-route(8), `throw`).
fn no_way_to(backend: Ipv4Addr) -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new();
    let route = route.destination_prefix(backend, 32);
    route.kind(RouteType::Throw).build()
}
