//! The command line as clap sees it. No logic.

pub(super) mod affinity;
mod backend;
mod flows;
mod log;
mod pair;
mod reload;

use std::path::PathBuf;

pub(super) use backend::{Add, BackendArgs, BackendCommand, BackendName, Ending, List, Weigh};
use clap::{Args, Parser, Subcommand};
pub(super) use flows::Flows;
pub(super) use log::{Log, LogFormat};
pub(super) use pair::{ConfigCommand, KeyCommand};
pub(super) use reload::Reload;

use self::affinity::Affinity;
use super::setup_args::{Completions, Doctor, Init, Man};

/// Where the node's configuration is, unless said otherwise.
pub(super) const CONFIG: &str = "/etc/tandem/tandem.toml";
/// Where the kernel mode's tables are, unless said otherwise.
pub(super) const PINS: &str = "/sys/fs/bpf/tandem";
/// Where a node keeps what it was told at run time, unless said otherwise.
pub(super) const STATE: &str = "/var/lib/tandem";
/// Where the node listens for operators, unless said otherwise.
pub(super) const CONTROL: &str = "/run/tandem/control.sock";

const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  the node refused, or it did not happen in time; doctor: a warning
   2  doctor: an error
   3  failover --wait: done, but connections were reset that had not ended
  64  wrong usage, or a mistake in the configuration or the key file
  69  no node answers on the control socket
  70  a fault of the program itself
  77  no permission

Environment:
  TANDEM_CONTROL  path of the control socket, in place of --control
  TANDEM_LOG      what `tandem run` logs: error, warn, info (default), debug or
                  trace; of one part only: info,tandem::net=debug
  NO_COLOR        any value: no colours

Start here: `sudo tandem lab` shows a whole pair failing over on this machine.";

/// A pair of TCP balancers that own a floating address.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = EXIT_CODES, max_term_width = 80)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node, in the foreground.
    #[command(after_help = "Example:\n  tandem run --config tandem.toml --node lb1")]
    Run(Run),

    /// Check a configuration and its key file; say everything that is wrong with them.
    #[command(after_help = "Example:\n  tandem check /etc/tandem/tandem.toml")]
    Check(File),

    /// Make a new key for a pair, in a file that only its owner can read.
    #[command(after_help = "\
The key must be the same on both nodes. An existing file is never overwritten.

Example:
  tandem keygen cluster.key")]
    Keygen(File),

    /// Show this node and its peer: roles, addresses, paths, backends.
    #[command(after_help = "\
Example:
  tandem status
  tandem status --json | jq -r .role")]
    Status(Query),

    /// Show what happened and why, oldest first. Times are UTC.
    #[command(after_help = "\
Example:
  tandem events | tail
  tandem events --json | jq '.[] | select(.event == \"transition\")'")]
    Events(Query),

    /// List the live connections of both modes, or count them. Works on either node.
    #[command(after_help = "\
The backup shows what it knows by replication: its own clients, after a failover.
Bytes of connections that the kernel forwards are not counted (-).

Example:
  tandem flows --service web --backend b1
  tandem flows --client 203.0.113.0/24 --count
  tandem flows --json | jq -r '.[] | select(.age_ms > 3600000) | .client'")]
    Flows(Flows),

    /// List, or forget, the clients that affinity remembers.
    #[command(
        subcommand,
        after_help = "\
What is stored is a keyed hash (key), never an address or a cookie.

Example:
  tandem affinity list --service shop
  tandem affinity list --backend b1 --json | jq length
  tandem affinity clear --service shop --backend b1
  tandem affinity clear --all"
    )]
    Affinity(Affinity),

    /// Switch the roles of the two nodes, in order. Works on either node.
    #[command(after_help = "\
Waits until the switchover is done, for up to 10 s. New connections go to the
new master, those of the kernel mode go on. Where both nodes relay, proxied ones
stay with the old master until they end, for proxy.drain_timeout at most; else
they are reset. Ctrl-C ends the waiting and nothing else. To take it back, also
while connections are left: `tandem failover` again, on either node.

Example:
  tandem failover
  tandem failover --wait
  tandem failover --wait --json | jq .drain.cut")]
    Failover(Failover),

    /// Give a backend no new connections; those that it has go on. On the master.
    #[command(after_help = "Example:\n  tandem drain web/b1")]
    Drain(BackendArgs),

    /// Give a backend new connections again. On the master.
    #[command(after_help = "Example:\n  tandem enable web/b1")]
    Enable(BackendArgs),

    /// List, add, remove, weigh and drain backends while the pair runs.
    #[command(
        subcommand,
        after_help = "\
Changes are made on the master, known to both nodes and kept over restarts. They
hold until they are taken back (reset), also if the file says something else.

Example:
  tandem backend list
  tandem backend remove web/b1 --wait --deadline 30s
  tandem backend reset web/b1"
    )]
    Backend(BackendCommand),

    /// Bring this node's configuration to both nodes, while they run.
    #[command(
        subcommand,
        after_help = "Example:\n  tandem config push --dry-run\n  tandem config push"
    )]
    Config(ConfigCommand),

    /// Change the cluster key of both nodes, while they run.
    #[command(subcommand, after_help = "Example:\n  tandem key rotate")]
    Key(KeyCommand),

    /// Read the configuration again, while the node runs: all of it, or nothing.
    #[command(after_help = "\
Connections go on. What needs a restart is said, and then nothing is changed. The
other node has its own file: reload it there, too, or use `tandem config push`.

Exit codes: 1 something needs a restart, 64 the file has mistakes.

Example:
  tandem reload --dry-run
  tandem reload --json | jq '.changes[] | select(.restart)'")]
    Reload(Reload),
    /// Change what the node writes to its log, until it ends.
    #[command(after_help = "Example:\n  tandem log debug\n  tandem log info")]
    Log(Log),

    /// Remove the floating addresses that a dead process of this node left behind.
    #[command(after_help = "\
The addresses vanish with the process; this is for the case that something that
it started still holds their device. Refuses while the node runs.

Example:
  tandem release --config /etc/tandem/tandem.toml")]
    Release(Release),

    /// Remove the kernel mode's program and tables that a dead process left behind.
    #[command(after_help = "\
They are kept on purpose: a process that starts again within its peer's patience
goes on with them, and without a living process they forward nothing. This is
for good: after it, no connection is known here. Refuses while the node runs.

Example:
  tandem cleanup")]
    Cleanup(Cleanup),

    /// Write a configuration and a key for a new pair, from flags or by asking.
    #[command(after_help = "\
What is not given is asked for, if this is a terminal. Everything is checked
before anything is written. A configuration that is there is left alone, unless
it is all comments, as the packages bring it, or --force is given. A key that is
there is never replaced: it is used.

Example:
  tandem init --node lb1=192.0.2.11,203.0.113.11 \\
    --node lb2=192.0.2.12,203.0.113.12 --vip 192.0.2.100/24@eth0 \\
    --backend 198.51.100.21:8080 --backend 198.51.100.22:8080")]
    Init(Init),

    /// Look at this host: what keeps a node from working here, and what to do about it.
    #[command(after_help = "\
Before the start and while the node runs. Changes nothing; asks the neighbours for
the floating addresses, and sends the peer one datagram on each path if no node
runs here. Run it as root: some of it cannot be seen otherwise.

Exit codes: 0 nothing that must be done, 1 a warning, 2 an error; others as ever.

Example:
  tandem doctor
  tandem doctor --json | jq -r '.findings[] | select(.severity != \"fine\")'")]
    Doctor(Doctor),

    /// Print a script by which a shell completes commands and options.
    #[command(after_help = "\
The packages install all three.

Example:
  tandem completions bash > /etc/bash_completion.d/tandem")]
    Completions(Completions),

    /// Write the manual pages, one for the program and one for each command.
    #[command(after_help = "\
The packages install them: `man tandem`, `man tandem-failover`.

Example:
  tandem man /usr/local/share/man/man8")]
    Man(Man),
    /// Ask a service again and again, as a client, and tell when it did not answer.
    #[command(after_help = "\
Opens a new connection every 20 ms, and asks on 10 that are kept open. Each time
of 100 ms and more in which no new connection was answered is told when it is
over. Needs no rights, and no node on this host. Exits with 1 if a connection
failed or was lost, or if there was such a time.

Example:
  tandem watch http://192.0.2.100/
  tandem watch http://192.0.2.100/ --for 30s --json | jq .outages
  tandem watch tcp://192.0.2.100:5432 --every 5ms")]
    Watch(super::watch::Watch),

    /// Run a whole pair on this machine, in network namespaces, and break it. Needs root.
    #[command(after_help = "\
Nothing outside the namespaces is touched, and they end with the program.
Exits with 1 if the pair did not do what it should have, 130 if interrupted.

Example:
  sudo tandem lab
  sudo tandem lab --scenario kill9 --runs 5
  sudo tandem lab --scenario kill9 --mode kernel --stale --runs 20
  sudo tandem lab --scenario switchover --mode proxy --switchovers 10 --runs 1
  sudo tandem lab --scenario survive --runs 20
  sudo tandem lab --bench proxy
  sudo tandem lab --bench relay --mode kernel")]
    Lab(Lab),
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Which `[[node]]` of the configuration this host is. Default: the one that has the host's
    /// name.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,

    /// Where the kernel mode pins its tables: a directory in a BPF file system.
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pub pins: PathBuf,

    /// Where it keeps what operators say of backends.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state: PathBuf,

    /// The form of the log's lines.
    #[arg(
        long,
        value_name = "FORM",
        env = "TANDEM_LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// Where the other commands reach this node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `release`.
#[derive(Args, Debug)]
pub struct Release {
    /// The configuration, which names the device.
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub config: PathBuf,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `cleanup`.
#[derive(Args, Debug)]
pub struct Cleanup {
    /// Where they are pinned.
    #[arg(long, value_name = "DIR", default_value = PINS)]
    pub pins: PathBuf,

    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,
}

/// One file.
#[derive(Args, Debug)]
pub struct File {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// The control socket.
#[derive(Args, Debug)]
pub struct Control {
    /// The node's control socket.
    #[arg(long = "control", value_name = "SOCKET", env = "TANDEM_CONTROL", default_value = CONTROL)]
    pub path: PathBuf,
}

/// A question to the node.
#[derive(Args, Debug)]
pub struct Query {
    /// One JSON document instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `failover`.
#[derive(Args, Debug)]
pub struct Failover {
    /// Return when the switchover has begun, instead of when it is done.
    #[arg(long, conflicts_with_all = ["wait", "json"])]
    pub no_wait: bool,

    /// Wait also until the old master has no connections left, and show how many there are.
    #[arg(long)]
    pub wait: bool,

    /// One JSON document at the end instead of text.
    #[arg(long)]
    pub json: bool,

    /// Which node.
    #[command(flatten)]
    pub control: Control,
}

/// Arguments of `lab`.
#[derive(Args, Debug)]
pub struct Lab {
    /// What to break, and measure. Default: a demonstration. `survive` has every fault in turn
    /// under all kinds of connections, none of which may be lost. `upgrade` stops and starts both
    /// nodes, one after the other, under the load that `--mode` brings.
    #[arg(long, value_name = "NAME", value_parser = SCENARIOS)]
    pub scenario: Option<String>,

    /// How the services run: in kernel mode with new connections replicated before (kernel, sync)
    /// or after (async) they stand, or in proxy mode. With kill9, hang, switchover, upgrade or
    /// all: under 3,000 new connections a second, downloads, uploads and requests, whose clients
    /// shall notice nothing. Default: sync for survive, upgrade and `--bench relay`.
    #[arg(long, value_name = "MODE", value_parser = ["kernel", "sync", "async", "proxy"])]
    pub mode: Option<String>,

    /// Clients and backends never hear that the addresses moved, as behind a router that ignores
    /// announcements. With `--mode`.
    #[arg(long, requires = "scenario")]
    pub stale: bool,

    /// New connections a second, with `--mode`. Default: 3000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000), requires = "scenario")]
    pub rate: Option<u32>,

    /// Switchovers in each run of `switchover`, with `--mode`: there and back, and so on, with the
    /// same connections. Default: 2.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000), requires = "scenario")]
    pub switchovers: Option<u32>,

    /// Measure the data path of a mode beside others, as far as they are installed: HAProxy, and
    /// for the kernel mode plain forwarding and nftables too. Or (relay) a pair beside itself
    /// without the relay, in the mode of `--mode`. Takes 2 to 4 minutes.
    #[arg(long, value_name = "WHAT", value_parser = ["proxy", "kernel", "relay"], conflicts_with_all = ["scenario", "keep"])]
    pub bench: Option<String>,

    /// Under each scheduler of the proxy mode: what share of connections each backend gets, beside
    /// what its formula says. Takes about a minute.
    #[arg(long, conflicts_with_all = ["scenario", "keep", "bench", "runs"])]
    pub balance: bool,

    /// How many times to break it, or rounds to measure. Default: 5 or 3, by scenario.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: Option<u32>,

    /// One JSON document instead of text. Without a scenario: of all.
    #[arg(long)]
    pub json: bool,

    /// Only build the pair, say how to look into it, and stay until interrupted.
    #[arg(long)]
    pub keep: bool,
}

/// What `lab` can break.
const SCENARIOS: [&str; 10] = [
    "kill9",
    "switchover",
    "hang",
    "poweroff",
    "cut",
    "partition",
    "backend-down",
    "upgrade",
    "survive",
    "all",
];

#[cfg(test)]
#[path = "args_test.rs"]
mod tests;
