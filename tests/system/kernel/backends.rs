//! Backends that refuse, are silent, or die.

use std::io::ErrorKind;
use std::time::Duration;

use tandem::lab::{BACKENDS, Lab, LabError, Lan, SOURCE4};
use tandem::status::{ServiceStatus, Status};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{PATIENCE, SOON, Service, all_go_on, ask_all, make_silent, nat, open, open_all, up};
use crate::packets::{ETH0, Wire, segment};
use crate::tools::{good, shows, until, vip};
use crate::{Test, test};

/// Connections, and how many of them at once.
const MANY: usize = 200;
const BURST: usize = 20;
/// `connect_timeout` of the kernel mode by default.
const SILENCE: Duration = Duration::from_millis(250);
/// After this a client sends its SYN again (RFC 6298).
const SYN_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn tests() -> Vec<Test> {
    vec![
        test(
            "kernel_no_client_sees_a_refusing_or_a_silent_backend",
            bad_ones,
        ),
        test(
            "kernel_what_a_dead_backend_leaves_is_reset_or_kept",
            dead_one,
        ),
    ]
}

fn web(status: &Status) -> &ServiceStatus {
    &status.services[0]
}

/// One that refuses, one that is silent, and one that is good or refuses, too. No checks: what
/// clients meet is all that is known.
async fn bad_ones() -> Result<(), LabError> {
    let mut lab = up(&[Service {
        checked: false,
        ..Service::default()
    }])
    .await?;
    let master = lab.settled().await?;
    make_silent(&lab.network().backends[1], SOURCE4).await;
    lab.stop_backend(0).await;
    lab.stop_backend(2).await;
    // Two, so that no backend is known to be down afterwards.
    refused(&lab, 2, SILENCE).await;
    lab.start_backend(2).await?;

    let clock = lab.clock();
    let client = &lab.network().client;
    let connect = move || async move {
        let began = clock.now();
        let done = timeout(PATIENCE, TcpStream::connect(vip(80))).await;
        let took = clock.now().since(began);
        (took, done.unwrap_or_else(|late| Err(late.into())))
    };
    let mut times = Vec::new();
    for _ in 0..MANY / BURST {
        let burst: Vec<_> = (0..BURST).map(|_| client.spawn(connect())).collect();
        for one in burst {
            let (took, done) = one.await.expect("it does not panic");
            good("connect", done);
            times.push(took);
        }
    }
    times.sort_unstable();
    let (median, slowest) = (times[MANY / 2], times[MANY - 1]);
    eprintln!("one refuses, one is silent: median {median:.1?}, slowest {slowest:.1?}");
    assert!(slowest >= SILENCE, "none met the silent one: {slowest:?}");
    assert!(
        slowest < SYN_AGAIN,
        "the client sent its SYN again: {slowest:?}"
    );

    let status = shows(
        &mut lab,
        master,
        "both are known to be down",
        SOON,
        |status| {
            let up = web(status).backends.iter().map(|backend| backend.up);
            up.eq([false, false, true])
        },
    );
    let status = status.await;
    assert_eq!(web(&status).failed, 2, "only when all refused");
    let failures: Vec<_> = web(&status)
        .backends
        .iter()
        .map(|b| b.connect_failures)
        .collect();
    assert!(
        failures[0] >= 3 && failures[1] >= 3 && failures[2] == 2,
        "{failures:?}"
    );
    // Two for each client that was refused, and one each by which the bad ones were found out.
    until("it is counted", SOON, async || {
        let retries = nat(&mut lab, master).await.retries;
        (retries >= 2 * 2 + 2).then_some(())
    })
    .await;
    for _ in 0..BACKENDS {
        let client = &lab.network().client;
        let began = clock.now();
        let (_, backend) = good("connect", client.run(open(vip(80))).await);
        assert_eq!(backend, 3);
        let took = clock.now().since(began);
        assert!(
            took < SILENCE,
            "the silent one is not tried any more: {took:?}"
        );
    }
    lab.stop_backend(2).await;
    refused(&lab, 5, Duration::ZERO).await;
    Ok(())
}

/// So many clients, one after the other, are refused by one RST each.
async fn refused(lab: &Lab, clients: usize, least: Duration) {
    let client = &lab.network().client;
    let ears = Wire::tap(client, ETH0).await;
    let clock = lab.clock();
    for _ in 0..clients {
        let began = clock.now();
        let done = client
            .run(timeout(PATIENCE, TcpStream::connect(vip(80))))
            .await;
        let error = done.expect("in time").expect_err("nobody is there");
        let took = clock.now().since(began);
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(took >= least && took < SYN_AGAIN, "{took:?}");
    }
    let mut resets = Vec::new();
    while let Some(frame) = ears.frame() {
        let heard = segment(&frame).filter(|it| it.rst && it.from.1 == 80);
        resets.extend(heard.map(|it| it.to.1));
    }
    let answered = resets.len();
    resets.sort_unstable();
    resets.dedup();
    assert_eq!((answered, resets.len()), (clients, clients), "one each");
}

/// A backend's cable is cut. One service resets what it had there, the other keeps it.
async fn dead_one() -> Result<(), LabError> {
    let keep = Service {
        name: "kept",
        port: 81,
        keys: "on_down = \"keep\"\n",
        ..Service::default()
    };
    let reset = Service {
        keys: "on_down = \"reset\"\n",
        ..Service::default()
    };
    let mut lab = up(&[reset, keep]).await?;
    let master = lab.settled().await?;
    let client = &lab.network().client;
    let (web, kept) = (
        open_all(client, vip(80), 6).await,
        open_all(client, vip(81), 6).await,
    );
    let network = lab.network();
    network.detach(&network.backends[0], Lan::Back).await?;
    // Before and after it is known, nothing happens to the others.
    let on_first = |all: Vec<(TcpStream, u8)>| -> (Vec<_>, Vec<_>) {
        all.into_iter().partition(|(_, backend)| *backend == 1)
    };
    let (dead, web) = on_first(web);
    let (silent, kept) = on_first(kept);
    let web = all_go_on(client, web, PATIENCE).await;
    let kept = all_go_on(client, kept, PATIENCE).await;

    // They only listen: nobody has told them anything but the node.
    let ends: Vec<_> = dead
        .into_iter()
        .map(|(mut stream, _)| client.spawn(async move { timeout(SOON, stream.read_u8()).await }))
        .collect();
    for end in ends {
        let end = end.await.expect("it does not panic");
        let error = end.expect("it is told").expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    shows(&mut lab, master, "it is down", SOON, |status| {
        status
            .services
            .iter()
            .all(|service| !service.backends[0].up)
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    let client = &lab.network().client;
    let answers = ask_all(client, silent, Duration::from_millis(100)).await;
    let silent: Vec<_> = answers
        .into_iter()
        .map(|(stream, backend, answer)| {
            let error = answer.expect_err("its backend is away");
            assert_eq!(error.kind(), ErrorKind::TimedOut, "it was kept");
            (stream, backend)
        })
        .collect();
    all_go_on(client, web, PATIENCE).await;
    all_go_on(client, kept, PATIENCE).await;
    let network = lab.network();
    network.attach(&network.backends[0], Lan::Back).await?;
    // Their requests are sent again, and answered twice: once is enough.
    for (mut stream, _) in silent {
        let answer = network
            .client
            .run(async move { timeout(SOON, stream.read_u8()).await });
        good("it goes on", answer.await.expect("in time"));
    }
    Ok(())
}
