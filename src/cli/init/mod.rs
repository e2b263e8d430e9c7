//! `tandem init`: a new pair's configuration and key.
//!
//! Invariant: nothing is written before what is to be written has passed the checks of
//! `tandem check`; nothing that says something is overwritten unasked, and a key never.

mod ask;
mod plan;

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, chown};

use super::setup_args::Init;
use super::{Exit, Failure, check};
use crate::config::Config;
use crate::net::key::{self, KeyFault, USER};
use ask::Terminal;
use plan::Plan;

/// Readable for the daemon's group, and for nobody else: it tells of the network.
const MODE: u32 = 0o640;

/// Asks for what is missing, and writes both files.
pub(super) fn init(args: &Init) -> Result<(), Failure> {
    if args.nodes.len() > 2 {
        let text = "a pair has two nodes: give --node twice";
        return Err(Failure::new(Exit::Usage, text));
    }
    let force = args.force || !says_something(&args.config)?;
    if !force {
        let text = format!(
            "{} is there already; --force replaces it",
            args.config.display()
        );
        return Err(Failure::new(Exit::Refused, text));
    }
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host = host.to_string_lossy();
    let plan = decide(args, &host)?;
    let text = plan.text();
    let config = Config::parse(&text);
    config.map_err(|errors| check::mistakes(&errors, &args.config, &text))?;
    let made = key(&args.key)?;
    write(&args.config, &text).map_err(|error| unwritable(&args.config, &error))?;
    let given = give(args);
    let out = &mut io::stdout().lock();
    report(out, args, &plan, &host, made)?;
    if let Err(error) = given {
        writeln!(
            out,
            "\nuser {USER} cannot be given these files ({error}); without that it cannot read them"
        )?;
    }
    Ok(())
}

fn decide(args: &Init, host: &str) -> Result<Plan, Failure> {
    let (from, to) = (io::stdin(), io::stderr());
    let missing = match ask::given(args) {
        Ok(plan) => return Ok(plan),
        Err(missing) => missing,
    };
    if !(from.is_terminal() && to.is_terminal()) {
        let text = format!("missing: {}; see `tandem init --help`", missing.join(", "));
        return Err(Failure::new(Exit::Usage, text));
    }
    let mut terminal = Terminal {
        from: from.lock(),
        to: to.lock(),
    };
    let answered = terminal.complete(args, host);
    answered.map_err(|error| Failure::new(Exit::Usage, format!("nothing is written: {error}")))
}

/// A file that is there and is not all comments.
fn says_something(file: &Path) -> Result<bool, Failure> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let mut lines = text.lines().map(str::trim);
            Ok(lines.any(|line| !line.is_empty() && !line.starts_with('#')))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // Not text, then: it is somebody's.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(true),
        Err(error) => Err(unwritable(file, &error)),
    }
}

/// Whether it was made.
fn key(file: &Path) -> Result<bool, Failure> {
    match key::generate(file) {
        Ok(()) => return Ok(true),
        Err(error) if matches!(error.fault, KeyFault::Exists) => {}
        Err(error) => return Err(check::bad_key(&error)),
    }
    key::load(file)
        .map(|_| false)
        .map_err(|error| check::bad_key(&error))
}

/// Whole or not at all: a node that starts meanwhile reads the old one or the new one.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let draft = draft(file);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&draft)
        .and_then(|mut to| {
            to.set_permissions(Permissions::from_mode(MODE))?;
            to.write_all(text.as_bytes())?;
            to.sync_all()
        })
        .and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn draft(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Where the packages have made the daemon's user, the key is its own, and the configuration its
/// group's.
fn give(args: &Init) -> nix::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let Some(user) = User::from_name(USER)? else {
        return Ok(());
    };
    chown(&args.key, Some(user.uid), Some(user.gid))?;
    chown(&args.config, None, Some(user.gid))
}

fn unwritable(file: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Usage,
    };
    Failure::new(exit, format!("{}: {error}", file.display()))
}

fn report(to: &mut impl Write, args: &Init, plan: &Plan, host: &str, made: bool) -> io::Result<()> {
    let (config, key) = (args.config.display(), args.key.display());
    let key_is = match made {
        true => "the new key",
        false => "kept the key",
    };
    writeln!(to, "wrote {config} and {key_is} {key}\n")?;
    let [first, second] = &plan.nodes;
    let others = match host {
        _ if host == first.name => vec![second],
        _ if host == second.name => vec![first],
        _ => vec![first, second],
    };
    writeln!(
        to,
        "Copy both to the other node, over a channel that you trust:"
    )?;
    for other in others {
        let address = match other.addresses[0] {
            std::net::IpAddr::V6(address) => format!("[{address}]"),
            std::net::IpAddr::V4(address) => address.to_string(),
        };
        writeln!(to, "  scp -p {config} root@{address}:{config}")?;
        writeln!(to, "  scp -p {key} root@{address}:{key}")?;
        writeln!(
            to,
            "and there, as root: chgrp {USER} {config}; chown {USER}: {key}"
        )?;
    }
    writeln!(
        to,
        "\nThen on both:\n  tandem check {config}\n  tandem doctor --config {config}\n  systemctl enable --now tandem\n  \
         tandem status"
    )
}
