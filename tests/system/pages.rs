//! What the pages show is what a pair prints: their commands are run here, one after the other.

use std::time::Duration;

use tandem::lab::{Lab, LabError, SOURCE4, VIP4, VIP6, backend_address, default_config};
use tandem::model::NodeId;
use tandem::status::Status;
use tokio::time::sleep;

use super::balance::keep;
use super::doctor::examine;
use super::kernel::open;
use super::roster::{backend, say, two};
use super::tools::{FIRST, ask, default_but, good, shows, vip, with};
use super::{Test, test};

const OPERATIONS: &str = include_str!("../../docs/operations.md");
const SOON: Duration = Duration::from_secs(5);
/// How long a page's connection stays while somebody waits for its end.
const STAYS: Duration = Duration::from_millis(500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("pages_backends_at_run_time", backends),
        test("pages_another_configuration", configuration),
        test("pages_the_doctor", doctor),
    ]
}

pub(crate) fn in_kernel_mode() -> Vec<Test> {
    vec![test("pages_everyday_work", everyday)]
}

/// A command's words, and what it prints.
type Shown = (Vec<&'static str>, String);

/// The console blocks below a heading.
fn consoles(heading: &str) -> Vec<Vec<Shown>> {
    let (_, rest) = OPERATIONS
        .split_once(heading)
        .expect("the heading is there");
    let (section, _) = rest.split_once("\n## ").expect("another one follows");
    let blocks = section.split("```console\n").skip(1);
    blocks.map(commands).collect()
}

fn commands(block: &'static str) -> Vec<Shown> {
    let (block, _) = block.split_once("```").expect("its end");
    let mut shown: Vec<Shown> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("# tandem ") {
            Some(words) => shown.push((words.split(' ').collect(), String::new())),
            None => {
                let (_, printed) = shown.last_mut().expect("a command is first");
                printed.push_str(line);
                printed.push('\n');
            }
        }
    }
    shown
}

/// What a line looks like whatever its numbers, times, Ethernet addresses and keys are.
fn shape(line: &str) -> String {
    let mut shape: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let is_unit = ["ms", "s", "min", "h"].contains(&word.trim_end_matches([')', ',']));
        match shape.pop_if(|last| is_unit && last.ends_with('#')) {
            None => shape.push(figureless(word)),
            Some(number) => {
                let before = number.trim_end_matches('#');
                // "3 min 5 s" is as much a time as "80 ms".
                let goes_on = shape.last().is_some_and(|last| last.ends_with("(time)"));
                if !(before.is_empty() && goes_on) {
                    shape.push(format!("{before}(time)"));
                }
            }
        }
    }
    shape.join(" ")
}

/// A word with `#` for each number, and without what an Ethernet address or a key is.
fn figureless(word: &str) -> String {
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let bytes = word.trim_end_matches(',').split(':');
    if is_hex(word, 16) || bytes.clone().count() == 6 && bytes.clone().all(|it| is_hex(it, 2)) {
        return "(hex)".to_owned();
    }
    let mut out = String::new();
    for c in word.chars() {
        let in_number = out.ends_with('#') && (c.is_ascii_digit() || c == '.' || c == ',');
        if !in_number {
            out.push(if c.is_ascii_digit() { '#' } else { c });
        }
    }
    out
}

/// Every line that the page shows is, but for its figures, one that was printed; a bar is only for
/// terminals.
fn assert_shown(words: &[&str], shown: &str, printed: &str) {
    let shapes: Vec<String> = printed.lines().map(shape).collect();
    for line in shown.lines().filter(|line| !line.starts_with('█')) {
        let like = shape(line);
        assert!(
            shapes.contains(&like),
            "{words:?}: {line:?}, as {like:?}, is not in {printed}\n{shapes:#?}"
        );
    }
}

/// A file with a service in kernel mode, a proxied one, and one that remembers its clients.
fn three_services() -> String {
    let proxied = |name: &str, port: u16, backend: &str| {
        let at = backend_address(0);
        format!(
            "\n[[service]]\nname = \"{name}\"\nlisten = [\"{VIP4}:{port}\", \"[{VIP6}]:{port}\"]\n\
             [[service.backend]]\nname = \"{backend}\"\naddress = \"{at}:80\"\n"
        )
    };
    let keys = format!("mode = \"kernel\"\nsource = \"{SOURCE4}\"\n");
    let web = default_but(
        "balance = \"round_robin\"\n",
        &(keys + "balance = \"round_robin\"\n"),
    );
    let web = web.replace(&format!(", \"[{VIP6}]:80\""), "");
    format!(
        "{web}\n[[vip]]\naddress = \"{SOURCE4}/24\"\ninterface = \"eth1\"\n{}{}\
         [service.affinity]\nby = \"source\"\n",
        proxied("mail", 25, "m1"),
        proxied("shop", 81, "b1"),
    )
}

async fn everyday() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(three_services())).await?;
    for host in [&lab.network().client, &lab.network().watch] {
        good("shop", host.run(open(vip(81))).await);
    }
    for (number, block) in consoles("## Everyday work").into_iter().enumerate() {
        let node = lab.settled().await?;
        let mut kept = Vec::new();
        for port in [25, 25, 80, 80, 80] {
            kept.push(good(
                "a page",
                lab.network().client.run(open(vip(port))).await,
            ));
        }
        if number == 0 {
            // What the switchover waits for.
            lab.network().client.spawn(async move {
                sleep(STAYS).await;
                drop(kept);
            });
        }
        for (words, shown) in block {
            let end = words.iter().position(|word| *word == "|");
            let words = &words[..end.unwrap_or(words.len())];
            let printed = say(&mut lab, node, words).await;
            assert_shown(words, &shown, &printed);
        }
    }
    Ok(())
}

async fn doctor() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(default_config())).await?;
    let network = lab.network();
    network.hold(&network.client, VIP4.into()).await?;
    let announce = "/proc/sys/net/ipv4/conf/eth0/arp_announce";
    let quiet = network
        .node(FIRST)
        .run(async move { std::fs::write(announce, "0") })
        .await;
    good("a switch is turned", quiet);
    let block = consoles("## The doctor").remove(0);
    let (words, shown) = &block[0];
    let done = examine(&mut lab, FIRST, words).await;
    let dir = lab.dir().display().to_string();
    let printed = String::from_utf8_lossy(&done.stdout).replace(&dir, "/etc/tandem");
    assert_eq!(block.len(), 1);
    assert_shown(words, shown, &printed);
    Ok(())
}

async fn backends() -> Result<(), LabError> {
    let mut lab = Lab::up(&with(two())).await?;
    let master = lab.settled().await?;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(good("a page", lab.network().client.run(keep()).await));
    }
    let one = |status: &Status| {
        ["b1", "b2"]
            .iter()
            .all(|name| backend(status, name).is_some_and(|it| it.connections == 1))
    };
    shows(&mut lab, master, "one connection each", SOON, one).await;
    held.retain(|(_, at)| *at == 1);
    let shown = consoles("## Backends at run time").remove(0);
    assert!(shown.len() > 4, "{shown:?}");
    for (words, printed) in shown {
        if words.contains(&"--wait") {
            // The connection that is waited for ends while it is.
            let stays = std::mem::take(&mut held);
            lab.network().client.spawn(async move {
                sleep(STAYS).await;
                drop(stays);
            });
        }
        if words == ["backend", "list"] {
            let settled = |status: &Status| {
                backend(status, "b3").is_some_and(|it| it.up) && backend(status, "b1").is_none()
            };
            shows(&mut lab, master, "b3 is up, b1 is gone", SOON, settled).await;
        }
        assert_eq!(say(&mut lab, master, &words).await, printed, "{words:?}");
    }
    Ok(())
}

async fn configuration() -> Result<(), LabError> {
    let mut lab = Lab::build(&with(two())).await?;
    let before = two();
    for node in NodeId::BOTH {
        // A file of its own.
        lab.configure(node, &before)?;
    }
    lab.start().await?;
    let node = lab.settled().await?;
    let heavy = format!("{}\nweight = 7\n", before.trim_end());
    let strict = heavy.replace("round_robin\"", "round_robin\"\ndeny = [\"0.0.0.0/0\"]");
    let elsewhere = before.replace("[cluster]", "[cluster]\nport = 7999");
    let patient = elsewhere.replace("rise = 2", "rise = 3");
    let files = [&strict, &patient, &heavy, &heavy];
    let blocks = consoles("## Another configuration while it runs");
    assert_eq!(blocks.len(), files.len());
    for (block, file) in blocks.into_iter().zip(files) {
        lab.configure(node, &before)?;
        say(&mut lab, node, &["reload"]).await;
        lab.configure(node, file)?;
        for (words, printed) in block {
            let done = ask(&mut lab, node, &words).await;
            let said = [done.stdout, done.stderr].concat();
            assert_eq!(String::from_utf8_lossy(&said), printed, "{words:?}");
        }
    }
    Ok(())
}
