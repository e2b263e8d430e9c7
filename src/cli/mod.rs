//! The command line: an entrance that talks to a node as any client would.
//!
//! Owns: arguments, exit codes, what is printed. Never: decides anything about the pair.
//! Whatever a person or a script may rely on is here: the names of commands and options, the exit
//! codes ([`Exit`]), and `--json`, which prints the read model ([`crate::status`]) as it is.

mod affinity;
mod args;
mod ask;
mod backend;
mod check;
mod cleanup;
mod doctor;
mod failover;
mod flows;
mod init;
mod logging;
mod pair;
mod release;
mod reload;
pub mod render;
mod setup_args;
mod shell;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::daemon;

pub use args::{Cli, Command, Lab};

/// How the program ends (`sysexits.h` where that has a word for it).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Fine = 0,
    /// The node refused, or it did not happen in time.
    Refused = 1,
    /// The switchover is done, but connections were reset, since they had not ended in time.
    Cut = 3,
    /// `EX_USAGE`: wrong usage, or a mistake in the configuration.
    Usage = 64,
    /// `EX_UNAVAILABLE`: no node answers.
    Unavailable = 69,
    /// `EX_SOFTWARE`: a fault of the program itself.
    Internal = 70,
    /// `EX_NOPERM`.
    NoPermission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, for the operator, and how the program ends because of it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }
}

impl From<io::Error> for Failure {
    /// Only printing fails this way. Whoever closed the pipe has read enough.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Fine, ""),
            _ => Self::new(Exit::Internal, format!("cannot print: {error}")),
        }
    }
}

/// Reads the arguments.
///
/// # Errors
///
/// What was wrong with them has been printed (or the help that was asked for); the program ends so.
pub fn parse() -> Result<Command, Exit> {
    Cli::try_parse().map(|cli| cli.command).map_err(|error| {
        let asked_for = matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        // Nobody is left to tell if this cannot be printed.
        let _ = error.print();
        if asked_for { Exit::Fine } else { Exit::Usage }
    })
}

/// Carries out a command. `lab` is the other entrance, which this one does not know.
pub fn run(command: Command, lab: impl FnOnce(&Lab) -> ExitCode) -> ExitCode {
    let done = match command {
        Command::Run(args) => return node(args),
        Command::Check(args) => check::check(&args.file),
        Command::Keygen(args) => check::keygen(&args.file),
        Command::Backend(command) => backend::backend(&command),
        Command::Status(args) => ask::status(&args),
        Command::Events(args) => ask::events(&args),
        Command::Flows(args) => flows::flows(&args),
        Command::Affinity(what) => affinity::affinity(&what),
        Command::Failover(args) => failover::failover(&args),
        Command::Drain(args) => ask::drain(&args),
        Command::Enable(args) => ask::enable(&args),
        Command::Log(args) => ask::log(&args),
        Command::Cleanup(args) => cleanup::cleanup(&args),
        Command::Config(command) => pair::config(&command),
        Command::Key(command) => pair::key(&command),
        Command::Reload(args) => reload::reload(&args),
        Command::Release(args) => release::release(&args),
        Command::Init(args) => init::init(&args),
        Command::Doctor(args) => match doctor::doctor(&args) {
            Ok(exit) => return exit,
            Err(failure) => Err(failure),
        },
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Watch(args) => watch::watch(&args),
        Command::Lab(args) => return lab(&args),
    };
    match done {
        Ok(()) => Exit::Fine.into(),
        Err(failure) => {
            complain(&failure.message);
            failure.exit.into()
        }
    }
}

fn node(args: args::Run) -> ExitCode {
    let (log, level) = match logging::start(args.log_format) {
        Ok(started) => started,
        Err(message) => {
            logging::complain(&message);
            return Exit::Usage.into();
        }
    };
    let options = daemon::Options {
        config: args.config,
        node: args.node,
        control: args.control.path,
        pins: args.pins,
        state: args.state,
        log: level,
    };
    let done = daemon::run(&options);
    // What it said comes before why it ended.
    drop(log);
    match done {
        Ok(()) => Exit::Fine.into(),
        Err(fatal) => {
            logging::complain(&fatal.to_string());
            ExitCode::from(fatal.exit_code())
        }
    }
}

/// Says to the operator what is wrong.
pub fn complain(message: &str) {
    if !message.is_empty() {
        // Nobody is left to tell if this cannot be printed.
        let _ = writeln!(anstream::stderr(), "tandem: {message}");
    }
}
