//! The commands that ask a running node.

use std::io::Write;
use std::path::Path;

use super::args::{BackendArgs, Log, Query};
use super::render::{self, Page};
use super::{Exit, Failure};
use crate::control::client::{self, CallError};
use crate::model::AdminState;
use crate::net::clock::Clock;
use crate::status::Status;
use crate::wire::admin::{Request, Response};

pub(super) fn status(query: &Query) -> Result<(), Failure> {
    let status = ask_status(&query.control.path)?;
    if query.json {
        return json(&status);
    }
    let clock = Clock::start();
    print(&render::status(&status, clock.started_unix_ms()))
}

pub(super) fn events(query: &Query) -> Result<(), Failure> {
    match ask(&query.control.path, &Request::Events)? {
        Response::Events { events } if query.json => json(&events),
        Response::Events { events } => print(&render::events(&events)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn drain(args: &BackendArgs) -> Result<(), Failure> {
    backend(args, AdminState::Drain)
}

pub(super) fn enable(args: &BackendArgs) -> Result<(), Failure> {
    backend(args, AdminState::Enabled)
}

fn backend(args: &BackendArgs, state: AdminState) -> Result<(), Failure> {
    let request = Request::Backend {
        service: args.backend.service.clone(),
        backend: args.backend.backend.clone(),
        state,
    };
    say(&ask_done(&args.control.path, &request)?)
}

pub(super) fn ask(control: &Path, request: &Request) -> Result<Response, Failure> {
    match client::call(control, request) {
        Ok(Response::Error { message }) => Err(Failure::new(Exit::Refused, message)),
        Ok(response) => Ok(response),
        Err(error) => {
            let exit = match error {
                CallError::NotRunning { .. } => Exit::Unavailable,
                CallError::Permission { .. } => Exit::NoPermission,
                CallError::Broken { .. } => Exit::Internal,
            };
            Err(Failure::new(exit, error.to_string()))
        }
    }
}

/// What the node logs from now on.
pub(super) fn log(args: &Log) -> Result<(), Failure> {
    let level = args.level.clone();
    say(&ask_done(&args.control.path, &Request::Log { level })?)
}

pub(super) fn ask_status(control: &Path) -> Result<Status, Failure> {
    match ask(control, &Request::Status)? {
        Response::Status { status } => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn ask_done(control: &Path, request: &Request) -> Result<String, Failure> {
    match ask(control, request)? {
        Response::Done { message } => Ok(message),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(response: &Response) -> Failure {
    let kind = match response {
        Response::Done { .. } => "done",
        Response::Error { .. } => "error",
        Response::Pushed { .. } => "pushed",
        Response::Reloaded { .. } => "reloaded",
        Response::Events { .. } => "events",
        Response::Flows { .. } => "flows",
        Response::Status { .. } => "status",
        Response::Sticks { .. } => "sticks",
    };
    let message = format!(
        "the node answered \"{kind}\" to another question; is it of this version ({})?",
        env!("CARGO_PKG_VERSION")
    );
    Failure::new(Exit::Internal, message)
}

pub(super) fn say(message: &str) -> Result<(), Failure> {
    Ok(writeln!(anstream::stdout(), "{message}")?)
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&to_json(value)?)
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot write JSON: {error}")))
}

pub(super) fn print(page: &Page) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    Ok(page.write(&mut out)?)
}
