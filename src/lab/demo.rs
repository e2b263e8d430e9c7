//! `tandem lab`: the pair at work, its master killed, and what clients notice. Ends by itself.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use anstream::{print, println};
use comfy_table::Table;
use nix::sys::signal::Signal;
use tokio::time::{Instant, interval, timeout};

use super::Outcome;
use super::config::NODES;
use super::error::LabError;
use super::held::{Breaks, CONNECTIONS};
use super::load::{EVERY, Load, Record};
use super::owners::Sightings;
use super::pair::{Lab, LabConfig};
use super::report::human;
use super::topology::{VIP4, VIP6, node_mac};
use super::verdict::signed_ms;
use crate::model::{NodeId, Role};
use crate::status::{Event, What};
use crate::time::Mono;

const TITLE: &str = "\
Tandem's lab: two nodes, three backends and a client, each in a network namespace of its own.
Nothing of it reaches your network, and it cleans up after itself.

  client 192.0.2.10 ── front ──┬── lb1 192.0.2.11 ──┬── back ── b1 b2 b3
                               └── lb2 192.0.2.12 ──┘
";

/// How long each part of the show is.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(4);
const REJOINED: Duration = Duration::from_secs(2);

pub(super) async fn show(config: &LabConfig) -> Result<Outcome, LabError> {
    println!("{TITLE}");
    let started = Instant::now();
    let mut lab = Lab::build(config).await?;
    lab.start().await?;
    let master = lab.settled().await?;
    let [old, new] = [master, master.peer()].map(|id| NODES[id.index()]);
    println!(
        "{old} is master and holds {VIP4} and {VIP6}; {new} is its backup, in sync. ({})\n\
         The client opens a new connection every {} ms, and keeps {CONNECTIONS} open:\n",
        human(started.elapsed()),
        EVERY.as_millis(),
    );

    let (load, held, watch) = (lab.load(), lab.hold(), lab.watch().await?);
    let ticker = Ticker::start();
    ticker.show(&load, BEFORE).await;
    lab.node(master).signal(Signal::SIGKILL)?;
    let killed = lab.clock().now();
    println!("\nkill -9 {old}\n");
    ticker.show(&load, AFTER).await;
    println!();
    let new_master = lab.masters().await.first().copied();
    let events = match new_master {
        Some(id) => lab.events_since(id, killed).await?,
        None => Vec::new(),
    };
    let record = load.peek(Clone::clone);
    let seen = watch.peek(Clone::clone);
    let zero = lab.clock().started_unix_ms();
    timeline(
        &Scene {
            killed,
            zero,
            new,
            events,
            record: &record,
            seen: &seen,
        },
        master.peer(),
    );

    println!("\nstarting {old} again");
    let again = Instant::now();
    lab.start().await?;
    let now_master = lab.settled().await?;
    println!(
        "{old} is back: {} is master, {} is its backup, in sync after {}\n",
        NODES[now_master.index()],
        NODES[now_master.peer().index()],
        human(again.elapsed()),
    );
    ticker.show(&load, REJOINED).await;
    let record = load.stop().await;
    let settled = killed + lab.settling;
    let owners = watch.stop().owners_max(settled, lab.clock().now());
    println!("\n{}", closing(&record, killed, held.breaks(), owners));
    let ok = new_master == Some(master.peer()) && now_master == master.peer() && owners < 2;
    Ok(Outcome::of(ok))
}

/// Shows the load as it goes: one line that changes on a terminal, a line a second elsewhere.
struct Ticker {
    start: Instant,
    terminal: bool,
}

impl Ticker {
    fn start() -> Self {
        Self {
            start: Instant::now(),
            terminal: stdout().is_terminal(),
        }
    }

    async fn show(&self, load: &Load, how_long: Duration) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 1_000 });
        let mut ticks = interval(every);
        ticks.tick().await;
        let show = async {
            loop {
                ticks.tick().await;
                let line = load.peek(counts);
                let at = self.start.elapsed().as_secs_f64();
                match self.terminal {
                    true => print!("\r  {at:5.1} s  {line}\x1b[K"),
                    false => println!("  {at:5.1} s  {line}"),
                }
                let _ = stdout().flush();
            }
        };
        // A little more, so that the last line of the part is shown.
        let _: Result<(), _> = timeout(how_long + every / 2, show).await;
        if self.terminal {
            println!();
        }
    }
}

fn counts(record: &Record) -> String {
    let answers = record.answers();
    let shares: Vec<_> = answers
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    let failed: u64 = record.failures().values().sum();
    let total: u64 = answers.values().sum();
    format!("{total} answered  {}  failed {failed}", shares.join("  "))
}

/// What the timeline is made of.
struct Scene<'a> {
    killed: Mono,
    /// Time of day at the zero of the lab's clock, in milliseconds since 1970.
    zero: u64,
    new: &'a str,
    events: Vec<Event>,
    record: &'a Record,
    seen: &'a Sightings,
}

/// Prints the failover, in milliseconds from the kill.
fn timeline(scene: &Scene<'_>, new: NodeId) {
    let mut lines = vec![(0.0, "SIGKILL sent".to_owned())];
    for event in &scene.events {
        let at = signed_ms(
            Mono::from_millis(event.unix_ms.saturating_sub(scene.zero)),
            scene.killed,
        );
        match &event.what {
            What::Transition {
                to,
                text,
                detection_ms,
                takeover_ms,
                ..
            } => {
                if let Some(detection) = detection_ms {
                    let line = format!("{}: last sign of the old master's life", scene.new);
                    lines.push((at - detection, line));
                }
                lines.push((at, format!("{}: {to}: {text}", scene.new)));
                if let (Role::Master, Some(takeover)) = (to, takeover_ms) {
                    let line = format!("{}: addresses held and announced", scene.new);
                    lines.push((at + takeover, line));
                }
            }
            What::Note { text } => lines.push((at, format!("{}: {text}", scene.new))),
            What::Backend { .. } => {}
        }
    }
    let since = |at: Mono| signed_ms(at, scene.killed);
    if let Some(at) = scene.seen.first_of(node_mac(new), scene.killed) {
        lines.push((
            since(at),
            format!("client's LAN: {} claims the VIP", scene.new),
        ));
    }
    if let Some(at) = scene.record.first_answer(scene.killed) {
        let line = "client: first answer to a connection opened after the kill";
        lines.push((since(at), line.to_owned()));
    }
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("  The failover, in milliseconds (a node's own times are exact to one):");
    for (at, line) in lines {
        println!("  {at:9.1}  {line}");
    }
}

fn closing(record: &Record, killed: Mono, breaks: Breaks, owners: usize) -> Table {
    let mut table = Table::new();
    let failures = record.failures();
    let kinds: Vec<_> = failures
        .iter()
        .map(|(kind, n)| format!("{n} {kind:?}"))
        .collect();
    let outage = record
        .outage(killed)
        .map_or_else(|| "-".to_owned(), |(_, gap)| human(gap));
    let answers = record.answers();
    let shares: Vec<_> = answers
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    let failed: u64 = failures.values().sum();
    let kinds = match failed {
        0 => "none".to_owned(),
        _ => format!("{failed}: {}", kinds.join(", ").to_lowercase()),
    };
    table.set_header(["new connections", &record.attempts.len().to_string()]);
    table.add_row(["answered by".to_owned(), shares.join(", ")]);
    table.add_row(["failed".to_owned(), kinds]);
    table.add_row(["longest time without an answer".to_owned(), outage]);
    table.add_row([
        format!("of {CONNECTIONS} connections kept open"),
        format!(
            "{} broke; all open again after {}",
            breaks.broken,
            human(breaks.longest)
        ),
    ]);
    table.add_row([
        "hosts answering for the VIP at once".to_owned(),
        owners.to_string(),
    ]);
    table
}
