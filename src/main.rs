//! Parse arguments, run, turn an error into an exit code.

use std::process::ExitCode;

use tandem::cli::{self, Exit};
use tandem::lab::{self, LabError};

fn main() -> ExitCode {
    match cli::parse() {
        Ok(command) => cli::run(command, lab),
        Err(exit) => exit.into(),
    }
}

/// The two entrances do not know each other; they meet here.
fn lab(args: &cli::Lab) -> ExitCode {
    let Ok(scenario) = args.scenario.as_deref().map(str::parse).transpose() else {
        unreachable!("the parser accepts the lab's scenarios only");
    };
    let Ok(mode) = args.mode.as_deref().map(str::parse).transpose() else {
        unreachable!("the parser accepts the lab's modes only");
    };
    let Ok(bench) = args.bench.as_deref().map(str::parse).transpose() else {
        unreachable!("the parser accepts the lab's benchmarks only");
    };
    let binary = match std::env::current_exe() {
        Ok(binary) => binary,
        Err(error) => {
            cli::complain(&format!("cannot find this program's own file: {error}"));
            return Exit::Internal.into();
        }
    };
    let options = lab::Options {
        scenario,
        mode,
        stale: args.stale,
        rate: args.rate,
        switchovers: args.switchovers,
        bench,
        balance: args.balance,
        runs: args.runs,
        json: args.json,
        keep: args.keep,
        binary,
    };
    if !options.fits() {
        cli::complain(
            "--mode, --stale and --rate are for kill9, hang, switchover, upgrade or all; survive \
             and --bench relay take --mode alone, --stale and --rate want a mode, and \
             --switchovers wants switchover and a mode",
        );
        return Exit::Usage.into();
    }
    match lab::main(&options) {
        Ok(outcome) => ExitCode::from(outcome.exit_code()),
        Err(error) => {
            cli::complain(&error.to_string());
            match error {
                LabError::NotAllowed { .. } => Exit::NoPermission.into(),
                _ => Exit::Refused.into(),
            }
        }
    }
}
