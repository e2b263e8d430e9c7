//! The configuration is read again under traffic: nothing that a client could notice.

use std::time::Duration;

use nix::sys::signal::Signal;
use tandem::lab::{Lab, LabError, backend_address, default_config};
use tandem::model::NodeId;
use tandem::status::Status;
use tandem::wire::admin::Reloaded;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use super::balance::{again, keep};
use super::roster::backend;
use super::tools::{all_answered, ask, good, notes, restart, shows, standing, status, with};
use super::{Test, test};

/// For what takes a moment.
const SOON: Duration = Duration::from_secs(5);
/// How often, over both nodes, unless the environment says so (`TANDEM_RELOADS`).
const TIMES: usize = 100;
/// What the heap may have grown between a quarter of the reloads and the last, of both nodes: its arenas
/// fill with holes at first.
const GROWTH_KIB: u64 = 6 << 10;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("reload_many_times_under_traffic_is_not_noticed", many),
        test("reload_changes_what_it_says_and_nothing_else", changes),
        test("reload_refuses_mistakes_and_what_needs_a_restart", refusals),
        test("reload_by_a_signal_and_death_in_the_middle", signals),
    ]
}

/// The file that both nodes read.
fn file(lab: &Lab) -> std::path::PathBuf {
    lab.dir().join("tandem.toml")
}

fn text(lab: &Lab) -> String {
    std::fs::read_to_string(file(lab)).expect("it is ours")
}

fn write(lab: &Lab, text: &str) {
    std::fs::write(file(lab), text).expect("it is ours");
}

fn but(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old:?} is not in the file");
    text.replacen(old, new, 1)
}

async fn reload(lab: &mut Lab, node: NodeId, arguments: &[&str]) -> (Option<i32>, Reloaded) {
    let arguments = [&["reload", "--json"], arguments].concat();
    let done = ask(lab, node, &arguments).await;
    let told =
        serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
    (done.status.code(), told)
}

fn resident_kib(lab: &mut Lab, node: NodeId) -> u64 {
    let pid = lab.node(node).pid().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    words.and_then(|word| word.parse().ok()).expect("a number")
}

/// One of many ways to write the file, and the exit code of its reload.
fn variant(plain: &str, n: usize, rng: &mut fastrand::Rng) -> (String, i32) {
    let setting = |line: &str| but(plain, "balance = \"round_robin\"", line);
    let third = plain.split_once("\n[[service.backend]]\nname = \"b3\"");
    let text = match rng.usize(0..18) {
        0 => plain.to_owned(),
        1 => but(
            plain,
            "name = \"b2\"",
            &format!("weight = {}\nname = \"b2\"", rng.u16(1..=9)),
        ),
        2 => third.expect("it has three").0.to_owned(),
        3 => but(plain, "name = \"b3\"", &format!("name = \"c{n}\"")),
        4 => setting("balance = \"least_connections\""),
        5 => setting("balance = \"maglev\""),
        6 => setting("balance = \"adaptive\""),
        7 => setting(
            "balance = \"round_robin\"\nallow = [\"0.0.0.0/0\", \"::/0\"]\nsource_rate = 100000",
        ),
        8 => setting("balance = \"round_robin\"\nqueue_size = 10\nidle_timeout = \"9m\""),
        9 => setting("balance = \"round_robin\"\nlog = \"errors\"\nmax_connections = 500"),
        10 => but(plain, "interval = \"250ms\"", "interval = \"300ms\""),
        11 => but(plain, "rise = 2", "rise = 3"),
        12 => format!(
            "{plain}\n[service.affinity]\nby = \"source\"\nttl = \"{}m\"\n",
            rng.u8(1..=9)
        ),
        13 => format!(
            "{plain}\n[[service.pool]]\nname = \"p{}\"\n[[service.pool.backend]]\nname = \"p1\"\n\
             address = \"{}:80\"\n[[service.rule]]\nsource = \"203.0.113.0/24\"\npool = \"p{}\"\n",
            n % 7,
            backend_address(0),
            n % 7
        ),
        // From here on they are not taken.
        14 => return (format!("{plain}\nmistake = 1\n"), 64),
        15 => return (plain[..plain.len() / 2].to_owned() + "[[", 64),
        16 => return (but(plain, "misses = 3", "misses = 9"), 1),
        _ => return (but(plain, "name = \"lab\"", "name = \"bal\""), 1),
    };
    (text, 0)
}

async fn many() -> Result<(), LabError> {
    let asked = std::env::var("TANDEM_RELOADS").ok();
    let times = asked.map_or(TIMES, |text| text.parse().expect("a number"));
    let mut lab = Lab::up(&with(default_config())).await?;
    lab.settled().await?;
    let plain = text(&lab);
    // A user namespace has another number of misses.
    let base = plain.replace("misses = 6", "misses = 3");
    let own = |text: String| match plain == base {
        true => text,
        false => text.replace("misses = 3", "misses = 6"),
    };
    let (mut held, served) = good("a page", lab.network().client.run(keep()).await);
    let before = standing(&mut lab).await;
    let load = lab.load();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut early = [0; 2];
    for n in 1..=times {
        let (text, code) = variant(&base, n, &mut rng);
        write(&lab, &own(text.clone()));
        for node in NodeId::BOTH {
            // Each reads some that the other has not.
            if rng.u8(0..3) == 0 {
                continue;
            }
            let (exit, told) = reload(&mut lab, node, &[]).await;
            assert_eq!(exit, Some(code), "{n}: {told:#?}\n{text}");
            assert_eq!(told.applied, code == 0, "{told:#?}");
        }
        if n == times / 4 {
            for node in NodeId::BOTH {
                early[node.index()] = resident_kib(&mut lab, node);
            }
        }
    }
    write(&lab, &plain);
    for node in NodeId::BOTH {
        reload(&mut lab, node, &[]).await;
        let (was, is) = (early[node.index()], resident_kib(&mut lab, node));
        eprintln!(
            "{}: {was} KiB after {}, {is} KiB after {times}",
            lab.node(node).name(),
            times / 4
        );
        assert!(is <= was + GROWTH_KIB, "it grows: {was} KiB, {is} KiB");
    }
    let record = load.stop().await;
    all_answered(&record);
    eprintln!("{} requests", record.attempts.len());
    let old = lab
        .network()
        .client
        .run(async move { again(&mut held).await });
    assert_eq!(good("a connection goes on", old.await), served);
    assert_eq!(standing(&mut lab).await, before, "nobody has moved");
    let alike = |status: &Status| status.peer.same_config == Some(true);
    // The next heartbeat tells.
    let now = shows(&mut lab, NodeId::First, "one configuration", SOON, alike).await;
    assert_eq!(now.counters.outputs_dropped, 0);
    Ok(())
}

async fn changes() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let plain = text(&lab);
    let weighed = but(&plain, "name = \"b2\"", "weight = 7\nname = \"b2\"");
    let denied = but(
        &weighed,
        "connect_timeout",
        "deny = [\"0.0.0.0/0\"]\nconnect_timeout",
    );
    write(&lab, &denied);
    let shown = ask(&mut lab, master, &["reload", "--dry-run"]).await;
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert_eq!(
        shown,
        "service web\n  backend b2.weight: 1 -> 7\n  deny: (not set) -> [0.0.0.0/0]\n\
         nothing was changed: this was a dry run\n"
    );
    let weight = |status: &Status| backend(status, "b2").map(|it| it.weight);
    assert_eq!(weight(&status(&mut lab, master).await), Some(1));
    let (mut held, served) = good("a page", lab.network().client.run(keep()).await);
    let (code, told) = reload(&mut lab, master, &[]).await;
    assert_eq!((code, told.applied, told.changes.len()), (Some(0), true, 2));
    let after = status(&mut lab, master).await;
    assert_eq!((weight(&after), after.config_hash), (Some(7), told.hash));
    // Who is there stays; who comes is refused.
    let old = lab
        .network()
        .client
        .run(async move { again(&mut held).await });
    assert_eq!(good("it goes on", old.await), served);
    let new = lab
        .network()
        .client
        .run(async { timeout(SOON, keep()).await });
    assert!(
        new.await.expect("in time").is_err(),
        "the access list holds"
    );
    let said = notes(&mut lab, master).await?;
    assert!(
        said.contains(&"configuration reloaded: service web".to_owned()),
        "{said:?}"
    );

    // A backend that is down stays down when only its check's rhythm changes.
    write(
        &lab,
        &but(
            &plain,
            "name = \"b3\"\naddress = \"",
            "name = \"b3\"\ncheck_port = 9\naddress = \"",
        ),
    );
    reload(&mut lab, master, &[]).await;
    let down = |status: &Status| backend(status, "b3").is_some_and(|it| !it.up);
    shows(&mut lab, master, "its check fails", SOON, down).await;
    let slow = but(&text(&lab), "interval = \"250ms\"", "interval = \"10s\"");
    write(&lab, &slow);
    reload(&mut lab, master, &[]).await;
    let now = status(&mut lab, master).await;
    let up: Vec<bool> = now.services[0].backends.iter().map(|it| it.up).collect();
    assert_eq!(up, [true, true, false]);
    let load = lab.load();
    sleep(Duration::from_millis(500)).await;
    all_answered(&load.stop().await);
    Ok(())
}

async fn refusals() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let plain = text(&lab);
    let hash = status(&mut lab, master).await.config_hash;
    write(&lab, &but(&plain, "rise = 2", "rise = 0"));
    let refused = ask(&mut lab, master, &["reload"]).await;
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("tandem.toml:") && text.contains("rise = 0"),
        "{text}"
    );
    let port = but(&plain, "name = \"lab\"", "name = \"lab\"\nport = 7999");
    write(&lab, &but(&port, "rise = 2", "rise = 3"));
    for arguments in [&["reload"][..], &["reload", "--dry-run"]] {
        let refused = ask(&mut lab, master, arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let text = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(
            text.starts_with("cluster\n  port: 7373 -> 7999   NEEDS A RESTART: "),
            "{text}"
        );
    }
    assert_eq!(
        status(&mut lab, master).await.config_hash,
        hash,
        "all or nothing"
    );
    std::fs::remove_file(file(&lab)).expect("it is ours");
    let refused = ask(&mut lab, master, &["reload"]).await;
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    write(&lab, &plain);
    let same = ask(&mut lab, master, &["reload"]).await;
    assert_eq!(
        String::from_utf8_lossy(&same.stdout),
        "nothing is different\n"
    );
    Ok(())
}

async fn signals() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(default_config())).await?;
    let master = lab.settled().await?;
    let plain = text(&lab);
    let load = lab.load();
    write(
        &lab,
        &but(&plain, "name = \"b2\"", "weight = 5\nname = \"b2\""),
    );
    let five = |status: &Status| backend(status, "b2").is_some_and(|it| it.weight == 5);
    for node in NodeId::BOTH {
        lab.node(node).signal(Signal::SIGHUP)?;
        shows(&mut lab, node, "SIGHUP", SOON, five).await;
    }
    all_answered(&load.stop().await);
    for n in 0..5 {
        let weight = format!("weight = {}\nname = \"b2\"", 10 + n);
        write(&lab, &but(&plain, "name = \"b2\"", &weight));
        let backup = master.peer();
        lab.node(backup).signal(Signal::SIGHUP)?;
        sleep(Duration::from_millis(n)).await;
        lab.node(backup).signal(Signal::SIGKILL)?;
        restart(&mut lab, backup).await?;
        let held = |status: &Status| {
            backend(status, "b2").is_some_and(|it| u64::from(it.weight) == 10 + n)
        };
        shows(
            &mut lab,
            backup,
            "it starts with what is written",
            SOON,
            held,
        )
        .await;
    }
    lab.settled().await?;
    let (mut page, _) = good("a page", lab.network().client.run(keep()).await);
    let quiet = lab
        .network()
        .client
        .run(async move { timeout(Duration::from_millis(100), page.read_u8()).await });
    assert!(quiet.await.is_err(), "the connection stands");
    Ok(())
}
