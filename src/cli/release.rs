//! `tandem release`: what a dead process may have left behind.

use std::io::Write;

use super::args::Release;
use super::{Exit, Failure};
use crate::control::client::{self, CallError};
use crate::daemon::{self, Fatal};
use crate::net::kernel::remove_left_over;
use crate::wire::admin::Request;

/// Removes the device of the floating addresses, unless the node runs.
pub(super) fn release(args: &Release) -> Result<(), Failure> {
    let config = daemon::read_config(&args.config).map_err(|fatal| failed(&fatal))?;
    match client::call(&args.control.path, &Request::Status) {
        Err(CallError::NotRunning { .. }) => {}
        Ok(_) => {
            let text = "the node runs; stop it first (systemctl stop tandem)";
            return Err(Failure::new(Exit::Refused, text));
        }
        // It may run: no risk is taken with the addresses of a node that serves.
        Err(error) => return Err(Failure::new(Exit::Refused, error.to_string())),
    }
    let device = &config.cluster.device;
    let removed = remove_left_over(device).map_err(|error| failed(&error.into()))?;
    let text = match removed {
        true => format!("removed {device} and its addresses"),
        false => format!("nothing to release: there is no {device}"),
    };
    writeln!(anstream::stdout(), "{text}")?;
    Ok(())
}

fn failed(fatal: &Fatal) -> Failure {
    let exit = match fatal.exit_code() {
        64 => Exit::Usage,
        77 => Exit::NoPermission,
        _ => Exit::Internal,
    };
    Failure::new(exit, fatal.to_string())
}
