//! Limits of a proxied service, each once from end to end: through the pair, with its status.

use std::io::{self, ErrorKind};
use std::time::Duration;

use tandem::lab::{Host, Lab, LabError, default_config};
use tandem::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::greeter::{SOON, at, greeter, greeting, line, of, plain, service, up};
use super::tools::{good, shows, until, vip, with};
use super::{Test, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("limits_who_finds_all_full_waits_for_a_while", queue),
        test("limits_rates_and_access_lists_refuse_and_count", gates),
        test("limits_backups_serve_while_nobody_else_does", backups),
        test("limits_connections_of_a_backend_that_fell_are_reset", falls),
        test("limits_in_panic_all_backends_are_used", panic),
    ]
}

/// Another backend of the last service.
fn another(name: &str, n: usize, port: u16, keys: &str) -> String {
    let address = at(n, port);
    format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n{keys}\n")
}

async fn queue() -> Result<(), LabError> {
    const PORT: u16 = 9_311;
    let keys = "queue_size = 1\nqueue_timeout = \"2s\"";
    let one = service("full", vip(PORT), keys, &at(0, PORT).to_string()) + "max_connections = 1\n";
    let mut lab = Lab::build(&with(default_config() + &one)).await?;
    greeter(&lab.network().backends[0], plain(at(0, PORT))).await;
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "it is up", SOON, up("full", true)).await;

    let (_, holder) = good("the first", greeting(&lab, vip(PORT)).await);
    let began = Instant::now();
    let second = greeting(&lab, vip(PORT));
    let third = async {
        // The line has one place, which the second has by now.
        sleep(Duration::from_millis(500)).await;
        let refused = greeting(&lab, vip(PORT)).await;
        (refused, began.elapsed())
    };
    let (second, (third, took)) = tokio::join!(second, third);
    assert!(third.is_err(), "the line is full");
    assert!(
        took < Duration::from_millis(1_900),
        "it need not wait: {took:?}"
    );
    assert!(second.is_err(), "nobody left in time");
    assert!(began.elapsed() >= Duration::from_millis(1_900), "it waited");

    // Who waits gets the place that becomes free.
    let leave = async {
        sleep(Duration::from_millis(300)).await;
        drop(holder);
    };
    let (served, ()) = tokio::join!(greeting(&lab, vip(PORT)), leave);
    good("the place that became free", served);
    let counted =
        |status: &Status| of(status, "full").queue_timeouts == 1 && of(status, "full").refused == 1;
    shows(&mut lab, master, "they are counted", SOON, counted).await;
    Ok(())
}

/// Connects from a host: whether it is served.
async fn served(host: &Host, port: u16) -> io::Result<()> {
    let talk = host.run(timeout(SOON, async move {
        let mut stream = TcpStream::connect(vip(port)).await?;
        line(&mut stream).await.map(drop)
    }));
    talk.await.map_err(|_| ErrorKind::TimedOut)?
}

async fn gates() -> Result<(), LabError> {
    let mut config = default_config();
    config += &service(
        "rate",
        vip(9_321),
        "source_rate = 2",
        &at(0, 9_321).to_string(),
    );
    let lists = "allow = \"192.0.2.0/24\"\ndeny = \"192.0.2.10/32\"";
    config += &service("lists", vip(9_322), lists, &at(0, 9_322).to_string());
    let mut lab = Lab::build(&with(config)).await?;
    for port in [9_321, 9_322] {
        greeter(&lab.network().backends[0], plain(at(0, port))).await;
    }
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "it is up", SOON, up("rate", true)).await;
    shows(&mut lab, master, "it is up", SOON, up("lists", true)).await;

    let network = lab.network();
    let mut counts = (0, 0);
    let began = Instant::now();
    for _ in 0..12 {
        match served(&network.client, 9_321).await {
            Ok(()) => counts.0 += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                counts.1 += 1;
            }
        }
    }
    let most = 2 + 2 * (began.elapsed().as_secs() + 1);
    assert!((2..=most).contains(&counts.0), "{counts:?}, {most} at most");
    served(&network.watch, 9_321)
        .await
        .expect("another source has a bucket of its own");
    // The bucket fills again.
    until("its turn comes", SOON, async || {
        served(&network.client, 9_321).await.ok()
    })
    .await;

    let denied = served(&network.client, 9_322).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::ConnectionReset, "{denied}");
    served(&network.watch, 9_322)
        .await
        .expect("the rest of the network is let in");
    let refused = counts.1;
    let told =
        |status: &Status| of(status, "lists").denied == 1 && of(status, "rate").too_fast >= refused;
    shows(&mut lab, master, "both are counted", SOON, told).await;
    Ok(())
}

async fn backups() -> Result<(), LabError> {
    const PORT: u16 = 9_331;
    let mut config = default_config() + &service("shop", vip(PORT), "", &at(0, PORT).to_string());
    config += &another("sorry", 1, PORT, "backup = true");
    let mut lab = Lab::build(&with(config)).await?;
    greeter_named(&lab.network().backends[1], 1, PORT, "sorry").await;
    let shop = greeter_named(&lab.network().backends[0], 0, PORT, "shop").await;
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "both are up", SOON, up("shop", true)).await;
    for _ in 0..6 {
        assert_eq!(name(&lab, PORT).await.expect("an answer"), "shop");
    }
    shop.abort();
    let down = |status: &Status| !of(status, "shop").backends[0].up;
    shows(&mut lab, master, "the shop is closed", SOON, down).await;
    for _ in 0..6 {
        assert_eq!(name(&lab, PORT).await.expect("an answer"), "sorry");
    }
    greeter_named(&lab.network().backends[0], 0, PORT, "shop").await;
    shows(&mut lab, master, "it is open again", SOON, up("shop", true)).await;
    for _ in 0..6 {
        assert_eq!(name(&lab, PORT).await.expect("an answer"), "shop");
    }
    Ok(())
}

/// A server that says its name and ends.
pub(crate) async fn greeter_named(
    host: &Host,
    n: usize,
    port: u16,
    name: &'static str,
) -> tokio::task::JoinHandle<()> {
    let make = plain(at(n, port));
    let listener = host
        .run(async move { tokio::net::TcpListener::from_std(make()?) })
        .await;
    let listener = listener.expect("the port is free");
    host.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    })
}

async fn name(lab: &Lab, port: u16) -> io::Result<String> {
    let talk = lab.network().client.run(timeout(SOON, async move {
        let mut stream = TcpStream::connect(vip(port)).await?;
        line(&mut stream).await
    }));
    talk.await.map_err(|_| ErrorKind::TimedOut)?
}

async fn falls() -> Result<(), LabError> {
    let mut config = default_config();
    for (name, port, keys) in [("cuts", 9_341, "on_down = \"reset\""), ("keeps", 9_342, "")] {
        config += &service(name, vip(port), keys, &at(0, port).to_string());
    }
    let mut lab = Lab::build(&with(config)).await?;
    let mut servers = Vec::new();
    for port in [9_341, 9_342] {
        servers.push(greeter(&lab.network().backends[0], plain(at(0, port))).await);
    }
    lab.start().await?;
    let master = lab.settled().await?;
    shows(&mut lab, master, "it is up", SOON, up("cuts", true)).await;
    shows(&mut lab, master, "it is up", SOON, up("keeps", true)).await;
    let (_, mut cut) = good("connect", greeting(&lab, vip(9_341)).await);
    let (_, mut kept) = good("connect", greeting(&lab, vip(9_342)).await);
    // The listeners end; what they accepted goes on.
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    shows(&mut lab, master, "it is down", SOON, up("cuts", false)).await;
    shows(&mut lab, master, "it is down", SOON, up("keeps", false)).await;
    let end = lab
        .network()
        .client
        .run(timeout(SOON, async move { cut.read_u8().await }));
    let error = end.await.expect("in time").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    let echo = lab.network().client.run(timeout(SOON, async move {
        kept.write_all(b"!").await?;
        kept.read_u8().await
    }));
    assert_eq!(good("it goes on", echo.await.expect("in time")), b'!');
    Ok(())
}

async fn panic() -> Result<(), LabError> {
    let mut config = default_config();
    for (name, port, keys) in [
        ("calm", 9_351, ""),
        ("panic", 9_352, "panic_threshold = 50"),
    ] {
        config += &service(name, vip(port), keys, &at(0, port).to_string());
        for n in [1, 2] {
            // Nobody listens there: the checks are what is sick.
            config += &another(&format!("{name}-{n}"), n, port, "check_port = 9");
        }
    }
    let mut lab = Lab::build(&with(config)).await?;
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        for port in [9_351, 9_352] {
            greeter_named(&lab.network().backends[n], n, port, name).await;
        }
    }
    lab.start().await?;
    // It never settles: backends are down.
    let master = until("a master", SOON, async || {
        lab.masters().await.first().copied()
    })
    .await;
    let one_is_up = |name: &'static str| {
        move |status: &Status| {
            let up: Vec<_> = of(status, name).backends.iter().map(|it| it.up).collect();
            up.iter().filter(|up| **up).count() == 1
        }
    };
    shows(&mut lab, master, "one of three", SOON, one_is_up("calm")).await;
    shows(&mut lab, master, "one of three", SOON, one_is_up("panic")).await;
    let mut seen = [Vec::new(), Vec::new()];
    for _ in 0..6 {
        for (port, seen) in [9_351, 9_352].into_iter().zip(&mut seen) {
            seen.push(name(&lab, port).await.expect("an answer"));
        }
    }
    seen.iter_mut().for_each(|names| names.sort());
    assert_eq!(seen[0], ["one"; 6], "only who is up");
    assert_eq!(
        seen[1],
        ["one", "one", "three", "three", "two", "two"],
        "all take turns"
    );
    Ok(())
}
