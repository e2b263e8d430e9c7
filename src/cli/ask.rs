//! The commands that ask a running node.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::args::{BackendArgs, Failover, Query};
use super::render::{self, Page};
use super::{Exit, Failure};
use crate::control::client::{self, CallError};
use crate::model::{AdminState, Role};
use crate::net::clock::Clock;
use crate::status::Status;
use crate::wire::admin::{Request, Response};

/// How long `failover` waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);

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

pub(super) fn failover(args: &Failover) -> Result<(), Failure> {
    let control = &args.control.path;
    let before = ask_status(control)?;
    let clock = Clock::start();
    say(&ask_done(control, &Request::Failover)?)?;
    if args.no_wait {
        return Ok(());
    }
    loop {
        let now = ask_status(control)?;
        let waited = clock.now().as_millis();
        if switched(&before, &now) {
            let (master, backup) = match now.role {
                Role::Master => (&now.node, &now.peer.name),
                _ => (&now.peer.name, &now.node),
            };
            let took = render::span(waited);
            return say(&format!(
                "{master} is master now, {backup} is backup (epoch {}, {took})",
                now.epoch
            ));
        }
        if waited >= PATIENCE.as_millis() as u64 {
            let message = format!(
                "no switchover within {}: {} is {}, {} is {}; see `tandem events` on both",
                render::span(waited),
                now.node,
                now.role,
                now.peer.name,
                now.peer.role.map_or("unknown", Role::as_str),
            );
            return Err(Failure::new(Exit::Refused, message));
        }
        std::thread::sleep(LOOK);
    }
}

/// The roles of both nodes have changed, and the addresses with them.
fn switched(before: &Status, now: &Status) -> bool {
    match (before.role, now.role) {
        (Role::Master, Role::Backup) => now.peer.role == Some(Role::Master),
        (Role::Backup, Role::Master) => now.vips.iter().all(|vip| vip.held),
        _ => false,
    }
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

fn ask_status(control: &Path) -> Result<Status, Failure> {
    match ask(control, &Request::Status)? {
        Response::Status { status } => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

fn ask_done(control: &Path, request: &Request) -> Result<String, Failure> {
    match ask(control, request)? {
        Response::Done { message } => Ok(message),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(response: &Response) -> Failure {
    let kind = match response {
        Response::Done { .. } => "done",
        Response::Error { .. } => "error",
        Response::Events { .. } => "events",
        Response::Flows { .. } => "flows",
        Response::Status { .. } => "status",
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

fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&to_json(value)?)
}

pub(super) fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot write JSON: {error}")))
}

fn print(page: &Page) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    Ok(page.write(&mut out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{PeerStatus, VipStatus};

    fn node(role: Role, peer: Role, held: bool) -> Status {
        Status {
            role,
            peer: PeerStatus {
                role: Some(peer),
                ..PeerStatus::default()
            },
            vips: vec![VipStatus {
                held,
                ..VipStatus::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_switchover_is_done_when_both_roles_changed_and_the_addresses_moved() {
        let master = node(Role::Master, Role::Backup, true);
        let backup = node(Role::Backup, Role::Master, false);
        assert!(switched(&master, &backup));
        assert!(switched(&backup, &master));

        assert!(!switched(&master, &master), "nothing happened yet");
        assert!(!switched(&backup, &backup), "nothing happened yet");
        let nobody = node(Role::Backup, Role::Backup, false);
        assert!(!switched(&master, &nobody), "the peer has not taken over");
        let empty = node(Role::Master, Role::Master, false);
        assert!(!switched(&backup, &empty), "the address is not here yet");
    }
}
