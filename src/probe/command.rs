//! A program that checks: good is an exit code of 0.

use super::plan::Case;
use super::progress::{Fail, Progress};
use crate::config::Command;
use crate::health::probe::{ProbeRequest, quoted};
use crate::model::BackendAddress;
use crate::program::{self, Trouble};

/// Bytes of its first line that an operator sees.
const SHOWN: usize = 80;

pub(super) async fn check(
    command: &Command,
    case: &Case,
    request: &ProbeRequest,
    progress: &mut Progress,
) -> Result<(), Fail> {
    let name = &command.argv[0];
    let (address, port) = match &request.address {
        BackendAddress::Tcp(at) => (at.ip().to_string(), at.port().to_string()),
        BackendAddress::Unix(path) => (path.to_string(), String::new()),
    };
    let environment = [
        ("TANDEM_SERVICE", case.plan.service.clone()),
        ("TANDEM_BACKEND", case.name.clone()),
        ("TANDEM_ADDRESS", address),
        ("TANDEM_PORT", port),
    ];
    progress.waits(format!("{name} did not end"));
    let limit = command.output_limit;
    let run = program::run(command, &environment).await;
    let ended = run.map_err(|trouble| match trouble {
        Trouble::NoRoom => Fail::NoSocket,
        Trouble::NotRun(error) => Fail::Wrong(format!("{name} cannot be run: {error}")),
        Trouble::TooMuch => Fail::Wrong(format!("{name} wrote more than {limit} bytes")),
    })?;
    if ended.status.success() {
        return Ok(());
    }
    let how = ended.how();
    Err(Fail::Wrong(match ended.first_line() {
        Some(line) => format!("{how}: {}", quoted(line, SHOWN)),
        None => how,
    }))
}
